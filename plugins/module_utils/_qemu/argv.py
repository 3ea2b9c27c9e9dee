# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's command line. Pure: everything that has to be probed or opened comes in as a value."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._core.disks import SYSTEM_DISK
from .._core.errors import BackendNotAvailable
from .._core.firmware import SMBIOS_STRINGS, FirmwareRecord, firmware_key
from .._core.handle import VmHandle
from .._core.networks import MODELS, Network
from .._core.spec import VmSpec
from .blocks import (
    CDROM,
    SCSI,
    disk_device,
    disk_node,
    file_node,
    medium_node,
    needs_port,
    system_disk,
    system_node,
)
from .ports import cdrom_bus, has_ports, on_board, port_devices, port_names, sata_buses
from .taps import Tap

MACHINES: Mapping[str, str] = {"x86_64": "q35"}
MEMORY_SLOTS = 32
TB_SIZE_MIB = 64  # QEMU's own default lets the translation cache of an idle guest take several times its memory
VNC_DISPLAYS = 99
MEMORY = "ram"  # the memory's name where other programs share it
_KEYS = {"host_mtu": "host_mtu"}  # the one key that QEMU writes with an underscore
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Descriptors:
    """Open files that QEMU inherits: four listening sockets and the writing end of the console log's pipe."""

    qmp: int
    debug: int
    console: int
    agent: int
    console_log: int


@dataclass(frozen=True)
class Launch:
    """What a start needs to know besides the record."""

    binary: str
    accelerator: str
    cpu: str
    pid_file: str
    vnc_password: str | None
    fds: Descriptors
    taps: tuple[Tap, ...] = ()
    tpm: int | None = None  # the connection to it
    folders: Mapping[str, int] = field(default_factory=dict)  # the same, by name


def machine_for(architecture: str) -> str:
    """Return the default machine type for a host architecture; raise ``BackendNotAvailable`` if there is none."""
    machine = MACHINES.get(architecture)
    if machine is None:
        raise BackendNotAvailable(
            f"The backend qemu runs on hosts of the architecture {', '.join(MACHINES)}; this one is {architecture}.",
            "Run the task on another host.",
        )
    return machine


def build_argv(vm: VmHandle, launch: Launch) -> list[str]:
    """Return the command that runs ``vm``."""
    ports = port_names(vm.spec.machine)
    return [
        launch.binary,
        *_process(vm, launch),
        *_board(vm, launch),
        *_generation(vm),
        *_firmware(vm),
        *_kernel(vm.spec),
        *_monitors(launch.fds),
        *_console(launch.fds),
        *_agent(vm.spec, launch.fds),
        *_tpm(launch.tpm),
        *_ports(vm.spec),
        *_networks(vm, launch, ports),
        *_disks(vm, ports),
        *_cdrom(vm.spec),
        *_folders(vm.spec, launch.folders),
        *_screen(vm.spec, launch.vnc_password),
        *(vm.spec.qemu_args or ()),
    ]


def option(head: str, **properties: str | int | None) -> str:
    """Return one value in QEMU's comma-separated form: commas inside are doubled, ``None`` is left out."""
    parts = [head] if head else []
    for key, value in properties.items():
        if value is not None:
            parts.append(f"{_KEYS.get(key, key.replace('_', '-'))}={str(value).replace(',', ',,')}")
    return ",".join(parts)


def _device(properties: Mapping[str, Any]) -> list[str]:
    # All in the same form: QEMU makes those in JSON last, and the order is that in which guests find them.
    rest = {key: _word(value) for key, value in properties.items() if key != "driver"}
    return ["-device", option(properties["driver"], **rest)]


