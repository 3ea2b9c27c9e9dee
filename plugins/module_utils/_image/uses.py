# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machines' disks rest on which files, as the machines' records tell, and the disks themselves.

A record may be older than a disk, or lost: what lies below a disk stays as long as the disk is there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .._core.errors import OverlayFailed, VmError
from .._core.handle import VmHandle
from .._core.layout import is_disk
from .._host.files import doing
from .._host.store import Store
from .own_disk import LAYERS, is_left_over, look_at_disk

_NO_PATH = re.compile(r"[^/]*:")  # QEMU takes it for a protocol, or for options


@dataclass(frozen=True)
class Uses:
    """``by_path`` has the names of machines by the real path of an image; ``unreadable`` says of which nobody knows."""

    by_path: dict[str, list[str]]
    unreadable: list[str]

    def of(self, path: str) -> list[str]:
        """Return the names of the machines whose disks rest on an image."""
        return self.by_path.get(os.path.realpath(path), [])


def look_for_uses(data_dir: str) -> Uses:
    """Look at the records and disks of all machines of a data folder. An image counts for each disk, and through layers, too."""
    store = Store(data_dir)
    handles, unreadable = read_all(store)
    users, unknown = look_below(store)
    for handle in handles:
        bases = [handle.base_image, *(record.base_image for record in handle.disks.values())]
        for path in (os.path.realpath(base) for base in bases if base is not None):
            users.setdefault(path, set()).add(handle.name)
    by_path = {path: sorted(names) for path, names in users.items()}
    return Uses(by_path, [*unreadable, *unknown])


def look_below(store: Store) -> tuple[dict[str, set[str]], list[str]]:
    """Read what the files of disks rest on, in every folder of a machine, with a record or without.

    Return the names of the folders by the real path of each file below, layers and all, and a sentence for each disk of
    which nobody knows. What a killed run has left empty does not count.
    """
    users: dict[str, set[str]] = {}
    unknown: list[str] = []
    seen: set[str] = set()
    while names := _folders(store) - seen:  # until it shows nothing new, as in read_all
        seen |= names
        for name in sorted(names):
            try:
                disks = _qcow2_disks(os.path.join(store.folder, name))
            except VmError as exc:
                unknown.append(f"The VM '{name}': {exc}")
                continue
            for disk in disks:
                try:
                    below = [] if is_left_over(disk) else list(_files_below(disk, store))
                except VmError as exc:
                    if os.path.lexists(disk):
                        unknown.append(f"The VM '{name}': {exc}")
                    continue
                for path in below:
                    users.setdefault(path, set()).add(name)
    return users, unknown


def _folders(store: Store) -> set[str]:
    with doing(f"list {store.folder}"):
        try:
            return {name for name in os.listdir(store.folder) if not name.startswith(".")}
        except FileNotFoundError:
            return set()


def _qcow2_disks(folder: str) -> list[str]:
    with doing(f"list {folder}"):
        try:
            files = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [
        os.path.join(folder, file) for file in files if is_disk(file) and file.endswith("qcow2")
    ]


def _files_below(disk: str, store: Store) -> Iterator[str]:
    """Yield the real paths of the layers below a disk, and of what the last one rests on."""
    layers = os.path.realpath(os.path.join(store.data_dir, LAYERS))
    path, seen = os.path.realpath(disk), set()
    while path not in seen:
        seen.add(path)
        below = look_at_disk(path).below
        if below is None:
            return
        if _NO_PATH.match(below):
            raise OverlayFailed(f"The disk {disk} rests on {below!r}, which is no path.")
        path = os.path.realpath(os.path.join(os.path.dirname(path), below))
        yield path
        if os.path.dirname(path) != layers or not os.path.lexists(path):
            return


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
