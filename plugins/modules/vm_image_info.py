#!/usr/bin/python
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images that were fetched to the hypervisor host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_image_info
short_description: Show the disk images that were fetched
version_added: 0.1.0
author:
  - CloudNebula contributors (@CloudNebulaProject)
description:
  - Returns the images that M(cloudnebula.hypervisor.vm_image) and M(cloudnebula.hypervisor.vm) have fetched, and who uses them. It never changes anything.
  - Other files in the same folder are left out.
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
  image:
    description:
      - Show only what came from there, in the way in which O(cloudnebula.hypervisor.vm_image#module:image) says it. All are shown if it is left out.
    type: str
seealso:
  - module: cloudnebula.hypervisor.vm_image
"""

EXAMPLES = r"""
- name: Look at all images
  cloudnebula.hypervisor.vm_image_info:
  register: found

- name: Show which ones nobody uses
  ansible.builtin.debug:
    msg: "{{ found.images | rejectattr('in_use_by') | map(attribute='path') }}"
"""

RETURN = r"""
images:
  description: The images, sorted by their path.
  returned: success
  type: list
  elements: dict
  contains:
    path:
      description: The file, which is read-only. It can be given to M(cloudnebula.hypervisor.vm) as its O(cloudnebula.hypervisor.vm#module:image).
      type: str
      sample: /home/me/.local/share/vmctl/images/debian-12-genericcloud-amd64-5f0c1b7a9d3e4c21.qcow2
    source:
      description: Where it came from. The query of a URL is left out, since it may be a signature.
      type: str
      sample: https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2
    source_digest:
      description: Digest of what was fetched, before it was unpacked or converted.
      type: str
      sample: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    source_format:
      description: Format of what was fetched.
      type: str
      sample: qcow2
    digest:
      description: Digest of the file.
      type: str
      sample: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    format:
      description: Format of the file, C(qcow2) or C(raw).
      type: str
      sample: qcow2
    decrypted:
      description: Whether the image was encrypted where it came from. The file is not.
      type: bool
      sample: false
    dropped_snapshots:
      description: How many internal snapshots of the image were left behind.
      type: int
      sample: 0
    virtual_size:
      description: Size of the disk that a guest sees, in bytes.
      type: int
      sample: 2147483648
    size:
      description: Length of the file in bytes.
      type: int
      sample: 346030080
    fetched_at:
      description: When it was fetched, in UTC.
      type: str
      sample: "2026-11-23T13:55:29.556500+00:00"
    in_use_by:
      description: Names of the machines in O(data_dir) whose disks rest on it.
      type: list
      elements: str
      sample: [web1]
error:
  description: What went wrong. C(code) is stable, C(help) says what to do, C(details) holds the evidence.
  returned: failure
  type: dict
"""

from typing import NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._arguments import VM_IMAGE_INFO
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._manage_images import (
    describe_images,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import run


def main() -> NoReturn:
    """Entry point."""
    run(AnsibleModule(argument_spec=VM_IMAGE_INFO, supports_check_mode=True), describe_images)


if __name__ == "__main__":
    main()
