# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A look at a machine's own qcow2 disk, without another program: what it rests on, and does it hold anything above that?"""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._core.errors import OverlayFailed
from .._core.layout import is_disk, is_over_layer
from .._host.files import doing
from . import qcow2

LAYERS = "layers"  # the folder of layers, beside that of the machines
_HEAD = 512
_L1_LIMIT = 32 << 20  # bytes; QEMU's own


@dataclass(frozen=True)
class OwnDisk:
    """What was seen. ``virtual_size`` in bytes; ``fault`` says why nothing can be made to rest on the file.

    ``below`` is the file that it rests on, as its header has it.
    """

    virtual_size: int
    is_blank: bool  # for sure: nothing was ever written to it, nor discarded
    fault: str | None = None
    below: str | None = None


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
                if header.backing_offset and header.backing_size > qcow2.NAME_LIMIT:
                    raise ValueError("the name of the file that it rests on is too long")
            except ValueError as exc:
                raise OverlayFailed(f"The disk {path} cannot be read as qcow2: {exc}.") from exc
            table = os.pread(fd, 8 * header.l1_entries, header.l1_offset)
            below = os.pread(fd, header.backing_size, header.backing_offset)
        finally:
            os.close(fd)
    # Whatever is written gets a table of the second level first, and the first level names that.
    blank = table == bytes(8 * header.l1_entries) and not header.snapshots
    named = os.fsdecode(below) if header.backing_offset and below else None
    return OwnDisk(header.virtual_size, blank, _fault(header), named)


def is_left_over(path: str) -> bool:
    """Tell whether a file was made over a layer to be by a run that was killed, and that nothing was written to it.

    A run that is not killed leaves the file as blank, but then it takes the disk's first name away, and all that the
    machine has lies in the layer.
    """
    folder, file = os.path.split(path)
    if not is_over_layer(file) or not look_at_disk(path).is_blank:
        return False
    data_dir = os.path.dirname(os.path.dirname(folder))
    layer = os.path.join(data_dir, LAYERS, file.partition(".")[2])
    with doing(f"look for {layer}"):
        names = [os.path.join(folder, name) for name in os.listdir(folder) if is_disk(name)]
        return not _exists(layer) or any(_exists(n) and os.path.samefile(n, layer) for n in names)


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True


def _fault(header: qcow2.Header) -> str | None:
    if header.snapshots:
        return f"holds {header.snapshots} internal snapshots, which would be out of reach"
    if header.is_corrupt:
        return "is marked as corrupt"
    return None
