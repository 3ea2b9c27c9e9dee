# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: what the modules do. Look, plan, and (unless in check mode) act."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ._arguments import VM
from ._autostart import HostUnits, is_handed_over, refresh_runner
from ._core.apply import apply_plan
from ._core.claims import Port
from ._core.decide import Seen, decide
from ._core.errors import (
    Busy,
    InvalidSpec,
    InvalidState,
    SshFailed,
    Unready,
    VmError,
)
from ._core.hypervisor import Hypervisor
from ._core.layout import CONSOLE_LOG
from ._core.plan import Plan, Power
from ._core.rename import present_name
from ._core.spec import VmSpec, check_name, spec_from_params
from ._core.state import Goal, Verb, VmState
from ._core.vm import Vm, predict_vm, show_vm
from ._describe import router_of
from ._host.store import Store
from ._image.provide import foresee_image
from ._image.source import parse_source, refuse_query
from ._module import Task
from ._router import RouterHypervisor


def manage_vm(task: Task) -> dict[str, Any]:
    """Bring a machine to what the task asks for."""
    asked = read_asked(task.params)
    router = router_of(task.params)
    units = HostUnits(router.store)
    if task.check_mode:
        looked, obstacle = foresee(router, asked, units)
        if obstacle is not None:
            task.would_fail(obstacle)
        return predict(task, looked, will_fetch(looked, router.store))
    return _carry_out(task, router, asked, units)


def at_boot(words: Sequence[str]) -> int:
    """Start a machine because its host boots, or stop it because the host goes down; return the exit status.

    ``words`` are start, the machine's name and the data folder; or stop, these two, and the guest's seconds.
    """
    verb, name, data_dir, *rest = words
    defaults = {option: item.get("default") for option, item in VM.items()}
    params = {**defaults, "name": name, "data_dir": data_dir}
    params |= {"state": "started"} if verb == "start" else {"state": "stopped"}
    if rest:
        params["stop_timeout"] = int(rest[0])
    store = Store(data_dir)
    try:
        if is_handed_over(store, name):
            return 0  # a task has just started the machine and knows better
        found = store.load(name)
        if found is None or found.state is VmState.PREPARING:
            raise InvalidState(f"There is no complete VM '{name}' in {data_dir}.")
        if verb == "stop":
            params["wait_timeout"] = 30  # a part of the time that systemd gives this command
        task = Task(params)
        result = _carry_out(task, router_of(params), read_asked(params), None)
    except VmError as exc:
        sys.stderr.write(f"{exc.message} {exc.help}\n")  # read by the journal
        return 1
    said = [f"{name}: {', '.join(result['actions']) or 'nothing to do'}", *task.warnings]
    sys.stdout.write("\n".join((*said, "")))
    return 0


def read_wish(params: Mapping[str, Any]) -> tuple[VmSpec, Power]:
    """Read a task's options; raise ``InvalidSpec`` for what makes no sense."""
    for option in ("stop_timeout", "wait_timeout"):
        if params[option] < 0:
            raise InvalidSpec(
                f"{option}: {params[option]} is negative.", "Give seconds from 0 on.", option=option
            )
    image = params.get("image")
    spec = spec_from_params(
        {**params, "image": None if image is None else refuse_query(parse_source(image)).text}
    )
    if spec.image_checksum is not None:
        from ._image.checksum import check_recordable

        check_recordable(spec.image_checksum)
    goal = Goal(params["state"])
    return spec, Power(
        goal,
        stop_timeout=float(params["stop_timeout"]),
        force=bool(params["force"]),
        wait_for=params["wait_for"] if goal.ends_running else "running",
        apply=params["apply"],
        detach_unlisted=params["unlisted_disks"] == "detach",
        delete_detached=bool(params["delete_detached_disks"]),
    )


@dataclass(frozen=True)
class Asked:
    """What the task asks for.

    ``others`` are the machines that it changes before this one, as they will be then; ``None`` for one that will be gone.
    ``released`` are the ports of the host that they give up.
    """

    wish: VmSpec
    power: Power
    new_name: str | None = None
    others: Mapping[str, Vm | None] = field(default_factory=dict)
    released: Set[Port] = frozenset()

    @property
    def names(self) -> set[str]:
        """The names that the machine has on the way."""
        return {self.wish.name, self.new_name or self.wish.name}


