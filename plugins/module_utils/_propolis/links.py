# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Network links of illumos: VNICs for the guests' cards, by dladm."""

from __future__ import annotations

from dataclasses import dataclass

from .._core.errors import LinkMissing, VnicFailed
from .._host.commands import run
from .parsable import padded_mac, split_parsable, vnic_name

__all__ = [
    "Vnic",
    "default_link",
    "ensure_vnic",
    "exists",
    "remove_vnic",
    "show_vnics",
    "vnic_name",
]

_COLUMNS = "LINK,OVER,MACADDRESS,VID"


@dataclass(frozen=True)
class Vnic:
    """A virtual network card as the host has it."""

    over: str
    mac: str | None
    vlan: int | None
    zone: str | None  # that uses it right now


def exists(name: str) -> bool:
    """Tell whether there is a link of this name. All are listed: asked for one, dladm fails for many reasons."""
    return name in run(["dladm", "show-link", "-p", "-o", "LINK"]).stdout.splitlines()


def default_link() -> str:
    """Return the only physical link that is up; raise ``LinkMissing`` naming all if that is not clear."""
    lines = run(["dladm", "show-phys", "-p", "-o", "LINK,STATE"]).stdout.splitlines()
    found = {fields[0]: fields[1] for fields in map(split_parsable, lines)}
    up = [name for name, state in found.items() if state == "up"]
    if len(up) == 1:
        return up[0]
    seen = ", ".join(f"{name} ({state})" for name, state in found.items()) or "none"
    raise LinkMissing(
        f"It is not clear which link of this host leads to the network: {len(up)} of its physical links are up; "
        f"it has {seen}.",
        "Name one in networks[].link.",
        option="networks",
        links=found,
    )


def show_vnics() -> dict[str, Vnic]:
    """Return all VNICs of the host by name."""
    shown = run(["dladm", "show-vnic", "-p", "-o", f"{_COLUMNS},ZONE"])
    found = {}
    for line in shown.stdout.splitlines():
        name, over, mac, vlan, zone = split_parsable(line)[:5]
        tag = int(vlan) if vlan.isdecimal() and int(vlan) else None
        found[name] = Vnic(over, padded_mac(mac), tag, None if zone in ("", "--") else zone)
    return found


def ensure_vnic(name: str, over: str, mac: str, vlan: int | None, mtu: int | None) -> None:
    """Have a persistent VNIC over the link ``over`` with this MAC address, VLAN and MTU; ``None`` is the link's own.

    The name belongs to one machine, so a VNIC of that name which differs is made anew. Raises ``VnicFailed`` if it
    is somebody else's after all, or in use by a running zone, or does not take the MTU.
    """
    mac = padded_mac(mac) or mac
    found = show_vnics().get(name)
    if found is not None and (found.over, found.mac, found.vlan) != (over, mac, vlan):
        _refuse_foreign(name, found, over, mac)
        remove_vnic(name)
        found = None
    if found is None:
        _create(name, over, mac, vlan, mtu)
    if mtu is not None:
        _set_mtu(name, mtu)
    elif found is not None and _mtu_of(name) != _mtu_of(over):
        run(["dladm", "reset-linkprop", "-p", "mtu", name])


def remove_vnic(name: str) -> bool:
    """Delete a VNIC, also one that is only configured because its link is gone; tell whether there was one."""
    if name not in show_vnics() and name not in _configured():
        return False
    run(["dladm", "delete-vnic", name])
    return True


def _configured() -> list[str]:
    return run(["dladm", "show-vnic", "-P", "-p", "-o", "LINK"]).stdout.splitlines()


def _refuse_foreign(name: str, found: Vnic, over: str, mac: str) -> None:
    if found.zone is not None:
        raise VnicFailed(
            f"The VNIC {name} has to change and is in use by the zone {found.zone}.",
            "Halt the zone first.",
            vnic=name,
        )
    if found.over != over and found.mac != mac:
        raise VnicFailed(
            f"There is a VNIC {name} already, over {found.over} with the MAC address {found.mac}: it is not this VM's, "
            f"which would be over {over} with {mac}.",
            f"Remove it if nobody needs it: dladm delete-vnic {name}",
            vnic=name,
        )


def _create(name: str, over: str, mac: str, vlan: int | None, mtu: int | None) -> None:
    options = ["-l", over, "-m", mac]
    options += [] if vlan is None else ["-v", str(vlan)]
    options += [] if mtu is None else ["-p", f"mtu={mtu}"]
    run(["dladm", "create-vnic", *options, name])


def _set_mtu(name: str, mtu: int) -> None:
    """Set the MTU and read it back: create-vnic may lose it (illumos issue 15695)."""
    if _mtu_of(name) == str(mtu):
        return
    run(["dladm", "set-linkprop", "-p", f"mtu={mtu}", name])
    got = _mtu_of(name)
    if got != str(mtu):
        raise VnicFailed(
            f"The VNIC {name} does not take the MTU {mtu}; it has {got or 'none'}.",
            "The link below it must allow that size: dladm show-linkprop -p mtu",
            vnic=name,
        )


def _mtu_of(name: str) -> str:
    return run(["dladm", "show-linkprop", "-c", "-o", "VALUE", "-p", "mtu", name]).stdout.strip()
