# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is generated once for a machine and kept for its life: UUID, MAC address and SSH port."""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterable, Iterator

from .._core.errors import PortUnavailable
from .._core.handle import VmHandle
from .._core.spec import PortRange
from .._host.ports import is_free


def new_id(tag: str) -> str:
    """Return a new identity: the backend's tag, a dash and a random UUID."""
    import uuid

    return f"{tag}-{uuid.uuid4()}"


def new_mac(others: Collection[VmHandle]) -> str:
    """Return a random, locally administered MAC address that none of the other machines has."""
    taken = {mac for other in others for mac in other.macs.values()}
    while True:
        mac = "52:54:00:" + os.urandom(3).hex(":")
        if mac not in taken:
            return mac


def complete_macs(handle: VmHandle, others: Collection[VmHandle]) -> VmHandle:
    """Return the record with a MAC address for each card that has none; those that were made stay for ever."""
    macs = dict(handle.macs)
    for network in handle.spec.networks or ():
        if network.mac is None and network.name not in macs:
            macs[network.name] = new_mac((*others, handle.evolve(macs=macs)))
    return handle.evolve(macs=macs)


def preferred_port(name: str, ports: PortRange) -> int:
    """Return the port that belongs to a name: always the same one of the range."""
    return ports.first + zlib.crc32(name.encode()) % (ports.last - ports.first + 1)


def choose_port(vm: VmHandle, ports: PortRange, others: Iterable[VmHandle]) -> int:
    """Return the name's own port, or the next one that no machine has reserved or forwards and nobody listens on.

    Raises ``PortUnavailable`` if the whole range is taken.
    """
    others = [other for other in others if other.name != vm.name]
    reserved = {other.ssh_host_port for other in others}
    for record in (vm, *others):
        reserved |= set(_forwarded(record))
    size = ports.last - ports.first + 1
    offset = preferred_port(vm.name, ports) - ports.first
    for step in range(size):
        port = ports.first + (offset + step) % size
        if port not in reserved and is_free(port):
            return port
    raise PortUnavailable(
        f"All ports from {ports.first} to {ports.last} are taken.",
        "Choose a wider ssh_port_range, or remove VMs that are no longer needed.",
        option="ssh_port_range",
    )


def _forwarded(vm: VmHandle) -> Iterator[int]:
    for network in vm.spec.networks or ():
        for forward in network.port_forwards:
            if forward.is_local:
                yield forward.host
