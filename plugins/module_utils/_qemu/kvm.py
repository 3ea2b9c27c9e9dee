# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Does KVM really run guests on this host?

A device that opens, and even one that creates a virtual CPU, is no proof: some hosts emulate every instruction behind
it, and ordinary guests never boot there. So, cheapest first: open the device, ask for its API version, look for CPU
features that got lost on the way, and at last run a small guest and look at the processor time that it takes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

API_VERSION = 12
# Hardware needs 1 or 2 ms for these turns, an emulator several hundred.
PROBE_TURNS = 1_000_000
PROBE_LIMIT_MS = 100.0
PROBE_TIMEOUT_S = 2.0

# Leaf 1, register ECX. KVM passes these on from every processor that has them.
FEATURE_BITS = {"pni": 0, "ssse3": 9, "sse4_1": 19, "sse4_2": 20, "popcnt": 23}

# linux/kvm.h, as x86-64 counts the sizes of the structures.
_GET_API_VERSION = 0xAE00
_CREATE_VM = 0xAE01
_GET_VCPU_MMAP_SIZE = 0xAE04
_GET_SUPPORTED_CPUID = 0xC008AE05
_CREATE_VCPU = 0xAE41
_SET_USER_MEMORY_REGION = 0x4020AE46
_SET_TSS_ADDR = 0xAE47
_RUN = 0xAE80
_SET_REGS = 0x4090AE82
_GET_SREGS = 0x8138AE83
_SET_SREGS = 0x4138AE84
_EXIT_IO = 2
_CPUID_ENTRIES = 256
_CPUID_HEADER = struct.Struct("=II")  # number of entries, padding
_CPUID_ENTRY = struct.Struct("=10I")  # function, index, flags, eax, ebx, ecx, edx, padding

# The guest's memory: one page of code, and page tables that map the lowest 2 MiB onto themselves.
_PAGE = 0x1000
_CODE, _PML4, _PDPT, _PAGE_DIRECTORY, _MEMORY_SIZE = 0x1000, 0x2000, 0x3000, 0x4000, 0x8000
_UNUSED_ADDRESS = (
    0x40000000  # far above the memory, and small enough for fcntl.ioctl's signed argument
)


@dataclass(frozen=True)
class KvmVerdict:
    """Whether guests run on KVM here, with one sentence that tells a user why or why not."""

    usable: bool
    reason: str
    probe_ms: float | None = None  # processor time of the probe guest, if it ended


class KvmUnusable(Exception):
    """A step of the check failed; the text says what it found, without naming the device."""


def check_kvm(device: str = "/dev/kvm") -> KvmVerdict:
    """Tell whether KVM is fit for ordinary guests; takes a few milliseconds, and never more than about 2 s.

    Never raises, and leaves neither a process nor a file descriptor behind. On other architectures than x86-64 it only
    opens the device and asks for the API version.
    """
    try:
        static_checks(device)
        if os.uname().machine != "x86_64":
            return KvmVerdict(True, f"{device} opens and speaks API version {API_VERSION}.")
        return judge_probe(device, run_in_child(partial(run_probe_guest, device)))
    except KvmUnusable as why:
        return KvmVerdict(False, f"{device}: {why}.")
    except OSError as error:  # no process or file descriptor to be had
        return KvmVerdict(False, f"{device}: the check could not be made ({_words_of(error)}).")


def static_checks(device: str) -> None:
    """Make the checks that need no guest; raise ``KvmUnusable`` at the first that fails."""
    with ExitStack() as stack:
        kvm = open_device(device)
        stack.callback(os.close, kvm)
        check_api_version(_ioctl(kvm, "GET_API_VERSION", _GET_API_VERSION))
        if os.uname().machine == "x86_64":
            check_features(_read_cpuinfo(), _read_supported_cpuid(kvm))


def open_device(device: str) -> int:
    """Return a file descriptor of the device; raise ``KvmUnusable`` with a hint if it does not open."""
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        hint = _opening_hint(device, error.errno)
        raise KvmUnusable(f"{_words_of(error)}{hint}") from error


def check_api_version(version: int) -> None:
    """Raise ``KvmUnusable`` unless it is the only version that was ever stable."""
    if version != API_VERSION:
        raise KvmUnusable(f"it speaks API version {version} instead of {API_VERSION}")


def check_features(cpuinfo: str, table: bytes) -> None:
    """Raise ``KvmUnusable`` if CPU features got lost: then it is not the host's processor that runs the guest."""
    lost = lost_features(cpuinfo, table)
    if lost:
        raise KvmUnusable(
            "instructions are emulated, not run by the processor"
            f" (lost CPU features: {', '.join(lost)})"
        )


