# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running machine takes up at once, what must wait, and that a plan tells exactly what a run does."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.apply import apply_plan
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import (
    SYSTEM_DISK,
    Disk,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.live import (
    Change,
    Hotplug,
    LiveFacts,
    actual_spec,
    changed,
    live_changes,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import Network
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.plan import (
    Power,
    make_plan,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import VmSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import (
    Goal,
    VmState,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.vm import (
    show_options,
    show_vm,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._noop.backend import (
    NoopBackend,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import set_options

GIB = 1024**3
ABLE = Hotplug(
    vcpus=True,
    memory=True,
    memory_step=128,
    grow_buses=("virtio-blk", "virtio-scsi"),
    limits=True,
    cdrom=True,
    disk_buses=("virtio-blk", "virtio-scsi", "nvme"),
    network_types=("user", "bridge"),
    cable=True,
)
DATA = Disk("data", size=GIB).completed()
FAST = Disk("fast", size=GIB, bus="nvme").completed()
SATA = Disk("old", size=GIB, bus="sata").completed()
NET0, NET1 = Network(), Network(name="net1")
LAN = Network("bridge", "lan", bridge="br0")
BASE = VmSpec(
    "web1",
    vcpus=2,
    memory_mib=1024,
    disk_size=10 * GIB,
    networks=(NET0,),
    disks=(DATA,),
    cdrom="",
    vcpus_max=4,
    memory_max_mib=4096,
    machine="q35",
)


def grown(disk, size=2 * GIB):
    return replace(disk, size=size)


# What is there besides BASE, what is wanted besides it, the changes, and the options that must wait.
CASES = {
    "nothing": ({}, {}, [], ()),
    "more CPUs": ({}, {"vcpus": 4}, [Change("set_vcpus", value=4)], ()),
    "more CPUs than there is room for": ({}, {"vcpus": 5}, [], ("vcpus",)),
    "fewer CPUs": ({}, {"vcpus": 1}, [], ("vcpus",)),
    "no room for CPUs was left": (
        {"vcpus_max": None},
        {"vcpus": 3, "vcpus_max": None},
        [],
        ("vcpus",),
    ),
    "room for more CPUs": ({}, {"vcpus_max": 8}, [], ("vcpus_max",)),
    "room for more CPUs and more CPUs": (
        *({}, {"vcpus": 6, "vcpus_max": 8}),
        *([], ("vcpus", "vcpus_max")),
    ),
    "more memory": ({}, {"memory_mib": 2048}, [Change("set_memory", value=2048)], ()),
    "memory that is not a whole piece": ({}, {"memory_mib": 1100}, [], ("memory_mib",)),
    "less memory": ({}, {"memory_mib": 512}, [], ("memory_mib",)),
    "too much memory": ({}, {"memory_mib": 8192}, [], ("memory_mib",)),
    "a larger disk": (
        *({}, {"disk_size": 20 * GIB}),
        *([Change("resize_disk", SYSTEM_DISK, 20 * GIB)], ()),
    ),
    "a disk that is larger already": ({"disk_size": 30 * GIB}, {}, [], ()),
    "a size for a disk that had that of its image": (
        *({"disk_size": None}, {}),
        *([Change("resize_disk", SYSTEM_DISK, 10 * GIB)], ()),
    ),
    "a medium": ({}, {"cdrom": "/a.iso"}, [Change("set_medium", value="/a.iso")], ()),
    "no medium": ({"cdrom": "/a.iso"}, {}, [Change("set_medium", value="")], ()),
    "a drive": ({"cdrom": None}, {"cdrom": "/a.iso"}, [], ("cdrom",)),
    "one more disk": ({}, {"disks": (DATA, FAST)}, [Change("add_disk", "fast", FAST)], ()),
    "one disk less": ({"disks": (DATA, FAST)}, {}, [Change("remove_disk", "fast")], ()),
    "a disk on sata": ({}, {"disks": (DATA, SATA)}, [], ("disks",)),
    "a disk on sata less": ({"disks": (DATA, SATA)}, {}, [], ("disks",)),
    "a disk to boot from": (
        *({}, {"disks": (DATA, replace(FAST, boot_index=0))}),
        *([], ("disks",)),
    ),
    "a larger data disk": (
        *({}, {"disks": (grown(DATA),)}),
        *([Change("resize_disk", "data", 2 * GIB)], ()),
    ),
    "larger disks of which the guest would not hear": (
        *({"disks": (FAST, SATA)}, {"disks": (grown(FAST), grown(SATA))}),
        *([], ("disks",)),
    ),
    "a larger disk that is only read": (
        {"disks": (replace(DATA, readonly=True),)},
        {"disks": (replace(grown(DATA), readonly=True),)},
        *([], ("disks",)),
    ),
    "a larger disk from the image of which the guest would not hear": (
        {"disks": (Disk(SYSTEM_DISK, bus="nvme").completed(),)},
        {"disks": (Disk(SYSTEM_DISK, bus="nvme").completed(),), "disk_size": 20 * GIB},
        *([], ("disk_size",)),
    ),
    "a data disk that is larger already": ({"disks": (grown(DATA),)}, {}, [], ()),
    "limits": (
        *({}, {"disks": (replace(DATA, iops=100),)}),
        *([Change("limit_disk", "data", replace(DATA, iops=100).limits)], ()),
    ),
    "limits of the disk from the image": (
        {},
        {"disks": (DATA, Disk(SYSTEM_DISK, bps=1024).completed())},
        [Change("limit_disk", SYSTEM_DISK, Disk(SYSTEM_DISK, bps=1024).limits)],
        (),
    ),
    "another cache and limits": (
        *({}, {"disks": (replace(DATA, iops=100, cache="none"),)}),
        *([Change("limit_disk", "data", replace(DATA, iops=100).limits)], ("disks",)),
    ),
    "the disk from the image, as it is": (
        *({}, {"disks": (DATA, Disk(SYSTEM_DISK).completed())}),
        *([], ()),
    ),
    "one more card": ({}, {"networks": (NET0, LAN)}, [Change("add_network", "lan", LAN)], ()),
    "one card less": ({"networks": (NET0, LAN)}, {}, [Change("remove_network", "lan")], ()),
    "the last card": ({}, {"networks": ()}, [Change("remove_network", "net0")], ()),
    "another card": (
        *({}, {"networks": (LAN,)}),
        *([Change("remove_network", "net0"), Change("add_network", "lan", LAN)], ()),
    ),
    "cards in another order": ({"networks": (NET0, LAN)}, {"networks": (LAN, NET0)}, [], ()),
    "the card that leads to SSH": (
        *({"networks": (NET0, NET1)}, {"networks": (NET1,)}),
        *([], ("networks",)),
    ),
    "the second card of its kind": (
        *({"networks": (NET0, NET1)}, {}),
        *([Change("remove_network", "net1")], ()),
    ),
    "both cards of a kind": (
        *({"networks": (NET0, NET1)}, {"networks": ()}),
        *([Change("remove_network", "net0"), Change("remove_network", "net1")], ()),
    ),
    "a card of a kind that cannot be plugged": (
        *({}, {"networks": (NET0, Network("tap", "t", interface="t"))}),
        *([], ("networks",)),
    ),
    "a cable": (
        *({}, {"networks": (replace(NET0, connected=False),)}),
        *([Change("plug_cable", "net0", False)], ()),
    ),
    "a cable and a model": (
        *({}, {"networks": (replace(NET0, connected=False, model="e1000"),)}),
        *([Change("plug_cable", "net0", False)], ("networks",)),
    ),
    "something that never is live": ({}, {"cpu": "max", "vnc": True}, [], ("cpu", "vnc")),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_done_at_once_and_what_waits(case):
    there, wish, changes, waiting = CASES[case]
    actual, wanted = replace(BASE, **there), replace(BASE, **wish)

    live = live_changes(actual, wanted, ABLE)

    assert list(live.changes) == changes
    assert set(live.waiting) == set(waiting)
    again = live_changes(live.becomes, wanted, ABLE)
    assert (again.changes, again.waiting) == ((), live.waiting)


@pytest.mark.parametrize("case", CASES)
def test_a_backend_that_can_change_nothing_changes_nothing(case):
    there, wish, changes, waiting = CASES[case]
    actual, wanted = replace(BASE, **there), replace(BASE, **wish)

    live = live_changes(actual, wanted, Hotplug())

    assert (live.changes, live.becomes) == ((), actual)
    assert bool(live.waiting) == bool(changes or waiting)


@pytest.mark.parametrize(
    ("slots", "made"), [(None, ["fast", "lan"]), (4, ["fast", "lan"]), (3, ["fast"]), (2, [])]
)
def test_what_there_is_no_slot_for_waits(slots, made):
    wanted = replace(BASE, disks=(DATA, FAST), networks=(NET0, LAN))

    live = live_changes(BASE, wanted, replace(ABLE, slots=slots))

    assert [change.name for change in live.changes] == made
    assert bool(live.waiting) == (len(made) < 2)


MANY, MORE = (Disk(name, size=GIB, bus="virtio-scsi").completed() for name in ("many", "more"))


def test_a_slot_that_becomes_free_is_used():
    wanted = replace(BASE, disks=(FAST,))

    live = live_changes(BASE, wanted, replace(ABLE, slots=2))

    assert [change.name for change in live.changes] == ["data", "fast"]
    assert live.waiting == ()


@pytest.mark.parametrize(
    ("there", "slots", "made"),
    [
        ((DATA,), 2, []),
        ((DATA,), 3, ["many", "more"]),
        ((DATA, MANY), 3, ["more"]),
        ((DATA, MANY, FAST), 3, ["more"]),
    ],
)
def test_disks_that_share_a_controller_take_one_slot_together(there, slots, made):
    actual = replace(BASE, disks=there)
    wanted = replace(BASE, disks=tuple(dict.fromkeys((*there, MANY, MORE))))

    live = live_changes(actual, wanted, replace(ABLE, slots=slots))

    assert [change.name for change in live.changes] == made


@pytest.mark.parametrize(
    ("seen", "made"),
    [
        ({}, ["data", "fast", "net0", "lan"]),
        ({"free_slots": 0}, ["data", "fast", "net0", "lan"]),
        ({"free_slots": 0, "fixed_disks": ("data",)}, ["net0", "lan"]),
        ({"free_slots": 1, "fixed_disks": ("data",)}, ["fast", "net0", "lan"]),
        ({"free_slots": 0, "fixed_networks": ("net0",)}, ["data", "fast"]),
    ],
)
def test_what_has_no_slot_stays_and_frees_none(seen, made):
    wanted = replace(BASE, disks=(FAST,), networks=(LAN,))

    live = live_changes(BASE, wanted, replace(ABLE, slots=2), LiveFacts(**seen))

    assert [change.name for change in live.changes] == made
    assert bool(live.waiting) == (len(made) < 4)


LIMITED = replace(DATA, iops_read=500, bps=2000)
LIMITED_SYSTEM = replace(Disk(SYSTEM_DISK).completed(), iops_read=500, bps=2000)
SEEN = LiveFacts(2, 1024, {SYSTEM_DISK: 10 * GIB, "data": GIB}, ("net0",), "")


@pytest.mark.parametrize(
    ("facts", "differs"),
    [
        ({}, {}),
        ({"vcpus": 3}, {"vcpus": 3}),
        ({"memory_mib": 2048}, {"memory_mib": 2048}),
        ({"networks": ()}, {"networks": ()}),
        ({"networks": ("net0", "foreign")}, {}),
        ({"disks": {SYSTEM_DISK: 10 * GIB}}, {"disks": ()}),
        ({"disks": {SYSTEM_DISK: 12 * GIB, "data": GIB}}, {"disk_size": 12 * GIB}),
        ({"disks": {SYSTEM_DISK: 10 * GIB, "data": 3 * GIB}}, {"disks": (grown(DATA, 3 * GIB),)}),
        ({"disks": {SYSTEM_DISK: 10 * GIB, "data": GIB, "foreign": GIB}}, {}),
        ({"cdrom": "/foreign.iso"}, {"cdrom": "/foreign.iso"}),
        ({"limits": {SYSTEM_DISK: DATA.limits, "data": DATA.limits}}, {}),
        ({"limits": {"data": LIMITED.limits}}, {"disks": (LIMITED,)}),
        ({"limits": {"foreign": LIMITED.limits}}, {}),
        ({"limits": {SYSTEM_DISK: LIMITED.limits}}, {"disks": (DATA, LIMITED_SYSTEM)}),
        (dict.fromkeys(vars(SEEN)), {}),
    ],
)
def test_what_is_seen_corrects_what_was_recorded(facts, differs):
    assert actual_spec(BASE, replace(SEEN, **facts)) == replace(BASE, **differs)


def test_a_drive_that_the_machine_was_not_started_with_is_not_ours():
    without = replace(BASE, cdrom=None, disks=None, networks=None)

    assert actual_spec(without, SEEN) == without


def test_the_system_disk_need_not_be_listed_to_be_limited():
    without = replace(BASE, disks=None)
    limits = {SYSTEM_DISK: LIMITED.limits}

    assert actual_spec(without, LiveFacts(limits=limits)).disks == (LIMITED_SYSTEM,)


def test_nothing_seen_is_no_change():
    assert actual_spec(BASE, None) == BASE


def test_a_limit_of_zero_is_none():
    limited = replace(BASE, disks=(replace(DATA, iops=5),))

    then = changed(limited, Change("limit_disk", "data", DATA.limits))

    assert then == BASE


class Bench:
    """One machine on the backend noop, and what is seen of it as the test wants it."""

    def __init__(self, folder):
        self.store = Store(str(folder))
        self.backend = NoopBackend(self.store)
        self.features = replace(self.backend.features, hotplug=replace(ABLE, slots=6))
        self.facts = None

    def found(self):
        handle = self.store.load("web1")
        return handle and replace(
            self.backend.observe(handle), facts=self.facts, hotplug=self.features.hotplug
        )

    def plan(self, wish, power):
        return make_plan(wish, power, self.found(), "noop", self.features)

    def apply(self, plan):
        found = self.found()
        return apply_plan(plan, self.backend, found and found.handle)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    bench.apply(bench.plan(BASE, Power(Goal.STARTED)))
    return bench


def drifted(bench, **facts):
    bench.facts = replace(SEEN, **facts)
    return bench.plan(VmSpec("web1"), Power(Goal.STARTED))


@pytest.mark.parametrize(
    ("facts", "option", "before", "after"),
    [
        ({"vcpus": 1}, "vcpus", 1, 2),
        ({"memory_mib": 512}, "memory", "512MiB", "1GiB"),
        ({"networks": ()}, "networks", [], ["net0"]),
        ({"disks": {SYSTEM_DISK: 10 * GIB}}, "disks", [], ["data"]),
        ({"disks": {SYSTEM_DISK: GIB, "data": GIB}}, "disk_size", "1GiB", "10GiB"),
        ({"cdrom": "/foreign.iso"}, "cdrom", "/foreign.iso", ""),
    ],
)
def test_what_somebody_else_has_changed_is_repaired_and_shown(bench, facts, option, before, after):
    plan = drifted(bench, **facts)

    def names(value):
        return [item["name"] for item in value] if isinstance(value, list) else value

    assert (plan.actions, plan.restart_required) == (["change"], False)
    assert (names(plan.before[option]), names(plan.after[option])) == (before, after)
    assert {key for key in plan.after if plan.after[key] != plan.before[key]} == {option}


@pytest.mark.parametrize("asked", [None, {"iops": 5}, {"bps": 7, "iops_read": 500}])
@pytest.mark.parametrize("name", ["data", SYSTEM_DISK])
def test_limits_that_somebody_else_has_set_are_repaired_and_shown(bench, name, asked):
    if asked:
        wish = VmSpec("web1", disks=(Disk(name, **asked),))
        bench.apply(bench.plan(wish, Power(Goal.STARTED)))
    wanted = Disk(name, **(asked or {})).limits
    there = {SYSTEM_DISK: Disk(SYSTEM_DISK).limits, "data": DATA.limits, name: LIMITED.limits}

    plan = drifted(bench, limits=there)
    stays = bench.plan(VmSpec("web1"), Power(Goal.STARTED, apply="next_start"))
    bench.apply(plan)
    again = drifted(bench, limits={**there, name: wanted})

    def shown(side):
        rows = {disk["name"]: disk for disk in side["disks"]}
        return {key: rows.get(name, {}).get(key, 0) for key in wanted}

    assert (plan.actions, plan.restart_required) == (["change"], False)
    assert plan.changes == (Change("limit_disk", name, wanted),)
    assert (shown(plan.before), shown(plan.after)) == (LIMITED.limits, wanted)
    assert (stays.actions, stays.restart_reasons) == ([], ("disks",))
    assert (again.actions, again.restart_required) == ([], False)
    assert again.before == again.after == plan.after


@pytest.mark.parametrize(
    ("facts", "reasons"), [({"vcpus": 3}, ("vcpus",)), ({"memory_mib": 2048}, ("memory",))]
)
def test_what_cannot_be_repaired_is_reported(bench, facts, reasons):
    plan = drifted(bench, **facts)

    assert (plan.actions, plan.restart_reasons) == ([], reasons)
    assert plan.before == plan.after
    assert bench.found().restart_required


def test_a_disk_that_somebody_has_made_larger_is_left_as_it_is(bench):
    plan = drifted(bench, disks={SYSTEM_DISK: 30 * GIB, "data": 3 * GIB})

    assert (plan.actions, plan.restart_required) == ([], False)
    assert [disk["size"] for disk in plan.predicted["disks"]] == [3 * GIB]
    for wish in (VmSpec("web1", disk_size=20 * GIB), VmSpec("web1", disks=(grown(Disk("data")),))):
        with pytest.raises(VmError, match=r"size: (20|2)GiB is smaller .* has (30|3)GiB") as caught:
            bench.plan(wish, Power(Goal.STARTED))
        assert caught.value.code == "vm_manager.spec.invalid"
    same = VmSpec("web1", disk_size=10 * GIB, disks=(Disk("data", size=GIB),))
    assert bench.plan(same, Power(Goal.STARTED)).actions == []


def test_a_disk_that_still_is_in_use_is_not_deleted(bench):
    wish = VmSpec("web1", disks=())
    unlisted = {"detach_unlisted": True, "delete_detached": True}

    later = bench.plan(wish, Power(Goal.STARTED, apply="next_start", **unlisted))
    bench.apply(later)
    assert (later.actions, later.restart_reasons) == (["prepare"], ("disks",))
    assert set(bench.found().handle.disks) == {"data"}

    now = bench.plan(VmSpec("web1"), Power(Goal.STARTED, delete_detached=True))
    bench.apply(now)
    assert (now.actions, now.discards) == (["change", "discard"], ("data",))
    assert bench.found().handle.disks == {}


def test_a_disk_on_sata_is_deleted_once_the_machine_stands_still(bench):
    bench.apply(bench.plan(VmSpec("web1", disks=(SATA,)), Power(Goal.RESTARTED)))
    unlisted = {"detach_unlisted": True, "delete_detached": True}

    running = bench.plan(VmSpec("web1", disks=(DATA,)), Power(Goal.STARTED, **unlisted))
    bench.apply(running)
    stopped = bench.plan(VmSpec("web1"), Power(Goal.STOPPED, delete_detached=True))

    assert (running.actions, running.restart_reasons) == (["prepare"], ("disks",))
    assert (stopped.actions, stopped.discards) == (["stop", "discard"], ("old",))


def test_a_disk_that_comes_back_is_the_one_that_was_there(bench):
    raw = Disk("raw", size=GIB, format="raw")
    bench.apply(bench.plan(VmSpec("web1", disks=(raw,)), Power(Goal.STARTED)))
    away = Power(Goal.STARTED, detach_unlisted=True)
    bench.apply(bench.plan(VmSpec("web1", disks=()), away))
    shown = show_vm(bench.found())["disks"]

    back = bench.plan(VmSpec("web1", disks=(Disk("raw"),)), Power(Goal.STARTED))

    assert [(disk["name"], disk["attached"]) for disk in shown] == [("data", False), ("raw", False)]
    assert [disk.format for disk in back.spec.disks] == ["raw"]
    for wish in ({"format": "qcow2"}, {"image": "/a.qcow2"}, {"size": GIB // 2}):
        with pytest.raises(VmError):
            bench.plan(VmSpec("web1", disks=(Disk("raw", **wish),)), Power(Goal.STARTED))


def test_a_suspended_machine_is_changed_once_it_goes_on(bench):
    bench.apply(bench.plan(VmSpec("web1"), Power(Goal.SUSPENDED)))

    still = bench.plan(VmSpec("web1", vcpus=3), Power(Goal.PRESENT))
    woken = bench.plan(VmSpec("web1", vcpus=3), Power(Goal.STARTED))
    restarted = bench.plan(VmSpec("web1", vcpus=1), Power(Goal.STARTED, apply="restart"))

    assert (still.actions, still.restart_reasons, still.deferred) == (["prepare"], (), ("vcpus",))
    assert (woken.actions, woken.restart_required) == (["prepare", "resume", "change"], False)
    assert woken.deferred == ()
    assert restarted.actions == ["resume", "stop", "prepare", "start"]


@pytest.mark.parametrize("apply", ["live", "next_start", "restart"])
@pytest.mark.parametrize("first", [Goal.STARTED, Goal.SUSPENDED])
def test_what_a_suspended_machine_takes_up_when_it_goes_on_needs_no_restart(bench, first, apply):
    bench.apply(bench.plan(VmSpec("web1"), Power(first)))
    wish = VmSpec("web1", disks=(FAST,), vcpus=3)

    plan = bench.plan(wish, Power(Goal.SUSPENDED, apply=apply))
    bench.apply(plan)
    again = bench.plan(wish, Power(Goal.SUSPENDED, apply=apply))

    assert plan.actions == ["prepare", "suspend"][: 1 + (first is Goal.STARTED)]
    for told in (plan, again):
        assert (told.restart_required, told.deferred) == (False, ("vcpus", "disks"))
        assert told.predicted["restart_required"] is False
    assert show_vm(bench.found())["restart_required"] is False
    woken = bench.plan(VmSpec("web1"), Power(Goal.STARTED))
    assert (woken.actions, woken.deferred) == (["resume", "change"], ())


def test_what_a_suspended_machine_never_takes_up_needs_a_restart_and_the_rest_does_not(bench):
    bench.apply(bench.plan(VmSpec("web1"), Power(Goal.SUSPENDED)))

    plan = bench.plan(VmSpec("web1", cpu="max", vcpus=3), Power(Goal.SUSPENDED))
    bench.apply(plan)

    assert (plan.restart_reasons, plan.deferred) == (("cpu",), ("vcpus",))
    assert plan.predicted["restart_required"] and bench.found().restart_required


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"memory_mib": 1100}, ["memory (a running machine gets more only in steps of 128 MiB)"]),
        ({"memory_mib": 512}, ["memory"]),
        ({"memory_mib": 1100, "memory_max_mib": 1100}, None),
        ({"memory_mib": 8192, "memory_max_mib": 8192}, ["memory", "memory_max"]),
    ],
)
def test_a_step_of_memory_that_does_not_fit_is_told(bench, wish, words):
    plan = bench.plan(VmSpec("web1", **wish), Power(Goal.STARTED))

    expected = words or [
        "memory (a running machine gets more only in steps of 128 MiB)",
        "memory_max",
    ]
    assert list(plan.restart_reasons) == expected


def test_memory_that_is_to_wait_anyway_needs_no_explanation(bench):
    plan = bench.plan(VmSpec("web1", memory_mib=1100), Power(Goal.STARTED, apply="next_start"))

    assert plan.restart_reasons == ("memory",)


@pytest.mark.parametrize("goal", [Goal.STARTED, Goal.STOPPED])
def test_disks_that_are_deleted_are_in_the_diff(bench, goal):
    wish = VmSpec("web1", disks=())
    bench.apply(bench.plan(wish, Power(Goal.STARTED, detach_unlisted=True)))

    kept = bench.plan(VmSpec("web1"), Power(goal))
    deleted = bench.plan(VmSpec("web1"), Power(goal, delete_detached=True))
    bench.apply(deleted)
    again = bench.plan(VmSpec("web1"), Power(goal, delete_detached=True))

    assert "detached_disks" not in {**kept.before, **kept.after}
    assert (deleted.before["detached_disks"], deleted.after["detached_disks"]) == (["data"], [])
    assert (again.actions, again.before) == ([], again.after)


def test_ssh_is_waited_for_over_a_card_that_comes_now(bench):
    bench.apply(bench.plan(VmSpec("web1", networks=()), Power(Goal.STARTED)))
    wish = VmSpec("web1", networks=(NET0,))

    plan = bench.plan(wish, Power(Goal.STARTED, wait_for="ssh"))

    assert plan.actions == ["prepare", "change"]
    with pytest.raises(VmError, match="no network over which"):
        bench.plan(wish, Power(Goal.STARTED, wait_for="ssh", apply="next_start"))


@pytest.mark.parametrize(
    ("wish", "option"),
    [
        (VmSpec("web1", vcpus=5), "vcpus"),
        (VmSpec("web1", vcpus_max=1), "vcpus"),
        (VmSpec("web1", memory_mib=8192), "memory"),
    ],
)
def test_more_than_the_most_is_refused(bench, wish, option):
    with pytest.raises(VmError, match=f"^{option}: .* is more than {option}_max") as caught:
        bench.plan(wish, Power(Goal.STARTED))

    assert caught.value.details == {"option": option}


# What only the real run decides, or the next process.
DECIDED_LATER = {"id", "ip_address", "networks", "paths", "run_state", "pid", "accelerator_reason"}
DECIDED_LATER |= {"stopped_by", "ssh"}


def some_disk(dice):
    name = dice.choice(("a", "b", "c", SYSTEM_DISK))
    bus = {"a": "virtio-blk", "b": "nvme", "c": "sata"}.get(name)
    system = name == SYSTEM_DISK
    return Disk(
        name,
        size=None if system else dice.choice((1, 2, 3)) * GIB,
        bus=bus,
        iops=dice.choice((None, 0, 100)),
        cache=dice.choice((None, "none")),
    )


def some_wish(dice):
    """Return a task's options at random; what makes no sense is refused, which is fine."""
    cards = [NET0, replace(NET0, connected=False), NET1, LAN, replace(LAN, mtu=9000)]
    disks = {disk.name: disk for disk in (some_disk(dice) for dummy in range(dice.randint(0, 3)))}
    networks = {card.name: card for card in dice.sample(cards, dice.randint(0, 3))}
    every = {
        "vcpus": dice.randint(1, 5),
        "memory_mib": dice.choice((512, 1024, 1100, 2048)),
        "disk_size": dice.choice((10, 20, 30)) * GIB,
        "networks": tuple(networks.values()),
        "disks": tuple(disks.values()),
        "cdrom": dice.choice(("", "/a.iso", "/b.iso")),
        "vcpus_max": dice.choice((4, 8)),
        "labels": {"n": str(dice.randint(0, 2))},
        "cpu": dice.choice(("max", "Nehalem")),
    }
    return VmSpec("web1", **{key: every[key] for key in dice.sample(sorted(every), 3)})


def some_power(dice):
    goals = [goal for goal in Goal if goal not in (Goal.ABSENT, Goal.RESTARTED)]
    return Power(
        dice.choice([Goal.STARTED, *goals]),
        detach_unlisted=dice.random() < 0.3,
        delete_detached=dice.random() < 0.3,
        apply=dice.choice(("live", "live", "next_start", "restart")),
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_tells_exactly_what_a_run_does_whatever_is_asked_for(bench, seed):
    dice = random.Random(seed)
    for dummy in range(12):
        wish, power = some_wish(dice), some_power(dice)
        before = bench.found()
        try:
            plan = bench.plan(wish, power)
        except VmError as refused:
            assert refused.details.get("option")
            assert bench.found() == before
            continue

        bench.apply(plan)

        there = bench.found()
        told = f"{wish} {power} {plan.actions}"
        assert there.state is plan.state, told
        assert there.handle.spec == plan.spec, told
        shown = show_options(there.handle.spec, "noop", there.state)
        assert set_options(shown) == set_options(plan.after), told
        assert there.restart_required == plan.restart_required, told
        shown = {key: value for key, value in show_vm(there).items() if key not in DECIDED_LATER}
        assert shown == {key: plan.predicted[key] for key in shown}, told
        again = bench.plan(wish, power)
        assert (again.actions, again.before) == ([], again.after), told
        assert again.restart_reasons == plan.restart_reasons, told
        in_use = (
            there.actual.disks if there.state is not VmState.STOPPED else there.handle.spec.disks
        )
        used = {disk.name for disk in in_use or ()} - {SYSTEM_DISK}
        assert used <= set(there.handle.disks), told
