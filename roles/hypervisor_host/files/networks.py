# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the wished networks of a host and fill in what was left open; change nothing.

Reads from standard input the JSON object ``{"networks": [...], "config_dir": PATH}`` and prints
``{"problems": [sentence, ...], "networks": [...], "systemd": bool}``. The networks have all values that the templates
of this role need, and ``ours``, which tells whether this role made a network of that name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

NAME = re.compile(r"[a-z][a-z0-9_-]{0,14}")
RESERVED = {"all", "default"}  # what the kernel's settings call all interfaces and new interfaces
LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = re.compile(rf"{LABEL}(\.{LABEL})*")
MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
INTERFACE = re.compile(r"[^\s/\"\\:]{1,15}")


class Problem(Exception):
    """A network that cannot be made or removed as wished; the text says why."""


def main() -> None:
    """Answer the question on standard input."""
    question = json.load(sys.stdin)
    wishes, config_dir = question["networks"], question["config_dir"]
    problems, networks = [], []
    for wish in wishes:
        try:
            networks.append(complete(wish))
        except Problem as problem:
            problems.append(f"{wish['name']}: {problem}")
    for network in networks:
        # A network has a folder before it has an interface, and until all else is gone.
        network["ours"] = os.path.isdir(os.path.join(config_dir, "networks", network["name"]))
    if not problems:
        problems += clashes(networks) + refusals(networks, interfaces())
    systemd = os.path.isdir("/run/systemd/system")
    json.dump({"problems": problems, "networks": networks, "systemd": systemd}, sys.stdout)


def complete(wish: dict) -> dict:
    """Return a network with all values; raise ``Problem`` for a wrong one."""
    name = wish["name"]
    if not NAME.fullmatch(name) or name in RESERVED:
        raise Problem(
            "name is not 1 to 15 of the characters a-z, 0-9, _ and -, with a letter first"
        )
    if wish.get("state", "present") == "absent":
        return {"name": name, "state": "absent"}
    network = {"name": name, "state": "present", "mac": mac_of(wish), "domain": domain_of(wish)}
    network |= {"nat": wish.get("nat", True), "host_access": wish.get("host_access", False)}
    network["uplinks"] = uplinks_of(wish)
    return network | ipv4_of(wish) | ipv6_of(wish)


def mac_of(wish: dict) -> str:
    """Return the MAC address; the default follows from the name, so that it is the same on each run."""
    digest = hashlib.sha256(wish["name"].encode()).hexdigest()
    mac = (wish.get("mac") or "02:" + ":".join(re.findall("..", digest[:10]))).lower()
    if not MAC.fullmatch(mac) or mac == "00:00:00:00:00:00":
        raise Problem(f"mac {mac} is not the address of one interface, such as 02:00:00:12:34:56")
    return mac


def domain_of(wish: dict) -> str:
    """Return the domain of the guests' names."""
    domain = wish.get("domain") or "vm.internal"
    if not DOMAIN.fullmatch(domain) or len(domain) > 200:
        raise Problem(f"domain {domain} is not a domain name in small letters")
    return domain


def uplinks_of(wish: dict) -> list[str]:
    """Return the only interfaces that guests may go out through; none named means any."""
    uplinks = wish.get("uplinks") or []
    for uplink in uplinks:
        if not INTERFACE.fullmatch(uplink) or uplink == wish["name"]:
            raise Problem(f"uplinks: {uplink} is not the name of another interface")
    return uplinks


def ipv4_of(wish: dict) -> dict:
    """Return the bridge's address, its subnet and the range of addresses for guests."""
    text = wish.get("address") or ""
    try:
        bridge = IPv4Interface(text)
    except ValueError:
        bridge = None
    if bridge is None or "/" not in text or not 8 <= bridge.network.prefixlen <= 30:
        raise Problem(
            f"address {text or 'is missing; it'} is not an IPv4 address with a prefix length"
            " from 8 to 30, such as 192.168.77.1/24"
        )
    usable(bridge.network, "address", bridge.ip)
    lowest, highest = default_range(bridge)
    first = usable(bridge.network, "dhcp_first", wish.get("dhcp_first") or lowest)
    last = usable(bridge.network, "dhcp_last", wish.get("dhcp_last") or highest)
    if first > last:
        raise Problem(f"dhcp_first {first} comes after dhcp_last {last}")
    if first <= bridge.ip <= last:
        raise Problem(
            f"the bridge's own address {bridge.ip} is in the range from dhcp_first {first}"
            f" to dhcp_last {last}"
        )
    return {
        "address": str(bridge),
        "ip": str(bridge.ip),
        "subnet": str(bridge.network),
        "netmask": str(bridge.netmask),
        "dhcp_first": str(first),
        "dhcp_last": str(last),
    }


