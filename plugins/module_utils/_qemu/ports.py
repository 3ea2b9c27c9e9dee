# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PCI ports that devices are plugged into and taken out of while the machine runs. Pure.

The bus of a q35 board itself takes no device at run time, each root port takes one. Each also costs a guest that boots
a little time; disks on virtio-scsi need none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._core.board import has_ide

PORTS = 8
PORT_NAMES = tuple(f"port{number}" for number in range(PORTS))
ROOT_BUS = "pcie.0"  # where those are that found no port
_SLOT = 0x10  # of the first eight ports; out of the way of everything that QEMU places itself
_FUNCTIONS = 8


def has_ports(machine: str | None) -> bool:
    """Tell whether a machine type has root ports for devices that come and go; the others have buses that take them."""
    return machine is not None and (machine == "q35" or machine.startswith("pc-q35-"))


def on_board(driver: str, machine: str | None) -> str:
    """Return the device for a virtio driver that is named as it is on PCI; a microvm has no PCI."""
    on_mmio = machine == "microvm" and driver.endswith("-pci")
    return f"{driver.removesuffix('-pci')}-device" if on_mmio else driver


def port_devices(machine: str | None) -> list[dict[str, Any]]:
    """Return the root ports as devices."""
    if not has_ports(machine):
        return []
    return [
        {
            "driver": "pcie-root-port",
            "id": name,
            "chassis": number + 1,
            "addr": f"{_SLOT + number // _FUNCTIONS:#x}.{number % _FUNCTIONS:#x}",
            **({"multifunction": True} if number % _FUNCTIONS == 0 else {}),
        }
        for number, name in enumerate(PORT_NAMES)
    ]


def port_names(machine: str | None) -> Iterator[str | None]:
    """Return the ports in the order in which they are filled; nothing but ``None`` for machines without."""
    if has_ports(machine):
        yield from PORT_NAMES
    while True:
        yield None


def sata_buses(machine: str | None) -> Iterator[str | None]:
    """Return where disks on SATA go, in order; the board's last place is the CD-ROM drive's."""
    if has_ports(machine):
        yield from ("ide.0", "ide.1", "ide.2", "ide.3", "ide.4")
    elif has_ide(machine):
        yield from ("ide.0", "ide.0", "ide.1")  # QEMU itself would fill the first bus only
    while True:
        yield None


def cdrom_bus(machine: str | None) -> str | None:
    """Return where the CD-ROM drive is plugged in, if the board's places are known."""
    if has_ports(machine):
        return "ide.5"
    return "ide.1" if has_ide(machine) else None
