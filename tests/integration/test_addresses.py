# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest addresses on a real bridge with real guests, and all that could lead to another machine's address.

The functions run inside the network namespace, each time in a process of their own.
"""

from __future__ import annotations

import json
import socket
import subprocess
import textwrap
import time

import pytest
from namespace import BRIDGE, Lab, end, why_not

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

A, B, STATIC = "52:54:00:aa:00:0a", "52:54:00:aa:00:0b", "52:54:00:aa:00:0c"
DECOY = "52:54:00:de:c0:01"
STATIC_ADDRESS = "192.168.77.20"
DECOY_ADDRESS = "192.168.77.120"  # of a machine that is there
NOBODYS_ADDRESS = "192.168.77.130"
WITHOUT_RAW_SOCKETS = ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw")

PATIENCE = 1.0  # seconds: twice the usual, for the tests share the machine
RARELY = 20.0  # seconds between two looks that no event calls for, where a test is about the events
NO_DAD = "echo 0 >/proc/sys/net/ipv6/conf/eth0/dad_transmits"

PROGRAM = """
    import functools, json, os, time
    from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import NoGuestAddress
    from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.addresses import (
        AddressQuery, find_addresses, look)
    from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest import address_wait
    from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.address_wait import wait_for_addresses
    from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.guest_agent import ask_agent

    macs, options, leases, agent, seconds, pid = json.loads({arguments!r})
    address_wait._LOOK_ANYWAY = options.pop("look_anyway", address_wait._LOOK_ANYWAY)
    options["ip_ranges"] = tuple(options.get("ip_ranges", ()))
    queries = [AddressQuery(mac, "br0", **options) for mac in macs]
    agent = functools.partial(ask_agent, agent) if agent else None
    before = len(os.listdir("/proc/self/fd"))
    started = time.monotonic()
    error = None
    try:
        if seconds is None:
            reports = look(queries, leases, agent, {patience})
            found = {{report.query.mac: report.addresses for report in reports}}
            error = [report.explain() for report in reports]
        else:
            fd = os.pidfd_open(pid) if pid else None
            print(flush=True)
            found = wait_for_addresses(queries, time.monotonic() + seconds, fd, leases, agent)
    except NoGuestAddress as exc:
        found, error = {{}}, exc.message
    returned = time.monotonic()
    if seconds is not None and fd is not None:
        os.close(fd)
    left = len(os.listdir("/proc/self/fd")) - before
    print(json.dumps([found, error, returned - started, returned, left]))
"""


class Asker:
    """Asks for addresses inside the lab's namespace."""

    def __init__(self, lab, *prefix):
        self.lab = lab
        self.prefix = prefix

    def begin(self, macs, leases=None, agent=None, seconds=None, pid=None, **options):
        leases = [str(self.lab.lease_file)] if leases is None else [str(path) for path in leases]
        arguments = json.dumps([macs, options, leases, agent, seconds, pid])
        code = textwrap.dedent(PROGRAM).format(arguments=arguments, patience=PATIENCE)
        return self.lab.python(code, *self.prefix)

    @staticmethod
    def finish(process):
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        found, error, seconds, moment, left_open = json.loads(stdout)
        assert left_open == 0
        return {mac: tuple(addresses) for mac, addresses in found.items()}, error, seconds, moment

    def look(self, macs, **options):
        return self.finish(self.begin(macs, **options))

    def addresses(self, mac, **options):
        return self.look([mac], **options)[0][mac]

    def expect(self, mac, *expected, **options):
        """Ask until all expected addresses are there: a busy guest may be slow, but no other may ever be told."""
        deadline = time.monotonic() + 30
        while True:
            reports = self.look([mac], **options)
            found = reports[0][mac]
            assert set(found) <= set(expected), reports
            if found == expected:
                return
            assert time.monotonic() < deadline, reports


@pytest.fixture(scope="module")
def lab(tmp_path_factory, smoke_image):
    """Two guests with DHCP and the same host name, one with a static address, and a machine that is no guest."""
    with Lab(tmp_path_factory.mktemp("lab"), smoke_image) as made:
        made.serve_dhcp()
        made.add_machine(DECOY, f"{DECOY_ADDRESS}/24", "fd00:77::120/64")
        made.guests = {
            mac: made.start(name, mac, static, hostname="twin")
            for mac, name, static in (
                (A, "a", None),
                (B, "b", None),
                (STATIC, "static", f"{STATIC_ADDRESS}/24"),
            )
        }
        asker = Asker(made)
        made.boot = {
            mac: asker.finish(
                asker.begin([mac], seconds=90, pid=guest.process.pid, agent=guest.agent_socket)
            )
            for mac, guest in made.guests.items()
        }
        yield made


