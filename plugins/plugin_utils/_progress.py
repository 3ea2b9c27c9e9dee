# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: shows on the terminal how far a task's long work has come, while the task runs.

The module keeps a line in a file (``module_utils/_image/progress.py``). A thread beside the task reads it: straight
away on this machine, by short commands over SSH on another one. Without a terminal, and wherever it could disturb,
nothing of this happens and the task runs as any other.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..module_utils._image.progress import VARIABLE, Sample, parse

# Asked for while this file is imported, which strategies do in the main process. The processes that run the tasks have
# lost the terminal (ansible-core 2.19), and show what they have to say through the main process.
TERMINAL = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"

_ERASED = "\r\033[K"
_FOLDER = "/tmp"
_LOCAL_PAUSE = 0.25  # seconds
_REMOTE_PAUSE, _LONGEST_PAUSE = 1.0, 5.0
_LINE_PAUSE = 10.0
_WINDOW = 5.0  # seconds over which the rate is measured
_END = 0.5  # seconds that a task waits for its reader at the end

Read = Callable[[], "str | None"]


class Meter:
    """Turns samples into a text with percent, rate and time left."""

    def __init__(self) -> None:
        self._phase = ""
        self._since = 0.0
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    def text(self, sample: Sample, now: float) -> str:
        """Return what to show at ``now`` (seconds of any clock that goes on)."""
        if sample.phase != self._phase:
            self._phase, self._since = sample.phase, now
            self._seen.clear()
        self._seen.append((now, sample.done))
        while now - self._seen[0][0] > _WINDOW and len(self._seen) > 2:
            self._seen.popleft()
        if not sample.done:
            return f"{sample.phase}, {clock(now - self._since)}"
        return ", ".join([f"{sample.phase} {amount(sample)}", *self._speed(sample)])

    def _speed(self, sample: Sample) -> list[str]:
        (first, before), (last, done) = self._seen[0], self._seen[-1]
        if last <= first or done <= before:
            return []
        rate = (done - before) / (last - first)
        shown = [f"{size(rate)}/s"]
        if sample.total is not None:
            shown.append(f"{clock((sample.total - sample.done) / rate)} left")
        return shown


def amount(sample: Sample) -> str:
    """Return how much is done."""
    if not sample.total:
        return size(sample.done)
    percent = min(100 * sample.done // sample.total, 100)
    return f"{percent} % of {size(sample.total)}"


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds."""
    whole = max(round(seconds), 0)
    return f"{whole // 60}:{whole % 60:02}"


class Screen:
    """Where the text goes: one line that is written over, or a new line now and then where others write as well."""

    def __init__(self, host: str, alone: bool) -> None:
        self._host = host
        self._alone = alone
        self._display = Display()
        self._lock = threading.Lock()
        self._drawn = False
        self._closed = False
        self._due = time.monotonic() + _LINE_PAUSE / 5

    def show(self, text: str) -> None:
        """Show a text, unless this is closed already."""
        text = f"{self._host}: {text}"
        with self._lock:
            if self._closed:
                return
            if self._alone:
                self._drawn = True
                self._say(f"{_ERASED}{text[: self._display.columns - 1]}", newline=False)
            elif time.monotonic() >= self._due:
                self._due = time.monotonic() + _LINE_PAUSE
                self._say(text, newline=True)

    def clear(self) -> None:
        """Leave the terminal as if nothing had been shown."""
        with self._lock:
            if self._drawn:
                self._drawn = False
                self._say(_ERASED, newline=False)

    def close(self) -> None:
        """Do as :meth:`clear` does, and show nothing more."""
        with self._lock:
            self._closed = True
        self.clear()

    def _say(self, text: str, newline: bool) -> None:
        self._display.display(text, screen_only=True, newline=newline)


def may_be_fetched(options: Any) -> bool:
    """Tell whether the image that the options of a machine name may have to be fetched first."""
    image = options.get("image") if isinstance(options, Mapping) else None
    return isinstance(image, str) and image[:1] not in ("", "/", "~", "$")


@contextlib.contextmanager
def progress_shown(action: ActionBase, task_vars: Mapping[str, Any] | None) -> Iterator[None]:
    """Show the progress of the module that ``action`` runs in the meantime."""
    path = f"{_FOLDER}/.cloudnebula-progress-{secrets.token_hex(16)}"
    read = _reader(action, path) if _is_wanted(action) else None
    if read is None:
        yield
        return
    variables = task_vars or {}
    alone = len(variables.get("ansible_play_batch", ())) == 1
    screen = Screen(variables.get("inventory_hostname", "?"), alone)
    ended = threading.Event()
    pause = _LOCAL_PAUSE if _transport(action) == "local" else _REMOTE_PAUSE
    watcher = threading.Thread(target=_watch, args=(read, screen, ended, pause), daemon=True)
    environment = {VARIABLE: path}
    action._task.environment.append(environment)
    watcher.start()
    try:
        yield
    finally:
        action._task.environment.remove(environment)
        ended.set()
        watcher.join(_END)
        screen.close()


def _erase_when_interrupted() -> None:
    """Make Ctrl-C erase the line before Ansible says that it ends, which would stand behind the line otherwise.

    The processes that run the tasks are ended without another word, so the main process does this.
    """
    ours, before = os.getpid(), signal.getsignal(signal.SIGINT)
    if not callable(before):
        return

    def erase(number: int, frame: FrameType | None) -> None:
        if os.getpid() == ours:
            with contextlib.suppress(OSError):
                os.write(sys.stdout.fileno(), _ERASED.encode())
        before(number, frame)

    with contextlib.suppress(ValueError):  # outside of the main thread, nobody can
        signal.signal(signal.SIGINT, erase)


def _is_wanted(action: ActionBase) -> bool:
    task = action._task
    return (
        TERMINAL
        and Display().verbosity < 3  # a debugger wants to see the connection, not us
        and not (task.check_mode or task.async_val or task.no_log)
        and isinstance(task.environment, list)
        and "awx" not in constants.DEFAULT_STDOUT_CALLBACK  # reads the terminal as events
    )


def _transport(action: ActionBase) -> str:
    return str(getattr(action._connection, "transport", ""))


def _reader(action: ActionBase, path: str) -> Read | None:
    """Return what reads the file, or ``None`` for a connection that cannot be used twice at a time."""
    if _transport(action) == "local":
        return lambda: _read_here(path)
    if _transport(action) == "ssh":
        # SSH starts a program of its own for each command. The copy keeps the state of the task's own command apart.
        connection = copy.copy(action._connection)
        return lambda: _read_there(connection, path)
    return None


def _read_here(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read(200)
    except OSError:
        return None


def _read_there(connection: Any, path: str) -> str | None:
    status, output, dummy = connection.exec_command(f"cat {path}", sudoable=False)
    return output.decode(errors="replace") if status == 0 else None


def _watch(read: Read, screen: Screen, ended: threading.Event, pause: float) -> None:
    """Show what the file says until the task has ended; the more seldom, the longer there is none."""
    meter = Meter()
    wait = pause
    while not ended.wait(wait):
        try:
            line = read()
        except Exception:
            return  # whatever ails the connection is the task's to tell
        sample = parse(line) if line else None
        if sample is None:
            screen.clear()  # a task may go on with other work
            wait = min(wait * 1.2, max(pause, _LONGEST_PAUSE))
            continue
        wait = pause
        screen.show(meter.text(sample, time.monotonic()))


if TERMINAL:
    _erase_when_interrupted()
