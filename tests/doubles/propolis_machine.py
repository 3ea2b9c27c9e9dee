# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine of a pretended propolis-server: its states, the numbers of its changes, its console and its guest.

Every change of state takes ``step`` seconds. The guest prints what cloud-init prints, and powers off or reboots when
it reads ``poweroff`` or ``reboot`` on its console, or when somebody makes the file ``guest-poweroff`` in the server's
folder. ``Settings`` says what tests may choose.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

POLL = 0.05  # seconds between two looks at what comes from outside
POWEROFF = "guest-poweroff"
KEPT = 1 << 20  # bytes of the console: so many of the first and of the last
USUAL = 16384  # bytes of one answer
NO_MIGRATION = {"migration_in": None, "migration_out": None}


@dataclass
class Settings:
    """What tests choose, in the file ``propolis.json`` of the state folder."""

    step: float = 0.02  # seconds
    boot: float = 0.05  # seconds from Running to what cloud-init prints
    latest: str = "6.0.0"  # version of the API
    addresses: dict = field(
        default_factory=dict
    )  # by MAC, name of the machine or *: address/length or None
    ignores_poweroff: bool = False
    has_console: bool = True
    fail_ensure: str | None = None  # why the machine cannot be made
    fail_start: str | None = None
    fail_history: str | None = None  # why nobody is told what the guest printed
    check_devices: bool = False

    @classmethod
    def read(cls, folder):
        """Read the file of a state folder; ``None`` and a missing file mean the usual."""
        if folder is None:
            return cls()
        try:
            return cls(**json.loads((Path(folder) / "propolis.json").read_text()))
        except FileNotFoundError:
            return cls()


class Refused(Exception):
    """403: a change of state that is not possible now."""


class Expired(Exception):
    """400: bytes of the console that are not kept any more."""


class Kernel:
    """Machines as the kernel knows them: files in ``dev/vmm`` of the state folder that outlive a killed server."""

    def __init__(self, folder):
        self._folder = None if folder is None else Path(folder) / "dev" / "vmm"

    def create(self, uuid):
        """Make a machine, destroying one that has this name already; return whether there was one."""
        if self._folder is None:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / uuid
        existed = path.exists()
        path.write_text(str(os.getpid()))
        return existed

    def has(self, uuid):
        """Tell whether the machine is still there, and ours."""
        try:
            return self._folder is None or (self._folder / uuid).read_text() == str(os.getpid())
        except FileNotFoundError:
            return False

    def destroy(self, uuid):
        """Remove the machine if it is ours."""
        if self._folder is not None and self.has(uuid):
            (self._folder / uuid).unlink(missing_ok=True)


class History:
    """What the guest printed: the first and the last MiB."""

    def __init__(self):
        self.first, self.rolling, self.total = bytearray(), bytearray(), 0

    def add(self, data):
        self.total += len(data)
        self.rolling += data
        surplus = len(self.rolling) - KEPT
        if surplus > 0:
            self.first += self.rolling[:surplus][: KEPT - len(self.first)]
            del self.rolling[:surplus]

    def read(self, from_start, most_recent, max_bytes=None):
        """Return bytes and the offset of their end; raise ``Expired``."""
        if from_start is None:
            from_start = self.total - min(most_recent, self.total)
        from_start = min(from_start, self.total)
        limit = USUAL if max_bytes is None else max_bytes
        lost = self.total - len(self.first) - len(self.rolling)
        if not lost:
            data = (self.first + self.rolling)[from_start:]
        elif from_start < len(self.first):
            data = self.first[from_start:]
        elif self.total - from_start <= len(self.rolling):
            data = self.rolling[len(self.rolling) - (self.total - from_start) :]
        else:
            raise Expired(
                f"Requested byte offset {from_start} (-{self.total - from_start}) is no longer cached: Only have "
                f"first {len(self.first)} + most recent {len(self.rolling)} saved out of a total {self.total} of output"
            )
        data = bytes(data[:limit])
        return data, from_start + len(data)


