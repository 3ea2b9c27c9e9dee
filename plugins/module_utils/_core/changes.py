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

    AT_ONCE = "at once"
    NEXT_START = "at the next start"
    NEVER = "only when the machine is created"


EFFECTS: Mapping[str, Effect] = {
    "name": Effect.NEVER,
    "backend": Effect.NEVER,
    "image": Effect.NEVER,
    "image_format": Effect.NEVER,
    "vcpus": Effect.NEXT_START,
    "memory_mib": Effect.NEXT_START,
    "disk_size": Effect.NEXT_START,
    "networks": Effect.NEXT_START,
    "addresses": Effect.AT_ONCE,
    "ssh_port_range": Effect.AT_ONCE,
    "cloud_init": Effect.NEVER,
    "accelerator": Effect.NEXT_START,
    "cpu": Effect.NEXT_START,
    "machine": Effect.NEXT_START,
    "vnc": Effect.NEXT_START,
    "labels": Effect.AT_ONCE,
    "description": Effect.AT_ONCE,
    "image_checksum": Effect.NEVER,
    "propolis": Effect.NEXT_START,
}


def option_name(field: str) -> str:
    """Return what users call a field of ``VmSpec``."""
    return {
        "memory_mib": "memory",
        "addresses": "ip_version, ip_range, lease_files",
    }.get(field, field)


def differing(old: VmSpec, new: VmSpec, effect: Effect = Effect.NEXT_START) -> tuple[str, ...]:
    """Return the options with this effect whose values differ."""
    return tuple(
        name
        for name, found in EFFECTS.items()
        if found is effect and getattr(old, name) != getattr(new, name)
    )


def check_change(old: VmSpec, new: VmSpec, disk_bytes: int | None, ssh_port: int | None) -> None:
    """Raise ``CannotChange`` for the first option that cannot become what ``new`` says on an existing machine."""
    for name in differing(old, new, Effect.NEVER):
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
