# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody else changes over QMP is seen by the next task, in check mode too, and put right or reported."""

from __future__ import annotations

import json
import os
import socket

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.qmp import Qmp
from conftest import command_line, disk_size

MIB = 1024**2
DEVICE = "/machine/peripheral/dev-{}/virtio-backend"
LIMITS = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")


class Meddler:
    """Somebody with the second monitor, which is for people."""

    def __init__(self, idle):
        self.idle = idle

    def __call__(self, command, **arguments):
        return self.say(command, {k.replace("_", "-"): v for k, v in arguments.items()})

    def limit(self, name, **limits):
        """Set the limits of a disk; those that are not given are none."""
        device = {"id": DEVICE.format(name), "group": "theirs"}
        self.say("block_set_io_throttle", {**device, **dict.fromkeys(LIMITS, 0), **limits})

    def say(self, command, arguments):
        with Qmp.connect(str(self.idle.folder() / "qmp-debug.sock"), 5) as qmp:
            return qmp.execute(command, arguments)


@pytest.fixture
def meddle(idle):
    room = {"vcpus_max": 4, "memory_max": "1GiB", "memory": "128"}
    idle.vm(**room, vcpus=1, disk_size="2MiB", cdrom=idle.defaults["image"])
    return Meddler(idle)


def next_task(idle, **options):
    """Run a task that asks for nothing new; check mode has said what it does."""
    told, real = idle.vm(check=True, **options), idle.vm(**options)
    for key in ("changed", "actions", "diff", "restart_required", "warnings"):
        assert told[key] == real[key], key
    return real


def test_a_medium_that_was_taken_out_is_put_back(idle, meddle):
    meddle("eject", id="cdrom", force=True)

    done = next_task(idle)

    assert done["actions"] == ["change"]
    assert done["diff"]["before"]["cdrom"] == ""
    assert done["diff"]["after"]["cdrom"] == idle.defaults["image"]
    assert next_task(idle)["changed"] is False


def test_limits_that_were_changed_are_set_again(idle, meddle):
    """Those that are gone come back, those that nobody asked for go, also where somebody has made two disks share theirs."""
    disks = [{"name": "data", "size": "1MiB", "iops_read": 100}]
    idle.vm(disks=disks)
    meddle.limit("data")
    assert next_task(idle)["actions"] == ["change"]
    for name in ("disk0", "data"):
        meddle.limit(name, bps_wr=4096)

    done = next_task(idle)

    def shown(side, option):
        return {disk["name"]: disk.get(option) for disk in done["diff"][side]["disks"]}

    assert done["actions"] == ["change"]
    assert shown("before", "bps_write") == {"data": 4096, "disk0": 4096}
    assert shown("before", "iops_read") == {"data": None, "disk0": None}
    assert shown("after", "bps_write") == {"data": None}
    assert shown("after", "iops_read") == {"data": 100}
    seen = {drive["qdev"]: drive.get("inserted", {}) for drive in meddle("query-block")}
    system, data = (seen[DEVICE.format(name)] for name in ("disk0", "data"))
    assert [system[word] for word in LIMITS] == [0, 0, 0, 0, 0, 0]
    assert [data[word] for word in LIMITS] == [0, 0, 0, 0, 100, 0]
    assert data["group"] == "dev-data"
    assert next_task(idle)["changed"] is False


def test_what_there_is_too_much_of_takes_a_restart(idle, meddle):
    slots = [slot for slot in meddle("query-hotpluggable-cpus") if "qom-path" not in slot]
    meddle("device_add", driver=slots[0]["type"], id="theirs", **slots[0]["props"])
    meddle("object-add", qom_type="memory-backend-ram", id="m", size=128 * MIB)
    meddle("device_add", driver="pc-dimm", id="d", memdev="m")

    done = next_task(idle)

    assert (done["changed"], done["restart_required"]) == (False, True)
    assert "vcpus, memory" in done["warnings"][0]
    assert idle.info()[0]["restart_required"]
    again = next_task(idle, apply="restart", force=True)
    assert (again["actions"], again["restart_required"]) == (["stop", "start"], False)
    assert next_task(idle)["changed"] is False


