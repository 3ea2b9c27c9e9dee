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
from typing import Any

from .._core.errors import CommandFailed
from . import qemu_img
from .content import Content, opened
from .inspect import Image, check_virtual_size, inspect_image, unreadable
from .recognise import recognise
from .virtual_disks import check_vdi, check_vhdx, check_vpc
from .vmdk import check_vmdk

_CHECKS = {"vmdk": check_vmdk, "vdi": check_vdi, "vhdx": check_vhdx, "vpc": check_vpc}


def judge(path: str, image_format: str | None, *, shown: str | None = None) -> Image:
    """Return what the file is, if it is fit to be kept as it is or to be converted.

    ``path`` is absolute. ``image_format`` is one of ``recognise.FORMATS`` and believed if given; else the content tells.
    ``shown`` is what messages call the file, such as its URL. Raises ``ImageNotFound``, ``ImageRefused``,
    ``FormatDetectionFailed``, or ``ProgramMissing`` without qemu-img.
    """
    with opened(path, shown) as content:
        chosen = image_format or recognise(content)
        if chosen in _CHECKS:
            try:
                _CHECKS[chosen](content)
            except ValueError as exc:
                raise unreadable(content.shown, chosen, exc) from exc
        else:
            chosen = inspect_image(path, chosen, shown=shown).format
        if chosen == "raw":
            return Image(path, "raw", content.length)  # QEMU reads nothing out of it
        return _second_opinion(content, path, chosen)


def _second_opinion(content: Content, path: str, chosen: str) -> Image:
    try:
        found = qemu_img.info(path, chosen)
    except CommandFailed as exc:
        raise unreadable(content.shown, chosen, qemu_img.words(exc, path, chosen)) from exc
    link = _link(found, chosen)
    if link:
        raise content.refused(f"has what QEMU takes for {link}", found=link)
    check_virtual_size(content.shown, found["virtual-size"])
    try:
        qemu_img.check(path, chosen)
    except CommandFailed as exc:
        raise content.refused(
            f"is damaged, as qemu-img check says: {qemu_img.words(exc, path, chosen)}",
            "Fetch it again, or repair a copy with 'qemu-img check -r all'.",
            command=exc.details.get("command"),
        ) from exc
    return Image(path, chosen, found["virtual-size"])


def _link(found: Mapping[str, Any], chosen: str) -> str | None:
    """Return what QEMU sees in an image although we did not."""
    special = found.get("format-specific", {}).get("data", {})
    seen = {
        "another format": found.get("format") != chosen,
        "a backing file": "backing-filename" in found,
        "a data file": "data-file" in special,
        "encryption": bool(found.get("encrypted")) or "encrypt" in special,
        "internal snapshots": bool(found.get("snapshots")),
        "several extents": len(special.get("extents", ())) > 1,
    }
    return next((what for what, there in seen.items() if there), None)
