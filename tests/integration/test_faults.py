# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed runs, killed machines, two tasks at once, hung monitors: the next run ends in the state that was asked for."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Hypervisor, disk_size, in_guest, sha256, wait_until


def kill(pid, signum=signal.SIGKILL):
    """Send a signal to a process that this test started."""
    os.kill(pid, signum)


def test_started_again_while_it_runs(idle):
    """A second start must not take the sockets away from a machine that runs."""
    first = idle.vm()["vm"]

    again = idle.vm()

    assert not again["changed"]
    assert again["vm"]["pid"] == first["pid"]
    assert idle.vm(state="suspended")["vm"]["state"] == "suspended"  # the monitor still answers
    assert idle.vm(state="started")["vm"]["pid"] == first["pid"]


def test_started_while_it_is_suspended(idle):
    first = idle.vm()["vm"]
    idle.vm(state="suspended")

    result = idle.vm()

    assert result["actions"] == ["resume"]
    assert result["vm"]["pid"] == first["pid"]
    assert (result["vm"]["state"], result["vm"]["run_state"]) == ("running", "running")


def test_killed_qemu(idle):
    pid = idle.vm()["vm"]["pid"]
    kill(pid)
    wait_until(lambda: idle.state() == "stopped")

    result = idle.vm()

    assert result["actions"] == ["start"]
    assert result["vm"]["pid"] != pid
    assert idle.state() == "running"


def test_process_number_that_another_process_has(idle):
    """A stranger with the number of our QEMU is neither taken for it nor touched."""
    kill(idle.vm()["vm"]["pid"])
    wait_until(lambda: idle.state() == "stopped")
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (idle.folder() / "qemu.pid").write_text(f"{stranger.pid}\n")
        idle.edit(pid=stranger.pid, state="running")

        assert idle.state() == "stopped"
        idle.vm(state="stopped", force=True)
        idle.vm(state="absent", force=True)

        assert stranger.poll() is None
        stranger.kill()


def test_machine_that_runs_without_its_pid_file(idle):
    """A process that cannot be named is neither taken for ended nor signalled; its disk stays."""
    pid = idle.vm()["vm"]["pid"]
    pid_file = idle.folder() / "qemu.pid"
    pid_file.unlink()

    shown = idle.run("vm_info")
    stop = idle.refuse(state="stopped", force=True)
    pid_file.write_text(f"{pid}\n")  # the number alone is no proof
    remove = idle.refuse(state="absent", force=True)

    assert (shown["vms"][0]["state"], shown["vms"][0]["pid"]) == ("running", None)
    assert "qemu.pid is gone or not its own" in shown["warnings"][0]
    for result in (stop, remove):
        assert result["error"]["code"] == "vm_manager.vm.invalid_state"
        assert f"fuser {idle.folder()}/alive.lock" in result["error"]["help"]
    assert (idle.folder() / "overlay.qcow2").exists()
    assert str(idle.folder()) in idle.processes()[pid]

    kill(pid, signal.SIGTERM)
    wait_until(lambda: idle.state() == "stopped")
    assert idle.vm()["actions"] == ["start"]


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_machine_whose_data_folder_was_copied_or_moved_while_it_runs(idle, how):
    """The record's paths lead to the original: a task on the copy must not end its process."""
    pid = idle.vm()["vm"]["pid"]
    other = Hypervisor(idle.data_dir.parent / "other")
    if how == "copied":
        subprocess.run(["cp", "-a", idle.data_dir, other.data_dir], check=True)
    else:
        idle.data_dir.rename(other.data_dir)

    shown = other.run("vm_info")
    results = [other.refuse(state=state, force=True) for state in ("absent", "stopped", "started")]

    assert shown["vms"] == []
    assert "was made for the folder" in shown["warnings"][0]
    assert {result["error"]["code"] for result in results} == {"vm_manager.vm.bad_record"}
    assert (other.folder() / "overlay.qcow2").exists()
    if how == "moved":
        other.data_dir.rename(idle.data_dir)
    assert [(vm["state"], vm["pid"]) for vm in idle.info()] == [("running", pid)]
    shutil.rmtree(other.data_dir, ignore_errors=True)


