# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client of propolis-server, which runs one machine and speaks HTTP: what it answers, as values and errors of ours.

Source: the API's OpenAPI document, and the server's own code for what the document leaves open.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.errors import HttpFailed, PropolisProtocol, PropolisRefused, PropolisUnreachable
from .._host.http import Request, Response, send
from .rules import check_ensure, encode
from .run_state import DESTROYED, FINAL
from .server_log import log_tail

_OVER = (*FINAL, "Stopping", "Stopped")
HISTORY_LIMIT = 1 << 20  # bytes; the server keeps the first and the last MiB of the console

_QUICK = 10.0  # seconds for an answer that costs the server nothing
_ENSURE = 120.0  # seconds to make an instance, memory and devices
_WATCH = 20.0  # seconds for one look of the monitor, which answers when something changes
_REPEAT = 1.0  # seconds between two requests to stop
_POLL = 0.25  # seconds between two looks where there is no monitor, or no answer yet
_ANSWER_LIMIT = 16 << 20  # bytes
_CHUNK = 65536
_UNINITIALIZED, _GONE, _CONFLICT = 424, 410, 409
_NO_INSTANCE = "NoInstance"
_BUSY_TEXT = "The server is still making the instance; run the task again."
_HELP: Mapping[int, str] = {
    400: "The server does not understand the request: compare propolis.api_version with the server's version.",
    403: "Wait until the machine has reached another state, and run the task again.",
    409: "Another task may be starting it. Run the task again.",
    424: "The server has no instance: start the machine.",
    500: "The reason is in the server's log, of which error.details.log has the end.",
    503: _BUSY_TEXT,
}

LogPath = Callable[[], "str | None"]


@dataclass(frozen=True)
class Instance:
    """The instance that a server has: its state in the API's word, and its UUID."""

    state: str
    id: str


@dataclass(frozen=True)
class Change:
    """A state, and the number by which the server counts the changes of its instance."""

    gen: int
    state: str


@dataclass(frozen=True)
class _Answer:
    status: int
    data: Any  # None if there is none, or if it is no JSON

    def text(self, name: str) -> str | None:
        """Return a field of the answer if it is a text."""
        value = self.data.get(name) if isinstance(self.data, dict) else None
        return value if isinstance(value, str) else None

    @property
    def has_no_instance(self) -> bool:
        """Tell whether the server says that it has no instance, or none any more."""
        return self.status in (_UNINITIALIZED, _GONE) and self.text("error_code") == _NO_INSTANCE