class Looked(NamedTuple):
    """What is to be done, what is there, and what would do it."""

    plan: Plan
    found: Vm | None
    hypervisor: Hypervisor


class Brought(NamedTuple):
    """A machine that was brought to its state, with the result, unless there is a guest to wait for."""

    result: dict[str, Any]
    found: Vm | None
    hypervisor: Hypervisor


def read_asked(params: Mapping[str, Any]) -> Asked:
    """Read a task's options; raise ``InvalidSpec`` for what makes no sense."""
    wish, power = read_wish(params)
    new_name: str | None = params.get("new_name")
    if new_name in (None, wish.name):
        return Asked(wish, power)
    if power.goal is Goal.ABSENT:
        raise InvalidSpec("new_name: a VM that is removed gets no name.", option="new_name")
    return Asked(wish, power, check_name(new_name or "", "new_name"))


def _decide(router: RouterHypervisor, asked: Asked, units: HostUnits | None) -> Looked:
    wish, power = asked.wish, asked.power
    found = router.observe(_present_name(router.store, asked))
    if units is not None and found is not None and found.handle.autostart_unit is not None:
        found = replace(found, unit_intact=units.is_intact(found.handle))
    source = None
    if wish.clone_from and (found is None or found.state is VmState.PREPARING):
        known = wish.clone_from in asked.others
        source = asked.others[wish.clone_from] if known else router.observe(wish.clone_from)
    tag = wish.backend or (source.handle.backend if source else None)
    hypervisor = router.pick(tag, found.handle if found else None)
    if asked.new_name is not None:
        wish = replace(wish, name=asked.new_name)
    plan = decide(wish, power, Seen(found, source), hypervisor.tag, hypervisor.features)
    return Looked(plan, found, hypervisor)


def _present_name(store: Store, asked: Asked) -> str:
    name, new_name = asked.wish.name, asked.new_name
    if new_name is None:
        return name
    return present_name((name, new_name), store.load(name), store.load(new_name))


def _check(looked: Looked, asked: Asked, units: HostUnits | None) -> None:
    plan, found, hypervisor = looked
    verbs = {step.verb for step in plan.steps}
    if {Verb.PREPARE, Verb.START, Verb.CHANGE} & verbs:
        hypervisor.check(plan.spec, found.handle if found else None)
    if {Verb.START, Verb.CHANGE} & verbs:
        becomes = (plan.spec if Verb.START in verbs else plan.running) or plan.spec
        hypervisor.check_start(becomes, found.handle if found else None, asked.released)
    enables = plan.spec.autostart and plan.state is not VmState.DESTROYED
    if Verb.AUTOSTART in verbs and enables and units is not None:
        units.check()


def checked(
    router: RouterHypervisor, asked: Asked, units: HostUnits | None, timeout: float
) -> Looked:
    """Decide and check without a lock: what another task has changed in between is looked at again.

    After ``timeout`` seconds, what was seen counts.
    """
    deadline = time.monotonic() + timeout
    while True:
        looked = _decide(router, asked, units)
        found = looked.found
        try:
            _check(looked, asked, units)
        except VmError:
            if found is None or time.monotonic() >= deadline:
                raise
            if router.store.load(found.handle.name) == found.handle:
                raise
        else:
            return looked


def foresee(
    router: RouterHypervisor, asked: Asked, units: HostUnits | None
) -> tuple[Looked, Unready | None]:
    """Decide and check for check mode: give what an earlier task may bring, if it is missing, as an error to warn of."""
    looked = _decide(router, asked, units)
    try:
        _check(looked, asked, units)
    except Unready as exc:
        return looked, exc
    return looked, None


def predict(task: Task, looked: Looked, fetches: bool) -> dict[str, Any]:
    """Return the result that the task would have."""
    plan, found, dummy_hypervisor = looked
    return _result(task, plan, found, dict(plan.predicted or {}), fetches)


