# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest agent's client against agents over real sockets: good, slow, hostile, taken and gone."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    NoGuestAddress,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.guest_agent import (
    ask_agent,
)

LONG, SHORT = 20.0, 0.3
A, B = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
LOOPBACK = {
    "name": "lo",
    "hardware-address": "00:00:00:00:00:00",
    "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8}],
}
CARDS = [
    LOOPBACK,
    {
        "name": "eth0",
        "hardware-address": A.upper(),
        "ip-addresses": [
            {"ip-address-type": "ipv4", "ip-address": "192.168.77.50", "prefix": 24},
            {"ip-address-type": "ipv6", "ip-address": "FD00:77:0::50", "prefix": 64},
        ],
        "statistics": {"rx-bytes": 1},
    },
    {"name": "eth1", "hardware-address": B},
]
EXPECTED = [
    ("00:00:00:00:00:00", ("127.0.0.1",)),
    (A, ("192.168.77.50", "fd00:77::50")),
]


class Agent:
    """Serves one client at a time; ``speak`` is given the socket's file and the connection."""

    def __init__(self, path, speak):
        self.speak = speak
        self.requests = []
        self.over = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.over.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, dummy_address = self.listener.accept()
                connection.settimeout(LONG)
                with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
                    self.speak(self, stream, connection)

    def hear(self, stream):
        line = stream.readline()
        self.requests.append(line)
        return json.loads(line.rpartition(b"\xff")[2])


def synchronise(agent, stream, connection, before=b""):
    number = agent.hear(stream)["arguments"]["id"]
    connection.sendall(before + b"\xff" + json.dumps({"return": number}).encode() + b"\n")


def saying(answer, before=b""):
    def speak(agent, stream, connection):
        synchronise(agent, stream, connection, before)
        agent.hear(stream)
        data = answer if isinstance(answer, bytes) else json.dumps({"return": answer}).encode()
        connection.sendall(data + b"\n")

    return speak


def silent(agent, stream, connection):
    agent.over.wait(LONG)


def deaf_after_synchronising(agent, stream, connection):
    synchronise(agent, stream, connection)
    agent.over.wait(LONG)


def chattering(agent, stream, connection):
    """Never stops, never makes sense."""
    while not agent.over.is_set():
        connection.sendall(b"{}\n" * 100)
        time.sleep(0.01)


def flooding(agent, stream, connection):
    synchronise(agent, stream, connection)
    while not agent.over.is_set():
        connection.sendall(b"x" * 65536)


def flooding_before_the_mark(agent, stream, connection):
    while not agent.over.is_set():
        connection.sendall(b"x" * 65536)


def leaving(agent, stream, connection):
    synchronise(agent, stream, connection)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.sock"


def test_addresses_of_each_card(path):
    with Agent(path, saying(CARDS)) as agent:
        assert ask_agent(str(path), LONG) == EXPECTED

    assert agent.requests[0].startswith(b'\xff{"execute": "guest-sync-delimited"')
    assert json.loads(agent.requests[1]) == {"execute": "guest-network-get-interfaces"}


def test_path_of_any_length(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    monkeypatch.chdir(folder)
    with Agent("agent.sock", saying(CARDS)):
        assert ask_agent(str(folder / "agent.sock"), LONG) == EXPECTED


@pytest.mark.parametrize(
    "before",
    [
        b'{"return": [{"hardware-address": "52:54:00:aa:00:01", "ip-addresses": []}]}\n',
        b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n',
        b'half an answer to somebody el\xff{"return": 12}\n',
        b"\xff\xff\xff\n\xffx\n\xff[]\n",
        b"\x00" * 300_000,
    ],
    ids=["an answer", "an error", "another's mark", "marks", "noise"],
)
def test_what_was_meant_for_others_is_thrown_away(path, before):
    with Agent(path, saying(CARDS, before)):
        assert ask_agent(str(path), LONG) == EXPECTED


@pytest.mark.parametrize(
    "answer",
    [
        None,
        5,
        "text",
        {"hardware-address": A},
        [None, [], "x", 5, {}],
        [{"hardware-address": A}],
        [{"hardware-address": A, "ip-addresses": {"ip-address": "192.0.2.1"}}],
        [{"hardware-address": [A], "ip-addresses": []}],
        [{"hardware-address": "junk", "ip-addresses": [{"ip-address": "192.0.2.1"}]}],
    ],
    ids=repr,
)
def test_answers_without_cards(path, answer):
    with Agent(path, saying(answer)):
        assert ask_agent(str(path), LONG) == []


def test_junk_among_addresses(path):
    junk = [None, "192.0.2.1", {"ip-address": 5}, {"ip-address": "fe80::1%eth0"}]
    junk += [{"ip-address": "192.0.2.1; reboot"}, {"ip-address": "x" * 10_000}, {}]
    card = {"hardware-address": A, "ip-addresses": [*junk, {"ip-address": "192.0.2.7"}]}
    with Agent(path, saying([card])):
        assert ask_agent(str(path), LONG) == [(A, ("192.0.2.7",))]


def test_crowds_are_cut_short(path):
    card = {"hardware-address": A, "ip-addresses": [{"ip-address": "192.0.2.7"}] * 100}
    with Agent(path, saying([card] * 300)):
        found = ask_agent(str(path), LONG)

    assert len(found) == 256
    assert {len(addresses) for dummy_mac, addresses in found} == {64}


@pytest.mark.parametrize(
    ("speak", "words"),
    [
        (saying(b'{"error": {"class": "CommandNotFound"}}'), "makes no sense"),
        (saying(b"no json"), "makes no sense"),
        (saying(b"[" * 100_000), "makes no sense"),
        (saying(b"[]"), "makes no sense"),
        (flooding, "more than 1048576 bytes"),
        (flooding_before_the_mark, "more than 1048576 bytes"),
        (leaving, "closed the connection"),
    ],
    ids=["refusal", "no JSON", "nested", "no object", "flood", "early flood", "end"],
)
def test_hostile_agent_is_given_up_at_once(path, speak, words):
    started = time.monotonic()
    with Agent(path, speak), pytest.raises(NoGuestAddress, match=words):
        ask_agent(str(path), LONG)
    assert time.monotonic() - started < LONG / 2


@pytest.mark.parametrize("speak", [silent, deaf_after_synchronising, chattering])
def test_agent_that_does_not_answer_costs_no_more_than_the_limit(path, speak):
    with Agent(path, speak), pytest.raises(NoGuestAddress, match=r"no answer in 0\.3 s"):
        started = time.monotonic()
        try:
            ask_agent(str(path), SHORT)
        finally:
            assert SHORT <= time.monotonic() - started < SHORT + 8


def test_second_client_waits_no_longer_than_the_limit(path):
    with Agent(path, silent), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
        with pytest.raises(NoGuestAddress, match=r"no answer in 0\.3 s"):
            ask_agent(str(path), SHORT)


def test_full_queue_fails_at_once(path):
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(path))
        with pytest.raises(NoGuestAddress, match="other clients queue"):
            ask_agent(str(path), LONG)


@pytest.mark.parametrize("exists", [True, False])
def test_nobody_there(path, exists):
    if exists:
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(path))
    with pytest.raises(NoGuestAddress, match="its socket is not open"):
        ask_agent(str(path), LONG)
