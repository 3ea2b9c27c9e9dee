# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""arp, ndp and rsrvrctl: tables that a test fills. bhyvectl: removes what the kernel keeps of a machine."""

from __future__ import annotations

import os

from machine import Refused


def arp(argv, state, dummy_machine):
    if argv != ["-an"]:
        raise Refused("usage: arp -an", 2)
    lines = [
        "Net to Media Table: IPv4",
        "Device   IP Address               Mask      Flags      Phys Addr",
        "------ -------------------- --------------- -------- ---------------",
    ]
    for device, address, flags, mac in state["arp"]:
        lines.append(f"{device:<6} {address:<20} 255.255.255.255 {flags:<8} {mac}")
    return "\n".join(lines), None


def ndp(argv, state, dummy_machine):
    if argv != ["-an"]:
        raise Refused("usage: ndp -an", 2)
    lines = [
        "Net to Media Table: IPv6",
        " If   Physical Address    Type      State      Destination/Mask",
        "----- -----------------  ------- ------------ ---------------------------",
    ]
    for device, address, kind, status, mac in state["ndp"]:
        lines.append(f"{device:<5} {mac:<17}  {kind:<7} {status:<12} {address}")
    return "\n".join(lines), None


def rsrvrctl(argv, state, dummy_machine):
    reservoir = state["reservoir"]
    if argv != ["-q"]:
        raise Refused("Usage: rsrvrctl [-a add] [-r remove] [-q]", 1)
    return "\n".join(f"{name} MiB:\t{size}" for name, size in reservoir.items()), None


def bhyvectl(argv, dummy_state, machine):
    """A pretended propolis-server keeps a file in dev/vmm as long as its machine is in the kernel."""
    if len(argv) != 2 or not argv[0].startswith("--vm=") or argv[1] != "--destroy":
        raise Refused("Usage: bhyvectl --vm=<vmname> --destroy", 1)
    try:
        os.unlink(machine.path("dev", "vmm", argv[0].partition("=")[2]))
    except FileNotFoundError:
        raise Refused("VM:vm could not be opened: No such file or directory") from None
    return "", None


PROGRAMS = {"arp": arp, "ndp": ndp, "rsrvrctl": rsrvrctl, "bhyvectl": bhyvectl}
