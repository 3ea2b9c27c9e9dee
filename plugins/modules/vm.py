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
  - Changed options are applied to a running machine at once as far as it can take them up. The rest is recorded, applied at its next start,
    and reported as RV(restart_required). O(apply) says otherwise.
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
      - Number of virtual CPUs. A new machine gets 1. A running machine gets more of them up to O(vcpus_max), and fewer at its next start.
    type: int
  memory:
    description:
      - Memory, in MiB (V(1024)) or with a unit (V(2GiB)). A new machine gets 1024 MiB.
      - A running machine gets more of it up to O(memory_max), but only in steps of 128 MiB. Anything else, also less, waits for a restart.
    type: str
  disk_size:
    description:
      - Size of the disk with a unit (V(20GiB)), or in GiB. A new machine gets the image's own size.
      - A disk on V(virtio-blk), which it is unless O(disks) says otherwise, or on V(virtio-scsi) grows while the machine runs,
        another one at its next start. It never shrinks, and no disk has more than 16 TiB.
    type: str
  networks:
    description:
      - The machine's network cards, in the order in which the guest sees them. V([]) means none. A new machine gets one of type V(user).
      - A card keeps its MAC address for the machine's life, under its name.
      - A running machine gets new cards, and loses those that are not listed any more, at once. Other changes of a card are for its next start,
        as is the loss of the card that leads to the guest's SSH while another of type V(user) stays.
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
      connected:
        description: Whether the cable is plugged in. It is pulled out and plugged in while the machine runs.
        type: bool
        default: true
      port_forwards:
        description: Ports of the host that lead into the guest, for O(networks[].type=user).
        type: list
        elements: dict
        suboptions:
          host:
            description: Port of the host. The machine does not start while another program listens on it.
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
      - Only addresses of this version count as the guest's, on bridges. With V(0), which is how a new machine is, those of both do.
    type: int
    choices: [0, 4, 6]
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
      - The port follows from the machine's name; if it is taken, or forwarded by a machine in the same O(data_dir), the next free one is used.
        The machine keeps it for its life.
    type: str
  cloud_init:
    description:
      - What cloud-init in the guest is told at its first boot. Once the machine was started, it can be changed only with O(cloud_init.rerun);
        with O(backend=propolis), not at all after the machine was created.
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
        description: Network configuration for cloud-init, as a mapping or text. An empty one is none.
        type: raw
      rerun:
        description:
          - Allows the other suboptions to change on an existing machine. If one does, the guest is a new instance to cloud-init at its next start,
            which then does anew what it does once for each instance, such as making accounts and SSH host keys. If none does, nothing happens.
        type: bool
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
      - CPU model as QEMU names it, such as V(Nehalem) or V(max,-avx2). The default, also with an empty string, is V(host) with KVM and V(max)
        with emulation.
    type: str
  machine:
    description:
      - Machine type as QEMU names it. The default is V(q35).
      - What a short name such as V(q35) stands for is recorded at the first start, so that a newer QEMU does not change the guest's hardware.
      - V(microvm) needs O(kernel) and has virtio devices only.
    type: str
  autostart:
    description:
      - Whether the machine is started when the hypervisor host boots, whatever its state was before, and the guest asked to power off when the host goes down.
      - This is done by a unit of systemd, of the system if the task runs as root, else of the user's own instance, which needs lingering.
        Without systemd the task fails before it touches anything. A new machine is not started by its host.
      - The guest gets the seconds of O(stop_timeout) that the last task with O(autostart=true) said.
    type: bool
  new_name:
    description:
      - The name that the machine O(name) gets. Its folder is renamed, so it must not run, unless O(apply=restart) or O(state) lets it be stopped.
      - If there is no machine O(name) any more, but one with the new name that once was it, the task goes on with this one.
    type: str
  clone_from:
    description:
      - Name of the machine, on the same host, of which a new machine is a copy. It must be off. What the task leaves open is taken from it.
      - The disks are copied, unless O(clone_mode) says otherwise; the image below them is shared. The clone has its own UUID, MAC addresses,
        SSH port, keys, host name and cloud-init instance, and a new generation ID for the guest to notice.
      - The clone is not started by the host, and has no state of a TPM.
      - For an existing machine, this only states where it came from, and cannot be changed.
    type: str
  clone_mode:
    description:
      - How O(clone_from) makes the disks. The default is V(full), which copies what the other guest wrote.
      - V(linked) takes a moment and no room. What the disks hold becomes read-only layers in C(layers/) below O(data_dir), and both machines get new, empty
        files over them. Each can then be started, changed and removed without the other. Layers go with the last machine that needs them.
      - Linked clones need disks in the format qcow2. The files of the other machine's disks get new names.
      - For an existing machine, this only states how it was made, and cannot be changed.
    type: str
    choices: [full, linked]
  disks:
    description:
      - Further disks, and options of the one that was made from O(image), which is called C(disk0).
      - A disk is known by its name. One that is new is made; one that is there keeps what is left out; one that is not listed stays as it is,
        unless O(unlisted_disks) says otherwise.
      - A running machine gets disks, and loses them, at once, unless they are on V(sata) or have a O(disks[].boot_index).
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the disk, at most 15 lower-case letters, digits, C(_) and C(-), beginning with a letter.
        type: str
        required: true
      size:
        description: Size with a unit (V(20GiB)), or in GiB. A new disk needs it, unless it has an image. It grows as O(disk_size) says, and never shrinks.
        type: str
      image:
        description: Path of an image on the hypervisor host that the disk is laid over, as the machine's own is over O(image). It cannot be changed afterwards.
        type: str
      format:
        description: Format of the disk's file. The default is V(qcow2), which a disk over an image always has. It cannot be changed afterwards.
        type: str
        choices: [qcow2, raw]
      bus:
        description:
          - What the disk is plugged into. The default is V(virtio-blk). Kernels that are made for clouds often have no driver for V(sata),
            which is IDE with O(machine=pc).
        type: str
        choices: [virtio-blk, virtio-scsi, nvme, sata]
      cache:
        description: How the host caches it, in QEMU's words. The default is V(writeback). V(unsafe) loses data when the host crashes.
        type: str
        choices: [none, writeback, writethrough, directsync, unsafe]
      aio:
        description: How QEMU reads and writes it. The default is V(threads). V(native) needs O(disks[].cache) V(none) or V(directsync).
        type: str
        choices: [threads, native, io_uring]
      discard:
        description: Whether blocks that the guest gives back become free on the host. The default is V(true).
        type: bool
      serial:
        description: Serial number for the guest to find it by, at most 20 letters, digits, C(_), C(.) and C(-). An empty string takes it away.
        type: str
      readonly:
        description:
          - Whether the guest may only read it. The default is V(false). Disks on V(sata) cannot be so, and such a disk grows at the machine's next start.
        type: bool
      boot_index:
        description:
          - Its place among the disks that the firmware tries, the lowest first. V(-1) takes the place away. That of C(disk0) is 1 unless it is given another.
        type: int
      iops:
        description: The most reads and writes together in a second. V(0) takes the limit away, as with those below.
        type: int
      iops_read:
        description: The most reads in a second.
        type: int
      iops_write:
        description: The most writes in a second.
        type: int
      bps:
        description: The most bytes in a second, read and written together.
        type: int
      bps_read:
        description: The most bytes read in a second.
        type: int
      bps_write:
        description: The most bytes written in a second.
        type: int
  unlisted_disks:
    description:
      - What becomes of disks that O(disks), if it is given, does not list. V(keep) leaves them alone; V(detach) takes them out of the machine.
      - The file of a detached disk stays, and the disk comes back with its data, image and format when it is listed again.
        Its other suboptions have to be given again; those that are left out get their defaults.
    type: str
    choices: [keep, detach]
    default: keep
  delete_detached_disks:
    description:
      - Delete the files of all disks that were made for the machine and that it no longer has. Disks that are in use are never deleted.
    type: bool
    default: false
  cdrom:
    description:
      - Path of an ISO image on the hypervisor host that lies in the CD-ROM drive. An empty string is an empty drive.
      - A new machine has no drive unless this is given.
      - The medium is changed while the machine runs. A machine without a drive gets one at its next start, and keeps it.
    type: str
  vcpus_max:
    description:
      - Up to so many virtual CPUs are added while the machine runs. With V(0), which is how a new machine is, none are.
    type: int
  memory_max:
    description:
      - Up to so much memory is added while the machine runs, written as O(memory). With V(0), which is how a new machine is, none is.
      - The guest's kernel keeps tables for the memory that may come, so one with little memory and a large O(memory_max) may run out.
    type: str
  apply:
    description:
      - What a changed option may do to a machine that runs. V(live) changes what can be changed without a restart. V(next_start) touches nothing
        that runs, and leaves all to the next start.
      - V(restart) powers it off and starts it again, once, if something needs that. Without such a need it does the same as V(live).
      - What somebody else has changed in the running machine is put right in the same way. Cables are not looked at.
    type: str
    choices: [live, next_start, restart]
    default: live
  vnc:
    description:
      - Whether the guest has a screen, shown by VNC on a free port of 127.0.0.1 and protected by a generated password.
        O(backend=propolis) has no password for it. See RV(vm.vnc).
      - A new machine has none.
    type: bool
  firmware:
    description:
      - What starts the guest, V(bios) or V(uefi). A new machine gets V(bios).
      - A system that was installed under one often does not start under the other, so change it back if it does not.
      - A firmware of type V(uefi) must be installed on the host, such as the package C(ovmf). It keeps its variables in a file of the machine.
    type: str
    choices: [bios, uefi]
  secure_boot:
    description:
      - Whether the firmware starts only what is signed by a key that it knows, which are those of Microsoft. Needs O(firmware=uefi) and a machine type q35.
      - The variables of a machine with it are kept apart from those that it has without it. A new machine is without it.
    type: bool
  tpm:
    description:
      - Whether the guest has a TPM 2.0, which swtpm plays. Its state stays in the machine's folder also while this is off. A new machine has none.
    type: bool
  kernel:
    description:
      - Path of a kernel on the hypervisor host that is started in place of what is on the disk. An empty string, which a new machine gets, starts the disk.
    type: path
  initrd:
    description:
      - Path of the initial file system for O(kernel). An empty string means none.
    type: path
  kernel_cmdline:
    description:
      - The command line for O(kernel), such as V(root=/dev/vda1 console=ttyS0). It is shown in process lists, so it is no place for secrets.
    type: str
  smbios:
    description:
      - What the guest reads in its SMBIOS tables about the system. It is given as a whole. What it leaves out, and all with C({}), are QEMU's own words.
    type: dict
    suboptions:
      manufacturer:
        description: Who made it.
        type: str
      product:
        description: Name of the product.
        type: str
      version:
        description: Version of the product.
        type: str
      serial:
        description: Serial number.
        type: str
      sku:
        description: Number under which it is sold.
        type: str
      family:
        description: Family of products.
        type: str
  shared_folders:
    description:
      - Folders of the hypervisor host that the guest mounts by virtiofs, with C(mount -t virtiofs NAME FOLDER). V([]) means none.
      - Needs virtiofsd on the host. The one of Debian 12 works for root only.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name by which the guest mounts it, at most 36 letters, digits, C(_) and C(-).
        type: str
        required: true
      path:
        description: The folder. The guest's root does there what the user of the task may do.
        type: path
        required: true
      readonly:
        description: Whether the guest may only read. Needs virtiofsd 1.11 or newer.
        type: bool
        default: false
  qemu_args:
    description:
      - Further arguments for QEMU, each an item of its own, at the end of its command line. V([]) means none.
      - Nothing is promised about a machine with them. What would break what is promised about all machines is refused, such as C(-daemonize) or C(-sandbox).
    type: list
    elements: str
  labels:
    description:
      - Names and values of your own, which the inventory shows. They are given as a whole, so that one that is left out is removed.
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

