# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's command line. Pure: everything that has to be probed or opened comes in as a value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.disks import SYSTEM_DISK
from .._core.errors import BackendNotAvailable
from .._core.handle import VmHandle
from .._core.networks import MODELS, Network
from .._core.spec import VmSpec
from .blocks import (
    CDROM,
    SCSI,
    disk_device,
    disk_node,
    medium_node,
    needs_port,
    system_disk,
    system_node,
)
from .ports import CDROM_BUS, has_ports, port_devices, port_names, sata_buses
from .taps import Tap

MACHINES: Mapping[str, str] = {"x86_64": "q35"}
MEMORY_SLOTS = 32
TB_SIZE_MIB = 64  # QEMU's own default lets the translation cache of an idle guest take several times its memory
VNC_DISPLAYS = 99
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
        *_board(vm.spec, launch),
        *_monitors(launch.fds),
        *_console(launch.fds),
        *_agent(launch.fds),
        *_ports(vm.spec),
        *_networks(vm, launch, ports),
        *_disks(vm, ports),
        *_cdrom(vm.spec),
        *_screen(vm.spec, launch.vnc_password),
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


def _board(spec: VmSpec, launch: Launch) -> list[str]:
    tb_size = TB_SIZE_MIB if launch.accelerator == "tcg" else None
    return [
        *("-machine", option(spec.machine or MACHINES["x86_64"], dump_guest_core="off")),
        *("-accel", option(launch.accelerator, tb_size=tb_size)),
        *("-cpu", launch.cpu),
        *("-smp", option(str(spec.vcpus), maxcpus=spec.vcpus_max)),
        *("-m", option(f"{spec.memory_mib}M", **_more_memory(spec))),
        *("-boot", "strict=on"),
        *("-device", "virtio-rng-pci"),
    ]


def _more_memory(spec: VmSpec) -> dict[str, str | int | None]:
    most = spec.memory_max_mib
    if most is None or most <= (spec.memory_mib or 0):
        return {}
    return {"slots": MEMORY_SLOTS, "maxmem": f"{most}M"}


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


def _agent(fds: Descriptors) -> list[str]:
    return [
        *("-device", "virtio-serial-pci"),
        *("-chardev", option("socket", id="agent", fd=fds.agent, server="on", wait="off")),
        *("-device", option("virtserialport", chardev="agent", name="org.qemu.guest_agent.0")),
    ]


def _ports(spec: VmSpec) -> list[str]:
    return [word for port in port_devices(spec.machine) for word in _device(port)]


def _disks(vm: VmHandle, ports: Iterator[str | None]) -> list[str]:
    system = system_disk(vm)
    sata = sata_buses(vm.spec.machine)
    first = {"bootindex": 1, **disk_device(system, next(sata) if system.bus == "sata" else None)}
    arguments = ["-blockdev", _json(system_node(vm)), *_device(first)]
    if vm.seed_iso_path is not None:
        # Not a CD: the kernels of cloud images often lack AHCI. After the root disk, which some expect to be first.
        file = {"driver": "file", "filename": vm.seed_iso_path, "read-only": True}
        seed = {"driver": "raw", "node-name": "seed", "read-only": True, "file": file}
        arguments += ["-blockdev", _json(seed), "-device", "virtio-blk-pci,drive=seed"]
    listed = [disk for disk in vm.spec.disks or () if disk.name != SYSTEM_DISK]
    if any(disk.bus == "virtio-scsi" for disk in (system, *listed)):
        arguments = [*_device({"driver": "virtio-scsi-pci", "id": SCSI}), *arguments]
    for disk in listed:
        bus = next(ports) if needs_port(disk) else next(sata) if disk.bus == "sata" else None
        arguments += ["-blockdev", _json(disk_node(disk, vm.disks[disk.name]))]
        arguments += _device(disk_device(disk, bus))
    return arguments


def _cdrom(spec: VmSpec) -> list[str]:
    if spec.cdrom is None:
        return []
    drive = {"driver": "ide-cd", "id": CDROM}
    if has_ports(spec.machine):
        drive["bus"] = CDROM_BUS
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
    forwards = [f"tcp:127.0.0.1:{vm.ssh_host_port}-:22"] if forward_ssh else []
    forwards += [
        f"{item.protocol}:{item.host_address}:{item.host}-:{item.guest}"
        for item in network.port_forwards
    ]
    return ",".join(
        [option("user", id=network.name), *(option("", hostfwd=forward) for forward in forwards)]
    )


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
    card = option(
        MODELS[network.model],
        id=card_id(network.name),
        bus=bus,
        netdev=network.name,
        mac=vm.mac_of(network),
        host_mtu=network.mtu if virtio else None,
        mq="on" if virtio and queues > 1 else None,
        vectors=2 * queues + 2 if virtio and queues > 1 else None,
    )
    return card + ",romfile="  # without a boot ROM: machines boot from their disk


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
