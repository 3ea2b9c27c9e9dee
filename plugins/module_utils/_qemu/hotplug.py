# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes to a running machine, over QMP. Sources: the QMP reference of QEMU, docs/pcie.txt, docs/memory-hotplug.txt."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._core.disks import Disk
from .._core.errors import ChangeFailed, QmpCommandFailed, VmError
from .._core.handle import VmHandle
from .._core.live import Change
from .._core.networks import MODELS, Network
from .argv import card_id
from .blocks import (
    CDROM,
    MEDIA,
    SCSI,
    device_id,
    disk_device,
    disk_node,
    medium_node,
    needs_port,
    node_name,
    throttle,
)
from .cards import add_host_end
from .ports import PORT_NAMES, PORTS, has_ports
from .qmp import Qmp

MEMORY_STEP = 128  # MiB; the smallest piece that Linux takes
_UNPLUG = 30.0  # seconds that the guest has to let a device go
_EJECT = 10.0  # the same for a medium
_AGAIN = 5.0  # seconds after which it is asked once more: a guest that boots does not hear
_MIB = 1024 * 1024


def finish_start(vm: VmHandle, qmp: Qmp) -> None:
    """Do what the command line has no words for: limits of disks, and cables that are not plugged in."""
    for disk in vm.spec.disks or ():
        if any(disk.limits.values()):
            qmp.execute("block_set_io_throttle", throttle(disk, vm.spec.machine))
    for network in vm.spec.networks or ():
        if not network.connected:
            qmp.execute("set_link", {"name": card_id(network.name), "up": False})


