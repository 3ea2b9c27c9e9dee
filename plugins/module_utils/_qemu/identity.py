# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Find the process of a machine, and be sure that it is that and no other."""

from __future__ import annotations

import os
import time

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
    holder is asked for twice, so that the process that was opened is the one that held the lock.
    """
    deadline = time.monotonic() + _STARTING
    pid_file = os.path.join(work_dir, PID_FILE)
    while True:
        pid = record_lock_holder(pid_file)
        process = Process.open(pid) if pid else None
        if process is not None:
            if record_lock_holder(pid_file) == pid:
                return process
            os.close(process.fd)
        if not is_held(os.path.join(work_dir, ALIVE_LOCK)) or time.monotonic() > deadline:
            return None
        time.sleep(_PAUSE)
