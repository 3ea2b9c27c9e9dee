# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which accelerator is chosen, and each step of the check behind it."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import resource
import signal
import struct
import tempfile
import time
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BackendNotAvailable,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import kvm
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.accelerator import (
    Accelerator,
    choose_accelerator,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.kvm import (
    KvmUnusable,
    KvmVerdict,
    check_kvm,
    run_in_child,
)

USABLE = KvmVerdict(True, "KVM ran a probe guest in 1.2 ms.", 1.2)
MISSING = KvmVerdict(False, "/dev/kvm: no such file or directory.")
SLOW = KvmVerdict(False, "/dev/kvm: instructions are emulated.", 533.0)


def never():
    raise AssertionError("the check was made")


# The choice


@pytest.mark.parametrize(
    ("wish", "verdict", "expected"),
    [
        ("auto", USABLE, Accelerator("kvm", USABLE.reason, "host")),
        ("kvm", USABLE, Accelerator("kvm", USABLE.reason, "host")),
        (
            "auto",
            MISSING,
            Accelerator(
                "tcg",
                "KVM is not usable: /dev/kvm: no such file or directory; guests are emulated, which is slower.",
                "max",
            ),
        ),
        (
            "auto",
            SLOW,
            Accelerator(
                "tcg",
                "KVM is not usable: /dev/kvm: instructions are emulated; guests are emulated, which is slower.",
                "max",
            ),
        ),
    ],
    ids=["auto takes kvm", "kvm as asked", "auto without device", "auto with a slow device"],
)
def test_choice_follows_wish_and_verdict(wish, verdict, expected):
    assert choose_accelerator(wish, lambda: verdict) == expected


def test_wish_for_tcg_needs_no_check():
    chosen = choose_accelerator("tcg", never)

    assert (chosen.name, chosen.cpu) == ("tcg", "max")
    assert "accelerator: tcg" in chosen.reason


@pytest.mark.parametrize(
    ("verdict", "details"),
    [
        (MISSING, {"option": "accelerator"}),
        (SLOW, {"option": "accelerator", "probe_ms": 533.0}),
    ],
)
def test_wish_for_unusable_kvm_fails_with_reason_and_help(verdict, details):
    with pytest.raises(BackendNotAvailable) as caught:
        choose_accelerator("kvm", lambda: verdict)

    assert caught.value.message == f"accelerator: KVM is not usable: {verdict.reason}"
    assert caught.value.help.startswith("Set accelerator: auto or tcg to emulate")
    assert caught.value.details == details


# The device


@pytest.fixture
def public_folder():
    """A folder that an unprivileged user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def drop_privileges():
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


def foreign_group(path):
    """Give the file to a group that the unprivileged user is not in, and return the group's name."""
    gid = next(g.gr_gid for g in grp.getgrall() if g.gr_gid not in (0, 65534))
    gid = gid if os.geteuid() == 0 else os.getegid()
    os.chown(path, -1, gid)
    return grp.getgrgid(gid).gr_name


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda path: None,
            "no such file or directory (enable virtualization in the firmware and load kvm_intel or kvm_amd)",
        ),
        (Path.mkdir, "is a directory"),
        (Path.touch, "KVM_GET_API_VERSION failed: inappropriate ioctl for device"),
    ],
    ids=["missing", "folder", "plain file"],
)
def test_what_is_no_kvm_device_is_refused_in_words(tmp_path, make, reason):
    path = tmp_path / "kvm"
    make(path)

    assert check_kvm(str(path)) == KvmVerdict(False, f"{path}: {reason}.")


@pytest.mark.real_host
def test_forbidden_device_names_the_group_that_may_use_it(public_folder):
    path = public_folder / "kvm"
    path.touch()
    group = foreign_group(path)
    path.chmod(0o060)

    with pytest.raises(KvmUnusable) as caught:
        run_in_child(lambda: drop_privileges() or kvm.open_device(str(path)))

    assert str(caught.value) == f"permission denied (add this user to the group {group})"


@pytest.mark.real_host
def test_forbidden_device_without_group_rights_names_no_group(public_folder):
    path = public_folder / "kvm"
    path.touch()
    path.chmod(0)

    with pytest.raises(KvmUnusable) as caught:
        run_in_child(lambda: drop_privileges() or kvm.open_device(str(path)))

    assert str(caught.value) == "permission denied (let this user read and write it)"


