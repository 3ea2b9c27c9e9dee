# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make layers of what a machine's disks hold, so that linked clones can rest on them.

A disk's file gets a second name among the layers, and a new, empty file is made over it. Until the machine's record
names both, in one step for all disks, it works on the old name as before; afterwards the old name goes. So a run may be
killed anywhere: what it leaves is a name too many, which a later one takes away.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace

from .._core.disks import SYSTEM_DISK, DiskRecord
from .._core.errors import InvalidSpec, InvalidState, VmError
from .._core.handle import VmHandle
from .._core.layout import is_disk, over_layer
from .._core.spec import VmSpec
from .._core.state import VmState
from .._host.files import doing, sync
from .._host.locks import is_held
from .._host.store import Store
from .._image.inspect import Image
from .._image.layers import Layers, drop, layers_of, seal
from .._image.overlay import create_overlay
from .._image.own_disk import OwnDisk, is_left_over, look_at_disk

MOST_LAYERS = 64  # below one disk: each is a file that QEMU keeps open and looks into


def disks_to_clone(source: VmHandle, spec: VmSpec) -> list[str]:
    """Return the names of the disks of a machine that its clone gets."""
    wanted = {disk.name for disk in spec.disks or ()}
    return [SYSTEM_DISK, *(name for name in source.disks if name in wanted)]


def check_freeze(spec: VmSpec, found: VmHandle | None, store: Store) -> None:
    """Raise what would hinder a linked clone. Touches nothing."""
    begins = found is None or found.state is VmState.PREPARING
    if spec.clone_mode != "linked" or spec.clone_from is None or not begins:
        return
    while (source := store.load(spec.clone_from)) is not None:
        try:
            for name in disks_to_clone(source, spec):
                _look(name, source.all_disks[name])
        except VmError:
            if store.load(spec.clone_from) == source:
                raise
            continue  # another task has just made layers
        return


def freeze(vm: VmHandle, names: Sequence[str], store: Store) -> VmHandle:
    """Make layers of the disks ``names`` of a machine that is off; return its record, by which each is blank.

    A disk that is blank already stays as it is. The machine's lock must be held.
    """
    layers = Layers(store)
    with layers.changing():
        _tidy(vm)
        before, after = vm.all_disks, {}
        try:
            for name in names:
                found = _look(name, before[name])
                if not found.is_blank:
                    _refuse_open(before[name])
                    after[name] = _lift(before[name], found.virtual_size, layers)
        except BaseException:
            for record in after.values():
                drop(record.path)
                drop(record.layers[0])
            raise
        if not after:
            return vm
        vm = store.save(vm.with_disks(after))
        for name, record in after.items():
            drop(before[name].path)
            seal(record.layers[0])
        with doing(f"write {vm.work_dir}"):
            sync(vm.work_dir)
    return vm


def _look(name: str, record: DiskRecord) -> OwnDisk:
    """Look at a disk; raise if nothing can be made to rest on it."""
    if record.format != "qcow2":
        raise _refused(f"the disk '{name}' ({record.path}) is {record.format}, not qcow2")
    found = look_at_disk(record.path)
    if found.fault is not None:
        raise _refused(f"the disk '{name}' ({record.path}) {found.fault}")
    if len(record.layers) >= MOST_LAYERS and not found.is_blank:
        raise _refused(
            f"the disk '{name}' ({record.path}) rests on {len(record.layers)} layers, which is the most",
            "Make a full clone, which rests on no layer, and clone that one from now on.",
        )
    return found


def _refuse_open(record: DiskRecord) -> None:
    # It would go on writing to what has become a layer. QEMU's own programs lock what they open.
    if is_held(record.path):
        raise InvalidState(
            f"clone_mode: another program has the disk {record.path} open.",
            f"Find it with: fuser -v {record.path}",
            option="clone_mode",
        )


def _refused(what: str, help_text: str = "Use clone_mode: full.") -> InvalidSpec:
    return InvalidSpec(f"clone_mode: {what}.", help_text, option="clone_mode")


def _lift(record: DiskRecord, size: int, layers: Layers) -> DiskRecord:
    """Name the file of a disk among the layers and make an empty one over it; return what the record is to say."""
    folder, file = os.path.split(record.path)
    key, layer = layers.add(record.path)
    path = os.path.join(folder, over_layer(file, key))
    try:
        create_overlay(path, Image(layer, "qcow2", size), size)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(layer)
        raise
    return replace(record, path=path, layers=(layer, *record.layers))


def _tidy(vm: VmHandle) -> None:
    """Finish what a run that was killed has left: names that the record does not, and layers that can be written."""
    named = {os.path.basename(record.path) for record in vm.all_disks.values()}
    layers = layers_of(vm)
    for layer in layers:
        seal(layer)
    with doing(f"look through {vm.work_dir}"):
        files = [file for file in os.listdir(vm.work_dir) if is_disk(file) and file not in named]
        sealed = [os.stat(layer) for layer in layers]
        for path in (os.path.join(vm.work_dir, file) for file in files):
            found = os.lstat(path)
            is_layer = any(os.path.samestat(found, layer) for layer in sealed)
            # Any other is left alone: the record may be an old one.
            if is_layer or is_left_over(path):
                drop(path)
