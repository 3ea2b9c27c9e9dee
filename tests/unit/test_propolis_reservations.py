# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What no two machines on Propolis share: ports, addresses and MAC addresses, whether they run or not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    InvalidSpec,
    PortUnavailable,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import Network
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.propolis import (
    PROPOLIS_DEFAULTS,
    PropolisRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis import preparation
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle

IN_ZONES = replace(PROPOLIS_DEFAULTS, hosting="zone", control_network="127.88.0.0/29")


@pytest.fixture
def reserve(tmp_path, monkeypatch):
    """Return a function that reserves for a new machine of a name; all ports are free, since none runs."""
    monkeypatch.setattr(preparation, "is_free", lambda dummy_port: True)
    store = Store(str(tmp_path / "data"))

    def reserve(name, propolis=PROPOLIS_DEFAULTS, record=None):
        vm = minimal_handle(name, "propolis", work_dir=store.work_dir(name))
        spec = replace(vm.spec, networks=(Network("vnic"),), propolis=propolis, vnc=True)
        changed = vm.evolve(spec=spec, propolis=record or PropolisRecord())
        return preparation.reserve(changed, store)

    return reserve


def test_machines_that_do_not_run_keep_their_ports(reserve):
    found = [reserve(name).propolis for name in ("one", "two", "three")]

    assert [record.port for record in found] == [12400, 12401, 12402]
    assert [record.vnc_port for record in found] == [5900, 5901, 5902]
    assert {record.address for record in found} == {"127.0.0.1"}


def test_servers_in_zones_have_addresses_of_their_own_beside_that_of_the_host(reserve):
    found = [reserve(name, IN_ZONES).propolis for name in ("one", "two", "three")]

    places = [(record.address, record.port) for record in found]
    assert places == [(f"127.88.0.{number}", 12400) for number in (2, 3, 4)]


@pytest.mark.parametrize("propolis", [PROPOLIS_DEFAULTS, IN_ZONES], ids=["global", "zone"])
def test_what_was_chosen_once_stays(reserve, propolis):
    first = reserve("one", propolis)
    reserve("two", propolis)

    assert reserve("one", propolis, first.propolis).propolis == first.propolis


def test_cards_have_different_mac_addresses(reserve):
    one, two = reserve("one"), reserve("two")

    assert one.mac_of(one.spec.networks[0]) != two.mac_of(two.spec.networks[0])


def test_a_network_for_zones_that_is_full_is_an_error(reserve):
    for number in range(5):
        reserve(f"vm{number}", IN_ZONES)

    with pytest.raises(InvalidSpec, match=r"all addresses of 127\.88\.0\.0/29 are taken"):
        reserve("more", IN_ZONES)


def test_no_port_left_is_an_error(reserve, monkeypatch):
    monkeypatch.setattr(preparation, "PORTS", range(12400, 12401))
    reserve("one")

    with pytest.raises(PortUnavailable, match="12400 to 12400 are taken, so propolis-server"):
        reserve("two")
