# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it takes to change an option of a virtual machine that exists: one row for each option."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

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
    "cloud_init": Effect.RECREATE,
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
    """Return the options whose values a running machine has not taken up."""
    return differing(running, wanted, Effect.LIVE, Effect.NEXT_START)


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
    _check_disks(old, new)
    if new.disk_size is not None and disk_bytes is not None and new.disk_size < disk_bytes:
        raise InvalidSpec(
            f"disk_size: {show_size(new.disk_size)} is smaller than the disk of the VM '{old.name}', "
            f"which has {show_size(disk_bytes)}.",
            "A disk only grows: shrinking would cut off the guest's data.",
            option="disk_size",
        )
    ports = new.ssh_port_range
    if ports is not None and ssh_port is not None and not ports.first <= ssh_port <= ports.last:
        raise CannotChange(
            f"ssh_port_range: the VM '{old.name}' keeps its port {ssh_port}, which lies outside of the range.",
            option="ssh_port_range",
        )


def _check_disks(old: VmSpec, new: VmSpec) -> None:
    known = {disk.name: disk for disk in old.disks or ()}
    for index, disk in enumerate(new.disks or ()):
        before = known.get(disk.name)
        if before is None:
            continue
        for field in ("image", "format"):
            if getattr(before, field) != getattr(disk, field):
                raise CannotChange(
                    f"disks[{index}].{field}: the disk '{disk.name}' of the VM '{old.name}' was created with "
                    f"another value, {getattr(before, field)!r}.",
                    "Give the new disk another name, or detach and delete the old one first.",
                    option=f"disks[{index}].{field}",
                )
        if disk.size is not None and before.size is not None and disk.size < before.size:
            raise InvalidSpec(
                f"disks[{index}].size: {show_size(disk.size)} is smaller than the disk '{disk.name}' of the VM "
                f"'{old.name}', which has {show_size(before.size)}.",
                "A disk only grows: shrinking would cut off the guest's data.",
                option=f"disks[{index}].size",
            )
