# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel knows of the neighbours on a link. A row outlives the machine that it was learned from."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass

from .._host.commands import run
from .macs import normal_mac

FRESH = ("PERMANENT", "REACHABLE", "DELAY", "PROBE")
STALE = "STALE"
_LIMIT = 10_000  # rows; the kernel keeps about a thousand


@dataclass(frozen=True)
class Neighbour:
    """One row: who was last known to have an address, and how sure the kernel is of it."""

    address: str
    mac: str
    state: str
    link: str | None = None


def read_neighbours(link: str | None, timeout: float = 2.0) -> tuple[Neighbour, ...]:
    """Return the rows of ``link``, or of all links; raise ``CommandFailed`` if there is no such link."""
    device = [] if link is None else ["dev", link]
    done = run(["ip", "-json", "neighbour", "show", *device], timeout=timeout)
    return parse_neighbours(done.stdout, link)


def parse_neighbours(text: str, link: str | None = None) -> tuple[Neighbour, ...]:
    """Read what ``ip -json neighbour`` printed; leave out rows without a MAC, such as failed ones."""
    try:
        rows = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return ()
    if not isinstance(rows, list):
        return ()
    found = (_neighbour(row, link) for row in rows[:_LIMIT])
    return tuple(row for row in found if row is not None)


def _neighbour(row: object, link: str | None) -> Neighbour | None:
    if not isinstance(row, dict):
        return None
    mac, states, device = normal_mac(row.get("lladdr")), row.get("state"), row.get("dev", link)
    if mac is None or not isinstance(states, list) or not isinstance(row.get("dst"), str):
        return None
    state = next((word for word in (*FRESH, STALE) if word in states), None)
    if state is None or not isinstance(device, (str, type(None))):
        return None
    try:
        address = ipaddress.ip_address(row["dst"])
    except ValueError:
        return None
    return Neighbour(str(address), mac, state, device)
