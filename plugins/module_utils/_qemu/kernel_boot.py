# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel and initrd that a machine boots with, and the exact type of the machine that they find."""

from __future__ import annotations

import os
from collections.abc import Mapping

from .._core.errors import FileMissing
from .._core.handle import VmHandle
from .._core.spec import VmSpec
from .monitor import LOOK
from .qmp import Qmp


def check_kernel(spec: VmSpec) -> None:
    """Raise ``FileMissing`` for a kernel or initrd that QEMU could not read."""
    for option in ("kernel", "initrd"):
        path = getattr(spec, option)
        if path and not (os.path.isfile(path) and os.access(path, os.R_OK)):
            raise FileMissing(f"{option}: there is no file {path} that can be read.", option=option)


def exact_types(vm: VmHandle, qmp: Qmp) -> Mapping[str, str]:
    """Return the exact machine types that are recorded, by the word that the task has for each, and that of the running machine.

    What was recorded once stays, so that a newer QEMU gives the guest the hardware that it knows.
    """
    word = (vm.booted or vm.spec).machine
    if word is None or word in vm.machine_types:
        return vm.machine_types
    query = {"path": "/machine", "property": "type"}
    name: str = qmp.execute("qom-get", query, timeout=LOOK)
    return {**vm.machine_types, word: name.removesuffix("-machine")}
