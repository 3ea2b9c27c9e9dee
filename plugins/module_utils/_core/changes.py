# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it takes to change an option of a virtual machine that exists: one row for each option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum

from .disks import SYSTEM_DISK, Disk
from .errors import CannotChange, InvalidSpec
from .propolis import FIXED as PROPOLIS_FIXED
from .sizes import show_size
from .spec import VmSpec


class Effect(Enum):
    """When a changed option takes effect."""

    AT_ONCE = "at once"  # nothing that runs knows of it
    LIVE = "live"  # as far as the running machine can, else at the next start
    NEXT_START = "at the next start"
    RECREATE = "only by creating it anew"
    NEVER = "never"


EFFECTS: Mapping[str, Effect] = {
    "name": Effect.NEVER,
    "backend": Effect.NEVER,
    "image": Effect.RECREATE,
    "image_format": Effect.RECREATE,
    "vcpus": Effect.LIVE,
    "memory_mib": Effect.LIVE,
    "disk_size": Effect.LIVE,
    "networks": Effect.LIVE,
    "addresses": Effect.AT_ONCE,
    "ssh_port_range": Effect.AT_ONCE,
    "cloud_init": Effect.NEXT_START,  # and only if the task says rerun
    "accelerator": Effect.NEXT_START,
    "cpu": Effect.NEXT_START,
    "machine": Effect.NEXT_START,
    "vnc": Effect.NEXT_START,
    "labels": Effect.AT_ONCE,
    "description": Effect.AT_ONCE,
    "image_checksum": Effect.RECREATE,
    "propolis": Effect.NEXT_START,
    "disks": Effect.LIVE,
    "cdrom": Effect.LIVE,
    "vcpus_max": Effect.NEXT_START,
    "memory_max_mib": Effect.NEXT_START,
    "firmware": Effect.NEXT_START,
    "secure_boot": Effect.NEXT_START,
    "tpm": Effect.NEXT_START,
    "kernel": Effect.NEXT_START,
    "initrd": Effect.NEXT_START,
    "kernel_cmdline": Effect.NEXT_START,
    "smbios": Effect.NEXT_START,
    "shared_folders": Effect.NEXT_START,
    "qemu_args": Effect.NEXT_START,
    "autostart": Effect.AT_ONCE,
    "clone_from": Effect.RECREATE,
    "clone_mode": Effect.RECREATE,
}


def option_name(field: str) -> str:
    """Return what users call a field of ``VmSpec``."""
    return {
        "memory_mib": "memory",
        "memory_max_mib": "memory_max",
        "addresses": "ip_version, ip_range, lease_files",
    }.get(field, field)


def differing(old: VmSpec, new: VmSpec, *effects: Effect) -> tuple[str, ...]:
    """Return the options with one of these effects whose values differ."""
    return tuple(
        name
        for name, found in EFFECTS.items()
        if found in effects and getattr(old, name) != getattr(new, name)
    )


def pending(running: VmSpec, wanted: VmSpec) -> tuple[str, ...]:
    """Return the options whose values a running machine has not taken up.

    A disk that is larger than what is asked for counts as that large: it never shrinks. The order in which cards and
    disks came does not count.
    """
    return differing(_settled(running, wanted), wanted, Effect.LIVE, Effect.NEXT_START)


def _settled(running: VmSpec, wanted: VmSpec) -> VmSpec:
    order = [card.name for card in wanted.networks or ()]
    cards = {card.name: card for card in running.networks or ()}
    networks = [cards.pop(name) for name in order if name in cards]
    return replace(
        running,
        disk_size=_enough(running.disk_size, wanted.disk_size),
        networks=(*networks, *cards.values()) or (wanted.networks and ()),
        disks=_settled_disks(running.disks or (), wanted.disks or ()) or (wanted.disks and ()),
    )


def _settled_disks(running: Sequence[Disk], wanted: Sequence[Disk]) -> tuple[Disk, ...]:
    there = {disk.name: disk for disk in running}
    found = []
    for disk in wanted:
        has = there.pop(disk.name, None)
        if has is None and disk.name == SYSTEM_DISK:
            has = Disk(SYSTEM_DISK).completed()
        if has is not None:
            found.append(replace(has, size=_enough(has.size, disk.size)))
    if there.get(SYSTEM_DISK) == Disk(SYSTEM_DISK).completed():
        del there[SYSTEM_DISK]  # it is there whether it is listed or not
    return (*found, *there.values())


def _enough(has: int | None, wanted: int | None) -> int | None:
    return wanted if wanted is None or (has is not None and has > wanted) else has


def check_change(old: VmSpec, new: VmSpec, disk_bytes: int | None, ssh_port: int | None) -> None:
    """Raise ``CannotChange`` for the first option that cannot become what ``new`` says on an existing machine."""
    for name in differing(old, new, Effect.RECREATE, Effect.NEVER):
        # cloud_init may hold secrets
        shown = "" if name == "cloud_init" else f", {getattr(old, name)!r}"
        raise CannotChange(
            f"{name}: the VM '{old.name}' was created with another value{shown}.", option=name
        )
    for name in PROPOLIS_FIXED:
        if getattr(old.propolis, name, None) != getattr(new.propolis, name, None):
            raise CannotChange(
                f"propolis.{name}: the VM '{old.name}' was created with another value, "
                f"{getattr(old.propolis, name, None)!r}.",
                option=f"propolis.{name}",
            )
    size, has = new.disk_size, disk_bytes or 0
    if size is not None and size != old.disk_size and size < has:
        raise InvalidSpec(
            f"disk_size: {show_size(size)} is smaller than the disk of the VM '{old.name}', "
            f"which has {show_size(has)}.",
            "A disk only grows: shrinking would cut off the guest's data.",
            option="disk_size",
        )
    ports = new.ssh_port_range
    if ports is not None and ssh_port is not None and not ports.first <= ssh_port <= ports.last:
        raise CannotChange(
            f"ssh_port_range: the VM '{old.name}' keeps its port {ssh_port}, which lies outside of the range.",
            option="ssh_port_range",
        )
