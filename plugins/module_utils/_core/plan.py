# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a wish and what is there to the steps between them. Pure: what check mode shows is what a run does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .board import check_board, hotplug_of
from .changes import Effect, check_change, differing, option_name, pending
from .disks import SYSTEM_DISK, Disk, DiskRecord, adopted, check_disk_changes, check_together
from .errors import CannotChange, InvalidSpec, NoImage, Unsupported
from .features import Features
from .live import Change, Live, lacks_step, live_changes
from .spec import VmSpec
from .state import Goal, Verb, VmState
from .vm import Vm, predict_vm, show_options, show_sides, show_vm

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
    discards: tuple[str, ...] = ()  # names of disks to delete
    running: VmSpec | None = None  # what it has once they are made
    restart_required: bool = False
    restart_reasons: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()  # options that the suspended machine takes up when it goes on
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
    after = _state_after(state, verbs)
    if found is not None and _stays_suspended(found, verbs, after):
        live = _postponed(spec, found, features)
    elif found is not None and Verb.CHANGE not in verbs:
        live = _unchanged(spec, found, live)
    discards = _detached(spec, power, found, verbs, live)
    if discards:
        verbs += (Verb.DISCARD,)
    if power.wait_for in ("ip", "ssh"):
        _check_reachable(spec, found, verbs, live)
    steps = tuple(Step(verb, _patience(verb, verbs, power)) for verb in verbs)
    reasons = _restart_reasons(found, verbs, after, live)
    if found is not None and power.apply != "next_start":
        reasons = _explained(reasons, spec, found, features)
    before, shown = _show_sides(spec, found, live, tag, after)
    if discards:  # else what is detached is of no concern
        before = {**before, "detached_disks": list(discards)}
        shown = {**shown, "detached_disks": []}
    plan = Plan(
        spec=spec,
        steps=steps,
        state=after,
        before=before,
        after=shown,
        changes=live.changes,
        discards=discards,
        running=live.becomes,
        restart_required=bool(reasons),
        restart_reasons=reasons,
        deferred=tuple(map(option_name, live.deferred)),
    )
    return replace(plan, predicted=_predict(plan, found, tag))


def _complete(wish: VmSpec, found: Vm | None, power: Power, features: Features) -> VmSpec:
    goal = power.goal
    if found is None:
        if goal is not Goal.ABSENT and features.needs_image and wish.image is None:
            raise NoImage(
                f"There is no VM '{wish.name}', and no image to create it from.", option="image"
            )
        spec = features.completed(wish)
        _check_parts(spec, wish)
        return spec
    if goal is Goal.ABSENT:
        return found.handle.spec
    handle = found.handle
    if wish.backend not in (None, handle.backend):
        raise CannotChange(
            f"backend: the VM '{wish.name}' was created by the backend {handle.backend}.",
            option="backend",
        )
    spec = features.supported(wish.over(handle.spec))
    sizes = _disk_sizes(found)
    if spec.disks is not None:
        spec = replace(spec, disks=_complete_disks(wish, spec, power, found, sizes))
    if handle.spec.disk_size is None and spec.disk_size == handle.disk_bytes:
        spec = replace(spec, disk_size=None)  # the size that it has anyway
    check_change(handle.spec, spec, sizes.get(SYSTEM_DISK), handle.ssh_host_port)
    _check_parts(spec, wish)
    return spec


def _complete_disks(
    wish: VmSpec, spec: VmSpec, power: Power, found: Vm, sizes: Mapping[str, int]
) -> tuple[Disk, ...]:
    """Return the disks that the machine is to have, complete."""
    made, old = found.handle.disks, found.handle.spec.disks or ()
    check_disk_changes(wish.name, wish.disks or (), old, made, sizes)
    known = {disk.name: disk for disk in old}
    disks: list[Disk] = []
    for asked in spec.disks or ():
        before = known.get(asked.name)
        disk = asked if before else adopted(asked, made.get(asked.name))
        if before and before.size is None and disk.size == sizes.get(disk.name):
            disk = replace(disk, size=None)  # the size that it has anyway
        disks.append(disk.completed())
    if power.detach_unlisted and wish.disks is not None:
        listed = {SYSTEM_DISK, *(disk.name for disk in wish.disks)}
        disks = [disk for disk in disks if disk.name in listed]
    return tuple(disks)


