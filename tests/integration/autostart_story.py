# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest with systemd as a hypervisor host: machines on it, which run nothing, come back after it was rebooted."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from conftest import ansible, in_guest

UNIT = "cloudnebula-vm@{}.service"
RECORD = "/root/.local/share/vmctl/vms/{}/vm.json"
PATIENCE = 400  # seconds


def check_autostart(guest, folder: Path) -> None:
    """Make two machines on the guest, reboot it, and see what became of them. The guest runs afterwards."""
    inventory = _inventory(guest, folder)
    on_guest = {"backend": "noop", "autostart": True}
    tasks = [
        {"cloudnebula.hypervisor.vm": {"name": "web1", "stop_timeout": 20, **on_guest}},
        {"cloudnebula.hypervisor.vm": {"name": "web2", "state": "stopped", **on_guest}},
        # Stands for QEMU that a task started, in the session that the task ran in.
        {"ansible.builtin.shell": "setsid sleep 7777 </dev/null >/dev/null 2>&1 &"},
    ]
    _play(inventory, folder, tasks)
    again = _play(inventory, folder, tasks[:2])
    assert "changed=0" in again, again
    assert _show(guest, "web1") == ["active", "exited", "enabled"]
    assert _show(guest, "web2") == ["inactive", "dead", "enabled"]
    assert _ask(guest, "sudo systemd-analyze verify /etc/systemd/system/cloudnebula-vm@*") == ""
    assert "cloudnebula-vm@web1.service" in _adopted(guest)
    boot = _ask(guest, "cat /proc/sys/kernel/random/boot_id")

    _ask(guest, "sudo mkdir -p /var/log/journal; sudo journalctl --flush; echo ready")
    _ask(guest, "sudo systemd-run --on-active=1 systemctl reboot 2>/dev/null; echo going")
    _wait_for(lambda: _try(guest, "cat /proc/sys/kernel/random/boot_id") not in ("", boot))

    _wait_for(lambda: _show(guest, "web2") == ["active", "exited", "enabled"])
    _wait_for(lambda: _show(guest, "web1") == ["active", "exited", "enabled"])
    assert [_state(guest, name) for name in ("web1", "web2")] == ["running", "running"]
    stopped = _ask(guest, f"sudo journalctl -q -b -1 -o cat -u {UNIT.format('web1')}")
    assert "web1: stop" in stopped.splitlines(), "it was stopped when its host went down"
    started = _ask(guest, f"sudo journalctl -q -b 0 -o cat -u {UNIT.format('web1')}")
    assert "web1: start" in started.splitlines()

    removal = {"cloudnebula.hypervisor.vm": {"name": "{{ item }}", "state": "absent"}}
    _play(inventory, folder, [{**removal, "loop": ["web1", "web2"]}])
    left = "ls /etc/systemd/system | grep cloudnebula; systemctl -q is-active 'cloudnebula-vm@*'"
    assert _ask(guest, f"{left} || true") == ""


def _inventory(guest, folder: Path) -> Path:
    ssh = guest["ssh"]
    known_hosts = f"{guest['paths']['work_dir']}/known_hosts"
    host = {
        "ansible_host": ssh["host"],
        "ansible_port": ssh["port"],
        "ansible_user": ssh["user"],
        "ansible_ssh_private_key_file": ssh["private_key_path"],
        "ansible_ssh_common_args": f"-F none -o UserKnownHostsFile={known_hosts}",
        "ansible_timeout": 60,
    }
    path = folder / "guest_as_host.json"
    path.write_text(json.dumps({"all": {"hosts": {"debian1": host}}}))
    return path


def _play(inventory: Path, folder: Path, tasks) -> str:
    book = folder / "on_guest.json"
    play = {"hosts": "all", "gather_facts": False, "become": True, "tasks": tasks}
    book.write_text(json.dumps([play]))
    return ansible("ansible-playbook", "-i", str(inventory), str(book)).stdout


def _ask(guest, command: str) -> str:
    return in_guest(guest, command).strip()


def _try(guest, command: str) -> str:
    try:
        return _ask(guest, command)
    except (AssertionError, subprocess.TimeoutExpired):
        return ""  # it is down, or on its way


def _wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(2)


def _show(guest, name: str) -> list[str]:
    fields = "-p ActiveState -p SubState -p UnitFileState --value"
    return _try(guest, f"systemctl show {UNIT.format(name)} {fields}").split()


def _state(guest, name: str) -> str:
    return json.loads(_ask(guest, f"sudo cat {RECORD.format(name)}"))["state"]


def _adopted(guest) -> str:
    manager = "org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager"
    call = f"AttachProcessesToUnit ssau {UNIT.format('web1')} '' 1 $p"
    return _ask(
        guest,
        f"p=$(pgrep -o -x -f 'sleep 7777'); sudo busctl call {manager} {call}; cat /proc/$p/cgroup",
    )
