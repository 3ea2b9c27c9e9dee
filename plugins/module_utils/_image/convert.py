# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From an image of other hypervisors, or one that holds more than a disk, to one that a machine's disk can rest on."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace

from .._core.errors import CommandFailed, ConversionFailed
from .._host.commands import Limits, reading_from
from .._host.files import doing, replacing
from . import qemu_img
from .gate import judge
from .inspect import Image

_MIB = 1024**2
_PERCENT = re.compile(rb"\(([0-9.]+)/100%\)")

Progress = Callable[[int, "int | None"], None]  # bytes done, and in all if that is known


def convert(
    image: Image,
    target: str,
    target_format: str = "qcow2",
    *,
    shown: str | None = None,
    progress: Progress | None = None,
) -> Image:
    """Write a judged image as qcow2 or raw to ``target``, in one step, and return the new one, judged again.

    Both paths are absolute. The new image is not encrypted, and holds no snapshots. What is zero becomes a hole. A
    half-made file is never seen under that name. Raises ``ConversionFailed`` with qemu-img's words, or what ``judge``
    raises.
    """
    shown = shown or image.path
    secret = image.passphrase
    with doing(f"convert {shown}"), replacing(target) as part, qemu_img.spoken(secret) as stdin:
        source = qemu_img.node(image.path, image.format, encrypted=image.is_encrypted)
        words = [*qemu_img.unlocking(secret), "-p", "-O", target_format, source, part]
        command = ["qemu-img", "convert", *words]
        try:
            with reading_from(command, _limits(image), stdin=stdin, patience=3600) as output:
                for chunk in output:
                    _report(chunk, image.virtual_size, progress)
        except CommandFailed as exc:
            raise ConversionFailed(
                f"image: {shown} could not be converted from {image.format} to {target_format}: "
                f"{qemu_img.words(exc, image.path, image.format)}.",
                command=exc.details.get("command"),
            ) from exc
        made = judge(part, target_format, shown=f"{shown}, converted to {target_format},")
    return replace(made, path=target)


def _limits(image: Image) -> Limits:
    # Time in step with the length of the file, since data that swells a thousandfold is no disk; room for all of the
    # disk and for tables.
    length = os.path.getsize(image.path)
    return Limits(
        cpu_seconds=120 + length // (2 * _MIB),
        address_space=qemu_img.MEMORY,
        file_size=image.virtual_size + image.virtual_size // 100 + 64 * _MIB,
        wall_seconds=24 * 3600,
    )


def _report(chunk: bytes, size: int, progress: Progress | None) -> None:
    percents = _PERCENT.findall(chunk)
    if percents and progress is not None:
        progress(int(size * float(percents[-1]) / 100), size)
