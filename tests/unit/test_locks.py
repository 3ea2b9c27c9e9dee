# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks that the kernel keeps: they name a living process, and end with it however it ends."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import threading
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    Busy,
    HostError,
    InvalidState,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.locks import (
    exclusive,
    hold_while_alive,
    is_held,
    record_lock_holder,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import identity
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.identity import (
    find_process,
)

# As QEMU does it on its pid file: write the number, and keep a record lock on the file.
LIKE_QEMU = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.lockf(fd, fcntl.LOCK_EX)
os.write(fd, b"%d\\n" % os.getpid())
print("locked", flush=True)
sys.stdin.read()
"""
WAIT = "import sys; print('up', flush=True); sys.stdin.read()"


def start(script, *arguments, **options):
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **options,
    )
    child.stdout.readline()
    return child


def end(child):
    child.kill()
    child.communicate()


def is_zombie(pid):
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0] == "Z"


def await_zombie(pid):
    deadline = time.monotonic() + 20
    while not is_zombie(pid):
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.005)


@pytest.mark.real_host
def test_the_holder_of_a_record_lock_is_named_until_it_ends(tmp_path):
    path = str(tmp_path / "qemu.pid")
    child = start(LIKE_QEMU, path)
    try:
        holder = record_lock_holder(path)
    finally:
        end(child)

    assert holder == child.pid
    assert record_lock_holder(path) is None


@pytest.mark.real_host
def test_asking_for_the_holder_does_not_break_its_lock(tmp_path):
    path = str(tmp_path / "qemu.pid")
    child = start(LIKE_QEMU, path)
    try:
        holders = [record_lock_holder(path) for dummy in range(3)]
    finally:
        end(child)

    assert holders == [child.pid] * 3


@pytest.mark.real_host
def test_a_zombie_holds_no_record_lock(tmp_path):
    path = str(tmp_path / "qemu.pid")
    child = start(LIKE_QEMU, path)
    child.kill()
    try:
        await_zombie(child.pid)
        holder = record_lock_holder(path)
    finally:
        end(child)

    assert holder is None


@pytest.mark.parametrize(
    "text", ["", "1\n", str(os.getpid())], ids=["nothing", "init", "this process"]
)
def test_a_number_in_the_file_proves_nothing(tmp_path, text):
    (tmp_path / "qemu.pid").write_text(text)

    begin = time.monotonic()
    found = find_process(str(tmp_path))

    assert (record_lock_holder(str(tmp_path / "qemu.pid")), found) == (None, None)
    assert time.monotonic() - begin < 8


def test_a_lock_of_another_kind_names_nobody(tmp_path):
    path = tmp_path / "qemu.pid"
    with open(path, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)

        assert record_lock_holder(str(path)) is None


def test_no_file_no_holder(tmp_path):
    assert record_lock_holder(str(tmp_path / "qemu.pid")) is None
    assert not is_held(str(tmp_path / "alive.lock"))
    assert os.listdir(tmp_path) == []


@pytest.mark.real_host
def test_the_process_of_a_machine_is_found_by_its_lock(tmp_path):
    child = start(LIKE_QEMU, str(tmp_path / "qemu.pid"))
    try:
        with find_process(str(tmp_path)) as process:
            found, ended = process.pid, process.wait(0)
    finally:
        end(child)

    assert (found, ended) == (child.pid, False)
    assert find_process(str(tmp_path)) is None


@pytest.mark.real_host
def test_a_process_that_has_not_written_its_pid_file_yet_is_waited_for(tmp_path):
    fd = hold_while_alive(str(tmp_path / "alive.lock"))
    script = f"import time; time.sleep(0.3)\n{LIKE_QEMU}"
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script, str(tmp_path / "qemu.pid")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(fd,),
    )
    os.close(fd)
    try:
        with find_process(str(tmp_path)) as process:
            found = process.pid
    finally:
        end(child)

    assert found == child.pid


@pytest.mark.parametrize("pid_file", ["none", "empty", "of another"])
def test_a_process_that_is_alive_but_cannot_be_named_is_not_taken_for_ended(
    tmp_path, monkeypatch, pid_file
):
    monkeypatch.setattr(identity, "_STARTING", 0.1)
    if pid_file != "none":
        text = "" if pid_file == "empty" else f"{os.getpid()}\n"
        (tmp_path / "qemu.pid").write_text(text)
    fd = hold_while_alive(str(tmp_path / "alive.lock"))
    try:
        with pytest.raises(InvalidState, match=f"works in {tmp_path} is alive") as caught:
            find_process(str(tmp_path))
    finally:
        os.close(fd)

    assert caught.value.code == "vm_manager.vm.invalid_state"
    assert caught.value.details == {"lock": str(tmp_path / "alive.lock")}
    assert f"fuser {tmp_path / 'alive.lock'}" in caught.value.help
    assert find_process(str(tmp_path)) is None


def test_a_lock_that_no_single_process_owns_names_none(tmp_path):
    path = tmp_path / "qemu.pid"
    with open(path, "w") as stream:
        whole_file = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(stream, fcntl.F_OFD_SETLK, whole_file)

        assert record_lock_holder(str(path)) == -1
        assert find_process(str(tmp_path)) is None


@pytest.mark.parametrize("name", ["qemu.pid", "alive.lock"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_plain_file_is_neither_followed_nor_waited_for(tmp_path, name, kind):
    target = tmp_path / "target"
    held = hold_while_alive(str(target))
    if kind == "link":
        (tmp_path / name).symlink_to(target)
    else:
        os.mkfifo(tmp_path / name)
    begin = time.monotonic()
    try:
        found = find_process(str(tmp_path))
    except HostError as exc:
        found = str(exc)
    os.close(held)

    followed = f"Could not look at the lock {tmp_path / name}: Too many levels of symbolic links."
    assert found == (followed if kind == "link" else None)
    assert time.monotonic() - begin < 8


def test_a_lock_of_life_that_is_a_link_is_not_taken(tmp_path):
    (tmp_path / "alive.lock").symlink_to(tmp_path / "target")

    with pytest.raises(OSError, match="symbolic links"):
        hold_while_alive(str(tmp_path / "alive.lock"))
    assert not (tmp_path / "target").exists()


def test_looking_never_keeps_another_from_taking_a_lock_of_life(tmp_path):
    """A look that took the lock, if only for a moment, would make a start fail now and then."""
    path = str(tmp_path / "alive.lock")
    os.close(hold_while_alive(path))
    seen, done = set(), threading.Event()

    def look():
        while not done.is_set():
            seen.add(is_held(path))

    lookers = [threading.Thread(target=look) for dummy in range(2)]
    for looker in lookers:
        looker.start()
    refused = 0
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        fd = hold_while_alive(path)
        if fd is None:
            refused += 1
        else:
            os.close(fd)
    done.set()
    for looker in lookers:
        looker.join()

    assert refused == 0
    assert False in seen


def test_a_lock_of_life_is_held_once_and_ends_with_its_descriptor(tmp_path):
    path = str(tmp_path / "alive.lock")

    fd = hold_while_alive(path)
    held, second = is_held(path), hold_while_alive(path)
    os.close(fd)

    assert (held, second, is_held(path)) == (True, None, False)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_looking_at_a_lock_of_life_does_not_take_it(tmp_path):
    path = str(tmp_path / "alive.lock")
    os.close(hold_while_alive(path))

    looks = [is_held(path) for dummy in range(3)]
    fd = hold_while_alive(path)
    os.close(fd)

    assert looks == [False] * 3


@pytest.mark.real_host
def test_a_child_that_inherits_the_lock_keeps_it_after_us(tmp_path):
    path = str(tmp_path / "alive.lock")
    fd = hold_while_alive(path)
    child = start(WAIT, pass_fds=(fd,))
    os.close(fd)
    try:
        held = is_held(path)
    finally:
        end(child)

    assert (held, is_held(path)) == (True, False)


@pytest.mark.real_host
def test_a_child_that_does_not_inherit_the_lock_does_not_keep_it(tmp_path):
    path = str(tmp_path / "alive.lock")
    fd = hold_while_alive(path)
    child = start(WAIT)
    os.close(fd)
    try:
        assert not is_held(path)
    finally:
        end(child)


@pytest.mark.real_host
def test_a_zombie_keeps_no_lock_of_life(tmp_path):
    path = str(tmp_path / "alive.lock")
    fd = hold_while_alive(path)
    child = start(WAIT, pass_fds=(fd,))
    os.close(fd)
    child.kill()
    try:
        await_zombie(child.pid)
        assert not is_held(path)
    finally:
        end(child)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_is_for_one_at_a_time(tmp_path, kind):
    path = tmp_path / "lock"
    if kind == "folder":
        path.mkdir()

    with exclusive(str(path), 0, "the thing"):
        with pytest.raises(Busy, match="Another task works on the thing"):
            with exclusive(str(path), 0, "the thing"):
                pytest.fail("two hold the lock")
    with exclusive(str(path), 0, "the thing"):
        pass


def test_a_wait_ends_soon_after_the_lock_is_free(tmp_path):
    path = str(tmp_path / "lock")
    child_fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(child_fd, fcntl.LOCK_EX)
    with pytest.raises(Busy), exclusive(path, 0.05, "it"):
        pytest.fail("locked")
    os.close(child_fd)

    begin = time.monotonic()
    with exclusive(path, 5, "it"):
        waited = time.monotonic() - begin

    assert waited < 3


def test_a_lock_file_that_was_replaced_is_opened_anew(tmp_path):
    path = tmp_path / "lock"
    old = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(old, fcntl.LOCK_EX)
    path.unlink()

    with exclusive(str(path), 1, "it"):
        assert path.exists()

    os.close(old)


@pytest.mark.parametrize("comes_back", [False, True], ids=["gone", "made anew"])
def test_a_lock_file_that_vanishes_between_open_and_lock_is_not_relied_on(
    tmp_path, monkeypatch, comes_back
):
    path, real = tmp_path / "lock", fcntl.flock
    inodes = []

    def flock(fd, flags):
        if not inodes:
            path.unlink()
            if comes_back:
                path.touch()
        inodes.append(os.fstat(fd).st_ino)
        return real(fd, flags)

    monkeypatch.setattr(fcntl, "flock", flock)
    keep_inode = os.open(path, os.O_RDWR | os.O_CREAT)  # so that its number is not given away

    with exclusive(str(path), 5, "it"):
        assert path.stat().st_ino == inodes[-1] != inodes[0]

    os.close(keep_inode)


@pytest.mark.parametrize("count", [50])
def test_no_descriptor_is_left_open(tmp_path, count):
    path = str(tmp_path / "lock")
    before = len(os.listdir("/proc/self/fd"))

    for _dummy in range(count):
        with exclusive(path, 0, "it"), pytest.raises(Busy), exclusive(path, 0, "it"):
            pytest.fail("locked")
        record_lock_holder(path)
        is_held(path)

    assert len(os.listdir("/proc/self/fd")) == before
