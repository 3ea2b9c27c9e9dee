# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for SSH against real listeners on loopback: good, late, silent, hostile and gone."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import SshFailed
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.readiness import (
    wait_for_ssh,
)

BANNER = b"SSH-2.0-dropbear_2022.83\r\n"
LONG = 20.0  # seconds: a test that passes never waits so long
SHORT = 0.35
ENOUGH = 1.2  # seconds: time for several probes, of which a busy machine may delay some
HOST = "127.0.0.1"


class Server:
    """Listens on loopback and treats the n-th connection as its n-th behaviour says; the last one goes on."""

    def __init__(self, *behaviours):
        self.behaviours = behaviours
        self.connections = 0
        self.over = threading.Event()
        self.kept = []
        self.listener = socket.create_server((HOST, 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.over.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()
        for connection in self.kept:
            connection.close()

    def serve(self):
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            self.kept.append(connection)
            behaviour = self.behaviours[min(self.connections, len(self.behaviours) - 1)]
            self.connections += 1
            with contextlib.suppress(OSError):
                behaviour(self, connection)


def silent(server, connection):
    """Accept as slirp does, with no guest behind it."""


def closing(server, connection):
    connection.close()


def saying(data):
    def behaviour(server, connection):
        connection.sendall(data)

    return behaviour


def saying_and_closing(data):
    def behaviour(server, connection):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)

    return behaviour


def in_pieces(data, pause):
    """Send byte by byte, until the test is over or the client has gone."""

    def behaviour(server, connection):
        for byte in data:
            if server.over.wait(pause):
                return
            connection.sendall(bytes([byte]))

    return behaviour


def within(seconds):
    return time.monotonic() + seconds


@pytest.mark.parametrize(
    ("behaviours", "banner"),
    [
        ([saying(BANNER)], "SSH-2.0-dropbear_2022.83"),
        ([saying_and_closing(BANNER)], "SSH-2.0-dropbear_2022.83"),
        ([saying(b"SSH-2.0-x\n")], "SSH-2.0-x"),
        ([saying(BANNER + b"\0\0\1\x0ckexinit")], "SSH-2.0-dropbear_2022.83"),
        ([saying(b"Welcome\r\nto web1\r\n" + BANNER)], "SSH-2.0-dropbear_2022.83"),
        ([saying(b"x" * 8000 + b"\r\n" + BANNER)], "SSH-2.0-dropbear_2022.83"),
        ([saying(b"SSH-2.0-\x1b[31mred\x07\xff\r\n")], "SSH-2.0-[31mred"),
        ([saying(b"SSH-2.0-" + b"x" * 245 + b"\r\n")], "SSH-2.0-" + "x" * 245),
        ([in_pieces(BANNER, 0.02)], "SSH-2.0-dropbear_2022.83"),
        ([silent, saying(BANNER)], "SSH-2.0-dropbear_2022.83"),
        ([closing, closing, saying(BANNER)], "SSH-2.0-dropbear_2022.83"),
        ([saying(b"SSH-2.0-cut"), saying(BANNER)], "SSH-2.0-dropbear_2022.83"),
    ],
    ids=[
        "at once",
        "then closed",
        "without carriage return",
        "with key exchange behind it",
        "after other lines",
        "after a long line",
        "with control characters",
        "as long as allowed",
        "byte by byte",
        "on the second connection, the first being silent",
        "on the third connection, the others being closed",
        "on the second connection, the first being cut",
    ],
)
def test_banner_is_returned(behaviours, banner):
    with Server(*behaviours) as server:
        assert wait_for_ssh(HOST, server.port, within(LONG)) == banner
        assert server.connections == len(behaviours)


@pytest.mark.parametrize(
    ("behaviour", "seen"),
    [
        (silent, "accepted but silent"),
        (closing, "accepted, then closed"),
        (
            saying_and_closing(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n"),
            "answered 'HTTP/1.1 400 Bad Request' instead of an SSH banner",
        ),
        (saying(b"login: "), "answered 'login:' instead of an SSH banner"),
        (saying(b"\x1b[2J\0evil\x9b\r\n"), "answered '[2Jevil' instead of an SSH banner"),
        (saying(b"\xff\xfe\xfd" * 50), "answered with bytes instead of an SSH banner"),
        (
            saying(b"A" * 1_000_000),
            f"answered '{'A' * 80}…' instead of an SSH banner",
        ),
        (
            saying(b"SSH-2.0-" + b"x" * 300 + b"\r\n"),
            f"answered 'SSH-2.0-{'x' * 72}…' instead of an SSH banner",
        ),
        (
            saying(b"x" * 10_000 + b"\r\n" + BANNER),
            f"answered '{'x' * 80}…' instead of an SSH banner",
        ),
        (in_pieces(b"y" * 60, 0.05), "answered 'yyy"),
    ],
    ids=[
        "silence",
        "closing",
        "a web server",
        "a prompt",
        "control characters",
        "bytes",
        "a line without end",
        "a banner that is too long",
        "too much before the banner",
        "bytes that trickle in",
    ],
)
def test_what_was_seen_is_told(behaviour, seen):
    started = time.monotonic()
    with Server(behaviour) as server, pytest.raises(SshFailed) as caught:
        wait_for_ssh(HOST, server.port, within(ENOUGH))

    assert ENOUGH <= time.monotonic() - started < ENOUGH + 8
    assert f"{HOST} port {server.port}" in caught.value.message
    assert f": {seen}" in caught.value.message
    assert caught.value.details["host"] == HOST
    assert caught.value.details["port"] == server.port
    assert caught.value.details["attempts"] >= 1
    assert caught.value.details["last_seen"].startswith(seen)
    assert caught.value.details["waited_seconds"] >= ENOUGH


def test_probe_that_the_deadline_cuts_short_does_not_hide_what_was_seen():
    with (
        Server(saying_and_closing(b"no\r\n"), silent) as server,
        pytest.raises(SshFailed) as caught,
    ):
        wait_for_ssh(HOST, server.port, within(SHORT))

    assert caught.value.details["last_seen"] == "answered 'no' instead of an SSH banner"


@pytest.mark.parametrize("behaviour", [closing, saying_and_closing(b"no\r\n")])
def test_server_that_fails_at_once_is_not_hammered(behaviour):
    with Server(behaviour) as server, pytest.raises(SshFailed):
        wait_for_ssh(HOST, server.port, within(SHORT))

    assert 1 <= server.connections <= 3


def test_refused_connection_is_told():
    with pytest.raises(SshFailed, match="connection refused") as caught:
        wait_for_ssh(HOST, unused_port(), within(SHORT))

    assert 1 <= caught.value.details["attempts"] <= 3


def test_server_that_comes_late_is_found():
    port = unused_port()
    with Server(saying(BANNER)) as server:
        late = threading.Timer(0.5, forward_once, (port, server.port))
        late.start()
        try:
            assert wait_for_ssh(HOST, port, within(LONG)) == "SSH-2.0-dropbear_2022.83"
        finally:
            late.join()


def test_deadline_in_the_past_asks_nobody():
    with Server(saying(BANNER)) as server, pytest.raises(SshFailed, match="no time to ask"):
        wait_for_ssh(HOST, server.port, within(-1))

    assert server.connections == 0


@pytest.mark.parametrize("behaviour", [silent, closing, in_pieces(b"y" * 4000, 0.02)])
def test_end_of_the_process_ends_the_wait(behaviour):
    reading, writing = os.pipe()  # readable at its end, as a pidfd is
    killer = threading.Timer(0.5, os.close, (writing,))
    started = time.monotonic()
    try:
        with Server(behaviour) as server, pytest.raises(SshFailed, match="process ended") as caught:
            killer.start()
            wait_for_ssh(HOST, server.port, within(LONG), reading)
    finally:
        killer.join()
        os.close(reading)

    assert time.monotonic() - started < LONG / 2
    assert "qemu.log" in caught.value.help


def test_living_process_does_not_disturb():
    reading, writing = os.pipe()
    try:
        with Server(silent, saying(BANNER)) as server:
            banner = wait_for_ssh(HOST, server.port, within(LONG), reading)
    finally:
        os.close(reading)
        os.close(writing)

    assert banner == "SSH-2.0-dropbear_2022.83"


@pytest.mark.real_host
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has pidfds")
def test_real_process_is_watched_by_its_pidfd():
    started = time.monotonic()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"])
    fd = os.pidfd_open(child.pid)
    try:
        with Server(silent) as server, pytest.raises(SshFailed, match="process ended"):
            wait_for_ssh(HOST, server.port, within(LONG), fd)
    finally:
        os.close(fd)
        child.wait()

    assert 0.5 < time.monotonic() - started < LONG / 2


def unused_port():
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


def forward_once(port, target):
    """Listen on a port for one connection and give it what the target says first."""
    with socket.create_server((HOST, port)) as listener:
        listener.settimeout(LONG)
        connection = listener.accept()[0]
        with connection, socket.create_connection((HOST, target)) as other:
            connection.sendall(other.recv(4096))
