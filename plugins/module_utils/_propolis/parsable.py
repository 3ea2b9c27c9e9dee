# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What illumos programs print for other programs, and the names that illumos gives things. Pure."""

from __future__ import annotations

import re

LONGEST_LINK = 31
_OCTETS = re.compile(r"[0-9A-Fa-f]{1,2}(?::[0-9A-Fa-f]{1,2}){5}", re.ASCII)
_UNSAFE = re.compile(r"[^A-Za-z0-9]+", re.ASCII)


def split_parsable(line: str) -> list[str]:
    """Split a line of ``dladm -p``, ``ipadm -p`` or ``zoneadm list -p`` at its colons; a backslash escapes one.

    With a single field dladm escapes nothing: take such a line as it is.
    """
    fields, field, escaped = [], "", False
    for char in line.rstrip("\n"):
        if escaped:
            field, escaped = field + char, False
        elif char == "\\":
            escaped = True
        elif char == ":":
            fields.append(field)
            field = ""
        else:
            field += char
    return [*fields, field]


def padded_mac(text: str) -> str | None:
    """Return a MAC address in lower case with two digits in each octet, which dladm leaves out; ``None`` if it is none."""
    if not _OCTETS.fullmatch(text):
        return None
    return ":".join(f"{int(octet, 16):02x}" for octet in text.split(":"))


def vnic_name(vm_name: str, vm_uuid: str, index: int) -> str:
    """Return the link name of a machine's card: it ends in ``index`` and differs from those of all other machines.

    A link name has letters, digits and underscores, begins with a letter, and ends in a number without leading zeros
    (dladm(8)).
    """
    tail = f"_{vm_uuid[:8]}n{index}"
    return _beginning(vm_name, "_", LONGEST_LINK - len(tail)) + tail


def service_instance(vm_name: str, vm_uuid: str) -> str:
    """Return the name of a machine's SMF instance: a letter, then letters, digits and dashes."""
    return f"{_beginning(vm_name, '-', 63)}-{vm_uuid[:8]}"


def zone_name(vm_name: str, vm_uuid: str) -> str:
    """Return the name of a machine's zone: at most 63 letters, digits and dashes (zonecfg(8))."""
    return f"vm-{_UNSAFE.sub('-', vm_name)[:50]}-{vm_uuid[:8]}"


def _beginning(vm_name: str, filler: str, length: int) -> str:
    safe = _UNSAFE.sub(filler, vm_name)
    return (safe if safe[:1].isalpha() else f"v{safe}")[:length]
