# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports that are really free, and what is generated once for each machine."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import uuid

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    PortUnavailable,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.layout import (
    ALIVE_LOCK,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import (
    Network,
    PortForward,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    PortRange,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.identity import (
    choose_port,
    new_id,
    new_mac,
    preferred_port,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.locks import (
    hold_while_alive,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.ports import (
    is_free,
    obstacle,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.forwards import (
    check_forwards,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle


def listener(family=socket.AF_INET, address="127.0.0.1", port=0):
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((address, port))
    sock.listen(5)
    return sock


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_with_a_listener_is_not_free_until_it_closes(address):
    with listener(address=address) as sock:
        port = sock.getsockname()[1]
        while_open = is_free(port)

    assert (while_open, is_free(port)) == (False, True)


def test_a_listener_on_all_addresses_of_both_kinds_counts():
    try:
        sock = listener(socket.AF_INET6, "::")
    except OSError:
        pytest.skip("this host has no IPv6")
    with sock:
        assert not is_free(sock.getsockname()[1])


def test_a_listener_without_reuse_counts():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(1)

        assert not is_free(sock.getsockname()[1])


def test_connections_of_the_past_are_no_obstacle():
    with listener() as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _address = server.accept()
            accepted.close()  # closes first, so the server's side stays in TIME_WAIT

    assert is_free(port)


def test_looking_at_a_port_leaves_nothing_behind():
    with listener() as sock:
        port = sock.getsockname()[1]

    assert [is_free(port) for dummy in range(3)] == [True] * 3
    listener(port=port).close()


def test_the_port_of_a_name_is_always_the_same_and_known():
    ports = PortRange(10022, 10122)

    assert [preferred_port(name, ports) for name in ("web1", "web2", "a")] == [10117, 10101, 10040]
    assert preferred_port("web1", PortRange(2222, 2222)) == 2222


def test_preferred_ports_stay_in_the_range_and_spread_over_it():
    ports = PortRange(10022, 10031)
    preferred = {preferred_port(f"web{number}", ports) for number in range(200)}

    assert preferred == set(range(10022, 10032))


@pytest.fixture
def three_ports():
    """Give a range of three ports that nobody listens on."""
    for first in range(23456, 60000, 3):
        if all(is_free(first + step) for step in range(3)):
            return PortRange(first, first + 2)
    return pytest.fail("no three free ports on this host")


WEB1 = minimal_handle("web1")


def others_on(*ports):
    return [minimal_handle(f"other{port}", ssh_host_port=port) for port in ports]


def test_a_name_gets_its_own_port_first(three_ports):
    assert choose_port(WEB1, three_ports, []) == preferred_port("web1", three_ports)


def test_a_reserved_port_is_passed_over_and_the_range_goes_round(three_ports):
    first, size = three_ports.first, 3
    own = preferred_port("web1", three_ports)
    turn = [first + (own - first + step) % size for step in range(size)]

    chosen = [choose_port(WEB1, three_ports, others_on(*turn[:taken])) for taken in range(size)]

    assert chosen == turn


def test_a_port_that_somebody_listens_on_is_passed_over(three_ports):
    own = preferred_port("web1", three_ports)

    with listener(port=own):
        chosen = choose_port(WEB1, three_ports, [])

    assert chosen != own
    assert three_ports.first <= chosen <= three_ports.last


@pytest.mark.parametrize("own", [True, False], ids=["its own", "another machine's"])
@pytest.mark.parametrize(
    ("protocol", "address", "taken"),
    [
        ("tcp", "127.0.0.1", True),
        ("tcp", "0.0.0.0", True),
        ("tcp", "192.0.2.1", False),
        ("udp", "127.0.0.1", False),
    ],
)
def test_a_port_that_a_stopped_machine_forwards_is_passed_over(
    three_ports, own, protocol, address, taken
):
    preferred = preferred_port("web1", three_ports)
    forwards = forwarding(PortForward(preferred, 80, protocol, address))
    vm = minimal_handle("web1", spec=forwards) if own else WEB1
    others = [] if own else [minimal_handle("web2", spec=forwards)]

    assert (choose_port(vm, three_ports, others) != preferred) is taken


def test_what_an_earlier_record_of_the_machine_forwards_is_no_obstacle(three_ports):
    preferred = preferred_port("web1", three_ports)
    earlier = minimal_handle("web1", spec=forwarding(PortForward(preferred, 80)))

    assert choose_port(WEB1, three_ports, [earlier]) == preferred


def test_the_machine_itself_is_no_obstacle_to_itself(three_ports):
    own = preferred_port("web1", three_ports)

    assert choose_port(WEB1, three_ports, [minimal_handle("web1", ssh_host_port=own)]) == own


def test_a_range_that_is_taken_says_so(three_ports):
    ports = range(three_ports.first, three_ports.last + 1)

    with pytest.raises(PortUnavailable, match=f"{ports[0]} to {ports[-1]}") as caught:
        choose_port(WEB1, three_ports, others_on(*ports))

    assert caught.value.code == "vm_manager.network.port_unavailable"
    assert caught.value.details == {"option": "ssh_port_range"}


def test_an_identity_is_the_backend_and_a_random_uuid():
    first, second = new_id("qemu"), new_id("qemu")

    tag, _dash, rest = first.partition("-")
    assert (tag, uuid.UUID(rest).version) == ("qemu", 4)
    assert first != second


def test_a_mac_address_is_one_of_qemu_and_new():
    others = []
    for number in range(300):
        others.append(minimal_handle(f"vm{number}", macs={"net0": new_mac(others)}))

    macs = [other.mac_addr for other in others]
    assert all(re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", mac) for mac in macs)
    assert len(set(macs)) == 300


def test_a_mac_address_that_is_taken_is_drawn_again(monkeypatch):
    module = new_mac.__globals__["os"]
    drawn = iter([b"\x00\x00\x01", b"\x00\x00\x01", b"\x00\x00\x02"])
    monkeypatch.setattr(module, "urandom", lambda size: next(drawn))

    mac = new_mac([minimal_handle("a", macs={"net0": "52:54:00:00:00:01"}), minimal_handle("b")])

    assert mac == "52:54:00:00:00:02"


def forwarding(*forwards, name="web1"):
    return VmSpec(name, networks=(Network(), Network(name="net1", port_forwards=forwards)))


def recorded(store, name, spec, **fields):
    return store.save(
        minimal_handle(name).evolve(work_dir=store.work_dir(name), spec=spec, **fields)
    )


@contextlib.contextmanager
def running(store, name):
    """Hold the lock that the machine's process holds while it lives."""
    os.makedirs(store.work_dir(name), mode=0o700, exist_ok=True)
    fd = hold_while_alive(os.path.join(store.work_dir(name), ALIVE_LOCK))
    yield
    os.close(fd)


@pytest.fixture
def taken():
    with listener() as sock:
        yield sock.getsockname()[1]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_a_forwarded_port_is_tried_for_its_protocol(kind, request):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            sock.listen(1)
        both = [obstacle(port, "0.0.0.0", protocol) for protocol in ("tcp", "udp")]

    assert sorted(both, key=bool) == [None, "it is taken"]
    assert bool(both[0]) is (kind == socket.SOCK_STREAM)
    assert obstacle(port, "127.0.0.1", "tcp") is None
    assert obstacle(port, "192.0.2.1", "udp") == "this host has no such address"


def test_a_forwarded_port_that_is_taken_names_the_option_and_the_port(tmp_path, taken):
    spec = forwarding(PortForward(taken, 53, "udp"), PortForward(taken, 80))

    with pytest.raises(PortUnavailable) as caught:
        check_forwards(spec, None, False, Store(str(tmp_path / "data")))

    assert caught.value.message == (
        f"networks[1].port_forwards[1].host: the TCP port {taken} of 127.0.0.1 cannot be had: it is taken."
    )
    assert caught.value.details == {
        "option": "networks[1].port_forwards[1].host",
        "port": taken,
    }


@pytest.mark.parametrize("way", ["forwarded", "runs with", "for SSH"])
def test_the_machine_that_has_the_port_is_named(tmp_path, taken, way):
    store, forward = Store(str(tmp_path / "data")), PortForward(taken, 80)
    has = {
        "forwarded": {"spec": forwarding(forward)},
        "runs with": {"spec": forwarding(), "booted": forwarding(forward)},
        "for SSH": {"spec": forwarding(), "ssh_host_port": taken},
    }
    mine = recorded(store, "web1", forwarding(forward))
    recorded(store, "old", forwarding(forward), ssh_host_port=taken)  # does not run
    recorded(store, "other", forwarding(forward), booted=forwarding())
    with running(store, "other"), running(store, "web2"):
        recorded(store, "web2", **has[way])

        with pytest.raises(PortUnavailable, match="it is a port of the VM 'web2'") as caught:
            check_forwards(mine.spec, mine, False, store)

    assert caught.value.details["vm"] == "web2"


def test_a_machine_that_does_not_run_is_not_named(tmp_path, taken):
    store, spec = Store(str(tmp_path / "data")), forwarding(PortForward(taken, 80))
    recorded(store, "web2", spec, booted=spec, ssh_host_port=taken)

    with pytest.raises(PortUnavailable, match=r"it is taken\.$") as caught:
        check_forwards(spec, None, False, store)

    assert "vm" not in caught.value.details


def test_what_others_let_go_before_is_no_obstacle_but_the_next_port_is(tmp_path, taken):
    store = Store(str(tmp_path / "data"))
    with listener() as foreign:
        port = foreign.getsockname()[1]
        spec = forwarding(PortForward(taken, 80), PortForward(port, 81))

        with pytest.raises(PortUnavailable) as caught:
            check_forwards(spec, None, False, store, {("tcp", taken), ("udp", port)})

    assert caught.value.details["port"] == port
    check_forwards(spec, None, False, store, {("tcp", taken)})


def test_what_a_running_machine_listens_on_itself_is_no_obstacle(tmp_path, taken):
    store, spec = Store(str(tmp_path / "data")), forwarding(PortForward(taken, 80))
    mine = recorded(store, "web1", spec, booted=spec)

    check_forwards(spec, mine, True, store)
    check_forwards(forwarding(PortForward(taken, 8080)), mine, True, store)
    with pytest.raises(PortUnavailable):
        check_forwards(spec, mine, False, store)
    with pytest.raises(PortUnavailable):
        check_forwards(spec, mine.evolve(booted=forwarding()), True, store)


def test_the_port_for_ssh_leads_to_nothing_else(tmp_path, three_ports):
    store, spec = Store(str(tmp_path / "data")), forwarding(PortForward(three_ports.first, 80))
    mine = recorded(store, "web1", spec, ssh_host_port=three_ports.first)

    with pytest.raises(PortUnavailable, match="the VM itself keeps it for SSH"):
        check_forwards(spec, mine, False, store)
