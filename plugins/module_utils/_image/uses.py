# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machines' disks rest on which images, as the machines' records tell."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._core.errors import VmError
from .._core.handle import VmHandle
from .._host.store import Store


@dataclass(frozen=True)
class Uses:
    """``by_path`` has the names of machines by the real path of an image; ``unreadable`` says of which nobody knows."""

    by_path: dict[str, list[str]]
    unreadable: list[str]

    def of(self, path: str) -> list[str]:
        """Return the names of the machines whose disks rest on an image."""
        return self.by_path.get(os.path.realpath(path), [])


def look_for_uses(data_dir: str) -> Uses:
    """Read the records of all machines of a data folder. An image counts for each disk, and through layers, too."""
    handles, unreadable = read_all(Store(data_dir))
    uses = Uses({}, unreadable)
    for handle in sorted(handles, key=lambda handle: handle.name):
        bases = [handle.base_image, *(record.base_image for record in handle.disks.values())]
        for path in {os.path.realpath(base) for base in bases if base is not None}:
            uses.by_path.setdefault(path, []).append(handle.name)
    return uses


def read_all(store: Store) -> tuple[list[VmHandle], list[str]]:
    """Return the records of all machines, and a sentence for each that cannot be read.

    A machine that gets another name meanwhile is found under one of the two: a folder's listing may show neither, so
    it is listed until it shows nothing new.
    """
    handles: dict[str, VmHandle] = {}
    unreadable: dict[str, str] = {}
    while names := [name for name in store.names() if name not in {**handles, **unreadable}]:
        for name in names:
            try:
                handle = store.load(name)
            except VmError as exc:
                unreadable[name] = f"The VM '{name}': {exc}"
                continue
            if handle is not None:
                handles[name] = handle
    return list(handles.values()), list(unreadable.values())
