# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a wish and what is there to the steps between them. Pure: what check mode shows is what a run does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .changes import Effect, check_change, differing, option_name, pending
from .errors import CannotChange, InvalidSpec, NoImage, Unsupported
from .features import Features
from .live import Change, Live, live_changes
from .spec import VmSpec
from .state import Goal, Verb, VmState
from .vm import Vm, predict_vm, show_options, show_vm

DESTROY_GRACE = 5.0  # seconds that a guest gets to power off before its disk is removed

_PREPARE = (Verb.PREPARE,)
_START = (Verb.START,)
_STOP = (Verb.STOP,)
_SUSPEND = (Verb.SUSPEND,)
_RESUME = (Verb.RESUME,)
_DESTROY = (Verb.DESTROY,)

STEPS: Mapping[tuple[VmState, Goal], tuple[Verb, ...]] = {
    (VmState.DESTROYED, Goal.PRESENT): _PREPARE,
    (VmState.DESTROYED, Goal.ABSENT): (),
    (VmState.DESTROYED, Goal.STARTED): _PREPARE + _START,
    (VmState.DESTROYED, Goal.STOPPED): _PREPARE,
    (VmState.DESTROYED, Goal.RESTARTED): _PREPARE + _START,
    (VmState.DESTROYED, Goal.SUSPENDED): _PREPARE + _START + _SUSPEND,
    (VmState.PREPARING, Goal.PRESENT): _PREPARE,
    (VmState.PREPARING, Goal.ABSENT): _DESTROY,
    (VmState.PREPARING, Goal.STARTED): _PREPARE + _START,
    (VmState.PREPARING, Goal.STOPPED): _PREPARE,
    (VmState.PREPARING, Goal.RESTARTED): _PREPARE + _START,
    (VmState.PREPARING, Goal.SUSPENDED): _PREPARE + _START + _SUSPEND,
    (VmState.PREPARED, Goal.PRESENT): (),
    (VmState.PREPARED, Goal.ABSENT): _DESTROY,
    (VmState.PREPARED, Goal.STARTED): _START,
    (VmState.PREPARED, Goal.STOPPED): (),
    (VmState.PREPARED, Goal.RESTARTED): _START,
    (VmState.PREPARED, Goal.SUSPENDED): _START + _SUSPEND,
    (VmState.RUNNING, Goal.PRESENT): (),
    (VmState.RUNNING, Goal.ABSENT): _STOP + _DESTROY,
    (VmState.RUNNING, Goal.STARTED): (),
    (VmState.RUNNING, Goal.STOPPED): _STOP,
    (VmState.RUNNING, Goal.RESTARTED): _STOP + _START,
    (VmState.RUNNING, Goal.SUSPENDED): _SUSPEND,
    (VmState.SUSPENDED, Goal.PRESENT): (),
    (VmState.SUSPENDED, Goal.ABSENT): _STOP + _DESTROY,
    (VmState.SUSPENDED, Goal.STARTED): _RESUME,
    (VmState.SUSPENDED, Goal.STOPPED): _RESUME + _STOP,
    (VmState.SUSPENDED, Goal.RESTARTED): _RESUME + _STOP + _START,
    (VmState.SUSPENDED, Goal.SUSPENDED): (),
    (VmState.STOPPED, Goal.PRESENT): (),
    (VmState.STOPPED, Goal.ABSENT): _DESTROY,
    (VmState.STOPPED, Goal.STARTED): _START,
    (VmState.STOPPED, Goal.STOPPED): (),
    (VmState.STOPPED, Goal.RESTARTED): _START,
    (VmState.STOPPED, Goal.SUSPENDED): _START + _SUSPEND,
    (VmState.FAILED, Goal.PRESENT): (),
    (VmState.FAILED, Goal.ABSENT): _STOP + _DESTROY,
    (VmState.FAILED, Goal.STARTED): _STOP + _START,
    (VmState.FAILED, Goal.STOPPED): _STOP,
    (VmState.FAILED, Goal.RESTARTED): _STOP + _START,
    (VmState.FAILED, Goal.SUSPENDED): _STOP + _START + _SUSPEND,
}

_LEADS_TO: Mapping[Verb, VmState] = {
    Verb.START: VmState.RUNNING,
    Verb.STOP: VmState.STOPPED,
    Verb.SUSPEND: VmState.SUSPENDED,
    Verb.RESUME: VmState.RUNNING,
    Verb.DESTROY: VmState.DESTROYED,
}


@dataclass(frozen=True)
class Power:
    """What the task asks of the machine's power: the goal, how patient a stop is (seconds), what to wait for."""

    goal: Goal
    stop_timeout: float = 30.0
    force: bool = False
    wait_for: str = "running"
    detach_unlisted: bool = False  # disks that the task does not list
    delete_detached: bool = False
    apply: str = (
        "live"  # or next_start: touch nothing that runs; or restart: once, if something needs it
    )


