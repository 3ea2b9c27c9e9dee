# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's run states, mapped honestly. Source: RunState in QEMU's QAPI schema (run-state.json)."""

from __future__ import annotations

from collections.abc import Mapping

from .._core.state import VmState

RUN_STATES: Mapping[str, VmState] = {
    "running": VmState.RUNNING,
    "paused": VmState.SUSPENDED,
    "suspended": VmState.SUSPENDED,  # the guest itself sleeps
    "prelaunch": VmState.SUSPENDED,
    "inmigrate": VmState.SUSPENDED,
    "postmigrate": VmState.SUSPENDED,
    "finish-migrate": VmState.SUSPENDED,
    "restore-vm": VmState.SUSPENDED,
    "save-vm": VmState.SUSPENDED,
    "colo": VmState.SUSPENDED,
    "debug": VmState.SUSPENDED,
    "io-error": VmState.FAILED,
    "guest-panicked": VmState.FAILED,
    "internal-error": VmState.FAILED,
    "watchdog": VmState.FAILED,
    "shutdown": VmState.FAILED,
}


def state_of(run_state: str) -> VmState:
    """Return our state for QEMU's word. One that we do not know is no reason to end a guest: it counts as running."""
    return RUN_STATES.get(run_state, VmState.RUNNING)
