# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images to and from real registries, which another client, oras, fills and reads as well."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    ChecksumMismatch,
    HttpFailed,
    OciAmbiguous,
    OciAuthFailed,
    OciNotFound,
    OciRefused,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.fetch import (
    Fetch,
    fetch,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci import (
    foresee_push,
    push,
    resolve,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci_auth import (
    Access,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci_reference import (
    parse_reference,
)
from conftest import ansible, sha256
from registry import PASSWORD, USER, Identity, Registry, TokenServer

QCOW2 = "application/vnd.cloudnebula.qcow2.layer.v1"
PLAIN = Access(plain_http=True)
KNOWN = Access(USER, PASSWORD, plain_http=True)
MIB = 1024 * 1024

# oras runs in a process of its own, as its users run it, and leaves its connections to the end of the process.
ORAS = """
import json, sys
from oras.client import OrasClient
act, target, files, login = json.loads(sys.argv[1])
client = OrasClient(insecure=True, auth_backend="basic" if login else "token")
if login:
    client.auth.set_basic_auth(*login)
if act == "push":
    client.push(target=target, files=files, disable_path_validation=True)
else:
    client.pull(target=target, outdir=files[0])
"""
# Fetches or pushes in a process whose memory can be told from that of the tests.
MEASURED = r"""
import json, re, sys
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.fetch import Fetch, fetch
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci import push, resolve
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci_auth import Access
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci_reference import parse_reference
act, reference, path = json.loads(sys.argv[1])
access = Access(plain_http=True)
if act == "push":
    push(path, parse_reference(reference), access, "raw")
else:
    blob = resolve(parse_reference(reference), access)
    fetch(Fetch(blob.url, blob.headers, (blob.checksum,), blob.size), path)
print(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def registry(tmp_path):
    subject = Registry(tmp_path / "registry")
    yield subject
    subject.close()


@pytest.fixture
def guarded(tmp_path):
    subject = Registry(tmp_path / "registry", password=True)
    yield subject
    subject.close()


@pytest.fixture
def token_server(tmp_path):
    subject = TokenServer(Identity(tmp_path / "tokens"))
    yield subject
    subject.close()


@pytest.fixture
def tokened(tmp_path, token_server):
    subject = Registry(tmp_path / "registry", tokens=token_server)
    yield subject
    subject.close()


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.qcow2"
    path.write_bytes(os.urandom(3 * MIB + 17))
    return path


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def oras_push(registry, *files, name="vms/disk:1", login=None):
    run(ORAS, "push", f"{registry.address}/{name}", files, login)


def oras_pull(registry, folder, name="vms/disk:1", login=None):
    run(ORAS, "pull", f"{registry.address}/{name}", [str(folder)], login)


def pull(reference, folder, access=PLAIN, progress=None):
    """Resolve and fetch as tasks do; return the file."""
    blob = resolve(parse_reference(reference), access)
    path = folder / "pulled"
    fetch(Fetch(blob.url, blob.headers, (blob.checksum,), blob.size), str(path), progress)
    return path


def push_to(registry, image, access=PLAIN, name="vms/disk:1", image_format="qcow2"):
    return push(str(image), parse_reference(registry.reference(name)), access, image_format)


@pytest.mark.parametrize("media_type", [QCOW2, "application/octet-stream"])
def test_pushed_by_oras_and_pulled_here(registry, image, tmp_path, media_type):
    oras_push(registry, f"{image}:{media_type}")

    blob = resolve(parse_reference(registry.reference()), PLAIN)

    assert (blob.media_type, blob.size) == (media_type, 3 * MIB + 17)
    assert blob.image_format == ("qcow2" if media_type == QCOW2 else None)
    assert pull(registry.reference(), tmp_path).read_bytes() == image.read_bytes()


def test_pushed_here_and_pulled_by_oras(registry, image, tmp_path):
    pushed = push_to(registry, image)

    oras_pull(registry, tmp_path / "out")

    assert pushed.changed
    assert (tmp_path / "out" / "disk.qcow2").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_pushed_and_pulled_here_by_tag_and_by_digest(registry, image, tmp_path, image_format):
    pushed = push_to(registry, image, image_format=image_format)
    pinned = registry.reference(f"vms/disk@{pushed.digest}")

    assert pull(registry.reference(), tmp_path).read_bytes() == image.read_bytes()
    assert pull(pinned, tmp_path).read_bytes() == image.read_bytes()
    assert resolve(parse_reference(pinned), PLAIN).image_format == image_format


def test_second_push_changes_nothing_and_is_foreseen(registry, image):
    reference = parse_reference(registry.reference())

    foreseen = foresee_push(str(image), reference, PLAIN, "qcow2")
    assert not registry.blob_file(foreseen.digest).exists()
    first = push_to(registry, image)
    second = push_to(registry, image)
    foreseen_again = foresee_push(str(image), reference, PLAIN, "qcow2")

    assert (foreseen, foreseen_again) == (first, second)
    assert (first.changed, second.changed) == (True, False)
    assert registry.blob_file(first.digest).exists()


def test_other_content_moves_the_tag(registry, image, tmp_path):
    before = push_to(registry, image)
    image.write_bytes(b"another disk")

    after = push_to(registry, image)

    assert after.changed and after.digest != before.digest
    assert pull(registry.reference(), tmp_path).read_bytes() == b"another disk"


def test_blob_that_the_registry_has_is_not_sent_again(registry, image):
    push_to(registry, image)
    seen = []

    reference = parse_reference(registry.reference("vms/disk:2"))
    pushed = push(str(image), reference, PLAIN, "qcow2", lambda *counts: seen.append(counts))

    assert pushed.changed
    assert {phase for phase, *dummy in seen} == {"verify"}


def test_progress_of_a_push_is_told(registry, image):
    seen = []

    reference = parse_reference(registry.reference())
    push(str(image), reference, PLAIN, "qcow2", lambda *counts: seen.append(counts))

    whole = 3 * MIB + 17
    for phase in ("verify", "upload"):
        done = [counts for counts in seen if counts[0] == phase]
        assert done == sorted(done)
        assert done[-1] == (phase, whole, whole)


@pytest.mark.parametrize("name", ["vms/disk:2", "vms/other:1", f"vms/disk@sha256:{'0' * 64}"])
def test_what_is_not_there(registry, image, name):
    push_to(registry, image)

    with pytest.raises(OciNotFound, match=r"was not found .*UNKNOWN"):
        resolve(parse_reference(registry.reference(name)), PLAIN)


def test_several_files_are_not_guessed_from(registry, image, tmp_path):
    other = tmp_path / "data.qcow2"
    other.write_bytes(b"data")
    oras_push(registry, f"{image}:{QCOW2}", f"{other}:{QCOW2}")

    with pytest.raises(OciAmbiguous, match=r"'disk.qcow2'.*'data.qcow2'"):
        resolve(parse_reference(registry.reference()), PLAIN)


def test_text_beside_the_image_does_not_matter(registry, image, tmp_path):
    text = tmp_path / "README.md"
    text.write_text("a disk")
    oras_push(registry, f"{text}:text/markdown", f"{image}:{QCOW2}")

    assert pull(registry.reference(), tmp_path).read_bytes() == image.read_bytes()


def test_image_that_was_changed_in_the_registry_is_refused(registry, image, tmp_path):
    push_to(registry, image)
    blob = resolve(parse_reference(registry.reference()), PLAIN)
    stored = bytearray(image.read_bytes())
    stored[MIB] ^= 1
    registry.blob_file(blob.digest).write_bytes(stored)

    with pytest.raises(ChecksumMismatch):
        pull(registry.reference(), tmp_path)

    assert not (tmp_path / "pulled").exists()


def test_manifest_that_was_changed_in_the_registry_is_refused(registry, image):
    pushed = push_to(registry, image)
    path = registry.blob_file(pushed.digest)
    path.write_bytes(path.read_bytes().replace(b"disk.qcow2", b"DISK.qcow2"))

    for name in ("vms/disk:1", f"vms/disk@{pushed.digest}"):
        with pytest.raises(OciRefused, match="not what it should be"):
            resolve(parse_reference(registry.reference(name)), PLAIN)


class Interrupted(Exception):
    pass


def test_pull_that_was_cut_off_is_gone_on_with(registry, image, tmp_path):
    push_to(registry, image)

    def cut(done, dummy):
        if done > MIB:
            raise Interrupted

    with pytest.raises(Interrupted):
        pull(registry.reference(), tmp_path, progress=cut)
    seen = []
    path = pull(registry.reference(), tmp_path, progress=lambda done, _: seen.append(done))

    assert min(seen) > MIB
    assert path.read_bytes() == image.read_bytes()


@pytest.mark.parametrize(
    ("access", "words"),
    [
        (PLAIN, "asks for a user and a password"),
        (Access(USER, "wrong", plain_http=True), "The user 'me' of the task's options was shown"),
    ],
    ids=["nobody", "wrong password"],
)
def test_password_is_wanted(guarded, image, access, words):
    with pytest.raises(OciAuthFailed, match=words):
        resolve(parse_reference(guarded.reference()), access)
    with pytest.raises(OciAuthFailed, match=words):
        push_to(guarded, image, access)


def test_password_is_right(guarded, image, tmp_path):
    assert push_to(guarded, image, KNOWN).changed
    assert not push_to(guarded, image, KNOWN).changed

    assert pull(guarded.reference(), tmp_path, KNOWN).read_bytes() == image.read_bytes()
    oras_pull(guarded, tmp_path / "out", login=[USER, PASSWORD])
    assert (tmp_path / "out" / "disk.qcow2").read_bytes() == image.read_bytes()


def test_login_file_is_used(guarded, image, tmp_path, monkeypatch):
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {guarded.address: {"auth": login}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(path))

    push_to(guarded, image)

    assert pull(guarded.reference(), tmp_path).read_bytes() == image.read_bytes()


def test_token_flow(tokened, token_server, image, tmp_path):
    with pytest.raises(OciAuthFailed, match="No credentials were found"):
        push_to(tokened, image)
    with pytest.raises(OciAuthFailed, match="wrong password"):
        push_to(tokened, image, Access(USER, "wrong", plain_http=True))
    assert push_to(tokened, image, KNOWN).changed

    assert pull(tokened.reference(), tmp_path).read_bytes() == image.read_bytes()

    query, known = token_server.asked[-1]
    assert query == {"service": ["test-registry"], "scope": ["repository:vms/disk:pull"]}
    assert not known
    assert {known: query["scope"] for query, known in token_server.asked}[True] == [
        "repository:vms/disk:pull,push"
    ]


def test_registry_without_tls_is_not_asked_by_http(registry, image):
    push_to(registry, image)

    with pytest.raises(HttpFailed) as caught:
        resolve(parse_reference(registry.reference()), Access(timeout=5))

    assert "plain_http: true" in caught.value.help


def test_tls_is_verified(image, tmp_path, monkeypatch):
    identity = Identity(tmp_path / "tls")
    registry = Registry(tmp_path / "registry", tls=identity)
    try:
        with pytest.raises(HttpFailed, match=r"(?i)certificate"):
            push_to(registry, image, Access())
        monkeypatch.setenv("SSL_CERT_FILE", str(identity.certificate_file))
        push_to(registry, image, Access())
        assert pull(registry.reference(), tmp_path, Access()).read_bytes() == image.read_bytes()
    finally:
        registry.close()


def test_image_is_never_whole_in_memory(registry, tmp_path):
    image = tmp_path / "large.raw"
    with open(image, "wb") as stream:
        stream.write(os.urandom(MIB))
        stream.truncate(200 * MIB)

    pushing = int(run(MEASURED, "push", registry.reference(), str(image)))
    pulling = int(run(MEASURED, "pull", registry.reference(), str(tmp_path / "pulled")))

    assert (tmp_path / "pulled").stat().st_size == 200 * MIB
    assert max(pushing, pulling) < 64 * 1024, (pushing, pulling)  # KiB


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "8M"], check=True)
    return path


def test_module_fetches_once(hypervisor, registry, disk):
    oras_push(registry, f"{disk}:{QCOW2}")
    options = {"image": registry.reference(), "plain_http": True}

    foreseen = hypervisor.run("vm_image", **options, check=True)
    files = hypervisor.files()
    first = hypervisor.run("vm_image", **options)
    second = hypervisor.run("vm_image", **options)

    assert [r.get("changed") for r in (foreseen, first, second)] == [True, True, False], first
    assert files == []
    assert first["image"]["source"] == registry.reference()
    assert first["image"]["source_digest"] == f"sha256:{sha256(disk)}"
    assert first["image"]["format"] == "qcow2"
    assert first["image"]["path"] == second["image"]["path"]


def test_module_sees_that_a_tag_was_moved(hypervisor, registry, disk):
    options = {"image": registry.reference(), "plain_http": True, "update": "if_changed"}
    push_to(registry, disk)
    first = hypervisor.run("vm_image", **options)
    second = hypervisor.run("vm_image", **options)
    subprocess.run(["qemu-img", "resize", "-q", disk, "16M"], check=True)
    push_to(registry, disk)
    third = hypervisor.run("vm_image", **options)

    assert [r.get("changed") for r in (first, second, third)] == [True, False, True], third
    assert third["image"]["virtual_size"] == 16 * MIB


def test_module_pushes_what_another_host_then_fetches(hypervisor, registry, disk, tmp_path):
    options = {"state": "pushed", "destination": registry.reference(), "plain_http": True}
    options["image"] = str(disk)

    foreseen = hypervisor.run("vm_image", **options, check=True)
    with pytest.raises(OciNotFound):
        resolve(parse_reference(registry.reference()), PLAIN)
    first = hypervisor.run("vm_image", **options)
    second = hypervisor.run("vm_image", **options)
    foreseen_again = hypervisor.run("vm_image", **options, check=True)

    changes = [r.get("changed") for r in (foreseen, first, second, foreseen_again)]
    assert changes == [True, True, False, False], first
    assert foreseen["pushed"] == first["pushed"] == second["pushed"]
    hypervisor.data_dir = tmp_path / "other"
    pinned = registry.reference(f"vms/disk@{first['pushed']['digest']}")
    fetched = hypervisor.run("vm_image", image=pinned, plain_http=True)
    assert fetched["image"]["source_digest"] == f"sha256:{sha256(disk)}"


def test_module_believes_the_format_that_the_registry_states(hypervisor, registry, tmp_path):
    disk = tmp_path / "data.raw"
    disk.write_bytes(b"no boot sector".ljust(MIB, b"\0"))
    push_to(registry, disk, image_format="raw")

    result = hypervisor.run("vm_image", image=registry.reference(), plain_http=True)

    assert result.get("changed"), result
    assert (result["image"]["format"], result["image"]["virtual_size"]) == ("raw", MIB)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"checksum": f"sha256:{'0' * 64}"}, "is not the image that the checksum stands for"),
        ({"target_format": "raw"}, "target_format: "),
    ],
    ids=str,
)
def test_module_pushes_nothing_but_what_the_task_says(hypervisor, registry, disk, options, words):
    pushing = {"state": "pushed", "destination": registry.reference(), "plain_http": True}

    for check in (True, False):
        result = hypervisor.run("vm_image", image=str(disk), **pushing, **options, check=check)
        assert words in result["msg"]

    with pytest.raises(OciNotFound):
        resolve(parse_reference(registry.reference()), PLAIN)


def test_module_never_falls_back_to_http(hypervisor, registry, disk):
    push_to(registry, disk)

    result = hypervisor.run("vm_image", image=registry.reference(), timeout=5)

    assert result["error"]["code"] == "vm_manager.http.failed", result
    assert "plain_http: true" in result["error"]["help"]
    assert hypervisor.files() == []


def test_play_with_a_password_does_not_show_it(guarded, disk, tmp_path):
    options = {"data_dir": str(tmp_path / "data"), "username": USER, "plain_http": True}
    pushing = {"state": "pushed", "image": str(disk), "destination": guarded.reference()}

    def task(**arguments):
        text = json.dumps({**options, **arguments})
        module = ("-m", "cloudnebula.hypervisor.vm_image", "-a", text)
        done = ansible("ansible", "localhost", "-vvv", *module, check=False)
        assert arguments["password"] not in done.stdout + done.stderr
        assert base64.b64encode(f"{USER}:{arguments['password']}".encode()).decode() not in (
            done.stdout + done.stderr
        )
        return done

    wrong = task(**pushing, password="incorrect horse")
    right = task(**pushing, password=PASSWORD)

    assert wrong.returncode != 0 and "vm_manager.image.oci_auth_failed" in wrong.stdout
    assert right.returncode == 0, right.stdout


def test_machine_from_a_registry(hypervisor, disk, tmp_path):
    identity = Identity(tmp_path / "tls")
    hypervisor.environment["SSL_CERT_FILE"] = str(identity.certificate_file)
    registry = Registry(tmp_path / "registry", tls=identity)
    try:
        pushed = hypervisor.run(
            "vm_image", state="pushed", image=str(disk), destination=registry.reference()
        )
        assert pushed.get("changed"), pushed
        made = hypervisor.vm(state="present", image=registry.reference())
    finally:
        registry.close()  # a machine that is there needs the registry no more

    assert made["changed"]
    assert not hypervisor.vm(state="present", image=registry.reference())["changed"]
