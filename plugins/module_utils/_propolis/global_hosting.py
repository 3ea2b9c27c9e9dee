# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The server of a machine as a service of the global zone, on a port of 127.0.0.1."""

from __future__ import annotations

import os

from .._core.handle import VmHandle
from .._core.layout import PROPOLIS_LOG, SMF_MANIFEST
from . import services
from .hosting import server_command


class GlobalHosting:
    """An SMF instance that belongs to one machine, in the machine's folder."""

    def __init__(self, vm: VmHandle) -> None:
        self._service = services.Service(
            instance=services.service_instance(vm.name, vm.uuid),
            command=server_command(vm),
            folder=vm.work_dir,
            log=PROPOLIS_LOG,
        )
        self._manifest = os.path.join(vm.work_dir, SMF_MANIFEST)

    def log_path(self) -> str:
        """Return the path of the server's log, in the machine's folder."""
        return os.path.join(self._service.folder, self._service.log)

    def ensure(self, deadline: float) -> None:
        """Have the service online."""
        services.ensure_service(self._service, self._manifest, deadline)

    def is_up(self) -> bool:
        """Tell whether SMF calls the service online."""
        return services.service_state(self._service.fmri) == "online"

    def check(self) -> None:
        """Raise ``ServiceFailed`` if SMF has given the service up."""
        services.check_service(self._service.fmri, self.log_path())

    def end(self, deadline: float) -> None:
        """Disable the service."""
        services.disable_service(self._service.fmri, deadline)

    def remove(self, deadline: float) -> None:
        """Remove the service."""
        services.remove_service(self._service.fmri, deadline)
