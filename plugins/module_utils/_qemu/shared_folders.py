# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Folders of the host in the guest: a virtiofsd for each, beside QEMU."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping

from .._core.errors import FileMissing, ProgramMissing, Unready
from .._core.folders import SharedFolder
from .._core.handle import VmHandle
from .._core.layout import folder_lock, folder_socket
from .._core.spec import VmSpec
from .._host.commands import find_program, run
from .._host.files import doing, short_path
from .companions import Companions

# Debian 12, then Debian 13 and Fedora, then Arch; none of them is in the PATH.
PROGRAMS = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd", "virtiofsd")


def check_folders(spec: VmSpec) -> None:
    """Raise what would hinder the folders from being shared. Touches nothing."""
    folders = spec.shared_folders or ()
    for index, folder in enumerate(folders):
        if not os.path.isdir(folder.path):
            option = f"shared_folders[{index}].path"
            raise FileMissing(f"{option}: there is no folder {folder.path}.", option=option)
    if not folders:
        return
    program = _program()
    able = run([program, "--help"])
    words = able.stdout + able.stderr
    if os.geteuid() != 0 and "--uid-map" not in words:
        raise Unready(
            f"shared_folders: {program} of this host works for root only.",
            "Run the task as root, or install virtiofsd 1.10 or newer.",
            option="shared_folders",
        )
    for index, folder in enumerate(folders):
        if folder.readonly and "--readonly" not in words:
            option = f"shared_folders[{index}].readonly"
            raise Unready(
                f"{option}: {program} of this host cannot share a folder read-only.",
                "Install virtiofsd 1.11 or newer, or share a folder that is mounted read-only.",
                option=option,
            )


@contextlib.contextmanager
def opened_folders(vm: VmHandle, companions: Companions) -> Iterator[Mapping[str, int]]:
    """Start what serves the machine's folders, and give QEMU's end of each connection by the folder's name."""
    with contextlib.ExitStack() as stack:
        connections: dict[str, int] = {}
        for folder in vm.spec.shared_folders or ():
            path = os.path.join(vm.work_dir, folder_socket(folder.name))
            with doing(f"open a connection in {vm.work_dir}"):
                listener, connection = _connected(path)
            stack.enter_context(connection)
            with listener:
                command = folder_command(_program(), folder, listener.fileno())
                companions.start(command, folder_lock(folder.name), (listener.fileno(),))
            connections[folder.name] = connection.fileno()
        yield connections


def folder_command(program: str, folder: SharedFolder, fd: int) -> list[str]:
    """Return the command that serves a folder to the first who connects to the listening descriptor ``fd``."""
    readonly = ["--readonly"] if folder.readonly else []
    return [program, f"--fd={fd}", "-o", f"source={folder.path}", *readonly]


def _connected(path: str) -> tuple[socket.socket, socket.socket]:
    """Return a listening socket and the one connection to it; its name is gone when this returns."""
    listener, connection = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with short_path(path) as address:
            listener.bind(address)
            try:
                listener.listen(1)
                connection.connect(address)
            finally:
                os.unlink(path)
    except BaseException:
        listener.close()
        connection.close()
        raise
    return listener, connection


def _program() -> str:
    program = find_program(*PROGRAMS)
    if program is None:
        raise ProgramMissing(
            "shared_folders: the program virtiofsd is not installed.",
            "Install the package virtiofsd (on Debian 12, qemu-system-common has it).",
            programs=["virtiofsd"],
        )
    return program
