# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: turns a task into a call, and its result or error back into JSON."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ._core.errors import Defect, InvalidSpec, VmError
from ._image.source import hide_secrets

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

SECRETS = ("user_data", "meta_data", "network_config")
_HIDDEN = (*SECRETS, "password", "passphrase", "headers")
_PUBLIC = ("hostname", "user", "ssh_authorized_keys", "ssh_host_key", "rerun")  # of cloud_init


@dataclass
class Task:
    """What a module was asked; warnings gather on the way. ``done`` is told if an error that nobody expected ends the task."""

    params: Mapping[str, Any]
    check_mode: bool = False
    warnings: list[str] = field(default_factory=list)
    done: Mapping[str, Any] = field(default_factory=dict)

    def would_fail(self, error: VmError) -> None:
        """Warn, in check mode, of what would end the task, unless another one before it in the playbook changes that."""
        self.warnings.append(
            f"This task would fail now, unless an earlier one changes that: {error}"
        )


def run(module: AnsibleModule, act: Callable[[Task], dict[str, Any]]) -> NoReturn:
    """Do what the task asks; end the module with the result, or with one error of our family."""
    # Ansible hides a secret by blotting out equal text in the whole result. Inside user-data every word counts as
    # secret, even "1" or the host's name; so we keep secrets out of the result and the echoed options ourselves.
    module.no_log_values = set()
    shown = hide(module.params)
    echo = {"module_args": shown}
    task = Task(module.params, bool(module.check_mode))
    try:
        result = act(task)
    except VmError as exc:
        _warn(module, task)
        module.fail_json(msg=exc.message, error=exc.as_dict(), invocation=echo, **exc.result)
    except Exception as exc:
        # Nobody knows what is in an error that nobody expected.
        module.no_log_values = set(_hidden(module.params, shown))
        defect = Defect(f"Unexpected error: {exc!r}")
        trace = traceback.format_exc()
        module.fail_json(
            msg=defect.message,
            error=defect.as_dict(),
            exception=trace,
            invocation=echo,
            **task.done,
        )
    _warn(module, task)
    module.exit_json(**result, invocation=echo)


def hide(params: Any) -> Any:
    """Return options fit to be shown: without secrets, without signatures in URLs, and without what was pasted wrongly."""
    if isinstance(params, Mapping):
        return {key: _shown(key, value) for key, value in params.items()}
    if isinstance(params, (list, tuple)):
        return [hide(item) for item in params]
    if not isinstance(params, str):
        return params
    return "(hidden)" if "PRIVATE KEY" in params else hide_secrets(params)


def _shown(key: Any, value: Any) -> Any:
    if value is None:
        return None
    if key == "vms" and isinstance(value, (list, tuple)):
        return [_shown("defaults", item) for item in value]
    if key == "defaults" and isinstance(value, Mapping):
        from ._arguments import VM  # nobody knows what was meant by the rest

        return {
            name: _shown(name, item) if name in VM or item is None else "(hidden)"
            for name, item in value.items()
        }
    if key == "cloud_init":
        if not isinstance(value, Mapping):
            return "(hidden)"  # nobody has read it yet
        return {
            name: hide(item) if name in _PUBLIC or item is None else "(hidden)"
            for name, item in value.items()
        }
    return "(hidden)" if key in _HIDDEN else hide(value)


def _hidden(given: Any, shown: Any) -> Iterator[str]:
    """Yield the texts that are not in what is shown."""
    if isinstance(shown, Mapping):
        for name, item in shown.items():
            yield from _hidden(given[name], item)
    elif isinstance(shown, list):
        for part, item in zip(given, shown):
            yield from _hidden(part, item)
    elif given != shown:
        yield from _texts(given)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif value and not isinstance(value, bool):
        yield str(value)


def typed(options: Mapping[str, Any], spec: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return options that are inside another one, at ``place``, as Ansible returns those of a module.

    Only options inside of these get their defaults. Raises ``InvalidSpec`` naming the path of the first that makes no sense.
    """
    read = {}
    for name, value in options.items():
        path = f"{place}.{name}"
        if name not in spec:
            known = ", ".join(sorted(spec))
            raise InvalidSpec(
                f"{path}: there is no such option.", f"Possible are {known}.", option=path
            )
        read[name] = None if value is None else _typed_value(value, spec[name], path)
    return read


def _typed_value(value: Any, item: Mapping[str, Any], path: str) -> Any:
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

    validator: Any = ArgumentSpecValidator  # it is not typed
    name = path.rpartition(".")[2]
    outer = {key: item[key] for key in ("type", "elements", "choices") if key in item}
    result = validator({name: outer}).validate({name: value})
    if result.error_messages:
        raise InvalidSpec(f"{path}: {'; '.join(result.error_messages)}.", option=path)
    value = result.validated_parameters[name]
    inner = item.get("options")
    if inner is None:
        return value
    if item["type"] == "dict":
        return _completed(value, inner, path)
    return [_completed(part, inner, f"{path}[{index}]") for index, part in enumerate(value)]


def _completed(options: Mapping[str, Any], spec: Mapping[str, Any], place: str) -> dict[str, Any]:
    read = typed(options, spec, place)
    for name, item in spec.items():
        if item.get("required") and read.get(name) is None:
            path = f"{place}.{name}"
            raise InvalidSpec(f"{path}: this is missing.", option=path)
        if read.get(name) is None:
            read[name] = item.get("default")
    return read


def _warn(module: AnsibleModule, task: Task) -> None:
    for warning in task.warnings:
        module.warn(warning)
