# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest with systemd as a hypervisor host: machines on it, which run nothing, come back after it was rebooted.

The guest is slow, so there is little talk with it: few tasks, and many questions in one login.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from conftest import ROOT, ansible, in_guest
from jinja2 import Template

PACKAGE = "ansible_collections.cloudnebula.hypervisor.plugins.module_utils"
PATIENCE = 400  # seconds
UNITS = "/etc/systemd/system"
WEB1 = "cloudnebula-vm@web1.service"  # in the usual data folder
OTHER_DIR = "/srv/my vms"  # where web2 lies
NETWORK = "cloudnebula-network@br9.service"
CARD = {"type": "bridge", "bridge": "br9"}
BOOT = "cat /proc/sys/kernel/random/boot_id"
LIST = "ls /etc/systemd/system | grep cloudnebula-vm || true"
WEB3 = WEB1.replace("1", "3")  # of an ordinary user, in an instance of systemd of their own
TIMES = "-p Id -p InactiveExitTimestampMonotonic -p ActiveEnterTimestampMonotonic"
STATE = "-p ActiveState -p SubState -p UnitFileState --value"

# What a task does with QEMU that it has started, done with another process. It is the product's own code.
ADOPT = f"""\
import sys
sys.path.insert(0, "{OTHER_DIR}/lib/runner.pyz")
from {PACKAGE}._autostart import HostUnits
from {PACKAGE}._core.state import VmState
from {PACKAGE}._core.vm import Vm
from {PACKAGE}._host.store import Store, default_data_dir
store = Store(default_data_dir())
print(HostUnits(store).adopt(Vm(store.load("web1"), VmState.RUNNING, pid=int(sys.argv[1]))))
"""


def check_autostart(guest, source: Path, folder: Path) -> None:
    """Make three machines on the guest, reboot it, and see what became of them. The guest runs afterwards.

    ``source`` is an inventory that holds the guest as ``debian1``.
    """
    prepare(guest)
    play(source, folder, making())
    web2 = check_units(guest)
    boot = adopt_and_reboot(guest)
    wait_for_next_boot(guest, boot)
    check_what_the_journal_says(guest, web2)
    check_order_at_boot(guest)
    check_unit_by_hand(guest, web2)
    play(source, folder, removing())


def prepare(guest) -> None:
    """Give the guest a network of the role's, in name at least, a user who lingers, and a journal that outlives its boot.

    cloud-init has done its work, and would take a good part of the time to boot.
    """
    template = ROOT / "roles" / "hypervisor_host" / "templates" / "network.service.j2"
    place = {"hypervisor_host_network_folder": "/etc/br9"}
    unit = Template(template.read_text()).render(hypervisor_host_network={"name": "br9"}, **place)
    script = [
        "set -e; mkdir -p /etc/br9 /var/log/journal; echo 'echo network $1' > /etc/br9/network",
        f"printf %s {shlex.quote(unit)} > {UNITS}/{NETWORK}",
        f"systemctl -q enable --now {NETWORK}",
        f"loginctl enable-linger {guest['ssh']['user']}",
        "touch /etc/cloud/cloud-init.disabled",
        "journalctl --flush",
    ]
    ask(guest, as_root("; ".join(script)))


def making() -> list:
    """Return the tasks that make the machines: one runs, one was stopped by a task, and one is an ordinary user's."""
    web1 = {"name": "web1", "backend": "noop", "networks": [CARD]}
    web2 = {"name": "web2", "backend": "noop", "data_dir": OTHER_DIR}
    on = {"autostart": True, "stop_timeout": 20}
    return [
        vm(**web2),
        raw(LIST, "said.stdout | trim == ''"),
        vm(**web1, **on),
        vm("said is not changed", **web1, **on),
        vm("said.actions == ['stop', 'prepare', 'autostart']", **web2, **on, state="stopped"),
        vm("said is not changed", **web2, **on, state="stopped"),
        as_user(vm(name="web3", backend="noop", autostart=True)),
    ]


