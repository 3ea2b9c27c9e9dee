# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The QMP client against a QEMU without a machine, so without a guest: it is up in some ten milliseconds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    QmpCommandFailed,
    QmpConnectFailed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.qmp import Qmp

QEMU = shutil.which("qemu-system-x86_64")
SHORT = 0.5  # seconds: the time limit where the test expects it to be reached
LONG = 20.0  # seconds: the time limit where the test expects an end long before
SLACK = 8.0  # seconds: what a busy machine may add

pytestmark = pytest.mark.skipif(QEMU is None, reason="needs qemu-system-x86_64")


@contextlib.contextmanager
def takes(seconds):
    start = time.monotonic()
    yield
    assert seconds <= time.monotonic() - start < seconds + SLACK


@contextlib.contextmanager
def after(seconds, act):
    """Do ``act`` that much later, while the block runs."""
    timer = threading.Timer(seconds, act)
    timer.start()
    yield
    timer.join()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "qmp.sock")


@pytest.fixture
def qemu(path):
    """A QEMU whose monitor listens on a socket that it inherited."""
    process = start_qemu(path)
    yield process
    end(process)


def start_qemu(path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.setblocking(False)  # as the launcher does, which says why
        monitor = f"socket,id=m,fd={listener.fileno()},server=on,wait=off"
        options = "-M none -accel tcg -display none -nodefaults -S -mon chardev=m,mode=control"
        return subprocess.Popen(
            [QEMU, *options.split(), "-chardev", monitor], pass_fds=[listener.fileno()]
        )


def end(process):
    process.kill()
    process.wait()


def qemus_own_version():
    words = subprocess.check_output([QEMU, "--version"], text=True).split()
    return tuple(int(part) for part in words[3].split("."))


def test_status_and_version(qemu, path):
    with takes(0), Qmp.connect(path, LONG) as qmp:
        assert qmp.version == qemus_own_version()
        assert qmp.execute("query-status")["status"] == "prelaunch"


def test_refusals_have_qemus_class(qemu, path):
    with Qmp.connect(path, LONG) as qmp:
        with pytest.raises(QmpCommandFailed) as unknown:
            qmp.execute("no-such-command")
        with pytest.raises(QmpCommandFailed) as missing:
            qmp.execute("device_del", {"id": "no-such-device"})
        with pytest.raises(QmpCommandFailed) as wrong:
            qmp.execute("device_del", {"name": 1})
        assert qmp.execute("query-status")["running"] is False

    assert unknown.value.details == {
        "command": "no-such-command",
        "error_class": "CommandNotFound",
        "desc": "The command no-such-command has not been found",
    }
    assert missing.value.details["error_class"] == "DeviceNotFound"
    assert wrong.value.details["error_class"] == "GenericError"


def test_request_that_qemu_cannot_parse_is_refused_at_once(qemu, path):
    with (
        Qmp.connect(path, LONG) as qmp,
        takes(0),
        pytest.raises(QmpCommandFailed, match="GenericError"),
    ):
        qmp.execute("device_del", {"id": "lone surrogate \udc80"}, timeout=LONG)


def test_events(qemu, path):
    started = time.time()
    with Qmp.connect(path, LONG) as qmp:
        qmp.execute("cont")
        qmp.execute("stop")
        with takes(0):
            stop = qmp.wait_event("STOP", timeout=LONG)
            resume = qmp.wait_event("RESUME", timeout=LONG)
        with takes(SHORT):
            assert qmp.wait_event("STOP", "RESUME", timeout=SHORT) is None

    assert started - 1 < resume.seconds <= stop.seconds < time.time() + 1


def test_answer_of_a_fraction_of_a_mebibyte(qemu, path):
    with Qmp.connect(path, LONG) as qmp:
        schema = qmp.execute("query-qmp-schema", timeout=LONG)

    assert len(json.dumps(schema)) > 100_000
    assert {"name", "meta-type"} <= set(schema[0])


def test_second_client_gets_no_greeting_until_the_first_leaves(qemu, path):
    with Qmp.connect(path, LONG) as first:
        with takes(SHORT), pytest.raises(QmpConnectFailed, match="serves one at a time"):
            Qmp.connect(path, SHORT)
        assert first.execute("query-status")

    with takes(0), Qmp.connect(path, LONG) as second:
        assert second.execute("query-status")


def test_a_client_waits_for_its_turn(qemu, path):
    first = Qmp.connect(path, LONG)

    with takes(SHORT), after(SHORT, first.close), Qmp.connect(path, LONG) as second:
        assert second.execute("query-status")


def test_quit(qemu, path):
    with Qmp.connect(path, LONG) as qmp:
        assert qmp.execute("quit") == {}
        with takes(0):
            assert qmp.wait_event(timeout=LONG) is None
        assert qmp.closed
        assert qmp.wait_event("SHUTDOWN", timeout=0).data["reason"] == "host-qmp-quit"

    assert qemu.wait(LONG) == 0
    with takes(0), pytest.raises(QmpConnectFailed, match=r"nothing listens|does not exist"):
        Qmp.connect(path, LONG)


def test_killed_while_a_command_waits(qemu, path):
    with Qmp.connect(path, LONG) as qmp:
        qemu.send_signal(signal.SIGSTOP)
        with (
            takes(SHORT),
            after(SHORT, qemu.kill),
            pytest.raises(QmpCommandFailed, match="the connection was closed"),
        ):
            qmp.execute("query-status", timeout=LONG)

        assert qmp.closed


def test_killed_while_an_event_is_awaited(qemu, path):
    with Qmp.connect(path, LONG) as qmp:
        with takes(SHORT), after(SHORT, qemu.kill):
            assert qmp.wait_event("STOP", timeout=LONG) is None

        assert qmp.closed


def test_hung_qemu_keeps_to_the_limit_and_its_late_answer_is_ignored(qemu, path):
    with Qmp.connect(path, LONG) as qmp:
        qemu.send_signal(signal.SIGSTOP)
        with takes(SHORT), pytest.raises(QmpCommandFailed, match=r"no answer in 0\.5 s"):
            qmp.execute("query-name", timeout=SHORT)
        qemu.send_signal(signal.SIGCONT)

        assert qmp.execute("query-status", timeout=LONG)["status"] == "prelaunch"


def test_hung_qemu_gives_no_greeting(qemu, path):
    Qmp.connect(path, LONG).close()
    qemu.send_signal(signal.SIGSTOP)

    with takes(SHORT), pytest.raises(QmpConnectFailed, match=r"no answer in 0\.5 s"):
        Qmp.connect(path, SHORT)
