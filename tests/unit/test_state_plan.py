# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which steps lead from each state to each goal, and what stops a plan before anything is touched."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.features import Features
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.plan import (
    DESTROY_GRACE,
    STEPS,
    Power,
    make_plan,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    Network,
    PortRange,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import (
    Goal,
    VmState,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.vm import Vm
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import GIB, minimal_handle

ABLE = Features(
    suspend=True, network_types=("user",), accelerators=("kvm", "tcg"), needs_image=True
)
IMAGE = "/srv/images/base.qcow2"

# One row for each state, one column for each goal. A step is its first letters.
EXPECTED = """
            present  absent    started    stopped    restarted     suspended
destroyed   prep     -         prep,st    prep       prep,st       prep,st,sus
preparing   prep     dest      prep,st    prep       prep,st       prep,st,sus
prepared    -        dest      st         -          st            st,sus
running     -        stop,dest -          stop       stop,st       sus
suspended   -        stop,dest res        res,stop   res,stop,st   -
stopped     -        dest      st         -          st            st,sus
failed      -        stop,dest stop,st    stop       stop,st       stop,st,sus
"""
WORDS = {
    "prep": "prepare",
    "dest": "destroy",
    "st": "start",
    "stop": "stop",
    "sus": "suspend",
    "res": "resume",
}


def expected_actions():
    head, *rows = EXPECTED.strip().splitlines()
    table = [(state, zip(head.split(), cells)) for state, *cells in map(str.split, rows)]
    return [
        (VmState(state), Goal(goal), [WORDS[word] for word in cell.split(",") if word != "-"])
        for state, row in table
        for goal, cell in row
    ]


def found_in(state, run_state=None, **handle):
    if state is VmState.DESTROYED:
        return None
    record = minimal_handle(state=state, **{"ssh_host_port": 10061, **handle})
    if "spec" not in handle:
        record = record.evolve(spec=replace(record.spec, image=IMAGE, image_format="qcow2"))
    return Vm(record.evolve(booted=record.spec), state, run_state=run_state)


def plan_for(found, goal, features=ABLE, **power):
    wish = VmSpec(name="web1", image=None if found else IMAGE)
    return make_plan(wish, Power(goal, **power), found, "qemu", features)


def test_every_state_and_goal_has_a_row():
    pairs = set(itertools.product(VmState, Goal))

    assert set(STEPS) == pairs
    assert {(state, goal) for state, goal, dummy in expected_actions()} == pairs


@pytest.mark.parametrize(("state", "goal", "actions"), expected_actions())
def test_steps_from_each_state_to_each_goal(state, goal, actions):
    plan = plan_for(found_in(state), goal)

    assert plan.actions == actions
    assert plan.changed == bool(actions)


ENDS = {
    Goal.ABSENT: {VmState.DESTROYED},
    Goal.STARTED: {VmState.RUNNING},
    Goal.RESTARTED: {VmState.RUNNING},
    Goal.SUSPENDED: {VmState.SUSPENDED},
    Goal.STOPPED: {VmState.STOPPED, VmState.PREPARED},
}


@pytest.mark.parametrize(("state", "goal"), [*itertools.product(VmState, Goal)])
def test_every_plan_ends_where_the_goal_says(state, goal):
    plan = plan_for(found_in(state), goal)

    assert plan.state in ENDS.get(goal, {state, VmState.PREPARED})
    assert plan.state is not VmState.PREPARING
    assert plan.predicted["state"] == plan.state.value


@pytest.mark.parametrize("state", VmState)
@pytest.mark.parametrize("goal", [goal for goal in Goal if goal is not Goal.RESTARTED])
def test_a_second_plan_has_nothing_to_do(state, goal):
    first = plan_for(found_in(state), goal)

    second = plan_for(found_in(first.state), goal)

    assert second.actions == []
    assert not second.changed
    assert second.before == second.after


@pytest.mark.parametrize(
    ("state", "goal", "actions"),
    [
        (VmState.SUSPENDED, Goal.STOPPED, ["stop"]),
        (VmState.SUSPENDED, Goal.RESTARTED, ["stop", "start"]),
        (VmState.SUSPENDED, Goal.STARTED, ["resume"]),
        (VmState.SUSPENDED, Goal.ABSENT, ["stop", "destroy"]),
        (VmState.RUNNING, Goal.STOPPED, ["stop"]),
    ],
)
def test_force_wakes_nobody_and_waits_for_nobody(state, goal, actions):
    plan = plan_for(found_in(state), goal, force=True)

    assert plan.actions == actions
    assert {step.timeout for step in plan.steps} == {0.0}


@pytest.mark.parametrize(
    ("goal", "stop_timeout", "patience"),
    [
        (Goal.STOPPED, 30.0, 30.0),
        (Goal.STOPPED, 0.0, 0.0),
        (Goal.RESTARTED, 7.0, 7.0),
        (Goal.ABSENT, 30.0, DESTROY_GRACE),
        (Goal.ABSENT, 1.0, 1.0),
    ],
)
def test_only_a_stop_is_patient(goal, stop_timeout, patience):
    plan = plan_for(found_in(VmState.RUNNING), goal, stop_timeout=stop_timeout)

    assert [step.timeout for step in plan.steps if step.verb.value == "stop"] == [patience]
    assert {step.timeout for step in plan.steps if step.verb.value != "stop"} <= {0.0}


@pytest.mark.parametrize(
    ("run_state", "goal", "actions"),
    [
        ("io-error", Goal.STARTED, ["resume"]),
        ("io-error", Goal.RESTARTED, ["stop", "start"]),
        ("io-error", Goal.STOPPED, ["stop"]),
        ("io-error", Goal.ABSENT, ["stop", "destroy"]),
        ("guest-panicked", Goal.STARTED, ["stop", "start"]),
        (None, Goal.STARTED, ["stop", "start"]),
    ],
)
def test_a_guest_that_only_waits_for_its_disk_goes_on(run_state, goal, actions):
    assert plan_for(found_in(VmState.FAILED, run_state), goal).actions == actions


def change(state, goal, wish, run_state=None, **handle):
    found = found_in(state, run_state, **handle)
    return make_plan(replace(wish, name="web1"), Power(goal), found, "qemu", ABLE)


MORE = VmSpec("web1", vcpus=4)
LABEL = VmSpec("web1", labels={"a": "1"})


@pytest.mark.parametrize(
    ("state", "goal", "actions", "reasons"),
    [
        (VmState.PREPARING, Goal.PRESENT, ["prepare"], ()),
        (VmState.PREPARED, Goal.PRESENT, ["prepare"], ()),
        (VmState.PREPARED, Goal.STARTED, ["prepare", "start"], ()),
        (VmState.STOPPED, Goal.STARTED, ["prepare", "start"], ()),
        (VmState.STOPPED, Goal.SUSPENDED, ["prepare", "start", "suspend"], ()),
        (VmState.RUNNING, Goal.PRESENT, ["prepare"], ("vcpus",)),
        (VmState.RUNNING, Goal.STARTED, ["prepare"], ("vcpus",)),
        (VmState.RUNNING, Goal.SUSPENDED, ["prepare", "suspend"], ("vcpus",)),
        (VmState.RUNNING, Goal.STOPPED, ["stop", "prepare"], ()),
        (VmState.RUNNING, Goal.RESTARTED, ["stop", "prepare", "start"], ()),
        (VmState.RUNNING, Goal.ABSENT, ["stop", "destroy"], ()),
        (VmState.SUSPENDED, Goal.STARTED, ["prepare", "resume"], ("vcpus",)),
        (VmState.SUSPENDED, Goal.STOPPED, ["resume", "stop", "prepare"], ()),
        (VmState.FAILED, Goal.STARTED, ["stop", "prepare", "start"], ()),
        (VmState.FAILED, Goal.PRESENT, ["prepare"], ("vcpus",)),
    ],
)
def test_a_changed_option_is_taken_up_where_no_process_runs(state, goal, actions, reasons):
    plan = change(state, goal, MORE)

    assert plan.actions == actions
    assert plan.restart_reasons == reasons
    assert plan.restart_required == bool(reasons)
    assert plan.predicted["restart_required"] == bool(reasons)


def test_a_guest_that_goes_on_after_an_io_error_keeps_its_old_options():
    plan = change(VmState.FAILED, Goal.STARTED, MORE, run_state="io-error")

    assert plan.actions == ["prepare", "resume"]
    assert plan.restart_reasons == ("vcpus",)


def test_what_applies_at_once_asks_for_no_restart():
    plan = change(VmState.RUNNING, Goal.STARTED, LABEL)

    assert plan.actions == ["prepare"]
    assert not plan.restart_required
    assert plan.predicted["labels"] == {"a": "1"}


def test_a_restart_stays_due_until_it_happens():
    found = found_in(VmState.RUNNING)
    handle = found.handle
    pending = replace(found, handle=handle.evolve(spec=replace(handle.spec, memory_mib=4096)))

    idle = plan_for(pending, Goal.STARTED)
    back = make_plan(VmSpec("web1", memory_mib=1024), Power(Goal.STARTED), pending, "qemu", ABLE)

    assert (idle.actions, idle.restart_reasons) == ([], ("memory",))
    assert (back.actions, back.restart_reasons) == (["prepare"], ())
    assert plan_for(pending, Goal.RESTARTED).restart_reasons == ()


def test_reasons_name_every_option_as_users_call_it():
    wish = VmSpec(
        "web1",
        vcpus=2,
        memory_mib=2048,
        disk_size=40 * GIB,
        networks=(),
        accelerator="tcg",
        cpu="max",
        machine="pc",
        vnc=True,
        labels={"a": "1"},
        description="new",
    )

    plan = change(VmState.RUNNING, Goal.PRESENT, wish)

    expected = "vcpus memory disk_size networks accelerator cpu machine vnc"
    assert set(plan.restart_reasons) == set(expected.split())


def test_a_new_machine_gets_defaults_and_an_old_one_keeps_what_it_has():
    new = plan_for(None, Goal.STARTED)
    old = plan_for(found_in(VmState.STOPPED), Goal.STARTED)

    assert (new.spec.vcpus, new.spec.memory_mib, new.spec.backend) == (1, 1024, "qemu")
    assert old.spec == found_in(VmState.STOPPED).handle.spec
    assert new.before == {}
    assert new.after["state"] == "running"


def test_absent_reads_no_other_option():
    found = found_in(VmState.STOPPED)
    wish = VmSpec(
        "web1", backend="noop", image="/other", disk_size=1, networks=(Network("tap"),), vnc=True
    )

    plan = make_plan(wish, Power(Goal.ABSENT), found, "qemu", Features())

    assert plan.actions == ["destroy"]
    assert (plan.before["vcpus"], plan.after) == (1, {})
    assert make_plan(wish, Power(Goal.ABSENT), None, "qemu", Features()).actions == []


UNABLE = {
    "suspend": replace(ABLE, suspend=False),
    "vnc": replace(ABLE, unsupported=("vnc",)),
    "network": replace(ABLE, network_types=()),
    "accelerator": replace(ABLE, accelerators=("tcg",)),
}
NEW = VmSpec("web1", image=IMAGE)


@pytest.mark.parametrize("state", [VmState.DESTROYED, VmState.STOPPED, VmState.RUNNING])
@pytest.mark.parametrize(
    ("lacks", "wish", "goal", "option"),
    [
        ("suspend", NEW, Goal.SUSPENDED, "state=suspended"),
        ("vnc", replace(NEW, vnc=True), Goal.PRESENT, "vnc"),
        ("network", NEW, Goal.PRESENT, "networks[0].type=user"),
        ("accelerator", replace(NEW, accelerator="kvm"), Goal.STARTED, "accelerator=kvm"),
    ],
)
def test_what_the_backend_cannot_do_fails_while_planning(state, lacks, wish, goal, option):
    with pytest.raises(VmError) as caught:
        make_plan(wish, Power(goal), found_in(state), "slim", UNABLE[lacks])

    assert caught.value.code == "vm_manager.backend.unsupported"
    assert caught.value.details == {"option": option}
    assert caught.value.message == f"{option} is not available on backend slim."
    assert make_plan(wish, Power(goal), found_in(state), "qemu", ABLE).changed is not None


@pytest.mark.parametrize("option", ["cpu", "kernel", "vnc", "vcpus_max", "qemu_args"])
def test_a_value_that_asks_for_nothing_is_no_change_where_there_is_nothing_for_it(option):
    slim = replace(ABLE, unsupported=(option,))
    made = make_plan(NEW, Power(Goal.PRESENT), None, "slim", slim).spec
    nothing = {"cpu": "", "kernel": "", "vnc": False, "vcpus_max": 0, "qemu_args": ()}
    wish = VmSpec("web1", **{option: nothing[option]})

    plan = make_plan(wish, Power(Goal.PRESENT), found_in(VmState.STOPPED, spec=made), "slim", slim)

    assert not plan.changed


def test_auto_is_an_accelerator_that_every_backend_has():
    features = replace(ABLE, accelerators=())

    plan = make_plan(replace(NEW, accelerator="auto"), Power(Goal.STARTED), None, "x", features)

    assert plan.spec.accelerator == "auto"


REFUSED = {
    "no image for a new machine": (
        *(VmSpec("web1"), None),
        *("vm_manager.create.no_image", "image"),
    ),
    "another image": (
        *(VmSpec("web1", image="/other.qcow2"), {}),
        *("vm_manager.spec.cannot_change", "image"),
    ),
    "another image format": (
        *(VmSpec("web1", image_format="raw"), {}),
        *("vm_manager.spec.cannot_change", "image_format"),
    ),
    "another backend": (
        *(VmSpec("web1", backend="noop"), {}),
        *("vm_manager.spec.cannot_change", "backend"),
    ),
    "a smaller disk": (
        *(VmSpec("web1", disk_size=10 * GIB - 512), {"disk_bytes": 10 * GIB}),
        *("vm_manager.spec.invalid", "disk_size"),
    ),
    "a port range without the port": (
        *(VmSpec("web1", ssh_port_range=PortRange(20000, 20010)), {}),
        *("vm_manager.spec.cannot_change", "ssh_port_range"),
    ),
}


@pytest.mark.parametrize("goal", [goal for goal in Goal if goal is not Goal.ABSENT])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fails_while_planning_whatever_the_goal(case, goal):
    wish, handle, code, option = REFUSED[case]
    found = None if handle is None else found_in(VmState.STOPPED, **handle)

    with pytest.raises(VmError) as caught:
        make_plan(wish, Power(goal), found, "qemu", ABLE)

    assert caught.value.code == code
    assert caught.value.details == {"option": option}
    assert "'web1'" in caught.value.message
    assert caught.value.help


def test_a_new_machine_needs_no_image_where_the_backend_runs_nothing():
    features = replace(ABLE, needs_image=False)

    assert make_plan(VmSpec("web1"), Power(Goal.PRESENT), None, "noop", features).changed


@pytest.mark.parametrize("networks", [(), None], ids=["asked for none", "has none"])
def test_ssh_is_not_waited_for_without_a_network(networks):
    spec = replace(NEW.completed(), backend="qemu", networks=())
    found = found_in(VmState.RUNNING, spec=spec)
    wish = VmSpec("web1", networks=networks)

    with pytest.raises(VmError) as caught:
        make_plan(wish, Power(Goal.STARTED, wait_for="ssh"), found, "qemu", ABLE)

    assert caught.value.details == {"option": "wait_for"}
    assert make_plan(wish, Power(Goal.STARTED), found, "qemu", ABLE).actions == []


def without_network(spec):
    return replace(spec, backend="qemu", networks=())


@pytest.mark.parametrize(
    ("state", "goal", "networks", "accepted"),
    [
        (VmState.RUNNING, Goal.STARTED, (Network(),), False),  # it is there after a restart only
        (VmState.SUSPENDED, Goal.STARTED, (Network(),), False),
        (VmState.RUNNING, Goal.RESTARTED, (Network(),), True),
        (VmState.STOPPED, Goal.STARTED, (Network(),), True),
        (VmState.RUNNING, Goal.RESTARTED, None, False),
        (VmState.STOPPED, Goal.STARTED, None, False),
    ],
)
def test_ssh_is_waited_for_over_the_network_that_the_process_has(state, goal, networks, accepted):
    found = found_in(state, spec=without_network(NEW.completed()))
    wish = VmSpec("web1", networks=networks)
    power = Power(goal, wait_for="ssh")
    if accepted:
        assert "start" in make_plan(wish, power, found, "qemu", ABLE).actions
        return

    with pytest.raises(VmError, match="has no network over which") as caught:
        make_plan(wish, power, found, "qemu", ABLE)

    assert caught.value.details == {"option": "wait_for"}
    restart_helps = networks is not None
    assert ("state=restarted" in caught.value.help) == restart_helps


def test_ssh_of_a_process_that_still_has_its_network_is_waited_for():
    found = found_in(VmState.RUNNING)

    plan = make_plan(
        VmSpec("web1", networks=()), Power(Goal.STARTED, wait_for="ssh"), found, "qemu", ABLE
    )

    assert plan.restart_reasons == ("networks",)


def test_a_new_machine_is_recorded_with_the_machine_type_that_it_gets():
    features = replace(ABLE, defaults=VmSpec("", machine="q35"))

    given = make_plan(replace(NEW, machine="pc"), Power(Goal.PRESENT), None, "qemu", features)
    left_open = make_plan(NEW, Power(Goal.PRESENT), None, "qemu", features)
    found = found_in(VmState.RUNNING, spec=left_open.spec)
    asked = make_plan(VmSpec("web1", machine="q35"), Power(Goal.STARTED), found, "qemu", features)

    assert (given.spec.machine, left_open.spec.machine) == ("pc", "q35")
    assert (asked.actions, asked.restart_required) == ([], False)


@pytest.mark.parametrize("state", [VmState.PREPARED, VmState.RUNNING, VmState.STOPPED])
def test_the_size_that_the_disk_has_anyway_is_no_change(state):
    wish = VmSpec("web1", disk_size=10 * GIB)

    plan = change(state, Goal.PRESENT, wish, disk_bytes=10 * GIB)

    assert (plan.actions, plan.restart_required, plan.before) == ([], False, plan.after)


@pytest.mark.parametrize(
    ("state", "goal", "size"),
    [
        (VmState.PREPARED, Goal.PRESENT, 20 * GIB),
        (VmState.STOPPED, Goal.PRESENT, 20 * GIB),
        (VmState.STOPPED, Goal.STARTED, 20 * GIB),
        (VmState.RUNNING, Goal.STOPPED, 20 * GIB),
        (VmState.RUNNING, Goal.RESTARTED, 20 * GIB),
        (VmState.RUNNING, Goal.PRESENT, 10 * GIB),  # it grows at the next start
    ],
)
def test_the_predicted_disk_is_as_large_as_it_will_be(state, goal, size):
    wish = VmSpec("web1", disk_size=20 * GIB)

    plan = change(state, goal, wish, disk_bytes=10 * GIB, overlay_path="/data/vms/web1/o.qcow2")

    assert [disk["size"] for disk in plan.predicted["disks"]] == [size]


def test_the_disk_may_stay_and_the_range_may_move_around_the_port():
    wish = VmSpec("web1", disk_size=10 * GIB, ssh_port_range=PortRange(10061, 10061))

    plan = change(VmState.STOPPED, Goal.PRESENT, wish, disk_bytes=10 * GIB)

    assert plan.actions == ["prepare"]
    assert plan.spec.disk_size is None


@pytest.mark.parametrize("state", [state for state in VmState if state is not VmState.DESTROYED])
def test_a_prediction_forgets_what_only_the_real_run_decides(state):
    found = found_in(state)
    if state.has_process:
        found = replace(found, pid=4711, run_state="running", addresses={"net0": ("127.0.0.1",)})

    restarted = make_plan(VmSpec("web1"), Power(Goal.RESTARTED), found, "qemu", ABLE).predicted
    stopped = make_plan(VmSpec("web1"), Power(Goal.STOPPED), found, "qemu", ABLE).predicted

    assert (restarted["pid"], restarted["run_state"]) == (None, None)
    assert (stopped["pid"], stopped["run_state"], stopped["vnc"]) == (None, None, None)
    assert restarted["id"] == stopped["id"] == found.handle.id


def test_a_prediction_without_steps_is_what_is_there():
    found = replace(found_in(VmState.RUNNING), pid=4711, run_state="running")

    predicted = make_plan(VmSpec("web1"), Power(Goal.STARTED), found, "qemu", ABLE).predicted

    assert (predicted["pid"], predicted["run_state"]) == (4711, "running")
