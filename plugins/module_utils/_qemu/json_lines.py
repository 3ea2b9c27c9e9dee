# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON objects, one a line, over a socket: what QEMU's monitor and the guest agent speak.

A time limit counts for a whole call, so neither silence nor chatter of the other side can prolong it.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

LINE_LIMIT = 16 * 1024 * 1024  # bytes; QEMU's longest answer, its schema, has a fraction of a MiB
SHORTEST_WAIT = 0.01  # seconds; so that a time limit of 0 still takes what has arrived already


class NotProtocol(Exception):
    """What arrived cannot be a message of the protocol."""

    def __init__(self, received: object) -> None:
        shown = repr(received)
        super().__init__(shown if len(shown) <= 100 else shown[:100] + "...")


class Deadline:
    """A time limit in seconds that begins now."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + max(seconds, SHORTEST_WAIT)
        self.seconds = seconds

    def left(self) -> float:
        """Return the seconds that are left, more than 0; raise ``TimeoutError`` when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def __str__(self) -> str:
        return f"{self.seconds:g} s"


class JsonLines:
    """JSON objects, one a line, over a socket. What ends a call early: ``OSError`` or ``NotProtocol``."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._input = bytearray()
        self._searched = 0  # so much of the input is known to hold no end of line

    def send(self, message: Mapping[str, Any], deadline: Deadline, fds: Sequence[int] = ()) -> None:
        """Send one object, with open files; after a ``TimeoutError`` an unknown part of it has gone out."""
        data = json.dumps(message).encode() + b"\n"
        self._sock.settimeout(deadline.left())
        try:
            if fds:
                data = data[socket.send_fds(self._sock, [data], list(fds)) :]
            self._sock.sendall(data)
        except socket.timeout as exc:  # another class than TimeoutError before Python 3.10
            raise TimeoutError from exc

    def receive(self, deadline: Deadline) -> dict[str, Any]:
        """Return the next object; raise ``TimeoutError``, ``ConnectionError`` at the end, ``NotProtocol``."""
        while (end := self._input.find(b"\n", self._searched)) < 0:
            self._searched = len(self._input)
            if self._searched > LINE_LIMIT:
                raise NotProtocol(f"a line of more than {LINE_LIMIT} bytes")
            self._input += self._chunk(deadline)
        line = bytes(self._input[:end])
        del self._input[: end + 1]
        self._searched = 0
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise NotProtocol(line[:100]) from exc
        if not isinstance(message, dict):
            raise NotProtocol(line[:100])
        return message

    def close(self) -> None:
        """End the connection."""
        self._sock.close()

    def _chunk(self, deadline: Deadline) -> bytes:
        self._sock.settimeout(deadline.left())
        try:
            data = self._sock.recv(65536)
        except socket.timeout as exc:
            raise TimeoutError from exc
        if not data:
            raise ConnectionError("end of input")
        return data