@dataclass(frozen=True)
class Step:
    """One act. ``timeout`` is what a stop gives the guest, in seconds."""

    verb: Verb
    timeout: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Before, after and the ordered steps between them."""

    spec: VmSpec
    steps: tuple[Step, ...]
    state: VmState  # once the steps are done
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    changes: tuple[Change, ...] = ()  # of the running machine
    running: VmSpec | None = None  # what it has once they are made
    restart_required: bool = False
    restart_reasons: tuple[str, ...] = ()
    predicted: Mapping[str, Any] | None = None  # the ``vm`` dictionary, then

    @property
    def changed(self) -> bool:
        """Tell whether anything is to be done."""
        return bool(self.steps)

    @property
    def actions(self) -> list[str]:
        """Return the steps as words, in order."""
        return [step.verb.value for step in self.steps]


def make_plan(wish: VmSpec, power: Power, found: Vm | None, tag: str, features: Features) -> Plan:
    """Decide what is to be done. Raises when the wish cannot be met, before anything is touched."""
    spec = replace(_complete(wish, found, power, features), backend=tag)
    if power.goal is not Goal.ABSENT:
        _check_features(wish, spec, power.goal, tag, features)
    state = found.state if found else VmState.DESTROYED
    live = _live(spec, power, found, features)
    verbs = _verbs(spec, power, found, live)
    if live.changes and Verb.CHANGE not in verbs:
        live = (
            Live(live.becomes)
            if found is None
            else Live(found.actual, (), pending(found.actual, spec))
        )
    if power.wait_for in ("ip", "ssh"):
        _check_reachable(spec, found, verbs)
    steps = tuple(Step(verb, _patience(verb, verbs, power)) for verb in verbs)
    after = _state_after(state, verbs)
    reasons = _restart_reasons(found, verbs, after, live)
    plan = Plan(
        spec=spec,
        steps=steps,
        state=after,
        before=show_options(found.handle.spec, tag, state) if found else {},
        after=show_options(spec, tag, after),
        changes=live.changes,
        running=live.becomes,
        restart_required=bool(reasons),
        restart_reasons=reasons,
    )
    return replace(plan, predicted=_predict(plan, found, tag))


def _complete(wish: VmSpec, found: Vm | None, power: Power, features: Features) -> VmSpec:
    goal = power.goal
    if found is None:
        if goal is not Goal.ABSENT and features.needs_image and wish.image is None:
            raise NoImage(
                f"There is no VM '{wish.name}', and no image to create it from.", option="image"
            )
        return features.completed(wish)
    if goal is Goal.ABSENT:
        return found.handle.spec
    handle = found.handle
    if wish.backend not in (None, handle.backend):
        raise CannotChange(
            f"backend: the VM '{wish.name}' was created by the backend {handle.backend}.",
            option="backend",
        )
    spec = wish.over(handle.spec)
    if power.detach_unlisted and wish.disks is not None:
        listed = {disk.name for disk in wish.disks}
        spec = replace(spec, disks=tuple(d for d in spec.disks or () if d.name in listed))
    if spec.disks is not None:
        spec = replace(spec, disks=tuple(disk.completed() for disk in spec.disks))
    if handle.spec.disk_size is None and spec.disk_size == handle.disk_bytes:
        spec = replace(spec, disk_size=None)  # the size that it has anyway
    check_change(handle.spec, spec, handle.disk_bytes, handle.ssh_host_port)
    return spec


def _check_features(wish: VmSpec, spec: VmSpec, goal: Goal, tag: str, features: Features) -> None:
    for name in features.refused(wish):
        raise _unsupported(option_name(name), tag)
    for index, network in enumerate(spec.networks or ()):
        if network.type not in features.network_types:
            raise _unsupported(f"networks[{index}].type={network.type}", tag)
        if network.model not in features.network_models:
            raise _unsupported(f"networks[{index}].model={network.model}", tag)
    if goal is Goal.SUSPENDED and not features.suspend:
        raise _unsupported("state=suspended", tag)
    if spec.accelerator not in (None, "auto", *features.accelerators):
        raise _unsupported(f"accelerator={spec.accelerator}", tag)


def _check_reachable(spec: VmSpec, found: Vm | None, verbs: tuple[Verb, ...]) -> None:
    starts = found is None or Verb.START in verbs
    running = spec if found is None or starts else found.handle.booted or found.handle.spec
    if running.networks:
        return
    raise InvalidSpec(
        f"wait_for: the VM '{spec.name}' has no network over which it could be reached.",
        "Leave wait_for out, or give the VM a network of type user."
        if starts
        else "A network that is added now is there after a restart: use state=restarted.",
        option="wait_for",
    )


def _unsupported(option: str, tag: str) -> Unsupported:
    return Unsupported(f"{option} is not available on backend {tag}.", option=option)


def _live(spec: VmSpec, power: Power, found: Vm | None, features: Features) -> Live:
    if found is None or not found.state.has_process or power.goal is Goal.ABSENT:
        return Live(spec)
    if power.apply == "next_start":
        return Live(found.actual, (), pending(found.actual, spec))
    return live_changes(found.actual, spec, features.hotplug)


def _verbs(spec: VmSpec, power: Power, found: Vm | None, live: Live) -> tuple[Verb, ...]:
    state = found.state if found else VmState.DESTROYED
    verbs = STEPS[state, power.goal]
    if found is None or power.goal is Goal.ABSENT:
        return verbs
    if state is VmState.FAILED and found.can_go_on and power.goal is Goal.STARTED:
        verbs = _RESUME
    if power.force and verbs[:2] == _RESUME + _STOP:
        verbs = verbs[1:]  # a power cut needs no guest that listens
    if live.waiting and power.apply == "restart" and _may_restart(state, verbs):
        verbs = _STOP + _START
    if Verb.PREPARE not in verbs and _needs_update(found.handle.spec, spec):
        verbs = _insert_update(verbs)
    goes_on = _state_after(state, verbs) is VmState.RUNNING
    if live.changes and goes_on and not {Verb.START, Verb.STOP}.intersection(verbs):
        verbs += (Verb.CHANGE,)
    if power.delete_detached and _detached(spec, found, verbs):
        verbs += (Verb.DISCARD,)
    return verbs


def _detached(spec: VmSpec, found: Vm, verbs: tuple[Verb, ...]) -> set[str]:
    """Return the names of the disks that were made and that nothing has any more once the steps are done."""
    kept = {disk.name for disk in spec.disks or ()}
    return set(found.handle.disks) - kept


def _may_restart(state: VmState, verbs: tuple[Verb, ...]) -> bool:
    return state is VmState.RUNNING and not verbs


def _needs_update(old: VmSpec, new: VmSpec) -> bool:
    return bool(differing(old, new, Effect.AT_ONCE, Effect.LIVE, Effect.NEXT_START))


def _insert_update(verbs: tuple[Verb, ...]) -> tuple[Verb, ...]:
    # Once the process has ended and before it begins anew, so that nothing has to be changed under its feet.
    cut = verbs.index(Verb.STOP) + 1 if Verb.STOP in verbs else 0
    return verbs[:cut] + _PREPARE + verbs[cut:]


def _patience(verb: Verb, verbs: tuple[Verb, ...], power: Power) -> float:
    if verb is not Verb.STOP or power.force:
        return 0.0
    return min(DESTROY_GRACE, power.stop_timeout) if Verb.DESTROY in verbs else power.stop_timeout


def _state_after(state: VmState, verbs: tuple[Verb, ...]) -> VmState:
    for verb in verbs:
        if verb is Verb.PREPARE and state in (VmState.DESTROYED, VmState.PREPARING):
            state = VmState.PREPARED
        state = _LEADS_TO.get(verb, state)
    return state


def _restart_reasons(
    found: Vm | None, verbs: tuple[Verb, ...], after: VmState, live: Live
) -> tuple[str, ...]:
    if found is None or Verb.START in verbs or not after.has_process:
        return ()
    return tuple(option_name(field) for field in live.waiting)


def _predict(plan: Plan, found: Vm | None, tag: str) -> Mapping[str, Any]:
    spec, after, verbs = plan.spec, plan.state, {step.verb for step in plan.steps}
    if found is None or after is VmState.DESTROYED:
        return predict_vm(spec, tag, after)
    handle = found.handle.evolve(spec=spec, booted=spec if Verb.START in verbs else plan.running)
    if Verb.START in verbs or not after.has_process:
        handle = handle.evolve(disk_bytes=spec.disk_size or handle.disk_bytes)
    elif Verb.CHANGE in verbs and plan.running is not None:
        handle = handle.evolve(disk_bytes=plan.running.disk_size or handle.disk_bytes)
    if not {Verb.STOP, Verb.START}.isdisjoint(verbs):  # what the next process is like, nobody knows
        handle = handle.evolve(accelerator=None, accelerator_reason=None, stopped_by=None)
        return show_vm(Vm(handle, after))
    kept_state = found.run_state if after is found.state else None
    return show_vm(replace(found, handle=handle, state=after, run_state=kept_state, facts=None))
