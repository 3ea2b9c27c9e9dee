# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's own programs: those that write a seed disk where pycdlib is missing, blkid that reads it, ssh-keygen."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys

import pycdlib
import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    KeygenFailed,
    SeedFailed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest import iso
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.keys import (
    make_key_pair,
)

FILES = {
    "user-data": b"#cloud-config\n" + b"x" * 5000,
    "meta-data": b"instance-id: web1-1\n",
    "network-config": b"version: 2\n",
}
SYSTEM_PATH = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def read_back(path, catalogue):
    """Return the files of the image as the catalogue (rr_path or joliet_path) lists them."""
    disc = pycdlib.PyCdlib()
    disc.open(str(path))
    try:
        top, *below = disc.walk(**{catalogue: "/"})
        assert below == []
        files = {}
        for name in top[2]:
            stream = io.BytesIO()
            disc.get_file_from_iso_fp(stream, **{catalogue: f"/{name}"})
            files[name] = stream.getvalue()
        return files
    finally:
        disc.close()


@pytest.fixture
def host_with(tmp_path_factory, monkeypatch):
    """Give a function that makes a host with just one program, and without pycdlib."""
    folder = tmp_path_factory.mktemp("bin")

    def install(name, script=None):
        if script is None:
            program = shutil.which(name, path=SYSTEM_PATH)
            if program is None:
                pytest.skip(f"{name} is not installed")
            (folder / name).symlink_to(program)
        else:
            (folder / name).write_text(f"#!/bin/sh\nPATH={SYSTEM_PATH}\n{script}\n")
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setitem(sys.modules, "pycdlib", None)

    return install


@pytest.mark.parametrize("tool", iso.PROGRAMS)
def test_program_writes_the_same_files(tmp_path, host_with, monkeypatch, tool):
    host_with(tool)
    path = tmp_path / "seed.iso"

    assert iso.write_iso(str(path), FILES) == tool

    monkeypatch.undo()
    assert read_back(path, "rr_path") == FILES
    assert read_back(path, "joliet_path") == FILES
    assert mode_of(path) == 0o600
    assert os.listdir(tmp_path) == ["seed.iso"]


@pytest.mark.parametrize("tool", [iso.PYCDLIB, *iso.PROGRAMS])
def test_kernel_tools_see_the_label(tmp_path, host_with, monkeypatch, tool):
    blkid = shutil.which("blkid", path=SYSTEM_PATH)
    if blkid is None:
        pytest.skip("blkid is not installed")
    if tool != iso.PYCDLIB:
        host_with(tool)
    path = tmp_path / "seed.iso"
    iso.write_iso(str(path), FILES)

    monkeypatch.undo()
    done = subprocess.run(
        [blkid, "-p", "-o", "export", str(path)], capture_output=True, text=True, check=True
    )

    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(done.stdout.splitlines())


def test_program_sees_private_files_in_a_private_folder(tmp_path, host_with):
    evidence = tmp_path / "evidence"
    vm_folder = tmp_path / "vm"
    vm_folder.mkdir()
    host_with(
        "mkisofs",
        f'for last; do :; done; stat -c "%a %n" "$last/.." "$last" "$last"/* >{evidence}; exit 1',
    )
    old = os.umask(0)
    try:
        with pytest.raises(SeedFailed):
            iso.write_iso(str(vm_folder / "seed.iso"), FILES)
    finally:
        os.umask(old)

    modes = [line.split()[0] for line in evidence.read_text().splitlines()]
    assert modes == ["700", "700", "600", "600", "600"]
    assert os.listdir(vm_folder) == []


def test_program_that_fails_is_quoted(tmp_path, host_with):
    host_with("genisoimage", "echo 'no room on the disc' >&2; exit 5")

    with pytest.raises(SeedFailed, match="no room on the disc") as caught:
        iso.write_iso(str(tmp_path / "seed.iso"), FILES)

    assert caught.value.details["tool"] == "genisoimage"
    assert caught.value.details["status"] == 5
    assert os.listdir(tmp_path) == []


def test_program_that_fails_leaves_the_old_seed(tmp_path, host_with):
    (tmp_path / "seed.iso").write_bytes(b"old")
    host_with("genisoimage", "exit 1")

    with pytest.raises(SeedFailed):
        iso.write_iso(str(tmp_path / "seed.iso"), FILES)

    assert (tmp_path / "seed.iso").read_bytes() == b"old"


