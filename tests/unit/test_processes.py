# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes by descriptor: a wait that wakes at once, signals that hit the right one; and programs run to their end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    CommandFailed,
    ProgramMissing,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.commands import (
    find_program,
    require_program,
    run,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.processes import Process

pytestmark = pytest.mark.real_host
WAIT = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def child():
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_wait_sleeps_until_the_process_ends(child):
    """A poll would wake up again and again."""
    ended = []
    with Process.open(child.pid) as process:
        timer = threading.Timer(0.5, lambda: (ended.append(time.monotonic()), child.kill()))
        timer.start()
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        seen = process.wait(10)
        wake_ups = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
        noticed = time.monotonic()
        timer.join()

    assert seen
    assert wake_ups < 5
    assert 0 <= noticed - ended[0] < 5


def test_a_wait_gives_up_in_time(child):
    with Process.open(child.pid) as process:
        begin = time.monotonic()
        seen = process.wait(0.1)
        waited = time.monotonic() - begin

    assert not seen
    assert 0.1 <= waited < 8


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_a_look_does_not_wait(child, timeout):
    with Process.open(child.pid) as process:
        begin = time.monotonic()

        assert not process.wait(timeout)
        assert time.monotonic() - begin < 8


def test_a_zombie_has_ended(child):
    with Process.open(child.pid) as process:
        process.send(signal.SIGKILL)
        seen = process.wait(20)
        with open(f"/proc/{child.pid}/stat") as stream:
            kind = stream.read().rpartition(")")[2].split()[0]

    assert (seen, kind) == (True, "Z")


def test_a_zombie_can_still_be_opened_and_has_ended(child):
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    with Process.open(child.pid) as process:
        assert process.wait(0)


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "gone"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_a_process_that_has_ended_is_harmless(child, reaped, signum):
    with Process.open(child.pid) as process:
        child.kill()
        assert process.wait(20)
        if reaped:
            child.wait()

        process.send(signum)

        assert process.wait(0)


def test_a_signal_arrives(child):
    with Process.open(child.pid) as process:
        process.send(signal.SIGTERM)

        assert process.wait(20)
    assert child.wait() == -signal.SIGTERM


def test_a_number_that_no_process_has_opens_nothing(child):
    child.kill()
    child.communicate()

    assert Process.open(child.pid) is None


def test_the_descriptor_is_closed_at_the_end(child):
    before = len(os.listdir("/proc/self/fd"))

    with Process.open(child.pid) as process:
        inside = len(os.listdir("/proc/self/fd"))

    assert (inside, len(os.listdir("/proc/self/fd"))) == (before + 1, before)
    assert process.pid == child.pid


def python(script):
    return [sys.executable, "-I", "-S", "-c", script]


def test_what_a_program_prints_is_returned():
    done = run(python("import sys; print('out ä'); print('err', file=sys.stderr)"))

    assert (done.stdout, done.stderr) == ("out ä\n", "err\n")


def test_a_program_reads_what_it_is_given_and_nothing_of_ours():
    given = run(python("import sys; print(len(sys.stdin.read()))"), stdin=b"abc")
    nothing = run(python("import sys; print(len(sys.stdin.read()))"))

    assert (given.stdout, nothing.stdout) == ("3\n", "0\n")


def test_a_program_speaks_english(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")

    assert run(python("import os; print(os.environ['LC_ALL'])")).stdout == "C\n"


def test_a_program_gets_its_arguments_without_a_shell():
    words = ["$HOME", "a b", "*", "; false", "~", "'"]

    shown = run([*python("import sys; print(sys.argv[1:])"), *words]).stdout

    assert shown == f"{words}\n"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; print('first'); sys.exit('last words')", "last words"),
        ("import sys; print('only out'); sys.exit(1)", "only out"),
        ("import sys; sys.exit(1)", ""),
        ("import sys; sys.stderr.write('x' * 9000 + 'end'); sys.exit(1)", "x" * 3997 + "end"),
    ],
)
def test_a_program_that_fails_has_the_last_word(script, words):
    with pytest.raises(CommandFailed) as caught:
        run(python(script))

    assert caught.value.message == f"{sys.executable} failed with status 1: {words}"
    assert caught.value.details["status"] == 1
    assert caught.value.details["output"] == words
    assert "-c" in caught.value.details["command"]


def test_a_program_that_takes_too_long_is_ended():
    begin = time.monotonic()

    with pytest.raises(CommandFailed, match=r"did not end within 0\.2 s"):
        run(python("import time; time.sleep(60)"), timeout=0.2)

    assert time.monotonic() - begin < 20


def test_a_program_that_cannot_be_run_is_an_error_of_ours(tmp_path):
    path = tmp_path / "broken"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)

    with pytest.raises(CommandFailed, match="could not be run: No such file"):
        run([str(path)])


def test_a_program_that_is_missing_is_named():
    assert find_program("no-such-program-a", "no-such-program-b") is None
    with pytest.raises(ProgramMissing, match="no-such-program-a or no-such-program-b") as caught:
        require_program("no-such-program-a", "no-such-program-b")

    assert caught.value.details == {"programs": ["no-such-program-a", "no-such-program-b"]}


@pytest.mark.parametrize("path", [None, "", "/nowhere"], ids=["unset", "empty", "elsewhere"])
def test_programs_are_found_in_system_folders_whatever_the_path(monkeypatch, tmp_path, path):
    monkeypatch.delenv("PATH")
    if path is not None:
        monkeypatch.setenv("PATH", path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sh").write_text("#!/bin/false\n")
    (tmp_path / "sh").chmod(0o755)

    assert find_program("no-such-program", "sh") in (None, "/bin/sh", "/usr/bin/sh")
