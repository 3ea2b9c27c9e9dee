# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The gate for images from elsewhere: what gets through is a standalone disk that QEMU and we read alike.

What an image says of itself is read here first (``inspect``, ``vmdk``, ``virtual_disks``), so that nothing in it leads
QEMU to other files. Then QEMU itself looks, within limits, and checks that the image is whole.

An image that is used where it lies passes ``inspect_image`` alone: it finds all that could lead out of the file or
behind its end. ``qemu-img check`` tells in addition whether the counts of references are right, which matters to those
who write to an image, and nobody writes to a base image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._core.errors import CommandFailed, ImageRefused
from . import qemu_img
from .content import Content, opened
from .inspect import (
    NOTHING,
    Allowance,
    Image,
    check_virtual_size,
    inspect_image,
    unreadable,
)
from .recognise import recognise
from .virtual_disks import check_vdi, check_vhdx, check_vpc
from .vmdk import check_vmdk

_CHECKS = {"vmdk": check_vmdk, "vdi": check_vdi, "vhdx": check_vhdx, "vpc": check_vpc}


def judge(
    path: str,
    image_format: str | None,
    *,
    shown: str | None = None,
    allowance: Allowance = NOTHING,
) -> Image:
    """Return what the file is, if it is fit to be kept as it is or to be converted.

    ``path`` is absolute. ``image_format`` is one of ``recognise.FORMATS`` and believed if given; else the content tells.
    ``shown`` is what messages call the file, such as its URL. Raises ``ImageNotFound``, ``ImageRefused``,
    ``FormatDetectionFailed``, or ``ProgramMissing`` without qemu-img.
    """
    with opened(path, shown) as content:
        chosen = image_format or recognise(content)
        image = Image(path, chosen, content.length)
        if chosen in _CHECKS:
            try:
                _CHECKS[chosen](content)
            except ValueError as exc:
                raise unreadable(content.shown, chosen, exc) from exc
        else:
            image = inspect_image(path, chosen, shown=shown, allowance=allowance)
        if allowance.passphrase is not None and not image.is_encrypted:
            raise not_encrypted(content.shown)
        if chosen == "raw":
            return image  # QEMU reads nothing out of it
        return _second_opinion(content, image)


def not_encrypted(shown: str) -> ImageRefused:
    """Return the error for a passphrase that there is no use for."""
    what = f"passphrase: {shown} is not encrypted."
    help_text = "Leave passphrase out, or check the image."
    return ImageRefused(what, help_text, mendable=True, option="passphrase")


def _second_opinion(content: Content, image: Image) -> Image:
    path, chosen = image.path, image.format
    try:
        found = qemu_img.info(path, chosen)
    except CommandFailed as exc:
        raise unreadable(content.shown, chosen, qemu_img.words(exc, path, chosen)) from exc
    link = _link(found, image)
    if link:
        raise content.refused(f"has what QEMU takes for {link}", found=link)
    check_virtual_size(content.shown, found["virtual-size"])
    try:
        qemu_img.check(path, chosen, image.passphrase)
    except CommandFailed as exc:
        if image.is_encrypted and qemu_img.is_locked(exc):
            raise ImageRefused(
                f"passphrase: it does not unlock {content.shown}.",
                "Give the passphrase of one of the image's key slots.",
                mendable=True,
                option="passphrase",
            ) from exc
        raise content.refused(
            f"is damaged, as qemu-img check says: {qemu_img.words(exc, path, chosen)}",
            "Fetch it again, or repair a copy with 'qemu-img check -r all'.",
            command=exc.details.get("command"),
        ) from exc
    return replace(image, virtual_size=found["virtual-size"])


def _link(found: Mapping[str, Any], image: Image) -> str | None:
    """Return what QEMU sees in an image although we did not."""
    special = found.get("format-specific", {}).get("data", {})
    seen = {
        "another format": found.get("format") != image.format,
        "a backing file": "backing-filename" in found,
        "a data file": "data-file" in special,
        "encryption": not image.is_encrypted
        and (bool(found.get("encrypted")) or "encrypt" in special),
        "internal snapshots": not image.snapshots and bool(found.get("snapshots")),
        "several extents": len(special.get("extents", ())) > 1,
    }
    return next((what for what, there in seen.items() if there), None)