def test_record_that_was_lost(idle):
    """The disk may hold what matters: no new machine is made over it, and check mode says so."""
    idle.vm(state="present")
    disk = idle.folder() / "overlay.qcow2"
    before = sha256(disk)
    idle.record().unlink()

    results = [idle.refuse(**idle.defaults, check=check) for check in (True, False)]

    for result in results:
        assert result["error"]["code"] == "vm_manager.vm.bad_record"
        assert str(disk) in result["msg"]
    assert not idle.vm(state="absent")["changed"]
    assert sha256(disk) == before

    shutil.rmtree(idle.folder())
    assert idle.vm(state="present")["changed"]


def test_record_that_is_older_than_a_disk(idle):
    """It was restored from a backup: the file is taken as it is, or left alone with an error that names it."""
    idle.vm(state="present")
    before = idle.record().read_bytes()
    data = {"name": "data", "size": "1MiB"}
    idle.vm(state="present", disks=[data])
    disk = idle.folder() / "disk-data.qcow2"
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", disk]
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
    written = sha256(disk)
    idle.record().write_bytes(before)

    for other in ({"size": "2MiB"}, {"format": "raw"}, {"image": idle.defaults["image"]}):
        for check in (True, False):
            refused = idle.refuse(state="present", disks=[{**data, **other}], check=check)
            assert refused["error"]["code"] == "vm_manager.vm.bad_record"
            assert f"{disk} is there already" in refused["msg"]
            assert idle.record().read_bytes() == before
    assert idle.vm(state="present", disks=[data], check=True)["actions"] == ["prepare"]
    made = idle.vm(disks=[data])

    assert made["actions"] == ["prepare", "start"]
    assert [item["path"] for item in made["vm"]["disks"]][1:] == [str(disk)]
    assert sha256(disk) == written
    assert idle.vm(disks=[data])["changed"] is False
    idle.vm(state="stopped", force=True)
    idle.edit(state="preparing", overlay_path=None, disk_bytes=None)
    for check in (True, False):
        assert "never complete" in idle.refuse(state="present", check=check)["msg"]
    assert sha256(disk) == written


def test_record_that_is_a_pipe_hinders_no_other_machine(idle):
    idle.vm("bad", state="present")
    idle.record("bad").unlink()
    os.mkfifo(idle.record("bad"))

    shown = idle.run("vm_info")
    result = idle.refuse("bad")

    assert shown["vms"] == []
    assert "'bad' cannot be looked at" in shown["warnings"][0]
    assert result["error"]["code"] == "vm_manager.io"
    assert idle.vm("good", state="present")["changed"]
    shutil.rmtree(idle.folder("bad"))


def test_preparation_that_was_cut_off_is_finished_with_another_disk_size(idle):
    idle.vm(state="present", disk_size="2MiB")
    idle.edit(state="preparing", disk_bytes=None, overlay_path=None)

    vm = idle.vm(state="present", disk_size="4MiB")["vm"]

    assert vm["disks"][0]["size"] == disk_size(vm["disks"][0]["path"]) == 4 * 1024 * 1024


@pytest.mark.parametrize("seed", range(8))
def test_task_killed_anywhere_while_it_creates(idle, seed):
    """Killed at any moment of prepare and start; what is left is finished by the next run, in the same identity."""
    begun = time.monotonic()
    idle.vm("probe")
    whole = time.monotonic() - begun
    idle.vm("probe", state="absent", force=True)
    moment = whole * (0.25 + 0.75 * random.Random(seed).random())

    task = idle.begin("vm", name="vm1", **idle.defaults)
    time.sleep(moment)
    task.kill()
    task.communicate()
    result = idle.vm()

    assert result["vm"]["state"] == "running"
    assert len([command for command in idle.processes().values() if "qemu-system" in command]) == 1
    assert not [name for name in os.listdir(idle.folder()) if ".part" in name]
    subprocess.run(["qemu-img", "check", "-q", "-U", idle.folder() / "overlay.qcow2"], check=True)
    idle.vm(state="absent", force=True)
    assert idle.files() == []