def _word(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _process(vm: VmHandle, launch: Launch) -> list[str]:
    return [
        *("-name", option("", guest=vm.name, debug_threads="on")),
        *("-uuid", vm.uuid),
        *("-pidfile", launch.pid_file),
        *("-sandbox", SANDBOX),
        *("-msg", "timestamp=on"),
        "-nodefaults",
        "-no-user-config",
        *("-display", "none"),
    ]


def _board(vm: VmHandle, launch: Launch) -> list[str]:
    spec = vm.spec
    tb_size = TB_SIZE_MIB if launch.accelerator == "tcg" else None
    return [
        *("-machine", _machine(vm)),
        *("-accel", option(launch.accelerator, tb_size=tb_size)),
        *("-cpu", launch.cpu),
        *("-smp", option(str(spec.vcpus), maxcpus=spec.vcpus_max)),
        *("-m", option(f"{spec.memory_mib}M", **_more_memory(spec))),
        *("-boot", "strict=on"),
        *("-device", on_board("virtio-rng-pci", spec.machine)),
        *_shared_memory(spec),
        *_smbios(spec),
    ]


def _shared_memory(spec: VmSpec) -> list[str]:
    if not spec.shared_folders:
        return []
    size = f"{spec.memory_mib}M"
    memory = option("memory-backend-memfd", id=MEMORY, size=size, share="on", dump="off")
    return ["-object", memory]


def _machine(vm: VmHandle) -> str:
    asked = vm.spec.machine or MACHINES["x86_64"]
    uefi = _firmware_of(vm) is not None
    return option(
        vm.machine_types.get(asked, asked),
        dump_guest_core="off",
        pflash0="firmware" if uefi else None,
        pflash1="nvram" if uefi else None,
        smm="on" if uefi and vm.spec.secure_boot else None,
        memory_backend=MEMORY if vm.spec.shared_folders else None,
    )


def _smbios(spec: VmSpec) -> list[str]:
    if not spec.smbios:
        return []
    strings = {name: spec.smbios[name] for name in SMBIOS_STRINGS if name in spec.smbios}
    return ["-smbios", option("type=1", **strings)]


def _firmware_of(vm: VmHandle) -> FirmwareRecord | None:
    return vm.firmware[firmware_key(vm.spec.secure_boot)] if vm.spec.firmware == "uefi" else None


def _firmware(vm: VmHandle) -> list[str]:
    firmware = _firmware_of(vm)
    if firmware is None:
        return []
    nodes = [
        file_node("firmware", firmware.code, firmware.code_format, readonly=True),
        file_node("nvram", os.path.join(vm.work_dir, firmware.nvram), "qcow2"),
    ]
    arguments = [word for node in nodes for word in ("-blockdev", _json(node))]
    if vm.spec.secure_boot:
        # Else the guest could write the variables past the firmware, which lets only itself in.
        secure = option("", driver="cfi.pflash01", property="secure", value="on")
        arguments += ["-global", secure]
    return arguments


def _kernel(spec: VmSpec) -> list[str]:
    if not spec.kernel:
        return []
    arguments = ["-kernel", spec.kernel]
    arguments += ["-initrd", spec.initrd] if spec.initrd else []
    return arguments + (["-append", spec.kernel_cmdline] if spec.kernel_cmdline else [])


def _tpm(fd: int | None) -> list[str]:
    if fd is None:
        return []
    return [
        *("-chardev", option("socket", id="tpm", fd=fd)),
        *("-tpmdev", option("emulator", id="tpm0", chardev="tpm")),
        *("-device", option("tpm-crb", tpmdev="tpm0")),
    ]


def _folders(spec: VmSpec, connections: Mapping[str, int]) -> list[str]:
    arguments: list[str] = []
    for index, folder in enumerate(spec.shared_folders or ()):
        name = f"share{index}"
        arguments += ["-chardev", option("socket", id=name, fd=connections[folder.name])]
        device = on_board("vhost-user-fs-pci", spec.machine)
        arguments += ["-device", option(device, chardev=name, tag=folder.name)]
    return arguments


def _more_memory(spec: VmSpec) -> dict[str, str | int | None]:
    most = spec.memory_max_mib
    if most is None or most <= (spec.memory_mib or 0):
        return {}
    return {"slots": MEMORY_SLOTS, "maxmem": f"{most}M"}


def _generation(vm: VmHandle) -> list[str]:
    if vm.generation is None or not has_ports(vm.spec.machine):
        return []
    return ["-device", option("vmgenid", guid=vm.generation, id="generation")]


def _monitors(fds: Descriptors) -> list[str]:
    arguments = []
    for name, fd in (("qmp", fds.qmp), ("debug", fds.debug)):
        arguments += ["-chardev", option("socket", id=name, fd=fd, server="on", wait="off")]
        arguments += ["-mon", option("", chardev=name, mode="control")]
    return arguments


def _console(fds: Descriptors) -> list[str]:
    log = option("", logfile="/dev/fdset/1", logappend="on")
    return [
        *("-add-fd", option("", fd=fds.console_log, set=1)),
        *(
            "-chardev",
            option("socket", id="console", fd=fds.console, server="on", wait="off") + "," + log,
        ),
        *("-serial", "chardev:console"),
    ]


def _agent(spec: VmSpec, fds: Descriptors) -> list[str]:
    return [
        *("-device", on_board("virtio-serial-pci", spec.machine)),
        *("-chardev", option("socket", id="agent", fd=fds.agent, server="on", wait="off")),
        *("-device", option("virtserialport", chardev="agent", name="org.qemu.guest_agent.0")),
    ]


def _ports(spec: VmSpec) -> list[str]:
    return [word for port in port_devices(spec.machine) for word in _device(port)]


def _disks(vm: VmHandle, ports: Iterator[str | None]) -> list[str]:
    system = system_disk(vm)
    sata = sata_buses(vm.spec.machine)
    first = {"bootindex": 1, **disk_device(system, next(sata) if system.bus == "sata" else None)}
    first["driver"] = on_board(first["driver"], vm.spec.machine)
    arguments = ["-blockdev", _json(system_node(vm)), *_device(first)]
    if vm.seed_iso_path is not None:
        # Not a CD: the kernels of cloud images often lack AHCI. After the root disk, which some expect to be first.
        file = {"driver": "file", "filename": vm.seed_iso_path, "read-only": True}
        seed_device = {"driver": on_board("virtio-blk-pci", vm.spec.machine), "drive": "seed"}
        seed = {"driver": "raw", "node-name": "seed", "read-only": True, "file": file}
        arguments += ["-blockdev", _json(seed), *_device(seed_device)]
    listed = [disk for disk in vm.spec.disks or () if disk.name != SYSTEM_DISK]
    if any(disk.bus == "virtio-scsi" for disk in (system, *listed)):
        controller = {"driver": on_board("virtio-scsi-pci", vm.spec.machine), "id": SCSI}
        arguments = [*_device(controller), *arguments]
    for disk in listed:
        bus = next(ports) if needs_port(disk) else next(sata) if disk.bus == "sata" else None
        arguments += ["-blockdev", _json(disk_node(disk, vm.disks[disk.name]))]
        device = disk_device(disk, bus)
        arguments += _device({**device, "driver": on_board(device["driver"], vm.spec.machine)})
    return arguments


def _cdrom(spec: VmSpec) -> list[str]:
    if spec.cdrom is None:
        return []
    drive = {"driver": "ide-cd", "id": CDROM}
    bus = cdrom_bus(spec.machine)
    if bus is not None:
        drive["bus"] = bus
    if not spec.cdrom:
        return _device(drive)
    medium = medium_node(spec.cdrom)
    drive["drive"] = medium["node-name"]
    return ["-blockdev", _json(medium), *_device(drive)]


def _networks(vm: VmHandle, launch: Launch, ports: Iterator[str | None]) -> list[str]:
    arguments = []
    forward_ssh = True
    for network in vm.spec.networks or ():
        if network.type == "user":
            arguments += ["-netdev", user_network(vm, network, forward_ssh)]
            forward_ssh = False
        else:
            tap = next(tap for tap in launch.taps if tap.network == network.name)
            arguments += ["-netdev", _tap_network(tap)]
        arguments += ["-device", _card(vm, network, launch, next(ports))]
    return arguments


def user_network(vm: VmHandle, network: Network, forward_ssh: bool) -> str:
    """Return the host's end of a card in user mode."""
    forwards = [ssh_forward(vm)] if forward_ssh else []
    forwards += [item.rule for item in network.port_forwards]
    return ",".join(
        [option("user", id=network.name), *(option("", hostfwd=forward) for forward in forwards)]
    )


def ssh_forward(vm: VmHandle) -> str:
    """Return the rule that forwards a port of the host to the guest's SSH."""
    return f"tcp:127.0.0.1:{vm.ssh_host_port}-:22"


def _tap_network(tap: Tap) -> str:
    several = len(tap.fds) > 1
    ends: dict[str, str] = {"fds" if several else "fd": ":".join(map(str, tap.fds))}
    if tap.vhost:
        ends["vhost"] = "on"
        ends["vhostfds" if several else "vhostfd"] = ":".join(map(str, tap.vhost))
    return option("tap", id=tap.network, **ends)


def _card(vm: VmHandle, network: Network, launch: Launch, bus: str | None) -> str:
    queues = max((len(tap.fds) for tap in launch.taps if tap.network == network.name), default=1)
    virtio = network.model == "virtio"
    mmio = vm.spec.machine == "microvm"
    card = option(
        on_board(MODELS[network.model], vm.spec.machine),
        id=card_id(network.name),
        bus=bus,
        netdev=network.name,
        mac=vm.mac_of(network),
        host_mtu=network.mtu if virtio else None,
        mq="on" if virtio and queues > 1 else None,
        vectors=2 * queues + 2 if virtio and queues > 1 and not mmio else None,
    )
    # Without a boot ROM: machines boot from their disk.
    return card if mmio else card + ",romfile="


def card_id(network: str) -> str:
    """Return the id of a network card's device."""
    return f"card-{network}"


def _screen(spec: VmSpec, password_file: str | None) -> list[str]:
    if not spec.vnc:
        return []
    return [
        *("-object", option("secret", id="vnc", file=password_file)),
        *("-vnc", option("127.0.0.1:0", to=VNC_DISPLAYS, password_secret="vnc")),
        *("-device", "virtio-vga"),
    ]
