# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Another name for a machine. Its folder has the name, so all paths of its record change; what it is does not. Pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .errors import InvalidSpec, InvalidState, Unsupported
from .handle import VmHandle, dump, load
from .state import Goal, Verb, VmState

if TYPE_CHECKING:  # to read a record, nobody needs what makes plans
    from .features import Features
    from .plan import Plan, Power
    from .vm import Vm


def renamed(vm: VmHandle, name: str, work_dir: str) -> VmHandle:
    """Return the record of the same machine under another name, in another folder."""
    record = json.loads(dump(vm))
    wishes = {key: record.pop(key) for key in ("spec", "booted")}  # a user's own words stay
    record = _moved(record, vm.work_dir, work_dir) | wishes
    again = load(json.dumps(record).encode(), work_dir)
    return again.evolve(
        name=name,
        spec=replace(again.spec, name=name),
        booted=None if again.booted is None else replace(again.booted, name=name),
        renaming=None,
        renamed_from=vm.name,
    )


def _moved(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved(item, old, new) for item in value]
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value[len(old) :]
    return value


def present_name(wanted: tuple[str, str], old: VmHandle | None, new: VmHandle | None) -> str:
    """Return under which of the two names, the old and the new one, the machine is found; raise if it cannot be told."""
    name, new_name = wanted
    if old is not None and new is not None:
        raise _refused(f"there is a VM '{new_name}' already")
    if old is None and new is None:
        raise _refused(f"there is no VM '{name}' that could be renamed")
    if new is not None and new.renamed_from != name:
        raise _refused(f"there is no VM '{name}', and the VM '{new_name}' has never had this name")
    return name if new is None else new_name


def _refused(what: str) -> InvalidSpec:
    return InvalidSpec(f"new_name: {what}.", "Correct the names.", option="new_name")


def power_to_rename(power: Power, found: Vm, tag: str, features: Features) -> Power:
    """Return what is asked of the power of a machine that gets another name; raise if it cannot get one now."""
    if not features.rename:
        raise Unsupported(f"new_name is not available on backend {tag}.", option="new_name")
    may = power.goal in (Goal.PRESENT, Goal.STARTED) and power.apply == "restart"
    return replace(power, goal=Goal.RESTARTED) if may and found.state is VmState.RUNNING else power


def with_rename(plan: Plan, found: Vm) -> Plan:
    """Return the plan of the machine under its new name with the step that gives it this name."""
    from .plan import Step

    verbs = [step.verb for step in plan.steps]
    if found.state.has_process and Verb.STOP not in verbs:
        raise InvalidState(
            f"The VM '{found.handle.name}' runs, so it cannot be renamed.",
            "Stop it first, or allow one restart with apply=restart.",
            option="new_name",
        )
    place = verbs.index(Verb.STOP) + 1 if Verb.STOP in verbs else 0
    steps = (*plan.steps[:place], Step(Verb.RENAME), *plan.steps[place:])
    return replace(plan, steps=steps, before={**plan.before, "name": found.handle.name})
