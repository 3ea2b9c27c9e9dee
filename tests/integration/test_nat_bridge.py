# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks of the role hypervisor_host, on a host that is a network namespace, with guests that are others.

The host has one interface to the outside, a namespace that knows no way back to the guests.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import BIN, ENVIRONMENT, LOCALHOST, ROOT, ansible

ROLE = ROOT / "roles" / "hypervisor_host"
RED = {"name": "vmbr-red", "address": "192.168.77.1/24", "ipv6": "fd00:77::1/64"}
BLUE = {"name": "vmbr_blue", "address": "192.168.78.1/24", "nat": False, "domain": "blue.test"}
OUTSIDE = "192.0.2.1"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


class Namespace:
    """A network namespace of this host."""

    def __init__(self, name: str) -> None:
        self.name = f"{name}-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.do("ip link set lo up")

    def run(self, command: str, timeout: float = 30) -> subprocess.CompletedProcess:
        """Run a command in it."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *command.split()],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )

    def do(self, command: str) -> str:
        """Run a command that must succeed, and return what it printed."""
        done = self.run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout

    def fails(self, command: str) -> bool:
        """Tell whether a command fails."""
        return self.run(command).returncode != 0

    def pids(self) -> list[int]:
        """Return the processes in it."""
        shown = subprocess.run(
            ["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True
        )
        return [int(pid) for pid in shown.stdout.split()]

    def remove(self) -> None:
        """End what runs in it, and delete it."""
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", self.name], check=True)


def pings(source: Namespace, address: str) -> bool:
    """Tell whether an address answers a ping; only an answer or none is expected, no other failure."""
    done = source.run(f"busybox ping -c 1 -W 1 {address}")
    assert "1 packets transmitted" in done.stdout or "unreachable" in done.stdout, done.stdout
    return done.returncode == 0


class Host(Namespace):
    """A hypervisor host with folders of its own, and the role to run on it."""

    def __init__(self, folder: Path) -> None:
        super().__init__("host")
        self.folder = folder
        self.variables = {
            "hypervisor_host_data_dir": str(folder / "vmctl"),
            "hypervisor_host_config_dir": str(folder / "etc"),
            "hypervisor_host_state_dir": str(folder / "var"),
            "hypervisor_host_run_dir": str(folder / "run"),
            "hypervisor_host_unit_dir": str(folder / "units"),
            "hypervisor_host_bridge_conf": str(folder / "qemu" / "bridge.conf"),
            "hypervisor_host_service_manager": "none",
        }

    def role(self, *networks: dict, check: bool = False, **variables) -> tuple[int, str]:
        """Run the role; return the number of changes, or -1 for a failure, and what was printed."""
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "roles": ["cloudnebula.hypervisor.hypervisor_host"],
        }
        playbook = self.folder / "play.json"
        playbook.write_text(json.dumps([play]))
        extra = self.variables | {"hypervisor_host_networks": networks} | variables
        done = ansible_in(self, playbook, json.dumps(extra), *(["--check"] if check else []))
        recap = re.search(r"changed=(\d+) .*failed=(\d+)", done.stdout)
        assert recap, done.stdout + done.stderr
        return (-1 if recap[2] != "0" else int(recap[1])), done.stdout

    def up(self, *networks: dict, **variables) -> int:
        """Run the role and return the number of changes."""
        changes, output = self.role(*networks, **variables)
        assert changes >= 0, output
        return changes

    def files(self) -> list[str]:
        """Return what the role has written."""
        folders = (self.folder / name for name in ("etc", "var", "run", "units"))
        return sorted(
            str(path.relative_to(self.folder))
            for folder in folders
            for path in [folder, *folder.rglob("*")]
            if path.exists()
        )

    def links(self) -> dict[str, dict]:
        """Return the interfaces by name."""
        return {link["ifname"]: link for link in json.loads(self.do("ip -j address show"))}


def ansible_in(namespace: Namespace, playbook: Path, extra: str, *options: str):
    """Run ansible-playbook in a namespace, whose view of mounts is its own too."""
    return subprocess.run(
        [
            *("ip", "netns", "exec", namespace.name, "unshare", "--mount"),
            *(sys.executable, str(BIN / "ansible-playbook")),
            *("-i", str(LOCALHOST), str(playbook), "-e", extra, *options),
        ],
        check=False,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        timeout=200,
    )


class Guest(Namespace):
    """A guest on a bridge, with a DHCP client."""

    def __init__(self, name: str, host: Host, bridge: str) -> None:
        super().__init__(name)
        self.hostname, self.port, self.folder = name, f"tap-{name}", host.folder
        host.do(f"ip link add {self.port} type veth peer name eth0 netns {self.name}")
        host.do(f"ip link set {self.port} master {bridge} up")
        self.do("ip link set eth0 up")

    def lease(self) -> str:
        """Ask for an address, and set it up as a guest would; return it."""
        script = self.folder / "udhcpc.sh"
        script.write_text(
            "#!/bin/sh\n"
            '[ "$1" = bound ] || exit 0\n'
            "ip address flush dev eth0 scope global\n"
            'ip address add "$ip/$mask" dev eth0\n'
            '[ -z "$router" ] || ip route replace default via "$router"\n'
        )
        script.chmod(0o755)
        self.do(
            f"busybox udhcpc -i eth0 -f -q -n -t 5 -T 1 -x hostname:{self.hostname} -s {script}"
        )
        return re.search(r"inet ([\d.]+)", self.do("ip -o -4 address show dev eth0"))[1]

    def resolve(self, name: str, server: str) -> list[str]:
        """Ask a name server for the IPv4 addresses of a name."""
        answer = self.run(f"busybox nslookup -type=a {name} {server}").stdout
        return re.findall(r"^Address: ([\d.]+)$", answer, re.MULTILINE)

    def connects(self, address: str, port: int) -> bool:
        """Tell whether a TCP port answers."""
        return not self.fails(f"busybox nc -w 2 {address} {port} -e /bin/true")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A host with an interface to the outside."""
    subject, outside = Host(tmp_path_factory.mktemp("host")), Namespace("out")
    subject.do(f"ip link add up0 type veth peer name eth0 netns {outside.name}")
    subject.do("ip address add 192.0.2.2/24 dev up0")
    subject.do("ip link set up0 up")
    outside.do(f"ip address add {OUTSIDE}/24 dev eth0")
    outside.do("ip link set eth0 up")
    subject.outside = outside
    yield subject
    outside.remove()
    subject.remove()


