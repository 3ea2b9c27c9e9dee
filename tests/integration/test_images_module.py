# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules vm_image and vm_image_info as tasks run them."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from ansible_collections.cloudnebula.hypervisor.tests.unit.image_server import (
    ImageServer,
    digest,
    raw_disk,
)
from conftest import play

DISK = raw_disk()
OTHER = raw_disk(seed=b"other")
SECRETS = {
    "username": "me",
    "password": "p4ssw0rd-hunter2",
    "headers": {"Private-Token": "t0k3n-hunter3"},
}


@pytest.fixture
def server():
    with ImageServer() as found:
        found.serve(DISK)
        yield found


@pytest.fixture
def task(hypervisor):
    """Run the module vm_image and expect success."""

    def run(**options):
        result = hypervisor.run("vm_image", **options)
        assert "failed" not in result, result
        return result

    return run


def refused(result, code):
    assert result.get("failed"), result
    assert result["error"]["code"] == code, result
    return result


def images_of(hypervisor, **options):
    result = hypervisor.run("vm_image_info", **options)
    assert "failed" not in result, result
    return result["images"]


def test_an_image_is_fetched_shown_and_removed(hypervisor, task, server):
    made = task(image=server.url(), checksum=digest(DISK))
    again = task(image=server.url(), checksum=digest(DISK))
    shown = images_of(hypervisor)
    gone = task(image=server.url(), state="absent")
    gone_again = task(image=server.url(), state="absent")

    assert (made["changed"], again["changed"]) == (True, False)
    assert made["image"] == again["image"] == shown[0]
    assert made["image"]["digest"] == made["image"]["source_digest"] == digest(DISK)
    assert made["diff"] == {"before": {}, "after": made["image"]}
    assert again["diff"]["before"] == again["diff"]["after"] == again["image"]
    assert (gone["changed"], gone_again["changed"]) == (True, False)
    assert gone["images"] == [made["image"]]
    assert images_of(hypervisor) == []
    assert hypervisor.files() == []
    assert len(server.asked) == 1


def test_check_mode_fetches_and_removes_nothing(hypervisor, task, server):
    foreseen = task(image=server.url(), checksum=digest(DISK), image_format="raw", check=True)
    assert not hypervisor.data_dir.exists()
    assert server.asked == []
    made = task(image=server.url(), checksum=digest(DISK), image_format="raw")
    again = task(image=server.url(), check=True)
    gone = task(image=server.url(), state="absent", check=True)
    pruned = task(state="pruned", check=True)

    assert foreseen["changed"]
    assert foreseen["image"]["path"] == made["image"]["path"]
    assert foreseen["image"]["digest"] is None
    assert foreseen["image"].keys() == made["image"].keys()
    assert not again["changed"]
    assert (gone["changed"], pruned["changed"]) == (True, True)
    assert gone["images"] == pruned["images"] == images_of(hypervisor)
    assert len(images_of(hypervisor)) == 1


def test_defaults_for_all_images_do_not_hinder_pruning(task, server):
    task(image=server.url())
    defaults = {**SECRETS, "timeout": 5, "plain_http": True, "update": "if_changed"}

    assert len(task(state="pruned", target_format="raw", **defaults)["images"]) == 1


def test_check_mode_shows_no_path_that_will_not_be(task, server):
    foreseen = task(image=server.url(), check=True)
    made = task(image=server.url())

    path = foreseen["image"]["path"]
    assert foreseen["diff"]["after"] == foreseen["image"]
    assert path.partition("?")[0] == made["image"]["path"][: path.index("?")]
    assert path.index("?") > path.index("/images/disk-")


def test_check_mode_asks_for_a_newer_version(task, server):
    task(image=server.url())
    assert not task(image=server.url(), update="if_changed", check=True)["changed"]

    server.serve(OTHER)

    foreseen = task(image=server.url(), update="if_changed", check=True)
    done = task(image=server.url(), update="if_changed")
    assert (foreseen["changed"], done["changed"]) == (True, True)
    assert done["image"]["digest"] == digest(OTHER)
    assert not task(image=server.url(), update="always")["changed"]


