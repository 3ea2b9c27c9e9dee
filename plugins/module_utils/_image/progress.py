# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tell whoever watches how far long work has come.

A module cannot speak while it runs: all that Ansible takes from it is its result. So it keeps one line in a small file,
which the controller reads (see ``plugins/plugin_utils/_progress.py``). The controller chooses the file's name and gives
it in an environment variable; without that, nothing is written.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass

VARIABLE = "CLOUDNEBULA_PROGRESS_FILE"

_PAUSE = 0.25  # seconds between two writes
_WIDTH = (
    79  # bytes of the line, without its end: one write of a fixed length is never seen half done
)
_LINE = re.compile(r"([a-z]{1,20}) ([0-9]{1,20}) ([0-9]{1,20}|-) *\n")


@dataclass(frozen=True)
class Sample:
    """How far the work has come: ``done`` of ``total`` bytes, or of an unknown number, in a phase such as download."""

    phase: str
    done: int
    total: int | None

    def line(self) -> str:
        """Return what :func:`parse` reads."""
        total = "-" if self.total is None else self.total
        return f"{self.phase} {self.done} {total}".ljust(_WIDTH) + "\n"


def parse(line: str) -> Sample | None:
    """Read what a progress file holds; ``None`` for anything else, which is not believed."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    phase, done, total = match.groups()
    return Sample(phase, int(done), None if total == "-" else int(total))


class Progress:
    """Called with the phase, and with the bytes that are done and that there are: ``progress("download", 5, 10)``.

    A context manager, since the file lives as long as the work. What hinders its writing hinders nothing else.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd = _create(path) if path else None
        self._phase = ""
        self._due = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *dummy: object) -> None:
        self.close()

    def __call__(self, phase: str, done: int, total: int | None = None) -> None:
        """Keep this if the last word was some time ago, or about another phase, or if this is the end."""
        if self._fd is None:
            return
        now = time.monotonic()
        if phase == self._phase and now < self._due and done != total:
            return
        self._phase, self._due = phase, now + _PAUSE
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, Sample(phase, done, total).line().encode(), 0)

    def close(self) -> None:
        """Remove the file."""
        if self._fd is None or self._path is None:
            return
        os.close(self._fd)
        self._fd = None
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def reporting() -> Progress:
    """Return the progress that the controller asked for, or one that writes nothing."""
    return Progress(os.environ.get(VARIABLE))


def _create(path: str) -> int | None:
    # Never a file that is there already. Readable for all, since a task may become another user than the reader.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o644)
        os.fchmod(fd, 0o644)
    except OSError:
        return None
    return fd
