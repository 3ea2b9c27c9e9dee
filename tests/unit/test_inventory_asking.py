# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program for other hosts, run by a Python of this one, and many hosts asked at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import VmSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._noop.backend import (
    NoopBackend,
)
from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._asking import Asking, Question
from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._observer import observe
from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._payload import (
    build_program,
    read_answer,
)

pytestmark = pytest.mark.real_host
COMMAND = f"{sys.executable} -IS -"


class Shell:
    """A connection to this host, with nothing around it. It takes a while, says ``noise`` first, or breaks."""

    def __init__(self, delay=0.0, noise="", broken=None):
        self.delay, self.noise, self.broken = delay, noise, broken

    def exec_command(self, command, in_data=None):
        if self.broken:
            raise RuntimeError(self.broken)
        if self.delay:
            subprocess.run(["sleep", str(self.delay)], check=True)
        done = subprocess.run(command, shell=True, input=in_data, capture_output=True, check=False)
        return done.returncode, self.noise.encode() + done.stdout, done.stderr

    def close(self):
        """Nothing is open."""


@pytest.fixture
def data_dir(tmp_path):
    """A folder with one machine that only has a record."""
    backend = NoopBackend(Store(str(tmp_path / "it's data")))
    backend.start(backend.prepare(VmSpec(name="web1", description="é\n'\"\\").completed()))
    return str(tmp_path / "it's data")


def question(data_dir, connection=None, command=COMMAND):
    """Return the usual question."""
    program = build_program(data_dir, False, 10)
    return Question(connection or Shell(), command, program.encode())


def ask(timeout=30, **questions):
    """Return the answers to questions."""
    with Asking(questions, timeout) as asking:
        return asking.answers()


def test_program_sees_what_this_process_sees(data_dir):
    answers = ask(a=question(data_dir), b=question(data_dir, Shell(noise="Welcome!\n")))

    assert answers["a"].facts == answers["b"].facts == observe(data_dir)
    assert [vm["name"] for vm in answers["a"].facts["vms"]] == ["web1"]
    assert answers["a"].failure is None


def test_program_writes_nothing(data_dir):
    before = sorted(Path(data_dir).rglob("*"))

    ask(a=question(data_dir))

    assert sorted(Path(data_dir).rglob("*")) == before


def test_program_imports_only_what_a_look_needs(data_dir):
    program = build_program(data_dir, False, 10) + "sys.stderr.write(' '.join(sys.modules))\n"

    done = subprocess.run(
        COMMAND.split(), input=program, capture_output=True, text=True, check=True
    )

    loaded = {name.removeprefix("cloudnebula_hypervisor.") for name in done.stderr.split()}
    assert {"module_utils._describe", "module_utils._noop.backend"} <= loaded
    dear = {"module_utils._manage", "module_utils._core.plan", "module_utils._qemu", "zipfile"}
    assert not dear & loaded


def test_folder_may_begin_with_the_home_over_there(data_dir, monkeypatch):
    monkeypatch.setenv("HOME", os.path.dirname(data_dir))
    monkeypatch.setenv("LAB", os.path.basename(data_dir))

    assert ask(a=question("~/$LAB"))["a"].facts["vms"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"connection": Shell(broken="over ssh: first\nno route.")}, "no route"),
        ({"command": "no-such-python -"}, "there is no Python"),
        ({"command": "echo cause >&2; exit 3"}, "cause"),
        ({"command": "exit 3"}, "the program ended with status 3"),
        (
            {"connection": Shell(broken="Make sure it is reached over ssh: ssh: refused")},
            "ssh: ref",
        ),
    ],
    ids=["connection", "no Python", "last words", "silence", "words of Ansible"],
)
def test_cause_of_a_failure(data_dir, change, cause):
    failure = ask(a=question(data_dir, **change))["a"].failure

    assert failure.startswith(cause)


def test_old_python_says_what_is_wrong(data_dir):
    program = build_program(data_dir, False, 10).replace("(3, 9)", "(99, 0)")

    failure = ask(a=Question(Shell(), COMMAND, program.encode()))["a"].failure

    assert "Python 3.9 or newer is needed" in failure
    assert "set ansible_python_interpreter" in failure


def test_slow_host_does_not_hold_up_the_others(data_dir):
    begun = time.monotonic()

    answers = ask(
        timeout=6,
        slow=question(data_dir, Shell(delay=60)),
        **{f"fast{number}": question(data_dir) for number in range(3)},
    )

    assert time.monotonic() - begun < 30
    assert answers["slow"].failure == "it gave no answer within 6 seconds"
    assert all(answers[f"fast{number}"].failure is None for number in range(3))


def test_waits_overlap(data_dir):
    begun = time.monotonic()

    answers = ask(**{f"h{number}": question(data_dir, Shell(delay=2)) for number in range(8)})

    assert not [answer for answer in answers.values() if answer.failure]
    assert time.monotonic() - begun < 12


def test_nobody_is_left_when_it_is_interrupted(data_dir, tmp_path):
    pid_file = tmp_path / "pid"
    command = f"echo $$ > {pid_file}; exec sleep 60"

    with pytest.raises(KeyboardInterrupt):
        with Asking({"a": question(data_dir, command=command)}, 60):
            deadline = time.monotonic() + 20
            while not (pid_file.exists() and pid_file.read_text()):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            raise KeyboardInterrupt

    stat = Path(f"/proc/{int(pid_file.read_text())}/stat")
    deadline = time.monotonic() + 10
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_answer_is_found_among_noise():
    answer = {"vms": [], "warnings": []}

    assert read_answer("motd\nvms of this hypervisor: " + json.dumps(answer) + "\nbye\n") == answer
    assert read_answer("motd\n") is None
