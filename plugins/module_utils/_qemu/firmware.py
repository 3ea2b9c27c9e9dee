# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""UEFI firmware: found by the descriptions that distributions install for it, with variables for each machine.

Source: docs/interop/firmware.json of QEMU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .._core.disks import DiskRecord
from .._core.errors import BadRecord, CommandFailed, FirmwareMissing, OverlayFailed
from .._core.firmware import FirmwareRecord, firmware_key
from .._core.handle import VmHandle
from .._core.layout import NVRAM, SECURE_NVRAM
from .._core.spec import VmSpec
from .._core.state import VmState
from .._host.commands import run
from .._host.files import doing, replacing
from .._host.store import Store
from .._image.adoption import is_alike
from .._image.inspect import inspect_image

# A file of a later folder hides one of the same name in an earlier one; an empty file hides it, too.
FOLDERS = ("/usr/share/qemu/firmware", "/etc/qemu/firmware")
ARCHITECTURE = "x86_64"
_PLAIN = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
)
_SECURE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/OVMF/OVMF_CODE.ms.fd", "/usr/share/OVMF/OVMF_VARS.ms.fd"),
)
_SECURE_FEATURES = {"secure-boot", "enrolled-keys"}
_NOT_PLAIN = {"enrolled-keys", "requires-smm"}


@dataclass(frozen=True)
class Firmware:
    """A firmware of this host: two files, the second of which is copied for each machine."""

    code: str
    code_format: str
    template: str
    template_format: str


def check_firmware(spec: VmSpec, found: VmHandle | None) -> None:
    """Raise what would hinder a machine from booting with the firmware that it is to have. Touches nothing."""
    if spec.firmware != "uefi":
        return
    record = None if found is None else found.firmware.get(firmware_key(spec.secure_boot))
    if found is None or record is None:
        firmware = find_firmware(spec.machine, bool(spec.secure_boot))
        if found is not None:
            _has_variables(found, _nvram(found, spec), firmware)
        return
    if not os.path.isfile(record.code):
        raise FirmwareMissing(
            f"firmware: {record.code}, which the VM '{spec.name}' boots with, is gone.",
            option="firmware",
        )
    nvram = os.path.join(found.work_dir, record.nvram)
    if not os.path.isfile(nvram):
        raise BadRecord(
            f"firmware: {nvram}, in which the firmware of the VM '{spec.name}' keeps its variables, is gone.",
            "Restore the file; new variables would lack the boot entries of the guest's system.",
            path=nvram,
        )


def make_nvram(vm: VmHandle, store: Store) -> VmHandle:
    """Make the file for the firmware's variables if there is none yet, and record it; it stays for the machine's life."""
    key = firmware_key(vm.spec.secure_boot)
    if vm.spec.firmware != "uefi" or key in vm.firmware:
        return vm
    firmware = find_firmware(vm.spec.machine, bool(vm.spec.secure_boot))
    nvram = _nvram(vm, vm.spec)
    if not _has_variables(vm, nvram, firmware):
        _copy_template(firmware, nvram)
    record = FirmwareRecord(firmware.code, firmware.code_format, os.path.basename(nvram))
    return store.save(vm.evolve(firmware={**vm.firmware, key: record}))


def _nvram(vm: VmHandle, spec: VmSpec) -> str:
    return os.path.join(vm.work_dir, SECURE_NVRAM if spec.secure_boot else NVRAM)


def _copy_template(firmware: Firmware, nvram: str) -> None:
    with doing(f"make {nvram}"), replacing(nvram) as part:
        try:
            # In a format that takes part in snapshots.
            form = firmware.template_format
            run(["qemu-img", "convert", "-f", form, "-O", "qcow2", firmware.template, part])
        except CommandFailed as exc:
            raise OverlayFailed(f"The file {nvram} could not be made: {exc}") from exc


def _has_variables(vm: VmHandle, nvram: str, firmware: Firmware) -> bool:
    """Tell whether variables that are not recorded are there already; raise ``BadRecord`` if they are for another firmware."""
    if vm.state is VmState.PREPARING or not os.path.lexists(nvram):
        return False  # what never ran has written none
    size = inspect_image(firmware.template, firmware.template_format).virtual_size
    return is_alike("firmware", DiskRecord(nvram, "qcow2", size))


def find_firmware(
    machine: str | None, secure_boot: bool, folders: Sequence[str] = FOLDERS
) -> Firmware:
    """Return the first firmware for this type of machine whose files are there; raise ``FirmwareMissing`` if none is."""
    described = [description for description in _descriptions(folders) if description]
    for description in described:
        firmware = read_description(description, machine or "", secure_boot)
        if firmware is not None and _is_there(firmware):
            return firmware
    for code, template in () if described else _SECURE if secure_boot else _PLAIN:
        firmware = Firmware(code, "raw", template, "raw")
        if _is_there(firmware):
            return firmware
    kind = "UEFI firmware with Secure Boot and its keys" if secure_boot else "UEFI firmware"
    option = "secure_boot" if secure_boot else "firmware"
    raise FirmwareMissing(
        f"{option}: this host has no {kind} for the machine type '{machine}'.", option=option
    )


def read_description(
    description: Mapping[str, Any], machine: str, secure_boot: bool
) -> Firmware | None:
    """Return the firmware that is described if it fits, else ``None``."""
    try:
        mapping = description["mapping"]
        fits = (
            "uefi" in description["interface-types"]
            and mapping["device"] == "flash"
            and mapping.get("mode", "split") == "split"
            and _is_for(description["targets"], machine)
            and _is_secure(description["features"]) == secure_boot
        )
        if not fits:
            return None
        code, template = mapping["executable"], mapping["nvram-template"]
        return Firmware(code["filename"], code["format"], template["filename"], template["format"])
    except (AttributeError, KeyError, TypeError):
        return None  # not for us to complain about: another one may do


def _is_secure(features: Sequence[str]) -> bool | None:
    """Tell whether a firmware has Secure Boot with keys; ``None`` if it is something between that and plain."""
    if _SECURE_FEATURES.issubset(features):
        return True
    return None if _NOT_PLAIN.intersection(features) else False


def _is_for(targets: Sequence[Mapping[str, Any]], machine: str) -> bool:
    # Descriptions name exact types by a pattern, tasks the newest one by a short name.
    exact = {"q35": "pc-q35-0.0", "pc": "pc-i440fx-0.0"}.get(machine, machine)
    return any(
        fnmatchcase(exact, pattern)
        for target in targets
        if target["architecture"] == ARCHITECTURE
        for pattern in target["machines"]
    )


def _descriptions(folders: Sequence[str]) -> Iterator[Mapping[str, Any] | None]:
    paths: dict[str, str] = {}
    for folder in folders:
        if os.path.isdir(folder):
            with doing(f"list {folder}"):
                names = os.listdir(folder)
            paths.update(
                (name, os.path.join(folder, name)) for name in names if name.endswith(".json")
            )
    for dummy_name, path in sorted(paths.items()):
        try:
            with open(path, encoding="utf-8") as stream:
                description = json.load(stream)
        except (OSError, ValueError):
            continue
        yield description if isinstance(description, dict) else None


def _is_there(firmware: Firmware) -> bool:
    return all(os.access(path, os.R_OK) for path in (firmware.code, firmware.template))
