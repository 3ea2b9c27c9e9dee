# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The door to running processes: named by a descriptor, never by a bare number that may be used again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time


def working_in(folder: str) -> list[int]:
    """Return the numbers of the processes whose working folder is ``folder``, as that of QEMU's companions is."""
    found, real = [], os.path.realpath(folder)
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd") == real:
                found.append(int(entry))
    return sorted(found)


class Process:
    """One process for sure. A context manager that closes the descriptor."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd

    @classmethod
    def open(cls, pid: int) -> Process | None:
        """Return the process that has this number now, or ``None`` if none has."""
        try:
            return cls(pid, os.pidfd_open(pid))
        except ProcessLookupError:
            return None

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self.fd)

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the process to end; tell whether it has. A zombie has ended."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if poll.poll(max(0, left) * 1000):
                return True
            if left <= 0:
                return False

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        try:
            signal.pidfd_send_signal(self.fd, signum)
        except ProcessLookupError:
            return