@pytest.mark.parametrize(
    "step", ["vm.json", "id_ed25519", "seed.iso", "overlay.qcow2", "qmp.sock", "qemu.pid"]
)
def test_task_killed_after_each_file(idle, step):
    task = idle.begin("vm", name="vm1", **idle.defaults)
    wait_until((idle.folder() / step).exists)
    task.kill()
    task.communicate()

    assert idle.vm()["vm"]["state"] == "running"
    assert len([command for command in idle.processes().values() if "qemu-system" in command]) == 1


def test_task_killed_between_start_and_record(idle):
    """The next task that is not in check mode records which type of machine runs; it changes nothing that a user asked for."""
    begun_as = idle.vm() and json.loads(idle.record().read_text())["machine_types"]
    idle.edit(state="stopped", pid=None, machine_types={})
    left = idle.record().read_bytes()

    assert idle.vm(check=True)["changed"] is False
    assert idle.state() == "running"
    assert idle.record().read_bytes() == left, "a look writes nothing"
    assert idle.vm()["changed"] is False

    record = json.loads(idle.record().read_text())
    assert record["machine_types"] == begun_as == {"q35": begun_as["q35"]}
    assert begun_as["q35"].startswith("pc-q35-")
    again = idle.vm(state="restarted", force=True)["vm"]
    command = Path(f"/proc/{again['pid']}/cmdline").read_text().split("\0")
    assert command[command.index("-machine") + 1].startswith(f"{begun_as['q35']},")


@pytest.mark.parametrize("seed", range(4))
def test_task_killed_while_it_removes(idle, seed):
    idle.vm()
    task = idle.begin("vm", name="vm1", state="absent", force=True)
    time.sleep(0.15 + 0.05 * seed)
    task.kill()
    task.communicate()

    idle.vm(state="absent", force=True)

    assert idle.files() == []
    assert not [command for command in idle.processes().values() if "qemu-system" in command]


def test_removal_that_was_cut_off_is_finished(idle):
    idle.vm(state="present")
    (idle.data_dir / "vms" / "vm1").rename(idle.data_dir / "vms" / ".vm1.trash")

    result = idle.vm(state="absent")

    assert not result["changed"]
    assert idle.files() == []


@pytest.mark.parametrize("state", ["present", "started", "stopped"])
def test_two_tasks_at_the_same_moment(idle, state):
    options = {"name": "vm1", "state": state, **idle.defaults}
    tasks = [idle.begin("vm", **options) for dummy in range(3)]

    results = [idle.end(task) for task in tasks]

    assert [result.get("msg") for result in results] == [None] * 3
    assert sorted(result["changed"] for result in results) == [False, False, True]
    assert len({result["vm"]["id"] for result in results}) == 1
    assert len({result["vm"]["state"] for result in results}) == 1


def test_start_and_removal_at_the_same_moment(idle):
    """Whichever comes first, the host is left in a state that one of them asked for."""
    idle.vm(state="present")
    tasks = [
        idle.begin("vm", name="vm1", **idle.defaults),
        idle.begin("vm", name="vm1", state="absent", force=True),
    ]

    for task in tasks:
        assert "msg" not in idle.end(task)

    running = [command for command in idle.processes().values() if "qemu-system" in command]
    assert (idle.state(), len(running)) in ((None, 0), ("running", 1))


