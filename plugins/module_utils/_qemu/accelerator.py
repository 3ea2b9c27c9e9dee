# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which accelerator runs the guest, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .._core.errors import BackendNotAvailable
from .kvm import KvmVerdict, check_kvm


@dataclass(frozen=True)
class Accelerator:
    """How QEMU runs the guest's instructions."""

    name: str  # kvm or tcg
    reason: str  # a sentence: why this one
    cpu: str  # the CPU model where the user names none


def choose_accelerator(wish: str, check: Callable[[], KvmVerdict] = check_kvm) -> Accelerator:
    """Return the accelerator for the wish ``auto``, ``kvm`` or ``tcg``; only ``tcg`` does without the check.

    Raise ``BackendNotAvailable`` if the wish is ``kvm`` and this host's KVM is not usable.
    """
    if wish == "tcg":
        return Accelerator("tcg", "The task asks for emulation (accelerator: tcg).", "max")
    verdict = check()
    if verdict.usable:
        return Accelerator("kvm", verdict.reason, "host")
    why = verdict.reason.rstrip(".")
    if wish == "kvm":
        raise BackendNotAvailable(
            f"accelerator: KVM is not usable: {why}.",
            "Set accelerator: auto or tcg to emulate, or make /dev/kvm usable: enable (nested) virtualization,"
            " load kvm_intel or kvm_amd, and let this user read and write the device.",
            option="accelerator",
            probe_ms=verdict.probe_ms,
        )
    return Accelerator(
        "tcg", f"KVM is not usable: {why}; guests are emulated, which is slower.", "max"
    )
