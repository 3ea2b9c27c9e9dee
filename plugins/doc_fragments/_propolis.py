# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The option ``propolis`` of the modules that make machines, or look whether they could."""

from __future__ import annotations


class ModuleDocFragment:
    """Where things are on an illumos host."""

    DOCUMENTATION = r"""
options:
  propolis:
    description:
      - Where things are on an illumos host, and how the servers of machines are hosted. Only for the backend C(propolis).
    type: dict
    suboptions:
      pool:
        description: Pool or dataset below which images and disks are kept as volumes. A new machine gets V(rpool). It cannot be changed afterwards.
        type: str
      server:
        description: Path of the program. The default is C(/opt/oxide/propolis-server/bin/propolis-server).
        type: path
      bootrom:
        description: Path of the guest's firmware. The default is C(/opt/oxide/propolis-server/blob/OVMF_CODE.fd).
        type: path
      api_version:
        description: Version of the server's API to speak. V(1.0.0), the default, is served by all.
        type: str
        choices: ["1.0.0", "2.0.0", "3.0.0", "4.0.0", "5.0.0", "6.0.0"]
      hosting:
        description:
          - V(global) runs the server in the global zone as a service on a port of 127.0.0.1. This is the default.
          - V(zone) runs it in a zone of its own with an exclusive IP stack. It cannot be changed afterwards.
        type: str
        choices: [global, zone]
      zone_brand:
        description: Brand of the zone. The default is V(omicron1).
        type: str
      zone_image:
        description: File from which the brand installs the zone.
        type: path
      zone_dir:
        description: Folder that holds the zones' folders. The default is C(/zones).
        type: path
      control_link:
        description: Link over which the global zone reaches the server in a zone, such as an etherstub.
        type: str
      control_network:
        description: Range of addresses for servers in zones, such as V(192.168.240.0/24). Its first address is the global zone's.
        type: str
"""
