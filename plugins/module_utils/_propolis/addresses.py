# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The addresses of a guest behind a VNIC, of which the host itself knows nothing.

In this order: what its network configuration says, what cloud-init printed on the serial console, leases of DHCP
servers on this host, and the host's own tables of neighbours. Nothing can be asked on the link itself: the host may
have no address there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from .._core.errors import NoGuestAddress, VmError
from .._core.handle import VmHandle
from .._core.networks import AddressFilter, Network
from .._core.spec import CloudInit
from .._guest.addresses import AddressQuery, Evidence, Report, collect
from .._guest.leases import read_leases
from .._guest.static_addresses import static_addresses
from .api import PropolisApi
from .arp import read_arp, read_ndp
from .serial_addresses import addresses_on_console

_CONSOLE_BYTES = 1 << 20
_Row = TypeVar("_Row")


def look(
    vm: VmHandle, networks: Sequence[Network], api: PropolisApi
) -> tuple[tuple[Report, ...], tuple[str, ...]]:
    """Return what is known of each of the cards, which belong to a running machine, and which sources could not be asked."""
    wanted = vm.spec.addresses or AddressFilter()
    macs = [vm.mac_of(network) or "" for network in networks]
    failures: list[str] = []
    console = _rows(lambda: addresses_on_console(api.serial_history(_CONSOLE_BYTES)), failures)
    neighbours = (*_rows(read_arp, failures), *_rows(read_ndp, failures))
    evidence = Evidence(
        agent=static_addresses((vm.spec.cloud_init or CloudInit()).network_config, macs),
        console=console,
        neighbours=neighbours,
        leases=read_leases(wanted.lease_files or None),
        failures=tuple(failures),
    )
    queries = [
        AddressQuery(mac, network.link, wanted.version, wanted.ranges or ())
        for mac, network in zip(macs, networks)
    ]
    return tuple(collect(query, evidence) for query in queries), evidence.failures


def by_network(
    networks: Sequence[Network], reports: Sequence[Report]
) -> Mapping[str, tuple[str, ...]]:
    """Return the addresses of each card by its name."""
    return {network.name: report.addresses for network, report in zip(networks, reports)}


def nothing_found(vm: VmHandle, reports: Sequence[Report]) -> NoGuestAddress:
    """Return the error that says what was seen of each card."""
    seen = " | ".join(report.explain() for report in reports)
    return NoGuestAddress(
        f"The guest of the VM '{vm.name}' has no address that this host knows. Seen of its network cards: {seen}.",
        "cloud-init prints the guest's addresses on the serial console, if the guest has one (console=ttyS0). "
        "Give it a static address in cloud_init.network_config, name lease files, or raise wait_timeout.",
    )


def _rows(read: Callable[[], tuple[_Row, ...]], failures: list[str]) -> tuple[_Row, ...]:
    try:
        return read()
    except VmError as exc:
        failures.append(exc.message.rstrip("."))
        return ()
