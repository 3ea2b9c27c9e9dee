# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting until a guest's SSH server speaks.

That a port takes connections proves nothing: the port that QEMU forwards does so as soon as QEMU runs. Only the
server's banner tells that the guest is there. A connection made too early may never be heard, since the guest's
network drops its first packets and QEMU repeats them ever more slowly; so each probe is short and a new connection.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time

from .._core.errors import SshFailed

_FIRST_PATIENCE = 0.3  # seconds that a probe waits for the guest's next words
_LAST_PATIENCE = 4.0  # a crowded guest may take seconds to greet
_PATIENCE_SHARE = (
    0.1  # in between, a share of the time waited so far: so much later we notice at most
)
_LEAST_SPACING = 0.2  # seconds from one probe to the next, for those that fail at once
_MAX_BANNER = 255  # bytes, RFC 4253 section 4.2
_MAX_BEFORE = 8192  # bytes of other lines that the server may send first
_MAX_SHOWN = 80


def wait_for_ssh(host: str, port: int, deadline: float, process_fd: int | None = None) -> str:
    """Return the banner of the guest's SSH server as soon as it is read, such as ``SSH-2.0-OpenSSH_9.2p1``.

    ``deadline`` is a time of ``time.monotonic()``; ``process_fd`` becomes readable when the VM's process ends.
    Raises ``SshFailed`` saying what was last seen when the time is up, or at once when the process has ended.
    """
    started = time.monotonic()
    waiter = _Waiter(deadline, process_fd)
    attempts, seen, help_text = 0, "there was no time to ask", None
    try:
        while waiter.left() > 0:
            attempts += 1
            asked = time.monotonic()
            waiter.patience = _patience(asked - started)
            try:
                return _probe(host, port, waiter)
            except _Silence as exc:
                if attempts == 1 or time.monotonic() - asked >= _FIRST_PATIENCE:
                    seen = str(
                        exc
                    )  # else the deadline cut it short: what was seen before says more
            except _NoBanner as exc:
                seen = str(exc)
            except OSError as exc:
                seen = _in_words(exc)
            waiter.pause_until(asked + _LEAST_SPACING)
    except _ProcessEnded:
        seen, help_text = "the VM's process ended", "Look at qemu.log and the console log."
    waited = time.monotonic() - started
    raise SshFailed(
        f"The guest's SSH server at {host} port {port} did not answer within {waited:.1f} s: {seen}.",
        help_text,
        host=host,
        port=port,
        attempts=attempts,
        waited_seconds=round(waited, 1),
        last_seen=seen,
    )


class _NoBanner(Exception):
    """What a connection gave instead of a banner, in words."""


class _Silence(_NoBanner):
    """Nothing came while patience lasted, or until the deadline."""


class _ProcessEnded(Exception):
    """There is no guest any more."""


class _Waiter:
    """Waits for a socket, but never past the deadline or the end of the VM's process."""

    def __init__(self, deadline: float, process_fd: int | None) -> None:
        self.deadline = deadline
        self.process_fd = process_fd
        self.patience = _FIRST_PATIENCE

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def ready(self, sock: socket.socket, event: int) -> bool:
        """Tell whether the event came while patience lasted; a socket that has failed is ready too."""
        return self._wait(self.patience, sock, event)

    def pause_until(self, moment: float) -> None:
        self._wait(moment - time.monotonic())

    def _wait(self, seconds: float, sock: socket.socket | None = None, event: int = 0) -> bool:
        poll = select.poll()
        if sock is not None:
            poll.register(sock, event)
        if self.process_fd is not None:
            poll.register(self.process_fd, select.POLLIN)
        ready = [fd for fd, dummy_event in poll.poll(max(0.0, min(seconds, self.left())) * 1000)]
        if self.process_fd in ready:
            raise _ProcessEnded
        return bool(ready)


def _patience(waited: float) -> float:
    return max(_FIRST_PATIENCE, min(waited * _PATIENCE_SHARE, _LAST_PATIENCE))


def _probe(host: str, port: int, waiter: _Waiter) -> str:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, kind, protocol = found[0][:3]
    with socket.socket(family, kind, protocol) as sock:
        sock.setblocking(False)
        code = sock.connect_ex(found[0][4])
        if code == errno.EINPROGRESS:
            if not waiter.ready(sock, select.POLLOUT):
                raise _Silence("no answer to the connection")
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        return _read_banner(sock, waiter)


def _read_banner(sock: socket.socket, waiter: _Waiter) -> str:
    received = b""
    while len(received) < _MAX_BEFORE + _MAX_BANNER and waiter.ready(sock, select.POLLIN):
        chunk = sock.recv(_MAX_BANNER)
        received += chunk
        banner = _find_banner(received)
        if banner:
            return banner
        if not chunk:
            if not received:
                raise _NoBanner("accepted, then closed")
            break
    if not received:
        raise _Silence("accepted but silent")
    raise _NoBanner(_instead_of_banner(received))


def _find_banner(received: bytes) -> str | None:
    """Return the first whole line that is a banner; other lines may come before it."""
    for line in received.split(b"\n")[:-1]:
        if line.startswith(b"SSH-") and len(line) < _MAX_BANNER:
            return _printable(line)
    return None


def _instead_of_banner(received: bytes) -> str:
    line = _printable(received.strip().split(b"\n")[0])
    shown = line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}…"
    answer = f"'{shown}'" if shown else "with bytes"
    return f"answered {answer} instead of an SSH banner"


def _printable(line: bytes) -> str:
    return "".join(char for char in line.decode("ascii", "ignore") if char.isprintable())


def _in_words(exc: OSError) -> str:
    if exc.errno == errno.ECONNREFUSED:
        return "connection refused"
    return exc.strerror or str(exc)
