# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtual machines on Propolis, illumos' hypervisor: one propolis-server for each, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING

from .._core.claims import Port
from .._core.errors import (
    InvalidState,
    NoGuestAddress,
    PropolisFailed,
    PropolisProtocol,
    PropolisRefused,
    PropolisUnreachable,
    StopFailed,
    Unsupported,
    VmError,
)
from .._core.features import Features
from .._core.handle import VmHandle
from .._core.layout import CONSOLE_LOG
from .._core.live import Change
from .._core.networks import Network
from .._core.propolis import PROPOLIS_DEFAULTS
from .._core.spec import VmSpec
from .._core.state import VmState
from .._core.vm import ConsoleEndpoint, Vm, VncEndpoint
from .._guest.poweroff import ask_to_power_off
from .._host.files import read_private, write_atomically
from .._host.store import Store
from . import addresses, links, preparation, volumes
from .api import PropolisApi
from .host_check import check_host
from .hosting import api_of, hosting_of, options_of, record_of
from .instance import Seed, build_ensure
from .kernel_vm import remove_kernel_vm
from .run_state import DESTROYED, FINAL, STATES

_UP = 120.0  # seconds until the server answers: a zone may have to be installed and booted
_LOOK = 1.0  # seconds from one look at what runs the server to the next
_START = 120.0  # seconds from Run to Running
_STOP = 60.0  # seconds from Stop to Destroyed
_LOOK = 2.0  # seconds that a look waits for a server that hangs
_AGAIN = 1.0  # seconds between two looks for an address
_CONSOLE_BYTES = 1 << 20
# A server that hangs or cannot answer, or something else where it should be. Its machine may run all the same.
_UNCLEAR = (PropolisUnreachable, PropolisRefused, PropolisProtocol)

_UNSUPPORTED = (
    *("ssh_port_range", "accelerator", "cpu", "machine", "firmware", "secure_boot", "tpm"),
    *("kernel", "initrd", "kernel_cmdline", "smbios", "shared_folders", "qemu_args"),
    *("disks", "cdrom", "vcpus_max", "memory_max_mib", "autostart", "clone_from"),
    "clone_mode",
)