@pytest.fixture(scope="module")
def networks(host):
    """Two networks that check mode predicted, and that are up."""
    predicted, output = host.role(RED, BLUE, check=True)
    assert predicted > 0, output
    assert host.files() == [], "check mode wrote"
    assert set(host.links()) == {"lo", "up0"}
    assert host.up(RED, BLUE) > 0
    yield host
    changes, output = host.role(*({"name": net["name"], "state": "absent"} for net in (RED, BLUE)))
    assert changes > 0, output
    assert host.files() == []
    assert set(host.links()) == {"lo", "up0"}
    assert host.do("nft list ruleset") == ""
    assert host.pids() == []


@pytest.fixture(scope="module")
def guests(networks):
    """Two guests on the first network, one on the second; each has an address."""
    subjects = {
        "web1": Guest("web1", networks, RED["name"]),
        "web2": Guest("web2", networks, RED["name"]),
        "db1": Guest("db1", networks, BLUE["name"]),
    }
    addresses = {name: guest.lease() for name, guest in subjects.items()}
    for name, guest in subjects.items():
        guest.address = addresses[name]
    yield subjects
    for guest in subjects.values():
        guest.remove()
    wait_until(lambda: not any(name.startswith("tap-") for name in networks.links()))


def wait_until(done, seconds: float = 30) -> None:
    """Wait for what the kernel does a moment later."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@needs_root
def test_a_second_run_changes_nothing(networks):
    assert networks.role(RED, BLUE)[0] == 0
    assert networks.role(RED, BLUE, check=True)[0] == 0


@needs_root
def test_bridge_has_its_own_mac_and_addresses(networks, guests):
    link = networks.links()[RED["name"]]

    assert link["address"] == planned(RED)["networks"][0]["mac"]
    assert link["address"].startswith("02:")
    found = {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"}
    assert found == {RED["address"], RED["ipv6"]}


@needs_root
def test_dnsmasq_serves_the_bridges_only_and_is_unprivileged(networks, guests):
    dnsmasqs = [
        pid for pid in networks.pids() if Path(f"/proc/{pid}/comm").read_text() == "dnsmasq\n"
    ]
    users = {Path(f"/proc/{pid}").stat().st_uid for pid in dnsmasqs}

    assert len(dnsmasqs) == 2
    assert 0 not in users
    sockets = networks.do("ss -Hlntu")
    local = {line.split()[4] for line in sockets.splitlines()}
    assert {address for address in local if not address.startswith("[fe80::")} == {
        *("192.168.77.1:53", "192.168.78.1:53", "[fd00:77::1]:53"),
        *("0.0.0.0%vmbr-red:67", "0.0.0.0%vmbr_blue:67", "[::]%vmbr-red:547"),
    }


@needs_root
def test_guests_have_addresses_from_the_range(networks, guests):
    assert guests["web1"].address.startswith("192.168.77.")
    assert 128 <= int(guests["web1"].address.split(".")[3]) <= 254
    assert guests["db1"].address.startswith("192.168.78.")
    leases = (networks.folder / "var" / f"{RED['name']}.leases").read_text()
    assert re.search(rf"{re.escape(guests['web1'].address)} web1 ", leases), leases


@needs_root
def test_guests_have_names(guests):
    assert guests["web2"].resolve("web1.vm.internal", "192.168.77.1") == [guests["web1"].address]
    assert guests["db1"].resolve("db1.blue.test", "192.168.78.1") == [guests["db1"].address]
    assert guests["web2"].resolve("db1.blue.test", "192.168.77.1") == []


@needs_root
def test_guests_reach_each_other_and_the_outside(guests):
    assert pings(guests["web1"], guests["web2"].address)
    assert pings(guests["web1"], OUTSIDE)


@needs_root
def test_a_network_without_nat_is_closed(guests):
    assert not pings(guests["db1"], OUTSIDE)
    guests["db1"].do("ip route replace default via 192.168.78.1")
    assert not pings(guests["db1"], OUTSIDE)


@needs_root
def test_networks_and_the_outside_do_not_get_in(networks, guests):
    networks.outside.do("ip route replace 192.168.77.0/24 via 192.0.2.2")

    assert not pings(guests["web1"], guests["db1"].address)
    assert not pings(guests["db1"], guests["web1"].address)
    assert not pings(networks.outside, guests["web1"].address)
    assert pings(networks, guests["web1"].address)


@needs_root
def test_changes_are_taken_by_the_running_network(networks, guests):
    web1, fixed = guests["web1"], Guest("web3", networks, RED["name"])
    here = ("192.168.77.1", "192.0.2.2")  # both are the host's
    dhcp = {"dhcp_first": "192.168.77.40", "dhcp_last": "192.168.77.41"}
    command = [
        "ip",
        "netns",
        "exec",
        networks.name,
        "busybox",
        "nc",
        "-ll",
        "-p",
        "2222",
        "-e",
        "true",
    ]
    with subprocess.Popen(command) as listener:
        try:
            wait_until(lambda: ":2222" in networks.do("ss -Hlnt"))

            closed = [web1.connects(address, 2222) for address in here]
            assert networks.up({**RED, "host_access": True, "uplinks": ["other0"]}) > 0
            opened = [web1.connects(address, 2222) for address in here]
            limited = not pings(web1, OUTSIDE)
            assert networks.up({**RED, "uplinks": ["other0", "up0"], **dhcp}) > 0
            through_uplink = pings(web1, OUTSIDE)
            address = fixed.lease()
            assert networks.up(RED) > 0

            assert (closed, opened) == ([False, False], [True, True])
            assert (limited, through_uplink) == (True, True)
            assert address in dhcp.values()
            assert not web1.connects(here[0], 2222)
            assert pings(web1, here[0])
        finally:
            listener.kill()
            fixed.remove()


@needs_root
@pytest.mark.parametrize(
    "damage",
    [
        "nft delete table inet cloudnebula_vmbr-red",
        "ip address del 192.168.77.1/24 dev vmbr-red",
        "ip address add 192.168.99.1/24 dev vmbr-red",
        "ip link set vmbr-red down",
        "ip link set vmbr-red address 02:00:00:00:00:01",
        "sysctl -q net.ipv4.ip_forward=0",
        "kill {dnsmasq}",
    ],
)
def test_what_was_lost_comes_back_and_guests_stay_attached(networks, guests, damage):
    script = f"sh {networks.folder}/etc/networks/vmbr-red/network"
    networks.do(f"{script} check serve-check")
    pid = int((networks.folder / "run" / "vmbr-red.pid").read_text())
    networks.do(damage.format(dnsmasq=pid))
    wait_until(lambda: "kill" not in damage or pid not in networks.pids())

    assert networks.fails(f"{script} check serve-check")
    networks.do(f"{script} up serve")

    networks.do(f"{script} check serve-check")
    assert guests["web1"].lease() == guests["web1"].address
    assert pings(guests["web1"], OUTSIDE)
    assert networks.links()[guests["web1"].port]["master"] == "vmbr-red"


@needs_root
def test_the_role_sees_what_was_lost(networks):
    networks.do("nft delete table inet cloudnebula_vmbr-red")

    assert networks.role(RED, check=True)[0] == 1
    assert networks.up(RED) == 1


@needs_root
def test_a_network_in_use_is_not_removed(networks, guests):
    changes, output = networks.role({"name": RED["name"], "state": "absent"})

    assert changes == -1
    assert "still in use by tap-web1, tap-web2" in output
    assert pings(guests["web1"], OUTSIDE)


@needs_root
def test_rules_and_interfaces_of_others_are_left_alone(networks):
    networks.do("nft add table inet theirs")
    networks.do("ip link add br-theirs type bridge")
    try:
        changes, output = networks.role({"name": "br-theirs", "address": "192.168.80.1/24"})
        assert changes == -1
        assert (
            "br-theirs: an interface of this name exists, and this role did not make it" in output
        )

        assert networks.role({"name": "br-theirs", "state": "absent"})[0] == 0
        changes, output = networks.role({"name": "vmbr9", "address": "192.0.2.129/25"})
        assert changes == -1
        assert "overlaps with 192.0.2.0/24 of the interface up0" in output
        assert networks.role(RED)[0] == 0
        assert "br-theirs" in networks.links()
        assert "table inet theirs" in networks.do("nft list tables")
    finally:
        networks.do("ip link del br-theirs")
        networks.do("nft delete table inet theirs")


@needs_root
def test_users_may_use_the_bridge_helper_where_that_is_wanted(networks, tmp_path):
    helper = tmp_path / "qemu-bridge-helper"
    shutil.copy("/bin/true", helper)
    wanted = {
        "hypervisor_host_bridge_users": True,
        "hypervisor_host_bridge_helpers": ["/nowhere", str(helper)],
    }

    assert networks.up(RED, BLUE, **wanted) > 0
    allowed = (networks.folder / "qemu" / "bridge.conf").read_text()
    plain = helper.stat().st_mode
    assert networks.up(RED, BLUE, **wanted, hypervisor_host_bridge_helper_setuid=True) == 1

    assert allowed == "allow vmbr-red\nallow vmbr_blue\n"
    assert not plain & 0o4000
    assert helper.stat().st_mode & 0o4000


@needs_root
def test_systemd_that_does_not_run_is_refused(host):
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd runs here")

    changes, output = host.role(
        {"name": "vmbr9", "address": "192.168.90.1/24"}, hypervisor_host_service_manager="systemd"
    )

    assert changes == -1
    assert "systemd does not run on localhost" in output
    assert "vmbr9" not in host.links()


def planned(*networks: dict) -> dict:
    """Return what the role makes of the networks."""
    done = subprocess.run(
        [sys.executable, str(ROLE / "files" / "networks.py")],
        input=json.dumps({"networks": networks, "config_dir": "/nowhere"}),
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("address", "first", "last"),
    [
        ("10.77.0.1/24", "10.77.0.128", "10.77.0.254"),
        ("10.77.0.254/24", "10.77.0.1", "10.77.0.127"),
        ("10.77.0.1/30", "10.77.0.2", "10.77.0.2"),
        ("10.77.0.1/16", "10.77.128.0", "10.77.255.254"),
    ],
)
def test_default_range(address, first, last):
    network = planned({"name": "vmbr9", "address": address})["networks"][0]

    assert (network["dhcp_first"], network["dhcp_last"]) == (first, last)


A = {"name": "a", "address": "10.77.0.1/24"}


@pytest.mark.parametrize(
    ("wishes", "problem"),
    [
        ([{**A, "name": "bridge-of-guests"}], "name is not 1 to 15"),
        ([{**A, "name": "A"}], "name is not"),
        ([{**A, "name": "a b"}], "name is not"),
        ([{**A, "name": "../a"}], "name is not"),
        ([{**A, "name": "1a"}], "name is not"),
        ([{**A, "name": "all"}], "name is not"),
        ([{"name": "../a", "state": "absent"}], "name is not"),
        ([{"name": "a"}], "a: address is missing"),
        ([{**A, "address": "10.77.0.1"}], "prefix length"),
        ([{**A, "address": "10.77.0.1/31"}], "from 8 to 30"),
        (
            [{**A, "address": "10.77.0.0/24"}],
            "address 10.77.0.0 is not an address for an interface",
        ),
        ([{**A, "address": "10.77.0.255/24"}], "address 10.77.0.255 is not"),
        ([{**A, "dhcp_first": "10.78.0.5"}], "dhcp_first 10.78.0.5 is not an address"),
        ([{**A, "dhcp_last": "x"}], "dhcp_last x is not an IPv4 address"),
        ([{**A, "dhcp_last": "10.77.0.5"}], "comes after dhcp_last"),
        ([{**A, "dhcp_first": "10.77.0.1"}], "own address 10.77.0.1 is in the range"),
        ([{**A, "domain": "a b"}], "domain a b is not"),
        ([{**A, "domain": "x\ndhcp-script=/bin/sh"}], "is not a domain name"),
        ([{**A, "mac": "03:00:00:00:00:01"}], "mac 03:00:00:00:00:01 is not"),
        ([{**A, "mac": "02:00:00:00:00"}], "mac"),
        ([{**A, "uplinks": ['eth0"; }']}], "uplinks"),
        ([{**A, "uplinks": ["a"]}], "another interface"),
        ([{**A, "ipv6": "fd00::1/48"}], "prefix length 64"),
        ([{**A, "ipv6": "fe80::1/64"}], "cannot be the address of a network"),
        ([A, A], "a: named more than once"),
        ([A, {**A, "name": "b"}], "b: its subnet 10.77.0.0/24 overlaps with 10.77.0.0/24 of a"),
        ([A, {"name": "b", "address": "10.0.0.1/8"}], "overlaps"),
    ],
)
def test_what_is_not_possible_is_named(wishes, problem):
    problems = planned(*wishes)["problems"]

    assert problem in " ".join(problems)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """All templates of the role, written for a network."""
    folder = tmp_path_factory.mktemp("rendered")
    network = planned({**RED, "uplinks": ["eth0", "eth1"]})["networks"][0]
    files = {
        str(path): re.sub(r"^(.*)\.service$", r"cloudnebula-\1@vmbr-red.service", path.stem)
        for path in (ROLE / "templates").iterdir()
    }
    task = {
        "ansible.builtin.template": {
            "src": "{{ item.key }}",
            "dest": f"{folder}/{{{{ item.value }}}}",
        },
        "loop": "{{ files | dict2items }}",
    }
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ROLE / "vars" / "main.yml")],
        "vars": {"hypervisor_host_network": network, "files": files},
        "tasks": [task],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    ansible("ansible-playbook", "-i", str(LOCALHOST), str(folder / "play.yml"))
    return folder


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_understands_the_units(rendered):
    units = sorted(str(path) for path in rendered.glob("*.service"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert len(units) == 2
    about_ours = [line for line in done.stderr.splitlines() if "cloudnebula" in line]
    assert (done.returncode, about_ours) == (0, []), done.stderr


def test_shell_understands_the_script(rendered):
    subprocess.run(["sh", "-n", str(rendered / "network.sh")], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(
            ["shellcheck", str(rendered / "network.sh")],
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert done.returncode == 0, done.stdout