def test_a_machine_keeps_its_image_from_being_removed(idle, task, server):
    made = task(image=server.url())
    path = made["image"]["path"]
    vm = idle.vm("web1", image=path)["vm"]

    in_use = refused(
        idle.run("vm_image", image=server.url(), state="absent"), "vm_manager.image.in_use"
    )
    by_path = refused(idle.run("vm_image", image=path, state="absent"), "vm_manager.image.in_use")
    pruned = task(state="pruned")

    assert "'web1'" in in_use["msg"]
    assert "'web1'" in by_path["msg"]
    assert not pruned["changed"]
    assert images_of(idle)[0]["in_use_by"] == ["web1"]
    assert vm["image"] == path
    idle.vm("web1", state="absent", force=True)
    assert task(state="pruned")["images"][0]["path"] == path
    assert not os.path.exists(path)


def test_secrets_stay_out_of_results_records_and_files(hypervisor, task, server):
    url = server.url("/disk.raw?signature=s1gnature-hunter4")
    server.files["/disk.raw"] = DISK

    results = [task(image=url, **SECRETS), task(image=url, check=True, **SECRETS)]
    results.append(hypervisor.run("vm_image", image=url, checksum=digest(OTHER), **SECRETS))
    results.append(task(image=url, state="absent", check=True))
    results.append(hypervisor.run("vm_image_info", image=url))

    assert results[2]["error"]["code"] == "vm_manager.image.checksum_mismatch"
    assert len(results[4]["images"]) == 1
    texts = [json.dumps(result) for result in results]
    texts += [path.read_text() for path in hypervisor.data_dir.rglob("*.json")]
    for secret in ("hunter2", "hunter3", "hunter4"):
        assert [text for text in texts if secret in text] == []
    asked = server.asked[0]
    assert asked.path.endswith("hunter4")
    assert asked.headers["private-token"] == "t0k3n-hunter3"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "image"),
        ({"state": "absent"}, "image"),
        ({"image": "disk images/x"}, "image"),
        ({"image": "https://me:secret@example.org/x"}, "image"),
        ({"image": "debain-12"}, "image"),
        ({"image": "/x", "checksum": "sha1:abc"}, "checksum"),
        ({"image": "/x", "checksum": ""}, "checksum"),
        ({"image": "/x", "timeout": 0}, "timeout"),
        ({"image": "/x", "username": "me"}, "password"),
        ({"image": "/x", "headers": {"A": "b\r\nHost: c"}}, "headers"),
        ({"image": "/x", "headers": {"A b": "c"}}, "headers"),
        ({"image": "/x", "state": "pushed"}, "destination"),
        ({"image": "/x", "state": "pushed", "destination": "https://example.org/x"}, "destination"),
        ({"image": "/x", "data_dir": "relative"}, "data_dir"),
        ({"state": "pruned", "image": "/x"}, "image"),
        ({"state": "pruned", "checksum": digest(DISK)}, "checksum"),
        ({"state": "pruned", "destination": "oci://example.org/x"}, "destination"),
        ({"state": "pruned", "image_format": "raw"}, "image_format"),
    ],
    ids=str,
)
def test_wrong_options_are_named_before_anything_is_touched(hypervisor, options, named):
    result = hypervisor.run("vm_image", **options)

    assert result.get("failed"), result
    assert result["msg"].startswith(f"{named}: ") or named == "data_dir", result
    assert result["error"]["details"].get("option") in (named, None)
    assert "secret" not in json.dumps(result)
    assert not hypervisor.data_dir.exists()


def test_a_path_is_imported_and_its_copy_is_known(hypervisor, task, tmp_path):
    source = tmp_path / "disk.raw"
    source.write_bytes(DISK)

    made = task(image=str(source))
    again = task(image=made["image"]["path"])
    shown = images_of(hypervisor, image=str(source))

    assert made["image"]["source"] == f"file://{source}"
    assert (again["changed"], again["image"]) == (False, made["image"])
    assert shown == images_of(hypervisor, image=made["image"]["path"]) == [made["image"]]
    assert source.read_bytes() == DISK


