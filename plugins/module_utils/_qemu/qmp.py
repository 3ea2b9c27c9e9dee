# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client of QEMU's machine protocol, QMP: commands, their answers, and the events that come in between."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from .._core.errors import QmpCommandFailed, QmpConnectFailed
from .._host.files import short_path
from .json_lines import Deadline, JsonLines, NotProtocol

EVENTS_KEPT = 1000

# Never repeated within a process: QEMU may answer a client that has left to the one that came after it.
_serials = count(1)


@dataclass(frozen=True)
class Event:
    """Something that QEMU told without being asked; ``seconds`` is the host's time since 1970."""

    name: str
    data: Mapping[str, Any]
    seconds: float

    @classmethod
    def parse(cls, message: Mapping[str, Any]) -> Event:
        """Read an event as it comes over the wire; raise ``NotProtocol`` if it is none."""
        try:
            stamp = message["timestamp"]
            seconds = stamp["seconds"] + stamp["microseconds"] / 1e6
            return cls(str(message["event"]), dict(message.get("data", {})), float(seconds))
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise NotProtocol(message) from exc


class Qmp:
    """A conversation with one QEMU; made by ``connect`` or ``over``, ended by ``close`` or as a context manager.

    ``version`` is QEMU's; ``events`` are the latest that nobody has waited for, oldest first; ``closed`` tells that
    the conversation is over, whoever ended it.
    """

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.path = path
        self.version = (0, 0, 0)
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.closed = False
        self._lines = JsonLines(sock)

    @classmethod
    def connect(cls, path: str, timeout: float) -> Qmp:
        """Connect to the UNIX socket ``path``, of any length, and be ready for commands within ``timeout`` seconds.

        Raise ``QmpConnectFailed`` if nobody answers there as QEMU's monitor does. A monitor serves one client: the
        next one connects too, but is greeted only when the first has left.
        """
        deadline = Deadline(timeout)
        try:
            sock = _dial(path, deadline.left())
        except OSError as exc:
            raise _unreachable(path, exc, deadline) from exc
        return cls._begin(sock, path, deadline)

    @classmethod
    def over(cls, sock: socket.socket, timeout: float) -> Qmp:
        """Do the same over a connected socket; it is closed with the conversation, or if none begins."""
        return cls._begin(sock, f"on file descriptor {sock.fileno()}", Deadline(timeout))

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float = 5.0,
        fds: Sequence[int] = (),
    ) -> Any:
        """Return what ``command`` returned; keep the events that come in between. Open files go along with it.

        Raise ``QmpCommandFailed`` if QEMU refused (``details["error_class"]`` and ``["desc"]`` are its words),
        did not answer in ``timeout`` seconds (an answer that comes later is ignored), broke the protocol or is gone.
        """
        return self._run(command, arguments, Deadline(timeout), fds)

    def wait_event(self, *names: str, timeout: float) -> Event | None:
        """Return the first event, kept or new, that has one of ``names``, and keep it no longer.

        ``None`` means that none came in ``timeout`` seconds or, if ``closed`` is true by then, that none will come;
        without names, this waits for the end. Raise ``QmpCommandFailed`` if QEMU broke the protocol.
        """
        deadline = Deadline(timeout)
        for event in self.events:
            if event.name in names:
                self.events.remove(event)
                return event
        try:
            while True:
                message = self._receive(deadline)
                if isinstance(message, Event):
                    if message.name in names:
                        return message
                    self.events.append(message)
        except OSError:
            return None
        except NotProtocol as exc:
            raise self._broken(
                f"The wait for {' or '.join(names) or 'the end'}", exc, deadline
            ) from exc

    def close(self) -> None:
        """End the conversation; QEMU goes on, and the events that were kept stay."""
        self.closed = True
        self._lines.close()

    @classmethod
    def _begin(cls, sock: socket.socket, path: str, deadline: Deadline) -> Qmp:
        qmp = cls(sock, path)
        try:
            qmp._greet(deadline)
        except BaseException:
            qmp.close()
            raise
        return qmp

    def _greet(self, deadline: Deadline) -> None:
        try:
            self.version = _version(self._lines.receive(deadline))
        except (OSError, NotProtocol) as exc:
            reason = _reason(exc, deadline)
            if isinstance(exc, TimeoutError):
                reason += "; another client may hold it, for it serves one at a time"
            raise QmpConnectFailed(
                f"The QMP socket {self.path} gave no greeting: {reason}."
            ) from exc
        try:
            self._run("qmp_capabilities", None, deadline)
        except QmpCommandFailed as exc:
            raise QmpConnectFailed(exc.message, None, **exc.details) from exc

    def _run(
        self,
        command: str,
        arguments: Mapping[str, Any] | None,
        deadline: Deadline,
        fds: Sequence[int] = (),
    ) -> Any:
        request: dict[str, Any] = {"execute": command, "id": f"{os.getpid()}-{next(_serials)}"}
        if arguments is not None:
            request["arguments"] = dict(arguments)
        try:
            self._send(request, deadline, fds)
            return _result(command, self._answer(request["id"], deadline))
        except (OSError, NotProtocol) as exc:
            raise self._broken(f"The command {command}", exc, deadline, command=command) from exc

    def _send(self, request: Mapping[str, Any], deadline: Deadline, fds: Sequence[int]) -> None:
        try:
            self._lines.send(request, deadline, fds)
        except ConnectionError:
            return  # the end is met on reading, after QEMU's last words
        except TimeoutError:
            self.close()  # half a request may be on its way
            raise

    def _answer(self, request_id: str, deadline: Deadline) -> Mapping[str, Any]:
        while True:
            message = self._receive(deadline)
            if isinstance(message, Event):
                self.events.append(message)
                continue
            # QEMU refuses a request that it cannot parse without repeating its id.
            unparsed = "error" in message and "id" not in message
            if unparsed or message.get("id") == request_id:
                return message

    def _receive(self, deadline: Deadline) -> Event | dict[str, Any]:
        if self.closed:
            raise ConnectionError
        try:
            message = self._lines.receive(deadline)
            return Event.parse(message) if "event" in message else message
        except TimeoutError:
            raise
        except (OSError, NotProtocol):
            self.close()
            raise

    def _broken(
        self, what: str, exc: Exception, deadline: Deadline, **details: object
    ) -> QmpCommandFailed:
        return QmpCommandFailed(
            f"{what} failed on the QMP socket {self.path}: {_reason(exc, deadline)}.",
            "QEMU may hang, or have ended; look at qemu.log in the VM's folder.",
            last_events=[event.name for event in self.events][-5:],
            **details,
        )


