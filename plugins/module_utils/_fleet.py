# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: what the module vm_fleet does. Look at all machines, act on one after the other, then wait."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ._arguments import HOST, VM
from ._autostart import HostUnits
from ._core.claims import Claim, Port, claims, released_ports
from ._core.clone import source_after
from ._core.errors import (
    Defect,
    FleetFailed,
    FleetRefused,
    InvalidSpec,
    InvalidState,
    Unready,
    VmError,
)
from ._core.state import Goal, VmState
from ._core.vm import Vm
from ._describe import router_of
from ._image.provide import foresee_image
from ._manage import (
    Asked,
    Brought,
    Looked,
    await_guest,
    bring,
    checked,
    foresee,
    predict,
    read_asked,
    source_of,
    will_fetch,
)
from ._module import Task, typed
from ._router import RouterHypervisor

_LAST_CHANCE = 5.0  # seconds for a guest whose time has passed while others were waited for
_OF_ONE = {name: item for name, item in VM.items() if name not in HOST}
_OF_ALL = {name: item for name, item in _OF_ONE.items() if name not in ("name", "new_name")}


@dataclass
class _Entry:
    """One machine of the task, and what has become of it."""

    place: str  # such as vms[0]
    given: Mapping[str, Any]
    defaults: Mapping[str, Any]
    task: Task
    asked: Asked
    looked: Looked | None = None
    brought: Brought | None = None
    begun: float = 0.0  # when its guest began to boot at the latest, of time.monotonic()
    result: Mapping[str, Any] = field(default_factory=dict)
    error: VmError | None = None

    @property
    def name(self) -> str:
        return self.asked.wish.name

    @contextlib.contextmanager
    def keeping_errors(self) -> Iterator[None]:
        """Keep an error for the end: the other machines go on."""
        try:
            yield
        except VmError as exc:
            self.error = _placed(exc, self.place, self.given, self.defaults)
            self.result = exc.result
        except Exception as exc:
            self.error = Defect(f"Unexpected error: {exc!r}")
            self.error.__cause__ = exc


def manage_fleet(task: Task) -> dict[str, Any]:
    """Bring several machines to what the task asks for."""
    entries = _read(task)
    router = router_of(task.params)
    units = HostUnits(router.store)
    _look(task, entries, router, units)
    if not task.check_mode:
        for entry in entries:
            with entry.keeping_errors():
                _refuse_failed_source(entry, entries)
                entry.brought = bring(entry.task, router, entry.asked, units)
                entry.result, entry.begun = entry.brought.result, time.monotonic()
        for entry in entries:
            with entry.keeping_errors():
                _await(entry)
    result = _result(entries)
    _raise_errors(task, entries, FleetFailed, "failed.", result)
    return result


def _read(task: Task) -> list[_Entry]:
    """Read all options; raise ``InvalidSpec`` for the first that makes no sense, with its path."""
    defaults = typed(task.params.get("defaults") or {}, _OF_ALL, "defaults")
    entries = [
        _read_entry(f"vms[{index}]", given, defaults, task)
        for index, given in enumerate(task.params["vms"])
    ]
    seen: dict[str, _Entry] = {}
    for entry in entries:
        for name in sorted(entry.asked.names):
            if name in seen:
                option = "name" if name == entry.name else "new_name"
                raise _invalid(
                    entry, option, f"the VM '{name}' is there twice, see {seen[name].place}."
                )
        seen |= dict.fromkeys(entry.asked.names, entry)
    _refuse_later_sources(entries, seen)
    return entries


def _read_entry(
    place: str, given: Mapping[str, Any], defaults: Mapping[str, Any], task: Task
) -> _Entry:
    own = typed(given, _OF_ONE, place)
    if own.get("name") is None:
        raise InvalidSpec(f"{place}.name: each VM needs one.", option=f"{place}.name")
    wanted = {name: value for name, value in {**defaults, **own}.items() if value is not None}
    params = {name: item.get("default") for name, item in VM.items()}
    params |= {**wanted, "data_dir": task.params.get("data_dir")}
    try:
        asked = read_asked(params)
    except InvalidSpec as exc:
        raise _placed(exc, place, own, defaults) from exc
    # The warnings of all machines are those of the task.
    return _Entry(place, own, defaults, Task(params, task.check_mode, task.warnings), asked)


def _refuse_later_sources(entries: Sequence[_Entry], by_name: Mapping[str, _Entry]) -> None:
    before: set[str] = set()
    for entry in entries:
        source = entry.asked.wish.clone_from
        if source in by_name and source not in before:
            what = f"the VM '{source}' comes later in the same task."
            raise _invalid(entry, "clone_from", what, "Put it before its clones.")
        before |= entry.asked.names


def _look(
    task: Task, entries: Sequence[_Entry], router: RouterHypervisor, units: HostUnits
) -> None:
    """Decide and check for all machines, as each will find the host when its turn comes. Touches nothing."""
    sources = {entry.asked.wish.clone_from for entry in entries}
    others: dict[str, Vm | None] = {}
    released: set[Port] = set()
    images: set[str | None] = set()
    for entry in entries:
        asked = replace(entry.asked, others=others, released=released)
        with entry.keeping_errors():
            if task.check_mode:
                entry.looked, obstacle = foresee(router, asked, units)
                if obstacle is not None:
                    task.would_fail(_placed(obstacle, entry.place, entry.given, entry.defaults))
                fetches = will_fetch(entry.looked, router.store)
                image = entry.looked.plan.spec.image
                entry.result = predict(entry.task, entry.looked, fetches and image not in images)
                images |= {image} if fetches else set()
            else:
                timeout = float(entry.task.params["wait_timeout"])
                entry.looked = checked(router, asked, units, timeout)
            if entry.looked.plan.changed:
                after = _after(entry.looked, router, is_source=not sources.isdisjoint(asked.names))
                others |= {**dict.fromkeys(asked.names), entry.looked.plan.spec.name: after}
                released |= released_ports(entry.looked.plan, entry.looked.found)
    what = "cannot be as the task asks; nothing was touched."
    _raise_errors(task, entries, FleetRefused, what, {"changed": False})
    _refuse_clashes(entries)


