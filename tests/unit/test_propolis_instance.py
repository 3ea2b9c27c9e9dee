# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The body that makes an instance: each row of the table has a golden file, and some facts hold for all rows.

``REGENERATE=1`` writes the golden files anew; read the difference before you keep it.
"""

from __future__ import annotations

import base64
import json
import os
import uuid

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BadRecord,
    InvalidSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.propolis import (
    API_VERSIONS,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.instance import (
    Seed,
    build_ensure,
    check_ensure,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.propolis_samples import GOLDEN, machine

SEED_FILE = Seed(path="/data/vms/web1/seed.iso")
AWKWARD = ("com1", "disk0", "disk0-backend", "cloud-init", "x", "x-backend", "pvpanic")


CASES = {
    "plain": (machine(), SEED_FILE),
    "no_seed": (machine(), None),
    "seed_inside": (machine(), Seed(blob=b"seed" * 128)),
    "no_network": (machine(networks=()), SEED_FILE),
    "eight_networks": (machine(networks=[f"net{index}" for index in range(8)]), SEED_FILE),
    "awkward_names": (machine(networks=AWKWARD), SEED_FILE),
    "long_name": (machine(name="a" * 63), SEED_FILE),
    "file": (machine(disk=None).evolve(overlay_path="/data/vms/web1/disk.raw"), SEED_FILE),
    "api_5": (machine(api_version="5.0.0"), SEED_FILE),
    "api_6": (machine(api_version="6.0.0"), SEED_FILE),
}


def components(body):
    return body["init"]["value"]["spec"]["components"]


@pytest.mark.parametrize("case", CASES)
def test_body_is_as_in_the_golden_file(case):
    golden = GOLDEN / f"{case}.json"

    text = json.dumps(build_ensure(*CASES[case]), indent=2) + "\n"

    if os.environ.get("REGENERATE"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_every_golden_file_has_its_row():
    assert sorted(CASES) == sorted(path.stem for path in GOLDEN.iterdir())


@pytest.fixture(params=CASES)
def built(request):
    vm, seed = CASES[request.param]
    return vm, seed, build_ensure(vm, seed)


def test_all_rules_are_kept(built):
    vm, _seed, body = built
    check_ensure(body, vm.spec.propolis.api_version)


def test_identity_and_size_are_those_of_the_record(built):
    vm, _seed, body = built
    board = body["init"]["value"]["spec"]["board"]

    assert body["properties"]["id"] == vm.uuid
    assert body["properties"]["name"] == vm.name
    assert (board["cpus"], board["memory_mb"]) == (2, 2048)


def test_nothing_is_lost_to_equal_keys(built):
    vm, seed, body = built
    cards, fixed = len(vm.spec.networks), len(("disk", "backend", "pvpanic", "boot")) + 4
    assert len(components(body)) == fixed + 2 * cards + (0 if seed is None else 2)


def test_cards_lie_where_guests_expect_them(built):
    vm, _seed, body = built
    found = components(body)

    for index, network in enumerate(vm.spec.networks):
        card = found[f"nic-{network.name}"]["component"]
        assert card["pci_path"] == {"bus": 0, "device": 8 + index, "function": 0}
        backend = found[card["backend_id"]]["component"]
        assert backend == {"vnic_name": vm.propolis.vnics[network.name]}


def test_cards_have_identifiers_that_never_change(built):
    _vm, _seed, body = built
    cards = [
        item["component"] for item in components(body).values() if item["type"] == "virtio_nic"
    ]
    found = [uuid.UUID(card["interface_id"]) for card in cards]

    assert len(set(found)) == len(found)
    again = [
        item["component"]["interface_id"]
        for item in components(build_ensure(*built[:2])).values()
        if item["type"] == "virtio_nic"
    ]
    assert again == [str(identifier) for identifier in found]


def test_machine_boots_from_its_disk(built):
    vm, _seed, body = built
    found = components(body)
    disk = found["disk0"]["component"]

    assert found["boot-settings"]["component"] == {"order": [{"id": "disk0"}]}
    assert disk["pci_path"]["device"] == 16
    backend = found[disk["backend_id"]]["component"]
    assert backend["path"] in (vm.overlay_path, f"/dev/zvol/rdsk/{vm.propolis.disk}")
    assert (backend["readonly"], backend["block_size"]) == (False, 512)


def test_disk_has_a_serial_number_of_20_bytes(built):
    vm, _seed, body = built
    serial = bytes(components(body)["disk0"]["component"]["serial_number"])
    assert serial == f"{vm.name}-disk0".encode()[:20].ljust(20)


def test_seed_is_a_disk_that_the_guest_cannot_write(built):
    _vm, seed, body = built
    found = components(body)
    if seed is None:
        assert "cloud-init" not in found
        return

    device = found["cloud-init"]
    backend = found[device["component"]["backend_id"]]

    assert (device["type"], device["component"]["pci_path"]["device"]) == ("virtio_disk", 24)
    assert backend["component"]["readonly"] is True
    if seed.path is not None:
        assert backend["component"]["path"] == seed.path
    else:
        assert base64.b64decode(backend["component"]["base64"]) == seed.blob


@pytest.mark.parametrize("version", API_VERSIONS)
def test_write_cache_is_named_from_version_6_on(version):
    disk = components(build_ensure(machine(api_version=version), None))["disk0"]["component"]
    assert ("has_write_cache" in disk) == (version == "6.0.0")


def test_version_left_open_is_the_first():
    vm = machine(api_version=None)
    assert build_ensure(vm, None) == build_ensure(machine(), None)


def test_unknown_version_is_refused():
    with pytest.raises(InvalidSpec, match=r"propolis\.api_version: '7\.0\.0' is not one of 1\.0"):
        build_ensure(machine(api_version="7.0.0"), None)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [({"disk": None}, "names no disk"), ({"vnics": {}}, "no VNIC for the network 'net0'")],
)
def test_record_that_lacks_something_is_refused(changes, missing):
    with pytest.raises(BadRecord, match=missing):
        build_ensure(machine(**changes), None)
