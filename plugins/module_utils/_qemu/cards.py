# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's end of a network card that is added to a running machine, over QMP. Source: the QMP reference of QEMU."""

from __future__ import annotations

import contextlib
from typing import Any

from .._core.errors import QmpCommandFailed
from .._core.handle import VmHandle
from .._core.networks import Network
from .argv import ssh_forward
from .qmp import Qmp
from .taps import Tap, opened_tap


def add_host_end(vm: VmHandle, network: Network, qmp: Qmp) -> int:
    """Add it under the card's name; return how many queues it has."""
    if network.type == "user":
        qmp.execute("netdev_add", _user_end(vm, network, qmp))
        return 1
    with opened_tap(vm, network) as tap:
        names = _hand_over(tap, qmp)
        try:
            qmp.execute("netdev_add", _tap_end(tap, names))
        except QmpCommandFailed:
            for name in names.values():  # those that it has not taken
                with contextlib.suppress(QmpCommandFailed):
                    qmp.execute("closefd", {"fdname": name})
            raise
        return len(tap.fds)


def _user_end(vm: VmHandle, network: Network, qmp: Qmp) -> dict[str, Any]:
    forwards = [item.rule for item in network.port_forwards]
    if not _leads_to_ssh(vm, qmp):
        forwards = [ssh_forward(vm), *forwards]
    end: dict[str, Any] = {"type": "user", "id": network.name}
    return {**end, "hostfwd": [{"str": rule} for rule in forwards]} if forwards else end


def _leads_to_ssh(vm: VmHandle, qmp: Qmp) -> bool:
    """Tell whether a card that is there already forwards the port of the guest's SSH."""
    told = str(qmp.execute("human-monitor-command", {"command-line": "info usernet"}))
    rows = [line.split() for line in told.splitlines() if "HOST_FORWARD" in line]
    return any(row[3] == str(vm.ssh_host_port) for row in rows if len(row) > 3)


def _hand_over(tap: Tap, qmp: Qmp) -> dict[int, str]:
    """Pass the descriptors to QEMU; return the names that it knows them by."""
    names = {fd: f"{tap.network}-{number}" for number, fd in enumerate((*tap.fds, *tap.vhost))}
    for fd, name in names.items():
        qmp.execute("getfd", {"fdname": name}, fds=(fd,))
    return names


def _tap_end(tap: Tap, names: dict[int, str]) -> dict[str, Any]:
    several = len(tap.fds) > 1
    end: dict[str, Any] = {"type": "tap", "id": tap.network}
    end["fds" if several else "fd"] = ":".join(names[fd] for fd in tap.fds)
    if tap.vhost:
        end["vhost"] = True
        end["vhostfds" if several else "vhostfd"] = ":".join(names[fd] for fd in tap.vhost)
    return end