@contextlib.contextmanager
def _locked(store: Store, names: Iterable[str], timeout: float) -> Iterator[list[str]]:
    """Keep other tasks off the machines, and finish their removals; give the paths of what was kept then."""
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        for name in sorted(names):  # everybody in the same order
            stack.enter_context(store.lock(name, max(0.0, deadline - time.monotonic())))
        yield [path for name in sorted(names) for path in store.sweep(name)]


def _carry_out(
    task: Task, router: RouterHypervisor, asked: Asked, units: HostUnits | None
) -> dict[str, Any]:
    brought = bring(task, router, asked, units)
    deadline = time.monotonic() + float(task.params["wait_timeout"])
    return await_guest(brought, asked.power.wait_for, deadline)


def bring(task: Task, router: RouterHypervisor, asked: Asked, units: HostUnits | None) -> Brought:
    """Look, plan and act; the guest is not waited for."""
    wait_timeout = float(task.params["wait_timeout"])
    looked = checked(router, asked, units, wait_timeout)
    fetches = will_fetch(looked, router.store)
    plan, found, hypervisor = looked
    if plan.changed or not _is_settled(router.store, asked, found):
        names = _touched(asked, plan, found)
        with _locked(router.store, names, wait_timeout) as kept:
            checked_steps = plan.steps
            looked = plan, found, hypervisor = _decide(router, asked, units)
            if not _touched(asked, plan, found) <= names:
                raise Busy(
                    f"Another task has just removed the VM '{asked.wish.name}', which would be cloned anew.",
                    "Run the task again.",
                )
            if plan.steps != checked_steps:
                _check(looked, asked, units)
            found = _recorded(router.store, found)
            try:
                outcome = apply_plan(plan, hypervisor, found.handle if found else None, units)
            except VmError as exc:
                _tell_what_was_done(exc, router, asked, found)
                raise
            started = Verb.START in (step.verb for step in plan.steps)
            found = hypervisor.observe(outcome.handle, started) if outcome.handle else None
            if units is not None:
                _look_after(task, router.store, plan, found, units)
        task.warnings += [
            f"{path} was not made by this collection and is kept."
            for path in (*kept, *outcome.kept)
        ]
    _collect_layers(task, router.store, plan, asked.power)
    shown = show_vm(found) if found else predict_vm(plan.spec, hypervisor.tag, plan.state)
    return Brought(_result(task, plan, found, shown, fetches), found, hypervisor)


def await_guest(brought: Brought, what: str, deadline: float) -> dict[str, Any]:
    """Wait until the guest has an address, and for its SSH server if that is asked for; return the result as it is then.

    ``what`` is the option wait_for, ``deadline`` a time of ``time.monotonic()``.
    """
    result, vm, hypervisor = brought
    if what == "running" or vm is None:
        return result
    try:
        vm = hypervisor.await_address(vm, deadline)
        if what == "ssh" and vm.handle.backend != "noop":
            _wait_for_ssh(vm, deadline)
        vm = hypervisor.observe(vm.handle)  # more is known by now
    except VmError as exc:
        exc.result = result
        raise
    return {**result, "vm": show_vm(vm)}


def _is_settled(store: Store, asked: Asked, found: Vm | None) -> bool:
    """Tell whether no other task works on the machine, and no killed one left anything to be finished or taken away."""
    is_complete = found is None or not found.unrecorded
    return is_complete and all(map(store.is_settled, asked.names))


def _recorded(store: Store, found: Vm | None) -> Vm | None:
    """Record what a start that was cut off has left open."""
    if found is None or not found.unrecorded:
        return found
    return replace(found, handle=store.save(found.handle.evolve(**found.unrecorded)))


