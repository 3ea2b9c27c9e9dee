# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""qemu-img for files that nobody has vouched for: the format is always said, and it gets no more than it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .._core.errors import CommandFailed
from .._host.commands import Limits, run

MEMORY = 2 * 1024**3
# Neither writes anything; a file of no length is what they may make.
_LOOK = Limits(cpu_seconds=10, address_space=MEMORY, file_size=0, wall_seconds=60)
_CHECK = Limits(cpu_seconds=120, address_space=MEMORY, file_size=0, wall_seconds=600)
_LEAKS, _NO_CHECK = 3, 63  # statuses: space that nothing uses; a format without a check


def node(path: str, image_format: str) -> str:
    """Return the name under which QEMU opens exactly this file in this format, and no file that it depends on.

    Without it, QEMU would take a name such as ``nbd:...`` for a protocol.
    """
    layer: dict[str, object] = {
        "driver": image_format,
        "file": {"driver": "file", "filename": path},
    }
    if image_format != "raw":
        layer["backing"] = None
    return "json:" + json.dumps(layer)


def info(path: str, image_format: str) -> Mapping[str, Any]:
    """Return what ``qemu-img info`` tells; raise ``CommandFailed``, also if it tells nothing of use."""
    told = run(["qemu-img", "info", "--output=json", node(path, image_format)], limits=_LOOK)
    try:
        found = json.loads(told.stdout)
    except ValueError as exc:
        raise CommandFailed("qemu-img info gave no JSON.") from exc
    if not isinstance(found, dict) or not isinstance(found.get("virtual-size"), int):
        raise CommandFailed("qemu-img info gave no size.")
    return found


def check(path: str, image_format: str) -> None:
    """Raise ``CommandFailed`` if ``qemu-img check`` finds errors. Space that nothing uses is none."""
    try:
        run(["qemu-img", "check", "-q", node(path, image_format)], limits=_CHECK)
    except CommandFailed as exc:
        if exc.details.get("status") not in (_LEAKS, _NO_CHECK):
            raise


def words(exc: CommandFailed, path: str, image_format: str) -> str:
    """Return what qemu-img said, as a part of a sentence, with the plain path in place of our name for it."""
    said = str(exc.details.get("output") or exc.message)
    said = said.replace(node(path, image_format), path).replace("qemu-img: ", "")
    return "; ".join(line.strip() for line in said.splitlines()[:3]).rstrip(".")
