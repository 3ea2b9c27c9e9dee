# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""MAC addresses in one spelling, and where IPv6 hides them."""

from __future__ import annotations

import re

_MAC = re.compile(r"[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}", re.ASCII)
_OCTETS = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2})+", re.ASCII)
_ETHERNET = "00:01"
_DUID_LLT, _DUID_LL = "00:01", "00:03"  # RFC 8415, 11.2 and 11.4: with and without a time


def normal_mac(text: object) -> str | None:
    """Return an Ethernet address in lower case with colons, or ``None`` if the text is none."""
    if not isinstance(text, str):
        return None
    text = text.lower()
    return text.replace("-", ":") if _MAC.fullmatch(text) else None


def mac_of_duid(duid: object) -> str | None:
    """Return the Ethernet address inside a DHCPv6 client identifier; ``None`` if it is of a kind without one."""
    if not isinstance(duid, str) or not _OCTETS.fullmatch(duid.lower()):
        return None
    octets = duid.lower().split(":")
    kind, hardware = ":".join(octets[:2]), ":".join(octets[2:4])
    start = {_DUID_LLT: 8, _DUID_LL: 4}.get(kind)
    if start is None or hardware != _ETHERNET or len(octets) != start + 6:
        return None
    return ":".join(octets[start:])


def link_local_of(mac: str) -> str:
    """Return the IPv6 address that a card with this (normal) MAC gives itself where privacy does not forbid it."""
    octets = [int(octet, 16) for octet in mac.split(":")]
    octets[0] ^= 2  # RFC 4291, appendix A
    high, low = octets[:3], octets[3:]
    full = [*high, 0xFF, 0xFE, *low]
    groups = [f"{full[i] << 8 | full[i + 1]:x}" for i in range(0, 8, 2)]
    return "fe80::" + ":".join(groups)
