# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines from images that the module vm fetches by itself."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from ansible_collections.cloudnebula.hypervisor.tests.unit.image_server import (
    ImageServer,
    digest,
    status,
)
from conftest import HALT


@pytest.fixture
def server():
    with ImageServer() as found:
        found.serve(HALT)
        yield found


@pytest.fixture
def far(hypervisor, server):
    """A hypervisor whose machines come from the server and boot nothing."""
    hypervisor.defaults = {
        "image": server.url(),
        "image_checksum": digest(HALT),
        "memory": "64",
        "state": "present",
    }
    return hypervisor


def images_in(hypervisor):
    return [path for path in hypervisor.files() if path.startswith("images/")]


def test_a_machine_is_made_from_a_url_and_the_second_run_asks_nobody(far, server):
    foreseen = far.vm(check=True)
    assert server.asked == []
    assert not far.data_dir.exists()
    first = far.vm()
    server.faults = [status(500)] * 5
    second = far.vm(**far.defaults)
    other = far.vm("vm2")

    assert foreseen["actions"] == first["actions"] == ["fetch", "prepare"]
    assert foreseen["vm"]["image"] == first["vm"]["image"] == server.url()
    assert (second["changed"], second["actions"]) == (False, [])
    assert other["actions"] == ["prepare"]
    assert len(server.asked) == 1
    assert len(images_in(far)) == 2


def test_the_disk_rests_on_the_fetched_file(far):
    far.vm(state="started")

    record = json.loads(far.record().read_text())
    told = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", record["overlay_path"]],
        check=True,
        stdout=subprocess.PIPE,
    )
    assert json.loads(told.stdout)["full-backing-filename"] == record["base_image"]
    assert os.path.dirname(record["base_image"]) == str(far.data_dir / "images")
    assert record["spec"]["image_format"] == "raw"
    assert not os.access(record["base_image"], os.W_OK) or os.geteuid() == 0


def test_a_machine_whose_image_cannot_be_fetched_leaves_nothing(far, server):
    server.faults = [status(404)]

    result = far.refuse(**far.defaults)

    assert result["error"]["code"] == "vm_manager.image.fetch_failed"
    assert far.info() == []
    assert images_in(far) == []


def test_a_machine_with_a_wrong_checksum_is_not_made(far):
    result = far.refuse(**{**far.defaults, "image_checksum": digest(b"other")})

    assert result["error"]["code"] == "vm_manager.image.checksum_mismatch"
    assert far.info() == []
    assert images_in(far) == []


def test_a_checksum_counts_for_a_local_path_as_well(idle):
    wrong = idle.refuse(**idle.defaults, image_checksum=digest(b"other"))
    foreseen = idle.refuse(**idle.defaults, image_checksum=digest(b"other"), check=True)
    made = idle.vm(state="present", image_checksum=digest(HALT))

    assert (
        wrong["error"]["code"] == foreseen["error"]["code"] == "vm_manager.image.checksum_mismatch"
    )
    assert made["vm"]["image"] == idle.defaults["image"]
    assert images_in(idle) == []


@pytest.mark.parametrize(
    "options",
    [
        {"image": "https://example.org/x?signature=s3cr3t"},
        {"image": "https://me:s3cr3t@example.org/x"},
        {"image_checksum": "https://example.org/SHA256SUMS?s3cr3t"},
        {"image_checksum": "sha256:12"},
    ],
    ids=str,
)
def test_what_may_not_be_recorded_is_refused(far, options):
    result = far.refuse(**{**far.defaults, **options})

    assert result["error"]["code"] == "vm_manager.spec.invalid"
    assert "s3cr3t" not in json.dumps(result)
    assert not far.data_dir.exists()


def test_an_image_from_a_file_url_is_copied(hypervisor, tmp_path):
    source = tmp_path / "disk.raw"
    source.write_bytes(HALT)
    first = hypervisor.vm(image=f"file://{source}", memory="64", state="present")
    source.unlink()

    second = hypervisor.vm("vm2", image=f"file://{source}", memory="64", state="present")

    assert first["actions"] == ["fetch", "prepare"]
    assert second["actions"] == ["prepare"]


def test_a_wish_that_cannot_be_met_is_told_before_anything_is_fetched(far, server):
    far.refuse(**far.defaults, networks=[{"type": "bridge", "bridge": "none0"}])
    far.refuse(**{**far.defaults, "image": "debain-12", "image_checksum": None})

    assert server.asked == []
    assert images_in(far) == []


def test_a_disk_that_is_too_small_is_told_before_the_machine_is_made(far):
    result = far.refuse(**far.defaults, disk_size="512KiB")

    assert "disk_size" in result["msg"]
    assert far.info() == []


def test_a_run_that_was_cut_off_is_finished_with_the_same_image(far, server):
    far.vm()
    far.edit(state="preparing", overlay_path=None)
    (far.folder() / "overlay.qcow2").unlink()
    server.faults = [status(500)] * 5

    result = far.vm(**far.defaults)

    assert result["actions"] == ["prepare"]
    assert result["vm"]["state"] == "prepared"
    assert len(server.asked) == 1


def test_a_machine_that_is_being_made_keeps_its_image(far):
    far.vm()
    far.edit(state="preparing")

    pruned = far.run("vm_image", state="pruned")

    assert not pruned["changed"], pruned
