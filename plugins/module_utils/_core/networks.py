# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Network cards as a task asks for them, and which addresses of a guest count."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidSpec

MODELS: Mapping[str, str] = {  # what users say, and the device that QEMU has for it
    "virtio": "virtio-net-pci",
    "e1000e": "e1000e",
    "e1000": "e1000",
    "rtl8139": "rtl8139",
}
MAX_NETWORKS = 8

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,14}")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")  # the kernel's limit is 15 characters
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_LINK = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,29}[0-9]")  # dladm: it ends in its number
_OWNERS = {"bridge": "bridge", "interface": "tap", "port_forwards": "user"} | {
    "link": "vnic",
    "vlan": "vnic",
}


@dataclass(frozen=True)
class PortForward:
    """A port of the host that leads into the guest."""

    host: int
    guest: int
    protocol: str = "tcp"
    host_address: str = "127.0.0.1"

    @property
    def rule(self) -> str:
        """The forwarding as QEMU writes it."""
        return f"{self.protocol}:{self.host_address}:{self.host}-:{self.guest}"

    @property
    def is_local(self) -> bool:
        """Whether it takes a TCP port of 127.0.0.1, where the ports for SSH are."""
        return self.protocol == "tcp" and self.host_address in ("127.0.0.1", "0.0.0.0")


@dataclass(frozen=True)
class Network:
    """One network card and what it is plugged into. Its name keeps its MAC address apart from the others'."""

    type: str = "user"
    name: str = "net0"
    bridge: str | None = None  # of type bridge: the bridge that it joins
    interface: str | None = None  # of type tap: the host's end
    mac: str | None = None
    model: str = "virtio"
    mtu: int | None = None
    port_forwards: tuple[PortForward, ...] = ()
    link: str | None = None  # of type vnic: what the VNIC is made over
    connected: bool = True  # whether the cable is plugged in
    vlan: int | None = None  # of type vnic: the VLAN that its frames belong to


@dataclass(frozen=True)
class AddressFilter:
    """Which addresses of a guest count. ``None`` means left open; empty, all that are global or private."""

    version: int | None = None  # 0 in a wish takes it back
    ranges: tuple[str, ...] | None = None
    lease_files: tuple[str, ...] | None = None


def networks_from_params(items: Sequence[Mapping[str, Any]] | None) -> tuple[Network, ...] | None:
    """Read the option ``networks``; raise ``InvalidSpec`` naming the first suboption that makes no sense."""
    if items is None:
        return None
    if any(item["type"] == "none" for item in items):
        if len(items) > 1:
            raise InvalidSpec(
                "networks: type 'none' stands alone.",
                "Leave the list empty for no network.",
                option="networks",
            )
        return ()
    if len(items) > MAX_NETWORKS:
        raise InvalidSpec(f"networks: at most {MAX_NETWORKS} are possible.", option="networks")
    networks = tuple(_network(index, item) for index, item in enumerate(items))
    for field in ("name", "mac", "interface"):
        _refuse_twice(field, [getattr(network, field) for network in networks])
    _refuse_twice(
        "port_forwards.host",
        [(f.host, f.protocol) for network in networks for f in network.port_forwards],
    )
    return networks


def _network(index: int, item: Mapping[str, Any]) -> Network:
    option = f"networks[{index}]"
    kind = item["type"]
    for suboption, owner in _OWNERS.items():
        if item.get(suboption) and kind != owner:
            raise InvalidSpec(
                f"{option}.{suboption}: this belongs to networks of type {owner}, not {kind}.",
                "Leave it out, or change the type.",
                option=f"{option}.{suboption}",
            )
    for suboption, owner in (("bridge", "bridge"), ("interface", "tap")):
        if kind == owner and not item.get(suboption):
            raise InvalidSpec(
                f"{option}.{suboption}: a network of type {owner} needs it.",
                option=f"{option}.{suboption}",
            )
    if item.get("mtu") and kind != "bridge" and item.get("model") not in (None, "virtio"):
        raise InvalidSpec(
            f"{option}.mtu: a card of the model {item['model']} cannot be told.",
            "Use the model virtio, or set the MTU inside the guest.",
            option=f"{option}.mtu",
        )
    return Network(
        type=kind,
        name=_matching(f"{option}.name", _NAME, item.get("name")) or f"net{index}",
        bridge=_matching(f"{option}.bridge", _INTERFACE, item.get("bridge")),
        interface=_matching(f"{option}.interface", _INTERFACE, item.get("interface")),
        link=_matching(f"{option}.link", _LINK, item.get("link")),
        vlan=_between(f"{option}.vlan", item.get("vlan"), 1, 4094),
        connected=True if item.get("connected") is None else item["connected"],
        mac=_mac(f"{option}.mac", item.get("mac")),
        model=item.get("model") or "virtio",
        mtu=_between(f"{option}.mtu", item.get("mtu"), 576, 65521),
        port_forwards=tuple(
            _port_forward(f"{option}.port_forwards[{number}]", forward)
            for number, forward in enumerate(item.get("port_forwards") or ())
        ),
    )


def _port_forward(option: str, item: Mapping[str, Any]) -> PortForward:
    address = item.get("host_address") or "127.0.0.1"
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError as exc:
        raise InvalidSpec(
            f"{option}.host_address: '{address}' is not an IPv4 address.",
            option=f"{option}.host_address",
        ) from exc
    return PortForward(
        host=_between(f"{option}.host", item["host"], 1, 65535) or 0,
        guest=_between(f"{option}.guest", item["guest"], 1, 65535) or 0,
        protocol=item.get("protocol") or "tcp",
        host_address=str(parsed),
    )


def _refuse_twice(field: str, values: Sequence[object]) -> None:
    given = [value for value in values if value is not None]
    for value in given:
        if given.count(value) > 1:
            shown = value[0] if isinstance(value, tuple) else value
            raise InvalidSpec(f"networks: {field} {shown} is given twice.", option="networks")


def _matching(option: str, pattern: re.Pattern[str], value: str | None) -> str | None:
    if value is not None and not pattern.fullmatch(value):
        raise InvalidSpec(
            f"{option}: {value!r} cannot be such a name.",
            "A name has at most 15 letters, digits, dots, dashes and underscores.",
            option=option,
        )
    return value


def _mac(option: str, value: str | None) -> str | None:
    if value is None:
        return None
    mac = value.lower().replace("-", ":")
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidSpec(
            f"{option}: {value!r} is not the MAC address of one card.",
            "Give six pairs of hexadecimal digits of which the first is even, such as 52:54:00:12:34:56.",
            option=option,
        )
    return mac


def _between(option: str, value: int | None, first: int, last: int) -> int | None:
    if value is not None and not first <= value <= last:
        raise InvalidSpec(f"{option}: {value} is not between {first} and {last}.", option=option)
    return value


def address_filter_from_params(params: Mapping[str, Any]) -> AddressFilter | None:
    """Read the options that say which addresses count; ``None`` if all were left open."""
    version, ranges, files = (params.get(key) for key in ("ip_version", "ip_range", "lease_files"))
    if version is None and ranges is None and files is None:
        return None
    for index, text in enumerate(ranges or ()):
        try:
            ipaddress.ip_network(text)
        except ValueError as exc:
            raise InvalidSpec(
                f"ip_range[{index}]: '{text}' is not a range of addresses: {exc}.",
                "Give it with its length, such as 192.168.77.0/24.",
                option=f"ip_range[{index}]",
            ) from exc
    return AddressFilter(
        version=None if version is None else int(version),
        ranges=None if ranges is None else tuple(ranges),
        lease_files=None if files is None else tuple(files),
    )
