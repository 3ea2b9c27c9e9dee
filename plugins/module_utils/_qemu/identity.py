# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find the process of a machine, and be sure that it is that and no other."""

from __future__ import annotations

import os
import time

from .._core.errors import InvalidState
from .._core.layout import ALIVE_LOCK, PID_FILE
from .._host.locks import is_held, record_lock_holder
from .._host.processes import Process

_STARTING = (
    5.0  # seconds that a QEMU of a killed task may take from its first moment to its pid file
)
_PAUSE = 0.02


def find_process(work_dir: str) -> Process | None:
    """Return the QEMU process that runs the machine of this folder, or ``None`` if none does.

    The kernel names the holder of QEMU's lock on its pid file; a number that was used again holds no lock. The
    holder is asked for twice, so that the process that was opened is the one that held the lock. Raises
    ``InvalidState`` if a process is alive that cannot be named: it must not be taken for ended.
    """
    deadline = time.monotonic() + _STARTING
    pid_file = os.path.join(work_dir, PID_FILE)
    alive = os.path.join(work_dir, ALIVE_LOCK)
    while True:
        pid = record_lock_holder(pid_file)
        process = Process.open(pid) if pid and pid > 0 else None
        if process is not None:
            if record_lock_holder(pid_file) == pid:
                return process
            os.close(process.fd)
        if not is_held(alive):
            return None
        if time.monotonic() > deadline:
            raise InvalidState(
                f"A process that works in {work_dir} is alive, but it cannot be told which: {PID_FILE} is gone or not its own.",
                f"Find it by the lock that it holds ('fuser {alive}') and end it.",
                lock=alive,
            )
        time.sleep(_PAUSE)