# The static sign


def cpuid_table(*entries):
    """Build a struct kvm_cpuid2 with room to spare; an entry is (function, ecx)."""
    packed = [
        struct.pack("=10I", function, 0, 0, 0, 0, ecx, 0, 0, 0, 0) for function, ecx in entries
    ]
    return struct.pack("=II", len(packed), 0) + b"".join(packed) + bytes(40 * 3)


ALL = 0x980201  # the bits of the five features in ECX
CPUINFO = "processor\t: 0\nflags\t\t: fpu sse2 pni ssse3 sse4_1 sse4_2 popcnt\nbugs\t\t:\n"


@pytest.mark.parametrize(
    ("cpuinfo", "table", "lost"),
    [
        (CPUINFO, cpuid_table((0, 7), (1, ALL)), []),
        (
            CPUINFO,
            cpuid_table((0, ALL), (1, 0)),
            ["pni", "ssse3", "sse4_1", "sse4_2", "popcnt"],
        ),
        (CPUINFO, cpuid_table((1, ALL & ~(1 << 9))), ["ssse3"]),
        ("flags\t\t: fpu pni\n", cpuid_table((1, 0)), ["pni"]),
        ("flags\t\t: fpu sse2\n", cpuid_table((1, 0)), []),
        ("vmx flags\t: pni\nflags :\n", cpuid_table((1, 0)), []),
        ("", cpuid_table((1, 0)), []),
        (CPUINFO, cpuid_table((0, 0)), []),
        (CPUINFO, cpuid_table(), []),
    ],
    ids=[
        "all passed on",
        "all lost",
        "one lost",
        "only what the host has counts",
        "the host has none of them",
        "another line with flags in its name",
        "no cpuinfo",
        "no leaf 1",
        "empty table with room behind it",
    ],
)
def test_lost_features(cpuinfo, table, lost):
    assert kvm.lost_features(cpuinfo, table) == lost


@pytest.mark.parametrize("bit", [0, 9, 19, 20, 23])
def test_each_feature_has_its_own_bit(bit):
    assert len(kvm.lost_features(CPUINFO, cpuid_table((1, ALL & ~(1 << bit))))) == 1


def test_lost_features_are_named_in_the_reason():
    kvm.check_features(CPUINFO, cpuid_table((1, ALL)))

    with pytest.raises(KvmUnusable) as caught:
        kvm.check_features(CPUINFO, cpuid_table((1, ALL & ~0x201)))

    assert str(caught.value) == (
        "instructions are emulated, not run by the processor (lost CPU features: pni, ssse3)"
    )


def test_other_api_version_is_refused():
    kvm.check_api_version(12)

    with pytest.raises(KvmUnusable, match="it speaks API version 11 instead of 12"):
        kvm.check_api_version(11)


# The probe


@pytest.mark.parametrize(
    ("probe_ms", "usable", "words"),
    [
        (0.4, True, "KVM ran a probe guest in 0.4 ms."),
        (100.0, True, "KVM ran a probe guest in 100.0 ms."),
        (100.1, False, "(a probe guest took 100 ms instead of about 1)"),
        (533.3, False, "(a probe guest took 533 ms instead of about 1)"),
    ],
)
def test_time_of_the_probe_guest_decides(probe_ms, usable, words):
    verdict = kvm.judge_probe("/dev/kvm", probe_ms)

    assert (verdict.usable, verdict.probe_ms) == (usable, probe_ms)
    assert words in verdict.reason


def test_guest_memory_holds_program_and_page_tables():
    memory = kvm.guest_memory(0x01020304)

    assert len(memory) % 4096 == 0
    assert memory[0x1000:0x100D] == bytes.fromhex("b904030201 ffc9 75fc e6f4 f4 00")
    assert struct.unpack_from("<Q", memory, 0x2000) == (0x3003,)
    assert struct.unpack_from("<Q", memory, 0x3000) == (0x4003,)
    assert struct.unpack_from("<Q", memory, 0x4000) == (0x83,)


# The child


