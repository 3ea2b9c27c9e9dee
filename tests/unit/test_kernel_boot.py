# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine is told besides its size: kernel, SMBIOS, arguments of one's own, and what does not go together."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.board import (
    check_board,
    hotplug_of,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import (
    Disk,
    DiskRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    FileMissing,
    InvalidSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.folders import (
    SharedFolder,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.live import Hotplug
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import (
    Network,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.qemu_args import (
    REFUSED,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    VmSpec,
    spec_from_params,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.argv import (
    Descriptors,
    Launch,
    build_argv,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.kernel_boot import (
    check_kernel,
    exact_types,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.ports import PORTS
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.qmp import Qmp
from ansible_collections.cloudnebula.hypervisor.tests.unit.fake_qmp import FakeQmp
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle

FDS = Descriptors(qmp=11, debug=12, console=13, agent=14, console_log=15)
LAUNCH = Launch("/usr/bin/qemu", "tcg", "max", "/x/qemu.pid", None, FDS)
KERNEL = {"kernel": "/boot/vmlinuz", "initrd": "/boot/initrd", "kernel_cmdline": "quiet a=b,c"}
MICROVM = {"machine": "microvm", **KERNEL}


def spec(**options):
    return replace(VmSpec("web1", machine="q35").completed(), **options)


def argv_of(launch=LAUNCH, **options):
    options.setdefault("networks", ())
    seed = {"seed_iso_path": "/data/vms/web1/seed.iso", "overlay_path": "/data/vms/web1/o"}
    vm = minimal_handle("web1", spec=spec(**options), macs={"net0": "52:54:00:00:00:01"}, **seed)
    return build_argv(vm, launch)


def values(argv, flag):
    return [word for before, word in zip(argv, argv[1:]) if before == flag]


@pytest.mark.parametrize(
    ("params", "option"),
    [
        ({"kernel": "vmlinuz"}, "kernel"),
        ({"initrd": "./initrd"}, "initrd"),
        ({"kernel": "/boot/\0"}, "kernel"),
        ({"kernel_cmdline": "a\nb"}, "kernel_cmdline"),
        ({"kernel_cmdline": "x" * 2048}, "kernel_cmdline"),
        ({"smbios": {"serial": ""}}, "smbios.serial"),
        ({"smbios": {"serial": "a\nb"}}, "smbios.serial"),
        ({"smbios": {"family": "ü"}}, "smbios.family"),
        ({"smbios": {"sku": "x" * 256}}, "smbios.sku"),
        ({"shared_folders": [{"name": "a b", "path": "/x"}]}, "shared_folders[0].name"),
        ({"shared_folders": [{"name": "x" * 37, "path": "/x"}]}, "shared_folders[0].name"),
        ({"shared_folders": [{"name": "a", "path": "x"}]}, "shared_folders[0].path"),
        ({"shared_folders": [{"name": "a", "path": "/x,y"}]}, "shared_folders[0].path"),
        ({"shared_folders": 2 * [{"name": "a", "path": "/x"}]}, "shared_folders[1].name"),
        ({"shared_folders": 9 * [{"name": "a", "path": "/x"}]}, "shared_folders"),
        ({"qemu_args": ["disk.img"]}, "qemu_args[0]"),
        ({"qemu_args": ["-device", ""]}, "qemu_args[1]"),
        ({"qemu_args": ["-device i6300esb"]}, "qemu_args[0]"),
        ({"qemu_args": ["-device", "a\0"]}, "qemu_args[1]"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(params, option):
    with pytest.raises(InvalidSpec) as caught:
        spec_from_params({"name": "web1", **params})

    assert caught.value.details == {"option": option}
    assert caught.value.message.startswith(f"{option}: ")


def test_what_makes_sense_is_read():
    wish = spec_from_params(
        {
            "name": "web1",
            "firmware": "uefi",
            "secure_boot": True,
            "tpm": True,
            **KERNEL,
            "smbios": {"serial": "x=1,y", "product": None, "manufacturer": "Example"},
            "shared_folders": [{"name": "a", "path": "/x"}],
            "qemu_args": ["-device", "virtio-balloon-pci"],
        }
    )

    assert (wish.firmware, wish.secure_boot, wish.tpm) == ("uefi", True, True)
    assert {option: getattr(wish, option) for option in KERNEL} == KERNEL
    assert wish.smbios == {"manufacturer": "Example", "serial": "x=1,y"}
    assert wish.shared_folders == (SharedFolder("a", "/x", False),)
    assert wish.qemu_args == ("-device", "virtio-balloon-pci")
    assert spec_from_params({"name": "web1", "kernel": ""}).kernel == ""


@pytest.mark.parametrize("flag", sorted(REFUSED))
@pytest.mark.parametrize("dashes", ["-", "--"])
def test_arguments_that_break_promises_are_refused_wherever_they_stand(flag, dashes):
    arguments = ["-device", "virtio-balloon-pci", f"{dashes}{flag}"]

    with pytest.raises(InvalidSpec, match="cannot be given: ") as caught:
        spec_from_params({"name": "web1", "qemu_args": arguments})

    assert caught.value.details == {"option": "qemu_args[2]"}


def test_the_promises_are_about_these():
    wanted = "daemonize pidfile qmp mon monitor sandbox S incoming runas chroot snapshot loadvm"

    assert set(wanted.split()) <= set(REFUSED)


def test_qemu_gets_kernel_strings_and_arguments_as_they_are():
    argv = argv_of(
        **KERNEL, smbios={"serial": "x=1,y", "manufacturer": "Example"}, qemu_args=("-no-hpet",)
    )

    assert values(argv, "-kernel") == ["/boot/vmlinuz"]
    assert values(argv, "-initrd") == ["/boot/initrd"]
    assert values(argv, "-append") == ["quiet a=b,c"]
    assert values(argv, "-smbios") == ["type=1,manufacturer=Example,serial=x=1,,y"]
    assert argv[-1] == "-no-hpet"
    assert not {"-kernel", "-initrd", "-append", "-smbios"} & set(argv_of())
    assert not {"-initrd", "-append"} & set(argv_of(kernel="/boot/vmlinuz"))


def test_a_shared_folder_is_a_connection_to_memory_that_is_shared():
    launch = replace(LAUNCH, folders={"a": 21, "b": 22})
    folders = (SharedFolder("a", "/x"), SharedFolder("b", "/y"))
    argv = argv_of(launch, shared_folders=folders)

    devices = [word for word in values(argv, "-device") if "vhost" in word]
    assert devices == [
        "vhost-user-fs-pci,chardev=share0,tag=a",
        "vhost-user-fs-pci,chardev=share1,tag=b",
    ]
    assert {"socket,id=share0,fd=21", "socket,id=share1,fd=22"} <= set(values(argv, "-chardev"))
    memory = "memory-backend-memfd,id=ram,size=1024M,share=on,dump=off"
    assert values(argv, "-object") == [memory]
    assert values(argv, "-machine") == ["q35,dump-guest-core=off,memory-backend=ram"]


def test_a_microvm_has_no_device_on_pci():
    disks = (
        Disk("data", size=2**30).completed(),
        Disk("more", size=2**30, bus="virtio-scsi").completed(),
    )
    vm = minimal_handle(
        "web1",
        spec=spec(**MICROVM, networks=(Network("user", name="net0"),)),
        macs={"net0": "52:54:00:00:00:01"},
        seed_iso_path="/data/vms/web1/seed.iso",
    )
    records = {disk.name: kernel_record(disk) for disk in disks}
    argv = build_argv(vm.evolve(spec=replace(vm.spec, disks=disks), disks=records), LAUNCH)

    drivers = [word.partition(",")[0] for word in values(argv, "-device")]
    assert sorted(drivers) == [
        *("scsi-hd", "virtio-blk-device", "virtio-blk-device", "virtio-blk-device"),
        *("virtio-net-device", "virtio-rng-device", "virtio-scsi-device"),
        *("virtio-serial-device", "virtserialport"),
    ]
    assert "pci" not in " ".join(argv)
    assert "romfile" not in " ".join(argv)
    assert values(argv, "-machine") == ["microvm,dump-guest-core=off"]


def kernel_record(disk):
    return DiskRecord(f"/data/{disk.name}", "qcow2", disk.size)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"secure_boot": True}, "secure_boot"),
        ({"secure_boot": True, "firmware": "uefi", "machine": "pc"}, "secure_boot"),
        ({"initrd": "/boot/initrd"}, "initrd"),
        ({"kernel_cmdline": "quiet"}, "kernel_cmdline"),
        ({"machine": "microvm"}, "kernel"),
        ({**MICROVM, "firmware": "uefi"}, "firmware"),
        ({**MICROVM, "tpm": True}, "tpm"),
        ({**MICROVM, "vnc": True}, "vnc"),
        ({**MICROVM, "cdrom": ""}, "cdrom"),
        ({**MICROVM, "smbios": {"serial": "1"}}, "smbios"),
        ({**MICROVM, "vcpus_max": 2}, "vcpus_max"),
        ({**MICROVM, "memory_max_mib": 2048}, "memory_max"),
        ({**MICROVM, "disks": (Disk("a", bus="nvme"),)}, "disks (a).bus"),
        ({**MICROVM, "disks": (Disk("a"), Disk("b", bus="sata"))}, "disks (b).bus"),
        ({**MICROVM, "networks": (Network(model="e1000"),)}, "networks[0].model"),
        ({"machine": "pc", "disks": tuple(Disk(n, bus="sata") for n in "abcd")}, "disks"),
    ],
)
def test_what_does_not_go_together_is_refused(options, option):
    with pytest.raises(InvalidSpec) as caught:
        check_board(spec(**options))

    assert caught.value.details == {"option": option}
    assert caught.value.message.startswith(f"{option}: ")
    assert caught.value.help


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"machine": None, "secure_boot": True, "firmware": "uefi"},
        {"machine": "pc-q35-7.2", "secure_boot": True, "firmware": "uefi"},
        {"machine": "pc", "firmware": "uefi", "tpm": True},
        {"machine": "pc", "disks": tuple(Disk(n, bus="sata") for n in "abc")},
        KERNEL,
        {**MICROVM, "vcpus_max": 1, "memory_max_mib": 1024, "disks": (Disk("a"),)},
    ],
)
def test_what_goes_together_is_taken(options):
    check_board(spec(**options))


def test_nothing_is_plugged_into_a_running_microvm():
    can = Hotplug(
        vcpus=True,
        memory=True,
        grow_buses=("virtio-blk",),
        cdrom=True,
        disk_buses=("virtio-blk",),
        network_types=("user",),
        cable=True,
    )

    assert hotplug_of("q35", can) == can
    assert hotplug_of("microvm", can) == Hotplug(grow_buses=("virtio-blk",), cable=True)


def test_a_kernel_that_is_not_there_is_told_beforehand(tmp_path):
    there = tmp_path / "vmlinuz"
    there.touch()
    check_kernel(spec(kernel=str(there), initrd=""))
    check_kernel(spec())

    for options in ({"kernel": str(tmp_path / "no")}, {"kernel": str(tmp_path)}):
        with pytest.raises(FileMissing, match=r"^kernel: there is no file"):
            check_kernel(spec(**options))
    with pytest.raises(FileMissing, match=r"^initrd: there is no file"):
        check_kernel(spec(kernel=str(there), initrd=str(tmp_path / "no")))


@pytest.mark.parametrize(
    ("booted", "recorded", "added"),
    [
        ("q35", {}, {"q35": "pc-q35-7.2"}),
        ("q35", {"pc": "pc-i440fx-6.2"}, {"q35": "pc-q35-7.2"}),
        ("pc-q35-7.2", {}, {"pc-q35-7.2": "pc-q35-7.2"}),
        ("q35", {"q35": "pc-q35-6.2"}, {}),
        (None, {}, {}),
    ],
)
def test_the_exact_type_is_recorded_once_for_each_name(tmp_path, booted, recorded, added):
    asked = spec(machine="microvm")  # the next start's
    vm = minimal_handle("web1", spec=asked, booted=spec(machine=booted), machine_types=recorded)

    def script(session):
        session.greet()
        session.answer(qom_get={"return": "pc-q35-7.2-machine"})

    with FakeQmp(tmp_path / "qmp", script) as fake, Qmp.connect(fake.path, 5) as qmp:
        types = exact_types(vm, qmp)
        heard = fake.sessions[0].heard[1:]

    assert types == {**recorded, **added}
    assert [request["arguments"] for request in heard] == len(added) * [
        {"path": "/machine", "property": "type"}
    ]


def test_a_machine_is_started_as_the_type_that_was_recorded():
    vm = minimal_handle("web1", spec=spec(networks=()), machine_types={"q35": "pc-q35-8.1"})

    argv = build_argv(vm, LAUNCH)

    assert values(argv, "-machine") == ["pc-q35-8.1,dump-guest-core=off"]
    assert json.dumps(argv).count("pcie-root-port") == PORTS
