# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual machines as hosts of an inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
name: vms
short_description: Virtual machines as hosts
version_added: 0.1.0
author:
  - CloudNebula contributors (@CloudNebulaProject)
description:
  - Lists the virtual machines that are kept on this host, with all that is needed to log in to them by SSH.
  - The name of the file must be C(hypervisor.yml) or end with C(.hypervisor.yml); C(.yaml) is fine too.
  - Each machine is a host, with a variable for each of its fields, named as in RV(cloudnebula.hypervisor.vm_info#module:vms)
    after O(hostvars_prefix), such as C(vm_state) and C(vm_memory_mb).
  - A machine that can be reached also has C(ansible_host), C(ansible_port), C(ansible_ssh_common_args), C(ansible_user) if the account
    is known, and C(ansible_ssh_private_key_file) if a key was made for it. One that does not run has none of them.
  - Each host is in the group O(group), and in groups by state (C(state_running)), backend (C(backend_qemu)) and label (C(label_tier_web)).
  - The folder of the machines is read as the user who runs Ansible, who must be the one that created them, or root.
notes:
  - Texts of the machines, such as labels, are never run as templates.
  - Host variables of an inventory win over group variables, so a C(ansible_user) or C(ansible_ssh_common_args) of your own
    belongs into C(host_vars), or into O(compose).
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
  data_dir:
    description:
      - Folder in which the machines are kept, as in M(cloudnebula.hypervisor.vm).
      - The default is C($XDG_DATA_HOME/vmctl), or C(~/.local/share/vmctl) of the user who runs Ansible. If there is none, there are no hosts.
      - It may be a template, and may begin with C(~) or hold environment variables. A relative path begins at the folder of the inventory file.
    type: str
  hostnames:
    description:
      - Names for the hosts, as expressions (V(name), V(labels.fqdn), V(name ~ '.example.org')) or templates (V({{ name }}.example.org)).
      - They see the fields of the machine with and without O(hostvars_prefix). The first one that gives a name is used, and the machine's name if none does.
      - What is undefined, or cannot be the name of a host, is skipped, or an error with O(strict).
      - If several machines would have the same name, there is a warning, and all of them keep the machine's name.
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
        and logs in only with the key that was made for the machine.
      - If V(false), the options are yours to set, and host keys are looked for in your own C(known_hosts).
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
# Many machines: look at them once in ten minutes, or when --flush-cache or "meta: refresh_inventory" asks for it
plugin: cloudnebula.hypervisor.vms
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/hypervisor
cache_timeout: 600
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.path import unfrackpath
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import (
    default_data_dir,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._manage import describe_vms
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import Task
from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._hosts import (
    Style,
    host_groups,
    host_name,
    host_variables,
    settle_names,
)

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
_SYNTAX = re.compile(
    r"[][(){}|]"
)  # without these, a template holds no expression, and an expression calls nothing

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
        self._read_config_data(path)
        self.templar.available_variables = self._vars or {}
        style, data_dir = self._style(), self._data_dir(path)
        vms = self._facts(path, data_dir, cache)
        variables = {vm["name"]: as_text(host_variables(vm, style)) for vm in vms}
        wanted = {vm["name"]: self._host_name(vm, variables[vm["name"]]) for vm in vms}
        names, disputes = settle_names(wanted)
        for dispute in disputes:
            self.display.warning(dispute)
        for vm in sorted(vms, key=lambda vm: names[vm["name"]]):
            self._add(names[vm["name"]], host_groups(vm, style), variables[vm["name"]])

    def _style(self) -> Style:
        texts = ("hostvars_prefix", "group_prefix", "group")
        try:
            return Style(
                **{option: self._text(option) for option in texts},
                ssh_options=self.get_option("ssh_options"),
            )
        except ValueError as exc:
            raise AnsibleParserError(f"{exc}.") from exc

    def _data_dir(self, path: str) -> str:
        given = self._text("data_dir")
        if not given:
            return default_data_dir()
        return unfrackpath(given, follow=False, basedir=os.path.dirname(path))

    def _text(self, option: str) -> str:
        try:
            value = self.templar.template(self.get_option(option))
        except AnsibleError as exc:
            raise AnsibleParserError(f"{option}: {exc}") from exc
        return "" if value is None else str(value)

    def _facts(self, path: str, data_dir: str, cache: bool) -> list[VmFacts]:
        if not self.get_option("cache"):
            return self._fetch(data_dir)
        # The same file may stand for several folders, if data_dir is a template.
        key = self.get_cache_key(f"{path}:{data_dir}")
        found = self._cache.get(key) if cache else None
        if found is None:
            found = self._cache[key] = {"vms": self._fetch(data_dir)}
        return found["vms"]

    def _fetch(self, data_dir: str) -> list[VmFacts]:
        task = Task({"data_dir": data_dir, "name": None})
        try:
            return describe_vms(task)["vms"]
        except VmError as exc:
            raise AnsibleParserError(f"{exc} {exc.help}".strip()) from exc
        finally:
            for warning in task.warnings:
                self.display.warning(warning)

    def _host_name(self, vm: VmFacts, variables: Mapping[str, Any]) -> str:
        given = self._given_names({**as_text(vm), **variables}, vm["name"])
        return next(given, vm["name"])

    def _given_names(self, known: Mapping[str, Any], machine: str) -> Iterator[str]:
        for entry in self.get_option("hostnames"):
            try:
                name = host_name(self._evaluate(entry, known))
            except Exception as exc:  # an expression can raise anything
                if self.get_option("strict"):
                    raise AnsibleParserError(
                        f"hostnames: {entry!r} gives the VM '{machine}' no name: {exc}"
                    ) from exc
                continue
            if name is not None:
                yield name

    def _evaluate(self, entry: str, known: Mapping[str, Any]) -> object:
        if "{{" not in entry:
            return self._compose(entry, known)
        self.templar.available_variables = known
        return self.templar.template(entry)

    def _add(self, host: str, groups: list[str], variables: Mapping[str, Any]) -> None:
        self.inventory.add_host(host)
        for group in groups:
            self.inventory.add_group(group)
            self.inventory.add_child(group, host)
        for name, value in variables.items():
            self.inventory.set_variable(host, name, value)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, host, strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, host, strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host, strict)


def as_text(value: Any) -> Any:
    """Return data of a machine so that Ansible takes it literally, whatever it looks like.

    Text that cannot compute anything is given to Ansible as if the user had written it: everything else is shown by
    ``ansible-inventory --list`` in a wrapping that few readers of that list expect.
    """
    if isinstance(value, Mapping):
        return {
            _literal(key) if _SYNTAX.search(key) else key: as_text(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [as_text(item) for item in value]
    if not isinstance(value, str):
        return value
    return _literal(value) if _SYNTAX.search(value) else _plain(value)
