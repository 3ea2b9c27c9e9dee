# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Carry out a plan, step by step. The only effects are those of the backend it is given."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .handle import VmHandle
from .hypervisor import Hypervisor
from .plan import Plan, Step
from .state import Verb


@dataclass(frozen=True)
class Outcome:
    """Where a plan has led: the record (``None`` if the machine is gone) and files that were not ours to remove."""

    handle: VmHandle | None
    kept: tuple[str, ...] = ()


def apply_plan(plan: Plan, hypervisor: Hypervisor, found: VmHandle | None) -> Outcome:
    """Do the steps in order."""
    outcome = Outcome(found)
    for step in plan.steps:
        if step.verb is Verb.PREPARE:
            outcome = replace(outcome, handle=hypervisor.prepare(plan.spec, outcome.handle))
        elif outcome.handle is not None:
            outcome = _act(step, hypervisor, outcome.handle)
    return outcome


def _act(step: Step, hypervisor: Hypervisor, handle: VmHandle) -> Outcome:
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