def lost_features(cpuinfo: str, table: bytes) -> list[str]:
    """Name the features that /proc/cpuinfo lists and KVM's table of supported CPUID entries lacks.

    ``table`` is a ``struct kvm_cpuid2``. Without a list of flags, or without leaf 1, nothing can be told.
    """
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    flags = next((value.split() for key, dummy, value in lines if key.strip() == "flags"), [])
    used = _CPUID_HEADER.unpack_from(table)[0] * _CPUID_ENTRY.size
    entries = _CPUID_ENTRY.iter_unpack(table[_CPUID_HEADER.size : _CPUID_HEADER.size + used])
    ecx = next((entry[5] for entry in entries if entry[0] == 1), None)
    if ecx is None:
        return []
    return [name for name, bit in FEATURE_BITS.items() if name in flags and not ecx >> bit & 1]


def judge_probe(device: str, probe_ms: float) -> KvmVerdict:
    """Give the verdict on a probe guest that took ``probe_ms`` milliseconds of processor time."""
    if probe_ms > PROBE_LIMIT_MS:
        why = f"a probe guest took {probe_ms:.0f} ms instead of about 1"
        return KvmVerdict(
            False,
            f"{device}: instructions are emulated, not run by the processor ({why}).",
            probe_ms,
        )
    return KvmVerdict(True, f"KVM ran a probe guest in {probe_ms:.1f} ms.", probe_ms)


def run_in_child(body: Callable[[], float], timeout_s: float = PROBE_TIMEOUT_S) -> float:
    """Return what ``body`` returns (milliseconds), run in a child process that is gone afterwards.

    Raise ``KvmUnusable`` if it raises that, ends otherwise or has not answered after ``timeout_s`` seconds.
    """
    reader, writer = os.pipe()
    try:
        try:
            pid = os.fork()
            if pid == 0:
                _live_as_child(body, writer, timeout_s)
        finally:
            os.close(writer)
        try:
            answer = _read_within(reader, timeout_s)
        finally:
            status = _end_child(pid)
    finally:
        os.close(reader)
    if answer is None:
        raise KvmUnusable(f"the probe guest did not end within {timeout_s:g} s")
    return _parse_answer(answer, status)


def run_probe_guest(device: str, turns: int = PROBE_TURNS) -> float:
    """Run a 64-bit guest that counts ``turns`` down, then leaves; return its processor time in milliseconds.

    Meant for a child process: where KVM is broken it may never return. Raises ``KvmUnusable``.
    """
    import mmap
    from array import array

    memory = array("B", bytes(_MEMORY_SIZE + _PAGE))
    padding = -memory.buffer_info()[0] % _PAGE  # KVM wants whole pages
    image = guest_memory(turns)
    memory[padding : padding + len(image)] = array("B", image)
    region = struct.pack("=IIQQQ", 0, 0, 0, len(image), memory.buffer_info()[0] + padding)

    with ExitStack() as stack:
        kvm = open_device(device)
        stack.callback(os.close, kvm)
        vm = _ioctl(kvm, "CREATE_VM", _CREATE_VM)
        stack.callback(os.close, vm)
        _ioctl(vm, "SET_TSS_ADDR", _SET_TSS_ADDR, _UNUSED_ADDRESS)  # older Intel needs it
        _ioctl(vm, "SET_USER_MEMORY_REGION", _SET_USER_MEMORY_REGION, bytearray(region))
        vcpu = _ioctl(vm, "CREATE_VCPU", _CREATE_VCPU)
        stack.callback(os.close, vcpu)
        _set_registers(vcpu)
        size = _ioctl(kvm, "GET_VCPU_MMAP_SIZE", _GET_VCPU_MMAP_SIZE)
        run = stack.enter_context(mmap.mmap(vcpu, size, flags=mmap.MAP_SHARED))
        # Processor time, so that a busy host does not look like a slow guest.
        start = time.process_time()
        _run(vcpu)
        spent_ms = (time.process_time() - start) * 1000
        exit_reason = struct.unpack_from("=I", run, 8)[0]
    if exit_reason != _EXIT_IO:
        raise KvmUnusable(f"the probe guest stopped for KVM exit reason {exit_reason}")
    return spent_ms


def guest_memory(turns: int) -> bytes:
    """Return the probe guest's memory: its program and its page tables."""
    program = (
        b"\xb9" + struct.pack("<I", turns)  # mov ecx, turns
        + b"\xff\xc9"  # turn: dec ecx
        + b"\x75\xfc"  # jnz turn
        + b"\xe6\xf4"  # out 0xf4, al
        + b"\xf4"  # hlt
    )  # fmt: skip
    present_writable, large_page = 0x3, 0x80
    memory = bytearray(_MEMORY_SIZE)
    memory[_CODE : _CODE + len(program)] = program
    struct.pack_into("<Q", memory, _PML4, _PDPT | present_writable)
    struct.pack_into("<Q", memory, _PDPT, _PAGE_DIRECTORY | present_writable)
    struct.pack_into("<Q", memory, _PAGE_DIRECTORY, large_page | present_writable)
    return bytes(memory)


