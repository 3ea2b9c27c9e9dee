# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs within limits: each limit ends a program that wants more, and says so; one that does not is left alone."""

from __future__ import annotations

import sys
import time
import tracemalloc

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    CommandFailed,
    ProgramMissing,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.commands import (
    Limits,
    reading_from,
    run,
)

pytestmark = pytest.mark.real_host
MIB = 1024**2
NO_LIMITS = Limits()


def python(script):
    return [sys.executable, "-I", "-S", "-c", script]


def read_all(argv, limits, **options):
    with reading_from(argv, limits, **options) as chunks:
        return b"".join(chunks)


def by_run(argv, limits):
    return run(argv, limits=limits).stdout.encode()


WAYS = pytest.mark.parametrize("way", [by_run, read_all], ids=["run", "reading_from"])


@WAYS
@pytest.mark.parametrize(
    ("script", "limits", "words"),
    [
        ("while True: pass", Limits(cpu_seconds=1), "was ended after 1 s of processor time"),
        ("bytearray(1 << 30)", Limits(address_space=256 * MIB), "MemoryError"),
        (
            "import os; bytearray(99) and os.abort()",
            Limits(address_space=256 * MIB),
            r"gave up \(signal 6\), having at most 256MiB of memory",
        ),
        (
            "import os, signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
            "import tempfile\n"
            "with tempfile.TemporaryFile() as f: f.write(bytes(2 << 20))",
            Limits(file_size=MIB),
            "was ended when it wrote more than 1MiB to a file",
        ),
        (
            "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(bytes(2 << 20))",
            Limits(file_size=MIB),
            "File too large",
        ),
    ],
    ids=["processor", "memory", "memory, by signal", "file, by signal", "file"],
)
def test_a_limit_bites(way, script, limits, words):
    with pytest.raises(CommandFailed, match=words) as caught:
        way(python(script), limits)

    assert "/bin/sh" not in caught.value.details["command"]


@pytest.mark.parametrize("limits", [Limits(wall_seconds=0.3)])
def test_time_is_limited(limits):
    begin = time.monotonic()

    with pytest.raises(CommandFailed, match=r"did not end within 0\.3 s"):
        run(python("import time; time.sleep(60)"), limits=limits)

    assert time.monotonic() - begin < 20


def test_time_is_limited_however_much_is_printed():
    script = "while True: print('x' * 9999)"

    with pytest.raises(CommandFailed, match=r"did not end within 0\.3 s"):
        read_all(python(script), Limits(wall_seconds=0.3))


def test_a_program_that_says_nothing_is_ended():
    begin = time.monotonic()

    with pytest.raises(CommandFailed, match=r"did nothing for 0\.3 s"):
        read_all(python("import time; time.sleep(60)"), NO_LIMITS, patience=0.3)

    assert time.monotonic() - begin < 20


@WAYS
def test_limits_that_are_not_reached_change_nothing(way):
    script = (
        "import resource as r, sys\n"
        "print(*(r.getrlimit(x) for x in (r.RLIMIT_CPU, r.RLIMIT_AS, r.RLIMIT_FSIZE, r.RLIMIT_CORE)))"
    )
    limits = Limits(5, 512 * MIB, 3 * MIB + 1, 60.0)

    shown = way(python(script), limits).decode()

    assert shown == f"(5, 6) ({512 * MIB}, {512 * MIB}) ({3 * MIB + 512}, {3 * MIB + 512}) (0, 0)\n"


@WAYS
def test_arguments_are_no_shells_business(way):
    words = ["$HOME", "a b", "*", "; false", "~", "'", '"$@"', ""]

    shown = way([*python("import sys; print(sys.argv[1:])"), *words], Limits(cpu_seconds=9))

    assert shown.decode() == f"{words}\n"


@WAYS
def test_a_status_comes_through(way):
    with pytest.raises(CommandFailed, match="failed with status 3: last words") as caught:
        way(python("import sys; print('last words', file=sys.stderr); sys.exit(3)"), Limits(9))

    assert (caught.value.details["status"], caught.value.details["output"]) == (3, "last words")


@WAYS
def test_a_program_that_is_missing_is_named(way):
    with pytest.raises(ProgramMissing, match="no-such-program"):
        way(["no-such-program"], Limits(cpu_seconds=1))


def test_much_output_takes_little_memory():
    script = "import sys\nfor x in range(64): sys.stdout.write('x' * (1 << 20))"
    tracemalloc.start()
    try:
        with reading_from(python(script), NO_LIMITS) as chunks:
            length = sum(len(chunk) for chunk in chunks)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert length == 64 * MIB
    assert peak < 4 * MIB


def test_a_reader_that_has_enough_ends_the_program():
    begin = time.monotonic()

    with reading_from(python("while True: print('x' * 9999)"), NO_LIMITS) as chunks:
        assert next(chunks)[:1] == b"x"

    assert time.monotonic() - begin < 20


def test_a_program_reads_what_it_is_given(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"what it is given")

    with open(path, "rb") as stream:
        stream.seek(5)
        shown = read_all(["cat"], Limits(cpu_seconds=9), stdin=stream)

    assert shown == b"it is given"
