# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual machines on QEMU, directly: its command line to start, QMP to talk, the kernel to know what runs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._core.errors import (
    InvalidState,
    NoGuestAddress,
    PortUnavailable,
    QmpCommandFailed,
    QmpConnectFailed,
    StopFailed,
    VmError,
)
from .._core.features import Features
from .._core.handle import VmHandle
from .._core.layout import CONSOLE_SOCKET, DEBUG_SOCKET, PID_FILE, QMP_SOCKET, VNC_PASSWORD
from .._core.spec import VmSpec
from .._core.state import VmState
from .._core.vm import ConsoleEndpoint, Vm, VncEndpoint
from .._host.files import write_atomically
from .._host.ports import LOOPBACK, is_free
from .._host.processes import Process
from .._host.store import Store
from . import preparation
from .accelerator import choose_accelerator
from .argv import Launch, build_argv
from .host_check import check_host, qemu_binary
from .identity import find_process
from .launcher import Launched, launch, opened
from .qmp import Qmp
from .run_state import state_of

_GREETING = 30.0  # seconds until QEMU answers at its start
_LOOK = 2.0  # seconds that a look at a running machine may take
_PRESS_AGAIN = 3.0  # a guest that still boots does not notice the first press of the power button
_TERM_WAIT = 5.0
_KILL_WAIT = 10.0


