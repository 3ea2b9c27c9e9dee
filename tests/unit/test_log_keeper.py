# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small program beside QEMU, run as QEMU's launcher runs it: its source by stdin, its logs through pipes."""

from __future__ import annotations

import contextlib
import inspect
import os
import resource
import subprocess
import sys
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import log_keeper

pytestmark = pytest.mark.real_host
LIMIT = 4096
SOURCE = inspect.getsource(log_keeper).encode()


class Keeper:
    """A running keeper with one pipe for each log."""

    def __init__(self, *paths, limit=LIMIT, **options):
        ends = [os.pipe() for dummy in paths]
        words = [str(word) for (read, _write), path in zip(ends, paths) for word in (read, path)]
        source_read, source_write = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-", str(limit), *words],
            stdin=source_read,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            umask=0o077,
            start_new_session=True,
            pass_fds=[read for read, _write in ends],
            **options,
        )
        os.write(source_write, SOURCE)
        for fd in (source_read, source_write, *(read for read, _write in ends)):
            os.close(fd)
        self.pipes = [write for _read, write in ends]

    def write(self, data, log=0):
        while data:
            data = data[os.write(self.pipes[log], data) :]

    def close(self, log=0):
        os.close(self.pipes[log])
        self.pipes[log] = None

    def end(self):
        """Close what is open; return the status and what it said."""
        for log, fd in enumerate(self.pipes):
            if fd is not None:
                self.close(log)
        stdout, stderr = self.process.communicate(timeout=20)
        return self.process.returncode, stdout + stderr


@pytest.fixture
def start():
    keepers = []

    def make(*paths, **options):
        keepers.append(Keeper(*paths, **options))
        return keepers[-1]

    yield make
    for keeper in keepers:
        if keeper.process.poll() is None:
            keeper.process.kill()
        keeper.end()


def await_text(path, text):
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_bytes().endswith(text)):
        assert time.monotonic() < deadline, f"{text!r} never came to {path}"
        time.sleep(0.01)


def sizes(folder):
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it may be given its other name just now
            if path.is_file():
                found[path.name] = path.stat().st_size
    return found


def test_what_comes_through_is_written_at_once(tmp_path, start):
    log = tmp_path / "console.log"
    keeper = start(log)

    keeper.write(b"boot\n")
    await_text(log, b"boot\n")
    keeper.write(b"\xff\x00login: ")
    await_text(log, b"login: ")

    assert keeper.end() == (0, b"")
    assert log.read_bytes() == b"boot\n\xff\x00login: "
    assert log.stat().st_mode & 0o777 == 0o600


def test_two_logs_are_kept_apart(tmp_path, start):
    first, second = tmp_path / "console.log", tmp_path / "qemu.log"
    keeper = start(first, second)

    for number in range(50):
        keeper.write(b"a%d\n" % number, log=0)
        keeper.write(b"b%d\n" % number, log=1)
    assert keeper.end() == (0, b"")

    assert first.read_bytes() == b"".join(b"a%d\n" % number for number in range(50))
    assert second.read_bytes() == b"".join(b"b%d\n" % number for number in range(50))


def test_it_ends_only_when_every_writer_has_ended(tmp_path, start):
    keeper = start(tmp_path / "a", tmp_path / "b")
    second_writer = os.dup(keeper.pipes[1])

    keeper.close(0)
    keeper.close(1)
    os.write(second_writer, b"still here")
    await_text(tmp_path / "b", b"still here")
    alive = keeper.process.poll() is None
    os.close(second_writer)

    assert alive
    assert keeper.end() == (0, b"")


def test_what_is_there_is_appended_to(tmp_path, start):
    log = tmp_path / "console.log"
    log.write_bytes(b"yesterday\n")
    keeper = start(log)

    keeper.write(b"today\n")
    keeper.end()

    assert log.read_bytes() == b"yesterday\ntoday\n"


def test_a_file_that_is_too_long_already_is_rotated_first(tmp_path, start):
    log = tmp_path / "console.log"
    log.write_bytes(b"x" * (LIMIT + 1))
    keeper = start(log)

    keeper.write(b"today\n")
    keeper.end()

    assert log.read_bytes() == b"today\n"
    assert sizes(tmp_path) == {"console.log": 6, "console.log.1": LIMIT + 1}


def test_a_flood_takes_no_more_than_twice_the_limit(tmp_path, start):
    log = tmp_path / "console.log"
    keeper = start(log)
    data = b"".join(b"%09d\n" % number for number in range(100_000))

    most = 0
    for begin in range(0, len(data), 50_000):
        keeper.write(data[begin : begin + 50_000])
        most = max(most, *sizes(tmp_path).values(), 0)
    assert keeper.end() == (0, b"")

    assert most <= LIMIT
    assert set(sizes(tmp_path)) == {"console.log", "console.log.1"}
    assert max(sizes(tmp_path).values()) <= LIMIT
    tail = (tmp_path / "console.log.1").read_bytes() + log.read_bytes()
    assert data.endswith(tail)
    assert len(tail) > LIMIT


