# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The addresses that a guest's network configuration gives its cards for ever. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .macs import normal_mac


def static_addresses(
    network_config: str | Mapping[str, Any] | None, macs: Sequence[str]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return (MAC, addresses) for each card that the configuration names, of version 1 or 2 of cloud-init's formats.

    ``macs`` are those of the machine's cards. A single card needs no MAC in the configuration. Text is not read: it
    would need a YAML parser, which hypervisor hosts may lack.
    """
    if not isinstance(network_config, Mapping):
        return ()
    inner = network_config.get("network", network_config)
    if not isinstance(inner, Mapping):
        return ()
    cards = list(_cards(inner))
    only = macs[0] if len(cards) == len(macs) == 1 else ""
    return tuple((mac or only, found) for mac, found in cards if found and (mac or only))


def _cards(config: Mapping[str, Any]) -> Iterator[tuple[str | None, tuple[str, ...]]]:
    ethernets = config.get("ethernets")
    if isinstance(ethernets, Mapping):
        for card in ethernets.values():
            if isinstance(card, Mapping):
                match = card.get("match")
                mac = match.get("macaddress") if isinstance(match, Mapping) else None
                yield normal_mac(mac), _plain(card.get("addresses"))
    devices = config.get("config")
    for device in devices if isinstance(devices, list) else ():
        if isinstance(device, Mapping) and device.get("type") == "physical":
            subnets = device.get("subnets")
            rows = subnets if isinstance(subnets, list) else ()
            addresses = [row.get("address") for row in rows if isinstance(row, Mapping)]
            yield normal_mac(device.get("mac_address")), _plain(addresses)


def _plain(addresses: object) -> tuple[str, ...]:
    listed = addresses if isinstance(addresses, (list, tuple)) else ()
    return tuple(item.partition("/")[0] for item in listed if isinstance(item, str))
