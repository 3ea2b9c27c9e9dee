# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The protocol that every backend fulfils."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Protocol

from .claims import Port
from .features import Features
from .handle import VmHandle
from .live import Change
from .spec import VmSpec
from .state import VmState
from .vm import ConsoleEndpoint, Vm


class Hypervisor(Protocol):
    """A hypervisor on the host where the module runs.

    Verbs that change something save the record and return it; those that make files or a process save it before
    they do so, too. They are called with the machine's lock held and a complete spec.
    """

    tag: str
    features: Features

    def check(self, spec: VmSpec, found: VmHandle | None) -> None:
        """Raise what would hinder this host from making or running such a machine. Touches nothing."""

    def check_start(self, spec: VmSpec, found: VmHandle | None, released: Set[Port]) -> None:
        """Raise what would hinder it from running just now.

        What the machine ``found`` itself has does not count, nor do the ports that others will have ``released`` by then.
        """

    def prepare(self, spec: VmSpec, found: VmHandle | None = None) -> VmHandle:
        """Make the machine's files as ``spec`` says, or bring those of an existing one up to it.

        What is complete already is kept, so a preparation that was cut off is finished. A new machine of which
        the preparation fails leaves nothing behind.
        """

    def change(self, vm: VmHandle, changes: Sequence[Change], running: VmSpec) -> VmHandle:
        """Make the changes to the running machine, in order; ``running`` is what it has then.

        What was made is recorded even if a later one fails.
        """

    def discard(self, vm: VmHandle, names: Sequence[str]) -> VmHandle:
        """Delete disks that were made for the machine and that nothing uses any more."""

    def start(self, vm: VmHandle) -> VmHandle:
        """Start the prepared or stopped machine; return when its monitor says that it runs."""

    def stop(self, vm: VmHandle, timeout: float) -> VmHandle:
        """Ask the guest to power off, give it ``timeout`` seconds, then end the process. 0 does not ask."""

    def suspend(self, vm: VmHandle) -> VmHandle:
        """Halt the virtual CPUs; memory stays as it is."""

    def resume(self, vm: VmHandle) -> VmHandle:
        """Let a suspended machine go on."""

    def rename(self, vm: VmHandle, name: str) -> VmHandle:
        """Give the machine, which does not run, another name. It is found under it from the first moment on."""

    def destroy(self, vm: VmHandle) -> list[str]:
        """End the process if there is one, and remove what was made for the machine, and nothing else.

        Return the paths of files in its folder that were kept because somebody else put them there.
        """

    def state(self, vm: VmHandle) -> VmState:
        """Return the state that the machine is in right now."""

    def guest_ip(self, vm: VmHandle) -> str:
        """Return the address under which this host reaches the guest; raise ``NoGuestAddress`` if there is none."""

    def console_endpoint(self, vm: VmHandle) -> ConsoleEndpoint:
        """Return where the serial console is."""

    def await_address(self, vm: Vm, deadline: float) -> Vm:
        """Wait until the running guest has an address; return the machine as it is then.

        ``deadline`` is a time of ``time.monotonic``. Raises ``NoGuestAddress`` saying what was seen for each card.
        """

    def observe(self, vm: VmHandle, started: bool = False) -> Vm:
        """Return the record together with all live facts. Bounded in time; changes nothing.

        ``started`` says that it was started just now: what it was started with need not be asked.
        """