def test_many_machines_at_once_get_ports_and_addresses_of_their_own(idle):
    tasks = [
        idle.begin("vm", name=f"vm{n}", ssh_port_range="20022-20029", **idle.defaults)
        for n in range(8)
    ]
    machines = [idle.end(task)["vm"] for task in tasks]

    assert {vm["ssh"]["port"] for vm in machines} == set(range(20022, 20030))
    assert len({vm["networks"][0]["mac"] for vm in machines}) == 8
    ninth = idle.refuse("vm9", ssh_port_range="20022-20029", **idle.defaults)
    assert ninth["error"]["code"] == "vm_manager.network.port_unavailable"
    assert idle.state("vm9") is None


def test_port_of_a_stranger_is_passed_over(idle):
    port = idle.vm(state="present")["vm"]["ssh"]["port"]
    idle.vm(state="absent")
    with socket.create_server(("127.0.0.1", port)):
        assert idle.vm(state="present")["vm"]["ssh"]["port"] == port + 1


def test_stranger_on_the_port_of_a_machine(idle):
    """Once the guest has run, its port may be written down somewhere: it is kept."""
    vm = idle.vm()["vm"]
    idle.vm(state="stopped", force=True)
    with socket.create_server(("127.0.0.1", vm["ssh"]["port"])):
        result = idle.refuse()
    assert result["error"]["code"] == "vm_manager.network.port_unavailable"
    assert str(vm["ssh"]["port"]) in result["msg"]
    assert idle.state() == "stopped"
    assert idle.vm()["vm"]["ssh"] == vm["ssh"]


def test_stranger_on_the_port_of_a_machine_that_never_ran(idle):
    port = idle.vm(state="present")["vm"]["ssh"]["port"]
    with socket.create_server(("127.0.0.1", port)):
        vm = idle.vm()["vm"]

        assert vm["ssh"]["port"] == port + 1
        assert f"127.0.0.1:{port + 1}-:22" in idle.processes()[vm["pid"]]
    assert idle.info("vm1")[0]["ssh"]["port"] == port + 1


def test_guest_that_ignores_the_button(idle):
    idle.vm()

    begun = time.monotonic()
    result = idle.vm(state="stopped", stop_timeout=1)

    assert result["vm"]["stopped_by"] == "sigterm"
    assert time.monotonic() - begun < 15
    assert idle.state() == "stopped"


def test_qemu_that_hangs_is_killed(idle):
    pid = idle.vm()["vm"]["pid"]
    kill(pid, signal.SIGSTOP)

    result = idle.vm(state="stopped", stop_timeout=1)

    assert result["vm"]["stopped_by"] == "sigkill"
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()


def test_wait_for_the_process_sleeps_until_it_ends(idle):
    """The wait is for the process itself: the thread sleeps until then, while a poll would wake up again and again."""
    from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.identity import (
        find_process,
    )

    vm = idle.vm()["vm"]
    late = subprocess.Popen(
        ["sh", "-c", f"sleep 1; date +%s.%N; kill -9 {vm['pid']}"], stdout=subprocess.PIPE
    )
    with find_process(str(idle.folder())) as process:
        assert process.pid == vm["pid"]
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        assert process.wait(60)
        wake_ups = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
        ended = time.time()
    assert wake_ups < 5
    assert ended - float(late.communicate()[0]) < 10


MONITORS = ("qmp.sock", "qmp-debug.sock")


class Client:
    """Another client of a monitor, which keeps it to itself and listens."""

    def __init__(self, path):
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(30)
        self._sock.connect(str(path))
        self._sock.recv(4096)
        self._sock.sendall(b'{"execute": "qmp_capabilities"}')

    def __enter__(self):
        return self

    def __exit__(self, *dummy):
        self._sock.close()

    def heard(self):
        """Return all that the monitor says until its end."""
        said = b""
        while chunk := self._sock.recv(4096):
            said += chunk
        return said.decode()