def _tell_what_was_done(
    exc: VmError, router: RouterHypervisor, asked: Asked, found: Vm | None
) -> None:
    """Complete the result of a task that failed between its steps: what it changed, and how the machine is left."""
    before = found.handle if found else None
    done = list(exc.result.get("actions", ()))
    try:
        name = _present_name(router.store, asked)
        record, now = router.store.load(name), router.observe(name)
    except VmError:
        exc.result = {"changed": True, "actions": done}  # it was readable before
        return
    exc.result = {"changed": bool(done) or record != before, "actions": done}
    if now is None:
        return
    exc.result = {**exc.result, "vm": show_vm(now)}
    if Verb.STOP.value in done and not now.state.has_process:
        exc.message += f" The VM '{name}' was stopped before that and is off now."


def _touched(asked: Asked, plan: Plan, found: Vm | None) -> set[str]:
    """Return the names of the machines that the plan looks into or changes: a clone is made from another one."""
    source = source_of(plan, found)
    return asked.names | (set() if source is None else {source})


def source_of(plan: Plan, found: Vm | None) -> str | None:
    """Return the name of the machine that the plan clones, if it does."""
    begins = found is None or found.state is VmState.PREPARING
    prepares = Verb.PREPARE in (step.verb for step in plan.steps)
    return plan.spec.clone_from if begins and prepares else None


def _collect_layers(task: Task, store: Store, plan: Plan, power: Power) -> None:
    """Remove what linked clones shared, where the last of them may be gone; also what a killed task has left."""
    verbs = {step.verb for step in plan.steps}
    links = Verb.PREPARE in verbs and plan.spec.clone_mode == "linked"
    if power.goal is not Goal.ABSENT and Verb.DISCARD not in verbs and not links:
        return
    from ._image.layers import Layers

    try:
        task.warnings += Layers(store).collect()
    except VmError as exc:
        task.warnings.append(f"Layers that no machine needs are still there: {exc}")


def _look_after(task: Task, store: Store, plan: Plan, found: Vm | None, units: HostUnits) -> None:
    """Have the host's systemd know what runs now, and what will start it be able to read what was recorded."""
    if not plan.changed:
        return
    refresh_runner(store)
    if found is not None and {Verb.START, Verb.AUTOSTART} & {step.verb for step in plan.steps}:
        failure = units.adopt(found)
        task.warnings += [failure] if failure else []


def will_fetch(looked: Looked, store: Store) -> bool:
    """Tell whether the image is not on this host yet."""
    plan, found, hypervisor = looked
    makes_disk = found is None or found.state is VmState.PREPARING
    if plan.spec.clone_from or Verb.PREPARE not in (step.verb for step in plan.steps):
        return False
    if not makes_disk or not hypervisor.features.needs_image:
        return False
    if os.path.isabs(plan.spec.image or "/"):
        return False
    return foresee_image(plan.spec, store.data_dir) is None


def _result(
    task: Task, plan: Plan, found: Vm | None, shown: dict[str, Any], fetches: bool
) -> dict[str, Any]:
    if plan.restart_required:
        options = ", ".join(plan.restart_reasons)
        task.warnings.append(
            f"The VM '{plan.spec.name}' must be restarted for these options to apply: {options}."
        )
    if plan.deferred:
        options = ", ".join(plan.deferred)
        task.warnings.append(
            f"The VM '{plan.spec.name}' is suspended; these options apply when a task lets it go on: {options}."
        )
    task.warnings += found.warnings if found else ()
    return {
        "changed": plan.changed,
        "actions": ["fetch", *plan.actions] if fetches else plan.actions,
        "diff": {"before": plan.before, "after": plan.after},
        "restart_required": plan.restart_required,
        "vm": shown,
    }


def _wait_for_ssh(vm: Vm, deadline: float) -> None:
    from ._guest.readiness import wait_for_ssh
    from ._host.files import read_tail
    from ._host.processes import Process

    ssh = show_vm(vm)["ssh"]
    process = Process.open(vm.pid) if vm.pid else None
    try:
        wait_for_ssh(ssh["host"], ssh["port"], deadline, process.fd if process else None)
    except SshFailed as exc:
        tail = read_tail(os.path.join(vm.handle.work_dir, CONSOLE_LOG), 2000)
        raise SshFailed(
            f"The VM '{vm.handle.name}': {exc.message}", exc.help, **exc.details, console=tail
        ) from exc
    finally:
        if process is not None:
            os.close(process.fd)
