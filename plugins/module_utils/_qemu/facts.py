# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running machine really has, asked of QEMU itself: somebody else may have changed it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .._core.live import LiveFacts
from .argv import card_id
from .blocks import CDROM, SCSI, device_id, limits_of
from .ports import PORT_NAMES, PORTS, ROOT_BUS
from .qmp import Qmp

_MIB = 1024 * 1024
_DISK, _CARD = device_id(""), card_id("")


def read_facts(qmp: Qmp, timeout: float, started: bool = False) -> LiveFacts:
    """Ask for virtual CPUs, memory, disks, cards and the medium; ``timeout`` is in seconds for each question.

    A machine that was ``started`` just now is asked for its disks only: their files may have become larger before.
    """
    disks, limits, medium = {}, {}, None
    for drive in qmp.execute("query-block", timeout=timeout):
        owner = drive.get("qdev", "").removesuffix("/virtio-backend").rpartition("/")[2]
        inserted = drive.get("inserted")
        if owner.startswith(_DISK) and inserted is not None:
            name = owner.removeprefix(_DISK)
            disks[name] = inserted["image"]["virtual-size"]
            limits[name] = limits_of(inserted)
        elif owner == CDROM:
            # A drive that stands open shows the guest nothing, whatever lies in it.
            shut = inserted is not None and not drive.get("tray_open", False)
            medium = inserted["file"] if shut else ""
    facts = LiveFacts(disks=disks, cdrom=medium, limits=limits)
    if started:
        return facts
    memory = qmp.execute("query-memory-size-summary", timeout=timeout)
    rows = qmp.execute("qom-list", {"path": "/machine/peripheral"}, timeout=timeout)
    devices = [row["name"] for row in rows]
    return replace(
        facts,
        vcpus=len(qmp.execute("query-cpus-fast", timeout=timeout)),
        memory_mib=(memory["base-memory"] + memory.get("plugged-memory", 0)) // _MIB,
        networks=_named(devices, _CARD),
        **_slots(qmp, devices, timeout),
    )


def _slots(qmp: Qmp, devices: list[str], timeout: float) -> dict[str, Any]:
    """Return which devices have no port, and how many ports are free; nothing if every device must have found one."""
    ours = [name for name in devices if name.startswith((_DISK, _CARD)) or name == SCSI]
    if len(ours) <= PORTS or not set(PORT_NAMES) <= set(devices):
        return {}
    buses = {}
    for name in ours:
        query = {"path": f"/machine/peripheral/{name}", "property": "parent_bus"}
        buses[name] = qmp.execute("qom-get", query, timeout=timeout).rpartition("/")[2]
    fixed = [name for name, bus in buses.items() if bus == ROOT_BUS]
    return {
        "free_slots": PORTS - len(set(PORT_NAMES) & set(buses.values())),
        "fixed_disks": _named(fixed, _DISK),
        "fixed_networks": _named(fixed, _CARD),
    }


def _named(devices: list[str], kind: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(kind) for name in devices if name.startswith(kind))
