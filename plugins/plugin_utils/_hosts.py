# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: virtual machines as hosts of an inventory. Data in, data out."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ansible.inventory.group import to_safe_group_name
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.layout import KNOWN_HOSTS

_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# No blank, comma or brace, which mean something in patterns and templates; no slash, as file names are made of it.
_HOST_NAME = re.compile(r"\w[\w.:@+-]*")
_ADDRESS = re.compile(
    r"[\w:][\w.:%-]*"
)  # a hypervisor's word: what begins with a dash would be an option of SSH

_PUBLIC_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]+={0,2}")

Vm = Mapping[str, Any]
Machine = TypeVar("Machine", bound=Hashable)


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


@dataclass(frozen=True)
class Way:
    """The way from here to the guests of a hypervisor host. Without a jump, they are as near as those of this host.

    ``jump`` is the command that SSH uses as a way to an address ``%h`` and port ``%p`` over there, and ``folder`` is where
    this side keeps host keys and, if the user wants that, private keys. ``None`` for both: the guests are here.
    """

    jump: str | None = None
    folder: str | None = None
    closed: bool = (
        False  # the host is asked by other means than SSH, so no guest can be reached through it
    )

    def key_file(self, vm: Vm) -> str | None:
        """Return where the private key of a machine lies on this side, or would lie."""
        if self.folder is not None:
            return os.path.join(self.folder, "keys", safe_id(vm))
        return None if vm["ssh"] is None else vm["ssh"]["private_key_path"]


HERE = Way()


def safe_id(vm: Vm) -> str:
    """Return the id of a machine such that it can be the name of a file, whatever a hypervisor said."""
    return re.sub(r"[^A-Za-z0-9-]", "_", str(vm["id"]))[:80]


def host_fields(vm: Vm, style: Style) -> dict[str, Any]:
    """Return a variable for each field of a machine."""
    return {f"{style.hostvars_prefix}{field}": value for field, value in vm.items()}


def host_connection(vm: Vm, style: Style, way: Way = HERE) -> dict[str, Any]:
    """Return the variables that say how to connect to a machine; none for one that cannot be reached."""
    ssh, address = vm["ssh"] or {}, vm["ip_address"]
    if address is None or way.closed or (not ssh and address.startswith("127.")):
        return {}
    host = str(ssh.get("host") or address)
    if not _ADDRESS.fullmatch(host):
        return {}
    forwarded = host.startswith("127.")
    key = way.key_file(vm)
    if key is not None and way.folder is not None and not os.path.exists(key):
        key = None
    found = {
        "ansible_host": host,
        "ansible_user": ssh.get("user"),
        "ansible_ssh_private_key_file": key,
        "ansible_ssh_common_args": _ssh_arguments(vm, style, way, key),
        "ansible_control_path": _control_path(vm) if way.jump else None,
    }
    # A null says that there is no such port, to readers that would otherwise keep the one of yesterday.
    port = {"ansible_port": ssh["port"] if forwarded else None}
    return {**port, **{name: value for name, value in found.items() if value is not None}}


def host_groups(vm: Vm, style: Style) -> list[str]:
    """Return the groups of a machine, with names that Ansible takes without a warning."""
    names = [f"state_{vm['state']}", f"backend_{vm['backend']}", f"hypervisor_{vm['hypervisor']}"]
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


def settle_names(
    ladders: Mapping[Machine, Sequence[str]],
) -> tuple[dict[Machine, str], list[str]]:
    """Give each machine a host name of its own; return the names by machine, and a warning for each dispute.

    A ladder holds the names for a machine, from the one that is wanted down to one that no other has. Of machines that
    want the same name, all that stand on the highest rung step down: if one of them won, a new machine could take over
    the host name of an old one.
    """
    rungs = {
        machine: max(rung for rung, name in enumerate(ladder[:2]) if name == ladder[0])
        for machine, ladder in ladders.items()
    }
    disputes = []
    moved = True
    while moved:
        moved = False
        names = {machine: ladders[machine][rung] for machine, rung in rungs.items()}
        for host, machines in _shared(names):
            highest = min(rungs[machine] for machine in machines)
            movers = [machine for machine in machines if rungs[machine] == highest]
            if highest + 1 == min(len(ladders[machine]) for machine in movers):
                continue
            rungs.update(dict.fromkeys(movers, highest + 1))
            moved = True
            become = ", ".join(ladders[machine][highest + 1] for machine in movers)
            disputes.append(
                f"{len(machines)} VMs would be the host '{host}': there will be {become}."
            )
    return names, disputes


def name_ladder(wanted: str, vm: Vm) -> list[str]:
    """Return the names that a machine can have, from the wanted one down to one that no other machine has."""
    own, hypervisor = vm["name"], re.sub(r"[^\w.:@+-]", "_", vm["hypervisor"])
    return [wanted, own, f"{own}_{hypervisor}", f"{own}_{hypervisor}_{safe_id(vm)}"]


def _shared(names: Mapping[Machine, str]) -> list[tuple[str, list[Machine]]]:
    machines_of = defaultdict(list)
    for machine, host in names.items():
        machines_of[host].append(machine)
    return [(host, machines) for host, machines in machines_of.items() if len(machines) > 1]


def _ssh_arguments(vm: Vm, style: Style, way: Way, key: str | None) -> str | None:
    options = [] if way.jump is None else [f"ProxyCommand={way.jump}"]
    if style.ssh_options:
        options += _ssh_options(vm, way, key)
    return " ".join(f"-o {shlex.quote(option)}" for option in options) or None


def _ssh_options(vm: Vm, way: Way, key: str | None) -> list[str]:
    """Return the options with which SSH trusts the first host key it sees, for this machine alone.

    Many addresses are ports of 127.0.0.1, which change hands: the user's own known_hosts would hold the key of whatever
    was there before. For a machine of this host, the file lies in its folder and goes with it; for the others, one file
    on this side knows them by their ids.
    """
    folder = vm["paths"]["work_dir"] if way.folder is None else way.folder
    options = [
        f"UserKnownHostsFile={ssh_path(os.path.join(folder, KNOWN_HOSTS))}",
        *_trust(vm),
        "ServerAliveInterval=15",  # a suspended guest would keep a connection waiting for ever
    ]
    if way.folder is not None or _host_key(vm):
        options.append(f"HostKeyAlias={safe_id(vm)}")
    if key is not None:
        options.append("IdentitiesOnly=yes")  # an agent full of other keys would use up the tries
    return options


def _trust(vm: Vm) -> list[str]:
    """Return whom SSH believes: only the host key that was made for the machine, or else the first that it sees."""
    key = _host_key(vm)
    if key is None:
        return ["StrictHostKeyChecking=accept-new"]
    # A command in place of a file: nothing has to be written, here or on another host. OpenSSH 8.5 and newer.
    return ["StrictHostKeyChecking=yes", f"KnownHostsCommand=/bin/echo {safe_id(vm)} {key}"]


def _host_key(vm: Vm) -> str | None:
    key = (vm["ssh"] or {}).get("host_key")
    return key if isinstance(key, str) and _PUBLIC_KEY.fullmatch(key) else None


def _control_path(vm: Vm) -> str:
    """Return where the shared connection of a guest behind a jump lies.

    Ansible would derive the name from address, port and account, which two guests of different hypervisors share: the
    second one's tasks would run in the first one.
    """
    return "%(directory)s/vm" + hashlib.sha256(safe_id(vm).encode()).hexdigest()[:10]


def ssh_path(path: str) -> str:
    """Quote a path as ssh_config(5) wants it: it takes several, parted by blanks, and expands %h and the like."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