def _set_registers(vcpu: int) -> None:
    """Put the virtual CPU into 64-bit mode, at the first instruction of the program."""
    # struct kvm_sregs: eight segments of 24 bytes, two tables of 16, then the control registers.
    sregs = bytearray(312)
    _ioctl(vcpu, "GET_SREGS", _GET_SREGS, sregs)
    sregs[0:24] = _segment(selector=8, kind=11, is_code=True)
    for position in range(24, 144, 24):  # ds, es, fs, gs, ss
        sregs[position : position + 24] = _segment(selector=16, kind=3, is_code=False)
    cr0, cr4, efer = 0x80050033, 0x20, 0x500  # paging and protection; PAE; long mode
    struct.pack_into("=6Q", sregs, 224, cr0, 0, _PML4, cr4, 0, efer)
    _ioctl(vcpu, "SET_SREGS", _SET_SREGS, sregs)
    rip, rflags = _CODE, 0x2
    regs = bytearray(struct.pack("=18Q", *[0] * 16, rip, rflags))
    _ioctl(vcpu, "SET_REGS", _SET_REGS, regs)


def _segment(selector: int, kind: int, is_code: bool) -> bytes:
    """Return a flat ``struct kvm_segment``: 64-bit code, or data."""
    present, ring, big, system, granular = 1, 0, not is_code, 1, 1
    flags = (kind, present, ring, big, system, is_code, granular, 0, 0, 0)
    return struct.pack("=QIH10B", 0, 0xFFFFFFFF, selector, *flags)


def _run(vcpu: int) -> None:
    """Let the guest run until it leaves; a signal that the process survives does not end it."""
    while True:
        try:
            fcntl.ioctl(vcpu, _RUN, 0)
            return
        except InterruptedError:
            continue
        except OSError as error:
            raise KvmUnusable(f"KVM_RUN failed: {_words_of(error)}") from error


def _live_as_child(body: Callable[[], float], writer: int, timeout_s: float) -> None:
    """Run ``body``, write the answer and end, whatever happens."""
    try:
        # Ends this process, even inside the guest, should the parent be killed before it can do so.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 1)
        try:
            answer = f"took {body()}"
        except KvmUnusable as why:
            answer = f"failed {why}"
        except OSError as error:
            answer = f"failed the probe guest could not be set up: {_words_of(error)}"
        os.write(writer, answer[:1000].encode())
    finally:
        os._exit(1)


def _read_within(reader: int, timeout_s: float) -> bytes | None:
    """Return what the child wrote (nothing if it ended without a word), or ``None`` if time is up."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    return os.read(reader, 4096) if poll.poll(timeout_s * 1000) else None


def _end_child(pid: int) -> int:
    """Kill and reap the child; return its wait status. Until it is reaped nobody else can have its number."""
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _parse_answer(answer: bytes, status: int) -> float:
    """Return the milliseconds that the child reported; raise ``KvmUnusable`` for anything else."""
    if not answer:
        how = f"by signal {status & 0x7F}" if os.WIFSIGNALED(status) else "by itself"
        raise KvmUnusable(f"the probe ended {how} without a result")
    verb, *rest = answer.decode(errors="replace").split(" ", 1)
    if verb == "failed":
        raise KvmUnusable("".join(rest))
    try:
        taken_ms = float("".join(rest)) if verb == "took" else -1.0
    except ValueError:
        taken_ms = -1.0
    if not 0 <= taken_ms < float("inf"):  # nan is refused, too
        raise KvmUnusable("the probe's result makes no sense")
    return taken_ms


def _ioctl(fd: int, name: str, request: int, argument: int | bytearray = 0) -> int:
    """Return the result of a KVM ioctl; raise ``KvmUnusable`` naming it if it fails."""
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError as error:
        raise KvmUnusable(f"KVM_{name} failed: {_words_of(error)}") from error


def _read_supported_cpuid(kvm: int) -> bytes:
    table = bytearray(_CPUID_HEADER.size + _CPUID_ENTRIES * _CPUID_ENTRY.size)
    _CPUID_HEADER.pack_into(table, 0, _CPUID_ENTRIES, 0)
    _ioctl(kvm, "GET_SUPPORTED_CPUID", _GET_SUPPORTED_CPUID, table)
    return bytes(table)


def _read_cpuinfo() -> str:
    """Return the text of /proc/cpuinfo; empty where there is none: the probe guest has the last word."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _words_of(error: OSError) -> str:
    words = os.strerror(error.errno) if error.errno else str(error)
    return words[:1].lower() + words[1:]


def _opening_hint(device: str, number: int | None) -> str:
    """Return what the user may do when the device does not open; empty where nothing is known."""
    if number in (errno.EACCES, errno.EPERM):
        return f" ({_permission_hint(device)})"
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return " (enable virtualization in the firmware and load kvm_intel or kvm_amd)"
    return ""


def _permission_hint(device: str) -> str:
    import grp
    import stat

    try:
        status = os.stat(device)
        name = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        return "let this user read and write it"
    needed = stat.S_IRGRP | stat.S_IWGRP
    if status.st_mode & needed == needed and status.st_gid != 0:
        return f"add this user to the group {name}"
    return "let this user read and write it"