@pytest.fixture
def key(tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    return tmp_path / "id_ed25519"


def public_of(key):
    return key.with_name("id_ed25519.pub")


def derived(key):
    command = ["ssh-keygen", "-y", "-f", str(key)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[:2]


def test_key_pair_is_made(key):
    old = os.umask(0)
    try:
        line = make_key_pair(str(key), "vm web1")
    finally:
        os.umask(old)

    assert line.split(maxsplit=2)[::2] == ["ssh-ed25519", "vm web1"]
    assert line.split()[:2] == derived(key)
    assert public_of(key).read_text() == f"{line}\n"
    assert (mode_of(key), mode_of(public_of(key))) == (0o600, 0o644)
    assert sorted(os.listdir(key.parent)) == ["id_ed25519", "id_ed25519.pub"]


def test_comment_cannot_add_a_line(key):
    line = make_key_pair(str(key), "web1\nssh-ed25519 AAAA evil")

    assert line.endswith(" web1 ssh-ed25519 AAAA evil")
    assert len(public_of(key).read_text().splitlines()) == 1


def test_complete_pair_is_kept_without_asking_any_program(key, monkeypatch):
    line = make_key_pair(str(key), "web1")
    private = key.read_bytes()
    key.chmod(0o644)
    monkeypatch.setenv("PATH", "/nonexistent")

    assert make_key_pair(str(key), "another comment") == line
    assert key.read_bytes() == private
    assert mode_of(key) == 0o600


@pytest.mark.parametrize("left", [None, b"", b"ssh-ed25519", b"ssh-rsa AAAA x\n"])
def test_public_half_is_derived_again(key, left):
    line = make_key_pair(str(key), "web1")
    private = key.read_bytes()
    if left is None:
        public_of(key).unlink()
    else:
        public_of(key).write_bytes(left)

    assert make_key_pair(str(key), "web1").split()[:2] == line.split()[:2]
    assert public_of(key).read_text().split()[:2] == line.split()[:2]
    assert key.read_bytes() == private


@pytest.mark.parametrize(
    "damage",
    [
        lambda private: None,
        lambda private: b"",
        lambda private: private[:100],
        lambda private: private.replace(b"\n", b"\nAAAA", 1),
    ],
    ids=["missing", "empty", "cut", "garbled"],
)
@pytest.mark.parametrize("public_is_left", [True, False])
def test_half_made_pair_is_replaced(key, damage, public_is_left, request):
    old = make_key_pair(str(key), "web1")
    private = damage(key.read_bytes())
    key.unlink()
    if private is not None:
        key.write_bytes(private)
    if not public_is_left:
        public_of(key).unlink()
    elif "garbled" in request.node.callspec.id:
        public_of(key).write_bytes(b"")  # a whole public half is taken as proof of a whole pair

    line = make_key_pair(str(key), "web1")

    assert line != old
    assert line.split()[:2] == derived(key)
    assert public_of(key).read_text() == f"{line}\n"


def test_key_that_could_not_be_judged_is_kept(key, host_with):
    make_key_pair(str(key), "web1")
    private = key.read_bytes()
    public_of(key).unlink()
    host_with("ssh-keygen", 'case $1 in -y) kill -9 $$ ;; *) exec ssh-keygen "$@" ;; esac')

    with pytest.raises(KeygenFailed):
        make_key_pair(str(key), "web1")

    assert key.read_bytes() == private


def test_missing_ssh_keygen_is_named(key, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")

    with pytest.raises(KeygenFailed, match="ssh-keygen is not installed") as caught:
        make_key_pair(str(key), "web1")

    assert "ssh_authorized_keys" in caught.value.help
    assert os.listdir(key.parent) == []


def test_ssh_keygen_that_fails_is_quoted(key, host_with):
    host_with("ssh-keygen", "echo 'out of entropy' >&2; exit 255")

    with pytest.raises(KeygenFailed, match="out of entropy") as caught:
        make_key_pair(str(key), "web1")

    assert caught.value.details["path"] == str(key)
    assert os.listdir(key.parent) == []
