# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record that is kept on the host for a virtual machine: its identity and all that was decided for it once.

It is written before the act that it announces, so a killed run leaves a record from which the next one finishes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any

from .disks import SYSTEM_DISK, Disk, DiskRecord
from .errors import BadRecord
from .firmware import FirmwareRecord
from .folders import SharedFolder
from .networks import AddressFilter, Network, PortForward
from .propolis import ZVOLS, PropolisOptions, PropolisRecord
from .spec import DEFAULTS, CloudInit, PortRange, VmSpec
from .state import VmState

SCHEMA = 1
# What machines of releases without these options have.
_CAME_LATER = (
    *("firmware", "secure_boot", "tpm", "kernel", "initrd", "kernel_cmdline"),
    *("smbios", "shared_folders", "qemu_args", "autostart"),
)
_PLAIN = frozenset({"str", "int", "float", "bool", "NoneType", "dict"})  # hold no fields


@dataclass(frozen=True)
class VmHandle:
    """One virtual machine as we know it. ``spec`` is complete; ``state`` and ``pid`` are only last known."""

    id: str  # backend tag, dash, UUID
    name: str
    backend: str
    work_dir: str
    spec: VmSpec
    state: VmState = VmState.PREPARING
    overlay_path: str | None = None
    seed_iso_path: str | None = None
    private_key_path: str | None = None  # of the key pair that was made for this VM
    host_key: str | None = None  # the guest's public SSH host key, if it was made here
    disk_bytes: int | None = None  # the disk's size as it was last made or grown
    pid: int | None = None
    qmp_socket: str | None = None
    console_socket: str | None = None
    vnc_addr: str | None = None
    ssh_host_port: int | None = None
    macs: Mapping[str, str] = field(
        default_factory=dict
    )  # of the cards that were given none, by name
    uefi: bool = False  # whether it boots by UEFI
    firmware: Mapping[str, FirmwareRecord] = field(default_factory=dict)  # by firmware_key
    machine_types: Mapping[str, str] = field(
        default_factory=dict
    )  # exact ones, by what the task called them
    accelerator: str | None = None  # what the last start chose
    accelerator_reason: str | None = None
    booted: VmSpec | None = None  # the spec that the last start used
    disk_format: str = "qcow2"
    base_image: str | None = None  # the file that the disk rests on or was made from
    propolis: PropolisRecord | None = None
    layers: tuple[str, ...] = ()  # what the system disk rests on, above the image
    disks: Mapping[str, DiskRecord] = field(default_factory=dict)  # besides the system disk
    stopped_by: str | None = None  # how the last run ended: the rung of the ladder that was needed
    autostart_unit: str | None = None  # the name of the unit that starts it with its host
    autostart_patience: int | None = None  # seconds that the guest gets when the host goes down
    instance: int = 0  # how often cloud-init was told to begin anew
    seed_stale: bool = False  # the next start writes the seed
    generation: str | None = None  # the UUID that tells a guest whether it is a copy
    renaming: str | None = None  # the name that its folder gets or has got already
    renamed_from: str | None = None

    @property
    def uuid(self) -> str:
        """The UUID that the hypervisor knows the machine by."""
        return self.id.partition("-")[2]

    @property
    def mac_addr(self) -> str | None:
        """MAC address of the first network card, if there is one."""
        return self.mac_of(self.spec.networks[0]) if self.spec.networks else None

    def mac_of(self, network: Network) -> str | None:
        """Return the MAC address of a card: the one it was given, or the one that was made for it."""
        return network.mac or self.macs.get(network.name)

    @property
    def disk_path(self) -> str | None:
        """Path of the disk: the overlay, or the device of the volume."""
        if self.propolis is not None and self.propolis.disk is not None:
            return f"{ZVOLS}/{self.propolis.disk}"
        return self.overlay_path

    @property
    def system_disk(self) -> DiskRecord:
        """The disk that was made from the image, on a backend that keeps it in a file."""
        return DiskRecord(
            self.overlay_path or "",
            "qcow2",
            self.disk_bytes or 0,
            self.base_image or self.spec.image,
            self.spec.image_format,
            self.layers,
        )

    @property
    def all_disks(self) -> Mapping[str, DiskRecord]:
        """All disks that were made, by name."""
        return {SYSTEM_DISK: self.system_disk, **self.disks}

    def with_disks(self, changed: Mapping[str, DiskRecord]) -> VmHandle:
        """Return a copy whose disks of these names lie, and rest, elsewhere."""
        system = changed.get(SYSTEM_DISK, self.system_disk)
        others = {name: changed.get(name, record) for name, record in self.disks.items()}
        return replace(self, overlay_path=system.path or None, layers=system.layers, disks=others)

    @property
    def vcpus(self) -> int:
        """Number of virtual CPUs."""
        return self.spec.vcpus or 1

    @property
    def memory_mb(self) -> int:
        """Memory in MiB."""
        return self.spec.memory_mib or 1024

    @property
    def disk_gb(self) -> float | None:
        """Size of the disk in GiB, if it is known."""
        return None if self.disk_bytes is None else self.disk_bytes / 1024**3

    @property
    def network(self) -> str:
        """Type of the first network, or ``none``."""
        return self.spec.networks[0].type if self.spec.networks else "none"

    def evolve(self, **changes: Any) -> VmHandle:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