def check_units(guest) -> str:
    """See that the machines' units are as they should; return the name of that of web2."""
    listed, verified, one, other = ask(
        guest,
        LIST,
        # It takes what comes after a colon for another name of the unit.
        f"cd /tmp; cp {UNITS}/{WEB1} .; cp {UNITS}/cloudnebula-vm@web2:* cloudnebula-vm@web2.service;"
        "for unit in cloudnebula-vm@*; do systemd-analyze verify /tmp/$unit 2>&1 || echo bad; done",
        f"systemctl show {WEB1} {STATE}",
        f"systemctl show 'cloudnebula-vm@web2:'* {STATE}; ls -d {UNITS}/multi-user.target.wants/*web2*",
    )
    web1, web2 = sorted(listed.split())
    assert (web1, web2.partition(":")[0]) == (WEB1, "cloudnebula-vm@web2")
    assert verified == ""
    assert one.split() == ["active", "exited", "enabled"]
    assert other.split()[-1] == f"{UNITS}/multi-user.target.wants/{web2}"
    assert "active" not in other.split(), "the machine does not run"
    return web2


def adopt_and_reboot(guest) -> str:
    """Put a process into the care of web1's unit, as a task does with QEMU; reboot, and return which boot it was."""
    adopt = f"p=$!; python3 -I -c {shlex.quote(ADOPT)} $p; cat /proc/$p/cgroup"
    said, group, boot = ask(
        guest,
        as_root(f"setsid sleep 7777 </dev/null >/dev/null 2>&1 & {adopt} > /tmp/group"),
        "cat /tmp/group",
        BOOT,
    )
    assert said == "None", "nothing went wrong"
    assert group.endswith(f"/{WEB1}")
    attempt(guest, "sudo systemctl --no-block reboot")
    return boot


def wait_for_next_boot(guest, boot: str) -> None:
    """Wait until the guest has booted again, and nothing that it starts is still on its way."""
    deadline = time.monotonic() + PATIENCE
    while True:
        if takes_ssh(guest):
            up = "is-system-running --wait"
            whole = (f"timeout 30 systemctl {up}", f"timeout 30 systemctl --user {up}")
            said = attempt(guest, BOOT, *whole)
            if said and said[0] != boot and not {"", "starting", "initializing"}.intersection(said):
                break
        assert time.monotonic() < deadline, Path(guest["paths"]["console_log"]).read_text()[-2000:]
        time.sleep(0.5)
    assert said[1:] == ["running", "running"], ask(
        guest, "systemctl list-units --failed; sudo journalctl -b -p 3"
    )


def takes_ssh(guest) -> bool:
    """Tell whether the guest greets: QEMU takes connections for it while it is down, and SSH would wait long for it."""
    with contextlib.suppress(OSError):
        address = (guest["ssh"]["host"], guest["ssh"]["port"])
        with socket.create_connection(address, 5) as connection:
            connection.settimeout(10)
            return connection.recv(4) == b"SSH-"
    return False


def check_what_the_journal_says(guest, web2: str) -> None:
    """See what was started and stopped, and in which order."""
    units = shlex.join(f"-u{unit}" for unit in (WEB1, web2, NETWORK))
    down, up, user = (
        said.splitlines()
        for said in ask(
            guest,
            *(f"sudo journalctl -q -o cat -b {boot} {units}" for boot in ("-1", "0")),
            f"sudo journalctl -q -o cat -b _SYSTEMD_USER_UNIT={WEB3} + USER_UNIT={WEB3}",
        )
    )
    in_order(down, "web1: stop", "network down")
    # Whatever ended the session that it came from, it was there until the machine had been stopped.
    in_order(down, "web1: stop", f"{WEB1}: Unit process ", "Stopped cloudnebula-vm@web1")
    in_order(up, "network up", "web1: start", "Finished cloudnebula-vm@web1")
    in_order(up, "web2: start", "Finished cloudnebula-vm@web2")
    # It ran when the guest went down, so there is something to start only because it was stopped then.
    in_order(user, "web3: start", "Finished cloudnebula-vm@web3")


def check_order_at_boot(guest) -> None:
    """See that web1 was not started before all that its unit names was there."""
    named, told = ask(
        guest,
        f"sed -n s/^After=//p {UNITS}/{WEB1}",
        f"systemctl show {TIMES} {WEB1} $(sed -n s/^After=//p {UNITS}/{WEB1})",
    )
    units = [dict(line.split("=", 1) for line in unit.splitlines()) for unit in told.split("\n\n")]
    times = {unit.pop("Id"): {name: int(time) for name, time in unit.items()} for unit in units}
    begun = times.pop(WEB1)["InactiveExitTimestampMonotonic"]
    there = {unit: time["ActiveEnterTimestampMonotonic"] for unit, time in times.items()}
    assert sorted(there) == sorted(named.split())
    for unit in (NETWORK, "network-online.target", "remote-fs.target"):
        assert there[unit] > 0, "else it has proven nothing"
    assert {unit: time for unit, time in there.items() if time > begun} == {}


