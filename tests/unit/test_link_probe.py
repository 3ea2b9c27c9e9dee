# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is believed of the answers on a link. That the questions are right, real guests show."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.link_probe import (
    _Arp,
    _Discovery,
)

MAC, OTHER = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
SHOWN = "52:54:00:00:00:01"


def heard(asker, **sock):
    """Return what a packet says to an asker that has no socket on a link."""
    found = object.__new__(asker)
    found.sock = SimpleNamespace(**sock)
    return found.receive()


def arp(kind=1, mac=MAC, source="192.168.77.5"):
    packet = struct.pack("!HHBBH", kind, 0x0800, 6, 4, 2) + mac + socket.inet_aton(source)
    return packet + bytes(6) + socket.inet_aton("192.168.77.1")


@pytest.mark.parametrize(
    ("packet", "sender", "expected"),
    [
        (arp(), MAC, ("192.168.77.5", SHOWN)),
        (arp() + bytes(18), MAC, ("192.168.77.5", SHOWN)),  # padded, as Ethernet wants it
        (arp(), OTHER, None),  # one machine speaks for another
        (arp(kind=6), MAC, None),
        (arp()[:-1], MAC, None),
        (b"", MAC, None),
    ],
    ids=["answer", "padded", "sent by another", "no Ethernet", "cut off", "empty"],
)
def test_answers_for_ipv4(packet, sender, expected):
    origin = ("br0", 0x0806, 0, 1, sender)

    assert heard(_Arp, recvfrom=lambda dummy: (packet, origin)) == expected


def advertisement(kind=136, options=b"\2\1" + MAC):
    target = socket.inet_pton(socket.AF_INET6, "fe80::5")
    return bytes([kind, 0, 0, 0]) + bytes(4) + target + options


@pytest.mark.parametrize(
    ("packet", "hops", "expected"),
    [
        (advertisement(), 255, ("fe80::5", SHOWN)),
        (advertisement(options=bytes([14, 1]) + bytes(6) + b"\2\1" + MAC), 255, ("fe80::5", SHOWN)),
        (advertisement(), 254, None),  # from beyond a router
        (advertisement(), None, None),
        (advertisement(kind=135), 255, None),
        (advertisement(options=b""), 255, None),
        (advertisement(options=b"\2\0" + MAC), 255, None),
        (advertisement()[:20], 255, None),
    ],
    ids=[
        "answer",
        "second option",
        "routed",
        "no hops",
        "question",
        "no MAC",
        "endless",
        "cut off",
    ],
)
def test_answers_for_ipv6(packet, hops, expected):
    level, kind = socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT
    extras = [] if hops is None else [(level, kind, struct.pack("@i", hops))]

    found = heard(_Discovery, recvmsg=lambda dummy_size, dummy_extras: (packet, extras, 0, None))

    assert found == expected