class PropolisBackend:
    """The backend ``propolis``."""

    tag = "propolis"
    features = Features(
        network_types=("vnic",),
        network_models=("virtio",),
        cables=False,
        unsupported=_UNSUPPORTED,
        defaults=VmSpec(name="", networks=(Network(type="vnic"),), propolis=PROPOLIS_DEFAULTS),
    )

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, spec: VmSpec, found: VmHandle | None) -> None:
        """Raise what would hinder this host from making or running such a machine."""
        check_host(spec, found, self._store.data_dir)
        preparation.refuse_unknown_volume(spec, found, self._store)

    def check_start(self, spec: VmSpec, found: VmHandle | None, released: Set[Port]) -> None:
        """Its guests have no ports of the host."""

    def prepare(self, spec: VmSpec, found: VmHandle | None = None) -> VmHandle:
        """Make the machine, finish it, or bring it up to ``spec``."""
        if found is not None and found.state is not VmState.PREPARING:
            return preparation.update(spec, found, self._store, running=self._is_there(found))
        try:
            return preparation.create(spec, found, self._store)
        except BaseException:
            if found is None:
                self._undo(spec.name)
            raise

    def start(self, vm: VmHandle) -> VmHandle:
        """Describe the machine to its server and let it run. A start that fails leaves the record as it was."""
        if self._is_there(vm):
            raise InvalidState(f"The VM '{vm.name}' runs already.", "Stop it first.")
        before = preparation.ensure_links(preparation.grow_disk(vm, self._store), self._store)
        if not hosting_of(before).is_up():
            before = preparation.choose_ports_again(before, self._store)
        body = build_ensure(before, self._seed(before))
        vm = self._store.save(
            before.evolve(state=VmState.STOPPED, booted=before.spec, stopped_by=None)
        )
        try:
            self._run(vm, body)
        except VmError:
            self._give_up(vm)
            self._store.save(before)
            raise
        return self._store.save(vm.evolve(state=VmState.RUNNING))

    def stop(self, vm: VmHandle, timeout: float) -> VmHandle:
        """Ask the guest to power off, wait, then cut the power; end the server once its instance is destroyed."""
        how = None
        api = api_of(vm)
        try:
            if self._instance_state(vm, api) not in (None, *FINAL):
                self._keep_console(vm, api)
                how = self._end_instance(vm, api, timeout)
        except _UNCLEAR:
            how = "sigkill"  # the server has to be ended with its machine
        except InvalidState:
            how = None  # what answers is another machine's; that is left alone
        self._clean_up(vm)
        return self._store.save(vm.evolve(state=VmState.STOPPED, stopped_by=how or vm.stopped_by))

    def change(self, vm: VmHandle, changes: Sequence[Change], running: VmSpec) -> VmHandle:
        """Raise ``Unsupported``: the server changes nothing of a running machine."""
        raise Unsupported("changing a running machine is not available on backend propolis.")

    def discard(self, vm: VmHandle, names: Sequence[str]) -> VmHandle:
        """Return the record: a machine has no disks besides its own."""
        return vm

    def rename(self, vm: VmHandle, name: str) -> VmHandle:
        """Raise ``Unsupported``: volumes, links and services have the name."""
        raise Unsupported("new_name is not available on backend propolis.", option="new_name")

    def suspend(self, vm: VmHandle) -> VmHandle:
        """Raise ``Unsupported``: the server has no such thing."""
        raise Unsupported("state=suspended is not available on backend propolis.", option="state")

    def resume(self, vm: VmHandle) -> VmHandle:
        """Raise ``Unsupported``: nothing can have been suspended."""
        raise Unsupported("resuming is not available on backend propolis.", option="state")

    def destroy(self, vm: VmHandle) -> list[str]:
        """Cut the power, then remove the server's place, the VNICs, the volumes and the folder, in this order."""
        self.stop(vm, 0.0)
        hosting_of(vm).remove(time.monotonic() + _UP)
        record = record_of(vm)
        for link in record.vnics.values():
            links.remove_vnic(link)
        kept = volumes.destroy(record.dataset) if record.dataset is not None else []
        return [*kept, *self._store.forget(vm.name)]

    def state(self, vm: VmHandle) -> VmState:
        """Return the state that the machine is in right now."""
        return self._look(vm).state

    def guest_ip(self, vm: VmHandle) -> str:
        """Return the first address of the guest's first cards."""
        address = self.observe(vm).ip_address
        if address is None:
            raise NoGuestAddress(f"The VM '{vm.name}' has no address that this host knows.")
        return address

    def console_endpoint(self, vm: VmHandle) -> ConsoleEndpoint:
        """Return the WebSocket of the serial console; it wants the header ``api-version``, too."""
        record = record_of(vm)
        url = f"ws://{record.address}:{record.port}/instance/serial?most_recent=16384"
        return ConsoleEndpoint("websocket", url)

    def await_address(self, vm: Vm, deadline: float) -> Vm:
        """Look again and again until one of the cards has an address."""
        api = api_of(vm.handle)
        while vm.ip_address is None:
            reports, dummy_failures = addresses.look(vm.handle, vm.plugged, api)
            vm = replace(vm, addresses=addresses.by_network(vm.plugged, reports))
            if vm.ip_address is not None:
                break
            left = deadline - time.monotonic()
            if left <= 0 or self._look(vm.handle).state is not VmState.RUNNING:
                raise addresses.nothing_found(vm.handle, reports)
            time.sleep(min(_AGAIN, left))
        return vm

    def observe(self, vm: VmHandle, started: bool = False) -> Vm:
        """Return the record together with what the server and this host's tables say."""
        live = self._look(vm)
        if live.state is not VmState.RUNNING or live.run_state is None:
            return live
        reports, failures = addresses.look(vm, live.plugged, api_of(vm))
        seen = replace(live, addresses=addresses.by_network(live.plugged, reports))
        if seen.ip_address is not None or not failures:
            return seen
        missed = f"The address of the VM '{vm.name}' may have been missed: {'; '.join(failures)}."
        return replace(seen, warnings=(*seen.warnings, missed))

    def _look(self, vm: VmHandle) -> Vm:
        unstarted = vm.state in (VmState.PREPARING, VmState.PREPARED)
        ended = Vm(vm, vm.state if unstarted else VmState.STOPPED)
        try:
            said = self._instance_state(vm, api_of(vm))
        except _UNCLEAR as exc:
            uncertain = f"The state of the VM '{vm.name}' is uncertain: {exc}"
            return Vm(vm, VmState.RUNNING, warnings=(uncertain,))
        except InvalidState as exc:
            return replace(ended, warnings=(exc.message,))
        if said is None or said == DESTROYED:
            return ended
        state = STATES.get(said, VmState.RUNNING)
        if not state.has_process:
            return replace(ended, run_state=said)
        console, vnc = self.console_endpoint(vm), self._vnc(vm)
        return Vm(vm, state, run_state=said, console=console, vnc=vnc)

    def _vnc(self, vm: VmHandle) -> VncEndpoint | None:
        """Return the screen of the server that runs, which knows nothing of options that changed since."""
        record, served = record_of(vm), (vm.booted or vm.spec).vnc
        if not served or record.vnc_port is None:
            return None
        return VncEndpoint(record.address, record.vnc_port)

    def _is_there(self, vm: VmHandle) -> bool:
        return self._look(vm).state.has_process

    def _instance_state(self, vm: VmHandle, api: PropolisApi) -> str | None:
        """Return the server's word for the machine's state; ``None`` if there is no server or it has none.

        Only where nobody listens is there no server: one that does not answer, or that cannot be reached, may well run
        its machine. That is ``PropolisUnreachable``.
        """
        if record_of(vm).port is None or not hosting_of(vm).is_up():
            return None
        try:
            instance = api.instance(_LOOK)
        except PropolisUnreachable as exc:
            if exc.details.get("refused"):
                return None  # it has just been started
            raise
        if instance is None:
            return None
        if instance.id != vm.uuid:
            raise InvalidState(
                f"The server at {api.url} runs another machine ({instance.id}) than '{vm.name}' ({vm.uuid}).",
                "Find out which record names the same address, and remove one of the machines.",
            )
        return instance.state

    def _run(self, vm: VmHandle, body: dict[str, object]) -> None:
        up = time.monotonic() + _UP
        hosting_of(vm).ensure(up)
        api = api_of(vm)
        self._await_server(vm, api, up)
        if self._instance_state(vm, api) not in (None, *FINAL):
            # Being cleaned up, or left by a start that was killed: its description may be out of date.
            self._cut_power(vm, api)
        api.ensure(body)
        api.request_state("Run")
        reached = api.wait_for(("Running", *FINAL), time.monotonic() + _START)
        if reached != "Running":
            raise PropolisFailed(
                f"The VM '{vm.name}' did not start: its instance is {reached}.", log=api.log_tail()
            )

    def _await_server(self, vm: VmHandle, api: PropolisApi, deadline: float) -> None:
        # SMF calls a service online before its program has begun, and may give it up after that.
        while True:
            try:
                return api.await_answer(min(deadline, time.monotonic() + _LOOK))
            except PropolisUnreachable:
                hosting_of(vm).check()
                if time.monotonic() >= deadline:
                    raise

    def _end_instance(self, vm: VmHandle, api: PropolisApi, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        if timeout > 0 and self._power_button(vm, api, timeout):
            with contextlib.suppress(PropolisUnreachable):
                if api.wait_for(FINAL, deadline) in FINAL:
                    return "guest"
        self._cut_power(vm, api)
        return "quit"

    def _cut_power(self, vm: VmHandle, api: PropolisApi) -> None:
        reached = api.cut_power(time.monotonic() + _STOP)
        if reached not in FINAL:
            raise StopFailed(
                f"The VM '{vm.name}' is still {reached} {_STOP:g} s after its power was cut.",
                "Look at the server's log, of which error.details.log has the end.",
                log=api.log_tail(),
            )

    def _power_button(self, vm: VmHandle, api: PropolisApi, timeout: float) -> bool:
        running = Vm(vm, VmState.RUNNING)
        reports, dummy_failures = addresses.look(vm, running.plugged, api)
        found = replace(running, addresses=addresses.by_network(running.plugged, reports))
        if found.ip_address is None:
            return False
        return ask_to_power_off(vm, found.ip_address, timeout) is None

    def _keep_console(self, vm: VmHandle, api: PropolisApi) -> None:
        # The server forgets it with the instance. Else why it is missing: an older text would be taken for it.
        try:
            said = api.serial_history(_CONSOLE_BYTES)
        except VmError as exc:
            said = f"What the guest printed could not be kept: {exc.message}\n".encode()
        with contextlib.suppress(VmError):  # a stop goes on without it
            write_atomically(os.path.join(vm.work_dir, CONSOLE_LOG), said)

    def _give_up(self, vm: VmHandle) -> None:
        """Leave nothing running of a start that failed; what hinders that matters less than why it failed."""
        api = api_of(vm)
        with contextlib.suppress(VmError):
            if self._instance_state(vm, api) not in (None, *FINAL):
                self._end_instance(vm, api, 0.0)
        with contextlib.suppress(VmError):
            self._clean_up(vm)

    def _clean_up(self, vm: VmHandle) -> None:
        """End the server, and what the kernel keeps of a machine whose server was killed."""
        hosting_of(vm).end(time.monotonic() + _STOP)
        remove_kernel_vm(vm.uuid)

    def _undo(self, name: str) -> None:
        """Remove what a failed preparation made. What cannot be removed now stays recorded for the next task."""
        made = self._store.load(name)
        with contextlib.suppress(VmError):
            if made is None:
                self._store.forget(name)
            else:
                self.destroy(made)

    def _seed(self, vm: VmHandle) -> Seed | None:
        path = vm.seed_iso_path
        if path is None:
            return None
        if options_of(vm).hosting == "zone":
            return Seed(blob=read_private(path))  # the zone does not see the machine's folder
        return Seed(path=path)


if TYPE_CHECKING:
    from .._core.hypervisor import Hypervisor

    _conforms: type[Hypervisor] = PropolisBackend
