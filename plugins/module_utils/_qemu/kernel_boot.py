# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel, initrd and exact machine type that a machine boots with, looked at on the host."""

from __future__ import annotations

import os

from .._core.errors import FileMissing
from .._core.handle import VmHandle
from .._core.spec import VmSpec
from .._host.commands import run


def check_kernel(spec: VmSpec) -> None:
    """Raise ``FileMissing`` for a kernel or initrd that QEMU could not read."""
    for option in ("kernel", "initrd"):
        path = getattr(spec, option)
        if path and not (os.path.isfile(path) and os.access(path, os.R_OK)):
            raise FileMissing(f"{option}: there is no file {path} that can be read.", option=option)


def pin_machine_type(vm: VmHandle, binary: str) -> VmHandle:
    """Return the record with the exact machine type that the task's word for it means on this host now.

    What was recorded once stays, so that a newer QEMU gives the guest the hardware that it knows.
    """
    asked = vm.spec.machine
    if asked is None or asked in vm.machine_types:
        return vm
    exact = alias_target(run([binary, "-machine", "help"]).stdout, asked)
    return vm.evolve(machine_types={**vm.machine_types, asked: exact or asked})


def alias_target(listed: str, asked: str) -> str | None:
    """Return what ``asked`` is another name for, in the list of machine types that QEMU prints; ``None`` if for nothing."""
    for line in listed.splitlines():
        name, dummy, description = line.partition(" ")
        if name == asked and "(alias of " in description:
            return description.partition("(alias of ")[2].partition(")")[0]
    return None
