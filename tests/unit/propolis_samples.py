# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines on Propolis to test with, and the bodies that describe them to a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import Network
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.propolis import (
    PROPOLIS_DEFAULTS,
    PropolisRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.instance import (
    Seed,
    build_ensure,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import FULL_HANDLE, FULL_SPEC

GOLDEN = Path(__file__).parent / "golden" / "propolis"


def machine(name="web1", networks=("net0",), api_version="1.0.0", **record):
    """Return a machine on Propolis with such network cards."""
    cards = tuple(Network(type="vnic", name=card) for card in networks)
    vnics = {card: f"vm7c1f{index}n{index}" for index, card in enumerate(networks)}
    known = {"disk": f"rpool/vms/{name}/disk0", "vnics": vnics, **record}
    options = replace(PROPOLIS_DEFAULTS, api_version=api_version)
    return FULL_HANDLE.evolve(
        id="propolis-7c1f0f0e-64fb-4d0f-8f0e-0c6f3f3e9f5b",
        name=name,
        spec=replace(FULL_SPEC, name=name, networks=cards, propolis=options),
        overlay_path=None,
        propolis=PropolisRecord(port=12400, **known),
    )


def good_body(host, version):
    """Return a body that the pretended host takes: its disk exists, and so do its VNICs."""
    vm = machine(networks=("net0", "net1"), api_version=version, disk=None)
    return build_ensure(vm.evolve(overlay_path=host.disk), Seed(path=host.disk))