def check_unit_by_hand(guest, web2: str) -> None:
    """See that an administrator stops the machine with its unit, which tells why if it cannot start the machine."""
    record = f"'{OTHER_DIR}/vms/web2'"
    ask(guest, as_root(f"systemctl stop {web2} && mv {record} /var/tmp/web2"))
    active, journal, _back = ask(
        guest,
        f"sudo systemctl start {web2} 2>/dev/null; systemctl is-active {web2}",
        f"sudo journalctl -q -o cat -b -u {web2}",
        as_root(f"mv /var/tmp/web2 {record}"),
    )
    assert active == "failed"
    in_order(journal.splitlines(), "web2: start", "web2: stop", "There is no complete VM 'web2'")


def removing() -> list:
    """Return the tasks that ask the product what runs, and leave none of the units."""
    info = "cloudnebula.hypervisor.vm_info"
    gone = f"{LIST}; systemctl list-units --all --plain --no-legend --no-pager 'cloudnebula-vm@*'"
    gone += "; find /home -name 'cloudnebula-vm@*'"
    return [
        told({info: {"name": "web1"}}, "said.vms[0].state == 'running'"),
        told({info: {"name": "web2", "data_dir": OTHER_DIR}}, "said.vms[0].state == 'stopped'"),
        vm("said.vm.state == 'running'", name="web1", autostart=False),
        vm("said is changed", name="web2", data_dir=OTHER_DIR, state="absent"),
        as_user(
            vm("said.actions == ['autostart', 'stop', 'destroy']", name="web3", state="absent")
        ),
        raw(gone, "said.stdout | trim == ''"),
    ]


def vm(condition: str = "said is changed", **options) -> dict:
    """Return a task of the module ``vm`` of which a condition must hold."""
    return told({"cloudnebula.hypervisor.vm": options}, condition)


def as_user(task: dict) -> dict:
    """Return a task that is run as the user who logs in."""
    return {**task, "become": False}


def raw(command: str, condition: str) -> dict:
    """Return a task that needs no Python."""
    return told({"ansible.builtin.raw": command}, condition)


def told(task: dict, condition: str) -> dict:
    """Return a task that fails unless a condition on what it ``said`` holds."""
    return {**task, "register": "said", "failed_when": f"said is failed or not ({condition})"}


def play(source: Path, folder: Path, tasks: list) -> None:
    """Run tasks on the guest, over one connection."""
    book = folder / "on_guest.json"
    head = {"hosts": "debian1", "gather_facts": False, "become": True}
    known = {"ansible_python_interpreter": "/usr/bin/python3"}
    book.write_text(json.dumps([{**head, "vars": known, "tasks": tasks}]))
    env = {"ANSIBLE_TIMEOUT": "60", "ANSIBLE_PIPELINING": "1", "ANSIBLE_SSH_RETRIES": "3"}
    ansible("ansible-playbook", "-i", str(source), str(book), env=env)


def as_root(script: str) -> str:
    return f"sudo sh -c {shlex.quote(script)}"


def ask(guest, *commands: str) -> list[str]:
    """Run commands in one login; return what each of them said. The exit status of a command does not matter."""
    mark = "=== next ==="
    script = f"; echo; echo '{mark}'; ".join(f"{{ {command}; }}" for command in commands)
    return [said.strip() for said in in_guest(guest, f"{script}; true").split(mark)]


def attempt(guest, *commands: str) -> list[str]:
    """Do the same with a guest that may be down, or on its way; return nothing then."""
    try:
        return ask(guest, *commands)
    except (AssertionError, subprocess.TimeoutExpired):
        return []


def in_order(lines: Iterable[str], *beginnings: str) -> None:
    """Expect lines that begin so, one after the other."""
    rest = iter(lines)
    for beginning in beginnings:
        assert any(line.startswith(beginning) for line in rest), (beginning, lines)
