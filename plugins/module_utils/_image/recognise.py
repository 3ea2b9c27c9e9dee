# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kind of a file by its own bytes. Decided once, and never by QEMU, which can be talked into another opinion."""

from __future__ import annotations

from .content import Content

SECTOR = 512
# What qemu-img can turn into a disk for a machine, by QEMU's names.
FORMATS = ("qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc")

_MAGICS: tuple[tuple[str, int, bytes], ...] = (
    ("qcow2", 0, b"QFI\xfb"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
)
_COMPRESSIONS: tuple[tuple[str, bytes], ...] = (
    ("gz", b"\x1f\x8b"),
    ("xz", b"\xfd7zXZ\0"),
    ("zst", b"\x28\xb5\x2f\xfd"),
    *(("zst", bytes([first]) + b"\x2a\x4d\x18") for first in range(0x50, 0x60)),
)
_ARCHIVE = "Unpack it, and use the disk image that is in it."
_AGAIN = "Open the URL in a browser to see what it says, correct it, and fetch the image again."
_DISK = "A machine boots from a disk image, such as a distribution's cloud image."
# What people mistake for a disk image: where, how it begins there, what it is, what to do.
_Mark = tuple[int, bytes, str, str]
_ARCHIVES: tuple[_Mark, ...] = (
    (257, b"ustar", "is a tar archive (as OVA files are)", _ARCHIVE),
    (0, b"PK\x03\x04", "is a zip archive", _ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive", _ARCHIVE),
    (0, b"Rar!\x1a\x07", "is a rar archive", _ARCHIVE),
    (0, b"BZh", "is compressed by bzip2, which is not supported", "Decompress it with bunzip2."),
    (0, b"\x04\x22\x4d\x18", "is compressed by lz4, which is not supported", "Decompress it."),
)
_OTHERS: tuple[_Mark, ...] = (
    (32769, b"CD001", "is an ISO 9660 image, as CDs for installing are", _DISK),
    (0, b"LUKS\xba\xbe", "is encrypted by LUKS", "Decrypt it first, outside of the machine."),
    (0, b"QED\0", "is a QED image", "Convert it: qemu-img convert -f qed -O qcow2 OLD NEW"),
)


def recognise(content: Content) -> str:
    """Return the format, one of ``FORMATS``; raise ``ImageRefused`` saying what the file is instead."""
    refuse_archives(content)
    _refuse(content, _OTHERS)
    _refuse_compressed(content)
    head = content.read(0, SECTOR)
    for kind, offset, magic in _MAGICS:
        if head[offset:].startswith(magic):
            return kind
    if content.length > SECTOR and content.read(content.length - SECTOR, 8) == b"conectix":
        return "vpc"  # a disk as it is, with a footer
    if len(head) == SECTOR and head.endswith(b"\x55\xaa"):
        return "raw"  # a boot sector: the start of a disk as it is
    if head.lstrip()[:1] == b"<":
        raise content.refused("is a page of HTML or XML, as web servers send for an error", _AGAIN)
    raise content.refused(
        "is no disk image that is known here, and no raw disk with a boot sector",
        "Check the file; if it is a raw disk of another kind, say image_format: raw.",
        mendable=True,
    )


def recognise_compression(head: bytes) -> str | None:
    """Return gz, xz or zst for a file that begins so; ``None`` for one that is compressed by none of them."""
    return next((name for name, magic in _COMPRESSIONS if head.startswith(magic)), None)


def refuse_archives(content: Content) -> None:
    """Raise ``ImageRefused`` for archives, and for compressions that are not supported."""
    _refuse(content, _ARCHIVES)


def _refuse(content: Content, marks: tuple[_Mark, ...]) -> None:
    for offset, magic, what, help_text in marks:
        if content.read(offset, len(magic)) == magic:
            raise content.refused(what, help_text)


def _refuse_compressed(content: Content) -> None:
    compression = recognise_compression(content.read(0, 8))
    if compression:
        raise content.refused(
            f"is compressed ({compression}), and a machine's disk cannot rest on it",
            "Decompress it; or give it as a URL (file:///...), since what is fetched is decompressed once.",
        )
