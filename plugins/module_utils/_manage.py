# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: what the modules do. Look, plan, and (unless in check mode) act."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ._arguments import VM
from ._autostart import HostUnits, is_handed_over, refresh_runner
from ._core.apply import apply_plan
from ._core.decide import Seen, decide
from ._core.errors import BadRecord, Busy, InvalidSpec, InvalidState, SshFailed, Unready, VmError
from ._core.hypervisor import Hypervisor
from ._core.layout import CONSOLE_LOG
from ._core.plan import Plan, Power
from ._core.rename import present_name
from ._core.spec import VmSpec, check_name, spec_from_params
from ._core.state import Goal, Verb, VmState
from ._core.vm import Vm, predict_vm, show_vm
from ._host.store import Store, default_data_dir
from ._image.provide import foresee_image
from ._image.source import parse_source, refuse_query
from ._module import Task
from ._router import RouterHypervisor


def manage_vm(task: Task) -> dict[str, Any]:
    """Bring a machine to what the task asks for."""
    asked = _read(task.params)
    router = _router(task.params)
    if task.check_mode:
        return _predict(task, router, asked)
    return _carry_out(task, router, asked, HostUnits(router.store))


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
        result = _carry_out(task, _router(params), _read(params), None)
    except VmError as exc:
        sys.stderr.write(f"{exc.message} {exc.help}\n")  # read by the journal
        return 1
    said = [f"{name}: {', '.join(result['actions']) or 'nothing to do'}", *task.warnings]
    sys.stdout.write("\n".join((*said, "")))
    return 0


def describe_vms(task: Task) -> dict[str, Any]:
    """Return the machines with the given names, or all; none for a name that no machine has."""
    _check_path("data_dir", task.params.get("data_dir"))
    router = _router(task.params)
    names = task.params.get("name")
    wanted = (
        router.store.names()
        if names is None
        else [check_name(name) for name in dict.fromkeys(names)]
    )
    return {"changed": False, "vms": [show_vm(vm) for vm in _observe_all(task, router, wanted)]}


def read_wish(params: Mapping[str, Any]) -> tuple[VmSpec, Power]:
    """Read a task's options; raise ``InvalidSpec`` for what makes no sense."""
    for option in ("stop_timeout", "wait_timeout"):
        if params[option] < 0:
            raise InvalidSpec(
                f"{option}: {params[option]} is negative.", "Give seconds from 0 on.", option=option
            )
    _check_path("data_dir", params.get("data_dir"))
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
    """What the task asks for."""

    wish: VmSpec
    power: Power
    new_name: str | None = None

    @property
    def names(self) -> set[str]:
        """The names that the machine has on the way."""
        return {self.wish.name, self.new_name or self.wish.name}


def _read(params: Mapping[str, Any]) -> Asked:
    wish, power = read_wish(params)
    new_name: str | None = params.get("new_name")
    if new_name in (None, wish.name):
        return Asked(wish, power)
    if power.goal is Goal.ABSENT:
        raise InvalidSpec("new_name: a VM that is removed gets no name.", option="new_name")
    return Asked(wish, power, check_name(new_name or "", "new_name"))


def _check_path(option: str, path: str | None) -> None:
    # A module runs in whatever folder the connection begins in: a relative path would mean another file each time.
    if path == "" and option == "data_dir":
        return  # as if it were left out, which templates like to say so
    if path is not None and (not os.path.isabs(path) or "\0" in path):
        raise InvalidSpec(
            f"{option}: {path!r} is not an absolute path.",
            "Give a path that begins with a slash or with ~.",
            option=option,
        )


def _router(params: Mapping[str, Any]) -> RouterHypervisor:
    return RouterHypervisor(Store(params.get("data_dir") or default_data_dir()))


def _decide(
    router: RouterHypervisor, asked: Asked, units: HostUnits | None
) -> tuple[Plan, Vm | None, Hypervisor]:
    wish, power = asked.wish, asked.power
    found = router.observe(_present_name(router.store, asked))
    if units is not None and found is not None and found.handle.autostart_unit is not None:
        found = replace(found, unit_intact=units.is_intact(found.handle))
    source = None
    if wish.clone_from and (found is None or found.state is VmState.PREPARING):
        source = router.observe(wish.clone_from)
    tag = wish.backend or (source.handle.backend if source else None)
    hypervisor = router.pick(tag, found.handle if found else None)
    if asked.new_name is not None:
        wish = replace(wish, name=asked.new_name)
    plan = decide(wish, power, Seen(found, source), hypervisor.tag, hypervisor.features)
    return plan, found, hypervisor


def _present_name(store: Store, asked: Asked) -> str:
    name, new_name = asked.wish.name, asked.new_name
    if new_name is None:
        return name
    return present_name((name, new_name), store.load(name), store.load(new_name))


