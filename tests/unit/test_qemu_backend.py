# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the backend makes of a process that holds QEMU's locks, and of monitors that answer one thing or another."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import (
    Disk,
    DiskRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BadRecord,
    InvalidState,
    SpawnFailed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.layout import (
    DEBUG_SOCKET,
    OVERLAY,
    QMP_SOCKET,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.locks import (
    hold_while_alive,
    is_held,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import (
    backend,
    companions,
    identity,
    monitor,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.backend import (
    QemuBackend,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.launcher import (
    launch,
    opened,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.fake_qmp import FakeQmp
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import (
    FULL_HANDLE,
    FULL_SPEC,
    PLAIN_BOARD,
    minimal_handle,
)

pytestmark = pytest.mark.real_host

# As QEMU does it: the lock of life comes by inheritance, the pid file is written and kept locked.
LIKE_QEMU = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.lockf(fd, fcntl.LOCK_EX)
os.write(fd, b"%d\\n" % os.getpid())
print("locked", flush=True)
sys.stdin.read()
"""
PLAIN_SPEC = replace(FULL_SPEC, **PLAIN_BOARD)
OTHER_UUID = "00000000-0000-4000-8000-000000000000"


class Machine:
    """A recorded machine with a process that holds the locks of QEMU, and monitors as the test wants them."""

    def __init__(self, folder):
        self.store = Store(str(folder / "data"))
        self.backend = QemuBackend(self.store)
        name = FULL_HANDLE.name
        self.folder = self.store.work_dir(name)
        self.vm = self.store.save(minimal_handle(name).evolve(**self._paths()))
        self.process = None

    def _paths(self):
        return {
            "id": FULL_HANDLE.id,
            "work_dir": self.folder,
            "spec": replace(PLAIN_SPEC, vnc=False),
            "booted": replace(PLAIN_SPEC, vnc=True),
            "state": VmState.RUNNING,
            "console_socket": self.path("console.sock"),
        }

    def path(self, name):
        return os.path.join(self.folder, name)

    def begin(self):
        fd = hold_while_alive(self.path("alive.lock"))
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LIKE_QEMU, self.path("qemu.pid")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(fd,),
        )
        os.close(fd)
        self.process.stdout.readline()

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()

    def monitor(self, name=QMP_SOCKET, **answers):
        """Serve a monitor; it says that the machine runs unless told otherwise."""
        told = {
            "query_uuid": {"return": {"UUID": self.vm.uuid}},
            "query_status": {"return": {"status": "running"}},
            "query_vnc": {"return": {"enabled": True, "host": "127.0.0.1", "service": "5907"}},
            "system_powerdown": {"return": {}},
            "query_memory_size_summary": {"return": {"base-memory": 2048 * 1024**2}},
            "query_block": {"return": []},
            "query_cpus_fast": {"return": [{}, {}]},
            "qom_list": {"return": [{"name": "card-net0", "type": "child<virtio-net-pci>"}]},
            "qom_get": {"return": "pc-q35-7.2-machine"},
            **answers,
        }

        def script(session):
            session.greet()
            session.answer(**told)

        return FakeQmp(self.path(name), script)

    def held_monitor(self, name=QMP_SOCKET):
        """Serve a monitor that another client has, so that nobody else is greeted."""
        return FakeQmp(self.path(name), lambda session: session.stay())


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "LOOK", 0.2)
    monkeypatch.setattr(identity, "_STARTING", 0.1)
    machine = Machine(tmp_path)
    machine.begin()
    yield machine
    machine.end()


def asked(fake):
    return [request["execute"] for session in fake.sessions for request in session.heard]


def test_a_machine_that_runs_is_shown_with_what_its_monitor_says(machine):
    with machine.monitor(query_status={"return": {"status": "paused"}}):
        vm = machine.backend.observe(machine.vm)

    assert (vm.state, vm.run_state) == (VmState.SUSPENDED, "paused")
    assert (vm.pid, vm.ip_address) == (machine.process.pid, "127.0.0.1")
    assert vm.warnings == ()


def test_a_state_that_is_not_known_counts_as_running_and_is_warned_of(machine):
    with machine.monitor(query_status={"return": {"status": "daydreaming"}}):
        vm = machine.backend.observe(machine.vm)

    assert (vm.state, vm.run_state) == (VmState.RUNNING, "daydreaming")
    assert len(vm.warnings) == 1
    assert "'web1' is in the state 'daydreaming'" in vm.warnings[0]


@pytest.mark.parametrize("recorded", [None, "127.0.0.1:5900"], ids=["nothing", "another port"])
def test_the_screen_is_where_the_monitor_says_whatever_the_record_says(machine, recorded):
    with machine.monitor():
        vm = machine.backend.observe(machine.vm.evolve(vnc_addr=recorded))

    assert (vm.vnc.host, vm.vnc.port) == ("127.0.0.1", 5907)
    assert vm.vnc.password_file == machine.path("vnc.password")


def test_a_machine_that_was_started_without_a_screen_has_none(machine):
    without = machine.vm.evolve(booted=replace(PLAIN_SPEC, vnc=False), spec=PLAIN_SPEC)
    with machine.monitor() as fake:
        vm = machine.backend.observe(without)

    assert vm.vnc is None
    assert "query-vnc" not in asked(fake)


def test_the_second_monitor_answers_while_the_first_is_held(machine):
    with machine.held_monitor(), machine.monitor(DEBUG_SOCKET):
        vm = machine.backend.observe(machine.vm)

    assert (vm.run_state, vm.warnings) == ("running", ())


@pytest.mark.parametrize("others", [True, False], ids=["both held", "none there"])
def test_a_machine_without_a_monitor_is_running_and_warned_of_in_bounded_time(machine, others):
    with contextlib.ExitStack() as stack:
        for name in (QMP_SOCKET, DEBUG_SOCKET) if others else ():
            stack.enter_context(machine.held_monitor(name))
        begin = time.monotonic()
        vm = machine.backend.observe(machine.vm)
        took = time.monotonic() - begin

    assert (vm.state, vm.run_state, vm.pid) == (VmState.RUNNING, None, machine.process.pid)
    assert "The state of the VM 'web1' is uncertain" in vm.warnings[0]
    assert machine.path(QMP_SOCKET) in vm.warnings[0], "the first monitor's trouble is told"
    assert took < 10


def test_a_machine_that_was_just_started_is_asked_only_for_what_the_record_may_not_know(machine):
    size = 50 * 1024**3  # somebody made the disk larger while the machine stood still
    told = {"qdev": "dev-disk0", "inserted": {"image": {"virtual-size": size}}}
    with machine.monitor(query_block={"return": [told]}) as fake:
        vm = machine.backend.observe(
            machine.vm.evolve(machine_types={"q35": "pc-q35-7.2"}), started=True
        )

    looked = ["query-uuid", "query-status", "query-vnc", "query-block"]
    assert asked(fake) == ["qmp_capabilities", *looked]
    assert vm.facts.disks == {"disk0": size}
    assert (vm.actual.disk_size, vm.plugged) == (size, vm.handle.booted.networks)


@pytest.mark.parametrize("recorded", [{}, {"q35": "pc-q35-6.2"}])
def test_a_look_tells_which_type_a_start_that_was_cut_off_did_not_record(machine, recorded):
    with machine.monitor():
        vm = machine.backend.observe(machine.vm.evolve(machine_types=recorded))

    assert vm.handle.machine_types == recorded
    assert vm.unrecorded == ({} if recorded else {"machine_types": {"q35": "pc-q35-7.2"}})


def test_the_monitor_of_another_machine_is_not_believed(machine):
    with machine.monitor(query_uuid={"return": {"UUID": OTHER_UUID}}) as fake:
        vm = machine.backend.observe(machine.vm)

    assert (vm.state, vm.run_state) == (VmState.RUNNING, None)
    assert "that of another machine" in vm.warnings[0]
    assert asked(fake) == ["qmp_capabilities", "query-uuid"]


def test_a_machine_whose_pid_file_is_gone_is_shown_and_not_touched(machine):
    os.unlink(machine.path("qemu.pid"))
    with machine.monitor(query_status={"return": {"status": "paused"}}) as fake:
        vm = machine.backend.observe(machine.vm)
        for act in (
            lambda: machine.backend.stop(machine.vm, 0.1),
            lambda: machine.backend.stop(machine.vm, 0.0),
            lambda: machine.backend.destroy(machine.vm),
            lambda: machine.backend.start(machine.vm),
        ):
            with pytest.raises(InvalidState, match="is alive"):
                act()

    assert (vm.state, vm.run_state, vm.pid) == (VmState.SUSPENDED, "paused", None)
    assert "qemu.pid is gone or not its own" in vm.warnings[0]
    assert machine.process.poll() is None
    assert not {"quit", "system_powerdown"} & set(asked(fake))
    assert machine.store.load("web1") == machine.vm


def test_a_machine_whose_pid_file_is_gone_and_whose_monitor_is_silent_still_runs(machine):
    os.unlink(machine.path("qemu.pid"))

    vm = machine.backend.observe(machine.vm)

    assert (vm.state, vm.pid) == (VmState.RUNNING, None)
    assert len(vm.warnings) == 2


def test_a_machine_whose_pid_file_is_gone_counts_as_ended_once_its_process_has(machine):
    os.unlink(machine.path("qemu.pid"))
    machine.end()

    assert machine.backend.observe(machine.vm).state is VmState.STOPPED
    assert machine.backend.destroy(machine.vm) == []
    assert not os.path.exists(machine.folder)


@pytest.mark.parametrize(
    "held", [[], [QMP_SOCKET], [QMP_SOCKET, DEBUG_SOCKET]], ids=["none", "first", "both"]
)
def test_a_guest_gets_the_whole_time_whoever_holds_a_monitor(machine, held):
    timeout = 1.2
    with contextlib.ExitStack() as stack:
        fakes = {
            name: stack.enter_context(
                machine.held_monitor(name) if name in held else machine.monitor(name)
            )
            for name in (QMP_SOCKET, DEBUG_SOCKET)
        }
        begin = time.monotonic()
        stopped = machine.backend.stop(machine.vm, timeout)
        took = time.monotonic() - begin
        for fake in fakes.values():  # the sockets went with the process
            open(fake.path, "w").close()

    assert timeout <= took < timeout + 10
    assert (stopped.state, stopped.stopped_by) == (VmState.STOPPED, "sigterm")
    pressed = [name for name, fake in fakes.items() if "system_powerdown" in asked(fake)]
    assert pressed == [name for name in fakes if name not in held][:1]


def test_a_guest_that_does_not_run_is_not_waited_for(machine):
    with machine.monitor(query_status={"return": {"status": "guest-panicked"}}) as fake:
        begin = time.monotonic()
        stopped = machine.backend.stop(machine.vm, 30)
        took = time.monotonic() - begin
        open(fake.path, "w").close()

    assert stopped.stopped_by == "sigterm"
    assert took < 5


@pytest.mark.parametrize("file", [OVERLAY, "disk-data.raw", "nvram.qcow2", "tpm"])
def test_what_a_guest_wrote_is_not_overwritten_without_a_record(tmp_path, file):
    store = Store(str(tmp_path / "data"))
    folder = tmp_path / "data" / "vms" / "web1"
    folder.mkdir(parents=True, mode=0o700)
    (folder / file).write_text("years of work")

    with pytest.raises(BadRecord, match="no record of a VM 'web1'") as caught:
        QemuBackend(store).check(FULL_SPEC, None)

    assert caught.value.details == {"path": str(folder / file)}
    assert (folder / file).read_text() == "years of work"


def test_an_old_record_is_not_taken_for_a_machine_that_never_ran(tmp_path):
    """Its disk would be made anew: it was restored from a backup that is older than the machine's first start."""
    store = Store(str(tmp_path / "data"))
    vm = store.save(minimal_handle(work_dir=store.work_dir("web1"), state=VmState.PREPARING))
    alive = tmp_path / "data" / "vms" / "web1" / "alive.lock"
    alive.touch()

    with pytest.raises(BadRecord, match="'web1' says that it was never complete") as caught:
        QemuBackend(store).check(vm.spec, vm)

    assert caught.value.details == {"path": str(alive)}


# How the header names what a disk rests on, what the record says (image, layers), and what else lies there; {} is a folder.
RESTING = {
    "the image": ("{}/a", ("{}/a", ()), True),
    "by another path": ("{}/link/a", ("{}/a", ()), True),
    "by a path from where it lies": ("../../../a", ("{}/a", ()), True),
    "a layer over the image": ("{}/layer", ("{}/a", ("{}/layer", "{}/b")), True),
    "nothing": ("", (None, ()), True),
    "another image": ("{}/b", ("{}/a", ()), False),
    "the image below the layer": ("{}/a", ("{}/a", ("{}/layer",)), False),
    "an image that is not recorded": ("{}/b", (None, ()), False),
    "no image": ("", ("{}/a", ()), False),
    "a name that is no path": ("nbd://127.0.0.1:1/x", ("{}/a", ()), False),
}


def disk_over(name):
    """Return the header of a qcow2 disk that rests on a file, as QEMU's format page says."""
    place = (512, len(name)) if name else (0, 0)
    fixed = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, *place, 16, 4096, 0, 1, 0, 0, 1, 0, 0)
    return (fixed + struct.pack(">QQQII", 0, 0, 0, 4, 104)).ljust(512, b"\0") + name.encode()


@pytest.mark.parametrize("which", ["disk0", "data"])
@pytest.mark.parametrize("case", RESTING)
def test_a_disk_is_not_started_over_another_file_than_it_was_made_over(tmp_path, case, which):
    """The record was restored from a backup: QEMU would believe it, whatever the disk's own header says."""
    header, (image, layers), fits = RESTING[case]
    store = Store(str(tmp_path / "data"))
    work_dir = store.work_dir("web1")
    os.makedirs(work_dir, mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path)
    header = header.replace("{}", str(tmp_path))
    image = image and image.replace("{}", str(tmp_path))
    layers = tuple(layer.replace("{}", str(tmp_path)) for layer in layers)
    record = DiskRecord(f"{work_dir}/disk.qcow2", "qcow2", 4096, image, image and "raw", layers)
    with open(record.path, "wb") as file:
        file.write(disk_over(header))
    vm = minimal_handle(work_dir=work_dir, state=VmState.STOPPED)
    if which == "disk0":
        vm = vm.evolve(overlay_path=record.path, base_image=image, layers=layers)
    else:
        vm = vm.evolve(disks={"data": record}, spec=replace(vm.spec, disks=(Disk("data"),)))
    vm = store.save(vm)

    if fits:
        QemuBackend(store).check_start(vm.spec, vm, set())
        return
    for act in (
        lambda: QemuBackend(store).check_start(vm.spec, vm, set()),
        lambda: QemuBackend(store).start(vm),
    ):
        with pytest.raises(BadRecord) as caught:
            act()
        recorded = (*layers, image)[0]
        assert caught.value.details["path"] == record.path
        for name in (record.path, header or "no other file", recorded or "no other file"):
            assert name in caught.value.message
        assert "vm.json" in caught.value.help
    assert store.load("web1") == vm


def test_a_disk_that_is_no_part_of_the_machine_is_not_looked_at(tmp_path):
    store = Store(str(tmp_path / "data"))
    path = tmp_path / "disk.qcow2"
    path.write_bytes(disk_over("/b"))
    detached = {"data": DiskRecord(str(path), "qcow2", 4096)}
    vm = store.save(minimal_handle(state=VmState.STOPPED, disks=detached))

    QemuBackend(store).check_start(vm.spec, vm, set())

    with pytest.raises(BadRecord):
        QemuBackend(store).check_start(replace(vm.spec, disks=(Disk("data"),)), vm, set())


@pytest.mark.parametrize("kind", ["gone", "no qcow2", "raw"])
def test_what_a_disk_without_a_header_rests_on_is_left_to_qemu(tmp_path, kind):
    path = tmp_path / "disk"
    if kind != "gone":
        path.write_bytes(b"no disk any more")
    record = DiskRecord(str(path), "raw" if kind == "raw" else "qcow2", 512)
    store = Store(str(tmp_path / "data"))
    vm = minimal_handle(state=VmState.STOPPED, disks={"data": record})

    QemuBackend(store).check_start(replace(vm.spec, disks=(Disk("data"),)), vm, set())


def environment_of(pid):
    """Return a process's environment; there is none for a moment after its start."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/environ") as stream:
            words = stream.read()
        if words:
            return sorted(words.rstrip("\0").split("\0"))
    return []


def test_a_started_process_gets_no_variable_of_the_task_and_leaves_no_core(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    path = os.environ["PATH"]
    with opened(str(tmp_path)) as openings:
        launched = launch(["sleep", "60"], openings)
    try:
        environment = environment_of(launched.pid)
        with open(f"/proc/{launched.pid}/limits") as stream:
            cores = [line.split() for line in stream if line.startswith("Max core file size")]
    finally:
        failure = launched.failure("ended by the test")

    assert environment == ["LC_ALL=C", f"PATH={path}"]
    assert cores[0][4:6] == ["0", "0"]
    assert failure.details["status"] == -9


def script(path, words):
    path.write_text(f"#!/bin/sh\n{words}\n")
    path.chmod(0o700)
    return str(path)


@pytest.fixture
def with_tpm(tmp_path, monkeypatch):
    """A stopped machine whose QEMU fails at once, and whose TPM, as swtpm does, stays if nobody has connected."""
    programs = tmp_path / "programs"
    programs.mkdir()
    script(programs / "swtpm", "exec sleep 60")
    qemu = script(programs / "qemu", "echo 'qemu-system-x86_64: the port is taken' >&2; exit 1")
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setattr(backend, "qemu_binary", lambda: qemu)
    monkeypatch.setattr(companions, "_ENDS", 0.3)
    machine = Machine(tmp_path)
    spec = replace(PLAIN_SPEC, vnc=False, tpm=True, disks=(), disk_size=None, networks=())
    machine.vm = machine.store.save(
        machine.vm.evolve(spec=spec, booted=None, state=VmState.STOPPED)
    )
    yield machine
    companions.end_companions(machine.vm)


def test_a_start_that_fails_leaves_no_companion(with_tpm):
    for dummy in range(2):
        with pytest.raises(SpawnFailed, match="the port is taken"):
            with_tpm.backend.start(with_tpm.vm)

        assert not is_held(with_tpm.path("tpm.lock"))


def test_a_start_ends_the_companion_that_a_killed_task_has_left(with_tpm):
    fd = hold_while_alive(with_tpm.path("tpm.lock"))
    orphan = subprocess.Popen(["sleep", "60"], pass_fds=(fd,))
    os.close(fd)

    with pytest.raises(SpawnFailed, match="the port is taken"):
        with_tpm.backend.start(with_tpm.vm)

    assert orphan.wait(5) == -9


def test_companions_of_a_machine_that_runs_are_left_alone_by_a_start(machine, monkeypatch):
    with_one = machine.vm.evolve(spec=replace(PLAIN_SPEC, tpm=True))
    fd = hold_while_alive(machine.path("tpm.lock"))
    tpm = subprocess.Popen(["sleep", "60"], pass_fds=(fd,))
    os.close(fd)
    try:
        monkeypatch.setattr(QemuBackend, "_is_alive", lambda *dummy: False)  # it came up since
        with pytest.raises(InvalidState, match="already works"):
            machine.backend.start(with_one)
        assert tpm.poll() is None
    finally:
        tpm.kill()
        tpm.wait()
