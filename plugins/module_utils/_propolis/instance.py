# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine as propolis-server wants it described: the body of ``PUT /instance``. Pure.

The shape is that of the API's version 1.0.0, which every server since takes; 6.0.0 wants one field more. Cards and
disks lie at the PCI addresses that Oxide's control plane gives them, since guests remember them: the first card is
``enp0s8`` wherever predictable names are used.
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass
from typing import Any

from .._core.errors import BadRecord
from .._core.handle import VmHandle
from .._core.networks import Network
from .._core.propolis import PROPOLIS_DEFAULTS, PropolisRecord
from .rules import WRITE_CACHE_SINCE, check_ensure, version_of

__all__ = ["BLOCK_SIZE", "DISK", "SEED_DISK", "Seed", "build_ensure", "check_ensure"]

DISK = "disk0"
SEED_DISK = "cloud-init"
BLOCK_SIZE = 512  # bytes; what the partition tables of cloud images count in
SERIAL_PORTS = ("com1", "com2", "com3", "com4")

_FIRST_NIC, _FIRST_DISK, _SEED_SLOT = 8, 16, 24  # PCI devices on bus 0
_SERIAL_LENGTH = 20  # bytes, by the NVMe specification padded with spaces
_NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Seed:
    """The disk that cloud-init reads: a file that the server can open, or the bytes themselves (some 700 kB)."""

    path: str | None = None
    blob: bytes | None = None


def build_ensure(vm: VmHandle, seed: Seed | None) -> dict[str, Any]:
    """Return the request that makes the machine's instance, for the API version that the machine was told.

    Keys of components that are named by users have a prefix, so that none can be taken for another. Raises
    ``BadRecord`` if the record does not say what the machine's disk or one of its VNICs is.
    """
    record = vm.propolis or PropolisRecord()
    components = {
        **_disk(vm),
        **_seed(seed),
        **_nics(vm, record),
        **{key: _component("serial_port", num=key) for key in SERIAL_PORTS},
        "pvpanic": _component("qemu_pvpanic", enable_isa=True),
        "boot-settings": _component("boot_settings", order=[{"id": DISK}]),
    }
    chipset = {"type": "i440_fx", "value": {"enable_pcie": False}}
    board = {"cpus": vm.vcpus, "memory_mb": vm.memory_mb, "chipset": chipset}
    return {
        "properties": {
            "id": vm.uuid,
            "name": vm.name,
            "description": vm.spec.description or "",
            "metadata": _metadata(),
        },
        "init": {
            "method": "Spec",
            "value": {"spec": {"board": board, "components": components}},
        },
    }


def _disk(vm: VmHandle) -> dict[str, Any]:
    path = vm.disk_path
    if path is None:
        raise BadRecord(f"The record of the VM '{vm.name}' names no disk.")
    options: dict[str, Any] = {
        "backend_id": f"{DISK}-backend",
        "pci_path": _pci_path(_FIRST_DISK),
        "serial_number": list(_serial_number(vm.name)),
    }
    if version_of(_api_version(vm)) >= WRITE_CACHE_SINCE:
        options["has_write_cache"] = True  # as it was before there was a choice
    return {
        DISK: _component("nvme_disk", **options),
        f"{DISK}-backend": _file(path, readonly=False),
    }


def _seed(seed: Seed | None) -> dict[str, Any]:
    if seed is None:
        return {}
    if seed.blob is not None:
        text = base64.b64encode(seed.blob).decode()
        backend = _component("blob_storage_backend", base64=text, readonly=True)
    else:
        backend = _file(seed.path or "", readonly=True)
    key = f"{SEED_DISK}-backend"
    device = _component("virtio_disk", backend_id=key, pci_path=_pci_path(_SEED_SLOT))
    return {SEED_DISK: device, key: backend}


def _nics(vm: VmHandle, record: PropolisRecord) -> dict[str, Any]:
    components = {}
    for index, network in enumerate(vm.spec.networks or ()):
        # "NAME-backend" could be the name of another network; a prefix cannot.
        device, backend = f"nic-{network.name}", f"vnic-{network.name}"
        components[device] = _component(
            "virtio_nic",
            backend_id=backend,
            interface_id=_interface_id(vm, network),
            pci_path=_pci_path(_FIRST_NIC + index),
        )
        vnic = record.vnics.get(network.name)
        if vnic is None:
            raise BadRecord(
                f"The record of the VM '{vm.name}' names no VNIC for the network '{network.name}'."
            )
        components[backend] = _component("virtio_network_backend", vnic_name=vnic)
    return components


def _component(kind: str, **options: Any) -> dict[str, Any]:
    return {"type": kind, "component": options}


def _file(path: str, readonly: bool) -> dict[str, Any]:
    return _component("file_storage_backend", path=path, readonly=readonly, block_size=BLOCK_SIZE)


def _pci_path(device: int) -> dict[str, int]:
    return {"bus": 0, "device": device, "function": 0}


def _serial_number(name: str) -> bytes:
    text = f"{name}-{DISK}".encode("ascii", errors="replace")
    return text[:_SERIAL_LENGTH].ljust(_SERIAL_LENGTH)


def _interface_id(vm: VmHandle, network: Network) -> str:
    return str(uuid.uuid5(uuid.UUID(vm.uuid), network.name))


def _metadata() -> dict[str, Any]:
    """Return what tells apart the statistics of racks: nothing, on a host that is in none."""
    ids = dict.fromkeys(("silo_id", "project_id", "sled_id"), _NOBODY)
    return {**ids, "sled_serial": "", "sled_revision": 0, "sled_model": ""}


def _api_version(vm: VmHandle) -> str:
    options = vm.spec.propolis or PROPOLIS_DEFAULTS
    return options.api_version or PROPOLIS_DEFAULTS.api_version or ""
