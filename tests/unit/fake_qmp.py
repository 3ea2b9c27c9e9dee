# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A QMP server over a real UNIX socket that follows a script, be it a polite one or not."""

from __future__ import annotations

import json
import os
import socket
import threading
import time

from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.files import short_path

GREETING = {
    "QMP": {
        "version": {"qemu": {"major": 7, "minor": 2, "micro": 11}, "package": "Debian"},
        "capabilities": ["oob"],
    }
}
SCRIPT_LIMIT = 30  # seconds; a script that waits longer for its client fails the test


def event(name, **data):
    """Return an event as QEMU writes it."""
    stamp = {"seconds": 1700000000, "microseconds": 250000}
    return {"timestamp": stamp, "event": name, "data": data}


class Session:
    """The server's side of one connection, for the script to act on."""

    def __init__(self, sock):
        sock.settimeout(SCRIPT_LIMIT)
        self._sock = sock
        self._file = sock.makefile("rb")
        self.heard = []

    def raw(self, data):
        self._sock.sendall(data)

    def say(self, *messages):
        self.raw(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))

    def hear(self):
        """Return the client's next request; ``EOFError`` if it has left instead."""
        line = self._file.readline()
        if not line:
            raise EOFError
        self.heard.append(json.loads(line))
        return self.heard[-1]

    def greet(self):
        """Begin as QEMU does."""
        self.say(GREETING)
        request = self.hear()
        if request["execute"] != "qmp_capabilities":
            raise ValueError(f"the client began with {request}")
        self.say({"return": {}, "id": request["id"]})

    def answer(self, **answers):
        """Answer each request from the table, its dashes being underscores there, until the client leaves."""
        while True:
            request = self.hear()
            answer = answers.get(request["execute"].replace("-", "_"))
            if answer is None:
                desc = f"The command {request['execute']} has not been found"
                answer = {"error": {"class": "CommandNotFound", "desc": desc}}
            self.say({**answer, "id": request["id"]})

    def flood(self, data):
        """Send the same bytes over and over until the client leaves."""
        while True:
            self.raw(data)

    def trickle(self):
        """Send a byte now and then, each of which could begin a new wait, until the client leaves."""
        while True:
            self.raw(b" ")
            time.sleep(0.02)

    def stay(self):
        """Say nothing more until the client leaves."""
        while True:
            self.hear()

    @property
    def closed(self):
        return self._sock.fileno() < 0

    def close(self):
        self._file.close()
        self._sock.close()


class FakeQmp:
    """Serve one client after the other by ``script(session)``; one that breaks fails the ``with`` statement."""

    def __init__(self, path, script):
        self.path = str(path)
        self.sessions = []
        self._script = script
        self._broken = []
        self._leaving = False
        self._listener = socket.socket(socket.AF_UNIX)
        with short_path(self.path) as address:
            self._listener.bind(address)
        self._listener.listen(1)  # as QEMU does
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, exc, trace):
        self._leaving = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(SCRIPT_LIMIT)
        self._listener.close()
        os.unlink(self.path)
        if self._broken and exc is None:
            raise self._broken[0]

    def _serve(self):
        while not self._leaving:
            try:
                session = Session(self._listener.accept()[0])
            except OSError:
                return
            self.sessions.append(session)
            try:
                self._script(session)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                pass  # the client has left
            except Exception as broken:
                self._broken.append(broken)
            finally:
                session.close()
