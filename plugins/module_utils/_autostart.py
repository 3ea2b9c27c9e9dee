# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: machines that come back with their host.

A module runs from an archive that is gone when the task has ended. So the code that starts a machine at boot, which is
the code that a task runs, is kept on the host, in one archive for all machines of a data folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pwd
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ._core.autostart import Commands, unit_name, unit_text
from ._core.errors import Busy, HostError, VmError
from ._core.handle import VmHandle
from ._core.vm import Vm
from ._host.files import doing, make_private_folder, sync, write_atomically
from ._host.locks import exclusive, is_taken
from ._host.processes import working_in
from ._host.store import Store
from ._host.systemd import Systemd

RUNNER = "runner.pyz"
_PACKAGE = __name__.rpartition(".")[0]
_OLD = 86400.0  # seconds after which nobody runs from an older archive any more
_MAIN = f"""\
import os, sys
sys.path[0] = os.path.realpath(sys.path[0])  # a newer archive may take this one's place
from {_PACKAGE}._manage import at_boot
sys.exit(at_boot(sys.argv[1:]))
"""


class HostUnits:
    """The units of the machines of one data folder."""

    def __init__(self, store: Store, systemd: Systemd | None = None) -> None:
        self._store = store
        self._systemd = systemd or Systemd()

    def check(self) -> None:
        """Raise what would hinder a machine from being started at boot. Touches nothing."""
        self._systemd.check()

    def is_intact(self, vm: VmHandle) -> bool:
        """Tell whether a machine's unit is as it was made."""
        unit, patience = vm.autostart_unit, vm.autostart_patience
        if unit is None or patience is None or not os.path.exists(runner_path(self._store)):
            return False
        try:
            found = self._systemd.read(unit)
        except HostError:
            return False
        if found is None or not self._systemd.is_enabled(unit):
            return False
        return any(found == self._text(vm, patience, python) for python in _pythons(found))

    def enable(self, vm: VmHandle, patience: int) -> VmHandle:
        """Make a machine's unit; the record says so first. What is the machine's state is not touched."""
        unit = unit_name(vm.name, self._store.data_dir, _usual_data_dir())
        self._systemd.read(unit)
        if vm.autostart_unit not in (None, unit):
            vm = self.disable(vm)  # that of an earlier name
        vm = self._store.save(vm.evolve(autostart_unit=unit, autostart_patience=patience))
        write_runner(self._store)
        self._systemd.enable(unit, self._text(vm, patience, sys.executable))
        return vm

    def disable(self, vm: VmHandle) -> VmHandle:
        """Remove a machine's unit; the machine goes on."""
        unit = vm.autostart_unit
        if unit is not None:
            own = unit == unit_name(vm.name, self._store.data_dir, _usual_data_dir())
            with self._handed_over(vm.name if own else vm.renamed_from or vm.name):
                self._systemd.remove(unit)
        return self._store.save(vm.evolve(autostart_unit=None, autostart_patience=None))

    def adopt(self, vm: Vm) -> str | None:
        """Put a running machine into the care of its unit; return what went wrong, if anything did."""
        unit = vm.handle.autostart_unit
        if unit is None or not vm.state.has_process:
            return None
        try:
            with self._handed_over(vm.handle.name):
                self._systemd.start(unit)
                if vm.pid is not None:
                    self._systemd.adopt(unit, [vm.pid, *working_in(vm.handle.work_dir)])
        except VmError as exc:
            return (
                f"The VM '{vm.handle.name}' starts at boot, but when the host goes down before it was restarted, "
                f"the guest may not be asked to power off: {exc}"
            )
        return None

    def _text(self, vm: VmHandle, patience: int, python: str) -> str:
        call = (python, "-I", runner_path(self._store))
        rest = (vm.name, self._store.data_dir)
        commands = Commands((*call, "start", *rest), (*call, "stop", *rest, str(patience)))
        return unit_text(vm, self._store.data_dir, patience, commands, self._systemd.user)

    @contextlib.contextmanager
    def _handed_over(self, name: str) -> Iterator[None]:
        """Let the unit's commands do nothing meanwhile: the task holds the machine's lock, and knows what it does."""
        path = _unit_lock(self._store, name)
        with exclusive(path, 30.0, f"the unit of the VM '{name}'"):
            try:
                yield
            finally:
                os.unlink(path)


