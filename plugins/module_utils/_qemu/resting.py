# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look, before a machine starts, whether its disks rest on what its record says.

QEMU is told what lies below a disk, and believes that instead of the disk's own header. Over another file than it was made
over, a disk reads as garbage, without any error.
"""

from __future__ import annotations

import os

from .._core.disks import SYSTEM_DISK, DiskRecord
from .._core.errors import BadRecord, ImageNotFound
from .._core.handle import VmHandle
from .._core.spec import VmSpec
from .._image.content import opened
from .._image.qcow2 import NAME_LIMIT, parse_header
from .._image.recognise import SECTOR


def check_resting(spec: VmSpec, vm: VmHandle) -> None:
    """Raise ``BadRecord`` for the first disk of ``spec`` whose header names another file than the record. Touches nothing."""
    for name in (SYSTEM_DISK, *(disk.name for disk in spec.disks or ())):
        record = vm.all_disks.get(name)
        if record is not None and record.path and record.format == "qcow2":
            _compare(vm.name, record)


def _compare(vm: str, record: DiskRecord) -> None:
    recorded = next(iter(record.layers), record.base_image) or ""
    try:
        named = _named(record.path)
    except (ImageNotFound, ValueError):
        return  # QEMU will say so
    if named == recorded or (
        named and recorded and _real(record, named) == _real(record, recorded)
    ):
        return
    raise BadRecord(
        f"The disk {record.path} of the VM '{vm}' rests on {named or 'no other file'}, but the machine's record says that "
        f"it rests on {recorded or 'no other file'}.",
        "The guest would find its disk destroyed. One of the two is an old one, from a backup: restore the vm.json or the "
        "disk that belongs to the other.",
        path=record.path,
        rests_on=named,
        recorded=recorded,
    )


def _named(path: str) -> str:
    """Return what the header of a disk names below it; raise ``ValueError`` if it is none of qcow2."""
    with opened(path) as content:
        header = parse_header(content.read(0, SECTOR))
        name = content.read(header.backing_offset, min(header.backing_size, NAME_LIMIT))
    return os.fsdecode(name) if header.backing_offset else ""


def _real(record: DiskRecord, name: str) -> str:
    return os.path.realpath(os.path.join(os.path.dirname(record.path), name))
