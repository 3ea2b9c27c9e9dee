# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: what the modules do. Look, plan, and (unless in check mode) act."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ._core.apply import apply_plan
from ._core.errors import BadRecord, InvalidSpec, SshFailed, Unready, VmError
from ._core.hypervisor import Hypervisor
from ._core.layout import CONSOLE_LOG
from ._core.plan import Plan, Power, make_plan
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
    wish, power = read_wish(task.params)
    router = _router(task.params)
    if task.check_mode:
        return _predict(task, router, wish, power)
    return _carry_out(task, router, wish, power)


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
    )


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
    router: RouterHypervisor, wish: VmSpec, power: Power
) -> tuple[Plan, Vm | None, Hypervisor]:
    found = router.observe(wish.name)
    hypervisor = router.pick(wish.backend, found.handle if found else None)
    return make_plan(wish, power, found, hypervisor.tag, hypervisor.features), found, hypervisor


def _check(plan: Plan, found: Vm | None, hypervisor: Hypervisor) -> None:
    if {Verb.PREPARE, Verb.START} & {step.verb for step in plan.steps}:
        hypervisor.check(plan.spec, found.handle if found else None)


def _predict(task: Task, router: RouterHypervisor, wish: VmSpec, power: Power) -> dict[str, Any]:
    plan, found, hypervisor = _decide(router, wish, power)
    try:
        _check(plan, found, hypervisor)
    except Unready as exc:
        task.warnings.append(f"This task would fail now, unless an earlier one changes that: {exc}")
    fetches = _fetches(plan, found, hypervisor, router.store)
    return _result(task, plan, found, dict(plan.predicted), fetches)


def _carry_out(task: Task, router: RouterHypervisor, wish: VmSpec, power: Power) -> dict[str, Any]:
    wait_timeout = float(task.params["wait_timeout"])
    plan, found, hypervisor = _decide(router, wish, power)
    _check(plan, found, hypervisor)
    fetches = _fetches(plan, found, hypervisor, router.store)
    if plan.changed or not router.store.is_settled(wish.name):
        with router.store.lock(wish.name, wait_timeout):
            kept = router.store.sweep(wish.name)
            looked_at = plan.steps
            plan, found, hypervisor = _decide(router, wish, power)
            if plan.steps != looked_at:
                _check(plan, found, hypervisor)
            outcome = apply_plan(plan, hypervisor, found.handle if found else None)
            found = hypervisor.observe(outcome.handle) if outcome.handle else None
        task.warnings += [
            f"{path} was not made by this collection and is kept."
            for path in (*kept, *outcome.kept)
        ]
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


def _fetches(plan: Plan, found: Vm | None, hypervisor: Hypervisor, store: Store) -> bool:
    """Tell whether the image is not on this host yet."""
    makes_disk = found is None or found.state is VmState.PREPARING
    if not (makes_disk and Verb.PREPARE in (step.verb for step in plan.steps)):
        return False
    if not hypervisor.features.needs_image or os.path.isabs(plan.spec.image or "/"):
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