def test_monitor_that_another_client_holds(idle):
    """The second monitor answers in its place."""
    vm = idle.vm()["vm"]
    with Client(vm["paths"]["qmp_socket"]):
        begun = time.monotonic()
        result = idle.run("vm_info", name=["vm1"])
        took = time.monotonic() - begun
        suspended = idle.vm(state="suspended")

    assert took < 15
    assert (result["vms"][0]["state"], result["vms"][0]["run_state"]) == ("running", "running")
    assert result["warnings"] == []
    assert suspended["vm"]["run_state"] == "paused"


def test_both_monitors_that_others_hold(idle):
    idle.vm()
    with Client(idle.folder() / MONITORS[0]), Client(idle.folder() / MONITORS[1]):
        begun = time.monotonic()
        result = idle.run("vm_info", name=["vm1"])

        assert time.monotonic() - begun < 15
        assert result["vms"][0]["state"] == "running"
        assert "uncertain" in result["warnings"][0]
    assert idle.info("vm1")[0]["run_state"] == "running"


@pytest.mark.parametrize("held", [MONITORS[:1], MONITORS], ids=["first", "both"])
def test_stop_gives_the_guest_its_time_whoever_holds_a_monitor(idle, held):
    """The button is pressed through the second monitor; if that is held too, the guest may be at it already."""
    idle.vm()
    clients = [Client(idle.folder() / name) for name in held]

    begun = time.monotonic()
    result = idle.vm(state="stopped", stop_timeout=6)
    took = time.monotonic() - begun

    heard = clients[0].heard()
    for client in clients:
        client.__exit__()
    assert result["vm"]["stopped_by"] == "sigterm"
    assert 6 <= took < 30
    assert ('"POWERDOWN"' in heard) == (held == MONITORS[:1])


def test_monitor_that_hangs_costs_bounded_time(idle):
    pid = idle.vm()["vm"]["pid"]
    kill(pid, signal.SIGSTOP)

    begun = time.monotonic()
    result = idle.run("vm_info")

    assert time.monotonic() - begun < 15
    assert result["vms"][0]["pid"] == pid
    assert "uncertain" in result["warnings"][0]
    kill(pid, signal.SIGCONT)


def test_qemu_that_dies_at_its_start_is_quoted(idle):
    idle.vm(state="present")
    disk = idle.folder() / "overlay.qcow2"
    disk.write_bytes(b"no disk any more")

    result = idle.refuse()

    assert result["error"]["code"] == "vm_manager.qemu.spawn_failed"
    assert "not in qcow2 format" in result["msg"]
    assert "-sandbox" in result["error"]["details"]["command"]
    assert idle.state() == "prepared" or idle.state() == "stopped"
    assert idle.processes() == {}


