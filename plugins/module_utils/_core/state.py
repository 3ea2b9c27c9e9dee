# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The states of a virtual machine and the goals a task can set."""

from __future__ import annotations

from enum import Enum


class VmState(str, Enum):
    """Where a virtual machine is in its life."""

    PREPARING = "preparing"  # its record exists, its files are not complete
    PREPARED = "prepared"  # complete, never started
    RUNNING = "running"
    SUSPENDED = "suspended"  # the process lives, the virtual CPUs stand still
    STOPPED = "stopped"
    FAILED = "failed"  # the process lives but cannot go on by itself
    DESTROYED = "destroyed"  # nothing is there

    @property
    def has_process(self) -> bool:
        """Tell whether a hypervisor process exists in this state."""
        return self in (VmState.RUNNING, VmState.SUSPENDED, VmState.FAILED)


class Goal(str, Enum):
    """What a task asks for: the option ``state``."""

    PRESENT = "present"
    ABSENT = "absent"
    STARTED = "started"
    STOPPED = "stopped"
    RESTARTED = "restarted"
    SUSPENDED = "suspended"

    @property
    def ends_running(self) -> bool:
        """Tell whether the guest runs once the goal is reached."""
        return self in (Goal.STARTED, Goal.RESTARTED)


class Verb(str, Enum):
    """One step towards a goal, named as in the ``Hypervisor`` protocol."""

    PREPARE = "prepare"
    CHANGE = "change"
    DISCARD = "discard"
    START = "start"
    STOP = "stop"
    SUSPEND = "suspend"
    RESUME = "resume"
    DESTROY = "destroy"
    AUTOSTART = "autostart"
    RENAME = "rename"
