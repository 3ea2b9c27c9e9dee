# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make the files of a machine, or bring those of an existing one up to its spec."""

from __future__ import annotations

import os
from dataclasses import replace

from .._core.errors import BadRecord, ImageNotFound, PortUnavailable
from .._core.handle import VmHandle
from .._core.layout import CONSOLE_SOCKET, HOST_KEY, OVERLAY, PRIVATE_KEY, QMP_SOCKET, SEED
from .._core.spec import CloudInit, PortRange, VmSpec
from .._core.state import VmState
from .._guest.identity import choose_port, complete_macs, new_id
from .._guest.iso import write_iso
from .._guest.keys import make_key_pair
from .._guest.seed import HostKey, seed_files
from .._host.files import read_private
from .._host.ports import is_free
from .._host.store import Store
from .._image.inspect import check_disk_size, inspect_image
from .._image.overlay import create_overlay, grow_overlay


def needs_key_pair(spec: VmSpec) -> bool:
    """Tell whether the user gave no keys, so that the machine gets a pair of its own."""
    return spec.cloud_init is None or spec.cloud_init.ssh_authorized_keys is None


def create(spec: VmSpec, found: VmHandle | None, store: Store) -> VmHandle:
    """Make all files of a machine; ``found`` is what an unfinished run has left. The record comes first."""
    image = inspect_image(_image_path(spec), spec.image_format)
    check_disk_size(image, spec.disk_size)
    spec = replace(spec, image_format=image.format)
    handle = reserve(found.evolve(spec=spec) if found else _new_handle(spec, store), store)
    key = None
    if needs_key_pair(spec):
        path = os.path.join(handle.work_dir, PRIVATE_KEY)
        key = make_key_pair(path, comment=spec.name)
        handle = handle.evolve(private_key_path=path)
    host_key = _host_key(handle)
    if host_key is not None:
        handle = handle.evolve(host_key=" ".join(host_key.public.split()[:2]))
    seed = os.path.join(handle.work_dir, SEED)
    cloud_init = spec.cloud_init or CloudInit()
    write_iso(seed, seed_files(cloud_init, handle.name, handle.id, key, host_key))
    overlay = os.path.join(handle.work_dir, OVERLAY)
    size = spec.disk_size or image.virtual_size
    # What was left half way has never been started: its disk holds nothing yet, and may have another size.
    if found or not os.path.exists(overlay):
        create_overlay(overlay, image, size)
    paths = {"overlay_path": overlay, "seed_iso_path": seed}
    return store.save(handle.evolve(state=VmState.PREPARED, disk_bytes=size, **paths))


def update(spec: VmSpec, found: VmHandle, store: Store, running: bool) -> VmHandle:
    """Record a changed spec; grow the disk now if no process uses it, else at the next start."""
    handle = reserve(found.evolve(spec=spec), store)
    return handle if running else grow_disk(handle, store)


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


def refuse_unknown_disk(name: str, found: VmHandle | None, store: Store) -> None:
    """Raise ``BadRecord`` if a new machine's folder holds a disk already: its record is lost, its data may matter."""
    disk = os.path.join(store.work_dir(name), OVERLAY)
    # Asked in this order, a machine that another task makes meanwhile is not taken for a lost one.
    if found is None and os.path.exists(disk) and store.load(name) is None:
        raise BadRecord(
            f"There is no record of a VM '{name}', but its disk {disk} is there.",
            "Move the disk away to keep it, or restore the record vm.json beside it.",
            path=disk,
        )


def grow_disk(handle: VmHandle, store: Store) -> VmHandle:
    """Make the disk as large as the spec says. No process may use it."""
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
            handle = handle.evolve(ssh_host_port=choose_port(handle.name, ports, others))
        return store.save(handle)


def _new_handle(spec: VmSpec, store: Store) -> VmHandle:
    work_dir = store.work_dir(spec.name)
    return VmHandle(
        id=new_id("qemu"),
        name=spec.name,
        backend="qemu",
        work_dir=work_dir,
        spec=spec,
        qmp_socket=os.path.join(work_dir, QMP_SOCKET),
        console_socket=os.path.join(work_dir, CONSOLE_SOCKET),
    )


def _image_path(spec: VmSpec) -> str:
    if spec.image is None:
        raise ImageNotFound(f"The record of the VM '{spec.name}' names no image.", option="image")
    return spec.image


def _host_key(handle: VmHandle) -> HostKey | None:
    cloud_init = handle.spec.cloud_init
    if cloud_init is None or not cloud_init.ssh_host_key:
        return None
    path = os.path.join(handle.work_dir, HOST_KEY)
    public = make_key_pair(path, comment=handle.name)
    return HostKey(read_private(path).decode(), public)
