# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks and firmware variables of a machine that is made from another one.

A copy holds what the other guest wrote; the image below is shared, as between all machines that were made from it. A
linked clone shares the layers above the image, too.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import replace

from .._core.disks import SYSTEM_DISK
from .._core.errors import InvalidSpec, InvalidState
from .._core.handle import VmHandle
from .._core.layout import OVERLAY, data_disk
from .._core.state import VmState
from .._host.files import doing, read_private, write_atomically
from .._host.store import Store
from .._image.overlay import branch_disk, copy_disk
from .freezing import disks_to_clone, freeze
from .identity import find_process


def new_generation() -> str:
    """Return what tells a guest whether it is a copy: another one for each machine."""
    return str(uuid.uuid4())


def copy_machine(vm: VmHandle, store: Store) -> VmHandle:
    """Copy the disks of the machine that ``vm`` is a clone of; return the record of the complete clone."""
    source = _source(vm, store)
    linked = vm.spec.clone_mode == "linked"
    names = disks_to_clone(source, vm.spec)
    if linked:
        source = freeze(source, names, store)
    found, made = source.all_disks, {}
    for name in names:
        record = found[name]
        file = OVERLAY if name == SYSTEM_DISK else data_disk(name, record.format)
        path = os.path.join(vm.work_dir, file)
        if linked:
            branch_disk(record, path)
            made[name] = replace(record, path=path)
        else:
            copy_disk(record, path)
            made[name] = replace(record, path=path, layers=())
    system = made.pop(SYSTEM_DISK)
    for firmware in source.firmware.values():
        nvram = os.path.join(source.work_dir, firmware.nvram)
        with doing(f"copy {nvram}"):
            write_atomically(os.path.join(vm.work_dir, firmware.nvram), read_private(nvram))
    return store.save(
        vm.evolve(
            state=VmState.PREPARED,
            spec=replace(vm.spec, image_format=source.spec.image_format),
            overlay_path=system.path,
            disk_bytes=source.disk_bytes,
            base_image=source.base_image,
            layers=system.layers,
            disks=made,
            firmware=source.firmware,
            machine_types=source.machine_types,
        )
    )


def _source(vm: VmHandle, store: Store) -> VmHandle:
    name = vm.spec.clone_from or ""
    source = store.load(name)
    if source is None:
        raise InvalidSpec(
            f"clone_from: the VM '{name}' is gone, and '{vm.name}' was not complete yet.",
            f"Remove '{vm.name}' with state=absent.",
            option="clone_from",
        )
    process = find_process(source.work_dir)
    if process is not None:
        os.close(process.fd)
        raise InvalidState(f"The VM '{name}' runs, so it cannot be cloned.", "Stop it first.")
    return source