IMPOSSIBLE = {
    "CPU feature": ({"cpu": "max,+nonsense"}, "nonsense"),
    "memory": ({"memory": "900000GiB"}, "memory"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_start_that_qemu_itself_refuses(idle, case):
    """A machine that this task made is gone again; one that was there stays as it was."""
    options, word = IMPOSSIBLE[case]

    new = idle.refuse(**{**idle.defaults, **options})
    left = idle.files()
    idle.vm(state="present")
    prepared = idle.refuse(**options)
    state_after = idle.state()
    idle.vm(memory="64", cpu="max")
    idle.vm(state="stopped", force=True)
    stopped = idle.refuse(**options)

    for result in (new, prepared, stopped):
        assert result["error"]["code"] == "vm_manager.qemu.spawn_failed"
        assert word in result["msg"]
    assert left == []
    assert state_after == "prepared"
    assert idle.state() == "stopped"
    assert (idle.folder() / "overlay.qcow2").exists()
    assert not [command for command in idle.processes().values() if "qemu-system" in command]


def test_start_that_fails_leaves_no_tpm_in_the_way_of_the_next(idle):
    options = {"tpm": True, "memory": "900000GiB"}
    idle.vm(state="present", tpm=True)

    for dummy in range(2):
        assert idle.refuse(**options)["error"]["code"] == "vm_manager.qemu.spawn_failed"
        assert not [command for command in idle.processes().values() if "swtpm" in command]

    assert idle.vm(memory="64")["vm"]["state"] == "running"


def test_restart_that_fails_tells_that_the_machine_is_off(idle):
    idle.vm()

    result = idle.refuse(memory="900000GiB", apply="restart")

    assert (result["changed"], result["actions"]) == (True, ["stop", "prepare"])
    assert result["vm"]["state"] == idle.state() == "stopped"
    assert result["msg"].endswith("The VM 'vm1' was stopped before that and is off now.")


def test_forwarded_port_of_a_stranger_hinders_the_start_and_nothing_else(idle):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        networks = [{"type": "user", "port_forwards": [{"host": port, "guest": 80}]}]
        idle.vm(state="present", networks=networks)
        foreseen, refused = idle.vm(check=True), idle.refuse()
        idle.vm("vm2", **idle.defaults)
        restart = idle.refuse("vm2", networks=networks, apply="restart")

    assert refused["error"]["code"] == "vm_manager.network.port_unavailable"
    assert refused["error"]["details"]["option"] == "networks[0].port_forwards[0].host"
    assert f"port {port} of 127.0.0.1 cannot be had: it is taken" in refused["msg"]
    assert "would fail now" in json.dumps(foreseen["warnings"])
    assert (restart.get("changed", False), idle.state("vm2")) == (False, "running")
    assert "vm" not in restart["error"]["details"], (
        "vm1 has the port in its record, but does not run"
    )

    first = idle.vm()
    taken = idle.refuse("vm2", networks=networks, apply="restart")
    again = idle.vm(state="restarted", force=True)

    assert first["vm"]["state"] == again["vm"]["state"] == "running"
    assert taken["error"]["details"]["vm"] == "vm1"


def test_what_a_machine_has_anyway_is_no_change(idle):
    pid = idle.vm()["vm"]["pid"]

    for check in (True, False):
        result = idle.vm(disk_size="1MiB", machine="q35", check=check)

        assert (result["changed"], result["restart_required"]) == (False, False)
        assert result["warnings"] == []
        assert result["vm"]["pid"] == pid


def test_predicted_disk_is_the_one_that_comes(idle):
    idle.vm(state="present")

    predicted = idle.vm(state="present", disk_size="4MiB", check=True)["vm"]["disks"]
    real = idle.vm(state="present", disk_size="4MiB")["vm"]["disks"]

    assert predicted == real
    assert real[0]["size"] == disk_size(real[0]["path"]) == 4 * 1024 * 1024


def test_screen_is_shown_even_if_its_record_was_cut_off(idle):
    vnc = idle.vm(vnc=True)["vm"]["vnc"]
    idle.edit(vnc_addr=None)

    assert vnc is not None
    assert idle.info("vm1")[0]["vnc"] == vnc
    assert idle.vm()["vm"]["vnc"] == vnc


def test_ssh_is_not_waited_for_where_the_running_guest_has_no_network(idle):
    idle.vm(networks=[])
    before = idle.record().read_bytes()

    for check in (True, False):
        later = {"networks": [{"type": "user"}], "apply": "next_start"}
        result = idle.refuse(**later, wait_for="ssh", check=check)
        assert result["error"]["details"] == {"option": "wait_for"}
        assert "state=restarted" in result["error"]["help"]

    assert idle.record().read_bytes() == before


def test_ssh_that_never_answers(idle):
    begun = time.monotonic()

    result = idle.refuse(**idle.defaults, wait_for="ssh", wait_timeout=2)

    assert 2 <= time.monotonic() - begun < 20
    assert result["error"]["code"] == "vm_manager.ssh.failed"
    assert "console" in result["error"]["details"]
    assert (result["changed"], result["actions"]) == (True, ["prepare", "start"])
    assert result["vm"] == idle.info("vm1")[0]
    assert result["diff"]["after"]["state"] == "running"


def test_machine_that_dies_while_ssh_is_waited_for(idle):
    task = idle.begin("vm", name="vm1", **idle.defaults, wait_for="ssh", wait_timeout=60)
    wait_until(lambda: idle.record().exists() and '"running"' in idle.record().read_text())
    kill(json.loads(idle.record().read_text())["pid"])

    begun = time.monotonic()
    result = idle.end(task)

    assert time.monotonic() - begun < 20
    # Before the wait for SSH comes a look for the guest's address.
    ended = {"vm_manager.ssh.failed": "ended", "vm_manager.network.ip_discovery_timeout": "not run"}
    assert ended[result["error"]["code"]] in result["msg"]


def test_file_of_somebody_else_is_kept(idle):
    idle.vm(state="present")
    (idle.folder() / "thesis.txt").write_text("years of work")

    result = idle.vm(state="absent")

    assert (idle.folder() / "thesis.txt").read_text() == "years of work"
    assert "thesis.txt" in result["warnings"][0]
    assert idle.state() is None
    assert idle.vm(**idle.defaults, state="present")["changed"]


def test_record_of_a_newer_release(idle):
    idle.vm(state="present")
    idle.edit(schema=99)

    result = idle.refuse()

    assert result["error"]["code"] == "vm_manager.vm.bad_record"
    assert "schema 99" in result["msg"]
    assert "schema 99" in idle.run("vm_info")["warnings"][0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_full_disk_halts_the_guest_which_goes_on_when_there_is_room(guests, tmp_path):
    """QEMU halts a guest that cannot write (io-error). It is shown as failed, and goes on where it stood."""
    guests.data_dir = tmp_path / "small" / "data"
    guests.data_dir.parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(guests.data_dir.parent)]
    subprocess.run(mount, check=True)
    try:
        vm = guests.vm(wait_for="ssh")["vm"]
        writing = subprocess.Popen(
            [
                "ssh",
                "-F",
                "none",
                "-oBatchMode=yes",
                "-oStrictHostKeyChecking=no",
                "-oUserKnownHostsFile=/dev/null",
                "-p",
                str(vm["ssh"]["port"]),
                "-i",
                vm["ssh"]["private_key_path"],
                "vm@127.0.0.1",
                "dd if=/dev/urandom of=big bs=1M count=16 && sync && echo written",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        wait_until(lambda: guests.state() == "failed", seconds=60)
        assert guests.info("vm1")[0]["run_state"] == "io-error"

        subprocess.run(["mount", "-o", "remount,size=64m", guests.data_dir.parent], check=True)
        result = guests.vm()

        assert result["actions"] == ["resume"]
        assert result["vm"]["pid"] == vm["pid"]
        assert "written" in writing.communicate(timeout=60)[0]
        guests.vm(state="absent", force=True)
    finally:
        subprocess.run(["umount", guests.data_dir.parent], check=True)


def test_base_image_is_never_written(guests, smoke_image):
    before = sha256(smoke_image)
    vm = guests.vm(wait_for="ssh")["vm"]
    in_guest(vm, "dd if=/dev/urandom of=big bs=1M count=4; sync")
    guests.vm(state="stopped", force=True)
    assert sha256(smoke_image) == before


def is_locked(path):
    """Tell whether a task works on the machine."""
    with open(path, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_started_while_another_task_stops_it(idle):
    """There is nothing to do when the machine is looked at; there is once the other task is done."""
    idle.vm()
    stopping = idle.begin("vm", name="vm1", state="stopped", stop_timeout=3)
    wait_until(lambda: is_locked(idle.folder().with_name(".vm1.lock")))

    result = idle.vm(state="started")

    assert idle.end(stopping)["vm"]["stopped_by"] == "sigterm"
    assert result["actions"] == ["start"]
    assert idle.state() == "running"
