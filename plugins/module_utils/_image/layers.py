# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The layers of one data folder, in ``<data_dir>/layers/``: what was a machine's disk once, and is shared since.

A layer begins as a second name for the disk's file. It becomes one when a record says so: from then on nobody writes
it, and the first name goes. The records of machines name all layers that their disks rest on, and so do the disks: a
layer that neither names is needed by nobody. Whoever makes that so, or takes names away, holds the lock of the folder;
it is the last lock that a task takes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from itertools import chain

from .._core.errors import HostError
from .._core.handle import VmHandle
from .._core.layout import RECORD, is_disk, is_over_layer
from .._host.files import doing, make_private_folder, refuse_foreign_folder, sync
from .._host.locks import exclusive
from .._host.store import Store
from .own_disk import LAYERS, is_left_over
from .uses import look_below, read_all

_A_MOMENT = 30.0  # seconds to wait for a task that makes layers
_LAYER = re.compile(r"[0-9a-f]{16}\.qcow2")
_READ_ONLY = 0o400


class Layers:
    """The layers of one data folder."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = os.path.join(store.data_dir, LAYERS)

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
        """Remove the layers that nothing names; return warnings. Nothing is removed if a record or disk cannot be read."""
        if not self._unused()[0]:
            return []
        with self.changing():
            unused, doubts = self._unused()
            for doubt in doubts:
                return [
                    f"Nobody knows which layers in {self.folder} are needed, so none was removed: {doubt}"
                ]
            for name in unused:
                drop(os.path.join(self.folder, name))
        return []

    def _unused(self) -> tuple[list[str], Iterator[str]]:
        """Return the files of layers that nothing readable names, and sentences that say why these may be too many."""
        try:
            there = [name for name in sorted(os.listdir(self.folder)) if _LAYER.fullmatch(name)]
        except FileNotFoundError:
            return [], iter(())
        except OSError as exc:
            with doing(f"list {self.folder}"):
                raise exc
        if not there:
            return [], iter(())
        handles, unknown = read_all(self._store)
        # By their names, which are unique: the path to the data folder can be written in more than one way.
        named = chain.from_iterable(map(layers_of, handles))
        below, unreadable = look_below(self._store)
        used = set(map(os.path.basename, chain(named, below)))
        known = {handle.name for handle in handles}
        old = chain.from_iterable(map(self._signs_of_age, handles))
        doubts = chain(unknown, unreadable, self._orphans(known), old)
        return [name for name in there if name not in used], doubts

    def _signs_of_age(self, vm: VmHandle) -> Iterator[str]:
        """Yield a sentence for each sign that a record is older than the machine's disks, and so names too few layers."""
        may_be_old = f"the {RECORD} of the VM '{vm.name}' may be an old one."
        with doing(f"look through {vm.work_dir}"):
            there = os.listdir(vm.work_dir) if os.path.isdir(vm.work_dir) else []
            paths = [record.path for record in vm.all_disks.values() if record.path]
            named = set(map(os.path.basename, paths))
            gone = sorted(named.difference(there))
            if gone and self._store.load(vm.name) == vm:  # else another task has just changed it
                yield f"Its disk {gone[0]} is gone: {may_be_old}"
            for name in sorted(set(filter(is_over_layer, there)) - named):
                path = os.path.join(vm.work_dir, name)
                # One that has become a layer is what a killed run has left, too.
                if os.stat(path).st_nlink == 1 and not is_left_over(path):
                    yield f"{path} is not in its record: {may_be_old}"

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
