# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the states of a Propolis instance mean. Pure. Source: the state machine of propolis-server."""

from __future__ import annotations

from collections.abc import Mapping

from .._core.state import VmState

DESTROYED = "Destroyed"
# Nothing comes after these. Stopped is not among them: the server still cleans up, and refuses a new instance.
FINAL = (DESTROYED, "Failed")

# Creating has been described but not started. A machine that stops cannot be kept from it.
STATES: Mapping[str, VmState] = {
    "Creating": VmState.STOPPED,
    "Starting": VmState.RUNNING,
    "Running": VmState.RUNNING,
    "Rebooting": VmState.RUNNING,
    "Migrating": VmState.RUNNING,
    "Repairing": VmState.RUNNING,
    "Stopping": VmState.RUNNING,
    "Stopped": VmState.STOPPED,
    "Failed": VmState.FAILED,
    DESTROYED: VmState.STOPPED,
}
