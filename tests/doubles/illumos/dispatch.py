# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One program of the pretended host: plays a fault if one was asked for, then what the program's own file says."""

from __future__ import annotations

import os
import sys

from machine import Machine, Refused

FILES = {
    "zfs": "zfs",
    "dladm": "links",
    "ipadm": "links",
    "zoneadm": "zones",
    "zonecfg": "zones",
    "svcadm": "services",
    "svccfg": "services",
    "svcs": "services",
    "startd": "services",
    "arp": "tables",
    "ndp": "tables",
    "rsrvrctl": "tables",
    "bhyvectl": "tables",
}


def main(program, argv):
    """Run the program and return its exit status."""
    machine = Machine(os.environ["ILLUMOS_DOUBLE"])
    machine.record(program, argv)
    try:
        fault = take_fault(machine, program, argv)
        if fault and not fault["after"]:
            play(fault)
        run = __import__(FILES[program]).PROGRAMS[program]
        with machine.locked() as state:
            printed, later = run(argv, state, machine)
        if later:
            later()
        if fault:
            play(fault)
    except Refused as exc:
        print(exc.message, file=sys.stderr)
        return exc.status
    if printed:
        print(printed)
    return 0


def take_fault(machine, program, argv):
    """Return the first fault that was asked for this call, which is then forgotten."""
    with machine.locked() as state:
        for index, fault in enumerate(state["faults"]):
            if fault["program"] == program and set(fault["words"]) <= set(argv):
                fault["times"] -= 1
                if fault["times"] <= 0:
                    del state["faults"][index]
                return fault
    return None


def play(fault):
    """Fail, or kill the program that called."""
    if fault["kill"]:
        os.kill(os.getppid(), 9)
    raise Refused(fault["message"], fault["status"])
