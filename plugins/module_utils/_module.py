# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: turns a task into a call, and its result or error back into JSON."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ._core.errors import VmError
from ._image.source import hide_secrets

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

SECRETS = ("user_data", "meta_data", "network_config")
_HIDDEN = (*SECRETS, "password", "headers")


@dataclass
class Task:
    """What a module was asked; warnings gather on the way."""

    params: Mapping[str, Any]
    check_mode: bool = False
    warnings: list[str] = field(default_factory=list)

    def would_fail(self, error: VmError) -> None:
        """Warn, in check mode, of what would end the task, unless another one before it in the playbook changes that."""
        self.warnings.append(
            f"This task would fail now, unless an earlier one changes that: {error}"
        )


def run(module: AnsibleModule, act: Callable[[Task], dict[str, Any]]) -> NoReturn:
    """Do what the task asks; end the module with the result, or with one error of our family."""
    # Ansible hides a secret by blotting out equal text in the whole result. Inside user-data every word counts as
    # secret, even "1" or the host's name; so we keep secrets out of the result and the echoed options ourselves.
    secrets, module.no_log_values = module.no_log_values, set()
    echo = {"module_args": hide(module.params)}
    task = Task(module.params, bool(module.check_mode))
    try:
        result = act(task)
    except VmError as exc:
        _warn(module, task)
        module.fail_json(msg=exc.message, error=exc.as_dict(), invocation=echo, **exc.result)
    except Exception as exc:
        module.no_log_values = secrets  # nobody knows what is in an error that nobody expected
        error = {
            "code": "vm_manager.internal",
            "help": "This is a defect: please report it.",
            "details": {},
        }
        trace = traceback.format_exc()
        module.fail_json(
            msg=f"Unexpected error: {exc!r}", error=error, exception=trace, invocation=echo
        )
    _warn(module, task)
    module.exit_json(**result, invocation=echo)


def hide(params: Any) -> Any:
    """Return options fit to be shown: without secrets, without signatures in URLs, and without what was pasted wrongly."""
    if isinstance(params, Mapping):
        return {
            key: "(hidden)" if key in _HIDDEN and value is not None else hide(value)
            for key, value in params.items()
        }
    if isinstance(params, (list, tuple)):
        return [hide(item) for item in params]
    if not isinstance(params, str):
        return params
    return "(hidden)" if "PRIVATE KEY" in params else hide_secrets(params)


def _warn(module: AnsibleModule, task: Task) -> None:
    for warning in task.warnings:
        module.warn(warning)
