# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks in QEMU's words: block nodes and devices, the same on the command line as over QMP. Pure.

Every file is named with its format, so that nothing is read from a header or guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._core.board import MICROVM
from .._core.disks import SYSTEM_DISK, Disk, DiskRecord
from .._core.handle import VmHandle

Node = dict[str, Any]
Device = dict[str, Any]

_DRIVERS: Mapping[str, str] = {
    "virtio-blk": "virtio-blk-pci",
    "virtio-scsi": "scsi-hd",
    "nvme": "nvme",
    "sata": "ide-hd",
}
_ON_PCI = ("virtio-blk", "nvme")
_LIMITS: Mapping[str, str] = {  # what users say, and QEMU's word for it
    "iops": "iops",
    "iops_read": "iops_rd",
    "iops_write": "iops_wr",
    "bps": "bps",
    "bps_read": "bps_rd",
    "bps_write": "bps_wr",
}
SCSI = "scsi0"  # the controller of disks on virtio-scsi
CDROM = "cdrom"
MEDIA = (
    "medium",
    "medium2",
)  # nodes of what lies in it, in turns: the next is opened before the last is taken out


def node_name(disk: str) -> str:
    """Return the name of a disk's block node."""
    return disk if disk == SYSTEM_DISK else f"disk-{disk}"


def device_id(disk: str) -> str:
    """Return the id of a disk's device."""
    return f"dev-{disk}"


def system_disk(vm: VmHandle) -> Disk:
    """Return how the disk that is made from the image is attached."""
    listed = {disk.name: disk for disk in vm.spec.disks or ()}
    return listed.get(SYSTEM_DISK, Disk(SYSTEM_DISK)).completed()


def system_node(vm: VmHandle) -> Node:
    """Return the block node of the disk that is made from the image."""
    record = vm.system_disk
    node = disk_node(system_disk(vm), record)
    if record.base_image is not None:
        image = node
        while image.get("backing"):
            image = image["backing"]
        image["node-name"] = "image"
    return node


def disk_node(disk: Disk, record: DiskRecord) -> Node:
    """Return the block node of a disk."""
    discard = "unmap" if disk.discard else "ignore"
    readonly = {"read-only": True} if disk.readonly else {}
    cache = {}
    if disk.cache in ("none", "directsync", "unsafe"):
        cache = {"cache": {"direct": disk.cache != "unsafe", "no-flush": disk.cache == "unsafe"}}
    aio = {} if disk.aio in (None, "threads") else {"aio": disk.aio}
    file = {"driver": "file", "filename": record.path, "discard": discard} | aio | cache | readonly
    node: Node = {
        "driver": record.format,
        "node-name": node_name(disk.name),
        "discard": discard,
        **cache,
        **readonly,
        "file": file,
    }
    below = _below(record)
    if below is not None or record.format == "qcow2":
        node["backing"] = below
    return node


def _below(record: DiskRecord) -> Node | None:
    """Return the node of what a disk rests on: its layers, each with the next below it, and the image."""
    node: Node | None = None
    if record.base_image is not None:
        node = _read_only(record.base_image, record.base_format)
        if record.base_format == "qcow2":
            node["backing"] = None
    for path in reversed(record.layers):
        node = {**_read_only(path, "qcow2"), "backing": node}
    return node


def _read_only(path: str, form: str | None) -> Node:
    file = {"driver": "file", "filename": path, "read-only": True}
    return {"driver": form, "read-only": True, "file": file}


def disk_device(disk: Disk, bus: str | None) -> Device:
    """Return the device of a disk; ``bus`` is the PCI port or SATA bus that it is plugged into, if it is told."""
    kind = disk.bus or "virtio-blk"
    device: Device = {
        "driver": _DRIVERS[kind],
        "id": device_id(disk.name),
        "drive": node_name(disk.name),
    }
    where = f"{SCSI}.0" if kind == "virtio-scsi" else bus
    if where is not None:
        device["bus"] = where
    serial = disk.serial or (disk.name if kind == "nvme" else None)  # nvme wants one
    if serial is not None:
        device["serial"] = serial
    if disk.boot_index is not None:
        device["bootindex"] = disk.boot_index
    if disk.cache in ("writethrough", "directsync"):
        device["write-cache"] = "off"
    return device


def needs_port(disk: Disk) -> bool:
    """Tell whether the disk's device takes a PCI port of its own."""
    return disk.bus in _ON_PCI


def file_node(name: str, path: str, form: str, readonly: bool = False) -> Node:
    """Return the block node of a file that rests on no other."""
    protection = {"read-only": True} if readonly else {}
    file = {"driver": "file", "filename": path, **protection}
    node: Node = {"driver": form, "node-name": name, **protection, "file": file}
    return {**node, "backing": None} if form == "qcow2" else node


def medium_node(path: str, name: str = MEDIA[0]) -> Node:
    """Return the block node of what lies in the CD-ROM drive."""
    file = {"driver": "file", "filename": path, "read-only": True}
    return {"driver": "raw", "node-name": name, "read-only": True, "file": file}


def throttle(disk: Disk, machine: str | None) -> dict[str, Any]:
    """Return the arguments of ``block_set_io_throttle`` for a disk of a type of machine; 0 means no limit."""
    device = device_id(disk.name)
    # On PCI, a virtio-blk device is a shell around the one that has the disk.
    shell = disk.bus in (None, "virtio-blk") and machine != MICROVM
    return {
        "id": f"/machine/peripheral/{device}/virtio-backend" if shell else device,
        "group": device,  # else a disk that somebody put into a group would share what is said here with its others
        **{_LIMITS[name]: value for name, value in disk.limits.items()},
    }


def limits_of(inserted: Mapping[str, Any]) -> dict[str, int]:
    """Return the limits of a disk, 0 meaning none, from what ``query-block`` says is in its device."""
    return {name: inserted.get(word, 0) for name, word in _LIMITS.items()}
