# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this host has for machines on Propolis: versions, memory that is set aside, storage and links."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .._core.errors import BackendNotAvailable, CommandFailed, ProgramMissing
from .._core.host_report import BackendReport
from .._core.propolis import PROPOLIS_DEFAULTS, PropolisOptions
from .._host.commands import require_program, run
from . import volumes
from .host_check import LOOK, host_problems
from .interfaces import VIONA, VMM, Ask, KernelInterface, ask_version
from .parsable import split_parsable

_RESERVOIR = {"free_mib": "Free", "allocated_mib": "Allocated", "limit_mib": "Size limit"}


def report_host(options: PropolisOptions, ask: Ask = ask_version) -> BackendReport:
    """Return what hinders machines on Propolis here, and what they would work with. Touches nothing.

    A fact whose program fails is ``None``, and ``failures`` has the program's words.
    """
    failures: list[str] = []
    pool = options.pool or PROPOLIS_DEFAULTS.pool or ""
    return BackendReport(
        "propolis",
        tuple(host_problems(options, ask)),
        {
            "server": options.server or PROPOLIS_DEFAULTS.server,
            "bootrom": options.bootrom or PROPOLIS_DEFAULTS.bootrom,
            "hosting": options.hosting or PROPOLIS_DEFAULTS.hosting,
            "vmm_version": _version(VMM, ask),
            "viona_version": _version(VIONA, ask),
            "reservoir": _tried(_reservoir, failures),
            "pool": _tried(lambda: _pool(pool), failures),
            "links": _tried(_links, failures),
            "failures": failures,
        },
    )


def _version(interface: KernelInterface, ask: Ask) -> int | None:
    try:
        return ask(interface)
    except BackendNotAvailable:  # a problem of the report
        return None


def _tried(look: Callable[[], Any], failures: list[str]) -> Any:
    try:
        return look()
    except ProgramMissing:  # a problem of the report, if it is needed
        return None
    except CommandFailed as exc:
        failures.append(exc.message)
        return None


def _reservoir() -> dict[str, int]:
    """Return the memory that the kernel keeps for guests. It is asked in the global zone only, by root."""
    said = run([require_program("rsrvrctl", "/usr/lib/rsrvrctl"), "-q"], timeout=LOOK)
    found = parse_reservoir(said.stdout)
    if found is None:  # it ends well all the same
        raise CommandFailed(f"rsrvrctl says no sizes: {said.stderr.strip() or 'nothing'}")
    return found


def parse_reservoir(text: str) -> dict[str, int] | None:
    """Read what ``rsrvrctl -q`` prints; ``None`` if it says nothing, as it does where it may not ask."""
    rows = dict(re.findall(r"^(.+?) MiB:\s*(\d+)$", text, re.MULTILINE))
    return {key: int(rows[label]) for key, label in _RESERVOIR.items() if label in rows} or None


def _pool(name: str) -> dict[str, Any] | None:
    free = volumes.available(name)
    return None if free is None else {"name": name, "available_bytes": free}


def _links() -> list[dict[str, str]]:
    said = run(["dladm", "show-link", "-p", "-o", "LINK,CLASS,STATE"], timeout=LOOK).stdout
    rows = [split_parsable(line) for line in said.splitlines()]
    return [{"name": row[0], "class": row[1], "state": row[2]} for row in rows if len(row) == 3]
