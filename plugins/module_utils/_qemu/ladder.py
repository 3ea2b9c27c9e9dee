# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""End a machine's process: ask the guest, wait, then use ever more force, and say which rung was needed."""

from __future__ import annotations

import contextlib
import signal
import time

from .._core.errors import QmpCommandFailed, QmpConnectFailed, StopFailed
from .._core.handle import VmHandle
from .._core.state import VmState
from .._host.processes import Process
from .monitor import open_monitor
from .run_state import state_of

_PRESS_AGAIN = 3.0  # a guest that still boots does not notice the first press of the power button
_QUIT_WAIT = 5.0
_TERM_WAIT = 5.0
_KILL_WAIT = 10.0


def end_process(vm: VmHandle, process: Process, timeout: float) -> str:
    """Give the guest ``timeout`` seconds to power off (0 does not ask), then end QEMU; return the rung that did it.

    The rungs are ``guest``, ``quit``, ``sigterm`` and ``sigkill``. Raises ``StopFailed`` if none helps.
    """
    if timeout > 0 and _press_power_button(vm, process, time.monotonic() + timeout):
        return "guest"
    if timeout <= 0 and _quit(vm, process):
        return "quit"
    for signum, patience in ((signal.SIGTERM, _TERM_WAIT), (signal.SIGKILL, _KILL_WAIT)):
        process.send(signum)
        if process.wait(patience):
            return signum.name.lower()
    raise StopFailed(f"The VM '{vm.name}' still runs after SIGKILL.", pid=process.pid)


def _press_power_button(vm: VmHandle, process: Process, deadline: float) -> bool:
    while True:
        if not _press_once(vm):
            return process.wait(0)
        left = max(0.0, deadline - time.monotonic())
        if process.wait(min(_PRESS_AGAIN, left)):
            return True
        if left <= _PRESS_AGAIN:
            return False


def _press_once(vm: VmHandle) -> bool:
    """Press the button; tell whether waiting makes sense. It does when the monitor fails: the guest may be at it."""
    try:
        with open_monitor(vm) as qmp:
            if state_of(qmp.execute("query-status")["status"]) is not VmState.RUNNING:
                return False
            qmp.execute("system_powerdown")
    except (QmpConnectFailed, QmpCommandFailed):
        return True
    return True


def _quit(vm: VmHandle, process: Process) -> bool:
    with contextlib.suppress(QmpConnectFailed, QmpCommandFailed), open_monitor(vm) as qmp:
        with contextlib.suppress(QmpCommandFailed):  # QEMU may be gone before it has answered
            qmp.execute("quit")
        return process.wait(_QUIT_WAIT)
    return process.wait(0)