class PropolisApi:
    """The server of one machine. ``log_path`` tells, whenever it is needed, where its log can be read.

    All calls raise ``PropolisUnreachable`` if it does not answer (``details`` have ``refused`` if nobody listens there,
    and ``timed_out`` if it is silent), ``PropolisRefused`` (``details`` have ``status``,
    ``error_code``, ``request_id`` and, where it helps, ``log``) if it says no, and ``PropolisProtocol`` if what
    answers makes no sense.
    """

    def __init__(self, url: str, api_version: str, log_path: LogPath = lambda: None) -> None:
        self.url = url.rstrip("/")
        self._version = api_version
        self._log_path = log_path

    def answers(self, timeout: float) -> bool:
        """Tell whether a server answers within ``timeout`` seconds. Any answer counts: one without a VM says 424."""
        try:
            self._ask("GET", "/instance", timeout=timeout)
        except PropolisUnreachable:
            return False
        return True

    def await_answer(self, deadline: float) -> None:
        """Wait until the server answers; ``deadline`` is a time of ``time.monotonic``."""
        while True:
            left = deadline - time.monotonic()
            if self.answers(max(min(left, _QUICK), _POLL)):
                return
            if left <= _POLL:
                raise self._unreachable("it did not answer in time")
            time.sleep(_POLL)

    def instance(self, timeout: float = _QUICK) -> Instance | None:
        """Return the instance, which may be over already; ``None`` if there was none since the server's start.

        ``timeout`` is in seconds.
        """
        answer = self._ask("GET", "/instance", timeout=timeout)
        if answer.has_no_instance:
            return None
        self._demand(answer, 200, "tell its instance")
        try:
            found = answer.data["instance"]
            return Instance(str(found["state"]), str(found["properties"]["id"]).lower())
        except (KeyError, TypeError) as exc:
            raise self._nonsense(answer) from exc

    def ensure(self, body: Mapping[str, Any]) -> None:
        """Make the instance that ``body`` describes; nothing runs yet.

        It is checked before it is sent. If the server has this very instance and it is not over, that is fine: an
        earlier request may have got through without its answer.
        """
        check_ensure(body, self._version)
        answer = self._ask("PUT", "/instance", encode(body), _ENSURE)
        if answer.status == _CONFLICT:
            found = self.instance()
            ours = found is not None and found.id == str(body["properties"]["id"]).lower()
            if ours and found is not None and found.state not in _OVER:
                return
        self._demand(answer, 201, "make the instance")

    def request_state(self, wish: str) -> None:
        """Ask for ``Run``, ``Stop`` (a power cut) or ``Reboot`` (a reset). The server only queues it: wait afterwards.

        Stopping an instance that is over, or that never was, is no error.
        """
        answer = self._ask("PUT", "/instance/state", json.dumps(wish).encode())
        if wish == "Stop" and answer.has_no_instance:
            return
        self._demand(answer, 204, f"let the instance {wish.lower()}")

    def monitor(self, gen: int, timeout: float) -> Change | None:
        """Wait up to ``timeout`` seconds until the instance's changes have reached number ``gen``; ``None`` if not.

        No instance, or none any more, counts as destroyed.
        """
        body = json.dumps({"gen": gen}).encode()
        try:
            answer = self._ask("GET", "/instance/state-monitor", body, timeout)
        except PropolisUnreachable as exc:
            if exc.details.get("timed_out"):
                return None
            raise
        if answer.has_no_instance:
            return Change(gen, DESTROYED)
        self._demand(answer, 200, "tell changes of its instance")
        try:
            return Change(int(answer.data["gen"]), str(answer.data["state"]))
        except (KeyError, TypeError, ValueError) as exc:
            raise self._nonsense(answer) from exc

    def wait_for(self, states: Sequence[str], deadline: float) -> str:
        """Wait until the instance is in one of ``states``, or in one that nothing comes after; return that state.

        ``deadline`` is a time of ``time.monotonic``; the state that was seen last is returned then, so compare.
        """
        gen, seen = 0, "unknown"
        while True:
            left = deadline - time.monotonic()
            change = self._next_change(gen, max(min(left, _WATCH), _POLL))
            if change is not None:
                gen, seen = change.gen + 1, change.state
                if seen in states or seen in FINAL:
                    return seen
            if left <= 0:
                return seen

    def cut_power(self, deadline: float) -> str:
        """Stop the instance and wait until nothing comes after its state; return that state.

        An instance that is still being made hears nothing, so it is asked again and again. ``deadline`` is as with
        ``wait_for``.
        """
        while True:
            self.request_state("Stop")
            reached = self.wait_for(FINAL, min(deadline, time.monotonic() + _REPEAT))
            if reached in FINAL or time.monotonic() >= deadline:
                return reached

    def serial_history(self, max_bytes: int) -> bytes:
        """Return the last bytes of what the guest printed on its first serial port; none if it does not run."""
        size = min(max_bytes, HISTORY_LIMIT)
        answer = self._ask("GET", f"/instance/serial/history?most_recent={size}&max_bytes={size}")
        if answer.has_no_instance:
            return b""
        self._demand(answer, 200, "tell what the guest printed")
        try:
            return bytes(answer.data["data"])
        except (KeyError, TypeError, ValueError) as exc:
            raise self._nonsense(answer) from exc

    def log_tail(self) -> str | None:
        """Return the end of the server's log as text, if there is one."""
        path = self._log_path()
        return (log_tail(path) or None) if path else None

    def _next_change(self, gen: int, timeout: float) -> Change | None:
        try:
            return self.monitor(gen, timeout)
        except PropolisRefused as exc:
            # Something between here and the server may drop the body that the monitor wants with GET.
            if exc.details.get("status") != 400:
                raise
        time.sleep(min(_POLL, timeout))
        found = self.instance()
        return Change(gen, DESTROYED if found is None else found.state)

    def _ask(
        self, method: str, path: str, body: bytes | None = None, timeout: float = _QUICK
    ) -> _Answer:
        headers = {"api-version": self._version, "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        end = time.monotonic() + timeout
        request = Request(method, self.url + path, headers, body, timeout, proxies=False)
        try:
            with send(request) as response:
                data = self._read(response, end)
        except HttpFailed as exc:
            reason = str(exc.details.get("reason"))
            refused = reason == os.strerror(errno.ECONNREFUSED)
            timed_out = bool(exc.details.get("timed_out"))
            raise self._unreachable(reason, timed_out=timed_out, refused=refused) from exc
        try:
            return _Answer(response.status, json.loads(data) if data else None)
        except (ValueError, RecursionError):
            return _Answer(response.status, None)

    def _read(self, response: Response, end: float) -> bytes:
        data = bytearray()
        while chunk := response.read(_CHUNK):
            data += chunk
            if len(data) > _ANSWER_LIMIT:
                raise PropolisProtocol(
                    f"The answer of {response.url} has more than {_ANSWER_LIMIT} bytes.",
                    url=self.url,
                )
            if time.monotonic() > end:
                raise self._unreachable("its answer did not end in time", timed_out=True)
        return bytes(data)

    def _demand(self, answer: _Answer, status: int, what: str) -> None:
        if answer.status == status:
            return
        if answer.status < 400:
            raise self._nonsense(answer)
        message, error_code = answer.text("message"), answer.text("error_code")
        # A refusal of a state change has its text in error_code, and only "Forbidden" as its message.
        words = (error_code if answer.status == 403 else message) or message or "no reason given"
        log = self.log_tail() if answer.status >= 500 else None
        sentence = f"The server at {self.url} did not {what}: {words} (status {answer.status})."
        if log:
            sentence += f" Its log ends: {log.splitlines()[-1]}"
        raise PropolisRefused(
            sentence,
            _HELP.get(answer.status),
            status=answer.status,
            error_code=error_code,
            request_id=answer.text("request_id"),
            log=log,
        )

    def _unreachable(
        self, reason: str, timed_out: bool = False, refused: bool = False
    ) -> PropolisUnreachable:
        return PropolisUnreachable(
            f"The server at {self.url} does not answer: {reason}.",
            url=self.url,
            log=self.log_tail(),
            timed_out=timed_out or None,
            refused=refused or None,
        )

    def _nonsense(self, answer: _Answer) -> PropolisProtocol:
        shown = repr(answer.data)
        return PropolisProtocol(
            f"What answers at {self.url} is no propolis-server: status {answer.status}, {shown[:200]}.",
            url=self.url,
            status=answer.status,
        )