def dump(handle: VmHandle) -> bytes:
    """Return the record as it is kept on disk."""
    data = {"schema": SCHEMA, **asdict(handle), "state": handle.state.value}
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


def load(raw: bytes, path: str) -> VmHandle:
    """Read a record that an earlier run left at ``path``; raise ``BadRecord`` if this release cannot."""
    try:
        data = json.loads(raw)
    except ValueError as exc:
        raise BadRecord(f"The record {path} is damaged: {exc}.", path=path) from exc
    if not isinstance(data, dict):
        raise BadRecord(f"The record {path} is damaged: it holds no object.", path=path)
    found = data.pop("schema", None)
    if found != SCHEMA:
        raise BadRecord(
            f"The record {path} has schema {found}; this release reads schema {SCHEMA}.",
            "Use the release of the collection that wrote it, or a newer one.",
            path=path,
        )
    try:
        known = {f.name for f in fields(VmHandle)}
        data = {key: value for key, value in data.items() if key in known}
        booted = data.pop("booted", None)
        record = data.pop("propolis", None)
        disks = data.pop("disks", None) or {}
        firmware = data.pop("firmware", None) or {}
        layers = data.pop("layers", [])
        handle = VmHandle(
            **{**data, "spec": _spec(data["spec"]), "state": VmState(data["state"])},
            booted=None if booted is None else _spec(booted),
            layers=_paths(layers),
            disks={name: _disk_record(row) for name, row in disks.items()},
            firmware={name: FirmwareRecord(**row) for name, row in firmware.items()},
            propolis=None if record is None else PropolisRecord(**record),
        )
        _check_types(handle)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise BadRecord(f"The record {path} cannot be understood: {exc!r}.", path=path) from exc
    return handle


def _disk_record(row: Mapping[str, Any]) -> DiskRecord:
    values = dict(row)
    return DiskRecord(**{**values, "layers": _paths(values.get("layers", []))})


def _paths(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("layers is no list of paths")
    return tuple(value)


def _spec(data: Mapping[str, Any]) -> VmSpec:
    values = dict(data)
    values.setdefault("clone_mode", values.get("clone_from") and "full")
    for name in _CAME_LATER if values.get("backend") != "propolis" else ():
        values.setdefault(name, getattr(DEFAULTS, name))
    if values.get("networks") is not None:
        values["networks"] = tuple(_network(item) for item in values["networks"])
    if values.get("addresses") is not None:
        addresses = values["addresses"]
        lists = {key: tuple(addresses[key] or ()) for key in ("ranges", "lease_files")}
        values["addresses"] = AddressFilter(**{**addresses, **lists})
    if values.get("ssh_port_range") is not None:
        values["ssh_port_range"] = PortRange(**values["ssh_port_range"])
    if values.get("disks") is not None:
        values["disks"] = tuple(Disk(**disk) for disk in values["disks"])
    if values.get("shared_folders") is not None:
        values["shared_folders"] = tuple(SharedFolder(**row) for row in values["shared_folders"])
    if values.get("qemu_args") is not None:
        values["qemu_args"] = tuple(values["qemu_args"])
    if values.get("propolis") is not None:
        values["propolis"] = PropolisOptions(**values["propolis"])
    if values.get("cloud_init") is not None:
        cloud_init = dict(values["cloud_init"])
        keys = cloud_init.get("ssh_authorized_keys")
        cloud_init["ssh_authorized_keys"] = None if keys is None else tuple(keys)
        values["cloud_init"] = CloudInit(**cloud_init)
    return VmSpec(**values)


def _network(data: Mapping[str, Any]) -> Network:
    forwards = tuple(PortForward(**forward) for forward in dict(data).get("port_forwards", ()))
    return Network(**{**data, "port_forwards": forwards})


def _check_types(value: Any) -> None:
    """Raise ``TypeError`` for the first field, here or further in, whose value is not of a type that it may have."""
    for name, allowed in _allowed_types(type(value)):  # type: ignore[arg-type]  # mypy does not know that classes have a hash
        found = getattr(value, name)
        kind = type(found).__name__
        if kind not in allowed:
            raise TypeError(f"{name} has the type {kind}")
        if kind in _PLAIN:
            continue
        for part in found if kind == "tuple" else (found,):
            if is_dataclass(part):
                _check_types(part)


@cache  # a look at a thousand machines asks for the same few classes
def _allowed_types(kind: type) -> tuple[tuple[str, frozenset[str]], ...]:
    return tuple(
        (item.name, frozenset(_type_name(word) for word in str(item.type).split(" | ")))
        for item in fields(kind)
    )


def _type_name(word: str) -> str:
    name = word.partition("[")[0]
    return {"None": "NoneType", "Mapping": "dict"}.get(name, name)
