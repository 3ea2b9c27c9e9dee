# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at an image before a machine is made from it; refuse what is no image or would reach beyond its own file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._core.errors import FormatDetectionFailed, ImageNotFound, ImageRefused, InvalidSpec
from .._core.sizes import show_size
from .qcow2 import HEADER_SIZE, MAGIC, Header, parse_header

_SECTOR = 512
_NAME_LIMIT = 1023  # bytes of a backing file's name, by the format's own rule


@dataclass(frozen=True)
class Image:
    """A base image that was found fit to use. ``virtual_size`` in bytes."""

    path: str
    format: str
    virtual_size: int


def inspect_image(path: str, image_format: str | None) -> Image:
    """Return what ``path`` is; ``image_format`` is believed if given. Never lets QEMU guess a format.

    Raises ``ImageNotFound``, ``ImageRefused`` or ``FormatDetectionFailed``.
    """
    head = _read(path, 0, _SECTOR)
    chosen = image_format or _recognise(path, head)
    return _raw(path) if chosen == "raw" else _qcow2(path, head)


def check_disk_size(image: Image, disk_size: int | None) -> None:
    """Raise ``InvalidSpec`` if a disk of this size would cut the image off."""
    if disk_size is not None and disk_size < image.virtual_size:
        raise InvalidSpec(
            f"disk_size: {show_size(disk_size)} is smaller than the image {image.path}, "
            f"which needs {show_size(image.virtual_size)}.",
            "Leave disk_size out to use the image's own size, or give at least that.",
            option="disk_size",
        )


def _read(path: str, offset: int, size: int) -> bytes:
    try:
        if not os.path.isfile(path):
            exists = os.path.exists(path)
            what = "is a folder or a device, not a file" if exists else "does not exist"
            raise ImageNotFound(f"image: {path} {what}.", option="image")
        with open(path, "rb") as stream:
            stream.seek(offset)
            return stream.read(size)
    except OSError as exc:
        raise ImageNotFound(
            f"image: {path} cannot be read: {exc.strerror}.", option="image"
        ) from exc


def _recognise(path: str, head: bytes) -> str:
    if head.startswith(MAGIC):
        return "qcow2"
    if len(head) == _SECTOR and head.endswith(b"\x55\xaa"):
        return "raw"  # a boot sector: the start of a disk as it is
    raise ImageRefused(
        f"image: {path} is neither a qcow2 image nor a raw disk with a boot sector.",
        "Check the file; if it is a raw disk of another kind, say image_format: raw.",
        option="image",
    )


def _raw(path: str) -> Image:
    size = os.path.getsize(path)
    if size == 0 or size % _SECTOR:
        raise ImageRefused(
            f"image: {path} has {size} bytes, which is no raw disk of whole sectors.",
            option="image",
        )
    return Image(path, "raw", size)


def _qcow2(path: str, head: bytes) -> Image:
    try:
        header = parse_header(head[:HEADER_SIZE])
        if os.path.getsize(path) < header.tables_end:
            raise ValueError("it is cut off")
    except ValueError as exc:
        raise FormatDetectionFailed(
            f"image: {path} cannot be read as qcow2: {exc}.", option="image"
        ) from exc
    _refuse_links(path, header)
    return Image(path, "qcow2", header.virtual_size)


def _refuse_links(path: str, header: Header) -> None:
    # Either would let the guest read a host file that the image's author chose.
    if header.backing_offset:
        name = _read(path, header.backing_offset, min(header.backing_size, _NAME_LIMIT))
        shown = name.decode(errors="backslashreplace")
        raise ImageRefused(
            f"image: {path} depends on another file, {shown!r}.", option="image", backing_file=shown
        )
    if header.has_data_file:
        raise ImageRefused(f"image: {path} keeps its data in another file.", option="image")
    if header.is_encrypted:
        raise ImageRefused(
            f"image: {path} is encrypted.", "Decrypt it with 'qemu-img convert'.", option="image"
        )
    if header.is_corrupt:
        raise ImageRefused(
            f"image: {path} is marked as corrupt.",
            "Fetch it again, or repair a copy with 'qemu-img check -r all'.",
            option="image",
        )
