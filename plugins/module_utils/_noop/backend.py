# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backend without a hypervisor, for testing playbooks: every verb succeeds at once, and the record says so."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from .._core.claims import Port
from .._core.cloud_init import next_instance
from .._core.disks import SYSTEM_DISK, DiskRecord
from .._core.errors import NoGuestAddress
from .._core.features import Features
from .._core.handle import VmHandle
from .._core.live import Change, Hotplug
from .._core.spec import PortRange, VmSpec
from .._core.state import VmState
from .._core.vm import ConsoleEndpoint, Vm
from .._guest.identity import complete_macs, new_id, preferred_port
from .._host.ports import LOOPBACK
from .._host.store import Store


class NoopBackend:
    """The backend ``noop``."""

    tag = "noop"
    features = Features(
        suspend=True,
        network_types=("user", "bridge", "tap", "vnic"),
        accelerators=("kvm", "tcg"),
        needs_image=False,
        rename=True,
        rerun_cloud_init=True,
        clone=True,
        hotplug=Hotplug(
            vcpus=True,
            memory=True,
            grow_buses=("virtio-blk", "virtio-scsi"),
            limits=True,
            cdrom=True,
            disk_buses=("virtio-blk", "virtio-scsi", "nvme"),
            network_types=("user", "bridge", "tap", "vnic"),
            cable=True,
        ),
    )

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, spec: VmSpec, found: VmHandle | None) -> None:
        """Nothing can hinder it."""

    def check_start(self, spec: VmSpec, found: VmHandle | None, released: Set[Port]) -> None:
        """Nothing can hinder it."""

    def prepare(self, spec: VmSpec, found: VmHandle | None = None) -> VmHandle:
        """Write the record. The port is that of the name and not reserved: nobody listens on it."""
        work_dir = self._store.work_dir(spec.name)
        handle = found or VmHandle(
            id=new_id(self.tag), name=spec.name, backend=self.tag, work_dir=work_dir, spec=spec
        )
        handle = _with_disks(next_instance(handle, spec).evolve(uefi=spec.firmware == "uefi"))
        if not handle.state.has_process:
            handle = _grown(handle, spec)
        handle = complete_macs(handle, ())
        if spec.has_user_network and handle.ssh_host_port is None:
            ports = spec.ssh_port_range or PortRange()
            handle = handle.evolve(ssh_host_port=preferred_port(spec.name, ports))
        if handle.state is VmState.PREPARING:
            handle = handle.evolve(state=VmState.PREPARED)
        return self._store.save(handle)

    def start(self, vm: VmHandle) -> VmHandle:
        """Record that it runs."""
        reason = "The backend noop runs nothing."
        vm = _grown(_with_disks(vm), vm.spec)
        return self._become(
            vm.evolve(booted=vm.spec, stopped_by=None, seed_stale=False, accelerator_reason=reason),
            VmState.RUNNING,
        )

    def change(self, vm: VmHandle, changes: Sequence[Change], running: VmSpec) -> VmHandle:
        """Record that it runs with these."""
        return self._store.save(_grown(vm, running).evolve(booted=running))

    def discard(self, vm: VmHandle, names: Sequence[str]) -> VmHandle:
        """Forget these disks."""
        disks = {name: record for name, record in vm.disks.items() if name not in names}
        return self._store.save(vm.evolve(disks=disks))

    def stop(self, vm: VmHandle, timeout: float) -> VmHandle:
        """Record that it is stopped."""
        return self._become(
            vm.evolve(stopped_by="guest" if timeout > 0 else "quit"), VmState.STOPPED
        )

    def suspend(self, vm: VmHandle) -> VmHandle:
        """Record that it is suspended."""
        return self._become(vm, VmState.SUSPENDED)

    def resume(self, vm: VmHandle) -> VmHandle:
        """Record that it runs again."""
        return self._become(vm, VmState.RUNNING)

    def rename(self, vm: VmHandle, name: str) -> VmHandle:
        """Move the record."""
        return self._store.rename(vm, name)

    def destroy(self, vm: VmHandle) -> list[str]:
        """Remove the record."""
        return self._store.forget(vm.name)

    def state(self, vm: VmHandle) -> VmState:
        """Return what the record says."""
        return vm.state

    def guest_ip(self, vm: VmHandle) -> str:
        """Return 127.0.0.1 if a machine with a network is recorded as running."""
        address = self.observe(vm).ip_address
        if address is not None:
            return address
        raise NoGuestAddress(f"The VM '{vm.name}' does not run or has no network.")

    def console_endpoint(self, vm: VmHandle) -> ConsoleEndpoint:
        """Return that there is none."""
        return ConsoleEndpoint()

    def await_address(self, vm: Vm, deadline: float) -> Vm:
        """Return at once."""
        return vm

    def observe(self, vm: VmHandle, started: bool = False) -> Vm:
        """Return the record."""
        there = Vm(vm, vm.state, hotplug=self.features.hotplug)
        if not vm.state.has_process:
            return there
        return replace(there, addresses={network.name: (LOOPBACK,) for network in there.plugged})

    def _become(self, vm: VmHandle, state: VmState) -> VmHandle:
        return self._store.save(vm.evolve(state=state))


def _with_disks(vm: VmHandle) -> VmHandle:
    disks = dict(vm.disks)
    for disk in vm.spec.disks or ():
        if disk.name != SYSTEM_DISK and disk.name not in disks:
            disks[disk.name] = DiskRecord("", disk.format or "qcow2", disk.size or 0, disk.image)
    return vm.evolve(disks=disks)


def _grown(vm: VmHandle, spec: VmSpec) -> VmHandle:
    """Return the record with its disks as large as the spec says; none shrinks."""
    disks = dict(vm.disks)
    for disk in spec.disks or ():
        if disk.name in disks and (disk.size or 0) > disks[disk.name].size:
            disks[disk.name] = replace(disks[disk.name], size=disk.size or 0)
    sizes = [size for size in (vm.disk_bytes, spec.disk_size) if size is not None]
    return vm.evolve(disks=disks, disk_bytes=max(sizes, default=None))


if TYPE_CHECKING:
    from .._core.hypervisor import Hypervisor

    _conforms: type[Hypervisor] = NoopBackend