def _check(plan: Plan, found: Vm | None, hypervisor: Hypervisor, units: HostUnits | None) -> None:
    verbs = {step.verb for step in plan.steps}
    if {Verb.PREPARE, Verb.START, Verb.CHANGE} & verbs:
        hypervisor.check(plan.spec, found.handle if found else None)
    if {Verb.START, Verb.CHANGE} & verbs:
        becomes = plan.spec if Verb.START in verbs else plan.running
        hypervisor.check_start(becomes or plan.spec, found.handle if found else None)
    enables = plan.spec.autostart and plan.state is not VmState.DESTROYED
    if Verb.AUTOSTART in verbs and enables and units is not None:
        units.check()


def _checked(
    router: RouterHypervisor, asked: Asked, units: HostUnits | None, timeout: float
) -> tuple[Plan, Vm | None, Hypervisor]:
    """Decide and check without a lock: what another task has changed in between is looked at again.

    After ``timeout`` seconds, what was seen counts.
    """
    deadline = time.monotonic() + timeout
    while True:
        plan, found, hypervisor = _decide(router, asked, units)
        try:
            _check(plan, found, hypervisor, units)
        except VmError:
            if found is None or time.monotonic() >= deadline:
                raise
            if router.store.load(found.handle.name) == found.handle:
                raise
        else:
            return plan, found, hypervisor


def _predict(task: Task, router: RouterHypervisor, asked: Asked) -> dict[str, Any]:
    units = HostUnits(router.store)
    plan, found, hypervisor = _decide(router, asked, units)
    try:
        _check(plan, found, hypervisor, units)
    except Unready as exc:
        task.would_fail(exc)
    fetches = _fetches(plan, found, hypervisor, router.store)
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
    wait_timeout = float(task.params["wait_timeout"])
    power = asked.power
    plan, found, hypervisor = _checked(router, asked, units, wait_timeout)
    fetches = _fetches(plan, found, hypervisor, router.store)
    if plan.changed or not all(map(router.store.is_settled, asked.names)):
        names = _touched(asked, plan, found)
        with _locked(router.store, names, wait_timeout) as kept:
            looked_at = plan.steps
            plan, found, hypervisor = _decide(router, asked, units)
            if not _touched(asked, plan, found) <= names:
                raise Busy(
                    f"Another task has just removed the VM '{asked.wish.name}', which would be cloned anew.",
                    "Run the task again.",
                )
            if plan.steps != looked_at:
                _check(plan, found, hypervisor, units)
            try:
                outcome = apply_plan(plan, hypervisor, found.handle if found else None, units)
            except VmError as exc:
                _tell_what_was_done(exc, router, asked, found)
                raise
            found = hypervisor.observe(outcome.handle) if outcome.handle else None
            if units is not None:
                _look_after(task, router.store, plan, found, units)
        task.warnings += [
            f"{path} was not made by this collection and is kept."
            for path in (*kept, *outcome.kept)
        ]
    _collect_layers(task, router.store, plan, power)
    shown = show_vm(found) if found else predict_vm(plan.spec, hypervisor.tag, plan.state)
    result = _result(task, plan, found, shown, fetches)
    if power.wait_for != "running" and found is not None:
        try:
            found = _wait_for_guest(hypervisor, found, power.wait_for, wait_timeout)
        except VmError as exc:
            exc.result = result
            raise
        result["vm"] = show_vm(found)
    return result


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
    begins = found is None or found.state is VmState.PREPARING
    return asked.names | ({plan.spec.clone_from} if plan.spec.clone_from and begins else set())


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


def _fetches(plan: Plan, found: Vm | None, hypervisor: Hypervisor, store: Store) -> bool:
    """Tell whether the image is not on this host yet."""
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


def _wait_for_guest(hypervisor: Hypervisor, vm: Vm, what: str, timeout: float) -> Vm:
    """Wait until the guest has an address, and for its SSH server if that is asked for; return the machine as it is then."""
    deadline = time.monotonic() + timeout
    vm = hypervisor.await_address(vm, deadline)
    if what == "ssh" and vm.handle.backend != "noop":
        _wait_for_ssh(vm, deadline)
    return hypervisor.observe(vm.handle)  # more is known by now


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


def _observe_all(task: Task, router: RouterHypervisor, names: list[str]) -> Iterator[Vm]:
    for name in names:
        try:
            vm = router.observe(name)
        except BadRecord as exc:
            task.warnings.append(str(exc))
            continue
        except VmError as exc:
            task.warnings.append(f"The VM '{name}' cannot be looked at: {exc}")
            continue
        if vm is not None:
            task.warnings += vm.warnings
            yield vm
