# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: what is there. A look imports nothing that only those need who change something."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ._core.errors import BadRecord, InvalidSpec, VmError
from ._core.spec import check_name
from ._core.vm import Vm, show_vm
from ._host.store import Store, default_data_dir
from ._module import Task
from ._router import RouterHypervisor


def describe_vms(task: Task) -> dict[str, Any]:
    """Return the machines with the given names, or all; none for a name that no machine has."""
    router = router_of(task.params)
    names = task.params.get("name")
    wanted = (
        router.store.names()
        if names is None
        else [check_name(name) for name in dict.fromkeys(names)]
    )
    return {"changed": False, "vms": [show_vm(vm) for vm in _observe_all(task, router, wanted)]}


def router_of(params: Mapping[str, Any]) -> RouterHypervisor:
    """Return the way to the machines in the data folder that the task names."""
    # An empty text is as if it were left out, which templates like to say so.
    data_dir = params.get("data_dir") or default_data_dir()
    # A module runs in whatever folder the connection begins in: a relative path would mean another file each time.
    if not os.path.isabs(data_dir) or "\0" in data_dir:
        raise InvalidSpec(
            f"data_dir: {data_dir!r} is not an absolute path.",
            "Give a path that begins with a slash or with ~.",
            option="data_dir",
        )
    return RouterHypervisor(Store(data_dir))


def _observe_all(task: Task, router: RouterHypervisor, names: list[str]) -> Iterator[Vm]:
    for name in names:
        try:
            vm = router.observe(name)
        except BadRecord as exc:
            task.warnings.append(str(exc))
            continue
        except VmError as exc:
            task.warnings.append(f"The VM '{name}' cannot be looked at: {exc}")
            continue
        if vm is not None:
            task.warnings += vm.warnings
            yield vm
