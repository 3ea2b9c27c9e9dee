# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layers of one data folder, in ``<data_dir>/layers/``: what was a machine's disk once, and is shared since.

A layer begins as a second name for the disk's file. It becomes one when a record says so: from then on nobody writes
it, and the first name goes. The records of machines name all layers that their disks rest on, so one that no record
names is needed by nobody. Whoever makes that so, or takes names away, holds the lock of the folder; it is the last lock
that a task takes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator

from .._core.errors import HostError
from .._core.handle import VmHandle
from .._core.layout import RECORD, is_disk
from .._host.files import doing, make_private_folder, refuse_foreign_folder, sync
from .._host.locks import exclusive
from .._host.store import Store
from .uses import read_all

_A_MOMENT = 30.0  # seconds to wait for a task that makes layers
_LAYER = re.compile(r"[0-9a-f]{16}\.qcow2")
_READ_ONLY = 0o400


class Layers:
    """The layers of one data folder."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = os.path.join(store.data_dir, "layers")

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Keep others from making layers and from removing them."""
        refuse_foreign_folder(self._store.data_dir, "data_dir", stat.S_IWOTH)
        refuse_foreign_folder(self.folder, "data_dir")
        make_private_folder(self.folder)
        with exclusive(self.folder, _A_MOMENT, f"the layers in {self.folder}"):
            yield

    def add(self, disk: str) -> tuple[str, str]:
        """Give the file of a disk a second name here; return its key and its path. It is not a layer yet."""
        key = secrets.token_hex(8)
        path = os.path.join(self.folder, f"{key}.qcow2")
        try:
            os.link(disk, path, follow_symlinks=False)
            sync(self.folder)
        except OSError as exc:
            raise HostError(
                f"clone_mode: {disk} cannot get a second name in {self.folder}: {exc.strerror}.",
                "Linked clones need both on one file system that has hard links. Use clone_mode: full.",
                path=disk,
                option="clone_mode",
            ) from exc
        return key, path

    def collect(self) -> list[str]:
        """Remove the layers that no record names; return warnings. Nothing is removed if a record cannot be read."""
        if not self._unused()[0]:
            return []
        with self.changing():
            unused, unknown = self._unused()
            if unknown:
                return [
                    f"Nobody knows which layers in {self.folder} are needed, so none was removed: {unknown[0]}"
                ]
            for name in unused:
                drop(os.path.join(self.folder, name))
        return []

    def _unused(self) -> tuple[list[str], list[str]]:
        """Return the files of layers that no readable record names, and sentences about what cannot be read."""
        try:
            there = [name for name in sorted(os.listdir(self.folder)) if _LAYER.fullmatch(name)]
        except FileNotFoundError:
            return [], []
        except OSError as exc:
            with doing(f"list {self.folder}"):
                raise exc
        if not there:
            return [], []
        handles, unknown = read_all(self._store)
        # By their names, which are unique: the path to the data folder can be written in more than one way.
        used = {os.path.basename(path) for handle in handles for path in layers_of(handle)}
        known = {handle.name for handle in handles}
        return [name for name in there if name not in used], [*unknown, *self._orphans(known)]

    def _orphans(self, known: Iterable[str]) -> Iterator[str]:
        """Yield a sentence for each folder that has disks but no record that was read, and may get it back."""
        with doing(f"list {self._store.folder}"):
            for name in sorted(os.listdir(self._store.folder)):
                folder = os.path.join(self._store.folder, name)
                if name.startswith(".") or name in known or not os.path.isdir(folder):
                    continue
                if any(map(is_disk, os.listdir(folder))):
                    yield f"{folder} holds disks without a {RECORD} that could be read."


def layers_of(vm: VmHandle) -> set[str]:
    """Return the paths of all layers that the disks of a machine rest on."""
    return {path for record in vm.all_disks.values() for path in record.layers}


def drop(path: str) -> None:
    """Take a name away; what it names stays as long as it has another one."""
    with doing(f"remove {path}"), contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def seal(path: str) -> None:
    """Make a layer that a record names read-only."""
    with doing(f"make {path} read-only"):
        if stat.S_IMODE(os.stat(path).st_mode) != _READ_ONLY:
            os.chmod(path, _READ_ONLY)
            sync(path)
