# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How disks are attached on each bus and board."""

from __future__ import annotations

from itertools import islice

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import BUSES, Disk
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.blocks import (
    disk_device,
    throttle,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.ports import (
    cdrom_bus,
    sata_buses,
)


@pytest.mark.parametrize("bus", BUSES)
@pytest.mark.parametrize(
    ("cache", "setting"),
    [("writethrough", "off"), ("directsync", "off"), ("writeback", None), ("unsafe", None)],
)
def test_writes_go_through_on_every_bus(bus, cache, setting):
    device = disk_device(Disk("data", bus=bus, cache=cache).completed(), None)

    assert device.get("write-cache") == setting


@pytest.mark.parametrize(
    ("bus", "machine", "device"),
    [
        ("virtio-blk", "q35", "/machine/peripheral/dev-data/virtio-backend"),
        ("virtio-blk", "pc", "/machine/peripheral/dev-data/virtio-backend"),
        ("virtio-blk", "microvm", "dev-data"),  # without PCI, there is no shell around it
        ("virtio-scsi", "microvm", "dev-data"),
        ("virtio-scsi", "q35", "dev-data"),
        ("nvme", "q35", "dev-data"),
        ("sata", "q35", "dev-data"),
    ],
)
def test_limits_are_set_at_the_device_that_has_the_disk(bus, machine, device):
    disk = Disk("data", bus=bus, iops=100).completed()

    assert throttle(disk, machine)["id"] == device


@pytest.mark.parametrize(
    ("machine", "buses", "cdrom"),
    [
        ("q35", ["ide.0", "ide.1", "ide.2", "ide.3", "ide.4"], "ide.5"),
        ("pc-q35-7.2", ["ide.0", "ide.1", "ide.2", "ide.3", "ide.4"], "ide.5"),
        ("pc", ["ide.0", "ide.0", "ide.1", None, None], "ide.1"),  # two places on each
        ("pc-i440fx-7.2", ["ide.0", "ide.0", "ide.1", None, None], "ide.1"),
        ("microvm", 5 * [None], None),
    ],
)
def test_disks_on_sata_and_the_drive_have_places_of_their_own(machine, buses, cdrom):
    assert list(islice(sata_buses(machine), 5)) == buses
    assert cdrom_bus(machine) == cdrom
