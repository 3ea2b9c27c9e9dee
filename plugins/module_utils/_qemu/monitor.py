# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Talk to the monitor of a machine, and be sure that it is the machine's own."""

from __future__ import annotations

import os
from typing import Any

from .._core.errors import InvalidState, QmpConnectFailed
from .._core.handle import VmHandle
from .._core.layout import DEBUG_SOCKET, QMP_SOCKET, VNC_PASSWORD
from .._core.state import VmState
from .._core.vm import VncEndpoint
from .qmp import Qmp
from .run_state import state_of

LOOK = 2.0  # seconds that each question to a running machine may take


def open_monitor(vm: VmHandle) -> Qmp:
    """Connect to the monitor, or to the second one if another client holds the first.

    Raises ``QmpConnectFailed`` if neither answers, or if a machine with another UUID does.
    """
    try:
        qmp = Qmp.connect(os.path.join(vm.work_dir, QMP_SOCKET), LOOK)
    except QmpConnectFailed as first:
        try:
            qmp = Qmp.connect(os.path.join(vm.work_dir, DEBUG_SOCKET), LOOK)
        except QmpConnectFailed:
            raise first from None
    try:
        _check_uuid(vm, qmp)
    except BaseException:
        qmp.close()
        raise
    return qmp


def expect_state(vm: VmHandle, qmp: Qmp, wanted: VmState) -> None:
    """Raise ``InvalidState`` unless QEMU says that the machine is in this state."""
    status = qmp.execute("query-status")["status"]
    if state_of(status) is not wanted:
        raise InvalidState(
            f"The VM '{vm.name}' is in QEMU's state '{status}', it should be {wanted.value}.",
            "Look at the VM's console log and qemu.log; state=restarted begins anew.",
            run_state=status,
        )


def vnc_address(qmp: Qmp) -> str | None:
    """Return host and port of the screen, or ``None`` if it is not shown."""
    answer: dict[str, Any] = qmp.execute("query-vnc", timeout=LOOK)
    return f"{answer['host']}:{answer['service']}" if answer.get("enabled") else None


def vnc_endpoint(vm: VmHandle, qmp: Qmp) -> VncEndpoint | None:
    """Return where the screen of a running machine is, or ``None`` if it has none."""
    address = vnc_address(qmp) if (vm.booted or vm.spec).vnc else None
    if address is None:
        return None
    host, port = address.rsplit(":", 1)
    return VncEndpoint(host, int(port), os.path.join(vm.work_dir, VNC_PASSWORD))


def _check_uuid(vm: VmHandle, qmp: Qmp) -> None:
    answered = qmp.execute("query-uuid", timeout=LOOK)["UUID"]
    if answered != vm.uuid:
        raise QmpConnectFailed(
            f"The monitor of the VM '{vm.name}' is that of another machine.",
            "Find out who uses the VM's folder.",
            expected=vm.uuid,
            answered=answered,
        )