@pytest.fixture
def nothing_left():
    """Fail if a file descriptor or a child is left behind."""
    before, others = set(os.listdir("/proc/self/fd")), own_children()
    yield
    assert set(os.listdir("/proc/self/fd")) == before
    assert own_children() <= others


def own_children():
    """Return the processes that this one has started and not waited for; other tests may have left some."""
    found = Path("/proc/self/task").glob("*/children")
    return {pid for path in found for pid in path.read_text().split()}


def fail(error):
    raise error


def write_ahead(text):
    """Write to the pipe that this process holds both ends of, ahead of any answer."""
    held = {}
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the one that listed them is closed again
            mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
            held.setdefault(os.readlink(f"/proc/self/fd/{fd}"), {})[mode] = fd
    (ends,) = [e for name, e in held.items() if name.startswith("pipe:") and len(e) == 2]
    os.write(ends[os.O_WRONLY], text)
    os._exit(0)


@pytest.mark.real_host
def test_answer_of_the_child_comes_back(nothing_left):
    assert run_in_child(lambda: 1.25) == 1.25


@pytest.mark.real_host
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda: fail(KvmUnusable("KVM_RUN failed: no")), "KVM_RUN failed: no"),
        (
            lambda: fail(OSError(12, "x")),
            "the probe guest could not be set up: cannot allocate memory",
        ),
        (lambda: fail(ZeroDivisionError()), "the probe ended by itself without a result"),
        (lambda: os._exit(0), "the probe ended by itself without a result"),
        (lambda: os.kill(os.getpid(), 9), "the probe ended by signal 9 without a result"),
        (lambda: os.kill(os.getpid(), 15), "the probe ended by signal 15 without a result"),
        (lambda: float("nan"), "the probe's result makes no sense"),
        (lambda: float("inf"), "the probe's result makes no sense"),
        (lambda: -1.0, "the probe's result makes no sense"),
        (lambda: "soon", "the probe's result makes no sense"),
        (lambda: write_ahead(b"\xff\xfe\0 12"), "the probe's result makes no sense"),
    ],
    ids=[
        "says why",
        "has no memory",
        "breaks",
        "leaves",
        "is killed",
        "is ended",
        "takes nan",
        "takes forever",
        "takes less than nothing",
        "answers no number",
        "writes garbage",
    ],
)
def test_child_that_fails_is_reported(nothing_left, capfd, body, reason):
    with pytest.raises(KvmUnusable) as caught:
        run_in_child(body)

    assert str(caught.value) == reason
    assert capfd.readouterr() == ("", "")


@pytest.mark.real_host
def test_child_that_hangs_is_killed_in_time(nothing_left):
    start = time.monotonic()

    with pytest.raises(KvmUnusable, match=r"did not end within 0\.05 s"):
        run_in_child(signal.pause, timeout_s=0.05)

    # The child's own alarm, one second later, would leave other words.
    assert 0.05 <= time.monotonic() - start < 10


@pytest.mark.real_host
def test_interrupted_check_takes_the_child_along(nothing_left):
    class Interrupted(Exception):
        pass

    def interrupt(number, frame):
        raise Interrupted

    previous = signal.signal(signal.SIGUSR1, interrupt)
    parent = os.getpid()

    def interrupt_and_hang():
        time.sleep(
            0.1
        )  # until the parent waits: right after a fork Python swallows what handlers raise
        os.kill(parent, signal.SIGUSR1)
        time.sleep(30)

    try:
        with pytest.raises(Interrupted):
            run_in_child(interrupt_and_hang, timeout_s=10)
    finally:
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.real_host
def test_child_ends_by_itself_should_the_parent_be_gone():
    previous = signal.signal(signal.SIGALRM, lambda number, frame: None)
    try:
        remaining_s = run_in_child(lambda: signal.getitimer(signal.ITIMER_REAL)[0], timeout_s=2)
        with pytest.raises(KvmUnusable, match=f"by signal {int(signal.SIGALRM)} without"):
            run_in_child(lambda: os.kill(os.getpid(), signal.SIGALRM))
    finally:
        signal.signal(signal.SIGALRM, previous)

    assert 2 < remaining_s <= 3
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.real_host
def test_check_that_gets_no_file_descriptor_is_a_verdict(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        verdict = check_kvm(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert verdict == KvmVerdict(False, f"{tmp_path}: too many open files.")
