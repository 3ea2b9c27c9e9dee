# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a pretended illumos host: a file behind a lock, and what all programs of the host share.

Tests call these programs thousands of times, so they import as little as they can: what takes long, such as re and
json, only where it is used.
"""

from __future__ import annotations

import fcntl
import marshal
import os


class Refused(Exception):
    """What a program says on standard error before it ends with ``status``."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.message = message
        self.status = status


class Machine:
    """The host whose state lies in ``folder``."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def device(self, dataset):
        """The file that stands for the volume's device."""
        return self.path("zvol", "rdsk", dataset)

    def frozen(self, snapshot):
        """The file that keeps what a snapshot of a volume holds."""
        return self.path("snapshots", snapshot.replace("/", "%"))

    def locked(self):
        """Return a context manager that gives the state; what changes in it is kept if the block succeeds."""
        return Locked(self)

    def record(self, program, argv):
        """Remember that a program was called."""
        with open(self.path("calls"), "a", encoding="utf-8") as stream:
            stream.write(f"{[program, *argv]!r}\n")


class Locked:
    """The state, as long as nobody else has it."""

    def __init__(self, machine):
        self.machine = machine

    def __enter__(self):
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self.fd = os.open(self.machine.path("lock"), flags, 0o600)
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        with open(self.machine.path("state"), "rb") as stream:
            self.before = stream.read()
        self.state = marshal.loads(self.before)
        return self.state

    def __exit__(self, kind, *dummy):
        try:
            after = marshal.dumps(self.state, 2)
            if kind is None and after != self.before:
                save(self.machine.path("state"), after)
        finally:
            os.close(self.fd)


def save(path, data):
    with open(f"{path}.part", "wb") as stream:
        stream.write(data)
    os.replace(f"{path}.part", path)


def started(pid):
    """When a process was started, in the kernel's ticks, which tells it from a later one with its number."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            words = stream.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] == "Z" else int(words[19])


def is_alive(who):
    """Tell whether the process noted as [pid, when started] is still there."""
    return who is not None and started(who[0]) == who[1]


def kill_group(who, patience=5.0):
    """End a restarter with all that it has started, and wait until it is gone."""
    import signal
    import time

    if not is_alive(who):
        return
    try:
        os.killpg(who[0], signal.SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + patience
    while is_alive(who) and time.monotonic() < deadline:
        time.sleep(0.005)


def escaped(fields):
    """Join fields as dladm -p, ipadm -p and zoneadm -p do; a single one is printed as it is."""
    if len(fields) == 1:
        return fields[0]
    return ":".join(field.replace("\\", "\\\\").replace(":", "\\:") for field in fields)


def short_mac(mac):
    """Print a MAC as dladm does, without leading zeros."""
    return ":".join(f"{int(octet, 16):x}" for octet in mac.split(":"))


def options(words, flags):
    """Read options as getopt does, wherever they stand; return pairs and the other words."""
    known, rest, words = [], [], list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or len(word) < 2:
            rest.append(word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            place = flags.find(letter)
            if place < 0 or letter == ":":
                raise Refused(f"invalid option '{letter}'", 2)
            if flags[place + 1 : place + 2] != ":":
                known.append((f"-{letter}", ""))
                continue
            if not letters and not words:
                raise Refused(f"missing argument for '{letter}' option", 2)
            known.append((f"-{letter}", letters or words.pop(0)))
            letters = ""
    return known, rest
