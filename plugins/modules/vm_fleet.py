#!/usr/bin/python
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several virtual machines from one task."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_fleet
short_description: Create, start, stop, change and remove several virtual machines at once
version_added: 0.1.0
author:
  - CloudNebula contributors (@CloudNebulaProject)
description:
  - Does for several virtual machines on one host what M(cloudnebula.hypervisor.vm) does for one, with the same results.
  - All of them are read, planned and checked before the first one is touched. Then they are brought to their state one after the other,
    in the order of O(vms), and only then are guests waited for, so that they boot side by side.
  - It is faster than a loop, which starts a process for each machine and waits for one guest before it starts the next.
  - A machine that fails does not stop the others, unless they are to be cloned from it. The task fails at its end, and says which failed and why.
extends_documentation_fragment:
  - cloudnebula.hypervisor._attributes
  - cloudnebula.hypervisor._attributes.actiongroup_all
  - cloudnebula.hypervisor._host
attributes:
  check_mode:
    support: full
    details:
      - What an earlier task of the same play would bring, such as the image or QEMU itself, may be missing. This gives a warning instead of an error.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - A machine with the state V(restarted) is restarted each time.
  platform:
    platforms: linux, illumos
    support: full
requirements:
  - Those of M(cloudnebula.hypervisor.vm).
options:
  vms:
    description:
      - The machines. Each is a dictionary with a C(name) and any other option of M(cloudnebula.hypervisor.vm) but C(data_dir).
      - An option that is left out has its value in O(defaults), or else its default. An option of which the value is a dictionary or a list,
        such as C(cloud_init), replaces the one in O(defaults) as a whole. With V(null), an option counts as left out even if it is in O(defaults).
      - No two may have the same name. A machine that is cloned from another one of the list must come after it.
      - Two that may run at the same time cannot have the same port of the host, MAC address or TAP interface.
      - Its values are not written to the system's log.
    type: list
    elements: dict
    required: true
  defaults:
    description:
      - Options that O(vms) leave out. Any option of M(cloudnebula.hypervisor.vm) but C(name), C(new_name) and C(data_dir).
      - C(wait_timeout) counts for each guest from the moment at which its own machine was started.
      - Its values are not written to the system's log.
    type: dict
seealso:
  - module: cloudnebula.hypervisor.vm
  - module: cloudnebula.hypervisor.vm_info
"""

EXAMPLES = r"""
- name: Three machines that can be logged in to
  cloudnebula.hypervisor.vm_fleet:
    defaults:
      image: /srv/images/debian-12-genericcloud-amd64.qcow2
      memory: 1GiB
      wait_for: ssh
    vms:
      - name: web1
      - name: web2
      - name: db1
        memory: 4GiB
        disk_size: 20GiB
  register: fleet

- name: Show how to log in
  ansible.builtin.debug:
    msg: "ssh -p {{ item.ssh.port }} -i {{ item.ssh.private_key_path }} {{ item.ssh.user }}@{{ item.ssh.host }}"
  loop: "{{ fleet.vms }}"
  loop_control:
    label: "{{ item.name }}"

- name: Stop the web servers, leave the database as it is
  cloudnebula.hypervisor.vm_fleet:
    defaults:
      state: stopped
    vms:
      - name: web1
      - name: web2
      - name: db1
        state: present

- name: A machine and its clones
  cloudnebula.hypervisor.vm_fleet:
    vms:
      - name: golden
        image: /srv/images/debian-12-genericcloud-amd64.qcow2
        state: stopped
      - name: worker1
        clone_from: golden
      - name: worker2
        clone_from: golden

- name: Remove them all, the clones as well
  cloudnebula.hypervisor.vm_fleet:
    defaults:
      state: absent
    vms:
      - name: web1
      - name: web2
      - name: db1
      - name: worker1
      - name: worker2
      - name: golden
"""

RETURN = r"""
vms:
  description: The machines in the order of the task, each as RV(cloudnebula.hypervisor.vm#module:vm). One that failed is among them if its state is known.
  returned: unless the task failed before the first machine was touched
  type: list
  elements: dict
  sample: [{name: web1, state: running, ip_address: 127.0.0.1}, {name: web2, state: running, ip_address: 127.0.0.1}]
results:
  description: What became of each machine, in the order of the task.
  returned: unless the task failed before the first machine was touched
  type: list
  elements: dict
  contains:
    name:
      description: Its name in the task.
      type: str
      sample: web1
    changed:
      description: Whether anything was changed.
      type: bool
    actions:
      description: What was done, as RV(cloudnebula.hypervisor.vm#module:actions).
      type: list
      elements: str
      sample: [prepare, start]
    restart_required:
      description: Whether options were changed that apply only after a restart.
      type: bool
diff:
  description: The options before and after the task, as RV(cloudnebula.hypervisor.vm#module:diff), under the name of each machine that was changed.
    One that is made has nothing before, one that is removed nothing after.
  returned: unless the task failed before the first machine was touched
  type: dict
errors:
  description: What went wrong with each machine that failed, under its name, with C(msg), C(code), C(help) and C(details).
  returned: failure of one or more machines
  type: dict
  sample: {web2: {msg: "image: there is no file /srv/x.", code: vm_manager.create.image_not_found, help: Check the path., details: {option: "vms[1].image"}}}
error:
  description: What went wrong. C(code) is stable, C(help) says what to do, C(details) holds the evidence.
  returned: failure
  type: dict
  sample: {code: vm_manager.fleet.failed, help: The result has the error of each VM under its name in errors., details: {}}
"""

from typing import NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._arguments import VM_FLEET
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._fleet import manage_fleet
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import run


def main() -> NoReturn:
    """Entry point."""
    run(AnsibleModule(argument_spec=VM_FLEET, supports_check_mode=True), manage_fleet)


if __name__ == "__main__":
    main()
