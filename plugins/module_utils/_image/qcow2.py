# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of a qcow2 image. Pure. Source: docs/interop/qcow2.txt of QEMU.

Reading it ourselves tells all that must be known before an image is used, without letting a program loose on a file
that nobody has vouched for yet.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAGIC = b"QFI\xfb"
HEADER_SIZE = 104

_FIXED = struct.Struct(">4sIQIIQIIQQIIQ")  # up to and with snapshots_offset: what version 2 has
_FEATURES = struct.Struct(">Q")  # incompatible_features, from version 3 on
_CORRUPT, _DATA_FILE = 1 << 1, 1 << 2
_KNOWN_FEATURES = 0b11111  # dirty, corrupt, external data file, compression type, extended L2


@dataclass(frozen=True)
class Header:
    """What matters of a header. Sizes and offsets in bytes."""

    virtual_size: int
    backing_offset: int
    backing_size: int
    has_data_file: bool
    is_encrypted: bool
    is_corrupt: bool
    tables_end: int  # the file is at least this long, or it was cut off


def parse_header(head: bytes) -> Header:
    """Read the first bytes of an image; raise ``ValueError`` saying what is wrong with them."""
    if len(head) < _FIXED.size:
        raise ValueError("it ends within its header")
    fixed = _FIXED.unpack_from(head)
    (
        magic,
        version,
        backing_offset,
        backing_size,
        cluster_bits,
        size,
        encryption,
        l1_entries,
        l1_offset,
    ) = fixed[:9]
    refcount_offset, refcount_clusters = fixed[9:11]
    if magic != MAGIC or version not in (2, 3) or not 9 <= cluster_bits <= 21:
        raise ValueError("its header is not that of a qcow2 image that QEMU knows")
    features = (
        _FEATURES.unpack_from(head.ljust(HEADER_SIZE, b"\0"), _FIXED.size)[0] if version > 2 else 0
    )
    if features & ~_KNOWN_FEATURES:
        raise ValueError(f"it needs features that are not known here ({features:#x})")
    return Header(
        virtual_size=size,
        backing_offset=backing_offset,
        backing_size=backing_size,
        has_data_file=bool(features & _DATA_FILE),
        is_encrypted=encryption != 0,
        is_corrupt=bool(features & _CORRUPT),
        tables_end=max(
            l1_offset + 8 * l1_entries,
            refcount_offset + (refcount_clusters << cluster_bits),
            backing_offset + backing_size,
        ),
    )
