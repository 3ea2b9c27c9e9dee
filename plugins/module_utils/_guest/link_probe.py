# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks a link who has an address, and takes the answers at their MAC.

The kernel's own tables cannot tell: they name for up to a minute, or for ever, who had an address before. So this
speaks ARP and IPv6 neighbour discovery itself, which leaves no rows behind. Where the right to do so (CAP_NET_RAW) is
missing, a datagram makes the kernel ask, which takes it longer and is less sure.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import select
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

from .._core.errors import VmError
from .macs import normal_mac
from .neighbours import read_neighbours

# Per address: the MACs that answer for it, none if all is silent, or None if nothing can be said.
Answers = Mapping[str, "frozenset[str] | None"]

_GRACE = 0.02  # seconds in which a second machine can contradict the first
_TICK = 0.05  # seconds between two looks at the kernel's table
_ARP, _IPV4, _ETHERNET = 0x0806, 0x0800, 1
_ARP_PACKET = struct.Struct("!HHBBH6s4s6s4s")
_SOLICITATION, _ADVERTISEMENT = 135, 136  # RFC 4861, 4.3 and 4.4
_SOURCE_MAC, _TARGET_MAC = 1, 2
_ONLY_ON_LINK = 255  # the hop limit that no router lets through
_DISCARD = 9
_PACKETS = 256  # that are taken before the clock is looked at


def who_has(link: str, addresses: Sequence[str], patience: float) -> Answers:
    """Return who answers for each address on ``link`` within ``patience`` seconds, at once when all have answered."""
    answers: dict[str, frozenset[str] | None] = dict.fromkeys(addresses)
    with contextlib.ExitStack() as stack:
        askers: list[_Asker] = []
        for kind, asked in _by_protocol(addresses):
            try:
                askers.append(stack.enter_context(kind(link, asked)))
            except PermissionError:
                return _let_the_kernel_ask(link, addresses, patience)
            except OSError:  # no such link, or a host without IPv6
                continue
        _converse(askers, patience)
        for asker in askers:
            answers.update(asker.answers())
    return answers


def _by_protocol(addresses: Sequence[str]) -> Iterator[tuple[_MakeAsker, list[str]]]:
    for version, kind in ((4, _Arp), (6, _Discovery)):
        asked = [text for text in addresses if ipaddress.ip_address(text).version == version]
        if asked:
            yield kind, asked


class _Asker(ABC):
    """A socket on a link, what is asked over it, and who has answered."""

    def __init__(self, sock: socket.socket, link: str, addresses: Sequence[str]) -> None:
        self.sock = sock
        self.link = link
        self.heard: dict[str, set[str]] = {address: set() for address in addresses}
        self.unaskable: set[str] = set()
        sock.setblocking(False)

    def __enter__(self) -> _Asker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    @property
    def pending(self) -> list[str]:
        """What nobody has answered for yet."""
        return [
            address
            for address, macs in self.heard.items()
            if not macs and address not in self.unaskable
        ]

    def ask(self) -> None:
        """Ask for all that is pending."""
        for address in self.pending:
            try:
                self.request(address)
            except BlockingIOError:
                return
            except OSError:
                self.unaskable.add(address)

    def listen(self) -> None:
        """Take what has arrived, but not a flood of it."""
        with contextlib.suppress(BlockingIOError):
            for dummy_packet in range(_PACKETS):
                answer = self.receive()
                if answer is not None and answer[0] in self.heard:
                    self.heard[answer[0]].add(answer[1])

    def answers(self) -> Answers:
        """Return the MACs by address."""
        return {
            address: None if address in self.unaskable else frozenset(macs)
            for address, macs in self.heard.items()
        }

    @abstractmethod
    def request(self, address: str) -> None:
        """Send one question."""

    @abstractmethod
    def receive(self) -> tuple[str, str] | None:
        """Return the address and the MAC that one packet tells, if it tells any."""


_MakeAsker = Callable[[str, Sequence[str]], _Asker]


class _Arp(_Asker):
    """Asks for IPv4 addresses (RFC 826)."""

    def __init__(self, link: str, addresses: Sequence[str]) -> None:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ARP))
        super().__init__(sock, link, addresses)
        with _closing_on_error(sock):
            sock.bind((link, _ARP))
            self.mac: bytes = sock.getsockname()[4]

    def request(self, address: str) -> None:
        # An empty source would look like a machine that tries the address out, and make the guest give it up.
        source = socket.inet_aton(_source(self.link, socket.AF_INET, address))
        target = socket.inet_aton(address)
        packet = _ARP_PACKET.pack(_ETHERNET, _IPV4, 6, 4, 1, self.mac, source, bytes(6), target)
        self.sock.sendto(packet, (self.link, _ARP, 0, 0, b"\xff" * 6))

    def receive(self) -> tuple[str, str] | None:
        packet, origin = self.sock.recvfrom(2048)
        if len(packet) < _ARP_PACKET.size:
            return None
        kind, protocol, hard, soft, dummy_op, mac, source = _ARP_PACKET.unpack_from(packet)[:7]
        known = (kind, protocol, hard, soft) == (_ETHERNET, _IPV4, 6, 4)
        if not known or origin[4] != mac:
            return None
        return socket.inet_ntoa(source), _shown(mac)


