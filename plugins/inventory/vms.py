# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual machines as hosts of an inventory.

Other hosts are asked over connection plugins of Ansible's, with a program on standard input, and not by a nested play that
runs ``vm_info``: ten hosts by SSH took 2.1 s as a play and take 1.0 s so, above the time for an empty inventory, on the
same two cores. A play would also obey ``--tags``, ``--check`` and the like, which are meant for the play of the user.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: vms
short_description: Virtual machines as hosts
version_added: 0.1.0
author:
  - CloudNebula contributors (@CloudNebulaProject)
description:
  - Lists the virtual machines that are kept on this host and on others, with all that is needed to log in to them by SSH.
  - The name of the file must be C(hypervisor.yml) or end with C(.hypervisor.yml); C(.yaml) is fine too.
  - A key in it that is no option is an error.
  - Each machine is a host, with a variable for each of its fields, named as in RV(cloudnebula.hypervisor.vm_info#module:vms)
    after O(hostvars_prefix), such as C(vm_state) and C(vm_memory_mb).
  - A machine that can be reached also has C(ansible_host), C(ansible_port), C(ansible_ssh_common_args), C(ansible_user) if the account
    is known, and C(ansible_ssh_private_key_file) if a key was made for it. One that does not run has none of them.
  - Each host is in the group O(group), and in groups by state (C(state_running)), backend (C(backend_qemu)), hypervisor host
    (C(hypervisor_localhost)) and label (C(label_tier_web)). The variable C(vm_hypervisor) names the hypervisor host, too.
  - Guests of another hypervisor host are reached through it, by C(ProxyCommand) in C(ansible_ssh_common_args), with its account, port,
    key and SSH options. If that host is not reached by SSH, its guests are listed without a way to log in to them.
  - C(ansible_port) is null for a guest that has an address of its own, in place of a port of its hypervisor host.
  - The folder of the machines is read as the user who runs Ansible, or who logs in to the hypervisor host. It must be the one that
    created the machines, or root, as C(become) can make it.
notes:
  - Texts of the machines, such as labels, are never run as templates.
  - Host variables of an inventory win over group variables, so a C(ansible_user) or C(ansible_ssh_common_args) of your own
    belongs into C(host_vars), or into O(compose).
  - Options of the command line such as C(--user), C(--become), C(--limit), C(--tags) and C(--check) are for the guests,
    and do not reach hypervisor hosts. Passwords that are asked for by C(-k) or C(-K) do not either, but those in variables do.
  - A hypervisor host needs Python 3.9 or newer, and nothing else. Nothing is written on it.
  - Where nothing has a Python, as in small guests, use M(ansible.builtin.raw).
extends_documentation_fragment:
  - constructed
  - inventory_cache
requirements:
  - "Python >= 3.9"
options:
  plugin:
    description: Says that the file is meant for this plugin.
    type: str
    required: true
    choices: [cloudnebula.hypervisor.vms]
  hypervisors:
    description:
      - The hypervisor hosts whose machines are listed. All are asked at the same time.
      - A text is V(localhost), which is this host, or a host, group or pattern of the inventory sources that Ansible reads before this
        file. Sources are read in the order in which they are given, and those of one folder by their names.
      - A mapping is a host that no other source has to know. It is asked by SSH. It has C(host), which is a name or an address,
        and if need be C(user), C(port), C(key) (the path of a private key), C(become), C(data_dir), C(name) (by default, the host)
        and C(vars), with any variables for connections, such as C(ansible_python_interpreter) or C(ansible_ssh_common_args).
      - Of a host that cannot be asked, there is a warning. See O(strict_hypervisors).
    type: list
    elements: raw
    default: [localhost]
  timeout:
    description: Seconds above 0 within which each hypervisor host must have answered. This host has no limit.
    type: float
    default: 10
  strict_hypervisors:
    description: Whether a hypervisor host that cannot be asked is an error. Then this file gives no hosts at all.
    type: bool
    default: false
  fetch_private_keys:
    description:
      - Whether to copy the private keys that were made for guests of other hypervisor hosts to this one, over the same connection. They
        are kept below C($XDG_CACHE_HOME/cloudnebula.hypervisor) or C(~/.cache/cloudnebula.hypervisor), for this user only,
        and named in C(ansible_ssh_private_key_file).
      - If V(false), C(vm_ssh.private_key_path) shows where such a key lies on its hypervisor host, and SSH offers the keys of yours.
    type: bool
    default: false
  data_dir:
    description:
      - Folder in which the machines are kept, as in M(cloudnebula.hypervisor.vm).
      - The default is C($XDG_DATA_HOME/vmctl), or C(~/.local/share/vmctl) of the user who runs Ansible, or who logs in to the
        hypervisor host. If there is none, there are no hosts.
      - It may be a template, which sees the variables of the hypervisor host. It may begin with C(~) or hold environment variables, which
        are those of the hypervisor host. A relative path begins at the folder of the inventory file, and makes sense for this host only.
    type: str
  filters:
    description:
      - Which machines become hosts. Each entry has either C(include) or C(exclude), an expression that sees what
        O(hostnames) sees. The first entry whose expression is true decides. If none is, the machine is included.
      - An expression that cannot be read is an error. One that names what a machine does not have is not true for that machine, and one
        that fails otherwise is not true either, with a warning. With O(strict), both are errors.
    type: list
    elements: dict
    default: []
  states:
    description: List only machines in one of these states. Without it, all are listed.
    type: list
    elements: str
    choices: [preparing, prepared, running, suspended, stopped, failed]
  names:
    description: List only machines whose name matches one of these patterns, such as V(web*). Without it, all are listed.
    type: list
    elements: str
  hostnames:
    description:
      - Names for the hosts, as expressions (V(name), V(labels.fqdn), V(name ~ '.example.org')) or templates (V({{ name }}.example.org)).
      - They see the fields of the machine with and without O(hostvars_prefix). The first one that gives a name is used, and the machine's name if none does.
      - What is undefined, or cannot be the name of a host, is skipped, or an error with O(strict).
      - C(hypervisor) is the name of the hypervisor host, so V(name ~ '.' ~ hypervisor) gives a name of its own to each machine.
      - If several machines would have the same name, there is a warning, and all of them get the machine's name. If several machines have
        that name on different hypervisor hosts, all of them are called after both, as in C(web1_hv2).
    type: list
    elements: str
    default: [name]
  hostvars_prefix:
    description: What the names of the variables with the fields of a machine begin with. It may be a template.
    type: str
    default: vm_
  group:
    description: The group of all hosts of this inventory. It may be a template.
    type: str
    default: vms
  group_prefix:
    description: What the names of the groups by state, backend and label begin with. It may be a template.
    type: str
    default: ''
  ssh_options:
    description:
      - Sets C(ansible_ssh_common_args), so that SSH keeps the host key of each machine in a C(known_hosts) in the folder of
        that machine, trusts the first one that it sees (C(StrictHostKeyChecking=accept-new)), refuses another one later,
        logs in only with the key that was made for the machine, if it is here, and gives up a connection on which nothing
        has come for 45 seconds.
      - The keys of guests of other hypervisor hosts are kept in one C(known_hosts) in the folder that is described in O(fetch_private_keys).
      - If V(false), the options are yours to set, and host keys are looked for in your own C(known_hosts). The way through a
        hypervisor host is set all the same.
    type: bool
    default: true
seealso:
  - module: cloudnebula.hypervisor.vm
  - module: cloudnebula.hypervisor.vm_info
"""

EXAMPLES = r"""
# my.hypervisor.yml: all machines of the user who runs Ansible. Try "ansible -i my.hypervisor.yml state_running -m raw -a uptime".
plugin: cloudnebula.hypervisor.vms

---
# Machines that are kept elsewhere, with names and groups of your own
plugin: cloudnebula.hypervisor.vms
data_dir: "{{ lookup('ansible.builtin.env', 'LAB_DIR') | default('/srv/lab', true) }}"
hostnames:
  - labels.fqdn
  - "{{ name }}.lab.example.org"
compose:
  memory_gib: vm_memory_mb / 1024
groups:
  big: vm_memory_mb >= 4096
  to_restart: vm_restart_required
keyed_groups:
  - key: vm_labels.tier
    prefix: tier
    default_value: none

---
# This host and others: a group of an earlier source, as in "ansible-inventory -i hosts.yml -i all.hypervisor.yml", and one by its address
plugin: cloudnebula.hypervisor.vms
hypervisors:
  - localhost
  - hypervisors
  - {name: attic, host: 192.0.2.7, user: admin, key: ~/.ssh/attic, become: true, data_dir: /srv/vms}
timeout: 5
hostnames: [name ~ '.' ~ hypervisor]

---
# Only what runs and is no test
plugin: cloudnebula.hypervisor.vms
states: [running]
names: ["web*", "db*"]
filters:
  - include: vm_labels.keep | default(false) | bool
  - exclude: vm_labels.tier | default('') == 'test'

---
# Many machines: look at them once in ten minutes, or when --flush-cache or "meta: refresh_inventory" asks for it
plugin: cloudnebula.hypervisor.vms
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/hypervisor
cache_timeout: 600
"""

import functools
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleError, AnsibleParserError, AnsibleUndefinedVariable
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.path import unfrackpath
from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._hosts import (
    HERE,
    Style,
    Way,
    host_connection,
    host_fields,
    host_groups,
    host_name,
    name_ladder,
    settle_names,
)
from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._hypervisors import (
    Target,
    Targets,
)
from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._local import (
    Answer,
    local_answer,
)
from jinja2 import Environment, TemplateSyntaxError
from jinja2.parser import Parser

if TYPE_CHECKING:  # what other hosts need is imported where it is used: most inventories have none
    from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._connecting import Line

try:
    from ansible.template import trust_as_template as _plain
except ImportError:  # before ansible-core 2.19, all text is a template unless it is marked
    from ansible.utils.unsafe_proxy import wrap_var as _literal

    def _plain(value: str) -> str:
        return value

else:

    def _literal(value: str) -> str:
        return value


_SOURCE = re.compile(r"(.*\.)?hypervisor\.ya?ml")
# Without these, a text holds no expression, and an expression calls nothing.
_SYNTAX = re.compile(r"[][(){}|]")
_TEMPLATE = re.compile(r"[{}]")

VmFacts = dict[str, Any]


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """The inventory plugin ``cloudnebula.hypervisor.vms``: fetches plain data first, then makes hosts of it."""

    NAME = "cloudnebula.hypervisor.vms"

    def verify_file(self, path: str) -> bool:
        """Tell whether the name of the file is one of ours."""
        return bool(super().verify_file(path) and _SOURCE.fullmatch(os.path.basename(path)))

    def parse(
        self, inventory: InventoryData, loader: DataLoader, path: str, cache: bool = True
    ) -> None:
        """Add the machines to the inventory; ``cache`` is false when the user wants them looked at anew."""
        super().parse(inventory, loader, path, cache)
        self._refuse_unknown(self._read_config_data(path))
        self._refuse_wrong()
        self._warned: set[str] = set()
        self.templar.available_variables = self._vars or {}
        style = self._style()
        targets = self._targets(path)
        lines = self._lines(targets)
        facts = self._facts(targets, lines, path, cache)
        ways = self._ways(lines)
        machines = [
            Machine(vm, as_text(vm), ways.get(name, HERE), style)
            for name, vms in facts.items()
            for vm in self._selected({**vm, "hypervisor": name} for vm in vms)
        ]
        self._add_all([machine for machine in machines if self._included(machine)])

    def _refuse_unknown(self, config: Mapping[Any, Any]) -> None:
        """Raise for a key that no option has: Ansible itself passes it over."""
        for key in config:
            if not self.has_option(key):
                near = get_close_matches(str(key), map(str, self.option_definitions), n=1)
                meant = f" Did you mean '{near[0]}'?" if near else ""
                raise AnsibleParserError(f"'{key}' is no option of this inventory.{meant}")

    def _refuse_wrong(self) -> None:
        timeout = self.get_option("timeout")
        if not 0 < timeout < math.inf:
            raise AnsibleParserError(
                f"timeout: {timeout} is no time to wait. Give seconds above 0."
            )
        for entry in self.get_option("filters"):
            if set(entry) not in ({"include"}, {"exclude"}):
                raise AnsibleParserError(
                    f"filters: {entry!r} must have either include or exclude, and nothing else."
                )
            ((verb, expression),) = entry.items()
            fault = _fault(expression)
            if fault is not None:
                raise AnsibleParserError(
                    f"filters: {verb}: {expression!r} is no expression: {fault}."
                )

    def _add_all(self, machines: list[Machine]) -> None:
        ladders = {
            number: name_ladder(self._host_name(machine), machine.vm)
            for number, machine in enumerate(machines)
        }
        names, disputes = settle_names(ladders)
        for dispute in disputes:
            self.display.warning(dispute)
        for number in sorted(names, key=names.__getitem__):
            self._add(names[number], machines[number])

    def _style(self) -> Style:
        texts = ("hostvars_prefix", "group_prefix", "group")
        try:
            return Style(
                **{option: self._text(option) for option in texts},
                ssh_options=self.get_option("ssh_options"),
            )
        except ValueError as exc:
            raise AnsibleParserError(f"{exc}.") from exc

    def _text(self, option: str) -> str:
        return self._templated(option, self.get_option(option), self._vars or {})

    def _templated(self, option: str, value: Any, variables: Mapping[str, Any]) -> str:
        self.templar.available_variables = variables
        try:
            value = self.templar.template(value)
        except AnsibleError as exc:
            raise AnsibleParserError(f"{option}: {exc}") from exc
        return "" if value is None else str(value)

    def _targets(self, path: str) -> list[Target]:
        targets = Targets(self.inventory, self.loader, path, self._vars or {})
        try:
            found = targets.find(self.get_option("hypervisors"))
        except ValueError as exc:
            raise AnsibleParserError(f"{exc}.") from exc
        for pattern in targets.unknown:
            self._complain(
                f"hypervisors: no host of the inventory sources before this one matches '{pattern}'."
                " Give a mapping with its address as host for one that no source knows."
            )
        return found

    def _lines(self, targets: list[Target]) -> dict[str, Line]:
        distant = [target for target in targets if not target.here]
        if not distant:
            return {}
        from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._connecting import (
            make_line,
        )

        lines = {}
        for target in distant:
            self.templar.available_variables = target.variables
            try:
                lines[target.name] = make_line(target.name, target.variables, self.templar.template)
            except AnsibleError as exc:
                self._complain_of(target.name, str(exc))
        return lines

    def _ways(self, lines: Mapping[str, Line]) -> dict[str, Way]:
        if not lines:
            return {}
        from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._keeping import (
            cache_folder,
            prepare_folder,
        )

        prepare_folder()
        return {
            name: HERE if line.here else Way(line.jump, cache_folder(), closed=line.jump is None)
            for name, line in lines.items()
        }

    def _facts(
        self, targets: list[Target], lines: Mapping[str, Line], path: str, cache: bool
    ) -> dict[str, list[VmFacts]]:
        """Return the machines by hypervisor host, from the cache or anew; a host that cannot be asked is left out."""
        known: dict[str, list[VmFacts]] = {}
        folders: dict[str, str] = {}
        for target in targets:
            if target.here or target.name in lines:
                try:
                    folders[target.name] = self._data_dir(target, path)
                except AnsibleParserError as exc:
                    self._complain_of(target.name, str(exc), alone=len(targets) == 1)
        questions = {
            name: self._question(path, name, folder, lines.get(name))
            for name, folder in folders.items()
        }
        if self.get_option("cache") and cache:
            known = dict(self._remembered(questions))
        asked = {name: folder for name, folder in folders.items() if name not in known}
        for name, answer in self._ask(asked, lines).items():
            for warning in answer.facts.get("warnings", ()):
                self.display.warning(warning if name not in lines else f"{name}: {warning}")
            if answer.failure is not None:
                here = name not in lines
                self._complain_of(name, answer.failure, alone=here and len(targets) == 1)
                continue
            known[name] = answer.facts["vms"]
            if self.get_option("cache"):
                entry = {"question": questions[name], "vms": known[name]}
                self._cache[self.get_cache_key(questions[name])] = entry
        return {name: known[name] for name in folders if name in known}

    def _question(self, path: str, host: str, folder: str, line: Line | None) -> str:
        """Return what tells a question to a hypervisor host from any other."""
        way = () if line is None else (line.told, self.get_option("fetch_private_keys"))
        return hashlib.sha256(repr((path, host, folder, *way)).encode()).hexdigest()

    def _remembered(self, questions: Mapping[str, str]) -> Iterator[tuple[str, list[VmFacts]]]:
        """Yield what the cache has; its keys are short, so that two questions may have the same one."""
        for name, question in questions.items():
            entry = self._cache.get(self.get_cache_key(question))
            if entry is not None and entry.get("question") == question:
                yield name, entry["vms"]

    def _ask(self, folders: Mapping[str, str], lines: Mapping[str, Line]) -> dict[str, Answer]:
        here = [name for name in folders if name not in lines]
        if len(here) == len(folders):
            return {name: local_answer(folders[name]) for name in here}
        from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._asking import Asking
        from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._keeping import (
            keep_keys,
        )
        from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._payload import (
            build_program,
        )

        timeout, with_keys = self.get_option("timeout"), self.get_option("fetch_private_keys")
        questions = {
            name: lines[name].question(build_program(folder, with_keys, timeout))
            for name, folder in folders.items()
            if name in lines
        }
        with Asking(questions, timeout) as asking:
            answers = {name: local_answer(folders[name]) for name in here}
            answers |= asking.answers()
        try:
            for name in questions:
                keep_keys(answers[name].facts.get("keys", {}))
        except OSError as exc:
            self.display.warning(f"fetch_private_keys: a key cannot be kept here: {exc}.")
        return {name: answers[name] for name in folders}

    def _data_dir(self, target: Target, path: str) -> str:
        given = target.data_dir or self.get_option("data_dir")
        folder = self._templated("data_dir", given, target.variables)
        if not folder or not target.here:
            return folder
        return unfrackpath(folder, follow=False, basedir=os.path.dirname(path))

    def _complain_of(self, host: str, cause: str, *, alone: bool = False) -> None:
        """Say that a hypervisor host gives no machines; for one that stands ``alone``, there is nothing else to give."""
        if alone:
            raise AnsibleParserError(cause)
        self._complain(f"The hypervisor host '{host}' cannot be asked: {cause.rstrip('.')}.")

    def _complain(self, sentence: str) -> None:
        if self.get_option("strict_hypervisors"):
            raise AnsibleParserError(sentence)
        self.display.warning(sentence)

    def _selected(self, vms: Iterable[VmFacts]) -> Iterator[VmFacts]:
        states, names = self.get_option("states"), self.get_option("names")
        for vm in vms:
            named = names is None or any(fnmatchcase(vm["name"], name) for name in names)
            if named and (states is None or vm["state"] in states):
                yield vm

    def _included(self, machine: Machine) -> bool:
        for entry in self.get_option("filters"):
            ((verb, expression),) = entry.items()
            self.templar.available_variables = machine.known()
            if self._is_true(f"filters: {verb}", expression, machine):
                return verb == "include"
        return True

    def _is_true(self, place: str, expression: Any, machine: Machine) -> bool:
        try:
            return bool(self._evaluate_condition(expression, machine.known()))
        except Exception as exc:  # an expression can raise anything
            causes = list(_causes(exc))
            undefined = any(isinstance(cause, AnsibleUndefinedVariable) for cause in causes)
            wrong = any(isinstance(cause, TemplateSyntaxError) for cause in causes)
            fails = f"{place}: {expression!r} fails"
            if wrong or self.get_option("strict"):
                raise AnsibleParserError(
                    f"{fails} for the VM '{machine.vm['name']}': {exc}"
                ) from exc
            if not undefined and fails not in self._warned:
                self._warned.add(fails)
                self.display.warning(f"{fails} for the VM '{machine.vm['name']}': {exc}")
            return False

    def _evaluate_condition(self, expression: Any, known: Mapping[str, Any]) -> Any:
        if isinstance(expression, bool):
            return expression
        return self._compose(expression, known)

    def _host_name(self, machine: Machine) -> str:
        return next(self._given_names(machine), machine.vm["name"])

    def _given_names(self, machine: Machine) -> Iterator[str]:
        for entry in self.get_option("hostnames"):
            try:
                name = host_name(self._evaluate(entry, machine))
            except Exception as exc:  # an expression can raise anything
                if self.get_option("strict"):
                    raise AnsibleParserError(
                        f"hostnames: {entry!r} gives the VM '{machine.vm['name']}' no name: {exc}"
                    ) from exc
                continue
            if name is not None:
                yield name

    def _evaluate(self, entry: str, machine: Machine) -> object:
        if (
            entry in machine.vm
        ):  # an expression costs half a millisecond, and this is one for each machine
            return machine.vm[entry]
        if "{{" not in entry:
            return self._compose(entry, machine.known())
        self.templar.available_variables = machine.known()
        return self.templar.template(entry)

    def _add(self, name: str, machine: Machine) -> None:
        self.inventory.add_host(name)
        for group in host_groups(machine.vm, machine.style):
            self.inventory.add_group(group)
            self.inventory.add_child(group, name)
        host = self.inventory.get_host(name)
        # Not by the inventory's own method: it would look through each value for text to mark, which we have done.
        for variable, value in machine.variables.items():
            host.set_variable(variable, value)
        strict, variables = self.get_option("strict"), machine.variables
        self._set_composite_vars(self.get_option("compose"), variables, name, strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict)


class Machine:
    """A machine on its way to becoming a host. ``fields`` are those of ``vm`` as Ansible shall take them."""

    def __init__(self, vm: VmFacts, fields: VmFacts, way: Way, style: Style) -> None:
        self.vm = vm
        self.style = style
        self._fields = fields
        connection = host_connection(vm, style, way)
        ours = {name: _own_text(value) for name, value in connection.items()}
        self.variables = {**ours, **host_fields(fields, style)}

    def known(self) -> VmFacts:
        """Return all that an expression may see: the variables of the host, and the fields by their own names."""
        return {**self._fields, **self.variables}


def _fault(expression: Any) -> str | None:
    """Tell why something cannot be a condition; ``None`` if it can."""
    if isinstance(expression, bool):
        return None
    if not isinstance(expression, str):
        return "it is neither a text nor true or false"
    try:
        parser = Parser(Environment(), expression, state="variable")
        parser.parse_expression()
    except TemplateSyntaxError as exc:
        return str(exc.message).rstrip(".")
    return None if parser.stream.eos else f"there is something after it: {parser.stream.current}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Go through what an error came of; ansible-core before 2.19 keeps that in an attribute of its own."""
    while error is not None:
        yield error
        error = getattr(error, "orig_exc", None) or error.__cause__ or error.__context__


def _own_text(value: Any) -> Any:
    """Return a variable that says how to connect: nothing runs such a value as an expression."""
    if not isinstance(value, str):
        return value
    return _literal(value) if _TEMPLATE.search(value) else _plain(value)


@functools.lru_cache(maxsize=10000)
def _as_literal(value: str) -> str:
    """Mark a text; most texts of a machine are those of all others, too."""
    return _literal(value) if _SYNTAX.search(value) else _plain(value)


def as_text(value: Any) -> Any:
    """Return data of a machine so that Ansible takes it literally, whatever it looks like.

    Text that cannot compute anything is given to Ansible as if the user had written it: everything else is shown by
    ``ansible-inventory --list`` in a wrapping that few readers of that list expect.
    """
    if isinstance(value, str):
        return _as_literal(value)
    if isinstance(value, dict):
        return {
            _literal(key) if _SYNTAX.search(key) else key: as_text(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return value
