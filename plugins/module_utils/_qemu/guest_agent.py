# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The QEMU guest agent: asked for the guest's addresses. Whatever it says comes from the guest and may be a lie.

Its socket serves one client at a time and may still hold half a line for one that has left, so a conversation begins
with a mark (the byte 0xFF) after which all is meant for us.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from .._core.errors import NoGuestAddress
from .._guest.macs import normal_mac
from .._host.files import short_path
from .json_lines import Deadline, NotProtocol

_MARK = b"\xff"
_ANSWER_LIMIT = 1024 * 1024  # bytes; a guest with a hundred cards needs some 30 KiB
_MAX_CARDS = 256
_MAX_ADDRESSES = 64  # of one card


def ask_agent(path: str, timeout: float) -> list[tuple[str, tuple[str, ...]]]:
    """Return the MAC and the addresses of each of the guest's cards, within ``timeout`` seconds.

    Raise ``NoGuestAddress`` if no agent answers there: none runs in the guest yet, or another client is connected.
    """
    deadline = Deadline(timeout)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(deadline.left())
            with short_path(path) as address:
                sock.connect(address)
            conversation = _Conversation(sock, deadline)
            conversation.synchronise()
            return list(_cards(conversation.execute("guest-network-get-interfaces")))
    except (OSError, NotProtocol) as exc:
        raise NoGuestAddress(
            f"The guest agent did not tell its addresses: {_reason(exc, deadline)}.",
            "Check that qemu-guest-agent runs in the guest, and that no other client uses its socket.",
            path=path,
        ) from exc


class _Conversation:
    """Requests and answers over a socket, all within one deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self._input = bytearray()

    def synchronise(self) -> None:
        """Make sure that what comes next is an answer to us; what is older is thrown away."""
        number = int.from_bytes(os.urandom(4), "big") >> 1
        self._send("guest-sync-delimited", {"id": number})
        while True:
            self._take_until(_MARK)
            try:
                answer = json.loads(self._take_until(b"\n"))
            except (ValueError, RecursionError):
                continue
            if isinstance(answer, dict) and answer.get("return") == number:
                return

    def execute(self, command: str) -> Any:
        """Return what the command returned."""
        self._send(command, None)
        line = self._take_until(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise NotProtocol(line[:100]) from exc
        if not isinstance(answer, dict) or "return" not in answer:
            raise NotProtocol(answer)
        return answer["return"]

    def _send(self, command: str, arguments: Mapping[str, Any] | None) -> None:
        request: dict[str, Any] = {"execute": command}
        if arguments is not None:
            request["arguments"] = dict(arguments)
        # A mark in front makes the agent forget half a request of a client before us.
        data = (_MARK if arguments else b"") + json.dumps(request).encode() + b"\n"
        self._sock.settimeout(self._deadline.left())
        self._sock.sendall(data)

    def _take_until(self, end: bytes) -> bytes:
        searched = taken = 0
        while (found := self._input.find(end, searched)) < 0:
            if end == _MARK:  # nothing before it matters
                taken += len(self._input)
                self._input.clear()
            searched = len(self._input)
            if taken + searched > _ANSWER_LIMIT:
                raise NotProtocol(f"more than {_ANSWER_LIMIT} bytes")
            self._sock.settimeout(self._deadline.left())
            chunk = self._sock.recv(65536)
            if not chunk:
                raise ConnectionError
            self._input += chunk
        line = bytes(self._input[:found])
        del self._input[: found + 1]
        return line


def _cards(answer: object) -> Iterator[tuple[str, tuple[str, ...]]]:
    for card in answer[:_MAX_CARDS] if isinstance(answer, list) else ():
        if not isinstance(card, dict):
            continue
        mac, found = normal_mac(card.get("hardware-address")), card.get("ip-addresses")
        if mac is not None and isinstance(found, list):
            yield mac, tuple(_addresses(found[:_MAX_ADDRESSES]))


def _addresses(found: list[object]) -> Iterator[str]:
    for item in found:
        text = item.get("ip-address") if isinstance(item, dict) else None
        if not isinstance(text, str) or "%" in text:
            continue
        try:
            yield str(ipaddress.ip_address(text))
        except ValueError:
            continue


def _reason(exc: OSError | NotProtocol, deadline: Deadline) -> str:
    if isinstance(exc, (TimeoutError, socket.timeout)):
        return f"no answer in {deadline}"
    if isinstance(exc, NotProtocol):
        return f"its answer makes no sense, {exc}"
    if isinstance(exc, (FileNotFoundError, ConnectionRefusedError)):
        return "its socket is not open"
    if isinstance(exc, BlockingIOError):
        return "other clients queue for it"
    if isinstance(exc, ConnectionError):
        return "it closed the connection"
    return exc.strerror or str(exc)