class _Discovery(_Asker):
    """Asks for IPv6 addresses (RFC 4861)."""

    def __init__(self, link: str, addresses: Sequence[str]) -> None:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        super().__init__(sock, link, addresses)
        with _closing_on_error(sock):
            self.index = socket.if_nametoindex(link)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _ONLY_ON_LINK)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            self.mac = _mac_of(link)

    def request(self, address: str) -> None:
        target = socket.inet_pton(socket.AF_INET6, address)
        group = socket.inet_ntop(
            socket.AF_INET6, bytes.fromhex("ff0200000000000000000001ff") + target[13:]
        )
        packet = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + target
        packet += bytes((_SOURCE_MAC, 1)) + self.mac
        self.sock.sendto(packet, (group, 0, 0, self.index))

    def receive(self) -> tuple[str, str] | None:
        packet, extras, dummy_flags, dummy_origin = self.sock.recvmsg(2048, 256)
        hops = [
            struct.unpack("@i", data)[0]
            for level, kind, data in extras
            if (level, kind, len(data)) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, 4)
        ]
        if len(packet) < 24 or packet[0] != _ADVERTISEMENT or hops != [_ONLY_ON_LINK]:
            return None
        mac = _option(packet[24:], _TARGET_MAC)
        if mac is None:
            return None
        return socket.inet_ntop(socket.AF_INET6, packet[8:24]), _shown(mac)


def _converse(askers: Sequence[_Asker], patience: float) -> None:
    """Ask twice, since a packet may be lost, and listen until all have answered or patience ends."""
    start = time.monotonic()
    for moment in (start + patience / 2, start + patience):
        for asker in askers:
            asker.ask()
        if _listen(askers, moment):
            break
    if any(macs for asker in askers for macs in asker.heard.values()):
        _listen(askers, time.monotonic() + _GRACE, until_all=False)


def _listen(askers: Sequence[_Asker], moment: float, until_all: bool = True) -> bool:
    by_fd = {asker.sock.fileno(): asker for asker in askers}
    poll = select.poll()
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    while True:
        if until_all and not any(asker.pending for asker in askers):
            return True
        left = moment - time.monotonic()
        if left <= 0:
            return False
        for fd, dummy_event in poll.poll(left * 1000):
            try:
                by_fd[fd].listen()
            except OSError:  # the link went down or away
                poll.unregister(fd)


def _let_the_kernel_ask(link: str, addresses: Sequence[str], patience: float) -> Answers:
    end = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        pokes = {
            address: poke
            for address in addresses
            if (poke := _poke(stack, link, address)) is not None
        }
        refused: set[str] = set()
        while True:
            refused |= {address for address, poke in pokes.items() if _refuses(poke)}
            answers = _judge_rows(link, addresses, refused)
            left = end - time.monotonic()
            if left <= 0 or all(answers.values()):
                return answers
            time.sleep(min(left, _TICK))


def _judge_rows(link: str, addresses: Sequence[str], refused: set[str]) -> Answers:
    """A row proves something if it is fresh, or if its machine has just refused our datagram."""
    try:
        rows = {row.address: row for row in read_neighbours(link)}
    except VmError:
        return dict.fromkeys(addresses)
    answers: dict[str, frozenset[str] | None] = {}
    for address in addresses:
        row = rows.get(address)
        if row is None:
            answers[address] = frozenset()
        else:
            proven = row.state == "REACHABLE" or address in refused
            answers[address] = frozenset((row.mac,)) if proven else None
    return answers


def _poke(stack: contextlib.ExitStack, link: str, address: str) -> socket.socket | None:
    """Send a datagram to where nothing listens; return the socket that hears of the refusal."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        sock.connect((address, _DISCARD))
        sock.send(b"")
    except OSError:
        return None
    return sock


def _refuses(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def _source(link: str, family: socket.AddressFamily, address: str) -> str:
    """Return the address that the host would speak from; raise ``OSError`` if it has none."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        sock.connect((address, _DISCARD))
        source = str(sock.getsockname()[0])
    if ipaddress.ip_address(source).is_unspecified:
        raise OSError(errno.EADDRNOTAVAIL, "the host has no address")
    return source


def _mac_of(link: str) -> bytes:
    with open(f"/sys/class/net/{link}/address", encoding="ascii") as stream:
        mac = normal_mac(stream.read().strip())
    if mac is None:
        raise OSError(errno.ENODEV, "the link has no Ethernet address")
    return bytes.fromhex(mac.replace(":", ""))


def _option(options: bytes, wanted: int) -> bytes | None:
    """Return the MAC in a discovery option; lengths count in units of 8 bytes."""
    while len(options) >= 8 and options[1] > 0:
        if options[0] == wanted and options[1] == 1:
            return options[2:8]
        options = options[options[1] * 8 :]
    return None


def _shown(mac: bytes) -> str:
    return mac.hex(":")


@contextlib.contextmanager
def _closing_on_error(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise
