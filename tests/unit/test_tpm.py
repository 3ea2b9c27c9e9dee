# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The TPM and other programs beside QEMU: started with little, known by a lock, ended with their QEMU."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    InvalidState,
    ProgramMissing,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.folders import (
    SharedFolder,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import VmSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.locks import is_held
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import companions, tpm
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.argv import (
    Descriptors,
    Launch,
    build_argv,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.companions import (
    Companions,
    end_companions,
    lost_companions,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.tpm import (
    check_tpm,
    opened_tpm,
    tpm_command,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle

# Like swtpm: serves the descriptor that it is given, and ends when the other end is closed.
SERVE = """
import os, socket, sys
print("serving", sorted(os.environ), os.getcwd(), flush=True)
end = socket.socket(fileno=int(sys.argv[1]))
while end.recv(100): pass
"""
STAY = "import sys, time; print('staying', flush=True); time.sleep(60)"


def machine(folder, **options):
    spec = VmSpec("web1", machine="q35", **options).completed()
    return minimal_handle("web1", work_dir=str(folder), spec=spec, booted=spec)


class Bench:
    """A machine's folder, and what its companions say."""

    def __init__(self, folder):
        self.folder = folder
        self.vm = machine(folder, tpm=True)
        self.read, write = os.pipe()
        self.companions = Companions(str(folder), write)
        self.lock = str(folder / "tpm.lock")

    def start(self, program, *fds):
        words = [sys.executable, "-I", "-S", "-c", program, *map(str, fds)]
        pid = self.companions.start(words, "tpm.lock", fds)
        os.read(self.read, 1000)  # it is up
        return pid


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(companions, "_ENDS", 0.3)
    bench = Bench(tmp_path)
    yield bench
    end_companions(bench.vm)


@pytest.mark.real_host
def test_one_ends_when_the_connection_to_qemu_is_closed_however_that_happens(bench, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setattr(companions, "_ENDS", 5.0)
    program = bench.folder / "swtpm"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.argv[1] = sys.argv[6].partition('clientfd=')[2]\n{SERVE}"
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(bench.folder), prepend=os.pathsep)
    with opened_tpm(bench.vm, bench.companions) as fd:
        qemu = subprocess.Popen(["sleep", "60"], pass_fds=(fd,))
    said = os.read(bench.read, 1000).decode()

    assert is_held(bench.lock)
    assert list(lost_companions(bench.vm)) == []
    qemu.kill()
    qemu.wait()
    begin = time.monotonic()
    end_companions(bench.vm)

    assert time.monotonic() - begin < 4
    assert said == f"serving ['LC_ALL', 'PATH'] {bench.folder}\n"
    assert not os.path.exists(bench.lock)
    assert os.stat(bench.folder / "tpm").st_mode & 0o777 == 0o700


@pytest.mark.real_host
def test_one_that_does_not_end_is_ended(bench):
    pid = bench.start(STAY)

    end_companions(bench.vm)

    assert not is_held(bench.lock)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9


@pytest.mark.real_host
def test_a_start_waits_for_the_last_run_and_then_gives_up(bench):
    bench.start(STAY)

    with pytest.raises(InvalidState, match=r"still alive and holds .*tpm\.lock") as caught:
        bench.start(STAY)

    assert f"fuser {bench.lock}" in caught.value.help


@pytest.mark.real_host
def test_one_that_has_ended_is_warned_of(bench):
    os.waitpid(bench.start("print('gone', flush=True)"), 0)
    shared = (SharedFolder("work", "/srv/work"),)
    both = machine(bench.folder, tpm=True, shared_folders=shared)

    assert list(lost_companions(both)) == [
        "The VM 'web1' runs without its TPM (swtpm): the program has ended. "
        "state=restarted brings it back.",
        "The VM 'web1' runs without the shared folder 'work' (virtiofsd): the program has ended. "
        "state=restarted brings it back.",
    ]
    assert list(lost_companions(machine(bench.folder))) == []


def test_a_machine_without_one_starts_and_makes_nothing(tmp_path):
    with opened_tpm(machine(tmp_path), None) as fd:
        assert fd is None

    assert os.listdir(tmp_path) == []


def test_a_missing_program_is_an_error_that_names_the_package(monkeypatch):
    monkeypatch.setattr(tpm, "find_program", lambda *dummy_names: None)
    check_tpm(VmSpec("web1", tpm=False))

    with pytest.raises(ProgramMissing, match=r"^tpm: the program swtpm is not installed") as caught:
        check_tpm(VmSpec("web1", tpm=True))

    assert "package swtpm" in caught.value.help


def test_the_command_has_no_path_that_it_could_misread():
    assert tpm_command("/usr/bin/swtpm", 7) == [
        *("/usr/bin/swtpm", "socket", "--tpm2"),
        *("--tpmstate", "dir=tpm,mode=0600"),
        *("--ctrl", "type=unixio,clientfd=7"),
        "--terminate",
    ]


def test_qemu_gets_the_connection_and_no_socket_listens():
    fds = Descriptors(qmp=11, debug=12, console=13, agent=14, console_log=15)
    launch = Launch("/usr/bin/qemu", "tcg", "max", "/x/qemu.pid", None, fds, tpm=16)
    argv = build_argv(machine("/data/vms/web1", tpm=True, networks=()), launch)

    at = argv.index("socket,id=tpm,fd=16")
    assert argv[at - 1 : at + 5] == [
        *("-chardev", "socket,id=tpm,fd=16"),
        *("-tpmdev", "emulator,id=tpm0,chardev=tpm"),
        *("-device", "tpm-crb,tpmdev=tpm0"),
    ]
