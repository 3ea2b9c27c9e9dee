# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whom an illumos host knows on its links: its tables of ARP and of IPv6 neighbours."""

from __future__ import annotations

import ipaddress

from .._guest.neighbours import FRESH, STALE, Neighbour
from .._host.commands import run
from .parsable import padded_mac

_LIMIT = 10_000  # rows


def read_arp(timeout: float = 2.0) -> tuple[Neighbour, ...]:
    """Return the rows of the table of ARP; ``timeout`` is in seconds."""
    return parse_arp(run(["arp", "-an"], timeout=timeout).stdout)


def read_ndp(timeout: float = 2.0) -> tuple[Neighbour, ...]:
    """Return the rows of the table of IPv6 neighbours; ``timeout`` is in seconds."""
    return parse_ndp(run(["ndp", "-an"], timeout=timeout).stdout)


def parse_arp(text: str) -> tuple[Neighbour, ...]:
    """Read what ``arp -an`` prints: device, address, mask, flags that may be missing, MAC.

    Its rows tell nothing of their age, so they count as stale. The host's own addresses are left out.
    """
    found = []
    for words in _rows(text):
        flags = words[3] if len(words) == 5 else ""
        if len(words) in (4, 5) and not set(flags) & set("LU"):  # local, unresolved
            found.append(_neighbour(words[1], words[-1], STALE, words[0]))
    return tuple(row for row in found if row is not None)


def parse_ndp(text: str) -> tuple[Neighbour, ...]:
    """Read what ``ndp -an`` prints: device, MAC, type, state, address. The host's own and groups are left out."""
    found = []
    for words in _rows(text):
        if len(words) == 5 and words[2] not in ("local", "other"):
            state = words[3] if words[3] in FRESH else STALE
            address = words[4].partition("/")[0]
            found.append(_neighbour(address, words[1], state, words[0]))
    return tuple(row for row in found if row is not None)


def _rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[:_LIMIT]]


def _neighbour(address: str, mac: str, state: str, link: str) -> Neighbour | None:
    known = padded_mac(mac)
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (
        None if known is None or parsed.is_multicast else Neighbour(str(parsed), known, state, link)
    )
