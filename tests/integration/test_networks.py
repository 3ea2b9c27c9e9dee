# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network cards of real machines: on a bridge in a network namespace, on TAPs, and with forwarded ports."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from conftest import HALT, Hypervisor, clean_up, in_guest, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network namespace")

HELPERS = [Path("/usr/lib/qemu/qemu-bridge-helper"), Path("/usr/libexec/qemu-bridge-helper")]


@pytest.fixture
def idle_on_lan(on_lan, tmp_path):
    image = tmp_path / "halt.raw"
    image.write_bytes(HALT)
    on_lan.defaults = {"image": str(image), "memory": "64"}
    return on_lan


BRIDGED = [{"type": "bridge", "bridge": "br0"}]


def test_two_guests_on_a_bridge(on_lan, lan):
    """Each has the address that the DHCP server gave to its own card, whatever else stands in the tables."""
    common = {"lease_files": [str(lan.leases)], "networks": BRIDGED}
    first = on_lan.vm("web1", **common, wait_for="ssh")["vm"]
    second = on_lan.vm("web2", **common, wait_for="ip")["vm"]

    leases = {line.split()[1]: line.split()[2] for line in lan.leases.read_text().splitlines()}
    for vm in (first, second):
        card = vm["networks"][0]
        assert vm["ip_address"] == leases[card["mac"]]
        assert card["ip_addresses"] == [vm["ip_address"]]
        assert vm["ssh"]["host"] == vm["ip_address"]
        assert vm["ssh"]["port"] == 22
    assert first["ip_address"] != second["ip_address"]
    assert len(lan.ports()) == 2

    with lan.leases.open("a") as file:  # a decoy: the last lease, under the same host name
        file.write(f"{int(time.time()) + 3600} 52:54:00:00:00:99 192.168.77.99 web1 *\n")
    lan.run("ip", "neigh", "replace", "192.168.77.98", "lladdr", "52:54:00:00:00:98", "dev", "br0")
    assert on_lan.info("web1")[0]["ip_address"] == first["ip_address"]

    assert in_guest(first, "hostname", lan.prefix).strip() == "web1"
    assert not on_lan.vm("web1", **common, wait_for="ssh")["changed"]

    on_lan.vm("web1", state="stopped")
    assert on_lan.info("web1")[0]["ip_address"] is None
    assert on_lan.info("web2")[0]["ip_address"] == second["ip_address"]


def test_cards_keep_order_and_addresses(on_lan, lan):
    networks = [
        {"type": "user"},
        {"type": "bridge", "bridge": "br0", "name": "lan", "mtu": 1400},
        {
            "type": "bridge",
            "bridge": "br0",
            "name": "dmz",
            "mac": "52:54:00:12:34:56",
            "model": "e1000e",
        },
    ]
    vm = on_lan.vm(networks=networks, wait_for="ssh")["vm"]
    macs = [card["mac"] for card in vm["networks"]]
    seen = in_guest(
        vm, "cat /sys/class/net/eth*/address; cat /sys/class/net/eth1/mtu", lan.prefix
    ).split()
    assert seen[:2] == macs[:2], "the guest has no driver for the third"
    assert macs[2] == "52:54:00:12:34:56"
    assert seen[-1] == "1400"

    again = on_lan.vm(state="restarted", wait_for="ssh")["vm"]

    assert [card["mac"] for card in again["networks"]] == macs
    assert not on_lan.vm(networks=networks)["changed"]


def test_forwarded_port(guests):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    guests.vm(
        networks=[{"type": "user", "port_forwards": [{"host": port, "guest": 22}]}], wait_for="ssh"
    )

    with socket.create_connection(("127.0.0.1", port), timeout=10) as forwarded:
        assert forwarded.recv(4) == b"SSH-"


@pytest.mark.parametrize("check", [False, True])
def test_missing_bridge(idle_on_lan, check):
    if check:
        result = idle_on_lan.vm(networks=[{"type": "bridge", "bridge": "later0"}], check=True)
        assert "later0" in result["warnings"][0]
    else:
        networks = [{"type": "bridge", "bridge": "later0"}]
        result = idle_on_lan.refuse(**idle_on_lan.defaults, networks=networks)
        assert result["error"]["code"] == "vm_manager.network.no_bridge"
        assert "networks[0].bridge" in result["msg"]
    assert not idle_on_lan.data_dir.exists()


