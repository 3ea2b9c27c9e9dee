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
    BridgeMissing,
    HostError,
    ImageNotFound,
    InvalidSpec,
    KeygenFailed,
    NetworkFailed,
    SeedFailed,
)
from .._core.handle import VmHandle
from .._core.spec import CloudInit, VmSpec
from .._core.state import VmState
from .._guest.iso import available_tool
from .._guest.seed import check_cloud_init
from .._host.commands import find_program, require_program, run
from .._image.inspect import check_disk_size, inspect_image
from .accelerator import choose_accelerator
from .argv import MACHINES, machine_for
from .preparation import needs_key_pair
from .taps import TUN_DEVICE, bridge_exists


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
    if spec.accelerator == "kvm":
        choose_accelerator("kvm")
    if found is None or found.state is VmState.PREPARING:
        _check_material(spec, data_dir)
    elif spec.image is not None and not os.path.isfile(spec.image):
        raise ImageNotFound(
            f"image: {spec.image}, which the disk of '{spec.name}' rests on, is gone.",
            option="image",
        )


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
    check_cloud_init(spec.cloud_init or CloudInit())
    if available_tool() is None:
        raise SeedFailed(
            "No tool to write a cloud-init seed is installed: pycdlib, xorriso, genisoimage or mkisofs."
        )
    if needs_key_pair(spec) and find_program("ssh-keygen") is None:
        raise KeygenFailed("ssh-keygen is not installed, so no key pair can be made.")
    if spec.image is not None:
        check_disk_size(inspect_image(spec.image, spec.image_format), spec.disk_size)
    _check_writable(data_dir)


def _check_writable(folder: str) -> None:
    existing = folder
    while not os.path.exists(existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing) or not os.access(existing, os.W_OK | os.X_OK):
        what = "is not writable for this user" if os.path.isdir(existing) else "is not a folder"
        raise HostError(
            f"data_dir: {folder} cannot be used: {existing} {what}.",
            "Choose another data_dir.",
            option="data_dir",
        )


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
