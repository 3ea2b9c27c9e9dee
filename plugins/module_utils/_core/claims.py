# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine is given of which there is only one on the host or in its networks. Pure.

The port for SSH is not among it: that is reserved, not given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .handle import VmHandle
from .spec import VmSpec

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
