# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A virtual machine as it is found: its record together with what the hypervisor says right now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .board import hotplug_of
from .changes import pending
from .disks import SYSTEM_DISK, Disk, DiskRecord
from .handle import VmHandle
from .layout import CONSOLE_LOG, PROPOLIS_LOG, QEMU_LOG
from .live import Hotplug, LiveFacts, actual_spec, live_changes
from .networks import AddressFilter, Network
from .sizes import MIB, show_size
from .spec import CloudInit, VmSpec
from .state import VmState

SSH_PORT = 22
_LOGS = {"qemu": QEMU_LOG, "propolis": PROPOLIS_LOG}
SSH_HOST = "127.0.0.1"  # where the host's end of a user-mode network listens


@dataclass(frozen=True)
class ConsoleEndpoint:
    """Where the serial console is: ``type`` is unix, websocket or none; ``path`` is a socket's path or a URL."""

    type: str = "none"
    path: str | None = None


@dataclass(frozen=True)
class VncEndpoint:
    """Where the screen is, and the file that holds the password."""

    host: str
    port: int
    password_file: str | None = None


@dataclass(frozen=True)
class Vm:
    """What is there. ``run_state`` is the hypervisor's own word for its state."""

    handle: VmHandle
    state: VmState
    run_state: str | None = None
    pid: int | None = None
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by network
    console: ConsoleEndpoint = ConsoleEndpoint()
    vnc: VncEndpoint | None = None
    warnings: tuple[str, ...] = ()
    facts: LiveFacts | None = None
    hotplug: Hotplug | None = None  # what its backend can change while it runs, if it says so
    unit_intact: bool = True  # whether what starts it with its host is as it was made
    unrecorded: Mapping[str, Any] = field(
        default_factory=dict
    )  # fields that its record lacks because its start was cut off

    @property
    def actual(self) -> VmSpec:
        """What the running machine really has, or one that does not run will have."""
        booted = self.handle.booted if self.state.has_process else None
        return self.handle.spec if booted is None else actual_spec(booted, self.facts)

    @property
    def plugged(self) -> tuple[Network, ...]:
        """The network cards that it has right now, or will have when it starts."""
        return self.actual.networks or ()

    @property
    def ip_address(self) -> str | None:
        """Address under which this host reaches the guest: the first that the first cards have."""
        found = [
            address for network in self.plugged for address in self.addresses.get(network.name, ())
        ]
        return found[0] if found else None

    @property
    def can_go_on(self) -> bool:
        """Tell whether a failed guest only waits to be resumed, as after the host's disk was full."""
        return self.run_state == "io-error"

    @property
    def restart_required(self) -> bool:
        """Tell whether the process runs with options that have been changed since.

        What a suspended machine takes up as soon as it goes on does not count.
        """
        actual, spec = self.actual, self.handle.spec
        if self.state is VmState.SUSPENDED and self.hotplug is not None:
            can = hotplug_of(actual.machine, self.hotplug)
            return bool(live_changes(actual, spec, can, self.facts).waiting)
        return self.state.has_process and bool(pending(actual, spec))


def show_vm(vm: Vm) -> dict[str, Any]:
    """Return the ``vm`` dictionary that every module returns for a machine. It holds no secret."""
    handle, spec = vm.handle, vm.handle.spec
    running = vm.state.has_process
    return {
        **_show_identity(handle.name, spec, handle.backend),
        "id": handle.id,
        "state": vm.state.value,
        "run_state": vm.run_state,
        "disks": _show_disks(vm),
        "networks": _show_networks(vm),
        "ip_address": vm.ip_address,
        "ssh": _show_ssh(vm),
        "console": {"type": vm.console.type, "path": vm.console.path},
        "vnc": None if vm.vnc is None else dict(vars(vm.vnc)),
        "pid": vm.pid,
        "paths": _show_paths(handle),
        "accelerator": handle.accelerator if running else None,
        "accelerator_reason": handle.accelerator_reason if running else None,
        "stopped_by": None if running else handle.stopped_by,
        "restart_required": vm.restart_required,
    }


