# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look, before a machine starts, whether the ports of the host that lead into its guest can be had."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Set

from .._core.claims import Port, held_ports
from .._core.errors import PortUnavailable, VmError
from .._core.handle import VmHandle
from .._core.layout import ALIVE_LOCK
from .._core.networks import PortForward
from .._core.spec import VmSpec
from .._host.locks import is_held
from .._host.ports import obstacle
from .._host.store import Store


def check_forwards(
    spec: VmSpec,
    found: VmHandle | None,
    running: bool,
    store: Store,
    released: Set[Port] = frozenset(),
) -> None:
    """Raise ``PortUnavailable`` for the first forwarded port that cannot be listened on.

    ``running`` tells whether the machine ``found`` has a process: what that listens on does not count, nor does what
    others will have ``released`` by then.
    """
    own = held_ports(found.booted, found) if running and found and found.booted else set()
    for option, forward in _forwards(spec):
        if _is_for_ssh(forward, spec, found):
            reason = "the VM itself keeps it for SSH"
        elif (forward.protocol, forward.host) in own | released:
            continue
        else:
            reason = obstacle(forward.host, forward.host_address, forward.protocol) or ""
        if reason:
            raise _unavailable(spec.name, option, forward, reason, store)


def _forwards(spec: VmSpec) -> Iterator[tuple[str, PortForward]]:
    for index, network in enumerate(spec.networks or ()):
        for number, forward in enumerate(network.port_forwards):
            yield f"networks[{index}].port_forwards[{number}].host", forward


def _is_for_ssh(forward: PortForward, spec: VmSpec, found: VmHandle | None) -> bool:
    if found is None or not spec.has_user_network:
        return False
    return forward.is_local and forward.host == found.ssh_host_port


def _unavailable(
    name: str, option: str, forward: PortForward, reason: str, store: Store
) -> PortUnavailable:
    keeper = next(_keepers(name, forward, store), None)
    recorded = f"; it is a port of the VM '{keeper}'" if keeper else ""
    return PortUnavailable(
        f"{option}: the {forward.protocol.upper()} port {forward.host} of {forward.host_address} cannot be had: "
        f"{reason}{recorded}.",
        "Choose another port, or end what listens there.",
        option=option,
        port=forward.host,
        vm=keeper,
    )


def _keepers(name: str, forward: PortForward, store: Store) -> Iterator[str]:
    """Yield the other machines that run with the port."""
    for other in store.names():
        with contextlib.suppress(VmError):
            record = store.load(other)
            if record is None or other == name:
                continue
            ports = held_ports(record.booted or record.spec, record)
            if (forward.protocol, forward.host) not in ports:
                continue
            if is_held(os.path.join(record.work_dir, ALIVE_LOCK)):
                yield other
