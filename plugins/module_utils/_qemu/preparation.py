# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make the files of a machine, or bring those of an existing one up to its spec."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from .._core.cloud_init import next_instance
from .._core.errors import BadRecord, PortUnavailable
from .._core.handle import VmHandle
from .._core.layout import (
    ALIVE_LOCK,
    CONSOLE_SOCKET,
    KNOWN_HOSTS,
    OVERLAY,
    QMP_SOCKET,
    is_guests,
)
from .._core.spec import PortRange, VmSpec
from .._core.state import VmState
from .._guest.identity import choose_port, complete_macs, new_id
from .._guest.material import make_material
from .._host.files import doing
from .._host.ports import is_free
from .._host.store import Store
from .._image.inspect import check_disk_size
from .._image.overlay import create_overlay, grow_overlay
from .._image.provide import keeping, provide_image
from .cloning import copy_machine, new_generation
from .disk_files import grow_disks, make_disks
from .firmware import make_nvram


def create(spec: VmSpec, found: VmHandle | None, store: Store) -> VmHandle:
    """Make all files of a machine; ``found`` is what an unfinished run has left. The record comes first."""
    image = provide_image(spec, store.data_dir)
    check_disk_size(image, spec.disk_size)
    spec = replace(spec, image_format=image.format)
    handle = _with_spec(found, spec) if found else _new_handle(spec, store)
    with keeping(image, store.data_dir):
        handle = reserve(handle.evolve(base_image=image.path), store)
    handle = make_material(handle)
    if spec.clone_from is not None:
        handle = make_nvram(make_disks(copy_machine(handle, store), store), store)
        return grow_disk(handle, store)
    overlay = os.path.join(handle.work_dir, OVERLAY)
    size = spec.disk_size or image.virtual_size
    # What was left half way has never been started: its disk holds nothing yet, and may have another size.
    if found or not os.path.exists(overlay):
        create_overlay(overlay, image, size)
    handle = make_nvram(make_disks(handle, store), store)
    return store.save(handle.evolve(state=VmState.PREPARED, overlay_path=overlay, disk_bytes=size))


def update(spec: VmSpec, found: VmHandle, store: Store, running: bool) -> VmHandle:
    """Record a changed spec; grow the disk now if no process uses it, else at the next start."""
    handle = make_disks(reserve(_with_spec(found, spec), store), store)
    handle = make_nvram(handle, store)
    return handle if running else grow_disk(handle, store)


def ensure_seed(handle: VmHandle, store: Store) -> VmHandle:
    """Write the seed anew if cloud-init is told something else than before. No process may use it."""
    if not handle.seed_stale:
        return handle
    made = make_material(handle)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(handle.work_dir, KNOWN_HOSTS))  # a new instance makes new host keys
    return store.save(made)


def ensure_port(handle: VmHandle, store: Store) -> VmHandle:
    """Make sure that the port for SSH can be listened on; a machine that never ran may get another one.

    Raises ``PortUnavailable`` if somebody else listens on the port of a machine that keeps it.
    """
    if not lost_port(handle):
        return handle
    if handle.booted is None:
        return reserve(handle.evolve(ssh_host_port=None), store)
    port = handle.ssh_host_port
    raise PortUnavailable(
        f"Another program listens on port {port}, which the VM '{handle.name}' keeps for SSH.",
        port=port,
    )


def lost_port(handle: VmHandle) -> bool:
    """Tell whether somebody else listens on the port that was reserved for the machine's SSH."""
    port = handle.ssh_host_port
    return port is not None and handle.spec.has_user_network and not is_free(port)


def refuse_wrong_record(name: str, found: VmHandle | None, store: Store) -> None:
    """Raise ``BadRecord`` if what a guest wrote would be written over because a record is lost, or an old one."""
    if found is None:
        _refuse_lost_record(name, store)
    elif found.state is VmState.PREPARING:
        alive = os.path.join(found.work_dir, ALIVE_LOCK)
        if os.path.lexists(alive):
            raise BadRecord(
                f"The record of the VM '{found.name}' says that it was never complete, but {alive} says that it has "
                "run: the record is an old one.",
                "Restore a newer vm.json. To make the machine anew, without what its guest wrote, remove it first.",
                path=alive,
            )


def _refuse_lost_record(name: str, store: Store) -> None:
    folder = store.work_dir(name)
    if not os.path.isdir(folder):
        return
    with doing(f"list {folder}"):
        written = sorted(filter(is_guests, os.listdir(folder)))
    # Asked in this order, a machine that another task makes meanwhile is not taken for a lost one.
    if written and store.load(name) is None:
        path = os.path.join(folder, written[0])
        raise BadRecord(
            f"There is no record of a VM '{name}', but what a guest wrote is there: {path}.",
            "Move it away to keep it, or restore the record vm.json beside it.",
            path=path,
        )


def grow_disk(handle: VmHandle, store: Store) -> VmHandle:
    """Make the disk as large as the spec says. No process may use it."""
    handle = grow_disks(handle, store)
    wanted = handle.spec.disk_size
    if handle.overlay_path is None or wanted is None or wanted == handle.disk_bytes:
        return handle
    grow_overlay(handle.overlay_path, wanted)
    return store.save(handle.evolve(disk_bytes=wanted))


def reserve(handle: VmHandle, store: Store) -> VmHandle:
    """Write the record, with a MAC address and a port reserved if the machine needs and lacks them."""
    if not handle.spec.networks:
        return store.save(handle)
    with store.reservations() as others:
        handle = complete_macs(handle, [other for other in others if other.name != handle.name])
        if handle.spec.has_user_network and handle.ssh_host_port is None:
            ports = handle.spec.ssh_port_range or PortRange()
            handle = handle.evolve(ssh_host_port=choose_port(handle, ports, others))
        return store.save(handle)


def _with_spec(handle: VmHandle, spec: VmSpec) -> VmHandle:
    return next_instance(handle, spec).evolve(uefi=spec.firmware == "uefi")


def _new_handle(spec: VmSpec, store: Store) -> VmHandle:
    work_dir = store.work_dir(spec.name)
    return VmHandle(
        id=new_id("qemu"),
        name=spec.name,
        backend="qemu",
        work_dir=work_dir,
        spec=spec,
        uefi=spec.firmware == "uefi",
        generation=new_generation(),
        qmp_socket=os.path.join(work_dir, QMP_SOCKET),
        console_socket=os.path.join(work_dir, CONSOLE_SOCKET),
    )
