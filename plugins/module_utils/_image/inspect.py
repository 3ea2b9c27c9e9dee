# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at an image before a machine is made from it; refuse what is no image or would reach beyond its own file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._core.errors import (
    CommandFailed,
    FormatDetectionFailed,
    ImageNotFound,
    ImageRefused,
    InvalidSpec,
)
from .._core.sizes import show_size
from .._host.commands import run

QCOW2_MAGIC = b"QFI\xfb"
_SECTOR = 512


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
    head = _read_head(path)
    chosen = image_format or _recognise(path, head)
    if chosen == "raw":
        return _raw(path)
    try:
        shown = run(
            ["qemu-img", "info", "-U", "-f", chosen, "--output=json", os.path.abspath(path)]
        )
        info = json.loads(shown.stdout)
    except (CommandFailed, ValueError) as exc:
        raise FormatDetectionFailed(
            f"image: {path} cannot be read as {chosen}: {exc}", image=path
        ) from exc
    _refuse_links(path, info)
    return Image(path, chosen, int(info["virtual-size"]))


def check_disk_size(image: Image, disk_size: int | None) -> None:
    """Raise ``InvalidSpec`` if a disk of this size would cut the image off."""
    if disk_size is not None and disk_size < image.virtual_size:
        raise InvalidSpec(
            f"disk_size: {show_size(disk_size)} is smaller than the image {image.path}, "
            f"which needs {show_size(image.virtual_size)}.",
            "Leave disk_size out to use the image's own size, or give at least that.",
            option="disk_size",
        )


def _read_head(path: str) -> bytes:
    try:
        if not os.path.isfile(path):
            what = (
                "is a folder or a device, not a file" if os.path.exists(path) else "does not exist"
            )
            raise ImageNotFound(f"image: {path} {what}.", option="image")
        with open(path, "rb") as stream:
            return stream.read(_SECTOR)
    except OSError as exc:
        raise ImageNotFound(
            f"image: {path} cannot be read: {exc.strerror}.", option="image"
        ) from exc


def _recognise(path: str, head: bytes) -> str:
    if head.startswith(QCOW2_MAGIC):
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


def _refuse_links(path: str, info: Mapping[str, Any]) -> None:
    # Each of these would let the guest read a host file that the image's author chose.
    specific = info.get("format-specific", {}).get("data", {})
    for link in (info.get("backing-filename"), specific.get("data-file")):
        if link is not None:
            raise ImageRefused(
                f"image: {path} depends on another file, {link!r}.", option="image", link=link
            )
    if info.get("encrypted") or specific.get("encrypt"):
        raise ImageRefused(
            f"image: {path} is encrypted.", "Decrypt it with 'qemu-img convert'.", option="image"
        )
