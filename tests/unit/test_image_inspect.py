# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images are looked at byte by byte before anything trusts them. Headers are built here as QEMU's format page says."""

from __future__ import annotations

import os
import random
import struct
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import content
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.inspect import (
    Allowance,
    Image,
    check_disk_size,
    inspect_image,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.qcow2 import (
    HEADER_SIZE,
    parse_header,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import GIB

NOT_FOUND = "vm_manager.create.image_not_found"
REFUSED = "vm_manager.image.refused"
UNREADABLE = "vm_manager.image.format_detection_failed"
CLUSTER = 65536
BOOT_SECTOR = bytes(510) + b"\x55\xaa"
COPIED, COMPRESSED = 1 << 63, 1 << 62
DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2, UNKNOWN = (1 << bit for bit in range(6))


def header(**changes):
    """Return the first bytes of an image with one L1 table and one cluster of refcounts."""
    fields = {
        "magic": b"QFI\xfb",
        "version": 3,
        "backing_offset": 0,
        "backing_size": 0,
        "cluster_bits": 16,
        "size": GIB,
        "encryption": 0,
        "l1_entries": 2,
        "l1_offset": 3 * CLUSTER,
        "refcount_offset": CLUSTER,
        "refcount_clusters": 1,
        "snapshots": 0,
        "snapshots_offset": 0,
        "incompatible": 0,
        "compatible": 0,
        "autoclear": 0,
        "refcount_order": 4,
        "header_length": HEADER_SIZE,
    }
    return struct.pack(">4sIQIIQIIQQIIQQQQII", *{**fields, **changes}.values())


def qcow2(name=b"", **changes):
    """Return a whole small image; a backing file's name lies behind the header."""
    head = header(**changes)
    if changes.get("version") == 2:
        head = head[:72]
    return (head.ljust(512, b"\0") + name).ljust(4 * CLUSTER, b"\0")


def extended(kind, size=8, version=3):
    """Return an image with an extension behind its header."""
    head = header(version=version)[: 104 if version == 3 else 72]
    extension = struct.pack(">II", kind, size) + bytes(8) + struct.pack(">II", 0, 0)
    return (head + extension).ljust(4 * CLUSTER, b"\0")


def at(data, offset, magic):
    return data[:offset] + magic + data[offset + len(magic) :]


def luks(*pointer, length=16, **changes):
    """Return an encrypted image whose header leads to these offset and size, by default to its last cluster."""
    extension = struct.pack(">IIQQ", 0x0537BE77, length, *(pointer or (3 * CLUSTER, CLUSTER)))
    return at(qcow2(**{"encryption": 2, **changes}), HEADER_SIZE, extension)


def snapshots(*entries, count=None, offset=3 * CLUSTER, **changes):
    """Return an image with a table of snapshots, whose entries have these lengths of extra data, id and name."""
    count = len(entries) if count is None else count
    table = b""
    for extra, number, name in entries:
        head = struct.pack(">QIHHIIQII", CLUSTER, 1, number, name, 0, 0, 0, 0, extra)
        table = table.ljust(-(-len(table) // 8) * 8, b"\0") + head + bytes(extra + number + name)
    data = qcow2(snapshots=count, snapshots_offset=offset, l1_offset=2 * CLUSTER, **changes)
    return data[: 3 * CLUSTER] + table


def filled(*entries, l1=(4 * CLUSTER, 0), length=6 * CLUSTER, **changes):
    """Return an image whose one L2 table begins with these entries and whose data begins at cluster 5."""
    data = qcow2(**changes).ljust(length, b"\0")
    data = at(data, 3 * CLUSTER, struct.pack(f">{len(l1)}Q", *l1))
    data = at(data, 4 * CLUSTER, struct.pack(f">{len(entries)}Q", *entries))
    return data[:length]


@pytest.fixture
def write(tmp_path):
    def make(data, name="image"):
        path = tmp_path / name
        path.write_bytes(data)
        return str(path)

    return make


GOOD = {
    "qcow2": (qcow2(), None, "qcow2", GIB),
    "qcow2, said so": (qcow2(), "qcow2", "qcow2", GIB),
    "qcow2 of version 2": (qcow2(version=2), None, "qcow2", GIB),
    "qcow2 that was not closed": (qcow2(incompatible=DIRTY), None, "qcow2", GIB),
    "qcow2 with zstd and extended L2": (
        *(qcow2(incompatible=COMPRESSION | EXTENDED_L2, l1_entries=4), None),
        *("qcow2", GIB),
    ),
    "tables that end with the file": (qcow2()[: 3 * CLUSTER + 16], None, "qcow2", GIB),
    "smallest clusters": (
        *(qcow2(cluster_bits=9, l1_entries=2, size=64 * 1024), None),
        *("qcow2", 64 * 1024),
    ),
    "largest clusters": (
        *(
            qcow2(cluster_bits=21, l1_offset=4 << 20, refcount_offset=2 << 20).ljust(
                5 << 20, b"\0"
            ),
            None,
        ),
        *("qcow2", GIB),
    ),
    "as large as can be": (
        *(qcow2(size=16 << 40, l1_entries=32768).ljust(8 * CLUSTER, b"\0"), None),
        *("qcow2", 16 << 40),
    ),
    "an extension that tells nothing bad": (extended(0x6803F857), None, "qcow2", GIB),
    "an extension in version 2": (extended(0xE2792ACA, version=2), None, "qcow2", GIB),
    "data in its last cluster": (filled(5 * CLUSTER | COPIED), None, "qcow2", GIB),
    "a last cluster that is not full": (
        *(filled(5 * CLUSTER | COPIED, length=5 * CLUSTER + 512), None),
        *("qcow2", GIB),
    ),
    "zeros that need no place": (filled(99 * CLUSTER | 1), None, "qcow2", GIB),
    "compressed data up to the last byte": (
        *(filled(COMPRESSED | 7 << 54 | 5 * CLUSTER, length=5 * CLUSTER + 7 * 512 + 1), None),
        *("qcow2", GIB),
    ),
    "raw with a boot sector": (BOOT_SECTOR + bytes(512), None, "raw", 1024),
    "raw without one, said so": (bytes(2048), "raw", "raw", 2048),
    "qcow2 that is to be used as raw bytes": (qcow2(), "raw", "raw", 4 * CLUSTER),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_good_image_is_told_by_its_bytes(write, case):
    data, image_format, found_format, size = GOOD[case]
    path = write(data)

    assert inspect_image(path, image_format) == Image(path, found_format, size)


BAD = {
    "empty": (b"", None, REFUSED),
    "text": (b"hello\n" * 1000, None, REFUSED),
    "an error page": (b"<html>404</html>".ljust(4096), None, REFUSED),
    "gzip": (b"\x1f\x8b\x08".ljust(4096, b"\0"), None, REFUSED),
    "zeros": (bytes(4096), None, REFUSED),
    "VMDK": (b"KDMV".ljust(4096, b"\0"), None, REFUSED),
    "a boot sector that is cut off": (BOOT_SECTOR[:511], None, REFUSED),
    "raw of broken sectors": (BOOT_SECTOR + b"x", None, REFUSED),
    "raw of nothing": (b"", "raw", REFUSED),
    "raw of half a sector": (bytes(256), "raw", REFUSED),
    "magic only": (b"QFI\xfb", None, UNREADABLE),
    "cut off in the header": (qcow2()[:71], None, UNREADABLE),
    "cut off after the header": (qcow2()[:HEADER_SIZE], None, UNREADABLE),
    "cut off before its tables": (qcow2()[: 3 * CLUSTER + 8], None, UNREADABLE),
    "text, said to be qcow2": (b"hello" * 1000, "qcow2", UNREADABLE),
    "raw, said to be qcow2": (BOOT_SECTOR + bytes(512), "qcow2", UNREADABLE),
    "empty, said to be qcow2": (b"", "qcow2", UNREADABLE),
    "version 1": (qcow2(version=1), None, UNREADABLE),
    "version 4": (qcow2(version=4), None, UNREADABLE),
    "clusters that are too small": (qcow2(cluster_bits=8), None, UNREADABLE),
    "clusters that are too large": (qcow2(cluster_bits=22), None, UNREADABLE),
    "clusters beyond all sense": (qcow2(cluster_bits=2**32 - 1), None, UNREADABLE),
    "a feature of the future": (qcow2(incompatible=UNKNOWN), None, UNREADABLE),
    "tables beyond the end": (qcow2(l1_offset=2**63), None, UNREADABLE),
    "a backing file": (
        *(qcow2(b"/etc/shadow", backing_offset=512, backing_size=11), None),
        REFUSED,
    ),
    "a backing file in version 2": (
        *(qcow2(b"/etc/shadow", version=2, backing_offset=512, backing_size=11), None),
        REFUSED,
    ),
    "a backing file without a name": (qcow2(backing_offset=512), None, REFUSED),
    "a backing file of endless name": (
        *(qcow2(b"x" * 2000, backing_offset=512, backing_size=2**32 - 1), None),
        UNREADABLE,
    ),
    "a backing file beyond the end": (
        *(qcow2(backing_offset=2**62, backing_size=11), None),
        UNREADABLE,
    ),
    "a backing file at an offset that no file has": (
        *(qcow2(backing_offset=2**64 - 1, backing_size=11), None),
        UNREADABLE,
    ),
    "a data file": (qcow2(incompatible=DATA_FILE), None, REFUSED),
    "encrypted with AES": (qcow2(encryption=1), None, REFUSED),
    "encrypted with LUKS": (qcow2(encryption=2), None, REFUSED),
    "an L1 table that is too small": (qcow2(l1_entries=1), None, UNREADABLE),
    "an L1 table of gigabytes": (
        *(qcow2(l1_entries=2**32 - 1, l1_offset=0), None),
        UNREADABLE,
    ),
    "an L1 table in a cluster": (qcow2(l1_offset=3 * CLUSTER - 8), None, UNREADABLE),
    "an L1 table in the header": (qcow2(l1_offset=0), None, UNREADABLE),
    "no reference counts": (qcow2(refcount_clusters=0), None, UNREADABLE),
    "reference counts of gigabytes": (qcow2(refcount_clusters=2**32 - 1), None, UNREADABLE),
    "a disk of no size": (qcow2(size=0), None, REFUSED),
    "a disk beyond all sense": (qcow2(size=2**63), None, REFUSED),
    "a disk just too large": (qcow2(size=(16 << 40) + 512, l1_entries=32769), None, REFUSED),
    "a header that is too short": (qcow2(header_length=96), None, UNREADABLE),
    "a header beyond its cluster": (qcow2(header_length=CLUSTER + 8), None, UNREADABLE),
    "reference counts that are too wide": (qcow2(refcount_order=7), None, UNREADABLE),
    "a compression of the future": (
        *(at(qcow2(header_length=112), 104, b"\2"), None),
        UNREADABLE,
    ),
    "parts of clusters that are too small": (
        *(qcow2(cluster_bits=13, incompatible=EXTENDED_L2), None),
        UNREADABLE,
    ),
    "an extension without end": (extended(0x6803F857, size=2**32 - 1), None, UNREADABLE),
    "internal snapshots": (qcow2(snapshots=2, snapshots_offset=CLUSTER), None, REFUSED),
    "bitmaps": (extended(0x23852875), None, REFUSED),
    "a name for a data file": (extended(0x44415441), None, REFUSED),
    "a header of LUKS": (extended(0x0537BE77), None, UNREADABLE),
    "an L2 table behind the end": (filled(l1=(6 * CLUSTER,)), None, UNREADABLE),
    "half an L2 table": (filled(length=4 * CLUSTER + 4096), None, UNREADABLE),
    "an L2 table within a cluster": (filled(l1=(4 * CLUSTER + 512,)), None, UNREADABLE),
    "an L2 table that serves twice": (filled(l1=(4 * CLUSTER,) * 2), None, UNREADABLE),
    "data behind the end": (filled(6 * CLUSTER | COPIED), None, UNREADABLE),
    "data behind the end, far back in the table": (
        *(filled(*[0] * 8191, 6 * CLUSTER | COPIED), None),
        UNREADABLE,
    ),
    "zeros of version 2": (filled(99 * CLUSTER | 1, version=2), None, UNREADABLE),
    "compressed data behind the end": (
        *(filled(COMPRESSED | 7 << 54 | 5 * CLUSTER, length=5 * CLUSTER + 7 * 512), None),
        UNREADABLE,
    ),
    "corrupt": (qcow2(incompatible=CORRUPT), None, REFUSED),
    "corrupt and dirty": (qcow2(incompatible=CORRUPT | DIRTY), None, REFUSED),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_refused_by_its_path(write, case):
    data, image_format, code = BAD[case]
    path = write(data)

    with pytest.raises(VmError) as caught:
        inspect_image(path, image_format)

    assert caught.value.code == code
    assert caught.value.message.startswith(f"image: {path} ")
    assert caught.value.message.endswith(".")
    assert len(caught.value.message) < len(path) + 1200
    assert caught.value.details["option"] == "image"
    assert caught.value.help


UNLOCKED, DROPPED = Allowance("hunter2"), Allowance(drop_snapshots=True)
BOTH = replace(UNLOCKED, drop_snapshots=True)
ALLOWED = {
    "encrypted": (luks(), UNLOCKED, True, 0),
    "encrypted, and what follows the pointer": (
        *(luks(CLUSTER, 2 * CLUSTER, incompatible=DIRTY), UNLOCKED),
        *(True, 0),
    ),
    "plain": (qcow2(), BOTH, False, 0),
    "a snapshot": (snapshots((16, 1, 9)), DROPPED, False, 1),
    "a snapshot as the oldest QEMU made it": (snapshots((0, 1, 0)), DROPPED, False, 1),
    "snapshots of version 2": (snapshots((0, 1, 5), (8, 2, 3), version=2), DROPPED, False, 2),
    "many snapshots": (snapshots(*[(24, 4, 20)] * 10_000), DROPPED, False, 10_000),
    "both": (
        at(snapshots((16, 1, 9), encryption=2), HEADER_SIZE, luks()[HEADER_SIZE : HEADER_SIZE + 24])
        + bytes(CLUSTER),
        *(BOTH, True, 1),
    ),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_a_task_wants_out_of_an_image_may_be_in_it(write, case):
    data, allowance, encrypted, count = ALLOWED[case]
    path = write(data)

    image = inspect_image(path, None, allowance=allowance)

    passphrase = allowance.passphrase if encrypted else None
    assert image == Image(path, "qcow2", GIB, passphrase, count)
    assert image.is_plain == (not encrypted and not count)
    if not image.is_plain:
        with pytest.raises(VmError, match=r"is encrypted\.|internal snapshots\.") as caught:
            inspect_image(path, None)
        assert "vm_image" in caught.value.help
        assert ("passphrase" if encrypted else "internal_snapshots: drop") in caught.value.help


LINKED = {"backing_offset": 512, "backing_size": 11}
NOT_ALLOWED = {
    "the old encryption": (luks(encryption=1), REFUSED, "in a way that is not supported"),
    "an encryption of the future": (luks(encryption=3), REFUSED, "in a way that is not supported"),
    "LUKS without its header": (qcow2(encryption=2), UNREADABLE, "no LUKS header"),
    "a LUKS header without encryption": (luks(encryption=0), UNREADABLE, "a LUKS header"),
    "a LUKS header behind the end": (luks(4 * CLUSTER, 512), UNREADABLE, "LUKS header lies where"),
    "a LUKS header that is cut off": (luks(3 * CLUSTER, CLUSTER + 1), UNREADABLE, "lies where"),
    "a LUKS header without end": (luks(CLUSTER, 2**64 - 1), UNREADABLE, "lies where"),
    "a LUKS header in a cluster": (luks(CLUSTER + 512, 512), UNREADABLE, "lies where"),
    "a LUKS header in the header": (luks(0, 512), UNREADABLE, "lies where"),
    "a short pointer to LUKS": (luks(length=8), UNREADABLE, "lies where"),
    "a long pointer to LUKS": (luks(length=24), UNREADABLE, "lies where"),
    "encryption and a backing file": (luks(**LINKED), REFUSED, "depends on another file"),
    "encryption and a data file": (luks(incompatible=DATA_FILE), REFUSED, "data in another file"),
    "encryption and the name of a data file": (
        *(at(luks(), HEADER_SIZE + 24, struct.pack(">IIQ", 0x44415441, 8, 0)), REFUSED),
        "another file for its data",
    ),
    "encryption and bitmaps": (
        *(at(luks(), HEADER_SIZE + 24, struct.pack(">IIQ", 0x23852875, 8, 0)), REFUSED),
        "bitmaps",
    ),
    "encryption beyond all sense": (luks(size=2**63), REFUSED, "says that its disk has"),
    "encryption and damage": (luks(incompatible=CORRUPT), REFUSED, "marked as corrupt"),
    "encryption and data behind the end": (
        *(at(luks(), 3 * CLUSTER, struct.pack(">Q", 99 * CLUSTER)), UNREADABLE),
        "it is cut off",
    ),
    "snapshots and a backing file": (snapshots((0, 1, 1), **LINKED), REFUSED, "on another file"),
    "snapshots and a data file": (
        *(snapshots((0, 1, 1), incompatible=DATA_FILE), REFUSED),
        "data in another file",
    ),
    "snapshots that are cut off": (snapshots((0, 1, 9))[:-1], UNREADABLE, "table of snapshots"),
    "snapshots that are missing": (snapshots((0, 1, 9), count=2), UNREADABLE, "table of snapshots"),
    "snapshots without number": (
        *(snapshots((0, 1, 9), count=2**32 - 1), UNREADABLE),
        "table of snapshots",
    ),
    "snapshots without end": (
        *(at(snapshots((0, 1, 9)), 3 * CLUSTER + 36, b"\xff" * 4), UNREADABLE),
        "table of snapshots",
    ),
    "snapshots that say too much": (
        *(snapshots(*[(1024, 65535, 65535)] * 8), UNREADABLE),
        "table of snapshots",
    ),
    "snapshots behind the end": (
        *(snapshots((0, 1, 9), offset=2**63), UNREADABLE),
        "table of snapshots",
    ),
    "snapshots in a cluster": (
        *(snapshots((0, 1, 9), offset=3 * CLUSTER - 8), UNREADABLE),
        "table of snapshots",
    ),
    "snapshots in the header": (snapshots((0, 1, 9), offset=0), UNREADABLE, "table of snapshots"),
}


@pytest.mark.parametrize("case", NOT_ALLOWED)
def test_what_is_allowed_lets_nothing_else_through(write, case):
    data, code, words = NOT_ALLOWED[case]

    with pytest.raises(VmError, match=words) as caught:
        inspect_image(write(data), None, allowance=BOTH)

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("allowance", "words"), [(UNLOCKED, "1 internal snapshots"), (DROPPED, "is encrypted")]
)
def test_one_allowance_is_not_the_other(write, allowance, words):
    with pytest.raises(VmError, match=words):
        inspect_image(write(ALLOWED["both"][0]), None, allowance=allowance)


def test_a_passphrase_is_not_shown():
    assert "hunter2" not in repr((UNLOCKED, Image("/i", "qcow2", GIB, UNLOCKED.passphrase)))


def test_the_file_that_an_image_leans_on_is_named(write):
    path = write(qcow2(b"/etc/shadow", backing_offset=512, backing_size=11))

    with pytest.raises(VmError, match=r"depends on another file, '/etc/shadow'\.") as caught:
        inspect_image(path, "qcow2")

    assert caught.value.details["backing_file"] == "/etc/shadow"


BLANK = BOOT_SECTOR.ljust(65536, b"\0")
MISTAKEN = {
    "tar": (at(bytes(10240), 257, b"ustar\x0000"), "is a tar archive (as OVA files are)"),
    "zip": (b"PK\3\4".ljust(4096, b"\0"), "is a zip archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c".ljust(4096, b"\0"), "is a 7z archive"),
    "rar": (b"Rar!\x1a\x07".ljust(4096, b"\0"), "is a rar archive"),
    "bzip2": (b"BZh9".ljust(4096, b"\0"), "is compressed by bzip2, which is not supported"),
    "lz4": (b"\x04\x22\x4d\x18".ljust(4096, b"\0"), "is compressed by lz4"),
    "gzip": (b"\x1f\x8b\x08".ljust(4096, b"\0"), "is compressed (gz)"),
    "xz": (b"\xfd7zXZ\0".ljust(4096, b"\0"), "is compressed (xz)"),
    "zstd": (b"\x28\xb5\x2f\xfd".ljust(4096, b"\0"), "is compressed (zst)"),
    "zstd that can be sought in": (b"\x5e\x2a\x4d\x18".ljust(4096, b"\0"), "is compressed (zst)"),
    "a CD": (at(bytes(65536), 32769, b"CD001"), "is an ISO 9660 image"),
    "a CD that boots from a stick": (at(BLANK, 32769, b"CD001"), "is an ISO 9660 image"),
    "LUKS": (b"LUKS\xba\xbe\0\2".ljust(65536, b"\0"), "is encrypted by LUKS"),
    "LUKS with a boot sector": (at(BLANK, 0, b"LUKS\xba\xbe"), "is encrypted by LUKS"),
    "QED": (b"QED\0".ljust(4096, b"\0"), "is a QED image"),
    "an error page": (b"\n<!DOCTYPE html>\n<html>404</html>", "is a page of HTML or XML"),
    "VMDK": (b"KDMV".ljust(4096, b"\0"), "is a vmdk image, and a machine's disk can rest on"),
    "VMDK in two files": (b"# Disk DescriptorFile\nversion=1\n", "is a vmdk image"),
    "VDI": (at(bytes(4096), 64, b"\x7f\x10\xda\xbe"), "is a vdi image"),
    "VHDX": (b"vhdxfile".ljust(4096, b"\0"), "is a vhdx image"),
    "VHD": (b"conectix".ljust(4096, b"\0"), "is a vpc image"),
    "VHD with a boot sector": (BLANK + b"conectix".ljust(512, b"\0"), "is a vpc image"),
}


@pytest.mark.parametrize("case", MISTAKEN)
def test_what_people_mistake_for_a_disk_is_called_by_its_name(write, case):
    data, words = MISTAKEN[case]
    path = write(data)

    with pytest.raises(VmError) as caught:
        inspect_image(path, None)

    assert caught.value.code == REFUSED
    assert caught.value.message.startswith(f"image: {path} {words}")


@pytest.mark.parametrize(
    "case", [case for case, (data, _words) in MISTAKEN.items() if len(data) % 512 == 0]
)
def test_what_is_said_to_be_raw_is_raw(write, case):
    path = write(MISTAKEN[case][0])

    assert inspect_image(path, "raw").virtual_size == os.path.getsize(path)


@pytest.mark.parametrize("image_format", [None, "qcow2", "raw"])
def test_another_name_can_be_shown(write, image_format):
    path = write(b"hello")

    with pytest.raises(VmError, match=r"^image: https://here/x (is|has|cannot)") as caught:
        inspect_image(path, image_format, shown="https://here/x")

    assert path not in f"{caught.value.message} {caught.value.help} {caught.value.details}"


def test_reading_ends_although_there_are_tables_left(write, monkeypatch):
    monkeypatch.setattr(content, "_SECONDS", -1.0)

    with pytest.raises(VmError, match="could not be read through") as caught:
        inspect_image(write(qcow2()), None)

    assert caught.value.code == REFUSED


@pytest.mark.parametrize("image_format", [None, "qcow2", "raw"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder or a device, not a file"),
        (os.mkfifo, "is a folder or a device, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a folder or a device, not a file"),
        (lambda path: path.symlink_to("missing"), "does not exist"),
        (lambda path: path.symlink_to(path.name), "does not exist"),
    ],
    ids=["nothing", "folder", "pipe", "device", "dangling link", "link to itself"],
)
def test_what_is_no_file_is_not_found(tmp_path, make, words, image_format):
    path = tmp_path / "image"
    make(path)

    with pytest.raises(VmError) as caught:
        inspect_image(str(path), image_format)

    assert caught.value.code == NOT_FOUND
    assert caught.value.message == f"image: {path} {words}."
    assert caught.value.details == {"option": "image"}


def test_a_link_to_an_image_is_an_image(tmp_path, write):
    write(qcow2(), "real")
    link = tmp_path / "link"
    link.symlink_to("real")

    assert inspect_image(str(link), None) == Image(str(link), "qcow2", GIB)


@pytest.fixture
def locked_away():
    """Give a folder with an image that nobody but root may read, and be nobody if we are root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "image"
        path.write_bytes(qcow2())
        path.chmod(0)
        uid = os.geteuid()
        if uid == 0:
            os.seteuid(65534)
        yield path
        os.seteuid(uid)


def test_an_image_that_may_not_be_read_is_not_found(locked_away):
    with pytest.raises(VmError, match="cannot be read: Permission denied") as caught:
        inspect_image(str(locked_away), None)

    assert caught.value.code == NOT_FOUND
    assert "may read" in caught.value.help


@pytest.mark.parametrize("seed", range(4))
def test_junk_headers_are_read_or_refused_but_never_break_anything(write, seed):
    dice = random.Random(seed)
    good = qcow2()[:1024]
    outcomes = set()
    for _dummy in range(300):
        data = bytearray(good)
        for _change in range(dice.randrange(1, 6)):
            data[dice.randrange(4, HEADER_SIZE)] = dice.randrange(256)
        path = write(bytes(data) + bytes(dice.choice((0, 4 * CLUSTER))))
        try:
            inspect_image(path, None)
        except VmError as exc:
            outcomes.add(exc.code)
        else:
            outcomes.add("read")

    assert outcomes == {"read", REFUSED, UNREADABLE}


@pytest.mark.parametrize("size", [None, GIB, GIB + 512, 2 * GIB])
def test_a_disk_as_large_as_the_image_will_do(size):
    check_disk_size(Image("/i", "qcow2", GIB), size)


@pytest.mark.parametrize("size", [0, 512, GIB - 512])
def test_a_disk_that_would_cut_the_image_off_is_refused(size):
    with pytest.raises(
        VmError, match=r"^disk_size: .* smaller than the image /i, .* 1GiB\."
    ) as caught:
        check_disk_size(Image("/i", "qcow2", GIB), size)

    assert caught.value.code == "vm_manager.spec.invalid"
    assert caught.value.details == {"option": "disk_size"}


def test_a_header_says_where_its_tables_end():
    parsed = parse_header(header())

    assert parsed.virtual_size == GIB
    assert parsed.tables_end == 3 * CLUSTER + 16
    assert parse_header(header(l1_offset=0)).tables_end == 2 * CLUSTER
    assert not (parsed.has_data_file or parsed.encryption or parsed.is_corrupt)


def test_version_2_has_no_features_to_be_misread():
    head = header(version=2, incompatible=2**64 - 1)

    assert not parse_header(head).has_data_file