@pytest.fixture
def asker(lab):
    return Asker(lab)


def test_wait_ends_with_the_address_of_each_guest(lab):
    found = {mac: boot[0][mac] for mac, boot in lab.boot.items()}

    assert found == {
        A: (lab.leases()[A],),
        B: (lab.leases()[B],),
        STATIC: (STATIC_ADDRESS,),
    }


def test_several_cards_are_asked_for_at_once_and_never_mixed(lab, asker):
    found, told, seconds, dummy_moment = asker.look([A, B.upper(), DECOY, "52:54:00:00:00:99"])

    assert found[A] == (lab.leases()[A],)
    assert found[B.upper()] == (lab.leases()[B],)
    assert found["52:54:00:00:00:99"] == ()
    assert f"nothing seen of it on {BRIDGE}" in told[3]
    assert "has another MAC" in told[3]
    assert seconds < 2.5, "one after the other would take four times the patience"
    one = asker.look([A])[2]
    print(f"four cards took {seconds * 1000:.0f} ms, one {one * 1000:.0f} ms")


def test_guest_says_the_same_of_itself(lab, asker):
    address = asker.addresses(A)[0]

    assert f"{address}/24" in lab.ssh(address, "ip -4 address show dev eth0")
    assert A in lab.ssh(address, "ip link show dev eth0")


def test_decoy_leases_are_not_believed(lab, asker, tmp_path):
    mine = lab.leases()[A]
    later = int(time.time()) + 90_000
    decoy = tmp_path / "decoy.leases"
    decoy.write_text(
        f"{later} {A} {DECOY_ADDRESS} twin *\n{later} {DECOY} {mine} twin 01:{A}\n"
        f"{later - 9} {A} {NOBODYS_ADDRESS} twin *\n"
    )

    found, told, *dummy_rest = asker.look([A], leases=[lab.lease_file, decoy])
    without_rows, told_without, *dummy_rest = asker.look([DECOY], leases=[decoy])

    assert found == {A: (mine,)}
    assert f"lease {DECOY_ADDRESS} belongs to {DECOY}" in told[0]
    assert f"lease {NOBODYS_ADDRESS} is older than that of {DECOY_ADDRESS}" in told[0]
    assert mine not in without_rows[DECOY]
    assert f"lease {mine} belongs to {A}" in told_without[0]


@pytest.mark.parametrize("state", ["stale", "reachable", "permanent"])
@pytest.mark.parametrize(
    ("address", "reason"),
    [(DECOY_ADDRESS, f"belongs to {DECOY}"), ("192.168.77.131", "is not answered for now")],
    ids=["another machine's", "nobody's"],
)
def test_rows_that_are_out_of_date_are_not_believed(lab, asker, state, address, reason):
    mine = lab.leases()[A]
    row = (address, "lladdr", A, "dev", BRIDGE)
    lab.ip("neigh", "replace", *row, "nud", state)
    try:
        found, told, *dummy_rest = asker.look([A])
    finally:
        lab.ip("neigh", "del", *row[:1], "dev", BRIDGE)

    assert found == {A: (mine,)}
    assert f"neighbour {address} {reason}" in told[0]


def test_address_of_the_wide_world_is_not_believed(lab, asker, tmp_path):
    leases = tmp_path / "far.leases"
    leases.write_text(f"0 {A} 8.8.8.8 twin *\n0 {A} 2001:4860:4860::8888 twin *\n")

    told = asker.look([A], leases=[leases])[1]

    assert "lease 8.8.8.8 is not answered for now" in told[0]
    assert "lease 2001:4860:4860::8888 is not answered for now" in told[0]


def test_ipv6_address_made_of_the_mac_is_found_in_its_network(lab, asker):
    name = lab.add_machine("52:54:00:aa:00:0d", "fd00:77::5054:ff:feaa:d/64")
    mac = "52:54:00:aa:00:0d"

    assert asker.addresses(mac, leases=[]) == ()
    asker.expect(mac, "fd00:77::5054:ff:feaa:d", leases=[], ip_ranges=["fd00:77::/64"])
    subprocess.run(["ip", "-n", name, "link", "set", "eth0", "down"], check=True)
    assert asker.addresses(mac, leases=[], ip_ranges=["fd00:77::/64"]) == ()


