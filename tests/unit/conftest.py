# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit tests stay off the real host: no process is started or signalled, and nothing beyond loopback is asked.

A test that means to do so carries the mark ``real_host``.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess

import pytest

FORBIDDEN = {
    os: ("kill", "killpg", "fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "execve"),
    signal: ("pidfd_send_signal",),
}


class TouchedTheHost(BaseException):
    """Not an Exception, so that no ``except Exception`` in the code under test can hide it."""


def is_local(sock, address):
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return sock.family == socket.AF_UNIX
    if address[0] == "localhost":
        return True
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return False


class Guard:
    """Stands in for what touches the host; remembers each call, for threads and for code that hides errors."""

    def __init__(self):
        self.touched = []

    def refuse(self, name, *arguments):
        self.touched.append(f"{name}{arguments!r}")
        raise TouchedTheHost(
            f"a unit test called {self.touched[-1]}: use a stand-in, or mark the test real_host"
        )

    def function(self, name):
        return lambda *args, **dummy: self.refuse(name, *args)

    def popen(self):
        return lambda dummy, args, *rest, **options: self.refuse("subprocess.Popen", args)

    def connect(self, name):
        real = getattr(socket.socket, name)

        def connect(sock, address):
            if not is_local(sock, address):
                self.refuse(f"socket.{name}", address)
            return real(sock, address)

        return connect


@pytest.fixture(autouse=True)
def stay_off_the_host(request, monkeypatch):
    """Fail the test at the forbidden call, and at its end in case nobody saw the error."""
    if request.node.get_closest_marker("real_host"):
        yield
        return
    guard = Guard()
    for module, names in FORBIDDEN.items():
        for name in names:
            stand_in = guard.function(f"{module.__name__}.{name}")
            monkeypatch.setattr(module, name, stand_in, raising=False)
    monkeypatch.setattr(subprocess.Popen, "__init__", guard.popen())
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guard.connect(name))
    yield
    monkeypatch.undo()
    if guard.touched:
        raise TouchedTheHost(f"a unit test touched the host: {'; '.join(guard.touched)}")
