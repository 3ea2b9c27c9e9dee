#!/usr/bin/python
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images on the hypervisor host: fetched and verified, removed, or pushed to a registry."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm_image
short_description: Fetch, verify, remove and push disk images
version_added: 0.1.0
author:
  - CloudNebula contributors (@CloudNebulaProject)
description:
  - Brings a disk image to the hypervisor host, where it is kept in C(images/) below O(data_dir) and never changed.
  - What is fetched is compared with O(checksum), unpacked (gz, xz or zst), looked at for what could harm the host, and converted to qcow2 if need be.
    An image that does not pass is not kept. One that is encrypted, or that holds internal snapshots, is taken in only with
    O(passphrase) or O(internal_snapshots).
  - A download that broke off is continued, by this task or by a later one. Tasks that want the same image at the same time fetch it once.
  - The module M(cloudnebula.hypervisor.vm) fetches images by itself. This one is for doing so beforehand, with credentials, or for newer versions.
extends_documentation_fragment:
  - cloudnebula.hypervisor._attributes
  - cloudnebula.hypervisor._attributes.actiongroup_all
  - cloudnebula.hypervisor._host
attributes:
  check_mode:
    support: full
    details:
      - With O(update=if_changed) and O(update=always), the source is asked whether it has another version. Nothing is fetched.
      - A file of the host is looked at as it would be on its way in, unless it is compressed. Its checksum is not taken.
  diff_mode:
    support: full
  idempotent:
    support: full
  platform:
    platforms: linux, illumos
    support: full
requirements:
  - "C(qemu-img)"
  - "For images compressed by zst, Python 3.14 or the program C(zstd)"
