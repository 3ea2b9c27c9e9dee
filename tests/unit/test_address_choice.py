# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses are a card's, decided from tables of evidence and of answers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import InvalidSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.addresses import (
    AddressQuery,
    Evidence,
    Report,
    Sighting,
    collect,
    confirm,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.leases import Lease
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.neighbours import (
    Neighbour,
)

A, B = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
NOW = 1_763_900_000.0
ASK = AddressQuery(A, "br0")


def row(address, mac=A, state="REACHABLE"):
    return Neighbour(address, mac, state, "br0")


def lease(address, mac=A, expires=NOW + 60):
    return Lease(address, mac, expires, "leases")


def evidence(*facts, agent=()):
    return Evidence(
        agent=agent,
        neighbours=tuple(fact for fact in facts if isinstance(fact, Neighbour)),
        leases=tuple(fact for fact in facts if isinstance(fact, Lease)),
        now=NOW,
    )


def judge(query, found, answers):
    return confirm(collect(query, found), {k: v and frozenset(v) for k, v in answers.items()})


@pytest.mark.parametrize(
    "found",
    [
        evidence(row("192.0.2.5")),
        evidence(row("192.0.2.5", state="STALE")),
        evidence(lease("192.0.2.5")),
        evidence(lease("192.0.2.5", expires=None)),
        evidence(agent=((A.upper(), ("192.0.2.5",)),)),
    ],
    ids=["neighbour", "stale neighbour", "lease", "endless lease", "agent"],
)
@pytest.mark.parametrize(
    ("answer", "expected", "reason"),
    [
        ({A}, ("192.0.2.5",), "is good"),
        ({B}, (), f"belongs to {B}"),
        ({A, B}, (), f"is claimed by {B} too"),
        (set(), (), "is not answered for now"),
    ],
    ids=["ours", "another's", "contested", "silence"],
)
def test_an_address_counts_only_if_its_card_alone_answers(found, answer, expected, reason):
    report = judge(ASK, found, {"192.0.2.5": answer})

    assert report.addresses == expected
    assert f"192.0.2.5 {reason}" in report.explain()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (evidence(agent=((A, ("192.0.2.5",)),)), ("192.0.2.5",)),
        (evidence(row("192.0.2.5")), ("192.0.2.5",)),
        (evidence(row("192.0.2.5", state="PERMANENT")), ("192.0.2.5",)),
        (evidence(row("192.0.2.5", state="DELAY")), ()),
        (evidence(row("192.0.2.5", state="PROBE")), ()),
        (evidence(row("192.0.2.5", state="STALE")), ()),
        (evidence(lease("192.0.2.5")), ()),
    ],
    ids=["agent", "reachable", "permanent", "delay", "probe", "stale", "lease"],
)
def test_where_the_link_cannot_be_asked_only_sure_sources_count(found, expected):
    assert judge(ASK, found, {"192.0.2.5": None}).addresses == expected


@pytest.mark.parametrize("mac", [A, A.upper(), A.replace(":", "-")])
def test_only_the_cards_own_mac_counts(mac):
    found = evidence(
        row("192.0.2.5", B),
        lease("192.0.2.6", B),
        row("192.0.2.7"),
        agent=((B, ("192.0.2.8",)),),
    )

    report = collect(AddressQuery(mac, "br0"), found)

    assert [seen.address for seen in report.sightings] == ["192.0.2.7"]
    assert report.remarks == ("neighbour 192.0.2.5 has another MAC",)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("169.254.3.4", "link-local"),
        ("fe80::5054:ff:feaa:1", "link-local"),
        ("224.0.0.251", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("255.255.255.255", "no host's"),
        ("0.1.2.3", "no host's"),
        ("::ffff:127.0.0.1", "an IPv4 address in disguise"),
    ],
)
def test_useless_addresses_are_never_told(address, kind):
    found = evidence(row(address), lease(address), agent=((A, (address,)),))

    report = judge(ASK, found, {address: {A}})

    assert report.addresses == ()
    assert {seen.rejected for seen in report.sightings} == {f"is {kind}"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("10.0.0.5", "192.0.2.5", "2001:db8::5")),
        ({"ip_version": 4}, ("10.0.0.5", "192.0.2.5")),
        ({"ip_version": 6}, ("2001:db8::5",)),
        ({"ip_ranges": ("192.0.2.0/24",)}, ("192.0.2.5",)),
        ({"ip_ranges": ("192.0.2.9/24", "2001:db8::/32")}, ("192.0.2.5", "2001:db8::5")),
        ({"ip_ranges": ("192.0.2.5",)}, ("192.0.2.5",)),
        ({"ip_ranges": ("172.16.0.0/12",)}, ()),
        ({"ip_version": 6, "ip_ranges": ("192.0.2.0/24",)}, ()),
    ],
)
def test_version_and_ranges(options, expected):
    addresses = ("10.0.0.5", "192.0.2.5", "2001:db8::5")
    found = evidence(*(row(address) for address in addresses))

    report = judge(replace(ASK, **options), found, {address: {A} for address in addresses})

    assert report.addresses == expected


