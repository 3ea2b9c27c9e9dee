# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks between tasks, and locks that tell which process is alive."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator

from .._core.errors import Busy
from .files import doing

_FLOCK = "hhqqi"  # struct flock: type, whence, start, length, pid
_WHOLE_FILE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_PAUSE = 0.02


@contextlib.contextmanager
def exclusive(path: str, timeout: float, what: str) -> Iterator[None]:
    """Hold the lock on ``path``, a folder or a file that is made if need be.

    Raises ``Busy`` naming ``what`` if another holds it longer than ``timeout`` seconds.
    """
    fd = _acquire(path, time.monotonic() + timeout, what)
    try:
        yield
    finally:
        os.close(fd)


def _acquire(path: str, deadline: float, what: str) -> int:
    while True:
        with doing(f"open the lock {path}"):
            flags = os.O_RDONLY if os.path.isdir(path) else os.O_RDWR | os.O_CREAT
            fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with doing(f"lock {path}"):
                if _is_free(fd) and _is_still(fd, path):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        if time.monotonic() >= deadline:
            raise Busy(f"Another task works on {what}.", lock=path)
        time.sleep(_PAUSE)


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(fd: int, path: str) -> bool:
    # The holder before us may have removed the file: then our lock is on a file that nobody else will open.
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def is_taken(path: str) -> bool:
    """Tell whether somebody holds the lock file of :func:`exclusive` right now. Makes nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _is_free(fd)
    finally:
        os.close(fd)


def hold_while_alive(path: str) -> int | None:
    """Return a descriptor whose lock lasts as long as any process has it open; ``None`` if another holds it.

    A process that inherits the descriptor proves by the lock that it is alive, from its first moment on. The lock
    belongs to the open file, not to a process, so it can be looked at without being taken (fcntl(2), OFD locks).
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except OSError:
        os.close(fd)
        return None
    return fd


def is_held(path: str) -> bool:
    """Tell whether some process still holds the lock of :func:`hold_while_alive`."""
    holder = _look(path, fcntl.F_OFD_GETLK)
    return holder is not None


def record_lock_holder(path: str) -> int | None:
    """Return the process that holds a POSIX record lock on a file, as QEMU does on its pid file; ``None`` if nobody does."""
    return _look(path, fcntl.F_GETLK)


def _look(path: str, question: int) -> int | None:
    """Ask the kernel who would keep us from locking a file; the number is -1 for a lock that no single process owns."""
    with doing(f"look at the lock {path}"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            answer = struct.unpack(_FLOCK, fcntl.fcntl(fd, question, _WHOLE_FILE))
        finally:
            os.close(fd)
    return None if answer[0] == fcntl.F_UNLCK else int(answer[-1])
