# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The line that a module keeps about its progress, and what the controller makes of it."""

from __future__ import annotations

import os
import stat
import threading

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import progress
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.progress import (
    Progress,
    Sample,
    parse,
    reporting,
)
from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._progress import (
    Meter,
    _watch,
    clock,
    may_be_fetched,
    size,
)

MIB = 1 << 20


@pytest.fixture
def clock_hand(monkeypatch):
    """The time as the module sees it; a test moves it on."""
    hand = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: hand[0])
    return hand


@pytest.mark.parametrize(
    "sample",
    [
        Sample("download", 0, None),
        Sample("convert", 5, 10),
        Sample("verify", 10**19, 10**19),
    ],
)
def test_line_is_read_as_it_was_written(sample):
    assert len(sample.line()) == 80
    assert parse(sample.line()) == sample


@pytest.mark.parametrize(
    "line",
    [
        "",
        "download 5 10",  # its end has not been written yet
        "download 5 ten\n",
        "download -5 10\n",
        "down\033[2J 5 10\n",
        "download 5 10\nmore\n",
        "download \u0665 10\n",  # a digit, but not one of ours
    ],
)
def test_other_lines_are_not_believed(line):
    assert parse(line) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image": "debian-12"}, True),
        ({"image": "https://example.org/a.qcow2"}, True),
        ({"image": "/srv/a.qcow2"}, False),
        ({"image": "~/a.qcow2"}, False),
        ({"image": ""}, False),
        ({"image": None}, False),
        ({}, False),
        (None, False),
        ("image=debian-12", False),
    ],
)
def test_progress_is_shown_where_an_image_may_be_fetched(options, expected):
    assert may_be_fetched(options) is expected


def test_file_lives_as_long_as_the_work(tmp_path):
    path = tmp_path / "file"

    with Progress(str(path)) as report:
        report("download", 5, 10)
        assert parse(path.read_text()) == Sample("download", 5, 10)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644

    assert list(tmp_path.iterdir()) == []
    report("download", 6, 10)
    assert list(tmp_path.iterdir()) == []


def test_readable_whatever_the_umask_is(tmp_path):
    before = os.umask(0o077)
    try:
        with Progress(str(tmp_path / "file")):
            assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    finally:
        os.umask(before)


def test_four_lines_a_second_and_each_new_phase(tmp_path, clock_hand):
    path = tmp_path / "file"
    seen = []
    with Progress(str(path)) as report:
        for done in range(100):
            report("download", done, 100)
            seen.append(path.read_text())
            clock_hand[0] += 0.01
        report("convert", 1)
        assert parse(path.read_text()) == Sample("convert", 1, None)

    assert [parse(line).done for line in sorted(set(seen), key=seen.index)] == [0, 25, 50, 75]


def test_the_end_is_written_however_soon_it_comes(tmp_path, clock_hand):
    path = tmp_path / "file"
    with Progress(str(path)) as report:
        for done in (65, 90, 100):
            report("download", done, 100)
            clock_hand[0] += 0.01

        assert parse(path.read_text()) == Sample("download", 100, 100)


class _Shown:
    """A screen that notes what happens to it, and ends the task after the last line was read."""

    def __init__(self):
        self.events = []

    def show(self, text):
        self.events.append(text)

    def clear(self):
        self.events.append("cleared")


def test_the_line_goes_when_the_work_that_it_is_about_has_ended():
    ended, screen = threading.Event(), _Shown()
    lines = [Sample("download", 65, 100).line(), None]

    def read():
        line = lines.pop(0)
        if not lines:
            ended.set()
        return line

    _watch(read, screen, ended, 0.001)

    assert screen.events == ["download 65 % of 100 B", "cleared"]


@pytest.mark.parametrize("kind", ["file", "link", "folder_missing"])
def test_nothing_that_is_there_is_written_or_removed(tmp_path, kind):
    other = tmp_path / "other"
    other.write_text("precious")
    path = tmp_path / "path"
    if kind == "file":
        path.write_text("precious")
    elif kind == "link":
        path.symlink_to(other)
    else:
        path = tmp_path / "missing" / "path"
    before = sorted(tmp_path.rglob("*"))

    with Progress(str(path)) as report:
        report("download", 5, 10)

    assert sorted(tmp_path.rglob("*")) == before
    assert other.read_text() == "precious"
    assert kind != "file" or path.read_text() == "precious"


def test_nothing_is_written_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    with reporting() as report:
        report("download", 5, 10)
        assert list(tmp_path.iterdir()) == []

    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "file"))
    with reporting() as report:
        report("download", 5, 10)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_percent_rate_and_time_left():
    meter = Meter()

    assert meter.text(Sample("download", 40 * MIB, 100 * MIB), 10.0) == "download 40 % of 100 MiB"
    assert (
        meter.text(Sample("download", 50 * MIB, 100 * MIB), 12.0)
        == "download 50 % of 100 MiB, 5 MiB/s, 0:10 left"
    )


def test_rate_is_that_of_the_last_seconds():
    meter = Meter()
    for second in range(20):
        meter.text(Sample("download", second * 8 * MIB, 1024 * MIB), float(second))
    fast = 19 * 8 * MIB
    for second in range(20, 30):
        text = meter.text(Sample("download", fast + (second - 19) * MIB, 1024 * MIB), float(second))

    assert text == "download 15 % of 1.0 GiB, 1 MiB/s, 14:22 left"


def test_new_phase_is_measured_anew():
    meter = Meter()
    meter.text(Sample("download", 0, 100 * MIB), 0.0)
    meter.text(Sample("download", 90 * MIB, 100 * MIB), 1.0)

    assert meter.text(Sample("unpack", 1 * MIB, None), 2.0) == "unpack 1 MiB"
    assert meter.text(Sample("unpack", 3 * MIB, None), 3.0) == "unpack 3 MiB, 2 MiB/s"


def test_work_that_tells_nothing_shows_its_time():
    meter = Meter()

    assert meter.text(Sample("convert", 0, None), 5.0) == "convert, 0:00"
    assert meter.text(Sample("convert", 0, None), 70.0) == "convert, 1:05"


def test_stalled_work_has_no_rate():
    meter = Meter()
    for second in range(10):
        text = meter.text(Sample("download", MIB, 4 * MIB), float(second))

    assert text == "download 25 % of 4 MiB"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1536, "1.5 KiB"),
        (350 * MIB, "350 MiB"),
        (1 << 40, "1024.0 GiB"),
    ],
)
def test_sizes(count, shown):
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-1, "0:00"), (59.6, "1:00"), (61, "1:01"), (7200, "120:00")]
)
def test_clock(seconds, shown):
    assert clock(seconds) == shown
