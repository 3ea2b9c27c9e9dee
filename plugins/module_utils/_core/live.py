# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running machine can take up at once, and what it cannot. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .changes import pending
from .disks import SYSTEM_DISK, Disk
from .networks import Network
from .spec import VmSpec


@dataclass(frozen=True)
class Change:
    """One thing to do to the running machine: ``what`` is the word for it, ``name`` the disk or card it is about.

    ``value`` is a number, a path, the disk or card, its limits, or whether the cable is in, as the word has it.
    """

    what: str
    name: str = ""
    value: Any = None


@dataclass(frozen=True)
class LiveFacts:
    """What the hypervisor itself says that the running machine has. ``None`` means that it was not asked."""

    vcpus: int | None = None
    memory_mib: int | None = None
    disks: Mapping[str, int] | None = None  # sizes in bytes by name
    networks: tuple[str, ...] | None = None
    cdrom: str | None = None
    limits: Mapping[str, Mapping[str, int]] | None = None  # of disks by name; 0 means none
    free_slots: int | None = None  # asked for when some devices may have none
    fixed_disks: tuple[str, ...] = ()  # those without one, which stay until a restart
    fixed_networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hotplug:
    """What a backend can change in a running machine."""

    vcpus: bool = False  # more of them, up to vcpus_max
    memory: bool = False  # more of it, up to memory_max
    grow_buses: tuple[str, ...] = ()  # of disks whose guest hears that they have grown
    limits: bool = False
    cdrom: bool = False
    disk_buses: tuple[str, ...] = ()  # of disks that come and go
    network_types: tuple[str, ...] = ()  # of cards that come and go
    cable: bool = False
    memory_step: int = 1  # MiB
    slots: int | None = None  # for cards and for disks that take one each


@dataclass(frozen=True)
class Live:
    """What can be done at once: the changes in their order, what the machine has then, and what must wait for a restart."""

    becomes: VmSpec
    changes: tuple[Change, ...] = ()
    waiting: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()  # what a machine that is suspended takes up when it goes on


def actual_spec(booted: VmSpec, facts: LiveFacts | None) -> VmSpec:
    """Return what the running machine really has: what it was started with, corrected by what is seen of it."""
    if facts is None:
        return booted
    spec = booted
    if facts.vcpus is not None:
        spec = replace(spec, vcpus=facts.vcpus)
    if facts.memory_mib is not None:
        spec = replace(spec, memory_mib=facts.memory_mib)
    if facts.networks is not None and spec.networks is not None:
        there = tuple(card for card in spec.networks if card.name in facts.networks)
        spec = replace(spec, networks=there)
    if facts.cdrom is not None and spec.cdrom is not None:
        spec = replace(spec, cdrom=facts.cdrom)
    if facts.disks is not None:
        sizes = facts.disks
        spec = replace(spec, disk_size=sizes.get(SYSTEM_DISK, spec.disk_size))
        known = (d for d in spec.disks or () if d.name in sizes or d.name == SYSTEM_DISK)
        seen = (d if d.name == SYSTEM_DISK else replace(d, size=sizes[d.name]) for d in known)
        spec = replace(spec, disks=None if spec.disks is None else tuple(seen))
    for name, limits in (facts.limits or {}).items():
        listed = {disk.name: disk for disk in spec.disks or ()}
        ours = name in listed or name == SYSTEM_DISK
        if ours and listed.get(name, Disk(name)).limits != limits:
            spec = changed(spec, Change("limit_disk", name, limits))
    return spec


def live_changes(
    actual: VmSpec, wanted: VmSpec, can: Hotplug, facts: LiveFacts | None = None
) -> Live:
    """Return how far the running machine gets from what it has to what is wanted, and how."""
    made = [change for steps in _STEPS for change in steps(actual, wanted, can)]
    changes = _that_fit(made, actual, can, facts or LiveFacts())
    becomes = actual
    for change in changes:
        becomes = changed(becomes, change)
    return Live(becomes, changes, pending(becomes, wanted))


def changed(spec: VmSpec, change: Change) -> VmSpec:
    """Return what a running machine has once the change is made."""
    name, value = change.name, change.value
    disks, networks = spec.disks or (), spec.networks or ()
    if change.what in _FIELDS:
        return replace(spec, **{_FIELDS[change.what]: value})
    if change.what == "resize_disk" and name == SYSTEM_DISK:
        return replace(spec, disk_size=value)
    if change.what == "resize_disk":
        return replace(spec, disks=_each(disks, name, size=value))
    if change.what == "limit_disk" and isinstance(value, Mapping):
        if name not in [disk.name for disk in disks]:
            disks = (*disks, Disk(name).completed())
        return replace(
            spec, disks=_each(disks, name, **{key: n or None for key, n in value.items()})
        )
    if change.what == "plug_cable":
        return replace(spec, networks=_each(networks, name, connected=value))
    if change.what.endswith("_disk"):
        disks = tuple(disk for disk in disks if disk.name != name)
        return replace(spec, disks=(*disks, value) if isinstance(value, Disk) else disks)
    networks = tuple(card for card in networks if card.name != name)
    return replace(spec, networks=(*networks, value) if isinstance(value, Network) else networks)


_FIELDS = {"set_vcpus": "vcpus", "set_memory": "memory_mib", "set_medium": "cdrom"}
_Item = TypeVar("_Item", Disk, Network)


