# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes with what on a machine's board. Pure; asked before anything is touched."""

from __future__ import annotations

from dataclasses import replace

from .errors import InvalidSpec
from .live import Hotplug
from .spec import VmSpec

MICROVM = "microvm"
IDE_DISKS = 3  # the fourth place is the CD-ROM drive's


def check_board(spec: VmSpec) -> None:
    """Raise ``InvalidSpec`` for the first option that does not go with another."""
    if spec.secure_boot and spec.firmware != "uefi":
        raise _invalid("secure_boot", "only the firmware uefi has it", "Set firmware to uefi.")
    if spec.secure_boot and not _is_q35(spec.machine):
        raise _invalid(
            "secure_boot",
            f"the machine type '{spec.machine}' cannot protect the firmware's variables from the guest",
            "Use the machine type q35.",
        )
    for option in ("initrd", "kernel_cmdline"):
        if getattr(spec, option) and not spec.kernel:
            raise _invalid(
                option,
                "without a kernel nobody reads it",
                f"Give kernel as well, or an empty {option}.",
            )
    on_sata = [disk for disk in spec.disks or () if disk.bus == "sata"]
    if has_ide(spec.machine) and len(on_sata) > IDE_DISKS:
        raise _invalid(
            "disks",
            f"the machine type '{spec.machine}' has room for {IDE_DISKS} of them on sata",
            "Use another bus for the others, or the machine type q35.",
        )
    if spec.machine == MICROVM:
        _check_microvm(spec)


def has_ide(machine: str | None) -> bool:
    """Tell whether a machine type has, in place of SATA, two IDE buses with two places each."""
    return machine is not None and (machine == "pc" or machine.startswith("pc-i440fx-"))


def hotplug_of(machine: str | None, can: Hotplug) -> Hotplug:
    """Return what of ``can`` a machine of this type can do while it runs."""
    if machine != MICROVM:
        return can
    nothing: tuple[str, ...] = ()
    return replace(
        can, vcpus=False, memory=False, cdrom=False, disk_buses=nothing, network_types=nothing
    )


def _is_q35(machine: str | None) -> bool:
    return machine is None or machine == "q35" or machine.startswith("pc-q35-")


def _check_microvm(spec: VmSpec) -> None:
    if not spec.kernel:
        raise _invalid("kernel", "a microvm boots no disk, it needs a kernel", "Give kernel.")
    nothing = "Leave it out, or use the machine type q35."
    missing = {
        "firmware": spec.firmware == "uefi" and "has no UEFI",
        "tpm": spec.tpm and "has no TPM",
        "vnc": spec.vnc and "has no screen",
        "cdrom": spec.cdrom is not None and "has no CD-ROM drive",
        "smbios": spec.smbios and "has no SMBIOS tables",
        "vcpus_max": (spec.vcpus_max or 0) > (spec.vcpus or 1) and "takes no more virtual CPUs",
        "memory_max": (spec.memory_max_mib or 0) > (spec.memory_mib or 0)
        and "takes no more memory",
    }
    for option, reason in missing.items():
        if reason:
            raise _invalid(option, f"a microvm {reason}", nothing)
    for disk in spec.disks or ():
        if disk.bus not in (None, "virtio-blk", "virtio-scsi"):
            option = f"disks ({disk.name}).bus"
            raise _invalid(option, f"a microvm has no bus for {disk.bus}", nothing)
    for index, network in enumerate(spec.networks or ()):
        if network.model != "virtio":
            option = f"networks[{index}].model"
            raise _invalid(
                option, f"a microvm has no bus for a card of type {network.model}", nothing
            )


def _invalid(option: str, reason: str, help_text: str) -> InvalidSpec:
    return InvalidSpec(f"{option}: {reason}.", help_text, option=option)
