# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the server of a machine runs: as a service of the global zone, or in a zone of its own."""

from __future__ import annotations

import os
from typing import Protocol

from .._core.handle import VmHandle
from .._core.layout import PROPOLIS_LOG
from .._core.propolis import PROPOLIS_DEFAULTS, PropolisOptions, PropolisRecord
from .api import PropolisApi


class Hosting(Protocol):
    """A place for a machine's server. All of it is made from the record, as often as is asked for."""

    def ensure(self, deadline: float) -> None:
        """Have the server run; return when its place does. ``deadline`` is a time of ``time.monotonic``."""

    def is_up(self) -> bool:
        """Tell whether the place runs, so that a server may answer there."""

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
    vnc = () if record.vnc_port is None else (f"{record.address}:{record.vnc_port}",)
    return (program, "run", bootrom, f"{record.address}:{record.port}", *vnc)


def hosting_of(vm: VmHandle) -> Hosting:
    """Return the place of the machine's server."""
    if options_of(vm).hosting == "zone":
        from .zone_hosting import ZoneHosting

        return ZoneHosting(vm)
    from .global_hosting import GlobalHosting

    return GlobalHosting(vm)


def api_of(vm: VmHandle) -> PropolisApi:
    """Return the way to the machine's server."""
    record = record_of(vm)
    version = options_of(vm).api_version or PROPOLIS_DEFAULTS.api_version or ""
    log = os.path.join(vm.work_dir, PROPOLIS_LOG)
    return PropolisApi(f"http://{record.address}:{record.port}", version, log_path=log)
