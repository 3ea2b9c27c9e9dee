# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the tables of docs/backends.md: the planner is asked, for each option and backend, whether it would take it.

Run it with ``tests/tools/run.sh python tests/tools/matrix.py`` after a backend's features have changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.cloudnebula.hypervisor.plugins.module_utils import _arguments
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.changes import (
    EFFECTS,
    Effect,
    option_name,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.cloud_init import (
    checked_wish,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import Disk
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import Unsupported
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.features import Features
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.folders import (
    SharedFolder,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.handle import VmHandle
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import (
    MODELS,
    AddressFilter,
    Network,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.plan import (
    Power,
    make_plan,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.propolis import (
    FIXED,
    PropolisOptions,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.rename import (
    power_to_rename,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    PortRange,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import (
    Goal,
    VmState,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.vm import Vm
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._noop.backend import (
    NoopBackend,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.backend import (
    PropolisBackend,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.backend import (
    QemuBackend,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backends.md"
BACKENDS: Mapping[str, Features] = {
    backend.tag: backend.features for backend in (QemuBackend, PropolisBackend, NoopBackend)
}
# For each option, a value that asks for something.
ASKING: Mapping[str, Any] = {
    "name": "web1",
    "image": "/srv/images/a.raw",
    "image_format": "raw",
    "vcpus": 2,
    "memory_mib": 2048,
    "disk_size": 20 << 30,
    "networks": (),
    "addresses": AddressFilter(version=4),
    "ssh_port_range": PortRange(),
    "cloud_init": CloudInit(user="admin"),
    "accelerator": "tcg",
    "cpu": "max",
    "machine": "q35",
    "vnc": True,
    "labels": {"tier": "web"},
    "description": "text",
    "image_checksum": "sha256:" + "0" * 64,
    "propolis": PropolisOptions(pool="tank"),
    "disks": (Disk("data", size=1 << 30).completed(),),
    "cdrom": "/srv/images/a.iso",
    "vcpus_max": 8,
    "memory_max_mib": 8192,
    "firmware": "uefi",
    "secure_boot": True,
    "tpm": True,
    "kernel": "/srv/images/vmlinuz",
    "initrd": "/srv/images/initrd",
    "kernel_cmdline": "quiet",
    "smbios": {"product": "lab"},
    "shared_folders": (SharedFolder("work", "/srv/work"),),
    "qemu_args": ("-no-hpet",),
    "autostart": True,
    "clone_from": "web0",
    "clone_mode": "linked",
}
# A machine that is there, and that something else is asked of.
THERE = VmHandle(id="x-1", name="web1", backend="x", work_dir="/", spec=VmSpec(name="web1"))
# What an option makes no sense without.
WITH: Mapping[str, Mapping[str, Any]] = {
    "secure_boot": {"firmware": "uefi"},
    "initrd": {"kernel": "/srv/images/vmlinuz"},
    "kernel_cmdline": {"kernel": "/srv/images/vmlinuz"},
    "clone_mode": {"clone_from": "web0"},
}


# What the planner is asked. It raises ``Unsupported`` if a backend with these features refuses it.
Question = Callable[[Features], object]


def new_machine(goal: Goal = Goal.PRESENT, **wish: Any) -> Question:
    """Ask for a new machine."""
    spec = VmSpec(**{"name": "web1", "image": "/srv/images/a.raw", **wish})
    return lambda features: make_plan(spec, Power(goal), None, "x", features)


def with_card(**wish: Any) -> Question:
    """Ask for a new machine with a card on a network that the backend has anyway."""
    return lambda features: new_machine(
        networks=(Network(type=features.network_types[0], **wish),)
    )(features)


def another_name(features: Features) -> object:
    """Ask for a new name of a machine that is there."""
    return power_to_rename(Power(Goal.PRESENT), Vm(THERE, VmState.STOPPED), "x", features)


def another_run_of_cloud_init(features: Features) -> object:
    """Ask to have cloud-init run again on a machine that is there."""
    wish = VmSpec(name=THERE.name, cloud_init=CloudInit(user="admin", rerun=True))
    return checked_wish(wish, THERE, features.rerun_cloud_init)


def asked() -> Iterator[tuple[str, str, Question]]:
    """Yield the rows: the table, what users write, the question."""
    for field, effect in EFFECTS.items():
        if field != "backend":
            question = new_machine(**WITH.get(field, {}), **{field: ASKING[field]})
            yield "options", f"{option_name(field)}|{effect.value}", question
    for goal in Goal:
        yield "values", f"state={goal.value}", new_machine(goal)
    choices = _arguments.VM["networks"]["options"]
    for kind in choices["type"]["choices"]:
        cards = () if kind == "none" else (Network(type=kind),)
        yield "values", f"networks[].type={kind}", new_machine(networks=cards)
    for model in MODELS:
        yield "values", f"networks[].model={model}", with_card(model=model)
    yield "values", "networks[].connected=false", with_card(connected=False)
    for name in _arguments.VM["accelerator"]["choices"]:
        yield "values", f"accelerator={name}", new_machine(accelerator=name)
    yield "values", "cloud_init.rerun=true", another_run_of_cloud_init
    yield "values", "new_name", another_name


def answer(features: Features, question: Question) -> str:
    """Return a cell."""
    try:
        question(features)
    except Unsupported:
        return "refused"
    return "yes"


def tables(backends: Mapping[str, Features] = BACKENDS) -> dict[str, str]:
    """Return the tables by name, as Markdown."""
    heads = {"options": ["option", "a change takes effect"], "values": ["value"]}
    rows: dict[str, list[list[str]]] = {name: [] for name in heads}
    for table, words, question in asked():
        name, *effect = words.split("|")
        shown = ", ".join(f"`{part}`" for part in name.split(", "))
        cells = [answer(features, question) for features in backends.values()]
        rows[table].append([shown, *effect, *cells])
    found = {name: as_table([*heads[name], *backends], rows[name]) for name in heads}
    found["defaults"] = as_table(["a new machine", *backends], list(defaults(backends)))
    found["propolis"] = as_table(["suboption", "a change takes effect"], list(suboptions()))
    return found


def suboptions() -> Iterator[list[str]]:
    """Yield when each suboption of the option propolis takes effect."""
    for name in _arguments.VM["propolis"]["options"]:
        effect = Effect.NEVER if name in FIXED else EFFECTS["propolis"]
        yield [f"`propolis.{name}`", effect.value]


def defaults(backends: Mapping[str, Features]) -> Iterator[list[str]]:
    """Yield what a new machine gets where the task says nothing, as far as backends differ."""
    specs = [features.completed(VmSpec(name="")) for features in backends.values()]
    for field in EFFECTS:
        values = [getattr(spec, field) for spec in specs]
        # An option that a backend has nothing for is as good as one at a value that asks for nothing.
        if any(values) and any(value != values[0] for value in values):
            yield [f"`{option_name(field)}`", *map(show_default, values)]
    yield ["needs an `image`", *("yes" if f.needs_image else "no" for f in backends.values())]


def show_default(value: Any) -> str:
    """Return a default as a page shows it."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(f"one of type `{network.type}`" for network in value)
    if isinstance(value, PropolisOptions):
        return ", ".join(f"`{key}: {item}`" for key, item in vars(value).items() if item)
    return f"`{value}`"


def as_table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])


def renewed(page: str, found: Mapping[str, str]) -> str:
    """Return the page with its tables replaced; each stands between two comments that name it."""
    for name, table in found.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end of table: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        count = len(pattern.findall(page))
        if count != 1:
            raise ValueError(f"{count} places for the table {name}")
        before, after = pattern.split(page)
        page = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(), tables()))