def test_a_file_may_be_as_long_as_the_limit(tmp_path, start):
    keeper = start(tmp_path / "log")

    keeper.write(b"x" * (LIMIT - 5))
    await_text(tmp_path / "log", b"x")
    keeper.write(b"y" * 5)
    keeper.end()

    assert sizes(tmp_path) == {"log": LIMIT}


@pytest.mark.parametrize("limit", [1, 10])
def test_the_smallest_limits_hold(tmp_path, start, limit):
    keeper = start(tmp_path / "log", limit=limit)

    keeper.write(b"0123456789abcdef")
    keeper.end()

    assert max(sizes(tmp_path).values()) <= limit
    assert (tmp_path / "log").read_bytes().endswith(b"f")


def test_a_file_that_is_deleted_comes_back_at_the_limit(tmp_path, start):
    log = tmp_path / "console.log"
    keeper = start(log)
    keeper.write(b"first")
    await_text(log, b"first")
    log.unlink()

    keeper.write(b"x" * LIMIT)
    keeper.write(b"y" * 10)
    await_text(log, b"y" * 10)

    assert keeper.end() == (0, b"")
    assert sum(sizes(tmp_path).values()) <= 2 * LIMIT


def test_trouble_with_one_log_never_reaches_the_other(tmp_path, start):
    deleted, other = tmp_path / "gone" / "console.log", tmp_path / "qemu.log"
    deleted.parent.mkdir()
    keeper = start(deleted, other)
    keeper.write(b"first", log=0)
    await_text(deleted, b"first")
    deleted.unlink()
    deleted.parent.rmdir()

    for _dummy in range(8):
        keeper.write(b"x" * LIMIT, log=0)
        keeper.write(b"y" * (LIMIT // 2 + 1), log=1)
    keeper.write(b"end", log=1)
    assert keeper.end() == (0, b"")

    assert not deleted.parent.exists()
    kept = (tmp_path / "qemu.log.1").read_bytes() + other.read_bytes()
    assert (set(kept[:-3]), kept[-3:]) == ({ord("y")}, b"end")


def test_a_log_comes_back_when_its_folder_does(tmp_path, start):
    log = tmp_path / "gone" / "console.log"
    log.parent.mkdir()
    keeper = start(log)
    keeper.write(b"first")
    await_text(log, b"first")
    log.unlink()
    log.parent.rmdir()
    for _dummy in range(3):
        keeper.write(b"x" * LIMIT)
        time.sleep(0.05)

    log.parent.mkdir()
    keeper.write(b"again")
    await_text(log, b"again")

    assert keeper.end() == (0, b"")


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "no folder"])
def test_a_log_that_cannot_be_opened_is_drained_and_the_other_kept(tmp_path, start, kind):
    target, bad, good = tmp_path / "target", tmp_path / "bad" / "log", tmp_path / "good"
    if kind != "no folder":
        bad.parent.mkdir()
    if kind == "link":
        target.write_bytes(b"precious")
    if "link" in kind:
        bad.symlink_to(target)
    if kind == "folder":
        bad.mkdir()
    keeper = start(bad, good)

    keeper.write(b"x" * 200_000, log=0)  # more than a pipe holds: a writer would hang
    keeper.write(b"fine", log=1)
    await_text(good, b"fine")

    assert keeper.end() == (0, b"")
    assert (target.read_bytes() if target.exists() else None) == (
        b"precious" if kind == "link" else None
    )


def test_an_older_file_that_is_in_the_way_stops_no_writer(tmp_path, start):
    log = tmp_path / "console.log"
    (tmp_path / "console.log.1" / "full").mkdir(parents=True)
    keeper = start(log)

    keeper.write(b"x" * 10 * LIMIT)

    assert keeper.end() == (0, b"")
    assert log.stat().st_size <= LIMIT


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT // 2, LIMIT // 2))


def test_a_disk_that_takes_no_more_stops_no_writer(tmp_path, start):
    log, other = tmp_path / "console.log", tmp_path / "qemu.log"
    keeper = start(log, other, preexec_fn=small_files)

    keeper.write(b"x" * 100 * LIMIT, log=0)
    keeper.write(b"fine", log=1)
    await_text(other, b"fine")

    assert keeper.end() == (0, b"")
    assert log.stat().st_size <= LIMIT // 2


def test_its_source_fits_into_the_pipe_that_it_goes_through():
    assert len(SOURCE) < 16384
    assert b"\nfrom ." not in SOURCE
