# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads by the real module, in processes that can be killed, on disks that can be full, over real TLS."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys

import pytest
from ansible_collections.cloudnebula.hypervisor.tests.unit.image_server import (
    MIB,
    ImageServer,
    chunked,
    digest,
    raw_disk,
    silent_after,
    slowly,
)
from conftest import ENVIRONMENT, MODULES, wait_until

DISK = raw_disk()
FETCH_FAILED = "vm_manager.image.fetch_failed"


@pytest.fixture
def server():
    with ImageServer() as found:
        found.serve(DISK)
        yield found


def left_in(hypervisor):
    folder = hypervisor.data_dir / "images"
    return sorted(os.listdir(folder)) if folder.exists() else []


def part_of(hypervisor):
    return next(iter((hypervisor.data_dir / "images").glob(".*.part")), None)


def refused(result, code=FETCH_FAILED):
    assert result.get("failed"), result
    assert result["error"]["code"] == code, result
    assert "Traceback" not in json.dumps(result)
    return result["msg"]


def test_a_task_that_was_killed_is_gone_on_with(hypervisor, server):
    server.faults = [silent_after(2 * MIB)]
    task = hypervisor.begin("vm_image", image=server.url())
    wait_until(lambda: part_of(hypervisor) and part_of(hypervisor).stat().st_size == 2 * MIB)
    task.send_signal(signal.SIGKILL)
    task.communicate()

    result = hypervisor.run("vm_image", image=server.url(), checksum=digest(DISK))

    assert result["changed"], result
    assert [asked.range for asked in server.asked] == [None, f"bytes={2 * MIB}-"]
    with open(result["image"]["path"], "rb") as stream:
        assert stream.read() == DISK
    assert len(left_in(hypervisor)) == 2


def test_two_tasks_at_once_fetch_once(hypervisor, server):
    server.faults = [slowly(1.0)]
    tasks = [hypervisor.begin("vm_image", image=server.url()) for dummy in range(2)]

    first, second = [hypervisor.end(task) for task in tasks]

    assert first["image"] == second["image"]
    assert len(server.asked) == 1


def test_fault_the_disk_is_full(hypervisor, server, tmp_path):
    # A small file system of its own, which only the task sees.
    small = tmp_path / "small"
    small.mkdir()
    mount = f'mount -t tmpfs -o size=2m,mode=700 none {small} && exec "$@"'
    hypervisor.prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh"]
    if os.geteuid() != 0:
        hypervisor.prefix[1:1] = ["--map-root-user"]
    hypervisor.data_dir = small / "data"

    told = refused(hypervisor.run("vm_image", image=server.url()))
    server.faults = [chunked]  # nobody knows beforehand how much it is
    met = refused(hypervisor.run("vm_image", image=server.url()))

    assert f"it has {len(DISK)} bytes" in told
    assert "are free" in told
    assert "No space left on device" in met
    hypervisor.prefix, hypervisor.data_dir = [], tmp_path / "data"


def test_fault_the_disk_fills_up_meanwhile(hypervisor, server):
    # A limit on the length of files stands for a disk that somebody else fills: the write fails.
    code = (
        "import resource, runpy, sys; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({MIB},) * 2); "
        f"sys.argv[1:] = []; runpy.run_module('{MODULES}.vm_image', run_name='__main__')"
    )
    arguments = {"data_dir": str(hypervisor.data_dir), "image": server.url()}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
        timeout=60,
        check=False,
    )

    assert "Could not write" in refused(json.loads(done.stdout))
    assert left_in(hypervisor) == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that nobody but itself vouches for."""
    folder = tmp_path_factory.mktemp("tls")
    key, path = folder / "key.pem", folder / "cert.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [shutil.which("openssl"), "req", "-x509", *kind, *subject, "-keyout", key, "-out", path],
        check=True,
        capture_output=True,
    )
    return key, path


@pytest.fixture
def secure(certificate):
    key, path = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    with ImageServer(context=context) as found:
        found.serve(DISK)
        yield found


def test_fault_a_certificate_that_nobody_vouches_for(hypervisor, secure):
    told = refused(hypervisor.run("vm_image", image=secure.url()))

    assert "certificate" in told.lower()
    assert secure.asked == []
    assert left_in(hypervisor) == []


def test_a_certificate_that_the_host_trusts(hypervisor, secure, certificate):
    hypervisor.environment["SSL_CERT_FILE"] = str(certificate[1])

    result = hypervisor.run("vm_image", image=secure.url(), checksum=digest(DISK, "sha512"))

    assert result["changed"], result
    assert result["image"]["source"] == secure.url()


def test_fault_a_wrong_digest(hypervisor, server):
    wrong = digest(b"something else")

    told = refused(
        hypervisor.run("vm_image", image=server.url(), checksum=wrong),
        "vm_manager.image.checksum_mismatch",
    )

    assert digest(DISK).partition(":")[2] in told
    assert left_in(hypervisor) == []


def test_a_proxy_of_the_environment_is_used(hypervisor, server):
    # What is asked of a proxy is the whole URL.
    server.files["http://images.example.org/disk.raw"] = DISK
    proxy = server.url("")
    hypervisor.environment.update(http_proxy=proxy, no_proxy="")

    result = hypervisor.run("vm_image", image="http://images.example.org/disk.raw")

    assert result["changed"], result
    assert server.asked[0].path == "http://images.example.org/disk.raw"
