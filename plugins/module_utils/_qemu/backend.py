# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual machines on QEMU, directly: its command line to start, QMP to talk, the kernel to know what runs."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._core.claims import Port
from .._core.disks import SYSTEM_DISK
from .._core.errors import (
    InvalidState,
    NoGuestAddress,
    QmpCommandFailed,
    QmpConnectFailed,
    VmError,
)
from .._core.features import Features
from .._core.handle import VmHandle
from .._core.layout import (
    AGENT_SOCKET,
    CONSOLE_SOCKET,
    DEBUG_SOCKET,
    PID_FILE,
    QMP_SOCKET,
    VNC_PASSWORD,
)
from .._core.live import Change, Hotplug, changed
from .._core.spec import VmSpec
from .._core.state import VmState
from .._core.vm import ConsoleEndpoint, Vm
from .._host.files import write_atomically
from .._host.store import Store
from .._image.layers import Layers, layers_of
from . import preparation
from .accelerator import Accelerator, choose_accelerator
from .addresses import look_up, wait_for_address
from .argv import MACHINES, Launch, build_argv
from .companions import Companions, end_companions, ended_on_failure, lost_companions
from .disk_files import discard_disks, note_size
from .facts import read_facts
from .firmware import check_firmware, make_nvram
from .forwards import check_forwards
from .freezing import check_freeze
from .host_check import check_host, qemu_binary
from .hotplug import MEMORY_STEP, Hotplugger, finish_start
from .identity import find_process
from .kernel_boot import exact_types
from .ladder import end_process
from .launcher import Launched, launch, opened
from .monitor import LOOK, expect_state, open_monitor, vnc_address, vnc_endpoint
from .ports import PORTS
from .qmp import Qmp
from .resting import check_resting
from .run_state import RUN_STATES, state_of
from .shared_folders import opened_folders
from .taps import opened_taps
from .tpm import opened_tpm

_GREETING = 30.0  # seconds until QEMU answers at its start