def _dial(path: str, seconds: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Where clients queue, Python's own time-out would have connect() fail at once; the kernel's has it wait.
        limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6) or 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        with short_path(path) as address:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _unreachable(path: str, exc: OSError, deadline: Deadline) -> QmpConnectFailed:
    if isinstance(exc, FileNotFoundError):
        reason = "it does not exist"
    elif isinstance(exc, ConnectionRefusedError):
        reason = "nothing listens there"
    elif isinstance(exc, BlockingIOError):
        reason = f"it took no client in {deadline}; others queue for it"
    else:
        reason = exc.strerror or str(exc)
    return QmpConnectFailed(
        f"Could not connect to the QMP socket {path}: {reason}.",
        "Check that the VM runs, that this user may use the socket, and that no other client holds it.",
    )


def _reason(exc: Exception, deadline: Deadline) -> str:
    if isinstance(exc, TimeoutError):
        return f"no answer in {deadline}"
    if isinstance(exc, OSError):
        return "the connection was closed"
    return f"this is not QMP: {exc}"


def _version(greeting: Mapping[str, Any]) -> tuple[int, int, int]:
    try:
        found = greeting["QMP"]["version"]["qemu"]
        return int(found["major"]), int(found["minor"]), int(found["micro"])
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise NotProtocol(greeting) from exc


def _result(command: str, answer: Mapping[str, Any]) -> Any:
    if "return" in answer:
        return answer["return"]
    try:
        error_class, desc = str(answer["error"]["class"]), str(answer["error"]["desc"])
    except (KeyError, TypeError) as exc:
        raise NotProtocol(answer) from exc
    raise QmpCommandFailed(
        f"QEMU refused the command {command}: {desc} ({error_class}).",
        "The cause is in QEMU's own words in the message.",
        command=command,
        error_class=error_class,
        desc=desc,
    )