def is_handed_over(store: Store, name: str) -> bool:
    """Tell whether a task starts or stops a machine's unit without meaning the machine."""
    return is_taken(_unit_lock(store, name))


def runner_path(store: Store) -> str:
    """Return the path of the archive."""
    return os.path.join(store.data_dir, "lib", RUNNER)


def write_runner(store: Store) -> None:
    """Write the archive of our own code unless it is there: it must be able to read what we record."""
    data = _archive()
    path = runner_path(store)
    folder = os.path.dirname(path)
    name = f"{hashlib.sha256(data).hexdigest()[:16]}.pyz"
    make_private_folder(folder)
    with doing(f"write {path}"):
        if not os.path.exists(os.path.join(folder, name)):
            write_atomically(os.path.join(folder, name), data)
        if os.path.realpath(path) == os.path.join(os.path.realpath(folder), name):
            return
        link = os.path.join(folder, f".{RUNNER}.{os.getpid()}")
        os.symlink(name, link)
        os.replace(link, path)
        sync(folder)
        _sweep(folder, name)


def refresh_runner(store: Store) -> None:
    """Bring the archive up to this release, if there is one: it reads the records that this release writes."""
    if os.path.lexists(runner_path(store)):
        with contextlib.suppress(Busy):
            write_runner(store)


def _sweep(folder: str, current: str) -> None:
    for entry in os.listdir(folder):
        path = os.path.join(folder, entry)
        if entry.endswith(".pyz") and entry not in (current, RUNNER):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_mtime < time.time() - _OLD:
                    os.unlink(path)


@lru_cache(maxsize=1)  # a task may change many machines
def _archive() -> bytes:
    """Return all modules of this package as a program; the same modules make the same bytes."""
    texts = {"__main__.py": _MAIN.encode()}
    root = _PACKAGE.replace(".", "/")
    for path, text in _sources().items():
        parts = f"{root}/{path}".split("/")
        for depth in range(1, len(parts)):
            texts["/".join([*parts[:depth], "__init__.py"])] = b""
        texts["/".join(parts)] = text
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in sorted(texts.items()):
            archive.writestr(zipfile.ZipInfo(path), text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _sources() -> dict[str, bytes]:
    """Return the modules of this package by path, from the archive or the folder that this one was loaded from."""
    loader: Any = sys.modules[__name__].__loader__
    packed: str | None = getattr(loader, "archive", None)
    if packed is None:
        return _read_folder(os.path.dirname(os.path.abspath(__file__)))
    prefix = _PACKAGE.replace(".", "/") + "/"
    with doing("read the modules of this task"), zipfile.ZipFile(packed) as archive:
        names = [name for name in archive.namelist() if name.startswith(prefix)]
        return {
            name[len(prefix) :]: archive.read(name)
            for name in names
            if name.endswith(".py") and not name.endswith("__init__.py")
        }


def _read_folder(root: str) -> dict[str, bytes]:
    texts = {}
    with doing(f"read {root}"):
        for folder, dummy, names in os.walk(root):
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(folder, name)
                    with open(path, "rb") as stream:
                        texts[os.path.relpath(path, root)] = stream.read()
    return texts


def _pythons(text: str) -> Iterator[str]:
    """Yield the Pythons with which a unit may be said to be as it should: its own, as long as it is there."""
    yield sys.executable
    _before, _mark, rest = text.partition('\nExecStart="')
    own = rest.partition('"')[0]
    if own != sys.executable and os.access(own, os.X_OK):
        yield own


def _usual_data_dir() -> str:
    """Return the data folder of a user who has set nothing."""
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        home = os.path.expanduser("~")
    return os.path.join(home, ".local", "share", "vmctl")


def _unit_lock(store: Store, name: str) -> str:
    return os.path.join(store.folder, f".{name}.unit")