def test_interface_goes_with_the_process(idle_on_lan, lan):
    """Nothing is left of it: not after a stop, not after kill -9, and the next start makes it anew."""
    vm = idle_on_lan.vm(networks=BRIDGED)["vm"]
    (port,) = lan.ports()
    assert len(port) <= 15

    os.kill(vm["pid"], signal.SIGKILL)
    wait_until(lambda: lan.ports() == [])

    idle_on_lan.vm()
    assert lan.ports() == [port]
    idle_on_lan.vm(state="stopped", force=True)
    wait_until(lambda: lan.ports() == [])


def test_task_killed_while_it_starts_leaves_no_interface(idle_on_lan, lan):
    options = {"name": "vm1", **idle_on_lan.defaults, "networks": BRIDGED}
    for pause in (0.15, 0.25, 0.35):
        task = idle_on_lan.begin("vm", **options)
        time.sleep(pause)
        task.kill()
        task.communicate()
        running = [
            command for command in idle_on_lan.processes().values() if "qemu-system" in command
        ]
        if not running:
            wait_until(lambda: lan.ports() == [])
    assert idle_on_lan.vm(networks=BRIDGED)["vm"]["state"] == "running"
    assert len(lan.ports()) == 1


def test_tap_of_its_own_and_tap_that_was_there(idle_on_lan, lan):
    lan.run("ip", "tuntap", "add", "dev", "mine0", "mode", "tap", "user", "root")
    networks = [{"type": "tap", "interface": "fresh0"}, {"type": "tap", "interface": "mine0"}]

    idle_on_lan.vm(networks=networks)

    assert {"fresh0", "mine0"} <= set(lan.run("ip", "-br", "link").split())
    busy = idle_on_lan.refuse("vm2", **idle_on_lan.defaults, networks=networks[:1])
    assert "fresh0" in busy["msg"]
    assert idle_on_lan.state("vm2") is None
    idle_on_lan.vm(state="absent", force=True)
    left = lan.run("ip", "-br", "link").split()
    assert "mine0" in left
    assert "fresh0" not in left


def test_no_lease_no_address(idle_on_lan, lan):
    """The time-out says what was seen for the card."""
    result = idle_on_lan.refuse(
        **idle_on_lan.defaults,
        networks=BRIDGED,
        wait_for="ip",
        wait_timeout=2,
        lease_files=[str(lan.leases)],
    )

    assert result["error"]["code"] == "vm_manager.network.ip_discovery_timeout"
    assert result["vm"]["networks"][0]["mac"] in result["msg"]
    assert "br0" in result["msg"]
    assert result["changed"]


@pytest.mark.skipif(
    not any(path.exists() for path in HELPERS), reason="QEMU's bridge helper is not installed"
)
def test_bridge_without_root_through_the_helper(lan, tmp_path):
    """An ordinary user joins a bridge that the administrator allows."""
    helper = tmp_path / "bin" / "qemu-bridge-helper"
    helper.parent.mkdir()
    shutil.copy(next(path for path in HELPERS if path.exists()), helper)
    helper.chmod(0o4755)
    for folder in (tmp_path, *tmp_path.parents):
        if any(part.startswith("pytest-of-") for part in folder.parts):
            folder.chmod(0o755)
    allow = "mkdir -p /etc/qemu && mount -t tmpfs tmpfs /etc/qemu && echo 'allow br0' > /etc/qemu/bridge.conf"
    # As udev leaves it: everybody may open the device, and the kernel asks for privileges later.
    allow += " && mount -t tmpfs tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200"
    become = 'exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"'
    subject = Hypervisor(
        tmp_path / "home" / "data",
        prefix=[*lan.prefix, "unshare", "-m", "sh", "-c", f"{allow}; {become}", "sh"],
    )
    subject.data_dir.parent.mkdir()
    os.chown(subject.data_dir.parent, 65534, 65534)
    image = tmp_path / "halt.raw"
    image.write_bytes(HALT)
    subject.environment |= {
        "PATH": f"{helper.parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(subject.data_dir.parent),
    }
    subject.python = shutil.which("python3", path="/usr/bin")
    subject.environment["PYTHONPATH"] += (
        f":{next(Path(path) for path in __import__('sys').path if path.endswith('site-packages'))}"
    )
    subject.defaults = {"image": str(image), "memory": "64"}

    vm = subject.vm(networks=BRIDGED)["vm"]

    assert vm["state"] == "running"
    assert os.stat(f"/proc/{vm['pid']}").st_uid == 65534
    assert len(lan.ports()) == 1
    clean_up(subject)
    wait_until(lambda: lan.ports() == [])
