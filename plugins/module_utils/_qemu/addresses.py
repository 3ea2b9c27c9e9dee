# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the guest of a machine is reached: through forwarded ports, or at addresses of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from .._core.errors import NoGuestAddress
from .._core.handle import VmHandle
from .._core.layout import AGENT_SOCKET
from .._core.networks import AddressFilter, Network
from .._host.ports import LOOPBACK

Addresses = Mapping[str, tuple[str, ...]]


def look_up(vm: VmHandle, networks: Sequence[Network]) -> Addresses:
    """Return the addresses of each network card, by its name; none where none is known for sure."""
    found = {network.name: (LOOPBACK,) for network in networks if network.type == "user"}
    others = _own_addresses(networks)
    if not others:
        return found
    from .._guest.addresses import find_addresses

    return {**found, **_by_name(vm, others, find_addresses(_queries(vm, others), **_sources(vm)))}


def wait_for_address(
    vm: VmHandle, networks: Sequence[Network], deadline: float, process_fd: int
) -> Addresses:
    """Wait until one of the cards has an address; ``deadline`` is a time of ``time.monotonic``.

    Raises ``NoGuestAddress`` that says for each card what was seen.
    """
    others = _own_addresses(networks)
    if not others:
        raise NoGuestAddress(f"The VM '{vm.name}' has no network.")
    from .._guest.address_wait import wait_for_addresses

    waited = wait_for_addresses(_queries(vm, others), deadline, process_fd, **_sources(vm))
    return _by_name(vm, others, waited)


def _own_addresses(networks: Sequence[Network]) -> list[Network]:
    return [network for network in networks if network.type != "user"]


def _queries(vm: VmHandle, networks: Sequence[Network]) -> list[Any]:
    from .._guest.addresses import AddressQuery

    wanted = vm.spec.addresses or AddressFilter()
    return [
        AddressQuery(
            vm.mac_of(network) or "",
            network.bridge or network.interface,
            wanted.version,
            wanted.ranges or (),
        )
        for network in networks
    ]


def _sources(vm: VmHandle) -> dict[str, Any]:
    from .guest_agent import ask_agent

    wanted = vm.spec.addresses or AddressFilter()
    socket = os.path.join(vm.work_dir, AGENT_SOCKET)
    return {
        "lease_files": wanted.lease_files or None,
        "agent": partial(ask_agent, socket) if os.path.exists(socket) else None,
    }


def _by_name(
    vm: VmHandle, networks: Sequence[Network], found: Mapping[str, tuple[str, ...]]
) -> Addresses:
    return {network.name: found.get(vm.mac_of(network) or "", ()) for network in networks}
