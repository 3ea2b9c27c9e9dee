# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header and the tables of a qcow2 image. Pure. Source: docs/interop/qcow2.txt of QEMU.

Reading them ourselves tells all that must be known before an image is used, without letting a program loose on a file
that nobody has vouched for yet.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

MAGIC = b"QFI\xfb"
HEADER_SIZE = 104
NAME_LIMIT = 1023  # bytes of a backing file's name
LUKS = 2  # a method of encryption

BACKING_FORMAT, DATA_FILE_NAME, BITMAPS, LUKS_HEADER = (
    0xE2792ACA,
    0x44415441,
    0x23852875,
    0x0537BE77,
)  # extensions of the header

_FIXED = struct.Struct(">4sIQIIQIIQQIIQ")  # up to and with snapshots_offset: what version 2 has
_MORE = struct.Struct(
    ">QQQII"
)  # from version 3 on: three sets of features, refcount_order, header_length
_EXTENSION = struct.Struct(">II")
_LUKS_PLACE = struct.Struct(">QQ")  # offset and length
_SNAPSHOT = struct.Struct(">12xHH20xI")  # lengths of id, name, and of what newer versions added
_CORRUPT, _DATA_FILE, _EXTENDED_L2 = 1 << 1, 1 << 2, 1 << 4
_KNOWN_FEATURES = 0b11111  # dirty, corrupt, external data file, compression type, extended L2
_COMPRESSION_TYPES = 2  # zlib, zstd
# QEMU's own bounds, in bytes. Within them, no table can take the host's memory.
_L1_LIMIT, _REFCOUNT_LIMIT = 32 << 20, 8 << 20
_SNAPSHOTS_LIMIT = 1 << 20  # far below QEMU's, since qemu-img info repeats all names
_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED, _ZERO = 1 << 62, 1


