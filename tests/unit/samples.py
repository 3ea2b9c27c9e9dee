# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines to test with: one with every option set, and records in every state."""

from __future__ import annotations

from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import (
    Disk,
    DiskRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.firmware import (
    FirmwareRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.folders import (
    SharedFolder,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.handle import VmHandle
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import (
    AddressFilter,
    Network,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.propolis import (
    PROPOLIS_DEFAULTS,
    PropolisRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    PortRange,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState

GIB = 1024**3
# As plain as a machine of which the task says nothing.
PLAIN_BOARD = {
    "firmware": "bios",
    "secure_boot": False,
    "tpm": False,
    "kernel": "",
    "initrd": "",
    "kernel_cmdline": "",
    "smbios": {},
    "shared_folders": (),
    "qemu_args": (),
}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJkg me@example.org"
SECRET = "s3cr3t-hunter2"

FULL_SPEC = VmSpec(
    name="web1",
    backend="qemu",
    image="/srv/images/base.qcow2",
    image_format="qcow2",
    vcpus=2,
    memory_mib=2048,
    disk_size=20 * GIB,
    networks=(Network("user"),),
    addresses=AddressFilter(4, ("192.168.77.0/24",), ("/var/leases",)),
    ssh_port_range=PortRange(10022, 10122),
    cloud_init=CloudInit(
        hostname="web1.example.org",
        user="admin",
        ssh_authorized_keys=(KEY,),
        user_data={"password": SECRET},
        meta_data=f"instance-id: {SECRET}",
        network_config={"version": 2, "wifi": {"password": SECRET}},
        ssh_host_key=True,
        rerun=True,
    ),
    accelerator="tcg",
    cpu="max",
    machine="q35",
    vnc=True,
    labels={"role": "web"},
    description="A server",
    image_checksum="sha256:" + 64 * "0",
    propolis=PROPOLIS_DEFAULTS,
    disks=(Disk("data", size=5 * GIB).completed(),),
    cdrom="/srv/iso/tools.iso",
    vcpus_max=4,
    memory_max_mib=4096,
    firmware="uefi",
    secure_boot=True,
    tpm=True,
    kernel="/srv/boot/vmlinuz",
    initrd="/srv/boot/initrd.img",
    kernel_cmdline="console=ttyS0",
    smbios={"manufacturer": "Example, Inc."},
    shared_folders=(SharedFolder("work", "/srv/work"),),
    qemu_args=("-device", "virtio-balloon-pci"),
    autostart=True,
    clone_from="web0",
    clone_mode="linked",
)

FULL_HANDLE = VmHandle(
    id="qemu-7c1f0f0e-64fb-4d0f-8f0e-0c6f3f3e9f5b",
    name="web1",
    backend="qemu",
    work_dir="/data/vms/web1",
    spec=FULL_SPEC,
    state=VmState.RUNNING,
    overlay_path="/data/vms/web1/overlay.qcow2",
    seed_iso_path="/data/vms/web1/seed.iso",
    private_key_path="/data/vms/web1/id_ed25519",
    host_key="ssh-ed25519 AAAAC3NzaHostKey",
    disk_bytes=20 * GIB,
    pid=4711,
    qmp_socket="/data/vms/web1/qmp.sock",
    console_socket="/data/vms/web1/console.sock",
    vnc_addr="127.0.0.1:5900",
    ssh_host_port=10061,
    disk_format="raw",
    base_image="/srv/images/base.qcow2",
    layers=("/data/layers/00112233445566aa.qcow2", "/data/layers/00112233445566bb.qcow2"),
    disks={"data": DiskRecord("/data/vms/web1/disk-data.qcow2", "qcow2", 5 * GIB)},
    propolis=PropolisRecord(port=12400, vnics={"net0": "vm1n0"}),
    macs={"net0": "52:54:00:12:34:56"},
    uefi=True,
    firmware={
        "secure_boot": FirmwareRecord("/usr/share/OVMF/CODE.fd", "raw", "nvram-secure-boot.qcow2")
    },
    machine_types={"isapc": "isapc"},
    accelerator="tcg",
    accelerator_reason="The task asks for it.",
    booted=FULL_SPEC,
    stopped_by="guest",
    autostart_unit="cloudnebula-vm@web1.service",
    autostart_patience=60,
    instance=1,
    seed_stale=True,
    generation="0f1e2d3c-4b5a-4678-8a9b-aabbccddeeff",
    renaming="web2",
    renamed_from="web0",
)


def minimal_handle(name="web1", backend="qemu", **changes):
    """Return the record of a machine of which only the defaults are known."""
    spec = VmSpec(name=name, backend=backend).completed()
    handle = VmHandle(
        id=f"{backend}-0001", name=name, backend=backend, work_dir=f"/data/vms/{name}", spec=spec
    )
    return handle.evolve(**changes)


def set_options(side):
    """Return what one side of a diff sets: the planner may leave out the rest."""
    return {key: value for key, value in side.items() if value not in (None, "", [], {})}
