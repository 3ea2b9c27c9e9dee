# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The server of a machine in a zone of its own, reached over a control link."""

from __future__ import annotations

import ipaddress
import os

from .._core.handle import VmHandle
from .._core.layout import ZONE_CONFIG
from .._core.propolis import PROPOLIS_DEFAULTS
from . import links, services, zones
from .hosting import options_of, record_of, server_command

_FOLDER = "/var/lib/cloudnebula"  # inside the zone: there the server writes its log
_LOG = "propolis.log"
_CONTROL = 99  # the number in the name of the control VNIC, above those of the guest's cards


class ZoneHosting:
    """An exclusive-IP zone with the control VNIC, the guest's VNICs and the disk's device."""

    def __init__(self, vm: VmHandle) -> None:
        self._vm = vm
        self._options = options_of(vm)
        self._name = zones.zone_name(vm.name, vm.uuid)
        self._path = os.path.join(
            self._options.zone_dir or PROPOLIS_DEFAULTS.zone_dir or "", self._name
        )
        self._control = links.vnic_name(vm.name, vm.uuid, _CONTROL)

    def log_path(self) -> str | None:
        """Return the path of the server's log, unless somebody inside the zone has put a link in the way."""
        return zones.path_inside(self._path, f"{_FOLDER}/{_LOG}")

    def ensure(self, deadline: float) -> None:
        """Have the zone installed with the server's service in it, and booted."""
        over = self._options.control_link or ""
        links.ensure_vnic(self._control, over, self._control_mac(), None, None)
        zones.ensure_zone(self._zone(), os.path.join(self._vm.work_dir, ZONE_CONFIG), deadline)
        zones.put_service(self._path, self._service())
        zones.boot(self._name, deadline)

    def is_up(self) -> bool:
        """Tell whether the zone runs."""
        return zones.zone_state(self._name) == "running"

    def check(self) -> None:
        """Do nothing: the service is the zone's own, and is not asked from here."""

    def end(self, deadline: float) -> None:
        """Halt the zone."""
        zones.halt(self._name, deadline)

    def remove(self, deadline: float) -> None:
        """Remove the zone and the control VNIC."""
        zones.remove_zone(self._name, self._vm.uuid, deadline)
        links.remove_vnic(self._control)

    def _zone(self) -> zones.Zone:
        record = record_of(self._vm)
        network = ipaddress.IPv4Network(self._options.control_network or "")
        address = f"{record.address}/{network.prefixlen}"
        guest = (zones.ZoneLink(name) for name in record.vnics.values())
        disk = self._vm.disk_path
        return zones.Zone(
            name=self._name,
            owner=self._vm.uuid,
            brand=self._options.zone_brand or PROPOLIS_DEFAULTS.zone_brand or "",
            path=self._path,
            links=(zones.ZoneLink(self._control, address), *guest),
            disks=() if disk is None else (disk,),
            image=self._options.zone_image,
        )

    def _service(self) -> services.Service:
        return services.Service(
            instance=services.service_instance(self._vm.name, self._vm.uuid),
            command=server_command(self._vm),
            folder=_FOLDER,
            log=_LOG,
            enabled=True,
        )

    def _control_mac(self) -> str:
        # Of the machine's own UUID, so that it is the same each time: locally administered.
        octets = bytes.fromhex(self._vm.uuid.replace("-", "")[-10:])
        return f"02:{octets.hex(':')}"
