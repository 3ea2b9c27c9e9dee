# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine is given of which there is only one on the host or in its networks. Pure.

The port for SSH is not claimed: that is reserved, not given. But it is held, and let go, like those that are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .handle import VmHandle
from .spec import VmSpec
from .state import Verb
from .vm import Vm

if TYPE_CHECKING:
    from .plan import Plan  # a look at what is there imports this file, and plans nothing

Port = tuple[str, int]  # tcp or udp, and the number
_EVERYWHERE = "0.0.0.0"


@dataclass(frozen=True)
class Claim:
    """A thing that no other machine can have while this one runs, and the option that says so."""

    option: str
    what: str  # in words
    address: str | None = None  # of a port: two that differ have ports of their own

    def clashes(self, other: Claim) -> bool:
        """Tell whether both cannot be had at the same time."""
        addresses = {self.address, other.address}
        return self.what == other.what and (len(addresses) == 1 or _EVERYWHERE in addresses)


def claims(spec: VmSpec, found: VmHandle | None) -> Iterator[Claim]:
    """Yield what a machine with these options has; ``found`` is its record, if it has one."""
    for index, network in enumerate(spec.networks or ()):
        option = f"networks[{index}]"
        mac = found.mac_of(network) if found else network.mac
        if mac is not None:
            yield Claim(f"{option}.mac", f"the MAC address {mac}")
        if network.interface is not None:
            yield Claim(f"{option}.interface", f"the interface {network.interface}")
        for number, forward in enumerate(network.port_forwards):
            what = f"the {forward.protocol.upper()} port {forward.host}"
            path = f"{option}.port_forwards[{number}].host"
            yield Claim(path, what, forward.host_address)


def held_ports(spec: VmSpec, found: VmHandle) -> set[Port]:
    """Return the ports of the host on which the process of a machine listens if it runs with these options."""
    ports = {
        (forward.protocol, forward.host)
        for network in spec.networks or ()
        for forward in network.port_forwards
    }
    if spec.has_user_network and found.ssh_host_port is not None:
        ports.add(("tcp", found.ssh_host_port))
    return ports


def released_ports(plan: Plan, found: Vm | None) -> set[Port]:
    """Return the ports that a machine listens on now, but not any more when the plan is carried out."""
    if found is None or not found.state.has_process:
        return set()
    ports = held_ports(found.actual, found.handle)
    if not plan.state.has_process:
        return ports
    starts = Verb.START in (step.verb for step in plan.steps)
    becomes = plan.spec if starts else plan.running or found.actual
    return ports - held_ports(becomes, found.handle)
