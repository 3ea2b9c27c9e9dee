# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Addresses that cloud-init printed on a guest's serial console, by the MAC address of the card. Pure.

At the end of its network stage cloud-init prints a table of which each line begins with ``ci-info:``. Its columns are
device, up, address, mask, scope and hardware address; another table, of routes, has as many columns and no MAC.
"""

from __future__ import annotations

import ipaddress

from .._guest.macs import normal_mac

_MARK = "ci-info:"
_TITLE = "Net device info"
_COLUMNS = 6
_LIMIT = 64  # addresses: the guest says what it likes


def addresses_on_console(data: bytes) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the global addresses of each card, as the latest table has them, in the order of its rows.

    Loopback and link-local addresses are left out, and so are cards that are down.
    """
    found: dict[str, list[str]] = {}
    for line in data.decode(errors="replace").splitlines():
        _before, mark, row = line.partition(_MARK)
        if mark and _TITLE in row:
            found = {}  # another boot
        card = _card(row) if mark else None
        if card is not None and sum(map(len, found.values())) < _LIMIT:
            mac, address = card
            found.setdefault(mac, []).append(address)
    return tuple((mac, tuple(dict.fromkeys(addresses))) for mac, addresses in found.items())


def _card(row: str) -> tuple[str, str] | None:
    cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
    if len(cells) != _COLUMNS:
        return None
    _device, is_up, text, _mask, scope, hardware = cells
    mac = normal_mac(hardware)
    if mac is None or is_up != "True" or scope != "global":
        return None
    try:
        address = ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        return None
    usable = not (address.is_loopback or address.is_link_local or address.is_unspecified)
    return (mac, str(address)) if usable and not address.is_multicast else None