class QemuBackend:
    """The backend ``qemu``."""

    tag = "qemu"
    features = Features(
        suspend=True,
        network_types=("user", "bridge", "tap"),
        accelerators=("kvm", "tcg"),
        rename=True,
        rerun_cloud_init=True,
        clone=True,
        unsupported=("propolis",),
        hotplug=Hotplug(
            vcpus=True,
            memory=True,
            memory_step=MEMORY_STEP,
            grow_buses=("virtio-blk", "virtio-scsi"),
            limits=True,
            cdrom=True,
            disk_buses=("virtio-blk", "virtio-scsi", "nvme"),
            network_types=("user", "bridge", "tap"),
            cable=True,
            slots=PORTS,
        ),
        defaults=VmSpec(name="", machine=MACHINES["x86_64"]),
    )

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, spec: VmSpec, found: VmHandle | None) -> None:
        """Raise what would hinder this host from making or running such a machine."""
        preparation.refuse_wrong_record(spec.name, found, self._store)
        check_host(spec, found, self._store.data_dir)
        check_freeze(spec, found, self._store)

    def check_start(self, spec: VmSpec, found: VmHandle | None, released: Set[Port]) -> None:
        """Raise what would hinder a start: a disk over another file than it was made over, or a port that is taken."""
        if found is not None and found.state is not VmState.PREPARING:
            check_resting(spec, found)
        try:
            running = found is not None and self._is_alive(found)
        except InvalidState:
            running = True  # it lives, but cannot be told apart; what would end it says so
        check_forwards(spec, found, running, self._store, released)

    def prepare(self, spec: VmSpec, found: VmHandle | None = None) -> VmHandle:
        """Make the machine's files, finish them, or bring them up to ``spec``."""
        if found is not None and found.state is not VmState.PREPARING:
            return preparation.update(spec, found, self._store, running=self._is_alive(found))
        try:
            return preparation.create(spec, found, self._store)
        except BaseException:
            if found is None:
                self._store.forget(spec.name)
            raise

    def change(self, vm: VmHandle, changes: Sequence[Change], running: VmSpec) -> VmHandle:
        """Make the changes over QMP; each is recorded, also if a later one is not taken."""
        try:
            with open_monitor(vm) as qmp:
                for change in changes:
                    Hotplugger(vm, qmp).make(change)
                    vm = self._note(vm, change)
        except VmError:
            self._store.save(vm)
            raise
        return self._store.save(vm.evolve(booted=running))

    def discard(self, vm: VmHandle, names: Sequence[str]) -> VmHandle:
        """Delete the files of disks that nothing uses any more."""
        return discard_disks(vm, names, self._store)

    def start(self, vm: VmHandle) -> VmHandle:
        """Start QEMU; return when its monitor says that the machine runs. A start that fails leaves the record as it was."""
        if self._is_alive(vm):
            raise InvalidState(
                f"The VM '{vm.name}' has a running QEMU process already.", "Stop it first."
            )
        check_resting(vm.spec, vm)
        before = preparation.grow_disk(preparation.ensure_port(vm, self._store), self._store)
        before = preparation.ensure_seed(before, self._store)
        check_firmware(before.spec, before)
        before = make_nvram(before, self._store)  # unless its preparation was cut off, it is there
        accelerator = choose_accelerator(before.spec.accelerator or "auto")
        vm = self._store.save(
            before.evolve(
                state=VmState.STOPPED,
                booted=before.spec,
                stopped_by=None,
                accelerator=accelerator.name,
                accelerator_reason=accelerator.reason,
            )
        )
        try:
            launched = self._launch(vm, accelerator)
            told = self._await_greeting(vm, launched)
        except VmError:
            self._store.save(before)
            if before.booted is None and preparation.lost_port(before):
                return self.start(
                    before
                )  # somebody was faster; a machine that never ran may take another port
            raise
        launched.let_go()
        return self._store.save(vm.evolve(state=VmState.RUNNING, pid=launched.pid, **told))

    def stop(self, vm: VmHandle, timeout: float) -> VmHandle:
        """Press the power button, wait, then end the process with ever more force; say what was needed."""
        process = find_process(vm.work_dir)
        if process is None:
            end_companions(vm)
            return self._store.save(vm.evolve(state=VmState.STOPPED, pid=None, vnc_addr=None))
        with process:
            rung = end_process(vm, process, timeout)
        end_companions(vm)
        for name in (QMP_SOCKET, DEBUG_SOCKET, CONSOLE_SOCKET, AGENT_SOCKET, PID_FILE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(vm.work_dir, name))
        return self._store.save(
            vm.evolve(state=VmState.STOPPED, pid=None, vnc_addr=None, stopped_by=rung)
        )

    def suspend(self, vm: VmHandle) -> VmHandle:
        """Halt the virtual CPUs."""
        with open_monitor(vm) as qmp:
            qmp.execute("stop")
            expect_state(vm, qmp, VmState.SUSPENDED)
        return self._store.save(vm.evolve(state=VmState.SUSPENDED))

    def resume(self, vm: VmHandle) -> VmHandle:
        """Let the virtual CPUs go on, or wake a guest that sleeps."""
        with open_monitor(vm) as qmp:
            asleep = qmp.execute("query-status")["status"] == "suspended"
            qmp.execute("system_wakeup" if asleep else "cont")
            expect_state(vm, qmp, VmState.RUNNING)
        return self._store.save(vm.evolve(state=VmState.RUNNING))

    def rename(self, vm: VmHandle, name: str) -> VmHandle:
        """Move the machine's folder, in which QEMU's sockets would be: it does not run."""
        if self._is_alive(vm):
            raise InvalidState(f"The VM '{vm.name}' runs.", "Stop it first.")
        # Who looks which layers are needed must find the record under one of the names.
        with Layers(self._store).changing() if layers_of(vm) else contextlib.nullcontext():
            return self._store.rename(vm, name)

    def destroy(self, vm: VmHandle) -> list[str]:
        """Cut the power and remove the machine's folder."""
        if self._is_alive(vm):
            self.stop(vm, 0.0)
        end_companions(vm)  # also of a QEMU that ended by itself
        return self._store.forget(vm.name)

    def state(self, vm: VmHandle) -> VmState:
        """Return the state that the machine is in right now."""
        return self.observe(vm).state

    def guest_ip(self, vm: VmHandle) -> str:
        """Return 127.0.0.1 for a guest with user-mode networking, whose SSH port is forwarded there; else its own address."""
        address = self.observe(vm).ip_address
        if address is None:
            raise NoGuestAddress(f"The VM '{vm.name}' has no address that this host knows.")
        return address

    def console_endpoint(self, vm: VmHandle) -> ConsoleEndpoint:
        """Return the UNIX socket of the serial console."""
        return ConsoleEndpoint("unix", vm.console_socket)

    def await_address(self, vm: Vm, deadline: float) -> Vm:
        """Wait for the first of its cards that gets an address."""
        if vm.ip_address is not None:
            return vm
        process = find_process(vm.handle.work_dir)
        if process is None:
            raise NoGuestAddress(f"The VM '{vm.handle.name}' does not run.")
        with process:
            found = wait_for_address(vm.handle, vm.plugged, deadline, process.fd)
        return replace(vm, addresses=found)

    def observe(self, vm: VmHandle, started: bool = False) -> Vm:
        """Return the record together with what the kernel and QEMU's monitor say."""
        try:
            process = find_process(vm.work_dir)
        except InvalidState as exc:
            # It lives, so it is shown; what would end it fails with this error.
            return self._ask(self._live(vm, warnings=(exc.message,)))
        if process is None:
            unstarted = vm.state in (VmState.PREPARING, VmState.PREPARED)
            return Vm(vm, vm.state if unstarted else VmState.STOPPED)
        with process:
            live = self._ask(self._live(vm, process.pid), started)
            # A guest that stands still answers nobody on the link.
            awake = live.state is VmState.RUNNING
            asked = [card for card in live.plugged if awake or card.type == "user"]
            return replace(live, addresses=look_up(vm, asked))

    def _live(self, vm: VmHandle, pid: int | None = None, warnings: tuple[str, ...] = ()) -> Vm:
        console = self.console_endpoint(vm)
        warnings = (*warnings, *lost_companions(vm))
        running = Vm(vm, VmState.RUNNING, pid=pid, console=console, warnings=warnings)
        return replace(running, hotplug=self.features.hotplug)

    def _ask(self, live: Vm, started: bool = False) -> Vm:
        name = live.handle.name
        try:
            with open_monitor(live.handle) as qmp:
                run_state = qmp.execute("query-status", timeout=LOOK)["status"]
                vnc = vnc_endpoint(live.handle, qmp)
                facts = read_facts(qmp, LOOK, started)
                types = exact_types(live.handle, qmp)
        except (QmpConnectFailed, QmpCommandFailed) as exc:
            uncertain = f"The state of the VM '{name}' is uncertain: {exc}"
            return replace(live, warnings=(*live.warnings, uncertain))
        live = replace(live, state=state_of(run_state), run_state=run_state, vnc=vnc, facts=facts)
        if types != live.handle.machine_types:  # the start was cut off before it could record them
            live = replace(live, unrecorded={"machine_types": types})
        if run_state in RUN_STATES:
            return live
        unknown = f"QEMU says that the VM '{name}' is in the state '{run_state}', which is not known here."
        return replace(live, warnings=(*live.warnings, unknown))

    def _is_alive(self, vm: VmHandle) -> bool:
        process = find_process(vm.work_dir)
        if process is None:
            return False
        with process:
            return True

    def _launch(self, vm: VmHandle, accelerator: Accelerator) -> Launched:
        with contextlib.ExitStack() as stack:
            openings = stack.enter_context(opened(vm.work_dir))
            end_companions(vm)  # no QEMU lives, so what a killed task has left serves nobody
            stack.enter_context(ended_on_failure(vm))
            taps = stack.enter_context(opened_taps(vm))
            companions = Companions(vm.work_dir, openings.stderr)
            tpm = stack.enter_context(opened_tpm(vm, companions))
            folders = stack.enter_context(opened_folders(vm, companions))
            settings = Launch(
                binary=qemu_binary(),
                accelerator=accelerator.name,
                cpu=vm.spec.cpu or accelerator.cpu,
                pid_file=os.path.join(vm.work_dir, PID_FILE),
                vnc_password=self._vnc_password(vm),
                fds=openings.fds,
                taps=taps,
                tpm=tpm,
                folders=folders,
            )
            tap_fds = [fd for tap in taps for fd in (*tap.fds, *tap.vhost)]
            more = [*tap_fds, *folders.values(), *([] if tpm is None else [tpm])]
            return launch(build_argv(vm, settings), openings, more)

    def _await_greeting(self, vm: VmHandle, launched: Launched) -> Mapping[str, Any]:
        """Return what the record gets to know from the monitor."""
        socket = os.path.join(vm.work_dir, QMP_SOCKET)
        try:
            with ended_on_failure(vm, launched.end), Qmp.connect(socket, _GREETING) as qmp:
                expect_state(vm, qmp, VmState.RUNNING)
                finish_start(vm, qmp)
                vnc = vnc_address(qmp) if vm.spec.vnc else None
                return {"vnc_addr": vnc, "machine_types": exact_types(vm, qmp)}
        except (QmpConnectFailed, QmpCommandFailed) as exc:
            raise launched.failure(str(exc)) from exc
        except VmError:
            launched.failure("")
            raise

    def _note(self, vm: VmHandle, change: Change) -> VmHandle:
        vm = vm.evolve(booted=changed(vm.booted or vm.spec, change))
        if change.what != "resize_disk" or not isinstance(change.value, int):
            return self._store.save(vm)
        if change.name == SYSTEM_DISK:
            return self._store.save(vm.evolve(disk_bytes=change.value))
        return note_size(vm, change.name, change.value, self._store)

    def _vnc_password(self, vm: VmHandle) -> str | None:
        if not vm.spec.vnc:
            return None
        path = os.path.join(vm.work_dir, VNC_PASSWORD)
        # VNC looks at eight characters only: six random bytes fill them.
        write_atomically(path, base64.urlsafe_b64encode(os.urandom(6)))
        return path


if TYPE_CHECKING:
    from .._core.hypervisor import Hypervisor

    _conforms: type[Hypervisor] = QemuBackend
