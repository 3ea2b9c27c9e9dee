# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What changing each single option of an existing machine takes, tried on the backend that runs nothing."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.apply import apply_plan
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.changes import (
    EFFECTS,
    Effect,
    check_change,
    differing,
    option_name,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import (
    AddressFilter,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.plan import (
    Power,
    make_plan,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.propolis import (
    PROPOLIS_DEFAULTS,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    PortRange,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import Goal
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._noop.backend import (
    NoopBackend,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import GIB, SECRET

CHANGED = {
    "name": "web2",
    "backend": "qemu",
    "image": "/srv/images/other.qcow2",
    "image_format": "raw",
    "vcpus": 3,
    "memory_mib": 3000,
    "disk_size": 30 * GIB,
    "networks": (),
    "addresses": AddressFilter(version=6),
    "ssh_port_range": PortRange(10000, 20000),
    "cloud_init": CloudInit(user="other"),
    "accelerator": "kvm",
    "cpu": "Nehalem",
    "machine": "pc",
    "vnc": True,
    "labels": {"role": "db"},
    "description": "Another server",
    "image_checksum": "sha256:" + 64 * "1",
    "propolis": replace(PROPOLIS_DEFAULTS, bootrom="/other"),
}
AT_ONCE = {"addresses", "ssh_port_range", "labels", "description"}
NEXT_START = {
    *(
        "propolis",
        "vcpus",
        "memory_mib",
        "disk_size",
        "networks",
        "accelerator",
        "cpu",
        "machine",
        "vnc",
    ),
}
NEVER = {"name", "backend", "image", "image_checksum", "image_format", "cloud_init"}
OLD = VmSpec(
    name="web1",
    backend="noop",
    image="/srv/images/base.qcow2",
    image_format="qcow2",
    disk_size=20 * GIB,
    cpu="max",
    machine="q35",
    labels={"role": "web"},
    description="A server",
    propolis=PROPOLIS_DEFAULTS,
)


class Bench:
    """One machine on the backend noop, and a way to bring it somewhere."""

    def __init__(self, folder):
        self.store = Store(str(folder))
        self.backend = NoopBackend(self.store)

    def found(self):
        handle = self.store.load("web1")
        return handle and self.backend.observe(handle)

    def plan(self, wish, goal):
        return make_plan(wish, Power(goal), self.found(), "noop", self.backend.features)

    def bring(self, wish, goal):
        plan = self.plan(wish, goal)
        found = self.found()
        apply_plan(plan, self.backend, found and found.handle)
        return plan


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    bench.bring(OLD, Goal.STARTED)
    return bench


def test_every_option_has_a_row_and_a_change_to_test():
    names = [field.name for field in fields(VmSpec)]

    assert list(EFFECTS) == names
    assert set(CHANGED) == AT_ONCE | NEXT_START | NEVER == set(names)


@pytest.mark.parametrize("name", sorted(AT_ONCE | NEXT_START))
def test_an_option_is_changed_once(bench, name):
    wish = replace(VmSpec("web1"), **{name: CHANGED[name]})

    plan = bench.bring(wish, Goal.STARTED)
    again = bench.plan(wish, Goal.STARTED)

    assert plan.actions == ["prepare"]
    assert plan.before != plan.after or name == "ssh_port_range"
    assert getattr(bench.found().handle.spec, name) == CHANGED[name]
    assert again.actions == []
    assert bench.plan(VmSpec("web1"), Goal.STARTED).actions == []


@pytest.mark.parametrize("name", sorted(AT_ONCE | NEXT_START))
def test_only_some_options_ask_for_a_restart_and_get_it(bench, name):
    wish = replace(VmSpec("web1"), **{name: CHANGED[name]})
    asked = (option_name(name),) if name in NEXT_START else ()

    first = bench.bring(wish, Goal.STARTED)
    pending = bench.found().restart_required
    second = bench.plan(wish, Goal.STARTED)
    third = bench.bring(wish, Goal.RESTARTED)

    assert (first.restart_reasons, second.restart_reasons) == (asked, asked)
    assert pending == bool(asked)
    assert (third.actions, third.restart_required) == (["stop", "start"], False)
    assert not bench.found().restart_required


@pytest.mark.parametrize("name", sorted(NEXT_START - {"disk_size"}))  # a disk never shrinks
def test_taking_a_change_back_needs_no_restart(bench, name):
    old = getattr(bench.found().handle.spec, name)
    bench.bring(replace(VmSpec("web1"), **{name: CHANGED[name]}), Goal.STARTED)

    plan = bench.bring(replace(VmSpec("web1"), **{name: old}), Goal.STARTED)

    assert (plan.actions, plan.restart_required) == (["prepare"], False)


@pytest.mark.parametrize("name", sorted(NEVER - {"name"}))
def test_an_option_of_creation_cannot_be_changed(bench, name):
    before = bench.found()

    with pytest.raises(VmError) as caught:
        bench.bring(replace(VmSpec("web1"), **{name: CHANGED[name]}), Goal.STARTED)

    assert caught.value.code == "vm_manager.spec.cannot_change"
    assert caught.value.details == {"option": name}
    assert bench.found() == before


def test_the_refusal_of_another_cloud_init_tells_neither():
    old = replace(OLD, cloud_init=CloudInit(user_data=SECRET))
    new = replace(OLD, cloud_init=CloudInit(user_data=f"other-{SECRET}"))

    with pytest.raises(VmError) as caught:
        check_change(old, new, None, None)

    assert SECRET not in repr((caught.value.message, caught.value.as_dict()))


@pytest.mark.parametrize("name", sorted(CHANGED))
def test_differing_lists_an_option_under_its_effect_only(name):
    new = replace(OLD, **{name: CHANGED[name]})

    listed = {effect: differing(OLD, new, effect) for effect in Effect}

    expected = {
        Effect.AT_ONCE: (name,) if name in AT_ONCE else (),
        Effect.NEXT_START: (name,) if name in NEXT_START else (),
        Effect.NEVER: (name,) if name in NEVER else (),
    }
    assert listed == expected
    assert not any(differing(new, new, effect) for effect in Effect)


@pytest.mark.parametrize(
    ("wanted", "now", "fits"),
    [
        (20 * GIB, 20 * GIB, True),
        (20 * GIB + 512, 20 * GIB, True),
        (20 * GIB - 512, 20 * GIB, False),
        (1, None, True),
        (None, 20 * GIB, True),
    ],
)
def test_a_disk_never_shrinks(wanted, now, fits):
    new = replace(OLD, disk_size=wanted)
    if fits:
        check_change(OLD, new, now, None)
        return

    with pytest.raises(VmError, match=r"^disk_size: .* is smaller .* has 20GiB\.$") as caught:
        check_change(OLD, new, now, None)

    assert caught.value.details == {"option": "disk_size"}


@pytest.mark.parametrize(
    ("port", "fits"),
    [(None, True), (10000, True), (20000, True), (9999, False), (20001, False)],
)
def test_a_port_is_kept_for_life(port, fits):
    new = replace(OLD, ssh_port_range=PortRange(10000, 20000))
    if fits:
        check_change(OLD, new, None, port)
        return

    with pytest.raises(VmError, match=f"^ssh_port_range: .* {port}") as caught:
        check_change(OLD, new, None, port)

    assert caught.value.code == "vm_manager.spec.cannot_change"


def test_options_are_called_as_users_call_them():
    assert [option_name(name) for name in ("memory_mib", "vcpus")] == ["memory", "vcpus"]
