# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this host has for machines on Propolis: versions, memory that is set aside, storage and links."""

from __future__ import annotations

import re
from typing import Any

from .._core.errors import BackendNotAvailable, VmError
from .._core.host_report import BackendReport
from .._core.propolis import PROPOLIS_DEFAULTS, PropolisOptions
from .._host.commands import find_program, run
from .host_check import LOOK, host_problems
from .interfaces import VIONA, VMM, Ask, KernelInterface, ask_version
from .parsable import split_parsable

_RESERVOIR = {"free_mib": "Free", "allocated_mib": "Allocated", "limit_mib": "Size limit"}


def report_host(options: PropolisOptions, ask: Ask = ask_version) -> BackendReport:
    """Return what hinders machines on Propolis here, and what they would work with. Touches nothing."""
    return BackendReport(
        "propolis",
        tuple(host_problems(options, ask)),
        {
            "server": options.server or PROPOLIS_DEFAULTS.server,
            "bootrom": options.bootrom or PROPOLIS_DEFAULTS.bootrom,
            "hosting": options.hosting or PROPOLIS_DEFAULTS.hosting,
            "vmm_version": _version(VMM, ask),
            "viona_version": _version(VIONA, ask),
            "reservoir": _reservoir(),
            "pool": _pool(options.pool or PROPOLIS_DEFAULTS.pool or ""),
            "links": _links(),
        },
    )


def _version(interface: KernelInterface, ask: Ask) -> int | None:
    try:
        return ask(interface)
    except BackendNotAvailable:
        return None


def _ask(*argv: str) -> str | None:
    """Return what a program prints; ``None`` if it is not there or fails."""
    if find_program(argv[0]) is None:
        return None
    try:
        return run(argv, timeout=LOOK).stdout
    except VmError:
        return None


def _reservoir() -> dict[str, int] | None:
    """Return the memory that the kernel keeps for guests. It is asked in the global zone only, by root."""
    program = find_program("rsrvrctl", "/usr/lib/rsrvrctl")
    return None if program is None else parse_reservoir(_ask(program, "-q") or "")


def parse_reservoir(text: str) -> dict[str, int] | None:
    """Read what ``rsrvrctl -q`` prints; ``None`` if it says nothing, as it does where it may not ask."""
    rows = dict(re.findall(r"^(.+?) MiB:\s*(\d+)$", text, re.MULTILINE))
    return {key: int(rows[label]) for key, label in _RESERVOIR.items() if label in rows} or None


def _pool(name: str) -> dict[str, Any] | None:
    said = _ask("zfs", "list", "-Hp", "-o", "name,available", name)
    if not said:
        return None
    free = said.rstrip("\n").rpartition("\t")[2]
    return {"name": name, "available_bytes": int(free) if free.isdecimal() else None}


def _links() -> list[dict[str, str]] | None:
    said = _ask("dladm", "show-link", "-p", "-o", "LINK,CLASS,STATE")
    if said is None:
        return None
    rows = [split_parsable(line) for line in said.splitlines()]
    return [{"name": row[0], "class": row[1], "state": row[2]} for row in rows if len(row) == 3]