class Published:
    """The state as others see it. ``ended`` means that there will be no further change."""

    def __init__(self):
        self.gen, self.state, self.ended = 1, "Creating", False
        self._changed = asyncio.Condition()

    async def update(self, state, last=False):
        async with self._changed:
            if state != self.state:
                self.gen, self.state = self.gen + 1, state
            self.ended = self.ended or last
            self._changed.notify_all()

    async def reached(self, gen):
        """Wait until the number is reached; tell whether it was: the end may come first."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.gen >= gen or self.ended)
            return self.gen >= gen

    def seen(self):
        return {"gen": self.gen, "state": self.state, "migration": NO_MIGRATION}


class Machine:
    """One machine from the request that makes it to its end. ``phase``: initializing, active, rundown, over."""

    def __init__(self, request, settings, log, folder="."):
        self.request = request
        self.settings = settings
        self.log = log
        self.folder = folder
        self.phase = "initializing"
        self.published = Published()
        self.history = History()
        self.viewers = set()  # WebSockets
        self._queue = "NotStarted"  # StartPending, Running, Stopped, Failed
        self._awaiting = set()  # Reboot, Stop
        self._events = asyncio.Queue()
        self._typed = b""

    @property
    def id(self):
        return self.request["properties"]["id"].lower()

    @property
    def spec(self):
        return self.request["init"]["value"]["spec"]

    async def failed(self):
        """The machine could not be made. Its last state stays, and nobody is told that nothing follows."""
        await self.published.update("Failed")
        self.phase = "over"

    def accept(self, wish):
        """Queue a request for another state, or ignore it; raise ``Refused``."""
        if self._queue in ("Stopped", "Failed"):
            if wish != "Stop":
                raise Refused(
                    "Instance has already halted"
                    if self._queue == "Stopped"
                    else "Instance failed to start or halted due to a failure"
                )
            return
        if wish == "Run":
            self._refuse_if_stopping()
            if self._queue == "NotStarted":
                self._queue = "StartPending"
                self._events.put_nowait(wish)
        elif wish == "Reboot":
            self._refuse_if_stopping()
            self._refuse_reboot()
            self._enqueue(wish)
        else:
            self._enqueue(wish)

    def _refuse_if_stopping(self):
        if "Stop" in self._awaiting:
            raise Refused("Instance is preparing to stop")

    def _refuse_reboot(self):
        if self._queue == "NotStarted":
            raise Refused("Operation requires an active instance")
        if self._queue == "StartPending":
            raise Refused("Instance is currently starting")

    def _enqueue(self, wish):
        if wish not in self._awaiting:
            self._awaiting.add(wish)
            self._events.put_nowait(wish)

    async def live(self, kernel, macs):
        """Do what is asked for until the end."""
        self.phase = "active"
        guest = None
        watch = asyncio.create_task(self._watch(kernel))
        final = "Destroyed"
        try:
            while True:
                event = await self._events.get()
                if event == "Run" and "Stop" not in self._awaiting:
                    if not await self._start():
                        final = "Failed"
                        break
                    guest = asyncio.create_task(self._boot(macs))
                elif event in ("Reboot", "reboot"):
                    await self._change("Rebooting", "Running")
                    self._awaiting.discard("Reboot")
                    guest = self._again(guest, macs)
                elif event in ("Stop", "poweroff", "lost"):
                    final = "Failed" if event == "lost" else final
                    break
            await self._end(final)
        finally:
            for task in filter(None, (guest, watch)):
                task.cancel()
        kernel.destroy(self.id)
        self.phase = "over"
        await self.published.update(final, last=True)

    async def _start(self):
        await self._change("Starting")
        if self.settings.fail_start:
            self.log("failed to start VM", level=50, error=self.settings.fail_start)
            self._queue = "Failed"
            return False
        if "Stop" not in self._awaiting:
            self._queue = "Running"
            await self.published.update("Running")
        return True

    async def _end(self, final):
        if final != "Failed":
            await self._change("Stopping", "Stopped")
        self._queue = "Stopped" if final != "Failed" else "Failed"
        self.phase = "rundown"
        for viewer in list(self.viewers):
            await viewer.close(code=1001, message=b"VM stopped")
        await asyncio.sleep(self.settings.step)

    async def _change(self, *states):
        for state in states:
            await self.published.update(state)
            await asyncio.sleep(self.settings.step)

    async def _watch(self, kernel):
        path = os.path.join(self.folder, POWEROFF)
        while True:
            await asyncio.sleep(POLL)
            if not kernel.has(self.id):
                self.log("the kernel VM is gone", level=50, error="No such file or directory")
                self._events.put_nowait("lost")
                return
            if os.path.exists(path):
                os.unlink(path)
                self._guest_wants("poweroff")

    def _again(self, guest, macs):
        if guest is not None:
            guest.cancel()
        return asyncio.create_task(self._boot(macs))

    async def _boot(self, macs):
        for text in ("\x1b[2J\x1b[01;01HBdsDxe: loading Boot0001\r\n", "Linux version 6.1.0\r\n"):
            await self.print(text)
        await asyncio.sleep(self.settings.boot)
        if self._boots():
            for line in net_device_info(macs, self.settings.addresses, self.name):
                await self.print(f"[    4.2] cloud-init[411]: ci-info: {line}\r\n")
            await self.print(f"\r\n{self.name} login: ")
        else:
            await self.print("BdsDxe: No bootable option or device was found.\r\n")

    @property
    def name(self):
        return self.request["properties"]["name"]

    def _boots(self):
        """A disk that is no raw image has nothing that firmware could start."""
        for item in self.spec["components"].values():
            path = item["component"].get("path")
            if path and not item["component"]["readonly"]:
                with open(path, "rb") as stream:
                    return stream.read(4) not in (b"QFI\xfb", b"KDMV")
        return True

    async def print(self, text):
        """Have the guest print something, if it has a console."""
        if not self.settings.has_console:
            return
        data = text.encode()
        self.history.add(data)
        for viewer in list(self.viewers):
            with contextlib.suppress(ConnectionError, RuntimeError):
                await viewer.send_bytes(data)

    async def type(self, data):
        """Have somebody type on the console, which echoes."""
        self._typed = (self._typed + data)[-64:]
        await self.print(data.decode(errors="replace"))
        *lines, self._typed = self._typed.replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._guest_wants(line.strip().decode(errors="replace"))

    def _guest_wants(self, what):
        deaf = what == "poweroff" and self.settings.ignores_poweroff
        if what in ("poweroff", "reboot") and self._queue == "Running" and not deaf:
            self.log(f"guest requested {what}")
            self._events.put_nowait(what)


def net_device_info(macs, addresses, name):
    """Return the lines of cloud-init's table for cards with these MAC addresses."""
    rows = [("Device", "Up", "Address", "Mask", "Scope", "Hw-Address")]
    for index, mac in enumerate(macs):
        found = next((addresses[key] for key in (mac, name, "*") if key in addresses), None)
        device = f"enp0s{8 + index}"
        if found is None:
            rows.append((device, "False", ".", ".", ".", mac))
            continue
        address, _slash, length = found.partition("/")
        mask = "." if ":" in address else _mask(int(length or 24))
        rows.append((device, "True", found if ":" in address else address, mask, "global", mac))
        a, b, c, d, e, f = (int(part, 16) for part in mac.split(":"))
        own = f"fe80::{(a ^ 2) << 8 | b:x}:{c << 8 | 0xFF:x}:{0xFE00 | d:x}:{e << 8 | f:x}/64"
        rows.append((device, "True", own, ".", "link", mac))
    rows.append(("lo", "True", "127.0.0.1", "255.0.0.0", "host", "."))
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(6)]
    rule = "+" + "+".join("-" * width for width in widths) + "+"
    lines = [
        "|" + "|".join(cell.center(width) for cell, width in zip(row, widths)) + "|" for row in rows
    ]
    title = "Net device info".center(len(rule), "+")
    return [title, rule, lines[0], rule, *lines[1:], rule]


def _mask(length):
    bits = (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF
    return ".".join(str(bits >> shift & 0xFF) for shift in (24, 16, 8, 0))
