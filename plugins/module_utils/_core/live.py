# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running machine can take up at once, and what it cannot. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Union

from .changes import pending
from .disks import LIMITS, SYSTEM_DISK, Disk
from .networks import Network
from .spec import VmSpec

Value = Union[None, bool, int, str, Disk, Network, Mapping[str, int]]


@dataclass(frozen=True)
class Change:
    """One thing to do to the running machine: ``what`` is the word for it, ``name`` the disk or card it is about."""

    what: str
    name: str = ""
    value: Value = None


@dataclass(frozen=True)
class LiveFacts:
    """What the hypervisor itself says that the running machine has. ``None`` means that it was not asked."""

    vcpus: int | None = None
    memory_mib: int | None = None
    disks: Mapping[str, int] | None = None  # sizes in bytes by name
    networks: tuple[str, ...] | None = None
    cdrom: str | None = None


@dataclass(frozen=True)
class Hotplug:
    """What a backend can change in a running machine."""

    vcpus: bool = False  # more of them, up to vcpus_max
    memory: bool = False  # more of it, up to memory_max
    disk_size: bool = False
    limits: bool = False
    cdrom: bool = False
    disk_buses: tuple[str, ...] = ()  # of disks that come and go
    network_types: tuple[str, ...] = ()  # of cards that come and go
    cable: bool = False
    memory_step: int = 1  # MiB


@dataclass(frozen=True)
class Live:
    """What can be done at once: the changes in their order, what the machine has then, and what must wait for a restart."""

    becomes: VmSpec
    changes: tuple[Change, ...] = ()
    waiting: tuple[str, ...] = ()


def actual_spec(booted: VmSpec, facts: LiveFacts | None) -> VmSpec:
    """Return what the running machine really has: what it was started with, corrected by what is seen of it."""
    if facts is None:
        return booted
    spec = booted
    if facts.vcpus is not None:
        spec = replace(spec, vcpus=facts.vcpus)
    if facts.memory_mib is not None:
        spec = replace(spec, memory_mib=facts.memory_mib)
    if facts.networks is not None:
        there = tuple(card for card in spec.networks or () if card.name in facts.networks)
        spec = replace(spec, networks=there)
    if facts.cdrom is not None and spec.cdrom is not None:
        spec = replace(spec, cdrom=facts.cdrom)
    if facts.disks is not None:
        sizes = facts.disks
        known = (
            disk for disk in spec.disks or () if disk.name in sizes or disk.name == SYSTEM_DISK
        )
        seen = (replace(d, size=sizes[d.name]) if d.size is not None else d for d in known)
        spec = replace(spec, disks=tuple(seen))
        if spec.disk_size is not None and SYSTEM_DISK in sizes:
            spec = replace(spec, disk_size=sizes[SYSTEM_DISK])
    return spec


def live_changes(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Live:
    """Return how far the running machine gets from what it has to what is wanted, and how."""
    changes: list[Change] = []
    becomes = actual
    for option, steps in _STEPS.items():
        if getattr(actual, option) != getattr(wanted, option):
            made, reached = steps(actual, wanted, can)
            changes += made
            becomes = replace(becomes, **{option: reached})
    return Live(becomes, tuple(changes), pending(becomes, wanted))


Made = tuple[list[Change], Any]  # and the value that the option has then


def _vcpus(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Made:
    have, want = actual.vcpus or 1, wanted.vcpus or 1
    if can.vcpus and have < want <= (actual.vcpus_max or 0):
        return [Change("set_vcpus", value=want)], want
    return [], have


def _memory(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Made:
    have, want = actual.memory_mib or 0, wanted.memory_mib or 0
    fits = have < want <= (actual.memory_max_mib or 0) and (want - have) % can.memory_step == 0
    return ([Change("set_memory", value=want)], want) if can.memory and fits else ([], have)


def _disk_size(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Made:
    if can.disk_size and wanted.disk_size is not None:
        return [Change("resize_disk", SYSTEM_DISK, wanted.disk_size)], wanted.disk_size
    return [], actual.disk_size


def _cdrom(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Made:
    if can.cdrom and actual.cdrom is not None and wanted.cdrom is not None:
        return [Change("set_medium", value=wanted.cdrom)], wanted.cdrom
    return [], actual.cdrom


def _disks(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Made:
    changes: list[Change] = []
    reached: list[Disk] = []
    old = {disk.name: disk for disk in actual.disks or ()}
    new = {disk.name: disk for disk in wanted.disks or ()}
    for name, disk in old.items():
        if name not in new and name != SYSTEM_DISK and disk.bus in can.disk_buses:
            changes.append(Change("remove_disk", name))
        elif name not in new:
            reached.append(disk)
    for name, disk in new.items():
        if name in old or name == SYSTEM_DISK:
            altered, then = _alter_disk(old.get(name, Disk(name).completed()), disk, can)
            changes += altered
            reached.append(then)
        elif disk.bus in can.disk_buses and disk.boot_index is None:
            changes.append(Change("add_disk", name, disk))
            reached.append(disk)
    return changes, tuple(reached)


def _alter_disk(old: Disk, new: Disk, can: Hotplug) -> tuple[list[Change], Disk]:
    changes: list[Change] = []
    if can.disk_size and new.size is not None and new.size != old.size:
        changes.append(Change("resize_disk", new.name, new.size))
        old = replace(old, size=new.size)
    if can.limits and new.limits != old.limits:
        changes.append(Change("limit_disk", new.name, new.limits))
        old = replace(old, **{limit: getattr(new, limit) for limit in LIMITS})
    return changes, old


def _networks(actual: VmSpec, wanted: VmSpec, can: Hotplug) -> Made:
    changes: list[Change] = []
    reached: list[Network] = []
    old = {card.name: card for card in actual.networks or ()}
    new = {card.name: card for card in wanted.networks or ()}
    for name, card in old.items():
        if name not in new and card.type in can.network_types:
            changes.append(Change("remove_network", name))
        elif name not in new:
            reached.append(card)
    for name, card in new.items():
        before = old.get(name)
        if before is None and card.type in can.network_types:
            changes.append(Change("add_network", name, card))
            reached.append(card)
        elif before is not None and can.cable and before.connected != card.connected:
            changes.append(Change("plug_cable", name, card.connected))
            reached.append(replace(before, connected=card.connected))
        elif before is not None:
            reached.append(before)
    return changes, tuple(reached)


_STEPS = {
    "vcpus": _vcpus,
    "memory_mib": _memory,
    "disk_size": _disk_size,
    "disks": _disks,
    "networks": _networks,
    "cdrom": _cdrom,
}
