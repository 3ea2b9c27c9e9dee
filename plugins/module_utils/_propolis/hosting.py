# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the server of a machine runs: as a service of the global zone, or in a zone of its own."""

from __future__ import annotations

from typing import Protocol

from .._core.handle import VmHandle
from .._core.propolis import PROPOLIS_DEFAULTS, PropolisOptions, PropolisRecord
from .api import PropolisApi


class Hosting(Protocol):
    """A place for a machine's server. All of it is made from the record, as often as is asked for."""

    def log_path(self) -> str | None:
        """Return where the server's log can be read from here; ``None`` if it must not be, or there is none yet."""

    def ensure(self, deadline: float) -> None:
        """Have the server run; return when its place does. ``deadline`` is a time of ``time.monotonic``."""

    def is_up(self) -> bool:
        """Tell whether the place runs, so that a server may answer there."""

    def check(self) -> None:
        """Raise ``ServiceFailed`` if it is known that no server will answer."""

    def end(self, deadline: float) -> None:
        """End the server. Its instance must have been destroyed before: the kernel would keep it."""

    def remove(self, deadline: float) -> None:
        """Remove the place."""


def options_of(vm: VmHandle) -> PropolisOptions:
    """Return what the machine was told about Propolis."""
    return vm.spec.propolis or PROPOLIS_DEFAULTS


def record_of(vm: VmHandle) -> PropolisRecord:
    """Return what was chosen for the machine on Propolis."""
    return vm.propolis or PropolisRecord()


def server_command(vm: VmHandle) -> tuple[str, ...]:
    """Return the command that serves the machine. Source: the README of propolis-server."""
    options, record = options_of(vm), record_of(vm)
    program = options.server or PROPOLIS_DEFAULTS.server or ""
    bootrom = options.bootrom or PROPOLIS_DEFAULTS.bootrom or ""
    vnc = (f"{record.address}:{record.vnc_port}",) if vm.spec.vnc else ()
    return (program, "run", bootrom, f"{record.address}:{record.port}", *vnc)


def hosting_of(vm: VmHandle) -> Hosting:
    """Return the place of the machine's server."""
    if options_of(vm).hosting == "zone":
        from .zone_hosting import ZoneHosting

        return ZoneHosting(vm)
    from .global_hosting import GlobalHosting

    return GlobalHosting(vm)


def api_of(vm: VmHandle) -> PropolisApi:
    """Return the way to the machine's server, in the version of its API that the last start spoke.

    A version that was chosen since may be one that the server does not have; the next start finds out.
    """
    record = record_of(vm)
    options = (vm.booted or vm.spec).propolis or PROPOLIS_DEFAULTS
    version = options.api_version or PROPOLIS_DEFAULTS.api_version or ""
    url = f"http://{record.address}:{record.port}"
    return PropolisApi(url, version, hosting_of(vm).log_path)
