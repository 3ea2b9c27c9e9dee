# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks and firmware variables of a machine that is made from another one.

A copy holds what the other guest wrote; the image below is shared, as between all machines that were made from it.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import replace

from .._core.errors import InvalidSpec, InvalidState
from .._core.handle import VmHandle
from .._core.layout import OVERLAY, data_disk
from .._core.state import VmState
from .._host.files import doing, read_private, write_atomically
from .._host.store import Store
from .._image.overlay import copy_disk
from .identity import find_process


def new_generation() -> str:
    """Return what tells a guest whether it is a copy: another one for each machine."""
    return str(uuid.uuid4())


def copy_machine(vm: VmHandle, store: Store) -> VmHandle:
    """Copy the disks of the machine that ``vm`` is a clone of; return the record of the complete clone."""
    source = _source(vm, store)
    overlay = os.path.join(vm.work_dir, OVERLAY)
    form = source.spec.image_format or "qcow2"
    copy_disk(source.overlay_path or "", "qcow2", overlay, source.base_image, form)
    disks = {}
    for name, record in source.disks.items():
        if any(disk.name == name for disk in vm.spec.disks or ()):
            path = os.path.join(vm.work_dir, data_disk(name, record.format))
            copy_disk(record.path, record.format, path, record.base_image, record.base_format)
            disks[name] = replace(record, path=path)
    for firmware in source.firmware.values():
        nvram = os.path.join(source.work_dir, firmware.nvram)
        with doing(f"copy {nvram}"):
            write_atomically(os.path.join(vm.work_dir, firmware.nvram), read_private(nvram))
    return store.save(
        vm.evolve(
            state=VmState.PREPARED,
            overlay_path=overlay,
            disk_bytes=source.disk_bytes,
            base_image=source.base_image,
            disks=disks,
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