def default_range(bridge: IPv4Interface) -> tuple[IPv4Address, IPv4Address]:
    """Return the half of the subnet that the bridge's address is not in; the other half is for fixed addresses."""
    lower, upper = bridge.network.subnets()
    if bridge.ip in lower:
        return upper[0], upper[-2]
    return lower[1], lower[-1]


def usable(network: IPv4Network, option: str, value: str | IPv4Address) -> IPv4Address:
    """Return an address that an interface in the network can have."""
    try:
        address = IPv4Address(value)
    except ValueError:
        raise Problem(f"{option} {value} is not an IPv4 address") from None
    if address not in network or address in (network[0], network[-1]):
        raise Problem(f"{option} {address} is not an address for an interface in {network}")
    return address


def ipv6_of(wish: dict) -> dict:
    """Return the bridge's IPv6 address and its prefix; guests make up the rest of theirs, which takes 64 bits."""
    text = wish.get("ipv6")
    if not text:
        return {"ipv6": None}
    try:
        bridge = IPv6Interface(text)
    except ValueError:
        bridge = None
    if bridge is None or bridge.network.prefixlen != 64 or bridge.ip == bridge.network[0]:
        raise Problem(
            f"ipv6 {text} is not an IPv6 address with prefix length 64, such as fd00:77::1/64"
        )
    if bridge.is_multicast or bridge.is_link_local or bridge.is_loopback:
        raise Problem(f"ipv6 {text} cannot be the address of a network; take one from fd00::/8")
    return {
        "ipv6": str(bridge),
        "ipv6_ip": str(bridge.ip),
        "ipv6_prefix": str(bridge.network[0]),
    }


def clashes(networks: list[dict]) -> list[str]:
    """Return what is wrong with the networks as a list."""
    names = [network["name"] for network in networks]
    problems = [
        f"{name}: named more than once" for name in sorted(set(names)) if names.count(name) > 1
    ]
    present = [network for network in networks if network["state"] == "present"]
    for number, one in enumerate(present):
        for other in present[:number]:
            if overlap(one["subnet"], other["subnet"]):
                problems.append(
                    f"{one['name']}: its subnet {one['subnet']} overlaps with {other['subnet']}"
                    f" of {other['name']}"
                )
            if one["ipv6"] and other["ipv6"] and one["ipv6_prefix"] == other["ipv6_prefix"]:
                problems.append(
                    f"{one['name']}: its prefix {one['ipv6_prefix']} is that of {other['name']} too"
                )
    return problems


def interfaces() -> list[dict]:
    """Return the interfaces of the host as ``ip -j address`` shows them; only their names where there is no ``ip``."""
    program = shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not program:
        return [{"ifname": name} for _number, name in socket.if_nameindex()]
    shown = subprocess.run(
        [program, "-j", "address", "show"], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(shown.stdout)


def refusals(networks: list[dict], there: list[dict]) -> list[str]:
    """Return what the interfaces of the host have against the networks."""
    mentioned = {network["name"] for network in networks}
    others = [interface for interface in there if interface["ifname"] not in mentioned]
    problems = []
    for network in networks:
        against = against_making if network["state"] == "present" else against_removing
        problems += [f"{network['name']}: {reason}" for reason in against(network, there, others)]
    return problems


def against_making(network: dict, there: list[dict], others: list[dict]) -> list[str]:
    """Return why a network cannot be made."""
    reasons = [
        f"its subnet {network['subnet']} overlaps with {subnet} of the interface {other}"
        for other, subnet in subnets(others)
        if overlap(network["subnet"], subnet)
    ]
    if not network["ours"] and any(one["ifname"] == network["name"] for one in there):
        reasons.append("an interface of this name exists, and this role did not make it")
    return reasons


def against_removing(network: dict, there: list[dict], _others: list[dict]) -> list[str]:
    """Return why a network cannot be removed."""
    ports = [one["ifname"] for one in there if one.get("master") == network["name"]]
    if not network["ours"] or not ports:
        return []
    return [f"still in use by {', '.join(ports)}; stop the virtual machines on it first"]


def subnets(there: list[dict]) -> list[tuple[str, str]]:
    """Return the name and the IPv4 subnet of each address of the interfaces."""
    return [
        (interface["ifname"], str(IPv4Interface(f"{info['local']}/{info['prefixlen']}").network))
        for interface in there
        for info in interface.get("addr_info", [])
        if info.get("family") == "inet" and interface["ifname"] != "lo"
    ]


def overlap(one: str, other: str) -> bool:
    """Tell whether two IPv4 subnets have an address in common."""
    return IPv4Network(one).overlaps(IPv4Network(other))


if __name__ == "__main__":
    main()
