# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's part of a machine, which stays when a server is killed before its instance was destroyed."""

from __future__ import annotations

import os

from .._host.commands import run

_VMM = "/dev/vmm"


def remove_kernel_vm(uuid: str) -> None:
    """Remove what the kernel keeps of this machine, whose server must have ended."""
    if os.path.exists(os.path.join(_VMM, uuid)):
        run(["bhyvectl", f"--vm={uuid}", "--destroy"])
