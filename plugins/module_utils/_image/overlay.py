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


def grow_overlay(path: str, size: int) -> None:
    """Grow a disk that no process uses to ``size`` bytes. Shrinking is refused by qemu-img."""
    try:
        run(["qemu-img", "resize", "-q", "-f", "qcow2", path, str(size)], limits=_LIMITS)
    except CommandFailed as exc:
        raise OverlayFailed(f"The disk {path} could not be grown: {exc}") from exc
