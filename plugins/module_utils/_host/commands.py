# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The door to other programs: run one to its end, without a shell and with a deadline."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .._core.errors import CommandFailed, ProgramMissing

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/libexec"
_LAST_WORDS = 4000


@dataclass(frozen=True)
class Completed:
    """What a program that succeeded printed."""

    stdout: str
    stderr: str


def find_program(*names: str) -> str | None:
    """Return the path of the first of these programs that is installed; system folders count too."""
    path = os.pathsep.join(
        part for part in (os.environ.get("PATH", os.defpath), _SYSTEM_PATH) if part
    )
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return found
    return None


def require_program(*names: str) -> str:
    """Return the path of the first of these programs that is installed; raise ``ProgramMissing`` if none is."""
    found = find_program(*names)
    if found is None:
        raise ProgramMissing(
            f"The program {' or '.join(names)} is not installed.", programs=list(names)
        )
    return found


def run(argv: Sequence[str], *, timeout: float = 60.0, stdin: bytes | None = None) -> Completed:
    """Run a program to its end and return what it printed.

    ``timeout`` is in seconds. Raises ``ProgramMissing`` if it is not installed, and ``CommandFailed`` with its
    status and last words if it fails or takes too long. Messages are in English, whatever the user's locale.
    """
    program = require_program(argv[0])
    try:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            [program, *argv[1:]],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise CommandFailed(
            f"{argv[0]} did not end within {timeout:g} s.", command=shlex.join(argv)
        ) from exc
    except OSError as exc:
        raise CommandFailed(
            f"{argv[0]} could not be run: {exc.strerror}.", command=shlex.join(argv)
        ) from exc
    stdout, stderr = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    if done.returncode != 0:
        words = (stderr or stdout).strip()[-_LAST_WORDS:]
        raise CommandFailed(
            f"{argv[0]} failed with status {done.returncode}: {words}",
            command=shlex.join(argv),
            status=done.returncode,
            output=words,
        )
    return Completed(stdout, stderr)
