# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machines' disks rest on which images, as the machines' records tell."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .._core.errors import VmError
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
    """Read the records of all machines of a data folder."""
    store = Store(data_dir)
    uses = Uses({}, [])
    for name in store.names():
        try:
            handle = store.load(name)
        except VmError as exc:
            uses.unreadable.append(f"The VM '{name}': {exc}")
            continue
        if handle is not None and handle.base_image is not None:
            uses.by_path.setdefault(os.path.realpath(handle.base_image), []).append(name)
    return uses