class QemuBackend:
    """The backend ``qemu``."""

    tag = "qemu"
    features = Features(
        suspend=True,
        vnc=True,
        network_types=("user",),
        accelerators=("kvm", "tcg"),
    )

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, spec: VmSpec, found: VmHandle | None) -> None:
        """Raise what would hinder this host from making or running such a machine."""
        check_host(spec, found, self._store.data_dir)

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

    def start(self, vm: VmHandle) -> VmHandle:
        """Start QEMU; return when its monitor says that the machine runs."""
        if self._is_alive(vm):
            raise InvalidState(
                f"The VM '{vm.name}' has a running QEMU process already.", "Stop it first."
            )
        if (
            vm.ssh_host_port is not None
            and vm.spec.has_user_network
            and not is_free(vm.ssh_host_port)
        ):
            raise PortUnavailable(
                f"Another program listens on port {vm.ssh_host_port}, which the VM '{vm.name}' keeps for SSH.",
                port=vm.ssh_host_port,
            )
        vm = preparation.grow_disk(vm, self._store)
        accelerator = choose_accelerator(vm.spec.accelerator or "auto")
        vm = self._store.save(
            vm.evolve(
                state=VmState.STOPPED,
                booted=vm.spec,
                stopped_by=None,
                accelerator=accelerator.name,
                accelerator_reason=accelerator.reason,
            )
        )
        with opened(vm.work_dir) as openings:
            settings = Launch(
                binary=qemu_binary(),
                accelerator=accelerator.name,
                cpu=vm.spec.cpu or accelerator.cpu,
                pid_file=os.path.join(vm.work_dir, PID_FILE),
                vnc_password=self._vnc_password(vm),
                fds=openings.fds,
            )
            launched = launch(build_argv(vm, settings), openings)
        return self._await_greeting(vm, launched)

    def stop(self, vm: VmHandle, timeout: float) -> VmHandle:
        """Press the power button, wait, then end the process with ever more force; say what was needed."""
        process = find_process(vm.work_dir)
        if process is None:
            return self._store.save(vm.evolve(state=VmState.STOPPED, pid=None, vnc_addr=None))
        with process:
            rung = self._climb_down(vm, process, timeout)
        for name in (QMP_SOCKET, DEBUG_SOCKET, CONSOLE_SOCKET, PID_FILE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(vm.work_dir, name))
        return self._store.save(
            vm.evolve(state=VmState.STOPPED, pid=None, vnc_addr=None, stopped_by=rung)
        )

    def suspend(self, vm: VmHandle) -> VmHandle:
        """Halt the virtual CPUs."""
        with self._monitor(vm) as qmp:
            qmp.execute("stop")
            self._expect(vm, qmp, VmState.SUSPENDED)
        return self._store.save(vm.evolve(state=VmState.SUSPENDED))

    def resume(self, vm: VmHandle) -> VmHandle:
        """Let the virtual CPUs go on, or wake a guest that sleeps."""
        with self._monitor(vm) as qmp:
            asleep = qmp.execute("query-status")["status"] == "suspended"
            qmp.execute("system_wakeup" if asleep else "cont")
            self._expect(vm, qmp, VmState.RUNNING)
        return self._store.save(vm.evolve(state=VmState.RUNNING))

    def destroy(self, vm: VmHandle) -> list[str]:
        """Cut the power and remove the machine's folder."""
        if self._is_alive(vm):
            self.stop(vm, 0.0)
        return self._store.forget(vm.name)

    def state(self, vm: VmHandle) -> VmState:
        """Return the state that the machine is in right now."""
        return self.observe(vm).state

    def guest_ip(self, vm: VmHandle) -> str:
        """Return 127.0.0.1 for a running guest with user-mode networking: its SSH port is forwarded there."""
        if (vm.booted or vm.spec).has_user_network and self._is_alive(vm):
            return LOOPBACK
        raise NoGuestAddress(f"The VM '{vm.name}' has no address that this host can reach.")

    def console_endpoint(self, vm: VmHandle) -> ConsoleEndpoint:
        """Return the UNIX socket of the serial console."""
        return ConsoleEndpoint("unix", vm.console_socket)

    def observe(self, vm: VmHandle) -> Vm:
        """Return the record together with what the kernel and QEMU's monitor say."""
        process = find_process(vm.work_dir)
        if process is None:
            unstarted = vm.state in (VmState.PREPARING, VmState.PREPARED)
            return Vm(vm, vm.state if unstarted else VmState.STOPPED)
        with process:
            address = LOOPBACK if (vm.booted or vm.spec).has_user_network else None
            live = Vm(vm, VmState.RUNNING, None, process.pid, address, self.console_endpoint(vm))
            return self._ask(live)

    def _ask(self, live: Vm) -> Vm:
        try:
            with self._monitor(live.handle) as qmp:
                run_state = qmp.execute("query-status", timeout=_LOOK)["status"]
                vnc = _vnc_endpoint(live.handle, qmp) if live.handle.vnc_addr else None
        except (QmpConnectFailed, QmpCommandFailed) as exc:
            return replace(
                live, warnings=(f"The state of the VM '{live.handle.name}' is uncertain: {exc}",)
            )
        return replace(live, state=state_of(run_state), run_state=run_state, vnc=vnc)

    def _is_alive(self, vm: VmHandle) -> bool:
        process = find_process(vm.work_dir)
        if process is None:
            return False
        with process:
            return True

    def _monitor(self, vm: VmHandle) -> Qmp:
        qmp = Qmp.connect(os.path.join(vm.work_dir, QMP_SOCKET), _LOOK)
        try:
            answered = qmp.execute("query-uuid", timeout=_LOOK)["UUID"]
            if answered != vm.uuid:
                raise QmpConnectFailed(
                    f"The monitor of the VM '{vm.name}' is that of another machine.",
                    "Find out who uses the VM's folder.",
                    expected=vm.uuid,
                    answered=answered,
                )
        except BaseException:
            qmp.close()
            raise
        return qmp

    def _expect(self, vm: VmHandle, qmp: Qmp, wanted: VmState) -> None:
        status = qmp.execute("query-status")["status"]
        if state_of(status) is not wanted:
            raise InvalidState(
                f"The VM '{vm.name}' is in QEMU's state '{status}', it should be {wanted.value}.",
                "Look at the VM's console log and qemu.log; state=restarted begins anew.",
                run_state=status,
            )

    def _await_greeting(self, vm: VmHandle, launched: Launched) -> VmHandle:
        try:
            with Qmp.connect(os.path.join(vm.work_dir, QMP_SOCKET), _GREETING) as qmp:
                self._expect(vm, qmp, VmState.RUNNING)
                vnc = _query_vnc(qmp) if vm.spec.vnc else None
        except (QmpConnectFailed, QmpCommandFailed) as exc:
            raise launched.failure(str(exc)) from exc
        except VmError:
            launched.failure("")
            raise
        launched.let_go()
        return self._store.save(vm.evolve(state=VmState.RUNNING, pid=launched.pid, vnc_addr=vnc))

    def _climb_down(self, vm: VmHandle, process: Process, timeout: float) -> str:
        """End the process; return the rung of the ladder that did it."""
        if timeout > 0 and self._press_power_button(vm, process, timeout):
            return "guest"
        if timeout <= 0 and self._quit(vm, process):
            return "quit"
        for signum, patience in ((signal.SIGTERM, _TERM_WAIT), (signal.SIGKILL, _KILL_WAIT)):
            process.send(signum)
            if process.wait(patience):
                return signum.name.lower()
        raise StopFailed(f"The VM '{vm.name}' still runs after SIGKILL.", pid=process.pid)

    def _press_power_button(self, vm: VmHandle, process: Process, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        with contextlib.suppress(QmpConnectFailed, QmpCommandFailed), self._monitor(vm) as qmp:
            if state_of(qmp.execute("query-status")["status"]) is not VmState.RUNNING:
                return False
            while time.monotonic() < deadline:
                qmp.execute("system_powerdown")
                if process.wait(min(_PRESS_AGAIN, max(0.0, deadline - time.monotonic()))):
                    return True
        return process.wait(0)

    def _quit(self, vm: VmHandle, process: Process) -> bool:
        with contextlib.suppress(QmpConnectFailed, QmpCommandFailed), self._monitor(vm) as qmp:
            qmp.execute("quit")
        return process.wait(_TERM_WAIT)

    def _vnc_password(self, vm: VmHandle) -> str | None:
        if not vm.spec.vnc:
            return None
        path = os.path.join(vm.work_dir, VNC_PASSWORD)
        write_atomically(path, os.urandom(4).hex().encode())  # VNC looks at eight characters only
        return path


def _query_vnc(qmp: Qmp) -> str | None:
    answer: dict[str, Any] = qmp.execute("query-vnc")
    return f"{answer['host']}:{answer['service']}" if answer.get("enabled") else None


def _vnc_endpoint(vm: VmHandle, qmp: Qmp) -> VncEndpoint | None:
    address = _query_vnc(qmp)
    if address is None:
        return None
    host, port = address.rsplit(":", 1)
    return VncEndpoint(host, int(port), os.path.join(vm.work_dir, VNC_PASSWORD))


if TYPE_CHECKING:
    from .._core.hypervisor import Hypervisor

    _conforms: type[Hypervisor] = QemuBackend
