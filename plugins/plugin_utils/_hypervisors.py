# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: the hypervisor hosts that an inventory file names, with the variables to reach them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible import constants, context
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.utils.path import unfrackpath

LOCALHOST = "localhost"
_SHORT = {
    "host": "ansible_host",
    "user": "ansible_user",
    "port": "ansible_port",
    "key": "ansible_ssh_private_key_file",
    "become": "ansible_become",
}
_KEYS = ("name", "data_dir", "vars", *_SHORT)


@dataclass(frozen=True)
class Target:
    """A hypervisor host: its name and its variables, not yet templated. ``data_dir`` wins over the one for all."""

    name: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    data_dir: str | None = None
    here: bool = False


class Targets:
    """Finds the hosts that the entries of the option ``hypervisors`` mean."""

    def __init__(
        self, inventory: InventoryData, loader: DataLoader, path: str, extra: Mapping[str, Any]
    ) -> None:
        self._inventory = inventory
        self._loader = loader
        self._path = path
        self._extra = extra
        self.unknown: list[str] = []  # entries that no host of the earlier sources matches

    def find(self, entries: list[Any]) -> list[Target]:
        """Return the hosts, each once; raise ``ValueError`` for an entry that makes no sense."""
        found: dict[str, Target] = {}
        for entry in entries:
            for target in self._targets(entry):
                known = found.setdefault(target.name, target)
                if known is not target and isinstance(entry, Mapping):
                    raise ValueError(
                        f"hypervisors: there are two of the name '{target.name}'; give one another name"
                    )
        return list(found.values())

    def _targets(self, entry: Any) -> Iterator[Target]:
        if isinstance(entry, Mapping):
            yield self._inline(entry)
        elif not isinstance(entry, str) or not entry.strip():
            raise ValueError(f"hypervisors: {entry!r} is neither a name nor a mapping")
        elif entry == LOCALHOST:
            yield self._here()
        else:
            yield from self._matching(entry)

    def _here(self) -> Target:
        return Target(LOCALHOST, self._extra, here=True)

    def _inline(self, entry: Mapping[str, Any]) -> Target:
        unknown = sorted(set(map(str, entry)) - set(_KEYS))
        if unknown:
            raise ValueError(
                f"hypervisors: {', '.join(unknown)} is unknown; an entry may have {', '.join(_KEYS)}"
            )
        if not entry.get("host"):
            raise ValueError("hypervisors: an entry has no host")
        given = {_SHORT[key]: entry[key] for key in _SHORT if entry.get(key) is not None}
        if "key" in entry:
            folder = os.path.dirname(self._path)
            given[_SHORT["key"]] = unfrackpath(entry["key"], follow=False, basedir=folder)
        own = entry.get("vars") or {}
        return Target(
            str(entry.get("name") or entry["host"]),
            {"ansible_connection": "ssh", **given, **own, **self._extra},
            entry.get("data_dir"),
        )

    def _matching(self, pattern: str) -> Iterator[Target]:
        from ansible.inventory.manager import InventoryManager
        from ansible.vars.manager import VariableManager

        # Only hosts of the sources that were read before are there yet. Variables of groups may lie beside any source.
        sources = [*(context.CLIARGS.get("inventory") or ()), self._path]
        manager = InventoryManager(self._loader, sources=sources, parse=False)
        manager._inventory = self._inventory
        with _quiet_patterns():
            hosts = manager.get_hosts(pattern, ignore_limits=True, ignore_restrictions=True)
        if not hosts:
            self.unknown.append(pattern)
            return
        variables = VariableManager(loader=self._loader, inventory=manager)
        for host in hosts:
            if host.name == LOCALHOST:
                yield self._here()
            else:
                yield Target(host.name, variables.get_vars(host=host, include_hostvars=False))


@contextlib.contextmanager
def _quiet_patterns() -> Iterator[None]:
    """Keep Ansible from warning of a pattern that matches nothing: we say it ourselves, with what to do."""
    before = constants.HOST_PATTERN_MISMATCH
    constants.HOST_PATTERN_MISMATCH = "ignore"
    try:
        yield
    finally:
        constants.HOST_PATTERN_MISMATCH = before
