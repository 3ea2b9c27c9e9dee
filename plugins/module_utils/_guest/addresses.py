# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The addresses of a guest's network cards: right or absent, never another machine's.

The guest agent, the kernel's table of neighbours and the lease files of DHCP servers tell where to look, and only what
they say of the card's own MAC counts. All of them can be out of date, and the agent can lie; so an address is reported
only if, asked on the link just now, that MAC alone answers for it.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Union

from .._core.errors import InvalidSpec, VmError
from .leases import Lease, read_leases
from .link_probe import Answers, who_has
from .macs import link_local_of, normal_mac
from .neighbours import FRESH, Neighbour, read_neighbours

# Asks the agent within so many seconds for (MAC, addresses) of each card; raises a VmError if it does not answer.
Agent = Callable[[float], Sequence[tuple[str, tuple[str, ...]]]]
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Range = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

PATIENCE = 0.5  # seconds for machines on the link to answer
AGENT_PATIENCE = 0.5
_SWEEP_LIMIT = 256  # addresses; a wider range is not searched one by one
_SWEEP_TRUST = 8  # a machine that answers for more does so for others (proxy ARP)
_SHOWN = 3


@dataclass(frozen=True)
class AddressQuery:
    """Which addresses are wanted: of this card, on this link (any if ``None``), of this kind, in these ranges."""

    mac: str
    bridge: str | None
    ip_version: int | None = None
    ip_ranges: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sighting:
    """An address that a source says the card has. ``rejected`` says why it is not reported."""

    source: str  # agent, console, neighbour, lease or range
    address: str
    state: str = ""
    rejected: str | None = None


