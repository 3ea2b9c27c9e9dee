# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs that serve one QEMU over a connection that it inherits, and that end when it ends.

Each holds a lock as long as it lives, in the way QEMU does: so that it is known without a number that may be used
again, and a next start waits until it has ended.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from .._core.errors import InvalidState, SpawnFailed, StopFailed, VmError
from .._core.handle import VmHandle
from .._core.layout import TPM_LOCK, folder_lock
from .._core.spec import VmSpec
from .._host.files import doing
from .._host.locks import hold_while_alive, is_held
from .._host.processes import Process

_ENDS = 5.0  # seconds that one takes at most to end by itself, once its QEMU has ended
_UNUSED = 0.2  # the same for one that never served a guest
_KILLED = 5.0
_PAUSE = 0.02


class Companions:
    """Those of one machine that are being started. ``stderr`` is where they say what they have to say."""

    def __init__(self, work_dir: str, stderr: int) -> None:
        self._work_dir, self._stderr = work_dir, stderr

    def start(self, argv: Sequence[str], lock: str, fds: Sequence[int]) -> int:
        """Start a program in the machine's folder and return its number.

        ``lock`` is the name of its lock file, ``fds`` are what it keeps. It is left to itself: it ends when the other
        ends of these are closed, so with QEMU, or when no QEMU follows.
        """
        alive = self._take(os.path.join(self._work_dir, lock))
        try:
            child = subprocess.Popen(  # pylint: disable=ansible-bad-function
                argv,
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                cwd=self._work_dir,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                umask=0o077,
                start_new_session=True,
                pass_fds=(alive, *fds),
            )
        except OSError as exc:
            raise SpawnFailed(
                f"{argv[0]} could not be run: {exc.strerror}.", command=shlex.join(argv)
            ) from exc
        finally:
            os.close(alive)
        child.returncode = 0  # keeps Popen from warning about a child that is meant to go on
        return child.pid

    @staticmethod
    def _take(path: str) -> int:
        deadline = time.monotonic() + _ENDS
        while True:
            with doing(f"open the lock {path}"):
                fd = hold_while_alive(path)
            if fd is not None:
                return fd
            if time.monotonic() > deadline:
                raise InvalidState(
                    f"A program that served the last run of the VM is still alive and holds {path}.",
                    f"Find it by its lock ('fuser {path}') and end it.",
                    lock=path,
                )
            time.sleep(_PAUSE)


def locks_of(spec: VmSpec) -> Mapping[str, str]:
    """Return the lock of each companion that a machine runs with, and what it is for people."""
    locks = {TPM_LOCK: "its TPM (swtpm)"} if spec.tpm else {}
    for folder in spec.shared_folders or ():
        locks[folder_lock(folder.name)] = f"the shared folder '{folder.name}' (virtiofsd)"
    return locks


def lost_companions(vm: VmHandle) -> Iterator[str]:
    """Yield a warning for each companion of the running machine that has ended."""
    for lock, what in locks_of(vm.booted or vm.spec).items():
        if not is_held(os.path.join(vm.work_dir, lock)):
            yield f"The VM '{vm.name}' runs without {what}: the program has ended. state=restarted brings it back."


@contextlib.contextmanager
def ended_on_failure(vm: VmHandle, end_qemu: Callable[[], None] = lambda: None) -> Iterator[None]:
    """End what was started beside a QEMU if that does not come to run: swtpm waits for ever for one that never connects."""
    try:
        yield
    except BaseException:
        end_qemu()
        with contextlib.suppress(VmError):  # the next start tries again, and tells
            end_companions(vm, _UNUSED)
        raise


def end_companions(vm: VmHandle, patience: float | None = None) -> None:
    """Wait until all companions of a machine whose QEMU has ended have ended, too; end by force one that does not.

    ``patience`` are the seconds that each gets to end by itself.
    """
    patience = _ENDS if patience is None else patience
    locks = {**locks_of(vm.spec), **(locks_of(vm.booted) if vm.booted else {})}
    for lock, what in locks.items():
        path = os.path.join(vm.work_dir, lock)
        if not _await_end(path, patience):
            _kill_holders(path)
            if not _await_end(path, _KILLED):
                raise StopFailed(f"The VM '{vm.name}': {what} still runs after SIGKILL.", lock=path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _await_end(path: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_held(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _kill_holders(path: str) -> None:
    """Kill the processes that have the lock file open: nobody else opens it for long."""
    wanted = os.stat(path)
    for entry in os.listdir("/proc"):
        process = Process.open(int(entry)) if entry.isdigit() else None
        if process is None or process.pid == os.getpid():
            continue
        with process:
            if _has_open(process.pid, wanted):
                process.send(signal.SIGKILL)


def _has_open(pid: int, wanted: os.stat_result) -> bool:
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for fd in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(os.path.join(folder, fd)), wanted):
                    return True
    return False
