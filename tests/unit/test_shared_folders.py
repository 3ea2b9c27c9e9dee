# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared folders: what the host must have for them, and how their programs are connected to QEMU."""

from __future__ import annotations

import os
import socket
import sys

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    FileMissing,
    ProgramMissing,
    Unready,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.folders import (
    SharedFolder,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.layout import is_ours
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import VmSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.locks import is_held
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import (
    companions,
    shared_folders,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.companions import (
    Companions,
    end_companions,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.launcher import (
    _without_prefix,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.shared_folders import (
    check_folders,
    folder_command,
    opened_folders,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle

# Like virtiofsd: serves one client of the listening descriptor, and ends with it.
SERVE = """#!{python}
import socket, sys
listener = socket.socket(fileno=int(sys.argv[1].partition("=")[2]))
client = listener.accept()[0]
client.sendall(" ".join(sys.argv[2:]).encode())
while client.recv(100): pass
"""
HELPS = """#!/bin/sh
echo "{words}"
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a way to install a virtiofsd."""
    path = tmp_path / "virtiofsd"
    monkeypatch.setattr(shared_folders, "PROGRAMS", (str(path),))

    def install(text):
        path.write_text(text)
        path.chmod(0o700)

    return install


def wish(path, readonly=False):
    return VmSpec("web1", shared_folders=(SharedFolder("work", str(path), readonly),))


@pytest.mark.real_host
@pytest.mark.parametrize(
    "case",
    [
        ("-o source=PATH", 0, False, None),
        ("-o source=PATH", 1000, False, "shared_folders"),
        ("-o source=PATH", 0, True, "shared_folders[0].readonly"),
        ("--uid-map --readonly", 1000, True, None),
    ],
)
def test_the_host_is_asked_what_its_program_can_do(program, tmp_path, monkeypatch, case):
    words, user, readonly, option = case
    program(HELPS.format(words=words))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if option is None:
        check_folders(wish(tmp_path, readonly))
        return

    with pytest.raises(Unready) as caught:
        check_folders(wish(tmp_path, readonly))

    assert caught.value.details == {"option": option}
    assert caught.value.message.startswith(f"{option}: ")


def test_what_is_missing_is_told(program, tmp_path):
    check_folders(VmSpec("web1"))
    with pytest.raises(ProgramMissing, match="virtiofsd is not installed"):
        check_folders(wish(tmp_path))
    with pytest.raises(FileMissing, match=r"^shared_folders\[0\]\.path: there is no folder"):
        check_folders(wish(tmp_path / "none"))


@pytest.mark.real_host
def test_one_that_serves_a_folder_knows_one_client_and_ends_with_it(program, tmp_path, monkeypatch):
    monkeypatch.setattr(companions, "_ENDS", 5.0)
    program(SERVE.format(python=sys.executable))
    folder = tmp_path / ("long-" * 30)
    folder.mkdir()
    spec = VmSpec("web1", shared_folders=wish("/srv/work").shared_folders)
    vm = minimal_handle("web1", work_dir=str(folder), spec=spec)
    with open(os.devnull, "w") as null:
        with opened_folders(vm, Companions(str(folder), null.fileno())) as connections:
            qemu = socket.socket(fileno=os.dup(connections["work"]))

    said = qemu.recv(1000).decode()
    assert said == "-o source=/srv/work"
    assert os.listdir(folder) == ["share-work.lock"], "the socket has no name any more"
    assert is_held(str(folder / "share-work.lock"))
    qemu.close()
    end_companions(vm)
    assert os.listdir(folder) == []


def test_the_command_says_read_only_where_it_is_asked_for():
    folder = SharedFolder("work", "/srv/work", readonly=True)

    command = ["/x/virtiofsd", "--fd=7", "-o", "source=/srv/work", "--readonly"]
    assert folder_command("/x/virtiofsd", folder, 7) == command


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("share-work.lock", True),
        ("share-A_b-1.sock", True),
        ("nvram.qcow2", True),
        (".nvram.qcow2.part", True),
        ("tpm", True),
        ("tpm.lock", True),
        ("share-.lock", False),
        ("share-work.txt", False),
        ("tpm2", False),
    ],
)
def test_files_beside_the_record_are_known(name, ours):
    assert is_ours(name) == ours


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", ""),
        ("2026-01-01T00:00:00Z qemu-system-x86_64: no memory: really", "no memory: really"),
        ("t qemu-system-x86_64: no disk\nswtpm: Data client disconnected", "no disk"),
        ("t qemu-system-x86_64: bad type\nUse -machine help", "bad type"),
        ("Segmentation fault", "Segmentation fault"),
    ],
)
def test_what_qemu_itself_says_counts(words, reason):
    assert _without_prefix(words) == reason