options:
  image:
    description:
      - Where the image is. A URL (V(https://...), V(http://...) or V(file:///...)), a reference to an artifact in an OCI registry
        (V(oci://registry/repository:tag)), the name of a well-known image such as V(debian-12), or the path of a file on the hypervisor host, which is copied.
      - With O(state=absent), the path of a fetched image works, too.
      - Required unless O(state=pruned), which refuses it.
    type: str
  state:
    description:
      - V(present) makes sure that the image is on the host.
      - V(absent) removes all versions that were fetched from O(image). It fails if the disk of a machine rests on one, and names the machines.
      - V(pruned) removes all images that no machine in O(data_dir) uses, and what is left of runs that were cut off.
        It refuses O(image), O(checksum), O(image_format) and O(destination). To remove one image, use V(absent).
      - V(pushed) uploads an image that is on the host to O(destination).
    type: str
    choices: [present, absent, pruned, pushed]
    default: present
  checksum:
    description:
      - What the image must be, as V(sha256:...) or V(sha512:...), or the URL of a file that lists checksums, such as C(SHA256SUMS).
        The list must name the file that O(image) names, or hold one digest alone.
      - It is that of the file as it is published, before it is unpacked.
    type: str
  image_format:
    description:
      - Format of the image at its source. If left out, the layer's type in a registry tells it, or else the content.
      - A raw disk without a boot sector is accepted only if V(raw) is said.
    type: str
    choices: [qcow2, raw, vmdk, vdi, vhdx, vpc]
  target_format:
    description:
      - Format in which the image is kept. By default, a raw disk stays raw and all others become qcow2.
      - With O(state=pushed), nothing is converted. It fails if a file is in another format.
    type: str
    choices: [qcow2, raw]
  passphrase:
    description:
      - Decrypts a qcow2 image that is encrypted by LUKS. What is kept on the host is B(not encrypted).
      - An image that is not encrypted is refused. An image that was decrypted before is not decrypted again, and the passphrase is not tried.
      - Only for O(state=present).
    type: str
  internal_snapshots:
    description:
      - What to do with a qcow2 image that holds internal snapshots.
      - V(refuse) does not take it in.
      - V(drop) keeps only its active state, as a new file. An image without internal snapshots is kept as ever.
      - An image that was taken in with V(drop) is clean, and there for tasks with V(refuse), too.
      - V(drop) is only for O(state=present).
    type: str
    choices: [refuse, drop]
    default: refuse
  update:
    description:
      - V(never) uses what is on the host, without asking anybody.
      - V(if_changed) asks the source, and fetches the image again if it is another one there.
      - V(always) fetches it again.
      - An older version stays until it is removed or pruned, since disks may rest on it.
    type: str
    choices: [never, if_changed, always]
    default: never
  destination:
    description:
      - Where to push the image to, as V(oci://registry/repository:tag). Required with O(state=pushed).
    type: str
  username:
    description:
      - Account at the web server or the registry. Goes together with O(password).
      - If left out for a registry, E(GITHUB_TOKEN) is used for ghcr.io, and otherwise what C(podman login) or C(docker login) have left.
    type: str
  password:
    description:
      - Password or token. It is shown to the server that O(image) or O(destination) names, and to no other.
    type: str
  headers:
    description:
      - Further headers to send to the web server, such as a token. They are not sent on to another server.
    type: dict
  plain_http:
    description:
      - Speak to the registry without TLS.
    type: bool
    default: false
  timeout:
    description:
      - Seconds to wait for a connection, and after each silence of the server. A download may take longer as long as bytes come.
    type: int
    default: 30
seealso:
  - module: cloudnebula.hypervisor.vm
  - module: cloudnebula.hypervisor.vm_image_info
"""

EXAMPLES = r"""
- name: Fetch an image that must be the one that its publisher lists
  cloudnebula.hypervisor.vm_image:
    image: https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2
    checksum: https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS
  register: debian

- name: Create a machine from it
  cloudnebula.hypervisor.vm:
    name: web1
    image: "{{ debian.image.path }}"

- name: Look every night for a newer version; machines keep the one that they have
  cloudnebula.hypervisor.vm_image:
    image: debian-12
    update: if_changed

- name: Fetch from a registry
  cloudnebula.hypervisor.vm_image:
    image: oci://ghcr.io/example/images/debian:12

- name: Push it to a registry of your own
  cloudnebula.hypervisor.vm_image:
    state: pushed
    image: "{{ debian.image.path }}"
    destination: oci://registry.example.org/images/debian:12
    username: ci
    password: "{{ registry_password }}"

- name: Import an encrypted image, which is kept decrypted
  cloudnebula.hypervisor.vm_image:
    image: /srv/old/laptop.qcow2
    passphrase: "{{ laptop_passphrase }}"

- name: Import the active state of an image with snapshots
  cloudnebula.hypervisor.vm_image:
    image: /srv/old/desktop.qcow2
    internal_snapshots: drop

- name: Remove what no machine uses any more
  cloudnebula.hypervisor.vm_image:
    state: pruned
"""

RETURN = r"""
image:
  description: The image. In check mode, null stands for what is known only once it is fetched, and question marks in RV(image.path).
  returned: success with O(state=present)
  type: dict
  contains:
    path:
      description:
        - The file, which is read-only. It can be given to M(cloudnebula.hypervisor.vm) as its O(cloudnebula.hypervisor.vm#module:image).
        - In check mode, question marks stand for what is known only once the image is fetched. All of the path is known
          beforehand if O(checksum) is a C(sha256:) digest and O(image_format) or O(target_format) is given.
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
images:
  description: The images that were (in check mode, would be) removed, each like RV(image).
  returned: success with O(state=absent) and O(state=pruned)
  type: list
  elements: dict
left_over:
  description: Files of runs that were cut off, which were (in check mode, would be) removed.
  returned: success with O(state=pruned)
  type: list
  elements: str
freed:
  description: Bytes that these files had.
  returned: success with O(state=pruned)
  type: int
  sample: 346030080
pushed:
  description: What is in the registry now, its C(reference) and the C(digest) of its manifest.
  returned: success with O(state=pushed)
  type: dict
  sample:
    reference: oci://registry.example.org/images/debian:12
    digest: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
diff:
  description: What was there before and after the task.
  returned: success
  type: dict
error:
  description: What went wrong. C(code) is stable, C(help) says what to do, C(details) holds the evidence.
  returned: failure
  type: dict
  sample:
    code: vm_manager.image.in_use
    help: Remove these VMs first.
    details: {path: /home/me/.local/share/vmctl/images/debian-12-5f0c1b7a9d3e4c21.qcow2, used_by: [web1]}
"""

from typing import NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._arguments import VM_IMAGE
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._manage_images import (
    manage_image,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import run


def main() -> NoReturn:
    """Entry point."""
    run(AnsibleModule(argument_spec=VM_IMAGE, supports_check_mode=True), manage_image)


if __name__ == "__main__":
    main()
