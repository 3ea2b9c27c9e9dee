# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cards on a bridge that come to a running guest and go again."""

from __future__ import annotations

import os

import pytest
from conftest import in_guest, wait_until
from lan import Lan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network namespace")


def cards_in_guest(vm: dict, lan: Lan) -> dict[str, str]:
    """Return the names that the guest gave its interfaces, by their MAC addresses."""
    files = in_guest(vm, "cd /sys/class/net && grep . */address", lan.prefix).split()
    cards = (file.split("/address:") for file in files)
    return {mac: name for name, mac in cards}


def test_cards_on_a_bridge_come_and_go_while_the_guest_runs(on_lan, lan):
    first = on_lan.vm(wait_for="ssh")["vm"]
    user = {"type": "user"}
    cards = [{"type": "bridge", "name": name, "bridge": "br0"} for name in ("a", "b")]

    both = on_lan.vm(networks=[user, *cards])
    assert both["actions"] == ["prepare", "change"]
    ends = lan.ports()
    assert len(ends) == 2
    macs = [card["mac"] for card in both["vm"]["networks"][1:]]
    # Which of two cards that come at once is found first is up to the guest's kernel.
    wait_until(lambda: set(macs) <= set(cards_in_guest(first, lan)))
    second = cards_in_guest(first, lan)[macs[1]]

    dhcp = f"ip link set {second} up && udhcpc -q -n -t 10 -T 1 -i {second} -s /lib/smoke/dhcp"
    in_guest(first, f"sudo sh -c '{dhcp}' 2>&1", lan.prefix)
    one = on_lan.vm(networks=[user, cards[1]])
    assert one["vm"]["pid"] == first["pid"]
    assert lan.ports() == ends[1:]
    (address,) = one["vm"]["networks"][1]["ip_addresses"]
    assert address.startswith("192.168.77.")
    wait_until(lambda: set(cards_in_guest(first, lan).values()) == {"eth0", second, "lo"})

    # The name of the host's end that became free is used again; the one that stayed keeps its own.
    again = on_lan.vm(networks=[user, cards[1], cards[0]])
    assert again["vm"]["pid"] == first["pid"]
    assert sorted(lan.ports()) == sorted(ends)
    assert on_lan.vm(networks=[user])["changed"]
    assert lan.ports() == []