- name: More memory, by a restart if that is what it takes
  cloudnebula.hypervisor.vm:
    name: web1
    memory: 4GiB
    apply: restart

- name: One more disk, while it runs
  cloudnebula.hypervisor.vm:
    name: web1
    disks:
      - name: data
        size: 100GiB
        serial: DATA

- name: Take that disk out and delete it
  cloudnebula.hypervisor.vm:
    name: web1
    disks: []
    unlisted_disks: detach
    delete_detached_disks: true

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
  returned: success, when the guest did not answer in time, and when a step failed and the machine is there
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
      description: Number of virtual CPUs, as recorded. RV(vm.restart_required) says whether it still runs with another one.
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
  description: What was done (in check mode, would be), in order, of C(fetch) (the image), C(prepare), C(change), C(discard), C(start), C(stop),
    C(suspend), C(resume), C(destroy), C(autostart) (the unit that starts it with its host was made or removed), C(rename). If a step failed, those before it.
  returned: success, when the guest did not answer in time, and when a step failed
  type: list
  elements: str
  sample: [prepare, start]
restart_required:
  description: Whether options were changed that apply only after a restart. A warning names them.
    What a suspended machine takes up as soon as a task lets it go on does not count.
  returned: success, and when the guest did not answer in time
  type: bool
diff:
  description: The options before and after the task, without secrets and without those that are set on neither side.
    C(detached_disks) are those whose files are deleted.
  returned: success, and when the guest did not answer in time
  type: dict
error:
  description: What went wrong. C(code) is stable, C(help) says what to do, C(details) holds the evidence.
  returned: failure
  type: dict
  sample: {code: vm_manager.create.invalid_vcpus, help: Give a number of virtual CPUs that is in this range., details: {option: vcpus}}
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
