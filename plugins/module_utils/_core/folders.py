# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Folders of the host that guests mount. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidSpec

MAX_FOLDERS = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,35}")  # what the device has room for

_NAME_RULE = (
    "A name has 1 to 36 letters, digits, dashes and underscores, beginning with a letter or digit."
)


@dataclass(frozen=True)
class SharedFolder:
    """One folder; guests mount it by its name."""

    name: str
    path: str
    readonly: bool = False


def folders_from_params(
    items: Sequence[Mapping[str, Any]] | None,
) -> tuple[SharedFolder, ...] | None:
    """Read the option ``shared_folders``; raise ``InvalidSpec`` naming the first suboption that makes no sense."""
    if items is None:
        return None
    if len(items) > MAX_FOLDERS:
        raise InvalidSpec(
            f"shared_folders: at most {MAX_FOLDERS} are possible.", option="shared_folders"
        )
    seen: set[str] = set()
    for index, item in enumerate(items):
        name, path = item["name"], item["path"]
        if not _NAME.fullmatch(name):
            raise _invalid(index, "name", f"{name!r} cannot be used", _NAME_RULE)
        if name in seen:
            raise _invalid(index, "name", f"{name} is there twice")
        if not path.startswith("/") or not path.isprintable():
            raise _invalid(index, "path", f"{path!r} is not an absolute path")
        if "," in path:
            raise _invalid(index, "path", f"{path!r} has a comma, which virtiofsd does not take")
        seen.add(name)
    return tuple(
        SharedFolder(item["name"], item["path"], bool(item.get("readonly"))) for item in items
    )


def _invalid(index: int, suboption: str, reason: str, rule: str | None = None) -> InvalidSpec:
    option = f"shared_folders[{index}].{suboption}"
    return InvalidSpec(f"{option}: {reason}.", rule, option=option)
