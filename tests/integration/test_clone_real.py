# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renamed and cloned machines on real QEMU, runs that are killed on the way, and a second first boot."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time

import pytest
from conftest import command_line, in_guest, wait_until

GENERATION = re.compile(r"vmgenid,guid=([0-9a-f-]{36})")


def write_pattern(disk, byte="0x5a"):
    """Write some bytes to a disk that no process uses, as its guest would."""
    command = f"write -P {byte} 512k 4k"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, disk], check=True, capture_output=True)


def holds_pattern(disk, byte="0x5a"):
    """Tell whether a disk holds what ``write_pattern`` wrote."""
    command = ["qemu-io", "-f", "qcow2", "-r", "-c", f"read -P {byte} 512k 4k", disk]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return "verification failed" not in done.stdout


def backing_file(disk):
    told = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", disk], check=True, capture_output=True
    )
    return json.loads(told.stdout)["backing-filename"]


def test_clone_holds_what_the_other_guest_wrote_and_is_independent(idle):
    first = idle.vm("vm1", state="stopped", disks=[{"name": "data", "size": "1MiB"}])["vm"]
    system, data = (disk["path"] for disk in first["disks"])
    write_pattern(system)
    write_pattern(data)

    clone = idle.run("vm", name="vm2", state="started", clone_from="vm1", disk_size="2MiB")
    assert "failed" not in clone, clone
    again = idle.run("vm", name="vm2", state="started", clone_from="vm1")

    assert not again["changed"]
    assert clone["vm"]["disks"][0]["size"] == 2 << 20
    assert len({first["id"], clone["vm"]["id"]}) == 2
    assert first["ssh"]["port"] != clone["vm"]["ssh"]["port"]
    keys = [(idle.folder(name) / "id_ed25519.pub").read_text() for name in ("vm1", "vm2")]
    assert keys[0] != keys[1]
    idle.vm("vm2", state="stopped", force=True)
    own = [disk["path"] for disk in clone["vm"]["disks"]]
    assert all(path.startswith(f"{idle.folder('vm2')}/") for path in own)
    assert all(map(holds_pattern, own))
    assert backing_file(own[0]) == backing_file(system) == idle.defaults["image"]

    write_pattern(system, "0x11")
    assert all(map(holds_pattern, own)), "what happens to the one is nothing to the other"
    idle.vm("vm1", state="absent")
    assert idle.run("vm", name="vm2", state="started", clone_from="vm1")["vm"]["pid"]


def test_guest_can_tell_that_it_is_a_copy(idle):
    idle.vm("vm1", state="stopped")
    idle.run("vm", name="vm2", clone_from="vm1")
    idle.vm("vm1")

    seen = [GENERATION.search(command_line(vm["pid"])).group(1) for vm in idle.info("vm1", "vm2")]

    assert len(set(seen)) == 2


def test_one_that_runs_is_not_cloned(idle):
    idle.vm("vm1")

    error = idle.refuse("vm2", clone_from="vm1")["error"]

    assert error["code"] == "vm_manager.vm.invalid_state"
    assert not idle.folder("vm2").exists()


def test_killed_clone_is_finished_by_the_next_run(idle):
    vm = idle.vm("vm1", state="stopped")["vm"]
    write_pattern(vm["disks"][0]["path"])
    for moment in (0.0, 0.02, 0.1):
        task = idle.begin("vm", name="vm2", state="stopped", clone_from="vm1")
        wait_until(lambda task=task: idle.record("vm2").exists() or task.poll() is not None, 30)
        time.sleep(moment)
        task.kill()
        task.communicate()

        result = idle.run("vm", name="vm2", state="stopped", clone_from="vm1")

        assert "failed" not in result, result
        assert result["vm"]["state"] == "prepared"
        assert holds_pattern(result["vm"]["disks"][0]["path"])
        assert [path for path in idle.files() if ".qcow2.part" in path] == []
        idle.vm("vm2", state="absent")


def test_renamed_machine_goes_on_with_its_disk(idle):
    first = idle.vm("vm1", state="stopped", disks=[{"name": "data", "size": "1MiB"}])["vm"]
    write_pattern(first["disks"][0]["path"])

    renamed = idle.run("vm", name="vm1", new_name="db1", state="started")

    assert renamed["actions"] == ["rename", "start"]
    vm = renamed["vm"]
    for field in ("id", "networks"):
        assert {**vm, "networks": None}["id"] == first["id"], field
    assert vm["networks"][0]["mac"] == first["networks"][0]["mac"]
    assert vm["ssh"]["port"] == first["ssh"]["port"]
    assert str(idle.folder("vm1")) + "/" not in command_line(vm["pid"])
    assert not idle.folder("vm1").exists()
    refused = idle.refuse("db1", new_name="db2")
    assert "apply=restart" in refused["error"]["help"]
    again = idle.run("vm", name="vm1", new_name="db1", state="started")
    assert (again["changed"], again["vm"]["pid"]) == (False, vm["pid"])
    idle.vm("db1", state="stopped", force=True)
    assert holds_pattern(idle.folder("db1") / "overlay.qcow2")


@pytest.mark.parametrize("seed", range(2))
def test_killed_renaming_leaves_the_machine_with_one_name(idle, seed):
    chance = random.Random(seed)
    first = idle.vm("vm1", state="stopped")["vm"]
    old, new = "vm1", "vm2"
    for _turn in range(4):
        task = idle.begin("vm", name=old, new_name=new, state="stopped")
        lock = idle.data_dir / "vms" / f".{new}.lock"
        wait_until(lambda lock=lock, task=task: lock.exists() or task.poll() is not None, 30)
        time.sleep(chance.uniform(0, 0.02))
        if task.poll() is None:
            os.kill(task.pid, signal.SIGKILL)
        task.communicate()

        names = [vm["name"] for vm in idle.info()]
        assert names in ([old], [new])
        result = idle.run("vm", name=old, new_name=new, state="stopped")

        assert "failed" not in result, result
        assert (result["vm"]["name"], result["vm"]["id"]) == (new, first["id"])
        assert not idle.run("vm", name=new, state="stopped")["changed"]
        old, new = new, old


def test_cloud_init_runs_again_when_it_is_told_to(guests):
    first = guests.vm(cloud_init={"hostname": "first"}, wait_for="ssh")["vm"]
    wish = {"hostname": "second", "rerun": True}
    assert in_guest(first, "hostname") == "first\n"

    refused = guests.refuse(cloud_init={"hostname": "second"})
    told = guests.vm(cloud_init=wish)
    guests.vm(cloud_init=wish, state="restarted", wait_for="ssh")
    again = guests.vm(cloud_init=wish)

    assert "cloud_init.rerun" in refused["error"]["help"]
    assert (told["changed"], told["restart_required"], told["vm"]["pid"]) == (
        *(True, True),
        first["pid"],
    )
    assert any("cloud_init" in warning for warning in told["warnings"])
    assert (again["changed"], again["restart_required"]) == (False, False)
    assert in_guest(again["vm"], "hostname") == "second\n"
    assert f"{first['id']}-1".encode() in (guests.folder() / "seed.iso").read_bytes()
