# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks on every bus of a real QEMU: what they are given holds, and they grow live only where a guest hears of it."""

from __future__ import annotations

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.qmp import Qmp
from conftest import disk_size

MIB = 1024**2


def drives(idle):
    """Return what QEMU says of the medium of each drive, by disk; nothing for an empty one."""
    with Qmp.connect(str(idle.folder() / "qmp-debug.sock"), 5) as qmp:
        rows = qmp.execute("query-block")
    found = {row["qdev"].removesuffix("/virtio-backend").rpartition("/")[2]: row for row in rows}
    return {name.removeprefix("dev-"): row.get("inserted") for name, row in found.items()}


def both(idle, **options):
    """Run a task for real, as check mode has said."""
    told, real = idle.vm(check=True, **options), idle.vm(**options)
    for key in ("changed", "actions", "diff", "restart_required", "warnings"):
        assert told[key] == real[key], key
    return real


@pytest.mark.parametrize(
    ("bus", "live"), [("virtio-blk", True), ("virtio-scsi", True), ("nvme", False), ("sata", False)]
)
def test_a_disk_grows_at_once_or_at_the_next_start(idle, bus, live):
    data = {"name": "data", "size": "1MiB", "bus": bus, "cache": "writethrough", "iops": 100}
    idle.vm(disks=[{"name": "disk0", "bus": bus, "bps": 1000000}, data])
    there = drives(idle)
    assert there["data"]["cache"]["writeback"] is False
    assert (there["data"]["iops"], there["disk0"]["bps"]) == (100, 1000000)

    done = both(idle, disk_size="2MiB", disks=[{"name": "data", "size": "3MiB"}])

    assert done["actions"] == (["prepare", "change"] if live else ["prepare"])
    assert done["restart_required"] is not live
    assert both(idle)["changed"] is False
    again = both(idle, apply="restart", force=True)
    assert again["actions"] == ([] if live else ["stop", "start"])
    assert again["restart_required"] is False
    sizes = {name: drive["image"]["virtual-size"] for name, drive in drives(idle).items() if drive}
    assert (sizes["disk0"], sizes["data"]) == (2 * MIB, 3 * MIB)


@pytest.mark.parametrize("bus", ["virtio-blk", "virtio-scsi", "nvme"])
def test_a_disk_that_is_only_read_grows_at_the_next_start(idle, bus):
    idle.vm(disks=[{"name": "data", "size": "1MiB", "bus": bus, "readonly": True}])

    done = both(idle, disks=[{"name": "data", "size": "2MiB"}])

    assert (done["actions"], done["restart_required"]) == (["prepare"], True)
    both(idle, state="restarted", force=True)
    assert disk_size(idle.folder() / "disk-data.qcow2") == 2 * MIB


def test_a_disk_on_sata_that_is_only_read_is_refused_before_anything_is_made(idle):
    disk = {"name": "data", "size": "1MiB", "bus": "sata", "readonly": True}

    refused = idle.refuse(**idle.defaults, disks=[disk])

    assert refused["error"]["details"] == {"option": "disks[0].readonly"}
    assert idle.info() == []


def test_all_places_on_the_ide_buses_of_a_pc_can_be_used(idle):
    disks = [{"name": name, "size": "1MiB", "bus": "sata"} for name in "abc"]

    idle.vm(machine="pc", cdrom="", disks=disks)

    assert {"a", "b", "c", "cdrom"} <= set(drives(idle))


def test_a_disk_that_became_larger_unnoticed_is_never_made_smaller(idle):
    """Somebody made it larger, or a task was killed between the deed and the record, and the machine is off now."""
    idle.vm(disks=[{"name": "data", "size": "1MiB"}])
    with Qmp.connect(str(idle.folder() / "qmp-debug.sock"), 5) as qmp:
        for node in ("disk0", "disk-data"):
            qmp.execute("block_resize", {"node-name": node, "size": 8 * MIB})
    idle.vm(state="stopped", force=True)
    record = idle.record().read_text()

    for options, option in (
        ({"disk_size": "4MiB"}, "disk_size"),
        ({"disks": [{"name": "data", "size": "4MiB"}]}, "disks (data).size"),
    ):
        for check in (True, False):
            refused = idle.refuse(**options, state="stopped", check=check)
            assert refused["error"]["details"] == {"option": option}
            assert "4MiB is smaller" in refused["msg"]
            assert "8MiB" in refused["msg"]

    assert idle.record().read_text() == record
    idle.vm(disk_size="8MiB", disks=[{"name": "data", "size": "9MiB"}])
    assert disk_size(idle.folder() / "overlay.qcow2") == 8 * MIB
    assert disk_size(idle.folder() / "disk-data.qcow2") == 9 * MIB


def test_check_mode_knows_which_devices_have_ports(idle):
    """The ports are filled in order: the last two disks have none, and stay until a restart."""
    disks = [{"name": f"d{number}", "size": "1MiB"} for number in range(9)]
    idle.vm(disks=disks)

    waits = both(idle, disks=disks[:8], unlisted_disks="detach")
    assert (waits["actions"], waits["restart_required"]) == (["prepare"], True)
    waits = both(idle, disks=[*disks[:8], {"name": "s", "size": "1MiB", "bus": "virtio-scsi"}])
    assert (waits["actions"], waits["restart_required"]) == (["prepare"], True)
    assert both(idle)["changed"] is False

    there = both(idle, apply="restart", force=True)
    assert (there["actions"], there["restart_required"]) == (["stop", "start"], False)
    assert {"d7", "s"} <= set(drives(idle))


def test_what_a_suspended_machine_is_given_comes_when_it_goes_on(idle):
    idle.vm()

    given = both(idle, state="suspended", disks=[{"name": "data", "size": "1MiB"}], cpu="max")

    assert given["actions"] == ["prepare", "suspend"]
    assert [word for word in given["warnings"] if "when a task lets it go on: disks." in word]
    assert [
        word for word in given["warnings"] if "restarted for these options to apply: cpu." in word
    ]
    on = both(idle)
    assert on["actions"] == ["resume", "change"]
    assert "data" in drives(idle)
