# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the records of virtual machines lie on the host.

``<data_dir>/vms/<name>/`` belongs to one machine, with its record ``vm.json``. Its lock lies beside that folder, so
that it can outlive it; a folder that is being removed is first renamed, so that the machine is gone in one step.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator

from .._core.errors import BadRecord, HostError, InvalidName, VmError
from .._core.handle import VmHandle, dump, load
from .._core.layout import RECORD, is_half_made, is_ours
from .._core.rename import renamed
from .._core.spec import check_name
from .files import (
    doing,
    make_private_folder,
    read_private,
    refuse_foreign_folder,
    sync,
    write_atomically,
)
from .locks import exclusive, is_taken


def default_data_dir() -> str:
    """Return ``$XDG_DATA_HOME/vmctl``, or ``~/.local/share/vmctl``."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "vmctl")


class Store:
    """The records below one data folder. Reading never writes; nothing is made before the first record."""

    def __init__(self, data_dir: str) -> None:
        self.data_dir = os.path.abspath(data_dir)
        self.folder = os.path.join(self.data_dir, "vms")

    def work_dir(self, name: str) -> str:
        """Return the folder that belongs to a machine."""
        return os.path.join(self.folder, name)

    def names(self) -> list[str]:
        """Return the names of all machines, sorted."""
        try:
            entries = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as exc:
            with doing(f"list {self.folder}"):
                raise exc
        return sorted(name for name in entries if self._is_machine(name))

    def load(self, name: str) -> VmHandle | None:
        """Return a machine's record, or ``None`` if there is no such machine."""
        path = self._record(name)
        self._refuse_link(name)
        self._refuse_foreign(name)
        try:
            raw = read_private(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            with doing(f"read {path}"):
                raise exc
        handle = self._healed(load(raw, path), name)
        if handle.name != name:
            raise BadRecord(f"The record {path} is that of another VM, '{handle.name}'.", path=path)
        self._refuse_elsewhere(handle)
        return handle

    def save(self, handle: VmHandle) -> VmHandle:
        """Write a machine's record, making its private folder if it has none yet; return the record."""
        self._refuse_link(handle.name)
        self._refuse_foreign(handle.name)
        if not os.path.isdir(self.work_dir(handle.name)):
            self._make_folder()
            make_private_folder(self.work_dir(handle.name))
        write_atomically(self._record(handle.name), dump(handle))
        return handle

    def rename(self, vm: VmHandle, name: str) -> VmHandle:
        """Give a machine another name; return its record.

        The old record first says which name is to come, so the folder holds a record that is understood under either
        name, and a run that is killed in between leaves the machine with one of them.
        """
        self._refuse_link(name)
        work_dir = self.work_dir(name)
        if os.path.lexists(work_dir):
            raise HostError(
                f"new_name: {work_dir} is there already.",
                "Choose another name, or move what lies there away.",
                path=work_dir,
                option="new_name",
            )
        self.save(vm.evolve(renaming=name))
        with doing(f"rename {vm.work_dir}"):
            os.rename(self.work_dir(vm.name), work_dir)
            sync(self.folder)
        return self.save(renamed(vm, name, work_dir))

    def _healed(self, vm: VmHandle, name: str) -> VmHandle:
        """Return the record as it would be if the run that was to rename the machine had not been killed."""
        if vm.name == name:
            return vm if vm.renaming is None else vm.evolve(renaming=None)
        was_here = os.path.realpath(os.path.dirname(vm.work_dir)) == os.path.realpath(self.folder)
        if vm.renaming == name and was_here and not os.path.lexists(self.work_dir(vm.name)):
            return renamed(vm, name, self.work_dir(name))
        return vm

    def forget(self, name: str) -> list[str]:
        """Remove a machine: its record vanishes in one step, then its files. Return what was kept because it is not ours."""
        with doing(f"remove {self.work_dir(name)}"):
            self.sweep(name)
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.work_dir(name), self._trash(name))
                sync(self.folder)
            return self.sweep(name)

    def sweep(self, name: str) -> list[str]:
        """Finish a removal and take away what a killed run left. Files that are not ours move back; return their paths."""
        with doing(f"tidy {self.work_dir(name)}"):
            self._drop_left_overs(name)
        trash = self._trash(name)
        if not os.path.isdir(trash):
            return []
        with doing(f"remove {trash}"):
            foreign = sorted(entry for entry in os.listdir(trash) if not is_ours(entry))
            kept = [self._move_back(name, entry) for entry in foreign]
            shutil.rmtree(trash)
        return kept

    def _move_back(self, name: str, entry: str) -> str:
        os.makedirs(self.work_dir(name), mode=0o700, exist_ok=True)
        path = os.path.join(self.work_dir(name), entry)
        while os.path.lexists(path):
            path += "~"
        os.rename(os.path.join(self._trash(name), entry), path)
        return path

    def is_settled(self, name: str) -> bool:
        """Tell whether no other task works on a machine, and no killed one left anything to be taken away."""
        lock = self._lock_file(name)
        if os.path.isdir(self._trash(name)) or is_taken(lock):
            return False
        files = self._files(name)
        if files is None:
            return not os.path.exists(lock)
        return bool(files) and not any(map(is_half_made, files))

    def _files(self, name: str) -> list[str] | None:
        folder = self.work_dir(name)
        if not os.path.isdir(folder) or os.path.islink(folder):
            return None
        return os.listdir(folder)

    def _drop_left_overs(self, name: str) -> None:
        files = self._files(name) or ()
        for half in filter(is_half_made, files):
            path = os.path.join(self.work_dir(name), half)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(
                self.work_dir(name)
            )  # if it is empty: the run was killed before there was a machine

    @contextlib.contextmanager
    def lock(self, name: str, timeout: float) -> Iterator[None]:
        """Keep other tasks off a machine; raise ``Busy`` if another has it longer than ``timeout`` seconds."""
        self._make_folder()
        path = self._lock_file(name)
        with exclusive(path, timeout, f"the VM '{name}'"):
            try:
                yield
            finally:
                if not os.path.exists(self.work_dir(name)):
                    with contextlib.suppress(OSError):
                        os.unlink(path)

    @contextlib.contextmanager
    def reservations(self, timeout: float = 30.0) -> Iterator[list[VmHandle]]:
        """Give all records, with no other task reserving a port at the same time."""
        self._make_folder()
        with exclusive(self.folder, timeout, "the port reservations"):
            yield list(self._readable())

    def _refuse_foreign(self, name: str) -> None:
        self._refuse_foreign_data()
        refuse_foreign_folder(self.work_dir(name), "data_dir")

    def _refuse_foreign_data(self) -> None:
        # The user may have made the first one, with whatever group bits their umask left; the others are ours.
        refuse_foreign_folder(self.data_dir, "data_dir", stat.S_IWOTH)
        refuse_foreign_folder(self.folder, "data_dir")

    def _refuse_elsewhere(self, handle: VmHandle) -> None:
        """Refuse a copied or moved record: its paths lead to the files, and the process, of the original."""
        folder = self.work_dir(handle.name)
        files = (handle.overlay_path, handle.seed_iso_path, handle.private_key_path)
        sockets = (handle.qmp_socket, handle.console_socket)
        named = {os.path.dirname(path) for path in (*files, *sockets) if path} | {handle.work_dir}
        if named != {folder} and {*map(os.path.realpath, named)} != {os.path.realpath(folder)}:
            raise BadRecord(
                f"The record of the VM '{handle.name}' in {folder} was made for the folder {handle.work_dir}.",
                "Move the data folder back to where it was; a copy of a VM cannot be used.",
                path=folder,
            )

    def _make_folder(self) -> None:
        self._refuse_foreign_data()
        make_private_folder(self.data_dir)
        make_private_folder(self.folder)

    def _is_machine(self, name: str) -> bool:
        try:
            check_name(name)
        except InvalidName:
            return False
        return os.path.exists(self._record(name)) and not os.path.islink(self.work_dir(name))

    def _refuse_link(self, name: str) -> None:
        folder = self.work_dir(name)
        if os.path.islink(folder):
            raise BadRecord(
                f"The folder {folder} is a symbolic link.",
                "Put the VM's real folder there, or set data_dir to where the VMs are.",
                path=folder,
            )

    def _readable(self) -> Iterator[VmHandle]:
        for name in self.names():
            with contextlib.suppress(VmError):
                handle = self.load(name)
                if handle is not None:
                    yield handle

    def _record(self, name: str) -> str:
        return os.path.join(self.work_dir(name), RECORD)

    def _lock_file(self, name: str) -> str:
        return os.path.join(self.folder, f".{check_name(name)}.lock")

    def _trash(self, name: str) -> str:
        return os.path.join(self.folder, f".{name}.trash")
