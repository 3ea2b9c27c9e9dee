# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples about images, run as they are written against a server in place of the one that they name."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml
from ansible_collections.cloudnebula.hypervisor.plugins.modules import vm_image
from ansible_collections.cloudnebula.hypervisor.tests.unit.image_server import (
    ImageServer,
    digest,
)
from conftest import HALT, ROOT, ansible, play

GUIDE = (ROOT / "docs" / "images.md").read_text()
BLOCK = re.compile(
    r"(?:^<!-- example: ([^\n]*) -->\n)?^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@pytest.fixture
def server():
    with ImageServer() as found:
        names = ("debian-12.qcow2", "private/debian-12.qcow2", "debian-12-genericcloud-amd64.qcow2")
        for name in names:
            found.serve(HALT, f"/{name}")
        listed = [f"{digest(HALT, 'sha512')[7:]}  {name.rpartition('/')[2]}\n" for name in names]
        for name in ("SHA256SUMS", "SHA512SUMS"):
            found.serve("".join(listed).encode(), f"/{name}")
        yield found


@pytest.fixture
def run(hypervisor, server, tmp_path):
    """Run tasks on this host; what the examples find on theirs lies in a folder of the test."""
    (tmp_path / "old").mkdir()
    (tmp_path / "disk.raw").write_bytes(HALT)
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk"]
    subprocess.run([*convert, tmp_path / "disk.raw", tmp_path / "old" / "server.vmdk"], check=True)
    desktop = tmp_path / "old" / "desktop.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", desktop, "1M"], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "yesterday", desktop], check=True)

    def run(text, *arguments):
        for place in (
            "https://images.example.org",
            "https://cloud.debian.org/images/cloud/bookworm/latest",
        ):
            text = text.replace(place, server.url(""))
        text = text.replace("/srv/", f"{tmp_path}/")
        defaults = {"group/cloudnebula.hypervisor.all": {"data_dir": str(hypervisor.data_dir)}}
        tasks = {
            "name": "Tasks",
            "hosts": "all",
            "gather_facts": False,
            "tasks": yaml.safe_load(text),
        }
        path = tmp_path / "play.yml"
        path.write_text(yaml.safe_dump([{**tasks, "module_defaults": defaults}], sort_keys=False))
        return play(path, *arguments, images_password="x", registry_password="x").stdout

    return run


def test_playbooks_of_the_guide(run, hypervisor, server):
    ran = [text for mark, text in BLOCK.findall(GUIDE) if not mark]
    run("\n".join(ran))  # as they come: the later ones look at what the former have left

    assert len(ran) == 5
    assert {"web1", "ci1"} == {vm["name"] for vm in hypervisor.info()}
    assert server.asked_for("/private/debian-12.qcow2")[0].headers["authorization"]
    sources = {image["source"] for image in hypervisor.run("vm_image_info")["images"]}
    assert sources == {server.url("/debian-12.qcow2"), server.url("/private/debian-12.qcow2")}


def test_playbooks_of_the_guide_that_need_others_are_parsed(tmp_path):
    parsed = [text for mark, text in BLOCK.findall(GUIDE) if mark.startswith("parsed, because ")]
    for text in parsed:
        tasks = {"name": "Tasks", "hosts": "all", "tasks": yaml.safe_load(text)}
        (tmp_path / "play.yml").write_text(yaml.safe_dump([tasks]))
        ansible(
            "ansible-playbook", "-i", "localhost,", "--syntax-check", str(tmp_path / "play.yml")
        )

    assert len(parsed) == 4


def test_no_example_of_the_guide_is_left_out():
    marks = [mark for mark, dummy in BLOCK.findall(GUIDE)]

    assert len(marks) * 2 == len(re.findall(r"^```", GUIDE, re.MULTILINE))
    assert [mark for mark in marks if mark and not mark.startswith("parsed, because ")] == []


def test_examples_of_the_module(run):
    tasks = yaml.safe_load(vm_image.EXAMPLES)
    mine = [task for task in tasks if not needs_others(task)]

    run(yaml.safe_dump(mine, sort_keys=False))

    assert len(tasks) - len(mine) == 4


def needs_others(task):
    """Tell whether a task asks a registry, or a server that is not named in it, or needs an image that is encrypted."""
    options = task.get("cloudnebula.hypervisor.vm_image", {})
    wanted = ("destination", "passphrase")
    return options.get("image", "").startswith(("oci://", "debian-12")) or any(
        option in options for option in wanted
    )
