# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMDK images: only those that hold the whole disk in one file. Source: VMware's "Virtual Disk Format 5.0".

A VMDK is a descriptor, which is text, and extents. The descriptor may lie in a file of its own and may name any file or
device of the host as an extent or as a parent, so it is read here before QEMU gets to see it.
"""

from __future__ import annotations

import re
import struct

from .content import Content
from .recognise import SECTOR

_HEADER = struct.Struct("<4sIIQQQQ")  # up to and with the size of the descriptor
_TYPES = ("monolithicSparse", "streamOptimized")
_LONGEST = 1 << 20
_READ_BY_QEMU = (
    20 * SECTOR
)  # bytes behind the header in which QEMU looks for a parent, whatever the header says
_EXTENT = re.compile(
    rb"^[ \t]*(?:RW|RDONLY|NOACCESS)[ \t]+[0-9]+[ \t]+(\w+)(.*)$", re.MULTILINE | re.IGNORECASE
)
_SETTING = re.compile(rb"^[ \t]*(\w+)[ \t]*=[ \t]*\"?([^\"\r\n]*)", re.MULTILINE)
_WHOLE = (
    "Make a standalone copy of it where it comes from: qemu-img convert -f vmdk -O qcow2 OLD NEW"
)


def check_vmdk(content: Content) -> None:
    """Raise ``ImageRefused`` for an image that needs other files, ``ValueError`` for one that cannot be read."""
    head = content.read(0, SECTOR)
    if head.startswith(b"COWD") or b"# Disk DescriptorFile" in head:
        raise content.refused("is a part of a VMDK, whose data lies in other files", _WHOLE)
    if len(head) < SECTOR or not head.startswith(b"KDMV"):
        raise ValueError("it does not begin like a VMDK")
    capacity, dummy_grain, offset, sectors = _HEADER.unpack_from(head)[3:]
    if offset != 1 or not 0 < sectors * SECTOR <= _LONGEST:
        raise ValueError("its descriptor is not behind its header")
    if capacity == 0:
        raise content.refused("is a VMDK without data of its own", _WHOLE)
    _check_descriptor(content, content.read(SECTOR, max(sectors * SECTOR, _READ_BY_QEMU)), sectors)


def _check_descriptor(content: Content, area: bytes, sectors: int) -> None:
    text = area[: sectors * SECTOR].partition(b"\0")[0]
    settings = {name.lower(): value.strip() for name, value in _SETTING.findall(text)}
    if b"parentfilenamehint" in area[:_READ_BY_QEMU].lower() or b"parentfilenamehint" in settings:
        raise content.refused("depends on another file, its parent", _WHOLE)
    if settings.get(b"parentcid", b"").lower() != b"ffffffff":
        raise content.refused("depends on a parent", _WHOLE)
    kind = settings.get(b"createtype", b"").decode(errors="backslashreplace")
    if kind not in _TYPES:
        raise content.refused(
            f"is a VMDK of the kind {kind!r}; only {' and '.join(_TYPES)} have all data in one file",
            _WHOLE,
        )
    extents = _EXTENT.findall(text)
    if len(extents) != 1 or extents[0][0].upper() != b"SPARSE" or b"/" in extents[0][1]:
        raise content.refused("has extents in other files or devices", _WHOLE)
