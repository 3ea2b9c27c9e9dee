# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: picks the backend, and imports only that one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ._core.errors import BackendNotAvailable
from ._core.handle import VmHandle
from ._core.vm import Vm
from ._host.store import Store

if TYPE_CHECKING:
    from ._core.hypervisor import Hypervisor

PLATFORM_DEFAULTS = {"linux": "qemu", "sunos5": "propolis"}


class RouterHypervisor:
    """The way to a backend: by platform for a new machine, by the tag of its record afterwards.

    ``noop_only`` serves every new machine with the backend noop, whatever the task or the platform says.
    """

    def __init__(
        self, store: Store, *, platform: str = sys.platform, noop_only: bool = False
    ) -> None:
        self.store = store
        self._platform = platform
        self._noop_only = noop_only

    def tag_for(self, wish: str | None) -> str:
        """Return the backend of a new machine; ``wish`` is what the user asked for, if anything."""
        if self._noop_only:
            return "noop"
        tag = wish or PLATFORM_DEFAULTS.get(self._platform)
        if tag is None:
            raise BackendNotAvailable(
                f"There is no default backend for the platform {self._platform}.",
                "Choose one with the option backend; noop works everywhere.",
            )
        return tag

    def backend(self, tag: str) -> Hypervisor:
        """Return the backend with this tag; raise ``BackendNotAvailable`` if this release has none."""
        if tag == "qemu":
            from ._qemu.backend import QemuBackend

            return QemuBackend(self.store)
        if tag == "propolis":
            from ._propolis.backend import PropolisBackend

            return PropolisBackend(self.store)
        if tag == "noop":
            from ._noop.backend import NoopBackend

            return NoopBackend(self.store)
        raise BackendNotAvailable(
            f"This release of the collection has no backend {tag}.", "Use a newer release."
        )

    def pick(self, wish: str | None, found: VmHandle | None) -> Hypervisor:
        """Return the backend for a task on the machine ``found``, or on one that does not exist yet."""
        return self.backend(found.backend if found else self.tag_for(wish))

    def observe(self, name: str) -> Vm | None:
        """Return the machine of this name as it is right now, or ``None`` if there is none."""
        handle = self.store.load(name)
        return None if handle is None else self.backend(handle.backend).observe(handle)