def _each(items: Sequence[_Item], name: str, **values: Any) -> tuple[_Item, ...]:
    return tuple(replace(item, **values) if item.name == name else item for item in items)


def _that_fit(
    changes: Sequence[Change], actual: VmSpec, can: Hotplug, facts: LiveFacts
) -> tuple[Change, ...]:
    """Leave out what there is no free slot for, and what has none that could become free."""
    if can.slots is None:
        return tuple(changes)
    buses = {disk.name: disk.bus for disk in actual.disks or ()}
    free = facts.free_slots
    if free is None:
        free = can.slots - len(actual.networks or ()) - _slots_of_disks(buses)
    fit = []
    for change in changes:
        needs = 0
        if change.what == "add_network":
            needs = 1
        elif change.what == "add_disk":
            needs = _slots_of_disks({**buses, change.name: change.value.bus})
            needs -= _slots_of_disks(buses)
        elif change.what == "remove_network":
            needs = -1
        elif change.what == "remove_disk":
            needs = -int(_has_slot(buses[change.name]))  # a controller stays
        fixed = {"remove_network": facts.fixed_networks, "remove_disk": facts.fixed_disks}
        if needs > max(free, 0) or change.name in fixed.get(change.what, ()):
            continue
        if change.what == "add_disk":
            buses[change.name] = change.value.bus
        free -= needs
        fit.append(change)
    return tuple(fit)


def _slots_of_disks(buses: Mapping[str, str | None]) -> int:
    ones = [bus for name, bus in buses.items() if name != SYSTEM_DISK and _has_slot(bus)]
    return len(ones) + ("virtio-scsi" in buses.values())  # its disks share one controller


def _has_slot(bus: str | None) -> bool:
    return bus in ("virtio-blk", "nvme")


def _vcpus(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Iterator[Change]:
    have, want = actual.vcpus or 1, wanted.vcpus or 1
    if can.vcpus and have < want <= (actual.vcpus_max or 0):
        yield Change("set_vcpus", value=want)


def _memory(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Iterator[Change]:
    have, want = actual.memory_mib or 0, wanted.memory_mib or 0
    room = have < want <= (actual.memory_max_mib or 0)
    if can.memory and room and not lacks_step(actual, wanted, can):
        yield Change("set_memory", value=want)


def _disk_size(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Iterator[Change]:
    size = wanted.disk_size
    listed = {disk.name: disk for disk in actual.disks or ()}
    disk = listed.get(SYSTEM_DISK, Disk(SYSTEM_DISK).completed())
    if disk.bus in can.grow_buses and size is not None and (actual.disk_size or 0) < size:
        yield Change("resize_disk", SYSTEM_DISK, size)


def _cdrom(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Iterator[Change]:
    drive = actual.cdrom is not None and wanted.cdrom is not None
    if can.cdrom and drive and actual.cdrom != wanted.cdrom:
        yield Change("set_medium", value=wanted.cdrom)


def _disks(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Iterator[Change]:
    old = {disk.name: disk for disk in actual.disks or ()}
    new = {disk.name: disk for disk in wanted.disks or ()}
    if SYSTEM_DISK in old:  # it is there whether it is listed or not
        new.setdefault(SYSTEM_DISK, Disk(SYSTEM_DISK).completed())
    for name, disk in old.items():
        if name not in new and disk.bus in can.disk_buses:
            yield Change("remove_disk", name)
    for name, disk in new.items():
        if name in old or name == SYSTEM_DISK:
            yield from _alter_disk(old.get(name, Disk(name).completed()), disk, can)
        elif disk.bus in can.disk_buses and disk.boot_index is None:
            yield Change("add_disk", name, disk)


def _alter_disk(old: Disk, new: Disk, can: Hotplug) -> Iterator[Change]:
    grows = old.bus in can.grow_buses and not old.readonly
    if grows and new.size is not None and (old.size or 0) < new.size:
        yield Change("resize_disk", new.name, new.size)
    if can.limits and new.limits != old.limits:
        yield Change("limit_disk", new.name, new.limits)


def _networks(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Iterator[Change]:
    old = {card.name: card for card in actual.networks or ()}
    new = {card.name: card for card in wanted.networks or ()}
    for card in _that_may_go(actual.networks or (), new):
        if card.type in can.network_types:
            yield Change("remove_network", card.name)
    for name, card in new.items():
        before = old.get(name)
        if before is None and card.type in can.network_types:
            yield Change("add_network", name, card)
        elif before is not None and can.cable and before.connected != card.connected:
            yield Change("plug_cable", name, card.connected)


def _that_may_go(cards: Sequence[Network], kept: Collection[str]) -> list[Network]:
    going = [card for card in cards if card.name not in kept]
    users = [card for card in cards if card.type == "user"]
    # The first of them leads to the guest's SSH, and no other can take that over while the machine runs.
    if any(card.name in kept for card in users[1:]):
        going = [card for card in going if card is not users[0]]
    return going


def lacks_step(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> bool:
    """Tell whether the running machine would get more memory if it were a whole number of pieces."""
    have, want = actual.memory_mib or 0, wanted.memory_mib or 0
    room = have < want <= (actual.memory_max_mib or 0)
    return can.memory and room and (want - have) % can.memory_step != 0


_STEPS = (_vcpus, _memory, _disk_size, _disks, _networks, _cdrom)
