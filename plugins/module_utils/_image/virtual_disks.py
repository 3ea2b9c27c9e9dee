# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VDI, VHDX and VHD (which QEMU calls vpc) images: only those that stand alone and are whole.

Sources: VirtualBox's VDICore.h, Microsoft's [MS-VHDX] and "Virtual Hard Disk Image Format Specification".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from uuid import UUID

from .content import Content
from .recognise import SECTOR

_KIB = 1024
_VDI = struct.Struct("<IIII")  # signature, version, size of the header, kind of image
_VDI_BLOCKS = struct.Struct(
    "<IIII"
)  # block size, extra, number of blocks, number of allocated ones
_VHDX_REGION = struct.Struct("<16sQII")
_VHDX_ITEM = struct.Struct("<16sIIQ")
_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_HAS_PARENT = 2
_VHD_FIXED, _VHD_DYNAMIC, _VHD_DIFFERENCING = 2, 3, 4
_PARENT = "depends on another image, its parent"
_WHOLE = "Make a standalone copy of it where it comes from."


def check_vdi(content: Content) -> None:
    """Raise ``ImageRefused`` for a VDI that needs others, ``ValueError`` for one that cannot be read."""
    head = content.read(0, SECTOR)
    if len(head) < SECTOR or head[64:68] != b"\x7f\x10\xda\xbe":
        raise ValueError("it does not begin like a VDI")
    kind = _VDI.unpack_from(head, 64)[3]
    if kind not in (1, 2) or head[424:456].strip(b"\0"):  # the UUIDs of what it was made from
        raise content.refused(_PARENT, _WHOLE)
    data_offset = int.from_bytes(head[344:348], "little")
    block_size, dummy_extra, blocks, allocated = _VDI_BLOCKS.unpack_from(head, 376)
    if allocated > blocks:
        raise ValueError("it counts more blocks than it has")
    if data_offset + allocated * block_size > content.length:
        raise ValueError("it is cut off")


def check_vhdx(content: Content) -> None:
    """Raise ``ImageRefused`` for a VHDX that has a parent, ``ValueError`` for one that cannot be read."""
    if content.read(0, 8) != b"vhdxfile":
        raise ValueError("it does not begin like a VHDX")
    flags = [flag for table in (192 * _KIB, 256 * _KIB) for flag in _vhdx_flags(content, table)]
    if not flags:
        raise ValueError("its metadata cannot be found")
    if any(flag & _HAS_PARENT for flag in flags):
        raise content.refused(_PARENT, _WHOLE)


def _vhdx_flags(content: Content, table: int) -> Iterator[int]:
    """Yield the flags of the disk, as one of the two tables of regions leads to them."""
    for region, offset in _vhdx_entries(content, table, b"regi", 8, _VHDX_REGION):
        if region == _METADATA:
            for item, place in _vhdx_entries(content, offset, b"metadata", 10, _VHDX_ITEM):
                if item == _FILE_PARAMETERS:
                    yield int.from_bytes(content.read(offset + place + 4, 4), "little")


def _vhdx_entries(
    content: Content, table: int, signature: bytes, count_at: int, entry: struct.Struct
) -> Iterator[tuple[bytes, int]]:
    """Yield the kind and the offset of each entry of a table of regions or of metadata."""
    data = content.read(table, 64 * _KIB)
    if not data.startswith(signature):
        return
    start = 16 if entry is _VHDX_REGION else 32
    for number in range(min(int.from_bytes(data[count_at : count_at + 2], "little"), 2047)):
        place = start + number * entry.size
        if place + entry.size > len(data):
            return
        kind, offset = entry.unpack_from(data, place)[:2]
        yield kind, offset


def check_vpc(content: Content) -> None:
    """Raise ``ImageRefused`` for a VHD that has a parent, ``ValueError`` for one that cannot be read."""
    head = content.read(0, SECTOR)
    footer = content.read(max(0, content.length - SECTOR), SECTOR)
    if not footer.startswith(b"conectix") or len(footer) < SECTOR:
        raise ValueError("it is cut off: its footer is missing")
    has_copy = head.startswith(b"conectix") and content.length > SECTOR
    kinds = {_vhd_kind(part) for part in ((head, footer) if has_copy else (footer,))}
    if _VHD_DIFFERENCING in kinds:
        raise content.refused(_PARENT, _WHOLE)
    if kinds != {_VHD_DYNAMIC if has_copy else _VHD_FIXED}:
        raise ValueError("its kind is not known")


def _vhd_kind(footer: bytes) -> int:
    return int.from_bytes(footer[60:64], "big")