def _disk_sizes(found: Vm) -> dict[str, int]:
    """Return how large the disks are: as recorded, or as the running machine says if that is more."""
    sizes = {name: record.size for name, record in found.handle.disks.items()}
    if found.handle.disk_bytes is not None:
        sizes[SYSTEM_DISK] = found.handle.disk_bytes
    seen = found.facts.disks if found.facts and found.facts.disks else {}
    return {name: max(size, seen.get(name, 0)) for name, size in sizes.items()}


def _check_parts(spec: VmSpec, wish: VmSpec) -> None:
    """Raise ``InvalidSpec`` for options that do not go together."""
    check_together(spec.disks or (), wish.disks or ())
    for field, most in (("vcpus", spec.vcpus_max), ("memory_mib", spec.memory_max_mib)):
        value = getattr(spec, field)
        if value is not None and most is not None and value > most:
            option, unit = option_name(field), "" if field == "vcpus" else " MiB"
            raise InvalidSpec(
                f"{option}: {value}{unit} is more than {option}_max, which is {most}{unit}.",
                f"Ask for less, or raise {option}_max too.",
                option=option,
            )


def _check_features(wish: VmSpec, spec: VmSpec, goal: Goal, tag: str, features: Features) -> None:
    for name in features.refused(wish):
        raise _unsupported(option_name(name), tag)
    for index, network in enumerate(spec.networks or ()):
        if network.type not in features.network_types:
            raise _unsupported(f"networks[{index}].type={network.type}", tag)
        if network.model not in features.network_models:
            raise _unsupported(f"networks[{index}].model={network.model}", tag)
        if not network.connected and not features.cables:
            raise _unsupported(f"networks[{index}].connected=false", tag)
    if goal is Goal.SUSPENDED and not features.suspend:
        raise _unsupported("state=suspended", tag)
    if spec.accelerator not in (None, "auto", *features.accelerators):
        raise _unsupported(f"accelerator={spec.accelerator}", tag)
    check_board(spec)


def _check_reachable(spec: VmSpec, found: Vm | None, verbs: tuple[Verb, ...], live: Live) -> None:
    starts = found is None or Verb.START in verbs
    running = spec if starts else live.becomes
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
    can = hotplug_of(found.actual.machine, features.hotplug)
    return live_changes(found.actual, spec, can, found.facts)


def _verbs(spec: VmSpec, power: Power, found: Vm | None, live: Live) -> tuple[Verb, ...]:
    state = found.state if found else VmState.DESTROYED
    verbs = STEPS[state, power.goal]
    if found is None or power.goal is Goal.ABSENT:
        return verbs
    if state is VmState.FAILED and found.can_go_on and power.goal is Goal.STARTED:
        verbs = _RESUME
    if power.force and verbs[:2] == _RESUME + _STOP:
        verbs = verbs[1:]  # a power cut needs no guest that listens
    if live.waiting and power.apply == "restart":
        verbs = _with_restart(state, verbs)
    if Verb.PREPARE not in verbs and _needs_update(found, spec):
        verbs = _insert_update(verbs)
    goes_on = _state_after(state, verbs) is VmState.RUNNING
    if live.changes and goes_on and not {Verb.START, Verb.STOP}.intersection(verbs):
        verbs += (Verb.CHANGE,)
    return verbs


def _unchanged(spec: VmSpec, found: Vm, live: Live) -> Live:
    """Return the same with nothing done to the running machine."""
    return Live(found.actual, (), pending(found.actual, spec)) if live.changes else live


def _stays_suspended(found: Vm, verbs: tuple[Verb, ...], after: VmState) -> bool:
    """Tell whether the process that runs is suspended in the end."""
    return after is VmState.SUSPENDED and found.state.has_process and Verb.START not in verbs


def _postponed(spec: VmSpec, found: Vm, features: Features) -> Live:
    """Return the same with nothing done, and what can be done once the machine goes on."""
    actual = found.actual
    can = hotplug_of(actual.machine, features.hotplug)
    waiting = live_changes(actual, spec, can, found.facts).waiting
    deferred = tuple(name for name in pending(actual, spec) if name not in waiting)
    return Live(actual, (), waiting, deferred)


def _detached(
    spec: VmSpec, power: Power, found: Vm | None, verbs: tuple[Verb, ...], live: Live
) -> tuple[str, ...]:
    """Return the disks to delete: those that were made and that nothing has any more once the other steps are done."""
    if not power.delete_detached or found is None or power.goal is Goal.ABSENT:
        return ()
    kept = {disk.name for disk in spec.disks or ()}
    if found.state.has_process and Verb.STOP not in verbs:
        kept |= {disk.name for disk in live.becomes.disks or ()}
    return tuple(name for name in found.handle.disks if name not in kept)