def test_options_count_for_a_fetched_image_that_is_named_by_its_path(hypervisor, task, server):
    kept = task(image=server.url())["image"]

    for check in (True, False):
        refused(
            hypervisor.run("vm_image", image=kept["path"], checksum=digest(OTHER), check=check),
            "vm_manager.image.checksum_mismatch",
        )
    assert not task(image=kept["path"], checksum=digest(DISK, "sha512"))["changed"]
    other = task(image=kept["path"], target_format="qcow2")["image"]

    assert (other["format"], other["source_format"]) == ("qcow2", "raw")
    assert len(images_of(hypervisor)) == 2


def test_check_mode_tells_that_a_file_is_missing(hypervisor, task, tmp_path):
    foreseen = task(image=str(tmp_path / "none.vmdk"), check=True)

    assert foreseen["changed"]  # an earlier task may make it
    assert "none.vmdk does not exist" in " ".join(foreseen["warnings"])


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vhdx"])
def test_other_formats_are_converted(task, server, tmp_path, kind):
    (tmp_path / "disk.raw").write_bytes(DISK)
    path = tmp_path / f"disk.{kind}"
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", kind, tmp_path / "disk.raw", path], check=True
    )
    url = server.serve(path.read_bytes(), f"/disk.{kind}")

    kept = task(image=url, checksum=digest(path.read_bytes()))["image"]
    raw = task(image=url, target_format="raw")["image"]

    assert (kept["format"], kept["source_format"]) == ("qcow2", kind)
    assert (raw["format"], raw["source_format"]) == ("raw", kind)
    with open(raw["path"], "rb") as stream:
        assert stream.read(len(DISK)) == DISK
    assert kept["digest"] != kept["source_digest"] == digest(path.read_bytes())
    compare = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", kept["path"], raw["path"]]
    subprocess.run(compare, check=True, stdout=subprocess.DEVNULL)
    assert not task(image=url)["changed"]


def test_a_zst_image_is_unpacked(task, server):
    packed = subprocess.run(["zstd", "-q", "-c"], input=DISK, check=True, capture_output=True)
    url = server.serve(packed.stdout, "/disk.raw.zst")

    assert task(image=url, checksum=digest(packed.stdout))["image"]["digest"] == digest(DISK)


PLAY = """
- name: Images
  hosts: all
  gather_facts: false
  module_defaults:
    group/cloudnebula.hypervisor.all:
      data_dir: "{{ data }}"
  tasks:
    - name: Fetch
      cloudnebula.hypervisor.vm_image:
        image: "{{ url }}"
        checksum: "{{ sums }}"
        password: hunter2-password
        username: me
      register: fetched

    - name: Look
      cloudnebula.hypervisor.vm_image_info:
      register: found

    - name: Compare
      ansible.builtin.assert:
        that: found.images == ([] if ansible_check_mode else [fetched.image])

    - name: Create a machine
      cloudnebula.hypervisor.vm:
        name: web1
        state: present
        image: "{{ fetched.image.path }}"
        memory: 64MiB

    - name: Remove what nobody uses
      cloudnebula.hypervisor.vm_image:
        state: pruned
      register: pruned

    - name: Nothing is unused
      ansible.builtin.assert:
        that: not pruned.changed
"""


def test_a_playbook_with_a_list_of_checksums(hypervisor, server, tmp_path):
    sums = server.serve(f"{digest(DISK)[7:]}  disk.raw\n".encode(), "/SHA256SUMS")
    (tmp_path / "play.yml").write_text(PLAY)
    variables = {"url": server.url(), "sums": sums, "data": str(hypervisor.data_dir)}

    foreseen = play(tmp_path / "play.yml", "--check", "--diff", **variables)
    first = play(tmp_path / "play.yml", "--diff", **variables)
    second = play(tmp_path / "play.yml", **variables)

    assert "changed=2" in foreseen.stdout
    assert "would fail now" in foreseen.stdout + foreseen.stderr
    assert "changed=2" in first.stdout
    assert "changed=0" in second.stdout
    assert "hunter2" not in foreseen.stdout + first.stdout + second.stdout
    assert len(server.asked_for()) == 1
