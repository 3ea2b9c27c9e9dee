# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look, before anything is touched, whether this host can make and run a machine."""

from __future__ import annotations

import os
import platform
import sys

from .._core.errors import (
    BackendNotAvailable,
    BadRecord,
    BridgeMissing,
    ImageNotFound,
    InvalidSpec,
    NetworkFailed,
)
from .._core.handle import VmHandle
from .._core.spec import VmSpec
from .._core.state import VmState
from .._guest.material import check_material
from .._host.commands import find_program, require_program, run
from .._host.files import check_writable
from .._image.inspect import check_disk_size
from .._image.layers import layers_of
from .._image.provide import foresee_image
from .accelerator import choose_accelerator
from .argv import MACHINES, machine_for
from .disk_files import check_disks
from .firmware import check_firmware
from .kernel_boot import check_kernel
from .shared_folders import check_folders
from .taps import TUN_DEVICE, bridge_exists
from .tpm import check_tpm


def qemu_binary() -> str:
    """Return the path of QEMU for guests of the host's own architecture; raise ``BackendNotAvailable``."""
    architecture = platform.machine()
    machine_for(architecture)
    name = f"qemu-system-{architecture}"
    found = find_program(name, "qemu-kvm")
    if found is None:
        raise BackendNotAvailable(f"QEMU is not installed: there is no {name}.", program=name)
    return found


def check_host(spec: VmSpec, found: VmHandle | None, data_dir: str) -> None:
    """Raise the first thing that would hinder this host from making or running such a machine."""
    if sys.platform != "linux":
        raise BackendNotAvailable(
            f"The backend qemu needs Linux; this host runs {sys.platform}.", "Use another host."
        )
    binary = qemu_binary()
    if spec.machine != MACHINES["x86_64"]:
        _check_listed(binary, "machine", spec.machine)
    _check_listed(binary, "cpu", None if spec.cpu is None else spec.cpu.partition(",")[0])
    _check_networks(spec)
    check_disks(spec, found)
    _check_cdrom(spec)
    check_kernel(spec)
    check_firmware(spec, found)
    check_tpm(spec)
    check_folders(spec)
    if found is not None and found.spec.cloud_init != spec.cloud_init:
        check_material(spec)
    if spec.accelerator == "kvm":
        choose_accelerator("kvm")
    if found is None or found.state is VmState.PREPARING:
        _check_material(spec, data_dir)
    elif found.base_image is not None and not os.path.isfile(found.base_image):
        raise ImageNotFound(
            f"image: {found.base_image}, which the disk of '{spec.name}' rests on, is gone.",
            option="image",
        )
    for path in sorted(layers_of(found)) if found is not None else ():
        if not os.path.isfile(path):
            raise BadRecord(f"The layer {path}, which a disk of '{spec.name}' rests on, is gone.")


def _check_cdrom(spec: VmSpec) -> None:
    if spec.cdrom and not os.path.isfile(spec.cdrom):
        raise ImageNotFound(f"cdrom: there is no file {spec.cdrom}.", option="cdrom")


def _check_networks(spec: VmSpec) -> None:
    for index, network in enumerate(spec.networks or ()):
        if network.bridge is not None and not bridge_exists(network.bridge):
            option = f"networks[{index}].bridge"
            raise BridgeMissing(f"{option}: there is no bridge {network.bridge}.", option=option)
        if network.type != "user" and not os.path.exists(TUN_DEVICE):
            raise NetworkFailed(
                f"networks[{index}]: this host has no {TUN_DEVICE}.",
                "Load the kernel's module tun.",
            )


def _check_material(spec: VmSpec, data_dir: str) -> None:
    require_program("qemu-img")
    check_material(spec)
    image = foresee_image(spec, data_dir)
    if image is not None:
        check_disk_size(image, spec.disk_size)
    check_writable(data_dir)


def _check_listed(binary: str, option: str, value: str | None) -> None:
    """Raise ``InvalidSpec`` if QEMU's own list for ``option`` lacks ``value``."""
    if value is None:
        return
    listed = run([binary, f"-{option}", "help"]).stdout
    words = {
        line.split()[1 if line.startswith("x86 ") else 0]
        for line in listed.splitlines()
        if line.strip()
    }
    if value not in words:
        raise InvalidSpec(
            f"{option}: QEMU on this host has no '{value}'.",
            f"'{binary} -{option} help' lists them.",
            option=option,
        )
