# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Write what comes through pipes to log files of bounded size. Runs as a small program of its own beside QEMU.

Arguments: the limit in bytes, then for each log a file descriptor and a path. Ends when all writers have ended.
A file that has reached the limit is renamed to ``<path>.1`` (replacing the one before), so a guest that prints
without end uses at most twice the limit.
"""

from __future__ import annotations

import os
import select
import sys


class BoundedLog:
    """One log file, appended to, and rotated before it passes ``limit`` bytes."""

    def __init__(self, path: str, limit: int) -> None:
        self._path, self._limit = path, limit
        self._fd: int | None = None
        self._size = 0

    def write(self, data: bytes) -> None:
        """Append ``data``. What cannot be written is lost; the next call tries anew."""
        try:
            self._append(data)
        except OSError:
            return

    def _append(self, data: bytes) -> None:
        fd = self._open() if self._fd is None else self._fd
        if self._size and self._size + len(data) > self._limit:
            fd = self._rotate(fd)
        self._size += os.write(fd, data)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
        return self._fd

    def _rotate(self, fd: int) -> int:
        self._fd = None  # whatever fails from here on, this descriptor is not ours any more
        os.close(fd)
        if os.path.exists(self._path):
            os.replace(self._path, self._path + ".1")
        return self._open()


def keep(limit: int, pipes: dict[int, str]) -> None:
    """Copy each pipe to its log until every writer has closed it. Trouble loses lines, never stops the writer."""
    logs = {fd: BoundedLog(path, limit) for fd, path in pipes.items()}
    poll = select.poll()
    for fd, log in logs.items():
        log.write(b"")  # so that the file is there before its first line
        poll.register(fd, select.POLLIN)
    while logs:
        for fd in [ready[0] for ready in poll.poll()]:
            data = os.read(fd, min(65536, limit))
            if data:
                logs[fd].write(data)
            else:
                poll.unregister(fd)
                del logs[fd]


def main(arguments: list[str]) -> None:
    """Run with the arguments that the module's description names."""
    pairs = zip(arguments[1::2], arguments[2::2])
    keep(int(arguments[0]), {int(fd): path for fd, path in pairs})


if __name__ == "__main__":
    main(sys.argv[1:])