def test_best_first():
    found = evidence(
        row("192.0.2.4", state="STALE"),
        lease("192.0.2.3"),
        row("192.0.2.2"),
        row("2001:db8::2"),
        agent=((A, ("2001:db8::1", "192.0.2.1", "192.0.2.2")),),
    )
    answers = {seen.address: {A} for seen in collect(ASK, found).sightings}

    assert judge(ASK, found, answers).addresses == (
        *("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"),
        *("2001:db8::1", "2001:db8::2"),
    )


LEASES = (
    lease("192.0.2.1", expires=NOW + 10),
    lease("192.0.2.2", expires=NOW + 3600),
    lease("192.0.2.3", expires=NOW - 200),
    lease("192.0.2.4", B, expires=NOW + 9999),
    lease("2001:db8::9", expires=NOW + 5),
)


@pytest.mark.parametrize("leases", list(itertools.permutations(LEASES)), ids=lambda _leases: "")
def test_the_lease_that_ends_last_counts_wherever_it_stands(leases):
    report = collect(ASK, evidence(*leases))

    verdicts = {seen.address: seen.rejected for seen in report.sightings}
    assert verdicts == {
        "192.0.2.1": "is older than that of 192.0.2.2",
        "192.0.2.2": None,
        "192.0.2.3": "expired 3 min ago",
        "2001:db8::9": None,
    }


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (3 * 86400, "3 d")],
)
def test_expired_lease_says_since_when(seconds, words):
    report = collect(ASK, evidence(lease("192.0.2.3", expires=NOW - seconds)))

    assert report.explain() == f"{A} on br0: lease 192.0.2.3 expired {words} ago"


def test_nothing_seen():
    others = [row(f"192.0.2.{number}", B) for number in range(1, 10)]

    assert collect(ASK, evidence()).explain() == f"{A} on br0: nothing seen of it on br0"
    assert collect(ASK, evidence(*others)).explain() == (
        f"{A} on br0: nothing seen of it on br0; neighbour 192.0.2.1 has another MAC; "
        "neighbour 192.0.2.2 has another MAC; neighbour 192.0.2.3 has another MAC; so have 6 more"
    )


def test_machine_that_answers_for_a_whole_range_has_none_of_it():
    swept = tuple(Sighting("range", f"192.0.2.{number}") for number in range(1, 20))
    answers = {seen.address: frozenset((A,)) for seen in swept}
    one = {**dict.fromkeys(answers, frozenset()), "192.0.2.7": frozenset((A,))}

    assert confirm(Report(ASK, swept), answers).addresses == ()
    assert confirm(Report(ASK, swept), one).addresses == ("192.0.2.7",)


@pytest.mark.parametrize(
    "query",
    [
        AddressQuery("52:54:00", "br0"),
        AddressQuery("", "br0"),
        AddressQuery(A, "br0", ip_ranges=("192.0.2.0/33",)),
        AddressQuery(A, "br0", ip_ranges=("all",)),
    ],
)
def test_queries_without_sense_are_refused(query):
    with pytest.raises(InvalidSpec):
        collect(query, evidence())


@pytest.mark.parametrize("address", ["", "x", "192.0.2.5%eth0", "192.0.2.5\n", "1" * 10_000])
def test_agents_junk_is_no_address(address):
    report = judge(ASK, evidence(agent=((A, (address,)),)), {})

    assert report.addresses == ()