def predict_vm(spec: VmSpec, backend: str, state: VmState) -> dict[str, Any]:
    """Return the same dictionary for a machine that does not exist yet; what only creation decides is null."""
    networks = [{**_show_network(network), "ip_addresses": []} for network in spec.networks or ()]
    host, port = (SSH_HOST, None) if spec.has_user_network else (None, SSH_PORT)
    ssh = {"host": host, "port": port, "user": spec.login_user}
    ssh |= {"private_key_path": None, "host_key": None}
    return {
        **_show_identity(spec.name, spec, backend),
        "id": None,
        "state": state.value,
        "run_state": None,
        "disks": [_predict_disk(disk, spec) for disk in _data_disks(spec)],
        "networks": networks,
        "ip_address": None,
        "ssh": ssh if spec.networks and state is not VmState.DESTROYED else None,
        "console": {"type": "none", "path": None},
        "vnc": None,
        "pid": None,
        "paths": dict.fromkeys(("work_dir", "qmp_socket", "console_log", "hypervisor_log")),
        "accelerator": None,
        "accelerator_reason": None,
        "stopped_by": None,
        "restart_required": False,
    }


def _show_identity(name: str, spec: VmSpec, backend: str) -> dict[str, Any]:
    return {
        "name": name,
        "backend": backend,
        "image": spec.image,
        "vcpus": spec.vcpus,
        "memory_mb": spec.memory_mib,
        "labels": dict(spec.labels or {}),
        "description": spec.description or "",
    }


def _show_disks(vm: Vm) -> list[dict[str, Any]]:
    handle, seen = vm.handle, vm.facts.disks if vm.facts and vm.facts.disks else {}
    attached = {disk.name for disk in vm.actual.disks or ()}
    first = [disk.name for disk in handle.spec.disks or () if disk.name in handle.disks]
    made = {name: handle.disks[name] for name in (*first, *sorted(handle.disks))}
    if handle.disk_path is not None:
        attached.add(SYSTEM_DISK)
        form, size = handle.disk_format, handle.disk_bytes or 0
        system = DiskRecord(handle.disk_path, form, size, handle.spec.image, layers=handle.layers)
        made = {SYSTEM_DISK: system, **made}
    return [
        _show_made(replace(record, size=seen.get(name, record.size)), name, name in attached)
        for name, record in made.items()
    ]


def _data_disks(spec: VmSpec) -> list[Disk]:
    return [disk for disk in spec.disks or () if disk.name != SYSTEM_DISK]


def _yet_to_be_made(disk: Disk) -> DiskRecord:
    return DiskRecord("", disk.format or "qcow2", disk.size or 0, disk.image)


def _predict_disk(disk: Disk, spec: VmSpec) -> dict[str, Any]:
    shown = _show_made(_yet_to_be_made(disk), disk.name, True)
    return {**shown, "layers": None} if spec.clone_mode == "linked" else shown


def _show_made(record: DiskRecord, name: str, attached: bool) -> dict[str, Any]:
    return {
        "name": name,
        "path": record.path or None,
        "format": record.format,
        "size": record.size or None,
        "image": record.base_image,
        "layers": list(record.layers),
        "attached": attached,
    }


def _show_networks(vm: Vm) -> list[dict[str, Any]]:
    return [
        {
            **_show_network(network),
            "mac": vm.handle.mac_of(network),
            "ip_addresses": list(vm.addresses.get(network.name, ())),
        }
        for network in vm.plugged
    ]


def _show_network(network: Network) -> dict[str, Any]:
    return {**asdict(network), "port_forwards": [asdict(item) for item in network.port_forwards]}


def _show_ssh(vm: Vm) -> dict[str, Any] | None:
    handle = vm.handle
    kinds = {network.type for network in vm.plugged}
    if not kinds:
        return None
    forwarded = "user" in kinds
    return {
        "host": SSH_HOST if forwarded else vm.ip_address,
        "port": handle.ssh_host_port if forwarded else SSH_PORT,
        "user": handle.spec.login_user,
        "private_key_path": handle.private_key_path,
        "host_key": handle.host_key,
    }