@dataclass(frozen=True)
class Header:
    """What matters of a header. Sizes and offsets in bytes."""

    version: int
    cluster_bits: int
    virtual_size: int
    backing_offset: int
    backing_size: int
    encryption: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int
    features: int
    length: int

    @property
    def cluster_size(self) -> int:
        """Return the unit in which space is given out."""
        return 1 << self.cluster_bits

    @property
    def has_data_file(self) -> bool:
        """Tell whether the guest's data lies in another file."""
        return bool(self.features & _DATA_FILE)

    @property
    def is_corrupt(self) -> bool:
        """Tell whether a program has found the image damaged before."""
        return bool(self.features & _CORRUPT)

    @property
    def l2_entry_size(self) -> int:
        """Return the length of an entry of an L2 table."""
        return 16 if self.features & _EXTENDED_L2 else 8

    @property
    def l1_needed(self) -> int:
        """Return how many entries the L1 table must have for the whole disk."""
        per_table = self.cluster_size * (self.cluster_size // self.l2_entry_size)
        return -(-self.virtual_size // per_table)

    @property
    def tables_end(self) -> int:
        """Return how long the file is at least, or it was cut off."""
        return max(
            self.l1_offset + 8 * self.l1_entries,
            self.refcount_offset + (self.refcount_clusters << self.cluster_bits),
            self.backing_offset + self.backing_size,
        )


def parse_header(head: bytes) -> Header:
    """Read the first bytes of an image; raise ``ValueError`` saying what is wrong with them."""
    if len(head) < _FIXED.size:
        raise ValueError("it ends within its header")
    fixed = _FIXED.unpack_from(head)
    magic, version = fixed[:2]
    if magic != MAGIC or version not in (2, 3) or not 9 <= fixed[4] <= 21:
        raise ValueError("its header is not that of a qcow2 image that QEMU knows")
    features, length = 0, _FIXED.size
    if version > 2:
        more = _MORE.unpack_from(head.ljust(HEADER_SIZE, b"\0"), _FIXED.size)
        features, length = more[0], more[4]
        _check_version_3(features, more[3], length, head[HEADER_SIZE : HEADER_SIZE + 1], fixed[4])
    return Header(
        version=version,
        backing_offset=fixed[2],
        backing_size=fixed[3],
        cluster_bits=fixed[4],
        virtual_size=fixed[5],
        encryption=fixed[6],
        l1_entries=fixed[7],
        l1_offset=fixed[8],
        refcount_offset=fixed[9],
        refcount_clusters=fixed[10],
        snapshots=fixed[11],
        snapshots_offset=fixed[12],
        features=features,
        length=length,
    )


def _check_version_3(
    features: int, refcount_order: int, length: int, compression: bytes, cluster_bits: int
) -> None:
    if features & ~_KNOWN_FEATURES:
        raise ValueError(f"it needs features that are not known here ({features:#x})")
    if not HEADER_SIZE <= length <= 1 << cluster_bits or length % 8 or refcount_order > 6:
        raise ValueError("its header is not that of a qcow2 image that QEMU knows")
    if length > HEADER_SIZE and compression and compression[0] >= _COMPRESSION_TYPES:
        raise ValueError(f"it is compressed in a way that is not known here ({compression[0]})")
    if features & _EXTENDED_L2 and cluster_bits < 14:
        raise ValueError("its clusters are too small to have parts")


def check_geometry(header: Header, length: int) -> None:
    """Raise ``ValueError`` unless the tables are where and as large as they can be, in a file of ``length`` bytes."""
    if length < header.tables_end:
        raise ValueError("it is cut off")
    if header.l1_entries * 8 > _L1_LIMIT:
        raise ValueError("its L1 table is larger than QEMU allows")
    if not 0 < header.refcount_clusters << header.cluster_bits <= _REFCOUNT_LIMIT:
        raise ValueError("its table of reference counts is larger than QEMU allows, or missing")
    if header.l1_entries < header.l1_needed:
        raise ValueError("its L1 table is too small for the disk")
    for offset in (header.l1_offset, header.refcount_offset):
        if not offset or offset % header.cluster_size:
            raise ValueError("a table begins where none can be")


def extensions(header: Header, first_cluster: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the data of what follows the header; raise ``ValueError`` if it makes no sense."""
    position, end = header.length, header.backing_offset or header.cluster_size
    while position + _EXTENSION.size <= min(end, len(first_cluster)):
        kind, size = _EXTENSION.unpack_from(first_cluster, position)
        if kind == 0:
            return
        position += _EXTENSION.size
        if position + size > end:
            raise ValueError("an extension of its header is longer than the room for it")
        yield kind, first_cluster[position : position + size]
        position += -(-size // 8) * 8


def check_luks(header: Header, place: bytes | None, length: int) -> None:
    """Raise ``ValueError`` unless an encrypted image, and no other, has an extension that leads to its LUKS header."""
    if header.encryption != LUKS:
        if place is not None:
            raise ValueError("it has a LUKS header, and says that it is not encrypted")
        return
    if place is None:
        raise ValueError("it is encrypted, and has no LUKS header")
    offset, size = _LUKS_PLACE.unpack(place) if len(place) == _LUKS_PLACE.size else (0, 0)
    if not offset or offset % header.cluster_size or offset + size > length:
        raise ValueError("its LUKS header lies where none can")


def check_snapshots(header: Header, read: Callable[[int, int], bytes]) -> None:
    """Raise ``ValueError`` unless the table of internal snapshots is in the file, and of a size that makes sense."""
    if not header.snapshots:
        return
    offset, end = header.snapshots_offset, 0
    table = read(offset, _SNAPSHOTS_LIMIT) if offset % header.cluster_size == 0 < offset else b""
    for _dummy in range(header.snapshots):
        start = -(-end // 8) * 8
        if start + _SNAPSHOT.size <= len(table):
            end = start + _SNAPSHOT.size + sum(_SNAPSHOT.unpack_from(table, start))
        if not start < end <= len(table):
            raise ValueError("its table of snapshots is cut off, or larger than makes sense")


def check_tables(header: Header, read: Callable[[int, int], bytes], length: int) -> None:
    """Raise ``ValueError`` unless all data of the guest lies in the file of ``length`` bytes.

    An image that was cut off behind its tables reads as zeros there, without any error. A cut that leaves the
    beginning of the last cluster cannot be told. ``read`` returns bytes by offset and size.
    """
    seen: set[int] = set()
    for entry in _numbers(read(header.l1_offset, 8 * header.l1_needed)):
        offset = entry & _OFFSET
        if not offset:
            continue
        if offset % header.cluster_size or offset in seen:
            raise ValueError("a table begins where none can be, or serves two parts of the disk")
        seen.add(offset)
        table = read(offset, header.cluster_size)
        if len(table) < header.cluster_size:
            raise ValueError("it is cut off: a table lies behind its end")
        if table.count(0) != len(table) and not _lies_within(header, table, length):
            raise ValueError("it is cut off: data lies behind its end")


def _lies_within(header: Header, table: bytes, length: int) -> bool:
    entries = _numbers(table)
    if header.l2_entry_size == 16:
        entries = entries[::2]
        zero = 0
    else:
        zero = _ZERO if header.version > 2 else 0
    sectors_at = 62 - (header.cluster_bits - 8)
    compressed_end = -(-length // 512) * 512
    for entry in entries:
        if entry & _COMPRESSED:
            offset = entry & ((1 << sectors_at) - 1)
            sectors = 1 + ((entry & (_COMPRESSED - 1)) >> sectors_at)
            if (offset & -512) + 512 * sectors > compressed_end:
                return False
        elif entry & _OFFSET >= length and not entry & zero:
            return False
    return True


def _numbers(table: bytes) -> array[int]:
    """Return the 64-bit big-endian numbers of a table; a rest of less than that is left out."""
    numbers = array("Q")
    numbers.frombytes(table[: len(table) // 8 * 8])
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
