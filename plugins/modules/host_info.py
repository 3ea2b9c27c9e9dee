#!/usr/bin/python
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a host can run virtual machines, and with what."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: Show whether a host can run virtual machines, and with what
version_added: 0.1.0
author:
  - CloudNebula contributors (@CloudNebulaProject)
description:
  - Looks at the hypervisor host, backend by backend, and tells what is there and what is missing. It never changes anything.
  - A backend that cannot be used is no error; its RV(backends[].problems) say what hinders it and what to do.
  - The module M(cloudnebula.hypervisor.vm) makes the same checks, and those of the machine at hand, before it touches anything.
extends_documentation_fragment:
  - cloudnebula.hypervisor._attributes
  - cloudnebula.hypervisor._attributes.actiongroup_all
  - cloudnebula.hypervisor._host
  - cloudnebula.hypervisor._propolis
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
options: {}
seealso:
  - module: cloudnebula.hypervisor.vm
"""

EXAMPLES = r"""
- name: Look what this host can do
  cloudnebula.hypervisor.host_info:
  register: host

- name: Show it
  ansible.builtin.debug:
    msg: "{{ item.backend }}: {{ 'ready' if item.available else item.problems[0].message }}"
  loop: "{{ host.backends }}"
  loop_control:
    label: "{{ item.backend }}"

- name: Stop where no machine could run
  ansible.builtin.assert:
    that: host.backends | selectattr('available') | length > 0

- name: Look with the paths that the machines will have
  cloudnebula.hypervisor.host_info:
    propolis:
      pool: tank
      bootrom: /tank/firmware/OVMF_CODE.fd
"""

RETURN = r"""
data_dir:
  description: Folder in which machines are kept.
  returned: success
  type: str
  sample: /home/me/.local/share/vmctl
problems:
  description: What hinders every backend, each with C(message), C(help) and C(code). Empty where the data folder can be used.
  returned: success
  type: list
  elements: dict
  sample: []
default_backend:
  description: The backend of a new machine on this platform; null where there is none.
  returned: success
  type: str
  sample: qemu
backends:
  description: All backends of this release.
  returned: success
  type: list
  elements: dict
  contains:
    backend:
      description: Its name, C(qemu), C(propolis) or C(noop).
      type: str
      sample: qemu
    available:
      description: Whether it can be used, which is when it has no problems.
      type: bool
      sample: true
    problems:
      description: What hinders it, each with C(message), C(help) and C(code).
      type: list
      elements: dict
      sample: []
    facts:
      description:
        - What machines would run with. A fact that cannot be had is null.
        - For C(qemu), C(qemu) (its path), C(version), C(machine) (the default machine type), C(accelerator) and C(accelerator_reason), C(qemu_img),
          C(bridge_helper), C(tun) (whether there is a device for TAP interfaces) and C(seed_tool).
        - For C(propolis), C(server), C(bootrom), C(hosting), C(vmm_version) and C(viona_version) of the kernel, C(reservoir) with C(free_mib),
          C(allocated_mib) and C(limit_mib), C(pool) with C(name) and C(available_bytes), C(links), each with C(name), C(class) and C(state),
          and C(failures), the words of programs that failed and could not tell a fact.
      type: dict
      sample:
        qemu: /usr/bin/qemu-system-x86_64
        version: 7.2.22
        machine: q35
        accelerator: kvm
        accelerator_reason: The probe guest ran on the hardware.
        qemu_img: /usr/bin/qemu-img
        bridge_helper: /usr/lib/qemu/qemu-bridge-helper
        tun: true
        seed_tool: genisoimage
error:
  description: What went wrong. C(code) is stable, C(help) says what to do, C(details) holds the evidence.
  returned: failure
  type: dict
"""

from typing import NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._arguments import HOST_INFO
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host_info import describe_host
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import run


def main() -> NoReturn:
    """Entry point."""
    run(AnsibleModule(argument_spec=HOST_INFO, supports_check_mode=True), describe_host)


if __name__ == "__main__":
    main()
