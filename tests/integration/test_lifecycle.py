# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a machine with a real guest, told as a playbook and looked at from outside."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from conftest import ROOT, ansible, command_line, in_guest, play, sha256, wait_until

STORIES = ROOT / "tests" / "integration" / "stories"


def test_story_of_one_machine(guests, smoke_image):
    """Every state, each in check mode, for real, and both again; see the playbook."""
    play(STORIES / "lifecycle.yml", data_dir=str(guests.data_dir), image=str(smoke_image))

    assert guests.files() == []
    assert guests.processes() == {}


def test_guest_keeps_its_identity_and_data(guests):
    first = guests.vm(state="started", wait_for="ssh")["vm"]
    host_key = in_guest(
        first, "sudo cat /etc/dropbear/dropbear_ed25519_host_key | sha256sum; touch ~/kept; sync"
    )

    second = guests.vm(state="restarted", wait_for="ssh")["vm"]

    assert second["stopped_by"] is None
    assert second["pid"] != first["pid"]
    for field in ("id", "networks", "ssh", "disks"):
        assert second[field] == first[field]
    again = in_guest(
        second, "sudo cat /etc/dropbear/dropbear_ed25519_host_key | sha256sum; ls ~/kept"
    )
    assert again.startswith(host_key.splitlines()[0])
    assert "kept" in again


def test_guest_gets_what_cloud_init_was_told(guests, tmp_path):
    key = tmp_path / "mine"
    os.system(f"ssh-keygen -q -t ed25519 -N '' -f {key}")
    cloud_init = {
        "hostname": "inside",
        "user": "admin",
        "ssh_authorized_keys": [Path(f"{key}.pub").read_text()],
    }

    vm = guests.vm(cloud_init=cloud_init, wait_for="ssh")["vm"]

    assert vm["ssh"]["private_key_path"] is None
    assert not (guests.folder() / "id_ed25519").exists()
    vm["ssh"]["private_key_path"] = str(key)
    assert in_guest(vm, "hostname; id -un").split() == ["inside", "admin"]


def test_guest_powers_off_when_asked(guests):
    guests.vm(wait_for="ssh")

    start = time.monotonic()
    result = guests.vm(state="stopped")

    assert result["vm"]["stopped_by"] == "guest"
    assert result["vm"]["state"] == "stopped"
    assert time.monotonic() - start < 20, "well before the time limit of 30 seconds"
    assert guests.processes() == {}


def test_button_pressed_while_the_guest_boots_is_pressed_again(guests):
    guests.vm()  # QEMU runs; the guest's kernel has not begun

    assert guests.vm(state="stopped", stop_timeout=60)["vm"]["stopped_by"] == "guest"


def test_only_loopback_listens(guests):
    vm = guests.vm(wait_for="ssh", vnc=True)["vm"]

    listening = listeners(vm["pid"])

    assert {port for _host, port in listening} == {vm["ssh"]["port"], vm["vnc"]["port"]}
    assert {host for host, _port in listening} == {"127.0.0.1"}


def test_screen_asks_for_the_password(idle):
    vm = idle.vm(vnc=True)["vm"]

    with socket.create_connection((vm["vnc"]["host"], vm["vnc"]["port"]), timeout=5) as screen:
        assert screen.recv(12) == b"RFB 003.008\n"
        screen.sendall(b"RFB 003.008\n")
        count = screen.recv(1)
        assert screen.recv(count[0]) == b"\x02"  # VNC authentication and nothing else
    assert len(Path(vm["vnc"]["password_file"]).read_text()) == 8


def test_process_is_confined(idle):
    vm = idle.vm()["vm"]

    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{vm['pid']}/status").read_text().splitlines()
    )

    assert status["Seccomp"].strip() == "2"
    assert status["NoNewPrivs"].strip() == "1"
    assert os.getsid(vm["pid"]) == vm["pid"]
    assert "spawn=deny" in command_line(vm["pid"])


