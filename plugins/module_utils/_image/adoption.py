# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file that lies where a disk is to be made, and that the machine's record does not name.

A run may have been killed before it could record what it had made, or the record was restored from a backup that is older
than the disk. So the file is never written over. If it is just what would be made, whatever a guest wrote to it since, it
is taken as it is. An empty one of another size holds nothing that could be lost, and is made anew.
"""

from __future__ import annotations

import os
import stat

from .._core.disks import DiskRecord
from .._core.errors import BadRecord
from .._core.sizes import show_size
from .._host.files import doing
from .._host.locks import is_held
from . import qcow2
from .content import opened
from .own_disk import look_at_disk
from .recognise import SECTOR


def is_alike(option: str, wanted: DiskRecord) -> bool:
    """Tell whether the file of ``wanted`` is what would be made there, or empty and of another size. Touches nothing.

    Raises ``BadRecord`` if it is neither.
    """
    with doing(f"look at {wanted.path}"):
        found = os.lstat(wanted.path)
    if not stat.S_ISREG(found.st_mode):
        raise unknown(option, wanted.path, "it is no plain file")
    if found.st_nlink > 1:
        raise unknown(option, wanted.path, "the file has another name, too")
    if wanted.format == "raw":
        _compare_sizes(option, wanted, found.st_size)
        return True
    with opened(wanted.path) as content:
        try:
            header = qcow2.parse_header(content.read(0, SECTOR))
            qcow2.check_geometry(header, content.length)
            first_cluster = content.read(0, header.cluster_size)
            extensions = dict(qcow2.extensions(header, first_cluster))
        except ValueError as exc:
            raise unknown(option, wanted.path, f"it cannot be read as qcow2: {exc}") from exc
    if header.has_data_file or header.encryption:
        raise unknown(option, wanted.path, "it is encrypted, or keeps its data in another file")
    below = first_cluster[header.backing_offset :][: header.backing_size]
    if below != os.fsencode(wanted.base_image or ""):
        shown = f"on {os.fsdecode(below)}" if below else "on no other file"
        raise unknown(option, wanted.path, f"it rests {shown}")
    if below and extensions.get(qcow2.BACKING_FORMAT) != os.fsencode(wanted.base_format or ""):
        raise unknown(option, wanted.path, f"it takes {wanted.base_image} for another format")
    # A program that has it open may not have written all.
    is_blank = not is_held(wanted.path) and look_at_disk(wanted.path).is_blank
    if is_blank and header.virtual_size != wanted.size:
        return False
    _compare_sizes(option, wanted, header.virtual_size)
    return True


def unknown(option: str, path: str, reason: str) -> BadRecord:
    """Return the error for a file of which nobody knows whether it may go."""
    return BadRecord(
        f"{option}: {path} is there already. The machine's record does not name it, and {reason}, "
        "so it is not what would be made.",
        "Look at what it holds. Then move it away or delete it, or ask for what it is, and it is taken as it is; "
        "or restore the record vm.json that names it.",
        path=path,
        option=option,
    )


def _compare_sizes(option: str, wanted: DiskRecord, has: int) -> None:
    if has != wanted.size:
        sizes = f"it has {show_size(has)}, not {show_size(wanted.size)}"
        raise unknown(option, wanted.path, sizes)
