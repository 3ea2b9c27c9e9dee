# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look, before a machine starts, whether the ports of the host that lead into its guest can be had."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .._core.errors import PortUnavailable, VmError
from .._core.handle import VmHandle
from .._core.networks import PortForward
from .._core.spec import VmSpec
from .._host.ports import obstacle
from .._host.store import Store


def check_forwards(spec: VmSpec, found: VmHandle | None, running: bool, store: Store) -> None:
    """Raise ``PortUnavailable`` for the first forwarded port that cannot be listened on.

    ``running`` tells whether the machine ``found`` has a process: what that listens on does not count.
    """
    own = set(_ports(found.booted)) if running and found is not None and found.booted else set()
    for option, forward in _forwards(spec):
        if _is_for_ssh(forward, spec, found):
            reason = "the VM itself keeps it for SSH"
        elif (forward.protocol, forward.host) in own:
            continue
        else:
            reason = obstacle(forward.host, forward.host_address, forward.protocol) or ""
        if reason:
            raise _unavailable(spec.name, option, forward, reason, store)


def _forwards(spec: VmSpec) -> Iterator[tuple[str, PortForward]]:
    for index, network in enumerate(spec.networks or ()):
        for number, forward in enumerate(network.port_forwards):
            yield f"networks[{index}].port_forwards[{number}].host", forward


def _ports(spec: VmSpec) -> Iterator[tuple[str, int]]:
    for dummy, forward in _forwards(spec):
        yield forward.protocol, forward.host


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
    """Yield the other machines whose records have the port."""
    for other in store.names():
        record = None
        with contextlib.suppress(VmError):
            record = store.load(other)
        if record is None or other == name:
            continue
        ports = {*_ports(record.spec), *(_ports(record.booted) if record.booted else ())}
        if record.ssh_host_port is not None:
            ports.add(("tcp", record.ssh_host_port))
        if (forward.protocol, forward.host) in ports:
            yield other