def _after(looked: Looked, router: RouterHypervisor, is_source: bool) -> Vm | None:
    """Return a machine as it will be when all is done; what only its clones depend on, if it is to be cloned."""
    plan, found, hypervisor = looked
    image = None
    begins = found is None or found.state is VmState.PREPARING
    if is_source and begins and hypervisor.features.needs_image and not plan.spec.clone_from:
        with contextlib.suppress(Unready):  # which check mode has warned of
            image = foresee_image(plan.spec, router.store.data_dir)
    if image is not None:
        plan = replace(plan, spec=replace(plan.spec, image_format=image.format))
    return source_after(plan, found, hypervisor.tag, image.virtual_size if image else None)


def _refuse_clashes(entries: Sequence[_Entry]) -> None:
    """Raise ``InvalidSpec`` if two machines that may run at the same time want the same of the host."""
    owners: dict[str, list[tuple[Claim, _Entry]]] = {}
    for entry in entries:
        if entry.looked is None or entry.asked.power.goal in (Goal.ABSENT, Goal.STOPPED):
            continue
        found = entry.looked.found
        for claim in claims(entry.looked.plan.spec, found.handle if found else None):
            known = owners.setdefault(claim.what, [])
            for other, owner in known:
                if owner is not entry and claim.clashes(other):
                    what = f"{claim.what} is also that of the VM '{owner.name}' ({owner.place})."
                    help_text = "Give each its own, or state=stopped to all but one."
                    raise _invalid(entry, claim.option, what, help_text)
            known.append((claim, entry))


def _refuse_failed_source(entry: _Entry, entries: Sequence[_Entry]) -> None:
    """Raise ``InvalidState`` if a machine would be made from one whose own change has failed."""
    if entry.looked is None:
        return
    source = source_of(entry.looked.plan, entry.looked.found)
    if any(source in other.asked.names for other in entries if other.error is not None):
        raise InvalidState(
            f"clone_from: the VM '{source}' failed in this task.",
            "Mend that one first, then run the task again.",
            option="clone_from",
        )


def _await(entry: _Entry) -> None:
    """Wait for a guest as long as the task says, counted from its own start."""
    if entry.brought is None:
        return
    timeout = float(entry.task.params["wait_timeout"])
    ends, now = entry.begun + timeout, time.monotonic()
    deadline = max(ends, now + min(_LAST_CHANCE, timeout))
    try:
        entry.result = await_guest(entry.brought, entry.asked.power.wait_for, deadline)
    except VmError as exc:
        if now >= ends and time.monotonic() >= deadline:
            exc.message += (
                " Its wait_timeout had passed before, while the task was busy with other VMs."
            )
        raise


def _result(entries: Sequence[_Entry]) -> dict[str, Any]:
    changed = {
        entry.name: entry.result.get("diff", {}) for entry in entries if entry.result.get("changed")
    }
    return {
        "changed": bool(changed),
        "vms": [entry.result["vm"] for entry in entries if "vm" in entry.result],
        "results": [
            {
                "name": entry.name,
                "changed": entry.result.get("changed", False),
                "actions": list(entry.result.get("actions", ())),
                "restart_required": entry.result.get("restart_required", False),
            }
            for entry in entries
        ],
        "diff": {
            side: {name: diff[side] for name, diff in changed.items() if diff.get(side)}
            for side in ("before", "after")
        },
    }


def _raise_errors(
    task: Task,
    entries: Sequence[_Entry],
    kind: type[VmError],
    what: str,
    result: Mapping[str, Any],
) -> None:
    """Raise one error for all that were kept, if there are any: the first that nobody expected, if there is one."""
    errors = {entry.name: entry.error for entry in entries if entry.error is not None}
    if not errors:
        return
    words = [f"{name}: {error.message}" for name, error in errors.items()]
    help_text = next(iter(errors.values())).help if len(errors) == 1 else None
    failure = kind(" ".join((f"{len(errors)} of {len(entries)} VMs {what}", *words)), help_text)
    shown = {name: {"msg": error.message, **error.as_dict()} for name, error in errors.items()}
    failure.result = task.done = {**result, "errors": shown}
    for error in errors.values():
        if isinstance(error, Defect) and error.__cause__ is not None:
            raise error.__cause__
    raise failure


def _invalid(entry: _Entry, option: str, what: str, help_text: str | None = None) -> VmError:
    error = InvalidSpec(f"{option}: {what}", help_text, option=option)
    return _placed(error, entry.place, entry.given, entry.defaults)


def _placed(
    exc: VmError, place: str, given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> VmError:
    """Return an error about an option of a machine with the path that the option has in this task."""
    option = exc.details.get("option")
    if not isinstance(option, str) or option in HOST:
        return exc
    top = re.split(r"[.\[]", option, maxsplit=1)[0]
    path = f"{'defaults' if top in defaults and top not in given else place}.{option}"
    words = exc.message[len(option) :] if exc.message.startswith(option) else f": {exc.message}"
    exc.message = path + words
    exc.args = (exc.message,)
    exc.details["option"] = path
    return exc
