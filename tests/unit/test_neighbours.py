# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's neighbours as ip prints them."""

from __future__ import annotations

import json

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.neighbours import (
    Neighbour,
    parse_neighbours,
)

A = "52:54:00:aa:00:01"


def row(address="192.168.77.50", mac=A, state="REACHABLE", **more):
    return {"dst": address, "lladdr": mac, "state": [state], **more}


@pytest.mark.parametrize("state", ["PERMANENT", "REACHABLE", "DELAY", "PROBE", "STALE"])
def test_states_that_name_a_mac(state):
    rows = [row("192.168.77.50", state=state), row("fd00:77::0050", A.upper(), state, router=None)]

    assert parse_neighbours(json.dumps(rows), "br0") == (
        Neighbour("192.168.77.50", A, state, "br0"),
        Neighbour("fd00:77::50", A, state, "br0"),
    )


def test_rows_of_all_links_name_theirs():
    rows = [row(dev="br0"), row(dev="br1")]

    assert [found.link for found in parse_neighbours(json.dumps(rows))] == ["br0", "br1"]


@pytest.mark.parametrize(
    "bad",
    [
        {"dst": "192.168.77.60", "state": ["FAILED"]},
        {"dst": "192.168.77.60", "state": ["INCOMPLETE"]},
        row(state="FAILED"),
        row(state="NOARP"),
        row(state="reachable"),
        {"dst": "192.168.77.60", "lladdr": A},
        {"dst": "192.168.77.60", "lladdr": A, "state": "REACHABLE"},
        {"lladdr": A, "state": ["REACHABLE"]},
        row(address="192.168.77"),
        row(address=3232255282),
        row(address="192.168.77.50\n"),
        row(mac="01:02"),
        row(mac=None),
        row(dev=5),
        [],
        None,
        "x" * 100_000,
    ],
    ids=lambda bad: repr(bad)[:70],
)
def test_rows_that_tell_nothing_are_left_out(bad):
    found = parse_neighbours(json.dumps([bad, row("192.168.77.51"), bad]), "br0")

    assert [each.address for each in found] == ["192.168.77.51"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "5", "null", "[{", "[" * 100_000, "\x00"])
def test_output_without_rows(text):
    assert parse_neighbours(text) == ()


def test_flood_of_rows_is_bounded():
    assert len(parse_neighbours(json.dumps([row()] * 20_000))) == 10_000
