# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard of conftest.py, tried by a pytest run of its own: every test of this folder leans on it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ACTS = """
import contextlib, os, signal, socket, subprocess, threading

def test_program(): subprocess.run(["true"], check=True)
def test_signal(): os.kill(os.getpid(), 0)
def test_signal_by_pidfd(): signal.pidfd_send_signal(0, 0)
def test_fork(): os.fork()
def test_spawn(): os.posix_spawn("/bin/true", ["true"], {})
def test_shell(): os.system("true")
def test_network(): socket.socket().connect(("192.0.2.1", 9))

def test_hidden_by_the_code():
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), 0)

def test_hidden_by_a_thread():
    thread = threading.Thread(target=os.kill, args=(os.getpid(), 0))
    thread.start()
    thread.join()
"""


@pytest.mark.real_host
def test_forbidden_acts_fail_their_tests(tmp_path):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_acts.py").write_text(ACTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    # An act fails at once where the error can be seen, and at the end of its test in any case.
    assert "7 failed, 2 passed" in result.stdout
    assert "9 errors" in result.stdout


@pytest.mark.real_host
def test_marked_test_may_start_a_process():
    command = [sys.executable, "-c", "print('started')"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "started\n"


def test_unix_sockets_are_allowed(tmp_path):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
        assert client.getpeername() == str(tmp_path / "s")


def test_loopback_is_allowed():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert client.getpeername() == server.getsockname()
