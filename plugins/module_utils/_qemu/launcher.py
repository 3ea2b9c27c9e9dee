# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Start QEMU as a process of its own session, with its sockets opened for it and its output kept.

QEMU's own ``-daemonize`` cannot be used: it needs system calls that the full sandbox forbids, and hides what QEMU
says after it has detached itself.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from .._core.errors import InvalidState, SpawnFailed
from .._core.layout import (
    AGENT_SOCKET,
    ALIVE_LOCK,
    CONSOLE_LOG,
    CONSOLE_SOCKET,
    DEBUG_SOCKET,
    QEMU_LOG,
    QMP_SOCKET,
)
from .._host.files import doing, read_tail, short_path
from .._host.locks import hold_while_alive
from . import log_keeper
from .argv import Descriptors

LOG_LIMIT = 1024 * 1024  # bytes of each log file; one older file of each is kept
_EXIT_WAIT = 2.0
_LAST_WORDS = 2000


@dataclass
class Openings:
    """Everything that is opened for QEMU before it runs."""

    work_dir: str
    fds: Descriptors
    stderr: int
    alive: int
    log_pipes: dict[int, str]  # reading ends, and the files that they go to

    def inherited(self) -> tuple[int, ...]:
        """Return the descriptors that QEMU keeps."""
        return (*astuple(self.fds), self.alive)


class Launched:
    """A QEMU that was just started and is still our child."""

    def __init__(
        self,
        argv: Sequence[str],
        work_dir: str,
        qemu: subprocess.Popen[bytes],
        keeper: subprocess.Popen[bytes],
    ):
        self._argv, self._work_dir = argv, work_dir
        self._qemu, self._keeper = qemu, keeper
        self.pid = qemu.pid

    def ended(self, timeout: float = 0.0) -> bool:
        """Tell whether QEMU has ended, waiting up to ``timeout`` seconds for it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._qemu.wait(timeout)
        return self._qemu.poll() is not None

    def end(self) -> None:
        """Make sure that QEMU does not run."""
        if not self.ended(_EXIT_WAIT):
            self._qemu.kill()
            self._qemu.wait()

    def failure(self, reason: str) -> SpawnFailed:
        """Make sure that nothing runs, and return the error with QEMU's last words."""
        self.end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._keeper.wait(_EXIT_WAIT)
        words = read_tail(os.path.join(self._work_dir, QEMU_LOG), _LAST_WORDS).strip()
        return SpawnFailed(
            f"QEMU did not start: {_without_prefix(words) or reason}",
            status=self._qemu.returncode,
            output=words,
            command=shlex.join(self._argv),
        )

    def let_go(self) -> None:
        """Leave the processes to themselves: they outlive us."""
        for child in (self._qemu, self._keeper):
            child.returncode = 0  # keeps Popen from warning about a child that is meant to go on


@contextlib.contextmanager
def opened(work_dir: str) -> Iterator[Openings]:
    """Open sockets, log pipes and the lock that tells that QEMU lives; close our ends afterwards.

    Raises ``InvalidState`` if a process of this machine is alive: its sockets must not be taken from it.
    """
    with contextlib.ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        with doing(f"open the files of QEMU in {work_dir}"):
            alive = hold_while_alive(os.path.join(work_dir, ALIVE_LOCK))
            if alive is None:
                raise InvalidState(
                    f"A QEMU process already works in {work_dir}.", "Stop the VM first."
                )
            keep(alive)
            qmp, debug, console, agent = (
                keep(_listen(os.path.join(work_dir, name)))
                for name in (QMP_SOCKET, DEBUG_SOCKET, CONSOLE_SOCKET, AGENT_SOCKET)
            )
            console_read, console_write = (keep(fd) for fd in os.pipe())
            stderr_read, stderr_write = (keep(fd) for fd in os.pipe())
            _start_afresh(os.path.join(work_dir, QEMU_LOG))
        pipes = {
            console_read: os.path.join(work_dir, CONSOLE_LOG),
            stderr_read: os.path.join(work_dir, QEMU_LOG),
        }
        yield Openings(
            work_dir,
            Descriptors(qmp, debug, console, agent, console_write),
            stderr_write,
            alive,
            pipes,
        )


def launch(argv: Sequence[str], openings: Openings, more_fds: Sequence[int] = ()) -> Launched:
    """Start the log keeper and QEMU, detached from the task that starts them."""
    keeper = _start_log_keeper(openings.log_pipes)  # first: it ends by itself if no QEMU follows
    try:
        qemu = subprocess.Popen(  # pylint: disable=ansible-bad-function
            argv,
            stdin=subprocess.DEVNULL,
            stdout=openings.stderr,
            stderr=openings.stderr,
            cwd="/",
            env=_environment(),
            umask=0o077,
            start_new_session=True,
            pass_fds=(*openings.inherited(), *more_fds),
        )
    except OSError as exc:
        raise SpawnFailed(
            f"QEMU could not be run: {exc.strerror}.", command=shlex.join(argv)
        ) from exc
    # The guest's memory must not land in a core file.
    with contextlib.suppress(OSError):
        resource.prlimit(qemu.pid, resource.RLIMIT_CORE, (0, 0))
    return Launched(argv, openings.work_dir, qemu, keeper)


def _environment() -> dict[str, str]:
    """Return what QEMU and the log keeper need of the environment; the task's own may hold secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _listen(path: str) -> int:
    """Return a listening socket that nobody is ever kept waiting on.

    Two threads of QEMU may go to take the same client: the monitor's, and the main one while it hands the socket over
    to that. The one that comes second must find nothing. Were it to wait, that QEMU would never answer a command.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, short_path(path) as address:
        listener.bind(address)
        os.chmod(path, 0o600)
        listener.listen(1)
        listener.setblocking(False)
        return listener.detach()


def _start_afresh(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, f"{path}.1")


def _start_log_keeper(pipes: dict[int, str]) -> subprocess.Popen[bytes]:
    # Its source goes in by stdin: a module runs from an archive that is gone when the task has ended.
    source_read, source_write = os.pipe()
    try:
        arguments = [str(word) for pair in pipes.items() for word in pair]
        keeper = subprocess.Popen(  # pylint: disable=ansible-bad-function
            [sys.executable, "-I", "-S", "-", str(LOG_LIMIT), *arguments],
            stdin=source_read,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
            umask=0o077,
            start_new_session=True,
            pass_fds=tuple(pipes),
        )
        os.write(source_write, _source_of(log_keeper.__name__).encode())
    except OSError as exc:
        raise SpawnFailed(f"The log keeper could not be run: {exc.strerror}.") from exc
    finally:
        os.close(source_read)
        os.close(source_write)
    return keeper


def _source_of(module_name: str) -> str:
    loader: Any = sys.modules[module_name].__loader__
    source = loader.get_source(module_name)
    if source is None:
        raise SpawnFailed(f"The source of {module_name} cannot be read.")
    return str(source)


def _without_prefix(words: str) -> str:
    """Return QEMU's last line without time and program name."""
    lines = words.splitlines()
    own = [line for line in lines if "qemu-system" in line.partition(": ")[0]]
    if own:  # programs beside it say something, too, when it ends
        return own[-1].partition(": ")[2]
    return lines[-1] if lines else ""