def test_address_that_two_machines_claim_is_nobodys(lab, asker):
    mine = lab.leases()[B]
    twin = lab.add_machine("52:54:00:de:c0:02", f"{mine}/24")
    try:
        found, told, *dummy_rest = asker.look([B])
    finally:
        subprocess.run(["ip", "-n", twin, "link", "set", "eth0", "down"], check=True)

    assert found == {B: ()}
    assert "52:54:00:de:c0:02" in told[0]
    asker.expect(B, mine)


def test_static_address_is_found_by_the_agent_or_in_a_small_range(lab, asker):
    lab.ip("neigh", "flush", "dev", BRIDGE)

    assert asker.addresses(STATIC) == ()
    asker.expect(STATIC, STATIC_ADDRESS, ip_ranges=["192.168.77.0/24", "10.0.0.0/8"])
    assert STATIC_ADDRESS not in lab.rows(), "the search must leave no rows behind"
    agent = lab.guests[STATIC].agent_socket
    asker.expect(STATIC, STATIC_ADDRESS, agent=agent)


def test_agent_that_another_client_holds_costs_little(lab, asker):
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(lab.guests[A].agent_socket)
        found, dummy_told, seconds, dummy_moment = asker.look([A], agent=lab.guests[A].agent_socket)

    assert found == {A: (lab.leases()[A],)}
    assert 0.5 <= seconds < 5


def test_version_and_range(lab, asker):
    mine = lab.leases()[A]
    lab.ssh(mine, f"{NO_DAD}; ip -6 address add fd00:77::a/64 dev eth0")
    agent = lab.guests[A].agent_socket

    asker.expect(A, mine, "fd00:77::a", agent=agent)
    asker.expect(A, mine, agent=agent, ip_version=4)
    asker.expect(A, "fd00:77::a", agent=agent, ip_version=6)
    asker.expect(A, "fd00:77::a", agent=agent, ip_ranges=["fd00::/16"])
    assert asker.addresses(A, agent=agent, ip_ranges=["10.0.0.0/8"]) == ()
    lab.command("python3", "-c", POKE)
    asker.expect(A, "fd00:77::a", ip_version=6)


POKE = "import socket, time; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.sendto(b'', ('fd00:77::a', 9)); time.sleep(0.3)"


def test_a_new_lease_ends_the_wait_at_once(lab, asker, tmp_path):
    leases = tmp_path / "new.leases"
    lab.ip("neigh", "flush", "dev", BRIDGE)
    delays = []
    for dummy_round in range(5):
        leases.write_text("")
        process = asker.begin([STATIC], leases=[leases], seconds=60, look_anyway=RARELY)
        process.stdout.readline()  # the wait begins
        time.sleep(0.4)
        assert process.poll() is None

        leases.write_text(f"{int(time.time()) + 3600} {STATIC} {STATIC_ADDRESS} twin *\n")
        written = time.monotonic()
        found, dummy_error, dummy_seconds, returned = asker.finish(process)

        assert found == {STATIC: (STATIC_ADDRESS,)}
        delays.append(returned - written)

    print(f"a lease was noticed after {sorted(round(d * 1000) for d in delays)} ms")
    assert sorted(delays)[2] < RARELY / 10


def test_a_new_neighbour_ends_the_wait_at_once(lab, asker, tmp_path):
    lab.ip("neigh", "flush", "dev", BRIDGE)
    process = asker.begin([STATIC], leases=[tmp_path / "none"], seconds=60, look_anyway=RARELY)
    process.stdout.readline()
    time.sleep(0.4)

    lab.ip("neigh", "add", STATIC_ADDRESS, "lladdr", STATIC, "dev", BRIDGE, "nud", "stale")
    made = time.monotonic()
    found, dummy_error, dummy_seconds, returned = asker.finish(process)

    assert found == {STATIC: (STATIC_ADDRESS,)}
    print(f"a neighbour was noticed after {(returned - made) * 1000:.0f} ms")
    assert returned - made < RARELY / 4


