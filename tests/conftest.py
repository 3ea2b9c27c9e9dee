# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the tests run: file by file on several workers, each with a network of its own, and one line for each file.

Machines of different tests would want the same ports of 127.0.0.1, and a test cannot see what another has reserved. So
each process that runs tests enters a network namespace, where all ports are its own. Where none can be made, as for an
ordinary user, one process runs all tests, one after the other, in the network of the host.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path, PurePath

import pytest

# Most of the tests' programs are Python's, and compiling Ansible takes longer than what they do. So bytecode is kept,
# whatever the caller's own setting is, in a folder beside the packages: nothing appears in the tree while it is read.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).parents[1] / ".venv" / "pycache")
sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["PYTHONPYCACHEPREFIX"]

# Half of the time is spent on waiting, so there is work for two workers on each processor.
WORKERS_PER_PROCESSOR = 2
MOST_WORKERS = 8

# What takes longest begins first, so that no worker is left with a long file at the end. Files that are not named here
# come after these, those with real machines before the unit tests.
LONGEST_FIRST = (
    "test_guest_debian.py",
    "test_nat_bridge.py",
    "test_faults.py",
    "test_examples.py",
    "test_lifecycle.py",
    "test_propolis_lifecycle.py",
    "test_inventory_many.py",
    "test_fleet_real.py",
    "test_quickstart.py",
    "test_inventory.py",
    "test_networks.py",
    "test_role_illumos.py",
    "test_firmware_real.py",
    "test_converge_guest.py",
    "test_progress.py",
    "test_images_module.py",
    "test_illumos_doors.py",
    "test_roles.py",
    "test_clone_real.py",
    "test_images_registry.py",
    "test_addresses.py",
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers for ``-n auto``; none where they cannot be apart, or for a single file."""
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and files.pop().endswith(".py"):
        return 0
    if not can_be_apart():
        return 0
    return min(WORKERS_PER_PROCESSOR * len(os.sched_getaffinity(0)), MOST_WORKERS)


def pytest_configure(config: pytest.Config) -> None:
    """Give what runs tests a network, and the process that only starts workers its way to tell about them."""
    worker = hasattr(config, "workerinput")
    if worker or (not config.getoption("tx", None) and can_be_apart()):
        enter_own_network()
    elif config.getoption("tx", None) and config.get_verbosity() == 0:
        config.pluginmanager.register(FileLines(config), "file-lines")
    config.pluginmanager.register(Notes(), "notes")


def can_be_apart() -> bool:
    """Tell whether this process may make network namespaces."""
    program = shutil.which("unshare")
    if program is None:
        return False
    command = [program, "--net", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def enter_own_network() -> None:
    """Leave the host's network for an empty one, in which the loopback interface is up; note the way back."""
    clone_newnet, set_flags, up = 0x40000000, 0x8914, 0x1  # CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP
    left = os.open("/proc/self/ns/net", os.O_RDONLY)  # open as long as this process lives
    os.environ["TESTS_HOST_NETWORK"] = f"/proc/{os.getpid()}/fd/{left}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(clone_newnet):
        why = os.strerror(ctypes.get_errno())
        raise pytest.UsageError(f"workers need network namespaces ({why}): choose -n 0")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", up))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let a worker begin with the files that take longest."""

    def rank(item: pytest.Item) -> tuple[int, bool]:
        name, unit = item.path.name, item.path.parent.name == "unit"
        known = name in LONGEST_FIRST
        return (LONGEST_FIRST.index(name) if known else len(LONGEST_FIRST), unit)

    if hasattr(config, "workerinput"):
        items.sort(key=rank)


class FileLines:
    """Prints a line for each file when its last test has ended, in place of a letter for each test."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.left: Counter[str] = Counter()
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.seconds: Counter[str] = Counter()
        self.total = 0
        self.report: pytest.TestReport | None = None

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Learn how many tests each file has; all workers collect the same."""
        self.left = Counter(file_of(nodeid) for nodeid in ids)
        self.total = len(ids)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport):
        """Know which report pytest is about to print."""
        self.report = report
        self.seconds[file_of(report.nodeid)] += report.duration
        try:
            return (yield)
        finally:
            self.report = None

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self, report: pytest.TestReport | pytest.CollectReport):
        """Count the outcome as pytest calls it, and leave pytest nothing to print."""
        category, letter, word = yield
        if report is not self.report:
            return category, letter, word
        if category:
            self.outcomes[file_of(report.nodeid)][category] += 1
        if category in ("failed", "error"):
            self.line(f"{category.upper()} {report.nodeid}", good=False)
        return category, "", ""

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Print the line of a file that is done."""
        file = file_of(nodeid)
        self.left[file] -= 1
        if self.left[file] == 0:
            outcomes = ", ".join(f"{count} {what}" for what, count in self.outcomes[file].items())
            done = 100 * (self.total - self.left.total()) // self.total
            good = set(self.outcomes[file]) <= {"passed", "skipped", "xfailed"}
            line = f"{file:<45} {outcomes:<24} {self.seconds[file]:5.0f} s [{done:3}%]"
            self.line(line, good)

    def line(self, text: str, good: bool) -> None:
        """Print a line."""
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        terminal.write_line(text, green=good, red=not good)


class Notes:
    """Prints what tests have to tell: their properties called ``note``."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the notes of a test that has run."""
        if report.when == "call":
            self.notes += [str(value) for name, value in report.user_properties if name == "note"]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print them all."""
        for note in self.notes:
            terminalreporter.write_line(note)


def file_of(nodeid: str) -> str:
    """Return the path of the file that holds a test."""
    return str(PurePath(nodeid.partition("::")[0]))
