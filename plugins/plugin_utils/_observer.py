# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: what the inventory asks of a hypervisor host. Runs over there, or right here for this host."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..module_utils._core.errors import VmError
from ..module_utils._describe import describe_vms
from ..module_utils._host.store import default_data_dir
from ..module_utils._module import Task


def observe(data_dir: str | None, with_keys: bool = False) -> dict[str, Any]:
    """Return the machines below a folder as ``vms``, with ``warnings``; or an ``error`` in a sentence.

    ``with_keys`` adds the private keys that were made for them, as ``keys`` by the ids of the machines.
    """
    folder = os.path.expanduser(os.path.expandvars(data_dir)) if data_dir else default_data_dir()
    if not os.path.isabs(folder):
        return {"error": f"data_dir: {folder!r} is no absolute path", "warnings": []}
    task = Task({"data_dir": folder, "name": None})
    try:
        vms = describe_vms(task)["vms"]
    except VmError as exc:
        return {"error": f"{exc} {exc.help}".strip(), "warnings": task.warnings}
    keys = dict(_keys(vms)) if with_keys else {}
    return {"vms": vms, "warnings": task.warnings, "keys": keys}


def _keys(vms: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for vm in vms:
        path = (vm["ssh"] or {}).get("private_key_path")
        if path is not None:
            try:
                with open(path, encoding="ascii") as stream:
                    yield vm["id"], stream.read()
            except OSError:
                continue  # the machine is listed all the same; its host says where the key should be
