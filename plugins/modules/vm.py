#!/usr/bin/python
# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One virtual machine, from absent to running."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vm
short_description: Create, start, stop, change and remove a virtual machine
version_added: 0.1.0
author:
  - CloudNebula contributors (@CloudNebulaProject)
description:
  - Brings one virtual machine on the hypervisor host to the state and the options that the task asks for.
  - On Linux, the machine runs on QEMU directly, without libvirt; on illumos, on Propolis.
  - Its disk is a copy-on-write overlay over O(image), or a clone of it, and the image is never written.
  - Options that are left out keep the value that the machine has. Defaults apply only when it is created.
  - Changed options that a running machine cannot take up are recorded, applied at its next start, and reported as RV(restart_required).
extends_documentation_fragment:
  - cloudnebula.hypervisor._attributes
  - cloudnebula.hypervisor._attributes.actiongroup_all
  - cloudnebula.hypervisor._host
  - cloudnebula.hypervisor._propolis
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
      - O(state=restarted) restarts the machine each time.
  platform:
    platforms: linux, illumos
    support: full
    details:
      - Options that a backend has nothing for are refused. The page C(docs/backends.md) of the collection lists them.
requirements:
  - "For O(backend=qemu), QEMU >= 6.2: C(qemu-system-x86_64) and C(qemu-img)"
  - "For O(backend=propolis), C(propolis-server) with its firmware, a ZFS pool, and a kernel with C(vmm) version 8 and C(viona) version 6 or newer"
  - "C(pycdlib) for Python, or one of C(xorriso), C(genisoimage), C(mkisofs)"
  - "C(ssh-keygen), unless O(cloud_init.ssh_authorized_keys) is given"
  - The role P(cloudnebula.hypervisor.hypervisor_host#role) installs all of these.
options:
  name:
    description:
      - The name of the machine, 1 to 63 characters. Letters, digits, C(_), C(.) and C(-), beginning with a letter or digit.
    type: str
    required: true
  state:
    description:
      - V(present) makes sure that the machine exists, without touching its power.
      - V(started) makes sure that it runs; a suspended one is resumed. It is created if it does not exist, as with all states but V(absent).
      - V(stopped) powers it off by its power button (with O(backend=propolis), which has none, by C(poweroff) over SSH), V(suspended) halts its virtual CPUs.
      - V(restarted) powers it off and starts it again. One that does not run is started.
      - V(absent) powers it off, giving it at most 5 seconds, and removes it with its disk. The O(image) stays.
    type: str
    choices: [present, absent, started, stopped, restarted, suspended]
    default: started
  backend:
    description:
      - What runs the machine. V(noop) runs nothing and only keeps the record, for testing playbooks.
      - The default is V(qemu) on Linux and V(propolis) on illumos. The backend of an existing machine cannot be changed.
    type: str
    choices: [qemu, propolis, noop]
  image:
    description:
      - The disk image from which the machine is created. Required when it does not exist yet, except with O(backend=noop).
      - The path of a file on the hypervisor host, which is used where it lies and must stay there as long as the machine exists;
        a URL (V(https://...), V(http://...), V(file:///...)); an artifact in an OCI registry (V(oci://registry/repository:tag));
        or the name of a well-known image such as V(debian-12).
      - What is not on the host yet is fetched once and kept in C(images/) below O(data_dir). M(cloudnebula.hypervisor.vm_image) does so beforehand,
        also with credentials, and looks for newer versions.
      - It cannot be changed afterwards.
    type: str
  image_checksum:
    description:
      - What the image must be, as V(sha256:...), V(sha512:...), or the URL of a file that lists checksums, such as C(SHA256SUMS).
      - It is that of the file as it is published, before it is unpacked. It cannot be changed afterwards.
    type: str
  image_format:
    description:
      - Format of O(image). If left out, it is told by the content. A raw disk without a boot sector is accepted only if V(raw) is said.
    type: str
    choices: [qcow2, raw]
  vcpus:
    description:
      - Number of virtual CPUs. A new machine gets 1.
    type: int
  memory:
    description:
      - Memory, in MiB (V(1024)) or with a unit (V(2GiB)). A new machine gets 1024 MiB.
    type: str
  disk_size:
    description:
      - Size of the disk with a unit (V(20GiB)), or in GiB. A new machine gets the image's own size.
      - A disk grows when the machine does not run, else at its next start. It never shrinks.
    type: str
  networks:
    description:
      - The machine's network cards, in the order in which the guest sees them. V([]) means none. A new machine gets one of type V(user).
      - A card keeps its MAC address for the machine's life, under its name.
    type: list
    elements: dict
    suboptions:
      type:
        description:
          - V(user) gives the guest access to the outside through QEMU itself, without privileges.
            A port of 127.0.0.1 is forwarded to the guest's SSH by the first card of this type.
          - V(bridge) makes the guest a member of a bridge of the host. This needs root, or QEMU's bridge helper set up by the administrator.
          - V(tap) makes, or uses, the host's interface that O(networks[].interface) names, and does nothing else with it.
          - V(vnic), on illumos only, makes a VNIC over O(networks[].link).
          - V(none), which stands alone, means no network.
        type: str
        choices: [user, bridge, tap, vnic, none]
        default: user
      name:
        description:
          - Name of the card, at most 15 characters. The default is C(net) with its place in the list, from 0 on.
        type: str
      bridge:
        description: The bridge to join. It must exist.
        type: str
      interface:
        description: Name of the host's end, at most 15 characters. One that does not exist yet is made, and goes away with the machine's process.
        type: str
      link:
        description:
          - The link that a VNIC is made over, such as C(igb0) or an etherstub, for O(networks[].type=vnic).
            The default is the host's only physical link that is up.
        type: str
      vlan:
        description: Number of the VLAN that the VNIC's frames belong to, 1 to 4094, for O(networks[].type=vnic).
        type: int
      mac:
        description: MAC address. If left out, one is made.
        type: str
      model:
        description: What the guest sees.
        type: str
        choices: [virtio, e1000e, e1000, rtl8139]
        default: virtio
      mtu:
        description: Largest packet in bytes, for the host's end on a bridge and, with O(networks[].model=virtio), as advice to the guest.
        type: int
      port_forwards:
        description: Ports of the host that lead into the guest, for O(networks[].type=user).
        type: list
        elements: dict
        suboptions:
          host:
            description: Port of the host.
            type: int
            required: true
          guest:
            description: Port of the guest.
            type: int
            required: true
          protocol:
            description: What is forwarded.
            type: str
            choices: [tcp, udp]
            default: tcp
          host_address:
            description: Address of the host to listen on. V(0.0.0.0) opens the port to everybody who reaches the host.
            type: str
            default: 127.0.0.1
  ip_version:
    description:
      - Only addresses of this version count as the guest's, on bridges.
    type: int
    choices: [4, 6]
  ip_range:
    description:
      - Only addresses in one of these ranges count as the guest's, on bridges.
    type: list
    elements: str
  lease_files:
    description:
      - Lease files of DHCP servers to look into for the guest's addresses, in place of the usual ones.
    type: list
    elements: path
  ssh_port_range:
    description:
      - Range of host ports from which one is reserved for the guest's SSH when the machine is created. A new machine gets V(10022-10122).
      - The port follows from the machine's name; if it is taken, the next free one is used. The machine keeps it for its life.
    type: str
  cloud_init:
    description:
      - What cloud-init in the guest is told at its first boot. It cannot be changed afterwards.
      - If left out, the guest gets its name as host name and an account C(vm) with a new SSH key.
    type: dict
    suboptions:
      hostname:
        description: Host name of the guest. The default is the machine's name.
        type: str
      user:
        description: Account that may use sudo without a password, and that SSH logs in to. The default is C(vm).
        type: str
      ssh_authorized_keys:
        description:
          - Public keys that may log in. If left out, a key pair is made for this machine and kept in its folder.
        type: list
        elements: str
      user_data:
        description:
          - Your own user-data. A mapping is merged over what would be generated; text is used as it is and must begin with a header such as C(#cloud-config).
          - It may hold secrets, so it is not shown in results, diffs and logs.
        type: raw
      meta_data:
        description: Your own meta-data. A mapping is merged over what would be generated, text is used as it is.
        type: raw
      network_config:
        description: Network configuration for cloud-init, as a mapping or text.
        type: raw
      ssh_host_key:
        description:
          - Make the guest's SSH host key beforehand and give it to the guest, so that nobody has to trust the first key that answers.
            Its public half is in RV(vm.ssh), and the inventory accepts no other.
        type: bool
  accelerator:
    description:
      - V(auto) uses KVM where it really works, and emulation (TCG) where it does not. RV(vm.accelerator_reason) says why.
      - V(kvm) fails where KVM does not work. A new machine gets V(auto).
    type: str
    choices: [auto, kvm, tcg]
  cpu:
    description:
      - CPU model as QEMU names it, such as V(Nehalem) or V(max,-avx2). The default is V(host) with KVM and V(max) with emulation.
    type: str
  machine:
    description:
      - Machine type as QEMU names it. The default is V(q35).
    type: str
  vnc:
    description:
      - Whether the guest has a screen, shown by VNC on a free port of 127.0.0.1 and protected by a generated password.
        O(backend=propolis) has no password for it. See RV(vm.vnc).
      - A new machine has none.
    type: bool
  labels:
    description:
      - Names and values of your own, which the inventory shows.
    type: dict
  description:
    description:
      - A text for people.
    type: str
  stop_timeout:
    description:
      - Seconds that a guest gets to power off. After that, its power is cut. QEMU is told to end (SIGTERM), and killed if it does not.
    type: int
    default: 30
  force:
    description:
      - Cut the power when stopping, without asking the guest.
    type: bool
    default: false
  wait_for:
    description:
      - What to wait for when the machine is started or runs already. V(running) waits for QEMU, V(ip) until the guest has an address that the host knows,
        V(ssh) until the guest's SSH server introduces itself.
      - Other states ignore it.
    type: str
    choices: [running, ip, ssh]
    default: running
  wait_timeout:
    description:
      - Seconds to wait for O(wait_for), and for another task that works on the same machine.
    type: int
    default: 300
seealso:
  - module: cloudnebula.hypervisor.vm_image
  - module: cloudnebula.hypervisor.vm_info
  - plugin: cloudnebula.hypervisor.vms
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: A machine that runs and can be logged in to
  cloudnebula.hypervisor.vm:
    name: web1
    image: /srv/images/debian-12-genericcloud-amd64.qcow2
    vcpus: 2
    memory: 2GiB
    disk_size: 20GiB
    cloud_init:
      user: admin
    wait_for: ssh
  register: web1

- name: A machine from an image on the web, which must be the one that its publisher lists
  cloudnebula.hypervisor.vm:
    name: web2
    image: https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2
    image_checksum: https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS
    wait_for: ssh

- name: Show how to log in
  ansible.builtin.debug:
    msg: "ssh -p {{ web1.vm.ssh.port }} -i {{ web1.vm.ssh.private_key_path }} {{ web1.vm.ssh.user }}@{{ web1.vm.ssh.host }}"

- name: More memory
  cloudnebula.hypervisor.vm:
    name: web1
    memory: 4GiB
  register: bigger

- name: Restart it if that is what it takes
  cloudnebula.hypervisor.vm:
    name: web1
    state: restarted
  when: bigger.restart_required

- name: Your own user-data, and no network
  cloudnebula.hypervisor.vm:
    name: batch1
    image: /srv/images/debian-12-genericcloud-amd64.qcow2
    networks: []
    cloud_init:
      user_data:
        runcmd:
          - [touch, /var/lib/batch1]

- name: Halt it, and let it go on
  cloudnebula.hypervisor.vm:
    name: web1
    state: "{{ item }}"
  loop: [suspended, started]

- name: Remove it with its disk
  cloudnebula.hypervisor.vm:
    name: web1
    state: absent
"""

RETURN = r"""
vm:
  description: The machine as it is after the task; in check mode, as it would be, with null for what only the real run decides.
  returned: success, and when the guest did not answer in time
  type: dict
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
      description: Number of virtual CPUs.
      type: int
      sample: 2
    memory_mb:
      description: Memory in MiB.
      type: int
      sample: 2048
    disks:
      description: Its disks, each with C(name), C(path), C(format), C(size) in bytes and C(image).
      type: list
      elements: dict
    networks:
      description: >-
          Its network cards, each with what it was given, C(name), C(type), C(bridge), C(interface), C(link), C(vlan), C(model), C(mtu) and C(port_forwards),
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
      description: The screen, if O(vnc) is on and it runs. C(host), C(port) and C(password_file).
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
actions:
  description: What was done (in check mode, would be), in order, of C(fetch) (the image), C(prepare), C(start), C(stop), C(suspend), C(resume), C(destroy).
  returned: success, and when the guest did not answer in time
  type: list
  elements: str
  sample: [prepare, start]
restart_required:
  description: Whether options were changed that apply only after a restart. A warning names them.
  returned: success, and when the guest did not answer in time
  type: bool
diff:
  description: The options before and after the task, without secrets.
  returned: success, and when the guest did not answer in time
  type: dict
error:
  description: What went wrong. C(code) is stable, C(help) says what to do, C(details) holds the evidence.
  returned: failure
  type: dict
  sample: {code: vm_manager.create.invalid_vcpus, help: Give at least 1 virtual CPU., details: {option: vcpus}}
"""

from typing import NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._arguments import VM
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._manage import manage_vm
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import run


def main() -> NoReturn:
    """Entry point."""
    run(AnsibleModule(argument_spec=VM, supports_check_mode=True), manage_vm)


if __name__ == "__main__":
    main()