def test_a_disk_that_was_made_larger_stays_so(idle, meddle):
    meddle("block_resize", node_name="disk0", size=8 * MIB)

    done = next_task(idle, disk_size="2MiB")

    assert (done["changed"], done["restart_required"]) == (False, False)
    assert done["vm"]["disks"][0]["size"] == 8 * MIB
    refused = idle.refuse(disk_size="4MiB")
    assert refused["error"]["details"] == {"option": "disk_size"}
    assert "4MiB is smaller" in refused["msg"]
    assert "8MiB" in refused["msg"]
    assert next_task(idle, disk_size="16MiB")["actions"] == ["prepare", "change"]
    assert disk_size(idle.folder() / "overlay.qcow2") == 16 * MIB


def test_a_disk_that_was_made_smaller_is_made_as_large_again(idle, meddle):
    meddle("block_resize", node_name="disk0", size=MIB)

    done = next_task(idle)

    assert (done["actions"], done["diff"]["before"]["disk_size"]) == (["change"], "1MiB")
    assert disk_size(idle.folder() / "overlay.qcow2") == 2 * MIB


def test_a_change_that_was_cut_off_is_finished(idle, meddle):
    """The record has the wish, and QEMU has the disk already, but not the record."""
    record = json.loads(idle.record().read_text())
    idle.vm(disks=[{"name": "data", "size": "1MiB"}])
    idle.edit(booted=record["booted"])

    done = next_task(idle)

    assert done["actions"] == ["change"]
    assert next_task(idle)["changed"] is False
    assert os.path.exists(done["vm"]["disks"][1]["path"])


def test_cards_come_with_the_port_of_ssh_if_no_other_has_it(idle):
    """A machine without a network gets its first card, and its SSH, while it runs."""
    idle.vm(networks=[])
    tap = {"type": "tap", "name": "lan", "interface": f"cvt{os.getpid() % 100000}"}

    vm = next_task(idle, networks=[{"type": "user"}, {"type": "user", "name": "b"}])["vm"]

    with Qmp.connect(str(idle.folder() / "qmp-debug.sock"), 5) as qmp:
        told = qmp.execute("human-monitor-command", {"command-line": "info usernet"})
    assert told.count("HOST_FORWARD") == 1
    assert f" {vm['ssh']['port']} " in told
    if os.geteuid() == 0 and os.path.exists("/dev/net/tun"):
        cards = [{"type": "user"}, {"type": "user", "name": "b"}, tap]
        assert next_task(idle, networks=cards)["actions"] == ["prepare", "change"]
        assert tap["interface"] in [name for dummy, name in socket.if_nameindex()]
        assert next_task(idle, networks=cards)["changed"] is False
    assert "card-net0" not in command_line(vm["pid"]), "it was not there at the start"


def test_a_change_that_is_refused_is_recorded_and_told(idle, meddle):
    """Somebody has taken the name that the disk gets in QEMU: it does not come, and the next task tries again."""
    meddle("blockdev-add", driver="null-co", node_name="disk-data")
    meddle("blockdev-add", driver="raw", node_name="theirs", file="disk-data")

    refused = idle.refuse(disks=[{"name": "data", "size": "1MiB"}])

    assert refused["error"]["code"] == "vm_manager.vm.change_failed"
    assert "add disk data" in refused["msg"]
    assert (refused["changed"], refused["actions"]) == (True, ["prepare"])
    assert [vm["restart_required"] for vm in idle.info()] == [True]
    assert "dev-data" not in str(meddle("query-block"))
    meddle("blockdev-del", node_name="theirs")
    assert next_task(idle)["actions"] == ["change"]
    assert "dev-data" in str(meddle("query-block"))
