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
    pending,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import (
    SYSTEM_DISK,
    Disk,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.folders import (
    SharedFolder,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import (
    AddressFilter,
    Network,
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
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import GIB

CHANGED = {
    "name": "web2",
    "backend": "qemu",
    "image": "/srv/images/other.qcow2",
    "image_format": "raw",
    "vcpus": 3,
    "memory_mib": 3000,
    "disk_size": 30 * GIB,
    "networks": (),
    "addresses": AddressFilter(6, (), ()),
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
    "disks": (Disk("data", size=GIB).completed(),),
    "cdrom": "/srv/iso/other.iso",
    "vcpus_max": 8,
    "memory_max_mib": 8192,
    "firmware": "uefi",
    "secure_boot": True,
    "tpm": True,
    "kernel": "/boot/vmlinuz",
    "initrd": "/boot/initrd.img",
    "kernel_cmdline": "quiet",
    "smbios": {"serial": "1"},
    "shared_folders": (SharedFolder("data", "/srv/data"),),
    "qemu_args": ("-no-hpet",),
    "autostart": True,
    "clone_from": "web0",
    "clone_mode": "linked",
}
WITH = {  # what they need beside them
    "secure_boot": {"firmware": "uefi"},
    "initrd": {"kernel": "/boot/vmlinuz"},
    "kernel_cmdline": {"kernel": "/boot/vmlinuz"},
}
LIVE = {"vcpus", "memory_mib", "disk_size", "networks", "disks", "cdrom"}
AT_ONCE = {"addresses", "ssh_port_range", "labels", "description"}
NEXT_START = {
    *("propolis", "accelerator", "cpu", "machine", "vnc", "vcpus_max", "memory_max_mib"),
    *("firmware", "secure_boot", "tpm", "kernel", "initrd", "kernel_cmdline", "smbios"),
    *("shared_folders", "qemu_args"),
}
NEVER = {"name", "backend"}
RECREATE = {"image", "image_checksum", "image_format"}
# These have steps or rules of their own, and tests of their own.
PARTICULAR = {"cloud_init", "autostart", "clone_from", "clone_mode"}
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
    cdrom="",
    vcpus_max=4,
    memory_max_mib=4096,
)


class Bench:
    """One machine on the backend noop, and a way to bring it somewhere."""

    def __init__(self, folder):
        self.store = Store(str(folder))
        self.backend = NoopBackend(self.store)

    def found(self):
        handle = self.store.load("web1")
        return handle and self.backend.observe(handle)

    def plan(self, wish, goal, **power):
        return make_plan(wish, Power(goal, **power), self.found(), "noop", self.backend.features)

    def bring(self, wish, goal, **power):
        plan = self.plan(wish, goal, **power)
        found = self.found()
        apply_plan(plan, self.backend, found and found.handle)
        return plan


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    bench.bring(OLD, Goal.STARTED)
    return bench


def changing(name):
    return replace(VmSpec("web1"), **WITH.get(name, {}), **{name: CHANGED[name]})


def test_every_option_has_a_row_and_a_change_to_test():
    names = [field.name for field in fields(VmSpec)]

    assert list(EFFECTS) == names
    assert set(CHANGED) == set(names)
    assert set(names) == AT_ONCE | LIVE | NEXT_START | NEVER | RECREATE | PARTICULAR


@pytest.mark.parametrize("name", sorted(AT_ONCE | LIVE | NEXT_START))
def test_an_option_is_changed_once(bench, name):
    wish = changing(name)

    plan = bench.bring(wish, Goal.STARTED)
    again = bench.plan(wish, Goal.STARTED)

    assert plan.actions == (["prepare", "change"] if name in LIVE else ["prepare"])
    assert plan.before != plan.after or name == "ssh_port_range"
    assert getattr(bench.found().handle.spec, name) == CHANGED[name]
    assert again.actions == []
    assert bench.plan(VmSpec("web1"), Goal.STARTED).actions == []


@pytest.mark.parametrize("name", sorted(AT_ONCE | LIVE | NEXT_START))
def test_only_some_options_ask_for_a_restart_and_get_it(bench, name):
    wish = changing(name)
    asked = {option_name(name), *WITH.get(name, {})} if name in NEXT_START else set()

    first = bench.bring(wish, Goal.STARTED)
    pending = bench.found().restart_required
    second = bench.plan(wish, Goal.STARTED)
    third = bench.bring(wish, Goal.RESTARTED)

    assert (set(first.restart_reasons), set(second.restart_reasons)) == (asked, asked)
    assert pending == bool(asked)
    assert (third.actions, third.restart_required) == (["stop", "start"], False)
    assert not bench.found().restart_required


@pytest.mark.parametrize("name", sorted(LIVE))
def test_the_next_start_is_soon_enough_if_the_task_says_so(bench, name):
    before = bench.found().handle.booted

    plan = bench.bring(changing(name), Goal.STARTED, apply="next_start")

    assert (plan.actions, plan.restart_reasons) == (["prepare"], (option_name(name),))
    assert bench.found().handle.booted == before
    assert bench.found().restart_required
    later = bench.bring(VmSpec("web1"), Goal.STARTED)
    assert (later.actions, later.restart_required) == (["change"], False)
    assert not bench.found().restart_required


@pytest.mark.parametrize("name", sorted(LIVE | NEXT_START | AT_ONCE))
def test_a_restart_is_made_where_it_is_needed_and_allowed(bench, name):
    plan = bench.bring(changing(name), Goal.STARTED, apply="restart")

    if name in NEXT_START:
        assert plan.actions == ["stop", "prepare", "start"]
    else:
        assert plan.actions == (["prepare", "change"] if name in LIVE else ["prepare"])
    assert not bench.found().restart_required
    assert bench.plan(changing(name), Goal.STARTED, apply="restart").actions == []


# A disk never shrinks and is not detached by not being listed; CPUs and memory are not taken out.
@pytest.mark.parametrize("name", sorted((NEXT_START | LIVE) - {"disk_size", "disks"}))
def test_taking_a_change_back(bench, name):
    old = getattr(bench.found().handle.spec, name)
    bench.bring(replace(VmSpec("web1"), **WITH.get(name, {})), Goal.RESTARTED)
    bench.bring(changing(name), Goal.STARTED)

    plan = bench.bring(replace(VmSpec("web1"), **{name: old}), Goal.STARTED)

    if name in ("vcpus", "memory_mib"):
        assert (plan.actions, plan.restart_reasons) == (["prepare"], (option_name(name),))
        return
    assert plan.actions == (["prepare", "change"] if name in LIVE else ["prepare"])
    assert not plan.restart_required


@pytest.mark.parametrize("name", sorted((NEVER | RECREATE) - {"name"}))
def test_an_option_of_creation_cannot_be_changed(bench, name):
    before = bench.found()

    with pytest.raises(VmError) as caught:
        bench.bring(replace(VmSpec("web1"), **{name: CHANGED[name]}), Goal.STARTED)

    assert caught.value.code == "vm_manager.spec.cannot_change"
    assert caught.value.details == {"option": name}
    assert bench.found() == before


@pytest.mark.parametrize("name", sorted(set(CHANGED) - PARTICULAR))
def test_differing_lists_an_option_under_its_effect_only(name):
    new = replace(OLD, **{name: CHANGED[name]})

    listed = {effect: differing(OLD, new, effect) for effect in Effect}

    expected = {
        Effect.AT_ONCE: (name,) if name in AT_ONCE else (),
        Effect.LIVE: (name,) if name in LIVE else (),
        Effect.NEXT_START: (name,) if name in NEXT_START else (),
        Effect.RECREATE: (name,) if name in RECREATE else (),
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
    old, new = replace(OLD, disk_size=None), replace(OLD, disk_size=wanted)
    if fits:
        check_change(old, new, now, None)
        return

    with pytest.raises(VmError, match=r"^disk_size: .* is smaller .* has 20GiB\.$") as caught:
        check_change(old, new, now, None)

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


def test_a_disk_that_somebody_has_made_larger_is_no_reason_to_refuse_the_size_that_is_recorded():
    check_change(OLD, OLD, 30 * GIB, None)


CARDS = (Network(), Network(name="net1", mac="52:54:00:00:00:01"))
DATA, MORE = Disk("data", size=GIB).completed(), Disk("more", size=2 * GIB).completed()


@pytest.mark.parametrize(
    ("running", "wanted", "due"),
    [
        ({"networks": CARDS}, {"networks": CARDS[::-1]}, ()),
        ({"networks": CARDS}, {"networks": CARDS[:1]}, ("networks",)),
        ({"networks": CARDS[:1]}, {"networks": CARDS}, ("networks",)),
        ({"networks": ()}, {"networks": None}, ()),
        ({"disks": (DATA, MORE)}, {"disks": (MORE, DATA)}, ()),
        ({"disks": None}, {"disks": ()}, ()),
        ({"disks": ()}, {"disks": (Disk(SYSTEM_DISK).completed(),)}, ()),
        ({"disks": ()}, {"disks": (Disk(SYSTEM_DISK, cache="none").completed(),)}, ("disks",)),
        ({"disks": (replace(DATA, size=2 * GIB),)}, {"disks": (DATA,)}, ()),
        ({"disks": (DATA,)}, {"disks": (replace(DATA, size=2 * GIB),)}, ("disks",)),
        ({"disks": (DATA,)}, {"disks": (replace(DATA, size=None),)}, ()),
        ({"disks": (replace(DATA, size=None),)}, {"disks": (DATA,)}, ("disks",)),
        ({"disk_size": 30 * GIB}, {"disk_size": 20 * GIB}, ()),
        ({"disk_size": 20 * GIB}, {"disk_size": 30 * GIB}, ("disk_size",)),
        ({"disk_size": 20 * GIB}, {"disk_size": None}, ()),
        ({"vcpus": 3}, {"vcpus": 2}, ("vcpus",)),
    ],
)
def test_a_restart_is_due_for_what_the_running_machine_lacks(running, wanted, due):
    assert pending(replace(OLD, **running), replace(OLD, **wanted)) == due


def test_options_are_called_as_users_call_them():
    assert [option_name(name) for name in ("memory_mib", "vcpus")] == ["memory", "vcpus"]
