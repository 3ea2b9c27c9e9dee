# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine's own disk: a qcow2 file over a base image that is never written."""

from __future__ import annotations

from .._core.errors import CommandFailed, OverlayFailed
from .._host.commands import Limits, run
from .._host.files import doing, replacing
from .inspect import Image
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


def copy_disk(source: str, form: str, path: str, base: str | None, base_format: str | None) -> None:
    """Copy a disk that no process writes, in one step; the copy rests on the same ``base`` and holds no snapshots."""
    over = [] if base is None else ["-B", base, "-F", base_format or "qcow2"]
    with doing(f"make the disk {path}"), replacing(path) as part:
        try:
            run(
                ["qemu-img", "convert", "-q", "-f", form, "-O", form, *over, source, part],
                timeout=_COPY_TIMEOUT,
            )
        except CommandFailed as exc:
            raise OverlayFailed(f"The disk {source} could not be copied: {exc}") from exc


def grow_overlay(path: str, size: int) -> None:
    """Grow a disk over an image that no process uses to ``size`` bytes."""
    grow_disk_file(path, "qcow2", size)


def grow_disk_file(path: str, form: str, size: int) -> None:
    """Grow a disk that no process uses to ``size`` bytes. Shrinking is refused by qemu-img."""
    try:
        run(["qemu-img", "resize", "-q", "-f", form, path, str(size)], limits=_LIMITS)
    except CommandFailed as exc:
        raise OverlayFailed(f"The disk {path} could not be grown: {exc}") from exc
