# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this host has for machines on QEMU: the programs, the accelerator and why, devices for networks."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator

from .._core.errors import BackendNotAvailable, ProgramMissing, SeedFailed, VmError
from .._core.host_report import BackendReport
from .._guest.iso import PROGRAMS, PYCDLIB, available_tool
from .._host.commands import find_program, run
from .accelerator import Accelerator, choose_accelerator
from .argv import MACHINES
from .host_check import qemu_binary
from .taps import TUN_DEVICE, bridge_helper

_LOOK = 10.0  # seconds that QEMU gets to tell its version


def report_host(
    choose: Callable[[str], Accelerator] = choose_accelerator,
) -> BackendReport:
    """Return what hinders machines on QEMU here, and what they would work with. Touches nothing."""
    problems: list[VmError] = []
    binary = None
    try:
        binary = qemu_binary()
    except BackendNotAvailable as exc:
        problems.append(exc)
    problems += _other_problems()
    accelerator = choose("auto") if sys.platform == "linux" else None
    return BackendReport(
        "qemu",
        tuple(problems),
        {
            "qemu": binary,
            "version": None if binary is None else _version(binary),
            "machine": MACHINES.get(platform.machine()),
            "accelerator": accelerator and accelerator.name,
            "accelerator_reason": accelerator and accelerator.reason,
            "qemu_img": find_program("qemu-img"),
            "bridge_helper": bridge_helper(),
            "tun": os.path.exists(TUN_DEVICE),
            "seed_tool": available_tool(),
        },
    )


def _other_problems() -> Iterator[VmError]:
    if sys.platform != "linux":
        yield BackendNotAvailable(
            f"The backend qemu needs Linux; this host runs {sys.platform}.", "Use another backend."
        )
    if find_program("qemu-img") is None:
        yield ProgramMissing("The program qemu-img is not installed.")
    if available_tool() is None:
        tools = ", ".join((PYCDLIB, *PROGRAMS[:-1]))
        yield SeedFailed(
            f"No tool to write a cloud-init seed is installed: {tools} or {PROGRAMS[-1]}."
        )


def _version(binary: str) -> str | None:
    try:
        said = run([binary, "--version"], timeout=_LOOK).stdout
    except VmError:
        return None
    match = re.search(r"version (\d+(?:\.\d+)+)", said)
    return match[1] if match else None
