# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend that runs nothing keeps what the plan predicted, for every state and goal."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.apply import apply_plan
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    SpawnFailed,
    VmError,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.plan import (
    Power,
    make_plan,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    Network,
    PortRange,
    VmSpec,
)
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
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import (
    GIB,
    SECRET,
    set_options,
)

FIRST = VmSpec("web1", cloud_init=CloudInit(user_data={"password": SECRET}))
SAME = VmSpec("web1")
MORE = VmSpec("web1", vcpus=4, disk_size=30 * GIB, labels={"a": "1"}, description="new")
NO_NETWORK = VmSpec("web1", networks=(), vnc=True)
WITH_NETWORK = VmSpec("web1", networks=(Network(),))
WISHES = {"same": SAME, "more": MORE, "no network": NO_NETWORK}
# What only the real run decides: a prediction shows null.
DECIDED_LATER = ("id", "pid", "run_state", "ip_address", "ssh", "paths", "accelerator_reason")


class Bench:
    def __init__(self, folder):
        self.store = Store(str(folder))
        self.backend = NoopBackend(self.store)

    def found(self):
        handle = self.store.load("web1")
        return handle and self.backend.observe(handle)

    def put(self, state, run_state=None):
        """Make a machine of the wish FIRST that is in this state."""
        if state is VmState.DESTROYED:
            return None
        handle = self.bring(FIRST, Goal.STARTED).handle
        self.store.save(handle.evolve(state=state))
        return replace(self.found(), run_state=run_state)

    def plan(self, wish, goal, found, **power):
        return make_plan(wish, Power(goal, **power), found, "noop", self.backend.features)

    def apply(self, plan, found):
        return apply_plan(plan, self.backend, found and found.handle)

    def bring(self, wish, goal):
        found = self.found()
        return self.apply(self.plan(wish, goal, found), found)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def same_where_known(predicted, shown):
    """Tell where the prediction differs, apart from nulls of what only the run decides."""
    return {
        key: (predicted[key], shown[key])
        for key in shown
        if not (key in DECIDED_LATER and is_left_open(predicted[key], shown[key]))
        and key not in ("networks", "stopped_by")
        and predicted[key] != shown[key]
    }


def is_left_open(predicted, shown):
    """Tell whether all that differs is null in the prediction."""
    if isinstance(predicted, dict) and isinstance(shown, dict):
        return all(is_left_open(value, shown[key]) for key, value in predicted.items())
    return predicted is None or predicted == shown


@pytest.mark.parametrize("force", [False, True], ids=["asked", "forced"])
@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize(("state", "goal"), [*itertools.product(VmState, Goal)])
def test_what_is_there_afterwards_is_what_the_plan_said(bench, state, goal, wish, force):
    found = bench.put(state)
    plan = bench.plan(WISHES[wish], goal, found, force=force)

    outcome = bench.apply(plan, found)

    there = bench.found()
    assert (there and there.handle) == outcome.handle
    if goal is Goal.ABSENT:
        assert (there, plan.state, plan.after) == (None, VmState.DESTROYED, {})
        return
    shown = show_vm(there)
    assert there.state is plan.state
    told = show_options(there.handle.spec, "noop", there.state)
    assert set_options(told) == set_options(plan.after)
    assert there.handle.spec == plan.spec
    assert there.restart_required == plan.restart_required
    assert same_where_known(plan.predicted, shown) == {}
    assert [net["type"] for net in shown["networks"]] == [
        net["type"] for net in plan.predicted["networks"]
    ]


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize(
    ("state", "goal"),
    [*itertools.product(VmState, [goal for goal in Goal if goal is not Goal.RESTARTED])],
)
def test_the_second_run_does_nothing(bench, state, goal, wish):
    found = bench.put(state)
    bench.apply(bench.plan(WISHES[wish], goal, found), found)

    again = bench.plan(WISHES[wish], goal, bench.found())

    assert again.actions == []
    assert again.before == again.after


class Unwilling(NoopBackend):
    """A backend on which no machine starts."""

    def start(self, vm):
        raise SpawnFailed("It does not start.")


def test_a_machine_that_was_made_here_and_does_not_start_is_removed_again(bench):
    bench.backend = Unwilling(bench.store)

    with pytest.raises(SpawnFailed, match="does not start"):
        bench.bring(FIRST, Goal.STARTED)

    assert bench.found() is None
    assert bench.store.names() == []


@pytest.mark.parametrize("state", [VmState.PREPARING, VmState.PREPARED, VmState.STOPPED])
def test_a_machine_that_was_there_and_does_not_start_stays(bench, state):
    before = bench.put(state).handle
    bench.backend = Unwilling(bench.store)

    with pytest.raises(SpawnFailed):
        bench.bring(SAME, Goal.STARTED)

    after = bench.found().handle
    assert after.state is (VmState.PREPARED if state is VmState.PREPARING else state)
    assert after.id == before.id