class Hotplugger:
    """Makes changes to one running machine."""

    def __init__(self, vm: VmHandle, qmp: Qmp) -> None:
        self._vm, self._qmp = vm, qmp

    def make(self, change: Change) -> None:
        """Make one change; raise ``ChangeFailed`` saying why QEMU or the guest did not take it."""
        act = getattr(self, f"_{change.what}")
        try:
            act(change)
        except QmpCommandFailed as exc:
            what = " ".join(filter(None, (change.what.replace("_", " "), change.name)))
            raise ChangeFailed(
                f"The running VM '{self._vm.name}' did not take a change ({what}): {exc.message}",
                change=what,
            ) from exc

    def _resize_disk(self, change: Change) -> None:
        self._qmp.execute(
            "block_resize", {"node-name": node_name(change.name), "size": change.value}
        )

    def _limit_disk(self, change: Change) -> None:
        running = self._vm.booted or self._vm.spec
        disks = {disk.name: disk for disk in running.disks or ()}
        disk = replace(disks.get(change.name, Disk(change.name)), **change.value)
        self._qmp.execute("block_set_io_throttle", throttle(disk, running.machine))

    def _add_disk(self, change: Change) -> None:
        disk: Disk = change.value
        if disk.bus == "virtio-scsi" and SCSI not in self._devices():
            self._qmp.execute(
                "device_add", {"driver": "virtio-scsi-pci", "id": SCSI, **self._port()}
            )
        if device_id(disk.name) in self._devices():
            return  # an earlier task was cut off after this
        with contextlib.suppress(QmpCommandFailed):  # or before it
            self._qmp.execute("blockdev-del", {"node-name": node_name(disk.name)})
        self._qmp.execute("blockdev-add", disk_node(disk, self._vm.disks[disk.name]))
        try:
            port = self._port() if needs_port(disk) else {}
            self._qmp.execute("device_add", {**disk_device(disk, None), **port})
        except VmError:
            with contextlib.suppress(VmError):
                self._qmp.execute("blockdev-del", {"node-name": node_name(disk.name)})
            raise
        if any(disk.limits.values()):
            self._qmp.execute("block_set_io_throttle", throttle(disk, self._vm.spec.machine))

    def _remove_disk(self, change: Change) -> None:
        self._unplug(device_id(change.name))
        self._qmp.execute("blockdev-del", {"node-name": node_name(change.name)})

    def _add_network(self, change: Change) -> None:
        card: Network = change.value
        if card_id(card.name) in self._devices():
            return  # an earlier task was cut off after this
        with contextlib.suppress(QmpCommandFailed):  # or before it
            self._qmp.execute("netdev_del", {"id": card.name})
        queues = add_host_end(self._vm, card, self._qmp)
        device: dict[str, Any] = {
            "driver": MODELS[card.model],
            "id": card_id(card.name),
            "netdev": card.name,
            "mac": self._vm.mac_of(card),
            "romfile": "",
        }
        if card.model == "virtio" and queues > 1:
            device |= {"mq": True, "vectors": 2 * queues + 2}
        if card.model == "virtio" and card.mtu is not None:
            device["host_mtu"] = card.mtu
        try:
            self._qmp.execute("device_add", {**device, **self._port()})
        except VmError:
            with contextlib.suppress(VmError):
                self._qmp.execute("netdev_del", {"id": card.name})
            raise
        if not card.connected:
            self._qmp.execute("set_link", {"name": card_id(card.name), "up": False})

    def _remove_network(self, change: Change) -> None:
        self._unplug(card_id(change.name))
        self._qmp.execute("netdev_del", {"id": change.name})

    def _plug_cable(self, change: Change) -> None:
        self._qmp.execute("set_link", {"name": card_id(change.name), "up": bool(change.value)})

    def _set_vcpus(self, change: Change) -> None:
        slots = self._qmp.execute("query-hotpluggable-cpus")
        there = sum(slot["vcpus-count"] for slot in slots if "qom-path" in slot)
        free = [slot for slot in slots if "qom-path" not in slot]
        free.sort(key=lambda slot: sorted(slot["props"].items()))
        wanted = change.value
        for slot in free[: wanted - there]:
            place = "-".join(str(number) for dummy_key, number in sorted(slot["props"].items()))
            self._qmp.execute(
                "device_add", {"driver": slot["type"], "id": f"cpu-{place}", **slot["props"]}
            )

    def _set_memory(self, change: Change) -> None:
        memory = self._qmp.execute("query-memory-size-summary")
        there = memory["base-memory"] + memory.get("plugged-memory", 0)
        size = change.value * _MIB - there
        numbers = {name.removeprefix("dimm") for name in self._devices() if name.startswith("dimm")}
        number = next(n for n in range(len(numbers) + 1) if str(n) not in numbers)
        backend = {
            "qom-type": "memory-backend-ram",
            "id": f"mem{number}",
            "size": size,
            "dump": False,
        }
        if (self._vm.booted or self._vm.spec).shared_folders:  # all of it is theirs, too
            backend |= {"qom-type": "memory-backend-memfd", "share": True}
        self._qmp.execute("object-add", backend)
        try:
            dimm = {"driver": "pc-dimm", "id": f"dimm{number}", "memdev": f"mem{number}"}
            self._qmp.execute("device_add", dimm)
        except VmError:
            with contextlib.suppress(VmError):
                self._qmp.execute("object-del", {"id": f"mem{number}"})
            raise

    def _set_medium(self, change: Change) -> None:
        nodes = self._qmp.execute("query-named-block-nodes", {"flat": True})
        there = {node["node-name"] for node in nodes} & set(MEDIA)
        inserted = self._drive().get("inserted", {}).get("node-name")
        for name in there - {
            inserted
        }:  # an earlier task was cut off, or somebody else has taken it out
            self._qmp.execute("blockdev-del", {"node-name": name})
        node = next(name for name in MEDIA if name != inserted)
        if change.value:
            self._qmp.execute("blockdev-add", medium_node(str(change.value), node))
        try:
            self._open_tray()
        except VmError:
            if change.value:
                with contextlib.suppress(VmError):
                    self._qmp.execute("blockdev-del", {"node-name": node})
            raise
        if inserted is not None:
            self._qmp.execute("blockdev-remove-medium", {"id": CDROM})
            if inserted in MEDIA:
                self._qmp.execute("blockdev-del", {"node-name": inserted})
        if change.value:
            self._qmp.execute("blockdev-insert-medium", {"id": CDROM, "node-name": node})
        self._qmp.execute("blockdev-close-tray", {"id": CDROM})

    def _drive(self) -> Mapping[str, Any]:
        """Return what QEMU says of the drive."""
        drives = self._qmp.execute("query-block")
        found = (d for d in drives if d.get("qdev", "").rpartition("/")[2] == CDROM)
        return next(found, {})

    def _open_tray(self) -> None:
        """Open the drive. If the guest has locked it, QEMU asks the guest to let the medium go."""
        self._qmp.execute("blockdev-open-tray", {"id": CDROM})
        deadline = time.monotonic() + _EJECT
        while not self._drive().get("tray_open", False):
            left = deadline - time.monotonic()
            if left <= 0 or not self._qmp.wait_event("DEVICE_TRAY_MOVED", timeout=left):
                break
        else:
            return
        raise ChangeFailed(
            f"The guest of the VM '{self._vm.name}' has locked its CD-ROM drive and did not open it within {_EJECT:g} s.",
            "It does so while the medium is mounted: unmount it in the guest. The change is recorded; "
            "state=restarted makes it.",
            change="set medium",
        )

    def _unplug(self, device: str) -> None:
        """Ask the guest to let a device go, and wait until it has."""
        deadline = time.monotonic() + _UNPLUG
        while True:
            try:
                self._qmp.execute("device_del", {"id": device})
            except QmpCommandFailed as exc:
                if "does not support hotplugging" in str(exc.details.get("desc")):
                    raise  # it had no port of its own when the machine was started
                # else it is on its way already
            if self._left(device, min(deadline, time.monotonic() + _AGAIN)):
                return
            if time.monotonic() >= deadline:
                raise ChangeFailed(
                    f"The guest of the VM '{self._vm.name}' did not let the device {device} go within {_UNPLUG:g} s.",
                    "A guest hears of it once its system is up, and some keep what they use, such as a disk with "
                    "mounted file systems. Unmount it there and run the task again; state=restarted makes the "
                    "change without the guest.",
                    change=f"remove {device}",
                )

    def _left(self, device: str, until: float) -> bool:
        # Of a virtio device, first the backend is reported, without the id: only the device itself counts.
        while time.monotonic() < until:
            event = self._qmp.wait_event(
                "DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR", timeout=until - time.monotonic()
            )
            if event is None:
                break
            if event.data.get("device") == device:
                return event.name == "DEVICE_DELETED"
        return device not in self._devices()

    def _devices(self) -> set[str]:
        rows = self._qmp.execute("qom-list", {"path": "/machine/peripheral"})
        return {row["name"] for row in rows}

    def _port(self) -> dict[str, str]:
        """Return where the next device goes: a free root port, if the machine has some."""
        devices = self._devices()
        if not has_ports((self._vm.booted or self._vm.spec).machine):
            return {}
        taken = set()
        for device in devices:
            with contextlib.suppress(QmpCommandFailed):
                query = {"path": f"/machine/peripheral/{device}", "property": "parent_bus"}
                taken.add(self._qmp.execute("qom-get", query).rpartition("/")[2])
        for port in PORT_NAMES:
            if port not in taken:
                return {"bus": port}
        raise ChangeFailed(
            f"All {PORTS} ports of the running VM '{self._vm.name}' are taken.",
            "state=restarted makes the change. Disks on virtio-scsi need no port, but for the first one, which comes with their controller.",
        )