def test_timeout_says_what_was_seen(lab, asker, tmp_path):
    leases = tmp_path / "old.leases"
    leases.write_text(f"{int(time.time()) - 200} {STATIC} {STATIC_ADDRESS} twin *\n")
    lab.ip("neigh", "flush", "dev", BRIDGE)
    lab.ip("neigh", "add", DECOY_ADDRESS, "lladdr", DECOY, "dev", BRIDGE, "nud", "reachable")

    found, message, seconds, dummy_moment = asker.look(
        [STATIC, B],
        leases=[leases],
        seconds=2,
        ip_ranges=["192.168.0.0/16", "10.0.0.0/8"],
        ip_version=4,
    )

    assert found == {}
    assert 2 <= seconds < 8
    assert f"{STATIC} on {BRIDGE}: lease {STATIC_ADDRESS} expired 3 min ago" in message
    assert f"neighbour {DECOY_ADDRESS} has another MAC" in message
    assert f"{B} on {BRIDGE}: nothing seen of it on {BRIDGE}" in message
    assert "so the guest is up" in message


def test_missing_bridge_is_named(lab):
    code = textwrap.dedent(PROGRAM).replace('"br0"', '"br-none"')
    arguments = json.dumps([[A], {}, [str(lab.lease_file)], None, None, None])
    found, told, *dummy_rest = Asker.finish(
        lab.python(code.format(arguments=arguments, patience=PATIENCE))
    )

    assert found == {A: ()}
    assert "br-none" in told[0]
    assert "Cannot find device" in told[0]


def test_without_raw_sockets_the_kernel_asks(lab):
    """What an ordinary user gets, who may not send packets of their own making."""
    asker = Asker(lab, *WITHOUT_RAW_SOCKETS)
    mine = lab.leases()[A]
    lab.ip("neigh", "flush", "dev", BRIDGE)

    asker.expect(A, mine)
    lab.ip("neigh", "replace", mine, "lladdr", A, "dev", BRIDGE, "nud", "stale")
    asker.expect(A, mine)
    lab.ip("neigh", "replace", "192.168.77.132", "lladdr", A, "dev", BRIDGE, "nud", "stale")
    asker.expect(A, mine)


def test_addresses_stay_right_when_the_dhcp_server_and_its_leases_are_gone(lab, asker):
    mine = {mac: lab.leases()[mac] for mac in (A, B)}
    for address in mine.values():
        lab.ssh(address, "true")
    end(lab.dhcp)
    lab.lease_file.rename(lab.folder / "gone.leases")
    try:
        found = asker.look([A, B], ip_version=4)[0]
    finally:
        (lab.folder / "gone.leases").rename(lab.lease_file)

    assert found == {mac: (address,) for mac, address in mine.items()}


def test_guest_that_changes_its_address(lab, asker):
    old, new = lab.leases()[A], "192.168.77.140"
    change = f"sleep 0.2; ip address del {old}/24 dev eth0; ip address add {new}/24 dev eth0"
    lab.ssh(old, f"killall udhcpc; setsid sh -c '{change}' </dev/null >/dev/null 2>&1 &")
    time.sleep(1)

    assert lab.rows()[old]["lladdr"] == A, "the kernel still believes in the old address"
    found, told, *dummy_rest = asker.look([A], ip_version=4)
    assert found == {A: ()}
    assert f"lease {old} is not answered for now" in told[0]

    lab.ssh(new, "true")
    asker.expect(A, new, ip_version=4)


def test_stopped_guest_leaves_nothing_to_others(lab, asker):
    its = lab.leases()[B]
    lab.ssh(its, "true")
    end(lab.guests[B].process)

    assert lab.rows()[its]["lladdr"] == B, "the row outlives the guest"
    found, *dummy_rest = asker.look([A, B, STATIC], ip_version=4)
    assert its not in [address for addresses in found.values() for address in addresses]
    assert found[B] == ()


def test_end_of_the_process_ends_the_wait(lab, asker):
    process = asker.begin([B], leases=[], seconds=30, pid=lab.guests[STATIC].process.pid)
    process.stdout.readline()
    time.sleep(0.3)
    end(lab.guests[STATIC].process)
    ended = time.monotonic()

    found, message, dummy_seconds, returned = asker.finish(process)

    assert found == {}
    assert "the VM's process ended" in message
    assert returned - ended < 5, "the time limit is 30 seconds"