def test_a_failed_guest_that_waits_for_its_disk_is_resumed(bench):
    found = bench.put(VmState.FAILED, run_state="io-error")
    plan = bench.plan(MORE, Goal.STARTED, found)

    bench.apply(plan, found)

    assert plan.actions == ["prepare", "resume", "change"]
    assert bench.found().state is VmState.RUNNING
    assert bench.found().handle.disk_bytes == MORE.disk_size
    assert plan.restart_reasons == ("vcpus",), "there is no room for more of them"


@pytest.mark.parametrize(("timeout", "word"), [(30.0, "guest"), (0.0, "quit")])
def test_a_stop_says_what_ended_the_run(bench, timeout, word):
    found = bench.put(VmState.RUNNING)

    bench.apply(bench.plan(SAME, Goal.STOPPED, found, stop_timeout=timeout), found)

    assert show_vm(bench.found())["stopped_by"] == word


def test_a_start_forgets_what_ended_the_run_before(bench):
    bench.put(VmState.RUNNING)
    bench.bring(SAME, Goal.STOPPED)

    bench.bring(SAME, Goal.STARTED)

    assert bench.found().handle.stopped_by is None


def test_a_machine_keeps_its_identity_for_life(bench):
    bench.put(VmState.RUNNING)
    first = bench.found().handle

    for goal in (Goal.STOPPED, Goal.STARTED, Goal.RESTARTED, Goal.SUSPENDED, Goal.PRESENT):
        bench.bring(MORE, goal)
    last = bench.found().handle

    assert first.id.startswith("noop-")
    assert len(first.uuid) == 36
    kept = ("id", "name", "mac_addr", "ssh_host_port", "work_dir")
    assert [getattr(first, key) for key in kept] == [getattr(last, key) for key in kept]


def test_two_machines_are_two_identities(bench):
    ids = set()
    for _dummy in range(2):
        ids.add(bench.bring(FIRST, Goal.PRESENT).handle.id)
        bench.bring(FIRST, Goal.ABSENT)

    assert len(ids) == 2


def test_destroying_leaves_nothing_but_what_is_foreign(bench, tmp_path):
    bench.put(VmState.STOPPED)
    notes = tmp_path / "vms" / "web1" / "notes.txt"
    notes.write_text("mine")

    outcome = bench.bring(SAME, Goal.ABSENT)

    assert outcome.kept == (str(notes),)
    assert notes.read_text() == "mine"
    assert [path.name for path in notes.parent.iterdir()] == ["notes.txt"]


def test_a_network_that_comes_later_gets_its_address_then(bench):
    bench.bring(NO_NETWORK, Goal.STARTED)
    before = show_vm(bench.found())

    bench.bring(WITH_NETWORK, Goal.RESTARTED)

    after = show_vm(bench.found())
    assert (before["networks"], before["ssh"], before["ip_address"]) == ([], None, None)
    assert after["networks"][0]["mac"].startswith("52:54:00:")
    assert (after["ip_address"], after["ssh"]["user"]) == ("127.0.0.1", "vm")


def test_the_port_comes_from_the_range_that_was_asked_for(bench):
    bench.bring(replace(FIRST, ssh_port_range=PortRange(20000, 20000)), Goal.PRESENT)

    assert bench.found().handle.ssh_host_port == 20000


def test_ssh_is_shown_as_long_as_the_network_is_there(bench):
    bench.bring(FIRST, Goal.STARTED)
    found = bench.found()
    bench.apply(bench.plan(NO_NETWORK, Goal.STARTED, found, apply="next_start"), found)
    running = show_vm(bench.found())

    bench.bring(SAME, Goal.RESTARTED)

    restarted = show_vm(bench.found())
    assert (running["ssh"]["host"], running["ip_address"]) == ("127.0.0.1", "127.0.0.1")
    assert (restarted["ssh"], restarted["ip_address"]) == (None, None)


@pytest.mark.parametrize("state", [VmState.PREPARED, VmState.STOPPED])
def test_a_machine_that_does_not_run_has_no_address(bench, state):
    bench.put(state)

    with pytest.raises(VmError) as caught:
        bench.backend.guest_ip(bench.found().handle)

    assert caught.value.code == "vm_manager.network.ip_discovery_timeout"


def test_the_protocol_beyond_the_verbs(bench):
    handle = bench.put(VmState.RUNNING).handle

    assert bench.backend.state(handle) is VmState.RUNNING
    assert bench.backend.guest_ip(handle) == "127.0.0.1"
    assert bench.backend.console_endpoint(handle).type == "none"
    bench.backend.check(FIRST, None)


def test_secrets_are_in_the_private_record_and_nowhere_else(bench, tmp_path):
    found = bench.put(VmState.RUNNING)
    plan = bench.plan(MORE, Goal.RESTARTED, found)

    shown = json.dumps([show_vm(found), plan.before, plan.after, plan.predicted])

    assert SECRET not in shown
    holders = [
        path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text()
    ]
    assert [path.name for path in holders] == ["vm.json"]
    assert os.stat(holders[0]).st_mode & 0o777 == 0o600
