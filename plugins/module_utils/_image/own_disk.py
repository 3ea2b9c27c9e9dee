# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A look at a machine's own qcow2 disk, without another program: does it hold anything above what it rests on?"""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._core.errors import OverlayFailed
from .._host.files import doing
from . import qcow2

_HEAD = 512
_L1_LIMIT = 32 << 20  # bytes; QEMU's own


@dataclass(frozen=True)
class OwnDisk:
    """What was seen. ``virtual_size`` in bytes; ``fault`` says why nothing can be made to rest on the file."""

    virtual_size: int
    is_blank: bool  # for sure: nothing was ever written to it, nor discarded
    fault: str | None = None


def look_at_disk(path: str) -> OwnDisk:
    """Read header and first table of a disk that no process writes; raise ``OverlayFailed`` if they make no sense."""
    with doing(f"read the disk {path}"):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            head = os.pread(fd, _HEAD, 0)
            try:
                header = qcow2.parse_header(head)
                if not 0 < 8 * header.l1_entries <= _L1_LIMIT:
                    raise ValueError("its L1 table has an impossible size")
            except ValueError as exc:
                raise OverlayFailed(f"The disk {path} cannot be read as qcow2: {exc}.") from exc
            table = os.pread(fd, 8 * header.l1_entries, header.l1_offset)
        finally:
            os.close(fd)
    # Whatever is written gets a table of the second level first, and the first level names that.
    blank = table == bytes(8 * header.l1_entries) and not header.snapshots
    return OwnDisk(header.virtual_size, blank, _fault(header))


def _fault(header: qcow2.Header) -> str | None:
    if header.snapshots:
        return f"holds {header.snapshots} internal snapshots, which would be out of reach"
    if header.is_corrupt:
        return "is marked as corrupt"
    return None
