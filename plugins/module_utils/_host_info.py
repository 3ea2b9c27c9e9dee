# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: what the module host_info does. Looks at the host, backend by backend; changes nothing."""

from __future__ import annotations

import os
import sys
from typing import Any

from ._core.errors import InvalidSpec, VmError
from ._core.host_report import BackendReport
from ._core.propolis import PROPOLIS_DEFAULTS, PropolisOptions, propolis_from_params
from ._core.spec import VmSpec
from ._host.files import check_writable
from ._host.store import default_data_dir
from ._module import Task
from ._router import PLATFORM_DEFAULTS


def describe_host(task: Task) -> dict[str, Any]:
    """Return which backends could run virtual machines on this host, and what hinders the others."""
    data_dir = task.params.get("data_dir") or default_data_dir()
    if not os.path.isabs(data_dir):
        raise InvalidSpec(
            f"data_dir: {data_dir!r} is not an absolute path.",
            "Give a path that begins with a slash or with ~.",
            option="data_dir",
        )
    options = _propolis(task)
    problems = []
    try:
        check_writable(data_dir)
    except VmError as exc:
        problems.append({"message": exc.message, "help": exc.help, "code": exc.code})
    return {
        "changed": False,
        "data_dir": data_dir,
        "problems": problems,
        "default_backend": PLATFORM_DEFAULTS.get(sys.platform),
        "backends": [report.as_dict() for report in (_qemu(), _on_propolis(options), _noop())],
    }


def _propolis(task: Task) -> PropolisOptions:
    wish = VmSpec(name="", propolis=propolis_from_params(task.params.get("propolis")))
    return wish.over(VmSpec(name="", propolis=PROPOLIS_DEFAULTS)).propolis or PROPOLIS_DEFAULTS


def _qemu() -> BackendReport:
    from ._qemu.host_facts import report_host

    return report_host()


def _on_propolis(options: PropolisOptions) -> BackendReport:
    from ._propolis.host_facts import report_host

    return report_host(options)


def _noop() -> BackendReport:
    return BackendReport("noop")
