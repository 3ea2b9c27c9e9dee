# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running machine really has, asked of QEMU itself: somebody else may have changed it."""

from __future__ import annotations

from .._core.live import LiveFacts
from .argv import card_id
from .blocks import CDROM, device_id
from .qmp import Qmp

_MIB = 1024 * 1024
_DISK, _CARD = device_id(""), card_id("")


def read_facts(qmp: Qmp, timeout: float) -> LiveFacts:
    """Ask for virtual CPUs, memory, disks, cards and the medium; ``timeout`` is in seconds for each question."""
    memory = qmp.execute("query-memory-size-summary", timeout=timeout)
    disks, medium = {}, None
    for drive in qmp.execute("query-block", timeout=timeout):
        owner = drive.get("qdev", "").removesuffix("/virtio-backend").rpartition("/")[2]
        inserted = drive.get("inserted")
        if owner.startswith(_DISK) and inserted is not None:
            disks[owner.removeprefix(_DISK)] = inserted["image"]["virtual-size"]
        elif owner == CDROM:
            # A drive that stands open shows the guest nothing, whatever lies in it.
            shut = inserted is not None and not drive.get("tray_open", False)
            medium = inserted["file"] if shut else ""
    devices = qmp.execute("qom-list", {"path": "/machine/peripheral"}, timeout=timeout)
    return LiveFacts(
        vcpus=len(qmp.execute("query-cpus-fast", timeout=timeout)),
        memory_mib=(memory["base-memory"] + memory.get("plugged-memory", 0)) // _MIB,
        disks=disks,
        networks=tuple(
            d["name"].removeprefix(_CARD) for d in devices if d["name"].startswith(_CARD)
        ),
        cdrom=medium,
    )
