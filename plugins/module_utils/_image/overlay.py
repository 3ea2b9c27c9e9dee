# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine's own disk: a qcow2 file over a base image that is never written."""

from __future__ import annotations

import contextlib
import os

from .._core.disks import DiskRecord
from .._core.errors import CommandFailed, OverlayFailed
from .._host.commands import Limits, run
from .._host.files import doing, replacing
from .inspect import Image
from .own_disk import look_at_disk
from .qemu_img import MEMORY

_LIMITS = Limits(cpu_seconds=60, address_space=MEMORY, wall_seconds=120)

_COPY_TIMEOUT = 6 * 3600.0


def create_overlay(path: str, image: Image, size: int) -> None:
    """Make the disk ``path`` of ``size`` bytes in one step; a half-made one is never seen under that name."""
    base = ["-b", image.path, "-F", image.format]
    with doing(f"make the disk {path}"), replacing(path) as part:
        try:
            run(["qemu-img", "create", "-q", "-f", "qcow2", *base, part, str(size)], limits=_LIMITS)
        except CommandFailed as exc:
            raise OverlayFailed(
                f"The disk {path} could not be made: {exc}", image=image.path
            ) from exc


def create_disk(path: str, form: str, size: int) -> None:
    """Make an empty disk of ``size`` bytes in one step."""
    with doing(f"make the disk {path}"), replacing(path) as part:
        try:
            run(["qemu-img", "create", "-q", "-f", form, part, str(size)])
        except CommandFailed as exc:
            raise OverlayFailed(f"The disk {path} could not be made: {exc}") from exc


def copy_disk(source: DiskRecord, path: str) -> None:
    """Copy a disk that no process writes, in one step.

    The copy rests on the same image, but on no layers, and holds no snapshots.
    """
    with doing(f"make the disk {path}"), replacing(path) as part:
        try:
            if source.layers and source.base_image is not None:
                _flatten(source, part)
            else:
                _convert(source, part, source.base_image, source.base_format)
        except CommandFailed as exc:
            raise OverlayFailed(f"The disk {source.path} could not be copied: {exc}") from exc


def _convert(source: DiskRecord, part: str, below: str | None, form: str | None) -> None:
    """Copy what a disk holds above the next file below it, or all of it if the copy is to rest on nothing."""
    over = [] if below is None else ["-B", below, "-F", form or "qcow2"]
    formats = ["-f", source.format, "-O", source.format]
    run(
        ["qemu-img", "convert", "-q", *formats, *over, source.path, part],
        timeout=_COPY_TIMEOUT,
    )


def _flatten(source: DiskRecord, part: str) -> None:
    """Copy what a disk and its layers hold above the image."""
    # convert leaves out what the layers hold, and rebase takes it in. Up to QEMU 8.0, rebase never ends if the disk is
    # larger than the next file below it: so that is an empty one of the same size.
    below = f"{part}.below"
    try:
        over = ["-b", source.layers[0], "-F", "qcow2"]
        size = str(look_at_disk(source.path).virtual_size)
        run(["qemu-img", "create", "-q", "-f", "qcow2", *over, below, size], limits=_LIMITS)
        _convert(source, part, below, "qcow2")
        image = ["-b", source.base_image or "", "-F", source.base_format or "qcow2"]
        run(["qemu-img", "rebase", "-q", "-f", "qcow2", *image, part], timeout=_COPY_TIMEOUT)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(below)


def branch_disk(source: DiskRecord, path: str) -> None:
    """Make an empty disk that rests on what a disk, which is blank, rests on: both then hold the same."""
    size = look_at_disk(source.path).virtual_size
    if source.layers:
        create_overlay(path, Image(source.layers[0], "qcow2", size), size)
    elif source.base_image is not None:
        create_overlay(path, Image(source.base_image, source.base_format or "qcow2", size), size)
    else:
        create_disk(path, source.format, size)


def grow_overlay(path: str, size: int) -> None:
    """Grow a disk over an image that no process uses to ``size`` bytes."""
    grow_disk_file(path, "qcow2", size)


def grow_disk_file(path: str, form: str, size: int) -> None:
    """Grow a disk that no process uses to ``size`` bytes. Shrinking is refused by qemu-img."""
    try:
        run(["qemu-img", "resize", "-q", "-f", form, path, str(size)], limits=_LIMITS)
    except CommandFailed as exc:
        raise OverlayFailed(f"The disk {path} could not be grown: {exc}") from exc