@dataclass(frozen=True)
class Report:
    """What was found out about one card: sightings, best first, and remarks on what was seen besides."""

    query: AddressQuery
    sightings: tuple[Sighting, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that the card has, best first."""
        good = (seen.address for seen in self.sightings if seen.rejected is None)
        return tuple(dict.fromkeys(good))

    def explain(self) -> str:
        """Say in one line what was seen."""
        where = "any link" if self.query.bridge is None else self.query.bridge
        told = [
            f"{seen.source} {seen.address} {seen.rejected or 'is good'}"
            for seen in self.sightings
            if seen.source != "range"
        ]
        told = told or [f"nothing seen of it on {where}"]
        return f"{self.query.mac} on {where}: {'; '.join((*told, *self.remarks))}"


@dataclass(frozen=True)
class Evidence:
    """What the sources say, before anything is judged; ``failures`` are those of sources that could not be asked."""

    agent: tuple[tuple[str, tuple[str, ...]], ...] = ()
    console: tuple[tuple[str, tuple[str, ...]], ...] = ()  # what cloud-init printed there
    neighbours: tuple[Neighbour, ...] = ()
    leases: tuple[Lease, ...] = ()
    failures: tuple[str, ...] = ()
    now: float = field(default_factory=time.time)


def find_addresses(
    queries: Sequence[AddressQuery],
    lease_files: Iterable[str] | None = None,
    agent: Agent | None = None,
    patience: float = PATIENCE,
) -> dict[str, tuple[str, ...]]:
    """Return the addresses of each card by its MAC as the query spells it: IPv4 first, then by trust in the source.

    ``lease_files`` are paths or patterns, ``None`` the usual places; ``agent`` belongs to the machine of all the
    queries. Ask for running machines only. Takes at most ``patience`` seconds for each link, and for the agent.
    If nothing is known of a card, ``ip_ranges`` of up to 256 addresses are searched one by one.
    """
    return {
        report.query.mac: report.addresses for report in look(queries, lease_files, agent, patience)
    }


def look(
    queries: Sequence[AddressQuery],
    lease_files: Iterable[str] | None = None,
    agent: Agent | None = None,
    patience: float = PATIENCE,
) -> tuple[Report, ...]:
    """Do the same and return a report for each query."""
    told = _ask(agent, patience)
    evidence = replace(told, leases=read_leases(lease_files))
    by_link: dict[str | None, list[AddressQuery]] = {}
    for query in queries:
        by_link.setdefault(query.bridge, []).append(query)
    reports: dict[AddressQuery, Report] = {}
    for link, asked in by_link.items():
        for report in _look_on(link, asked, _with_neighbours(evidence, link), patience):
            reports[report.query] = report
    return tuple(reports[query] for query in queries)


def collect(query: AddressQuery, evidence: Evidence) -> Report:
    """Return what the evidence says of one card, with all rejected that can be without asking the link."""
    mac = normal_mac(query.mac)
    if mac is None:
        raise InvalidSpec(f"{query.mac!r} is not a MAC address.", option="mac")
    wanted = _ranges(query)
    seen = [
        *(
            Sighting(source, address)
            for source, rows in (("agent", evidence.agent), ("console", evidence.console))
            for of, them in rows
            if normal_mac(of) == mac
            for address in them
        ),
        *(
            Sighting("neighbour", row.address, row.state)
            for row in evidence.neighbours
            if row.mac == mac
        ),
        *_of_leases([lease for lease in evidence.leases if lease.mac == mac], evidence.now),
    ]
    judged = (
        sighting
        if sighting.rejected
        else replace(sighting, rejected=_unfit(sighting.address, query, wanted))
        for sighting in seen
    )
    remarks = (*evidence.failures, *_remark_others(mac, query, evidence.neighbours))
    return Report(query, tuple(sorted(dict.fromkeys(judged), key=_trust)), remarks)


def confirm(report: Report, answers: Answers) -> Report:
    """Return the report with all rejected for which the card's MAC, and it alone, did not answer."""
    mac = normal_mac(report.query.mac) or ""
    swept = [
        seen
        for seen in report.sightings
        if seen.source == "range" and answers.get(seen.address) == frozenset((mac,))
    ]
    for_others = len(swept) > _SWEEP_TRUST
    sightings = []
    for seen in report.sightings:
        reason = seen.rejected or _doubt(seen, mac, answers.get(seen.address))
        if seen.source == "range" and for_others:
            reason = "is answered for by a machine that answers for many"
        sightings.append(replace(seen, rejected=reason))
    return replace(report, sightings=tuple(sightings))


def tell_life(report: Report, patience: float = PATIENCE) -> Report:
    """Return the report with a remark if the card answers at the link-local address that its MAC gives it.

    That says of a card without an address whether its guest is up. Silence says nothing: many guests hide their MAC.
    """
    query, mac = report.query, normal_mac(report.query.mac)
    if query.bridge is None or mac is None or report.addresses:
        return report
    address = link_local_of(mac)
    if mac not in (who_has(query.bridge, [address], patience)[address] or ()):
        return report
    remark = (
        f"it answers at {address}%{query.bridge}, so the guest is up but has told no other address"
    )
    return replace(report, remarks=(*report.remarks, remark))


def _ask(agent: Agent | None, patience: float) -> Evidence:
    if agent is None:
        return Evidence()
    try:
        return Evidence(agent=tuple(agent(min(patience, AGENT_PATIENCE))))
    except VmError as exc:
        return Evidence(failures=(exc.message.rstrip("."),))


def _with_neighbours(evidence: Evidence, link: str | None) -> Evidence:
    try:
        return replace(evidence, neighbours=read_neighbours(link))
    except VmError as exc:
        return replace(evidence, failures=(*evidence.failures, exc.message.strip().rstrip(".")))


def _look_on(
    link: str | None, queries: Sequence[AddressQuery], evidence: Evidence, patience: float
) -> list[Report]:
    reports = [_widened(collect(query, evidence)) for query in queries]
    open_questions = {
        seen.address for report in reports for seen in report.sightings if seen.rejected is None
    }
    answers: dict[str, frozenset[str] | None] = {}
    for each, addresses in _links(link, sorted(open_questions), evidence.neighbours).items():
        answers.update(who_has(each, addresses, patience))
    return [confirm(report, answers) for report in reports]


def _links(
    link: str | None, addresses: Sequence[str], neighbours: Sequence[Neighbour]
) -> Mapping[str, list[str]]:
    """Return what to ask on which link: if the query leaves it open, where the kernel has seen the address."""
    if link is not None:
        return {link: list(addresses)} if addresses else {}
    by_link: dict[str, list[str]] = {}
    for row in neighbours:
        if row.link is not None and row.address in addresses:
            by_link.setdefault(row.link, []).append(row.address)
    return by_link


def _widened(report: Report) -> Report:
    """If nothing else is left, add what the wanted ranges make likely: a static address is in no table."""
    if any(seen.rejected is None for seen in report.sightings) or report.query.bridge is None:
        return report
    ranges = _ranges(report.query)
    swept = (
        Sighting("range", address)
        for address in dict.fromkeys(_guesses(report.query, ranges))
        if _unfit(address, report.query, ranges) is None
    )
    return replace(report, sightings=(*report.sightings, *swept))


def _guesses(query: AddressQuery, ranges: Sequence[Range]) -> Iterator[str]:
    """Yield all addresses of ranges that are small, and the one that a card makes of its MAC in an IPv6 network."""
    small = [net for net in ranges if net.num_addresses <= _SWEEP_LIMIT]
    if sum(net.num_addresses for net in small) <= _SWEEP_LIMIT:
        for net in small:
            yield from (str(host) for host in net.hosts())
    suffix = int(ipaddress.IPv6Address(link_local_of(normal_mac(query.mac) or query.mac)))
    for net in ranges:
        if net.version == 6 and net.prefixlen == 64:
            yield str(net[suffix & (2**64 - 1)])


def _of_leases(leases: Sequence[Lease], now: float) -> Iterable[Sighting]:
    """Of each IP version the lease that ends last counts, wherever in the files it stands."""
    best: dict[bool, Lease] = {}
    for lease in sorted(leases, key=lambda lease: lease.age_order):
        best[":" in lease.address] = lease
    for lease in leases:
        newest = best[":" in lease.address]
        reason = None
        if lease.expires is not None and not lease.lives(now):
            reason = f"expired {_span(now - lease.expires)} ago"
        elif lease.address != newest.address:
            reason = f"is older than that of {newest.address}"
        yield Sighting("lease", lease.address, "", reason)


def _unfit(
    address: str,
    query: AddressQuery,
    wanted: Sequence[Range],
) -> str | None:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "is no address"
    kind = _useless_kind(parsed)
    if kind is not None:
        return f"is {kind}"
    if query.ip_version is not None and parsed.version != query.ip_version:
        return f"is not of IP version {query.ip_version}"
    if wanted and not any(parsed in net for net in wanted):
        return f"is outside {', '.join(query.ip_ranges)}"
    return None


def _useless_kind(address: Address) -> str | None:
    kinds = ("loopback", "link_local", "multicast", "unspecified")
    for kind in kinds:
        if getattr(address, f"is_{kind}"):
            return kind.replace("_", "-")
    if address.version == 4 and (
        address == ipaddress.IPv4Address("255.255.255.255") or address in _THIS_NETWORK
    ):
        return "no host's"
    return "an IPv4 address in disguise" if getattr(address, "ipv4_mapped", None) else None


_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")


def _ranges(query: AddressQuery) -> list[Range]:
    try:
        return [ipaddress.ip_network(text, strict=False) for text in query.ip_ranges]
    except ValueError as exc:
        raise InvalidSpec(
            f"ip_range: {exc}.",
            "Give ranges such as 192.168.0.0/16 or 2001:db8::/32.",
            option="ip_range",
        ) from exc


def _doubt(seen: Sighting, mac: str, answer: frozenset[str] | None) -> str | None:
    """Say why the address is not the card's, given who answers for it: somebody, nobody, or not known."""
    if answer is None:
        trusted = seen.source == "agent" or seen.state in ("PERMANENT", "REACHABLE")
        return None if trusted else "could not be verified"
    if mac in answer:
        others = ", ".join(sorted(answer - {mac}))
        return f"is claimed by {others} too" if others else None
    if answer:
        return f"belongs to {', '.join(sorted(answer))}"
    return "is not answered for now"


def _trust(seen: Sighting) -> tuple[bool, int]:
    rank = {"agent": 0, "lease": 2, "range": 4}.get(seen.source)
    if rank is None:
        rank = 1 if seen.state in FRESH else 3
    return ":" in seen.address, rank


def _remark_others(mac: str, query: AddressQuery, neighbours: Sequence[Neighbour]) -> list[str]:
    wanted = _ranges(query)
    others = [
        row.address
        for row in neighbours
        if row.mac != mac and _unfit(row.address, query, wanted) is None
    ]
    remarks = [f"neighbour {address} has another MAC" for address in others[:_SHOWN]]
    if len(others) > _SHOWN:
        remarks.append(f"so have {len(others) - _SHOWN} more")
    return remarks


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
