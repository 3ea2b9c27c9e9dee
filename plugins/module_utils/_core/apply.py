# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carry out a plan, step by step. The only effects are those of the backend it is given."""

from __future__ import annotations

from dataclasses import dataclass

from .autostart import HostBoot
from .errors import VmError
from .handle import VmHandle
from .hypervisor import Hypervisor
from .plan import Plan, Step
from .state import Verb, VmState


@dataclass(frozen=True)
class Outcome:
    """Where a plan has led: the record (``None`` if the machine is gone) and files that were not ours to remove."""

    handle: VmHandle | None
    kept: tuple[str, ...] = ()


def apply_plan(
    plan: Plan, hypervisor: Hypervisor, found: VmHandle | None, boot: HostBoot | None = None
) -> Outcome:
    """Do the steps in order. A machine that was made here and cannot be started is removed again.

    The error of a step that fails has, in its ``result``, the ``actions`` that were done before it and stay done.
    """
    outcome = Outcome(found)
    done: list[str] = []
    for step in plan.steps:
        try:
            if step.verb is Verb.AUTOSTART:
                outcome = _autostart(step, plan, boot, outcome)
            else:
                outcome = _act(step, plan, hypervisor, outcome)
        except VmError as exc:
            if step.verb is Verb.START and found is None and outcome.handle is not None:
                hypervisor.destroy(outcome.handle)
                done = []
            exc.result = {"changed": bool(done), "actions": done}
            raise
        done.append(step.verb.value)
    return outcome


def _autostart(step: Step, plan: Plan, boot: HostBoot | None, before: Outcome) -> Outcome:
    if boot is None or before.handle is None:
        return before
    if plan.spec.autostart and plan.state is not VmState.DESTROYED:
        return Outcome(boot.enable(before.handle, int(step.timeout)))
    return Outcome(boot.disable(before.handle))


def _act(step: Step, plan: Plan, hypervisor: Hypervisor, before: Outcome) -> Outcome:
    if step.verb is Verb.PREPARE:
        return Outcome(hypervisor.prepare(plan.spec, before.handle))
    handle = before.handle
    if handle is None:
        return before
    if step.verb is Verb.CHANGE:
        return Outcome(hypervisor.change(handle, plan.changes, plan.running or plan.spec))
    if step.verb is Verb.RENAME:
        return Outcome(hypervisor.rename(handle, plan.spec.name))
    if step.verb is Verb.DISCARD:
        return Outcome(hypervisor.discard(handle, plan.discards))
    if step.verb is Verb.DESTROY:
        return Outcome(None, tuple(hypervisor.destroy(handle)))
    if step.verb is Verb.STOP:
        return Outcome(hypervisor.stop(handle, step.timeout))
    acts = {
        Verb.START: hypervisor.start,
        Verb.SUSPEND: hypervisor.suspend,
        Verb.RESUME: hypervisor.resume,
    }
    return Outcome(acts[step.verb](handle))
