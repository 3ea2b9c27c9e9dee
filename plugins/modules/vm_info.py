#!/usr/bin/python
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Facts of one, several or all virtual machines."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_info
short_description: Show virtual machines
version_added: 0.1.0
author:
  - CloudNebula contributors (@CloudNebulaProject)
description:
  - Returns what the hypervisor host knows of one, several or all virtual machines right now. It never changes anything.
  - A machine that does not exist is left out; that is no error.
  - A QEMU that does not answer costs a few seconds and gives a warning; the machine is shown as far as it is known.
extends_documentation_fragment:
  - cloudnebula.hypervisor._attributes
  - cloudnebula.hypervisor._attributes.actiongroup_all
  - cloudnebula.hypervisor._host
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
  idempotent:
    support: full
  platform:
    platforms: linux, illumos
    support: full
options:
  name:
    description:
      - Names of the machines to show. All are shown if it is left out.
    type: list
    elements: str
seealso:
  - module: cloudnebula.hypervisor.vm
"""

EXAMPLES = r"""
- name: Look at all machines
  cloudnebula.hypervisor.vm_info:
  register: all_vms

- name: Show which run
  ansible.builtin.debug:
    msg: "{{ all_vms.vms | selectattr('state', 'equalto', 'running') | map(attribute='name') }}"

- name: Look at one machine
  cloudnebula.hypervisor.vm_info:
    name: web1
  register: web1

- name: Say whether it exists
  ansible.builtin.debug:
    msg: "{{ 'web1 exists' if web1.vms else 'there is no web1' }}"
"""

RETURN = r"""
vms:
  description: The machines, sorted by name, or in the order in which O(name) names them.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: web1
    id:
      description: Its identity, the backend and a UUID.
      type: str
      sample: qemu-7c1f0f0e-64fb-4d0f-8f0e-0c6f3f3e9f5b
    backend:
      description: What runs it.
      type: str
      sample: qemu
    state:
      description: One of C(preparing), C(prepared) (never started), C(running), C(suspended), C(stopped), C(failed), C(destroyed).
      type: str
      sample: running
    run_state:
      description: QEMU's own word for the state, if it runs.
      type: str
      sample: running
    image:
      description: The image that it was created from.
      type: str
      sample: /srv/images/debian-12-genericcloud-amd64.qcow2
    vcpus:
      description: Number of virtual CPUs, as recorded. C(restart_required) says whether it still runs with another one.
      type: int
      sample: 2
    memory_mb:
      description: Memory in MiB, as recorded.
      type: int
      sample: 2048
    disks:
      description: Its disks, each with C(name), C(path), C(format), C(size) in bytes, C(image),
        C(layers) (files between the two that it shares with linked clones, the uppermost first), and whether the machine has it (C(attached)).
      type: list
      elements: dict
    networks:
      description: >-
          Its network cards, each with what it was given, C(name), C(type), C(bridge), C(interface), C(link), C(vlan),
          C(model), C(mtu), C(connected) and C(port_forwards),
          its C(mac), and the C(ip_addresses) that are the guest's for sure.
      type: list
      elements: dict
    ip_address:
      description: Address under which the hypervisor host reaches it, if it runs.
      type: str
      sample: 127.0.0.1
    ssh:
      description: How to log in from the hypervisor host. C(host), C(port), C(user), C(private_key_path) if a key was made for it,
        and C(host_key) if the guest's was made beforehand.
      type: dict
      sample: {host: 127.0.0.1, port: 10061, user: vm, private_key_path: /home/me/.local/share/vmctl/vms/web1/id_ed25519}
    console:
      description: The serial console, C(type) (C(unix) or C(none)) and C(path).
      type: dict
    vnc:
      description: The screen, if it has one and runs. C(host), C(port) and C(password_file).
      type: dict
    pid:
      description: Process number of QEMU, if it runs.
      type: int
      sample: 4711
    paths:
      description: Where its files are. C(work_dir), C(qmp_socket), C(console_log), C(hypervisor_log).
      type: dict
    accelerator:
      description: What executes the guest's code, C(kvm) or C(tcg), if it runs.
      type: str
      sample: kvm
    accelerator_reason:
      description: Why that was chosen.
      type: str
    stopped_by:
      description: How a task ended its last run, C(guest) (it powered off when asked), C(quit), C(sigterm) or C(sigkill). Null if it ended by itself.
      type: str
      sample: guest
    restart_required:
      description: Whether it runs with options that have been changed since.
      type: bool
    labels:
      description: Its labels.
      type: dict
    description:
      description: The text for people.
      type: str
error:
  description: What went wrong. C(code) is stable, C(help) says what to do, C(details) holds the evidence.
  returned: failure
  type: dict
"""

from typing import NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._arguments import VM_INFO
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._describe import describe_vms
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import run


def main() -> NoReturn:
    """Entry point."""
    run(AnsibleModule(argument_spec=VM_INFO, supports_check_mode=True), describe_vms)


if __name__ == "__main__":
    main()
