# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The door to other programs: run one to its end, without a shell and with a deadline, and within limits if need be."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from .._core.errors import CommandFailed, ProgramMissing
from .._core.sizes import show_size

_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/libexec:/opt/ooce/bin"
_LAST_WORDS = 4000
_CHUNK = 256 * 1024


@dataclass(frozen=True)
class Completed:
    """What a program that succeeded printed."""

    stdout: str
    stderr: str


@dataclass(frozen=True)
class Limits:
    """What a program may use at most; ``None`` is no limit. Seconds of its processor, bytes, seconds of the clock."""

    cpu_seconds: int | None = None
    address_space: int | None = None
    file_size: int | None = None
    wall_seconds: float | None = None


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


def run(
    argv: Sequence[str],
    *,
    timeout: float = 60.0,
    stdin: bytes | None = None,
    limits: Limits | None = None,
) -> Completed:
    """Run a program to its end and return what it printed.

    ``timeout`` is in seconds; ``limits.wall_seconds`` takes its place. Raises ``ProgramMissing`` if it is not
    installed, and ``CommandFailed`` with its status and last words if it fails, takes too long or wants more than the
    limits allow. Messages are in English, whatever the user's locale.
    """
    program = require_program(argv[0])
    if limits is not None and limits.wall_seconds is not None:
        timeout = limits.wall_seconds
    try:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            [*_limiter(limits), program, *argv[1:]],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise _too_slow(argv, timeout) from exc
    except OSError as exc:
        raise _not_run(argv, exc) from exc
    stdout, stderr = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    if done.returncode != 0:
        raise _failure(argv, done.returncode, stderr or stdout, limits)
    return Completed(stdout, stderr)


@contextlib.contextmanager
def reading_from(
    argv: Sequence[str], limits: Limits, *, stdin: IO[bytes] | None = None, patience: float = 60.0
) -> Iterator[Iterator[bytes]]:
    """Start a program and give what it prints, as it comes; memory is bounded, however much that is.

    The program is ended if it prints nothing for ``patience`` seconds, or if the block is left early. What it complains
    about goes to a file, so ``limits.file_size`` must leave room for that. Raises what ``run`` raises; that the program
    failed is known when its output has been read to the end.
    """
    program = require_program(argv[0])
    deadline = time.monotonic() + (limits.wall_seconds or float("inf"))
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(  # pylint: disable=ansible-bad-function
                [*_limiter(limits), program, *argv[1:]],
                stdin=stdin or subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                env=_environment(),
            )
        except OSError as exc:
            raise _not_run(argv, exc) from exc

        def chunks() -> Iterator[bytes]:
            while True:
                if time.monotonic() > deadline:
                    raise _too_slow(argv, limits.wall_seconds or 0)
                chunk = _next_chunk(process, argv, patience)
                if not chunk:
                    break
                yield chunk
            try:
                status = process.wait(timeout=patience)
            except subprocess.TimeoutExpired as exc:
                raise _too_slow(argv, patience) from exc
            if status != 0:
                words.seek(max(0, os.fstat(words.fileno()).st_size - _LAST_WORDS))
                raise _failure(argv, status, words.read().decode(errors="replace"), limits)

        with process:
            try:
                yield chunks()
            finally:
                process.kill()  # no harm if it has ended: it is still ours to wait for


def _next_chunk(process: subprocess.Popen[bytes], argv: Sequence[str], seconds: float) -> bytes:
    if process.stdout is None:
        return b""
    ready = select.poll()
    ready.register(process.stdout, select.POLLIN)
    if not ready.poll(seconds * 1000):
        raise CommandFailed(f"{argv[0]} did nothing for {seconds:g} s.", command=shlex.join(argv))
    return os.read(process.stdout.fileno(), _CHUNK)


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}


def _limiter(limits: Limits | None) -> Sequence[str]:
    """Return a command that sets the limits and then becomes the program that follows it."""
    # Between fork and exec Python cannot do so safely when it has threads. POSIX's ulimit counts files in blocks of
    # 512 bytes, address space in KiB. A limit that cannot be set is one that is lower already.
    if limits is None:
        return ()
    wanted = ["c 0"]
    if limits.cpu_seconds is not None:
        wanted += [f"St {limits.cpu_seconds}", f"Ht {limits.cpu_seconds + 1}"]
    if limits.address_space is not None:
        wanted += [f"v {limits.address_space // 1024}"]
    if limits.file_size is not None:
        wanted += [f"f {-(-limits.file_size // 512)}"]
    script = "".join(f"ulimit -{limit} 2>/dev/null || :\n" for limit in wanted)
    if limits.address_space is not None:  # else glibc sets 64 MiB of it aside for each thread
        script += "MALLOC_ARENA_MAX=2\nexport MALLOC_ARENA_MAX\n"
    return ("/bin/sh", "-c", f'{script}exec "$@"', "sh")


def _too_slow(argv: Sequence[str], seconds: float) -> CommandFailed:
    return CommandFailed(f"{argv[0]} did not end within {seconds:g} s.", command=shlex.join(argv))


def _not_run(argv: Sequence[str], exc: OSError) -> CommandFailed:
    return CommandFailed(f"{argv[0]} could not be run: {exc.strerror}.", command=shlex.join(argv))


def _failure(argv: Sequence[str], status: int, output: str, limits: Limits | None) -> CommandFailed:
    words = output.strip()[-_LAST_WORDS:]
    killed = _what_killed(-status, limits or Limits())
    said = f": {words}" if words or not killed else "."
    return CommandFailed(
        f"{argv[0]} {killed or f'failed with status {status}'}{said}",
        command=shlex.join(argv),
        status=status,
        output=words,
    )


def _what_killed(number: int, limits: Limits) -> str:
    """Tell which limit a signal means; nothing if none of them explains it."""
    if limits.cpu_seconds is not None and number in (signal.SIGXCPU, signal.SIGKILL):
        return f"was ended after {limits.cpu_seconds} s of processor time"
    if limits.file_size is not None and number == signal.SIGXFSZ:
        return f"was ended when it wrote more than {show_size(limits.file_size)} to a file"
    if limits.address_space is not None and number in (signal.SIGABRT, signal.SIGTRAP):
        return (
            f"gave up (signal {number}), having at most {show_size(limits.address_space)} of memory"
        )
    return ""
