# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images are looked at byte by byte before anything trusts them. Headers are built here as QEMU's format page says."""

from __future__ import annotations

import os
import random
import struct
import tempfile
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.inspect import (
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
        *(qcow2(incompatible=COMPRESSION | EXTENDED_L2), None),
        *("qcow2", GIB),
    ),
    "tables that end with the file": (
        *(qcow2(l1_offset=4 * CLUSTER - 16), None),
        *("qcow2", GIB),
    ),
    "smallest clusters": (qcow2(cluster_bits=9), None, "qcow2", GIB),
    "largest clusters": (
        *(qcow2(cluster_bits=21, refcount_clusters=0, l1_offset=0), None),
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


def test_the_file_that_an_image_leans_on_is_named(write):
    path = write(qcow2(b"/etc/shadow", backing_offset=512, backing_size=11))

    with pytest.raises(VmError, match=r"depends on another file, '/etc/shadow'\.") as caught:
        inspect_image(path, "qcow2")

    assert caught.value.details["backing_file"] == "/etc/shadow"


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
    assert not (parsed.has_data_file or parsed.is_encrypted or parsed.is_corrupt)


def test_version_2_has_no_features_to_be_misread():
    head = header(version=2, incompatible=2**64 - 1)

    assert not parse_header(head).has_data_file
