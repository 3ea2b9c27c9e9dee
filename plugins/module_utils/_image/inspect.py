# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at an image before a machine is made from it; refuse what is no image or would reach beyond its own file.

All of it is read here, by no other program, and in milliseconds: an image that is used where it lies is looked at for
every new machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .._core.errors import FormatDetectionFailed, ImageRefused, InvalidSpec
from .._core.sizes import MAX_DISK, show_size
from . import qcow2
from .content import Content, opened
from .recognise import SECTOR, recognise

_FLATTEN = (
    "If you trust it, make a standalone copy of it: qemu-img convert -f qcow2 -O qcow2 OLD NEW"
)
_UNLOCK = (
    "Import it with the module vm_image and its option passphrase. What is kept is not encrypted."
)
_DROP = "Import it with the module vm_image and internal_snapshots: drop, which keeps only its active state."


@dataclass(frozen=True)
class Image:
    """A base image that was found fit to use. ``virtual_size`` in bytes.

    An image that is encrypted, with the ``passphrase`` to try, or has internal ``snapshots`` must be converted first,
    which takes them out.
    """

    path: str
    format: str
    virtual_size: int
    passphrase: str | None = field(default=None, repr=False)
    snapshots: int = 0

    @property
    def is_encrypted(self) -> bool:
        """Tell whether nobody can read it without the passphrase."""
        return self.passphrase is not None

    @property
    def is_plain(self) -> bool:
        """Tell whether there is nothing in it that must be taken out."""
        return not self.is_encrypted and not self.snapshots


@dataclass(frozen=True)
class Allowance:
    """What may be in an image that is converted, since the task wants it taken out; all else is refused as ever."""

    passphrase: str | None = field(default=None, repr=False)
    drop_snapshots: bool = False


NOTHING = Allowance()


def inspect_image(
    path: str,
    image_format: str | None,
    *,
    shown: str | None = None,
    allowance: Allowance = NOTHING,
) -> Image:
    """Return what ``path`` is, if a machine's disk can rest on it: qcow2 or raw.

    ``image_format`` is believed if given; else it is told by the content. QEMU never gets to guess. ``shown`` is what
    messages call the file. Raises ``ImageNotFound``, ``ImageRefused`` or ``FormatDetectionFailed``. With an allowance,
    the image may have to be converted before a disk can rest on it.
    """
    with opened(path, shown) as content:
        chosen = image_format or recognise(content)
        if chosen == "raw":
            image = Image(path, chosen, _raw(content))
        elif chosen == "qcow2":
            header = _qcow2(content, allowance)
            passphrase = allowance.passphrase if header.encryption else None
            image = Image(path, chosen, header.virtual_size, passphrase, header.snapshots)
        else:
            raise content.refused(
                f"is a {chosen} image, and a machine's disk can rest on qcow2 or raw only",
                f"Convert it: qemu-img convert -f {chosen} -O qcow2 OLD NEW; or give it as a URL (file:///...), since "
                "what is fetched is converted.",
            )
        check_virtual_size(content.shown, image.virtual_size)
    return image


def check_disk_size(image: Image, disk_size: int | None) -> None:
    """Raise ``InvalidSpec`` if a disk of this size would cut the image off."""
    if disk_size is not None and disk_size < image.virtual_size:
        raise InvalidSpec(
            f"disk_size: {show_size(disk_size)} is smaller than the image {image.path}, "
            f"which needs {show_size(image.virtual_size)}.",
            "Leave disk_size out to use the image's own size, or give at least that.",
            option="disk_size",
        )


def check_virtual_size(shown: str, size: int) -> None:
    """Raise ``ImageRefused`` for a disk that is empty or larger than any that makes sense."""
    if not 0 < size <= MAX_DISK:
        raise ImageRefused(
            f"image: {shown} says that its disk has {show_size(size)}, "
            f"which is not between 1B and {show_size(MAX_DISK)}.",
            "Check where the image comes from.",
            option="image",
        )


def unreadable(shown: str, image_format: str, reason: object) -> FormatDetectionFailed:
    """Return the error for an image that is not what it says or is said to be."""
    return FormatDetectionFailed(
        f"image: {shown} cannot be read as {image_format}: {reason}.", option="image"
    )


def _raw(content: Content) -> int:
    if content.length == 0 or content.length % SECTOR:
        raise content.refused(
            f"has {content.length} bytes, which is no raw disk of whole sectors",
            "Check that it was copied as a whole, and that it is a raw disk.",
        )
    return content.length


def _qcow2(content: Content, allowance: Allowance) -> qcow2.Header:
    try:
        header = qcow2.parse_header(content.read(0, SECTOR))
        if content.length < header.backing_offset + header.backing_size:
            raise ValueError("it is cut off")
        _refuse_links(content, header)
        _refuse_unless_allowed(content, header, allowance)
        _check_extensions(content, header)
        check_virtual_size(content.shown, header.virtual_size)
        qcow2.check_geometry(header, content.length)
        qcow2.check_tables(header, content.read, content.length)
        qcow2.check_snapshots(header, content.read)
    except ValueError as exc:
        raise unreadable(content.shown, "qcow2", exc) from exc
    return header


def _refuse_links(content: Content, header: qcow2.Header) -> None:
    # A link would let the guest read a host file that the image's author chose.
    if header.backing_offset:
        name = content.read(header.backing_offset, min(header.backing_size, qcow2.NAME_LIMIT))
        shown = name.decode(errors="backslashreplace")
        what = f"depends on another file, {shown!r}"
        raise content.refused(what, _FLATTEN, backing_file=shown)
    if header.has_data_file:
        raise content.refused("keeps its data in another file", _FLATTEN)
    if header.is_corrupt:
        raise content.refused(
            "is marked as corrupt",
            "Fetch it again, or repair a copy with 'qemu-img check -r all'.",
        )


def _refuse_unless_allowed(content: Content, header: qcow2.Header, allowance: Allowance) -> None:
    if header.encryption not in (0, qcow2.LUKS):
        raise content.refused(
            "is encrypted in a way that is not supported, such as the old AES of qcow2",
            "Decrypt it where it comes from, with 'qemu-img convert'.",
        )
    if header.encryption and allowance.passphrase is None:
        raise content.refused("is encrypted", _UNLOCK, mendable=True)
    if header.snapshots and not allowance.drop_snapshots:
        # Which of its states is meant would be a guess, and they can differ in size.
        what = f"holds {header.snapshots} internal snapshots"
        raise content.refused(what, _DROP, mendable=True)


def _check_extensions(content: Content, header: qcow2.Header) -> None:
    found = dict(qcow2.extensions(header, content.read(0, header.cluster_size)))
    qcow2.check_luks(header, found.get(qcow2.LUKS_HEADER), content.length)
    for kind in found:
        if kind == qcow2.DATA_FILE_NAME:
            raise content.refused("names another file for its data", _FLATTEN)
        if kind == qcow2.BITMAPS:
            # QEMU takes memory for them as large as they say they are, once for each.
            raise content.refused(
                "holds bitmaps of changed blocks, as backups leave them", _FLATTEN
            )