def _show_paths(handle: VmHandle) -> dict[str, Any]:
    has_logs = handle.backend in _LOGS
    in_zone = handle.spec.propolis is not None and handle.spec.propolis.hosting == "zone"
    return {
        "work_dir": handle.work_dir,
        "qmp_socket": handle.qmp_socket,
        "console_log": os.path.join(handle.work_dir, CONSOLE_LOG) if has_logs else None,
        "hypervisor_log": os.path.join(handle.work_dir, _LOGS[handle.backend])
        if has_logs and not in_zone
        else None,
    }


def show_options(
    spec: VmSpec, backend: str, state: VmState, since: VmSpec | None = None
) -> Mapping[str, Any]:
    """Return one side of a diff: the options as users know them, without secrets and generated values.

    ``since`` is the other side: of a document that is not shown, it is told whether it differs from that.
    """
    if state is VmState.DESTROYED:
        return {}
    return {
        "name": spec.name,
        "backend": backend,
        "state": state.value,
        "image": spec.image,
        "image_checksum": spec.image_checksum,
        "image_format": spec.image_format,
        "vcpus": spec.vcpus,
        "memory": None if spec.memory_mib is None else show_size(spec.memory_mib * MIB),
        "disks": [_show_disk(disk) for disk in spec.disks or ()],
        "cdrom": spec.cdrom,
        "vcpus_max": spec.vcpus_max,
        "memory_max": None if spec.memory_max_mib is None else show_size(spec.memory_max_mib * MIB),
        "disk_size": None if spec.disk_size is None else show_size(spec.disk_size),
        "networks": [_that_are_set(_show_network(card)) for card in spec.networks or ()],
        **_show_addresses(spec.addresses or AddressFilter()),
        "ssh_port_range": None if spec.ssh_port_range is None else str(spec.ssh_port_range),
        "cloud_init": None
        if spec.cloud_init is None
        else _show_cloud_init(spec.cloud_init, since.cloud_init if since else None),
        "accelerator": spec.accelerator,
        "cpu": spec.cpu,
        "machine": spec.machine,
        "vnc": spec.vnc,
        "firmware": spec.firmware,
        "secure_boot": spec.secure_boot,
        "tpm": spec.tpm,
        "kernel": spec.kernel,
        "initrd": spec.initrd,
        "kernel_cmdline": spec.kernel_cmdline,
        "smbios": None if spec.smbios is None else dict(spec.smbios),
        "shared_folders": [asdict(folder) for folder in spec.shared_folders or ()],
        "qemu_args": list(spec.qemu_args or ()),
        "autostart": bool(spec.autostart),
        "clone_from": spec.clone_from,
        "clone_mode": spec.clone_mode,
        "propolis": None if spec.propolis is None else _that_are_set(asdict(spec.propolis)),
        "labels": dict(spec.labels or {}),
        "description": spec.description or "",
    }


def _show_disk(disk: Disk) -> dict[str, Any]:
    size = None if disk.size is None else show_size(disk.size)
    return _that_are_set({**asdict(disk), "size": size})


def _show_addresses(addresses: AddressFilter) -> dict[str, Any]:
    return {
        "ip_version": addresses.version,
        "ip_range": list(addresses.ranges or ()),
        "lease_files": list(addresses.lease_files or ()),
    }


def show_sides(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return both sides of a diff without the options that neither of them sets."""
    used = {*_that_are_set(before), *_that_are_set(after)}
    first, second = (
        {key: value for key, value in side.items() if key in used} for side in (before, after)
    )
    return first, second


def _that_are_set(shown: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shown.items() if value not in (None, "", [], (), {})}


def _show_cloud_init(cloud_init: CloudInit, since: CloudInit | None) -> Mapping[str, Any]:
    told = {}
    for name in ("user_data", "meta_data", "network_config"):
        value, before = getattr(cloud_init, name), getattr(since, name, None)
        if value is not None:
            told[name] = "(hidden)" if before in (None, value) else "(hidden, another one)"
    shown = {
        "hostname": cloud_init.hostname,
        "user": cloud_init.user,
        "ssh_authorized_keys": list(cloud_init.ssh_authorized_keys or ()),
        "ssh_host_key": bool(cloud_init.ssh_host_key),
    }
    return {**_that_are_set(shown), **told}