def test_console_is_a_terminal_and_is_logged(guests):
    vm = guests.vm(wait_for="ssh")["vm"]

    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(20)
        console.connect(vm["console"]["path"])
        console.sendall(b"echo from-$((40 + 2))\n")
        seen = b""
        while b"from-42" not in seen:
            seen += console.recv(4096)
    log = Path(vm["paths"]["console_log"])
    wait_until(lambda: "from-42" in log.read_text(errors="replace"))

    guests.vm(state="restarted", force=True)

    assert "from-42" in log.read_text(errors="replace"), "the log survives a restart"


def test_comma_and_space_in_paths(guests, smoke_image, tmp_path):
    folder = tmp_path / "a,b c=d"
    folder.mkdir()
    image = folder / "base,image x.qcow2"
    image.write_bytes(smoke_image.read_bytes())
    before = sha256(image)
    guests.data_dir = folder / "data"

    vm = guests.vm(image=str(image), wait_for="ssh")["vm"]

    assert in_guest(vm, "hostname").strip() == "vm1"
    guests.vm(state="absent")
    assert sha256(image) == before


def test_data_folder_deeper_than_a_socket_address(idle, tmp_path):
    idle.data_dir = tmp_path / ("x" * 120) / ("y" * 120)

    vm = idle.vm()["vm"]

    assert vm["state"] == "running"
    assert idle.vm(state="suspended")["vm"]["state"] == "suspended"
    idle.vm(state="absent")


def listeners(pid):
    """Return the addresses on which a process listens for TCP, as the kernel tells."""
    inodes = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in inodes:
                address, port = columns[1].split(":")
                raw = b"".join(
                    bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)
                )
                found.add((socket.inet_ntop(family, raw), int(port, 16)))
    return found


def test_user_data_as_text_keeps_the_way_in(guests):
    """The text is used as it is; the key that was made for the machine reaches the image's default user."""
    user_data = "#cloud-config\n# password: ahem\nhostname: named-by-text\n"

    vm = guests.vm(cloud_init={"user_data": user_data}, wait_for="ssh")["vm"]

    assert vm["ssh"]["user"] is None, "the text may make any user"
    vm["ssh"]["user"] = "vm"
    assert in_guest(vm, "hostname; sudo id -u").split() == ["named-by-text", "0"]


def test_users_of_ones_own(guests):
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA nobody"
    users = [{"name": "carol", "ssh_authorized_keys": [key]}]

    vm = guests.vm(cloud_init={"user_data": {"users": users}}, wait_for="ssh")["vm"]

    assert vm["ssh"]["user"] == "vm"
    assert in_guest(vm, "sudo cat /home/carol/.ssh/authorized_keys").strip() == key


def test_host_key_that_was_made_beforehand(guests, tmp_path):
    """Nobody has to trust the first key that answers: the inventory accepts the one that was given to the guest."""
    vm = guests.vm(cloud_init={"ssh_host_key": True}, wait_for="ssh")["vm"]
    source = tmp_path / "x.hypervisor.yml"
    source.write_text(f"plugin: cloudnebula.hypervisor.vms\ndata_dir: {guests.data_dir}\n")

    said = ansible("ansible", "-i", str(source), "all", "-m", "raw", "-a", "hostname").stdout

    assert "vm1" in said
    assert vm["ssh"]["host_key"].startswith("ssh-ed25519 AAAA")
    assert not (guests.folder() / "known_hosts").exists(), "nothing had to be learned"
    private = guests.folder() / "ssh_host_ed25519_key"
    assert private.stat().st_mode & 0o077 == 0
    assert private.read_text().splitlines()[1] not in json.dumps(guests.info())

    again = guests.vm(state="restarted", wait_for="ssh")["vm"]
    assert again["ssh"]["host_key"] == vm["ssh"]["host_key"]

    other = vm["ssh"]["host_key"][:-4] + "AAAA"
    guests.edit(host_key=other)
    done = ansible("ansible", "-i", str(source), "all", "-m", "raw", "-a", "hostname", check=False)
    assert done.returncode != 0
    assert "Host key verification failed" in done.stdout
