# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The machine that comes back with its host: what systemd is told, and when. Pure.

The unit starts the machine when the host boots and asks the guest to power off when the host goes down. QEMU lives in
the unit's control group, so that nothing else of the host's shutdown ends it before the guest was asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from .handle import VmHandle
from .plan import Plan, Power, Step
from .spec import VmSpec
from .state import Goal, Verb
from .vm import Vm

MARK = "# Made for the option autostart of cloudnebula.hypervisor.vm; changes are lost."
START_LIMIT = 360  # seconds: 300 for a task that works on the machine, and the start itself
STOP_MARGIN = 60  # seconds besides the guest's own: to wait for such a task, and to end QEMU


class HostBoot(Protocol):
    """What makes the host start a machine when it boots."""

    def enable(self, vm: VmHandle, patience: int) -> VmHandle:
        """Start it from now on at each boot; the guest gets ``patience`` seconds to power off when the host does."""

    def disable(self, vm: VmHandle) -> VmHandle:
        """Do so no longer. What runs goes on."""


@dataclass(frozen=True)
class Commands:
    """What the unit runs, as words."""

    start: tuple[str, ...]
    stop: tuple[str, ...]


def unit_name(name: str, data_dir: str, default_dir: str) -> str:
    """Return the name of a machine's unit; machines of the same name in two data folders have two."""
    if data_dir != default_dir:
        name += ":" + hashlib.sha256(data_dir.encode()).hexdigest()[:8]
    return f"cloudnebula-vm@{name}.service"


def unit_text(vm: VmHandle, data_dir: str, patience: int, commands: Commands, user: bool) -> str:
    """Return the unit; ``user`` is for a user's own instance of systemd, whose units know none of the system's."""
    sections = {
        "Unit": {
            "Description": f"Virtual machine {vm.name}",
            "RequiresMountsFor": " ".join(map(_quoted, [data_dir, *_files(vm, data_dir)])),
            **({} if user else _ordering(vm.spec)),
        },
        "Service": {
            "Type": "oneshot",
            "RemainAfterExit": "yes",
            "ExecStart": _words(commands.start),
            "ExecStop": _words(commands.stop),
            "TimeoutStartSec": str(START_LIMIT),
            "TimeoutStopSec": str(patience + STOP_MARGIN),
            # The second command ends QEMU; systemd itself must neither be faster nor end it with the unit's removal.
            "KillMode": "process",
            "Delegate": "yes",  # a machine that a task starts is put into the unit's group
            "OOMPolicy": "continue",
        },
        "Install": {"WantedBy": wanted_by(user)},
    }
    return "\n".join([MARK, *(_section(name, lines) for name, lines in sections.items())])


def wanted_by(user: bool) -> str:
    """Return the target that brings the unit up."""
    return "default.target" if user else "multi-user.target"


def with_autostart(plan: Plan, wish: VmSpec, power: Power, found: Vm | None) -> Plan:
    """Return the plan with the step that makes or removes the unit, if that is needed."""
    handle = found.handle if found else None
    unit = handle.autostart_unit if handle else None
    if power.goal is Goal.ABSENT:
        return replace(plan, steps=(Step(Verb.AUTOSTART), *plan.steps)) if unit else plan
    if not plan.spec.autostart:
        return replace(plan, steps=(*plan.steps, Step(Verb.AUTOSTART))) if unit else plan
    patience = float(int(power.stop_timeout))
    if handle is not None and handle.autostart_patience is not None and not wish.autostart:
        patience = float(handle.autostart_patience)
    if found is None or _outdated(plan.spec, patience, found):
        return replace(plan, steps=(*plan.steps, Step(Verb.AUTOSTART, patience)))
    return plan


def _outdated(spec: VmSpec, patience: float, found: Vm) -> bool:
    handle = found.handle
    if handle.autostart_unit is None or not found.unit_intact or handle.name != spec.name:
        return True
    before = (handle.autostart_patience, _ordering(handle.spec), _used(handle.spec))
    return before != (int(patience), _ordering(spec), _used(spec))


def _files(vm: VmHandle, data_dir: str) -> Iterable[str]:
    """Return what the machine needs besides the data folder. What a task changes here, ``_used`` must see."""
    attached = {disk.name for disk in vm.spec.disks or ()}
    disks = (record.base_image for name, record in vm.disks.items() if name in attached)
    paths = {path for path in (vm.base_image, *disks, *_direct(vm.spec)) if path}
    return sorted(path for path in paths if not path.startswith(f"{data_dir}/"))


def _used(spec: VmSpec) -> object:
    """Return a value that differs if another spec makes the same machine need other files."""
    return {(disk.name, disk.image) for disk in spec.disks or () if disk.image}, _direct(spec)


def _direct(spec: VmSpec) -> set[str]:
    folders = (folder.path for folder in spec.shared_folders or ())
    return {path for path in (spec.cdrom, spec.kernel, spec.initrd, *folders) if path}


def _ordering(spec: VmSpec) -> Mapping[str, str]:
    networks = sorted({card.bridge for card in spec.networks or () if card.bridge})
    after = ["network-online.target", "remote-fs.target", "nss-lookup.target"]
    after += ["nss-user-lookup.target", "time-sync.target"]
    after += [f"cloudnebula-network@{bridge}.service" for bridge in networks]
    return {"Wants": "network-online.target", "After": " ".join(after)}


def _section(name: str, lines: Mapping[str, str]) -> str:
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in lines.items()), ""])


def _words(words: Iterable[str]) -> str:
    return " ".join(_quoted(word).replace("$", "$$") for word in words)


def _quoted(word: str) -> str:
    """Return a word as systemd reads it, by systemd.syntax(7); ``%`` stands for itself."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'.replace("%", "%%")
