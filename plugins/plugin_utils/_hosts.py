# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: virtual machines as hosts of an inventory. Data in, data out."""

from __future__ import annotations

import os
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible.inventory.group import to_safe_group_name
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.layout import KNOWN_HOSTS

_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# No blank, comma or brace, which mean something in patterns and templates; no slash, as file names are made of it.
_HOST_NAME = re.compile(r"\w[\w.:@+-]*")

Vm = Mapping[str, Any]


@dataclass(frozen=True)
class Style:
    """What the names of variables and groups begin with, the group of all machines, and whether SSH gets options."""

    hostvars_prefix: str = "vm_"
    group_prefix: str = ""
    group: str = "vms"
    ssh_options: bool = True

    def __post_init__(self) -> None:
        """Refuse names that Ansible could not use: a bare ``name`` or ``state`` would be a reserved word."""
        if not _PREFIX.fullmatch(self.hostvars_prefix):
            raise ValueError(
                f"hostvars_prefix: {self.hostvars_prefix!r} must begin with a letter or underscore"
                " and have only letters, digits and underscores"
            )
        if not self.group:
            raise ValueError("group: the name is empty")


def host_variables(vm: Vm, style: Style) -> dict[str, Any]:
    """Return the variables of a machine: how to connect to it, if it can be reached, and each of its fields."""
    fields = {f"{style.hostvars_prefix}{field}": value for field, value in vm.items()}
    return {**_connection(vm, style.ssh_options), **fields}


def host_groups(vm: Vm, style: Style) -> list[str]:
    """Return the groups of a machine, with names that Ansible takes without a warning."""
    names = [f"state_{vm['state']}", f"backend_{vm['backend']}"]
    for key, value in sorted(vm["labels"].items()):
        names.append(f"label_{key}_{value}" if value not in ("", None) else f"label_{key}")
    prefixed = [style.group, *(style.group_prefix + name for name in names)]
    return [to_safe_group_name(name, force=True, silent=True) for name in prefixed]


def host_name(value: object) -> str | None:
    """Return what an expression for a host name gave as that name, or ``None`` if it gave nothing.

    Raise ``ValueError`` for what cannot be the name of a host.
    """
    if value is None:
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{text!r} is no text")
    if text and not _HOST_NAME.fullmatch(text):
        raise ValueError(f"{text!r} cannot be the name of a host")
    return text or None


def settle_names(wanted: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Give each machine a host name of its own; return the names by machine, and a warning for each dispute.

    ``wanted`` maps machines to host names. Machines that want the same name all keep the machine's name: if one of
    them won, a new machine could take over the host name of an old one.
    """
    names, disputes = dict(wanted), []
    while shared := list(_shared(names)):
        for host, machines in shared:
            names.update({machine: machine for machine in machines})
            disputes.append(
                f"The VMs {', '.join(machines)} would all be the host '{host}': they keep their own names."
            )
    return names, disputes


def _shared(names: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    machines_of = defaultdict(list)
    for machine, host in names.items():
        machines_of[host].append(machine)
    return ((host, machines) for host, machines in machines_of.items() if len(machines) > 1)


def _connection(vm: Vm, ssh_options: bool) -> dict[str, Any]:
    ssh = vm["ssh"]
    if ssh is None or vm["ip_address"] is None:
        return {}
    key = ssh["private_key_path"]
    found = {
        "ansible_host": ssh["host"],
        "ansible_port": ssh["port"],
        "ansible_user": ssh["user"],
        "ansible_ssh_private_key_file": key,
        "ansible_ssh_common_args": _ssh_options(vm, key) if ssh_options else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _ssh_options(vm: Vm, key: str | None) -> str:
    """Return the options with which SSH trusts the first host key it sees, for this machine alone.

    The addresses are ports of 127.0.0.1, which change hands: the user's own known_hosts would hold the key of whatever
    was there before. The file lies in the machine's folder and goes with it.
    """
    known_hosts = os.path.join(vm["paths"]["work_dir"], KNOWN_HOSTS)
    options = [f"UserKnownHostsFile={_ssh_path(known_hosts)}", "StrictHostKeyChecking=accept-new"]
    if key is not None:
        options.append("IdentitiesOnly=yes")  # an agent full of other keys would use up the tries
    return " ".join(f"-o {shlex.quote(option)}" for option in options)


def _ssh_path(path: str) -> str:
    """Quote a path as ssh_config(5) wants it: it takes several, parted by blanks, and expands %h and the like."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