def _show_sides(
    spec: VmSpec, found: Vm | None, live: Live, tag: str, after: VmState
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return both sides of the diff."""
    if found is None:
        return show_sides({}, show_options(spec, tag, after))
    before = show_options(_seen_before(found, live), tag, found.state)
    shown = show_options(spec, tag, after, found.handle.spec)
    return show_sides(before, shown)


def _seen_before(found: Vm, live: Live) -> VmSpec:
    """Return the options as recorded, but those that are repaired as somebody else has left them in the running machine."""
    spec, actual = found.handle.spec, found.actual
    for name in pending(actual, found.handle.booted or spec):
        if getattr(live.becomes, name) != getattr(actual, name):
            spec = replace(spec, **{name: getattr(actual, name)})
    return spec


def _with_restart(state: VmState, verbs: tuple[Verb, ...]) -> tuple[Verb, ...]:
    """Let a machine that runs, or is about to go on, start anew; one that stays suspended is left alone."""
    if state is VmState.RUNNING and verbs in ((), _SUSPEND):
        return _STOP + _START + verbs
    if state is VmState.SUSPENDED and verbs == _RESUME:
        return _RESUME + _STOP + _START
    return verbs


def _needs_update(found: Vm, new: VmSpec) -> bool:
    lacking = {disk.name for disk in new.disks or ()} - {SYSTEM_DISK, *found.handle.disks}
    changed = differing(found.handle.spec, new, Effect.AT_ONCE, Effect.LIVE, Effect.NEXT_START)
    return bool(changed or lacking)


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


def _explained(
    reasons: tuple[str, ...], spec: VmSpec, found: Vm, features: Features
) -> tuple[str, ...]:
    """Return the reasons with a word on the one that could have been avoided."""
    actual = found.actual
    can = hotplug_of(actual.machine, features.hotplug)
    if not lacks_step(actual, spec, can):
        return reasons
    step = f"memory (a running machine gets more only in steps of {can.memory_step} MiB)"
    return tuple(step if reason == "memory" else reason for reason in reasons)


def _predict(plan: Plan, found: Vm | None, tag: str) -> Mapping[str, Any]:
    spec, after, verbs = plan.spec, plan.state, {step.verb for step in plan.steps}
    if found is None or after is VmState.DESTROYED:
        return predict_vm(spec, tag, after)
    handle = found.handle.evolve(spec=spec, booted=spec if Verb.START in verbs else plan.running)
    handle = handle.evolve(**_predict_disks(plan, found, verbs))
    if not {Verb.STOP, Verb.START}.isdisjoint(verbs):  # what the next process is like, nobody knows
        handle = handle.evolve(accelerator=None, accelerator_reason=None, stopped_by=None)
        return show_vm(Vm(handle, after))
    kept_state = found.run_state if after is found.state else None
    shown = show_vm(replace(found, handle=handle, state=after, run_state=kept_state, facts=None))
    if found.hotplug is not None:  # how much room there is, the facts have told
        shown["restart_required"] = plan.restart_required
    return shown


def _predict_disks(plan: Plan, found: Vm, verbs: set[Verb]) -> Mapping[str, Any]:
    """Return the fields of the record that tell of the disks, as they will be. A disk that is yet to be made has no path."""
    handle, ends = found.handle, Verb.STOP in verbs or not found.state.has_process
    records = {name: r for name, r in handle.disks.items() if name not in plan.discards}
    for disk in plan.spec.disks or () if Verb.PREPARE in verbs else ():
        if disk.name != SYSTEM_DISK and disk.name not in records:
            records[disk.name] = DiskRecord("", disk.format or "qcow2", disk.size or 0, disk.image)
    sizes = {name: record.size for name, record in records.items()}
    if not ends:
        seen = _disk_sizes(found)
        sizes = {name: seen.get(name, size) for name, size in sizes.items()}
    disk_bytes = handle.disk_bytes if ends else _disk_sizes(found).get(SYSTEM_DISK)
    grown = None
    if Verb.START in verbs or (ends and Verb.PREPARE in verbs):
        grown = plan.spec
    elif Verb.CHANGE in verbs:
        grown = plan.running
    if grown is not None:
        for disk in grown.disks or ():
            if disk.name in sizes:
                sizes[disk.name] = max(sizes[disk.name], disk.size or 0)
        if grown.disk_size is not None:
            disk_bytes = max(disk_bytes or 0, grown.disk_size)
    disks = {name: replace(record, size=sizes[name]) for name, record in records.items()}
    return {"disks": disks, "disk_bytes": disk_bytes}
