# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several machines from one task: what each of them gets, what is refused before any is touched, what becomes of the others."""

from __future__ import annotations

import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils import _fleet
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._arguments import VM
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    FleetFailed,
    FleetRefused,
    InvalidSpec,
    NoGuestAddress,
    PortUnavailable,
    SpawnFailed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._fleet import manage_fleet
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._manage import manage_vm
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import Task
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._noop.backend import (
    NoopBackend,
)

DEFAULTS = {name: item.get("default") for name, item in VM.items()}
SSH = 0  # stands for the port for SSH
DECIDED_BY_THE_RUN = ("id", "paths", "ssh", "networks", "ip_address", "accelerator_reason")


def names(*machines):
    return [{"name": name} for name in machines]


def user_card(*ports, address="127.0.0.1", **more):
    forwards = [{"host": port, "guest": 80, "host_address": address} for port in ports]
    return [{"type": "user", "port_forwards": forwards, **more}]


class Host:
    """A data folder, and both modules on it without Ansible around them."""

    def __init__(self, folder):
        self.data_dir = folder
        self.task = None

    def fleet(self, vms, check=False, **defaults):
        defaults = {"backend": "noop", **defaults}
        params = {"data_dir": str(self.data_dir), "vms": vms, "defaults": defaults}
        self.task = Task(params, check)
        return manage_fleet(self.task)

    def refused(self, vms, kind=InvalidSpec, **options):
        before = self.files()
        with pytest.raises(kind) as raised:
            self.fleet(vms, **options)
        assert self.files() == before, "it was touched"
        return raised.value

    def failed(self, vms, **options):
        with pytest.raises(FleetFailed) as raised:
            self.fleet(vms, **options)
        return raised.value

    def vm(self, **options):
        params = {**DEFAULTS, "data_dir": str(self.data_dir), "backend": "noop", **options}
        return manage_vm(Task(params))

    def files(self):
        return {path: path.read_bytes() for path in self.data_dir.rglob("*") if path.is_file()}

    def machines(self):
        return sorted(path.parent.name for path in self.data_dir.glob("vms/*/vm.json"))


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path / "data")


def failing(monkeypatch, verb, errors):
    """Let a verb of the backend fail for the machines that have an error."""
    real = getattr(NoopBackend, verb)

    def act(backend, subject, *rest):
        if subject.name in errors:
            raise errors[subject.name]
        return real(backend, subject, *rest)

    monkeypatch.setattr(NoopBackend, verb, act)


def test_each_machine_has_its_options_over_the_defaults_over_those_of_vm(host):
    fleet = host.fleet(
        [
            {"name": "a", "vcpus": 4},
            {"name": "b", "memory": None},
            {"name": "c", "state": "stopped"},
        ],
        vcpus="2",
        memory="3GiB",
    )

    shown = [(vm["name"], vm["vcpus"], vm["memory_mb"], vm["state"]) for vm in fleet["vms"]]
    assert shown == [
        ("a", 4, 3072, "running"),
        ("b", 2, 1024, "running"),
        ("c", 2, 3072, "prepared"),
    ]


def test_null_is_as_if_the_option_was_left_out(host):
    nothing = dict.fromkeys(set(VM) - {"name", "data_dir"})

    fleet = host.fleet([{**nothing, "name": "a", "backend": "noop"}], vcpus=3, state="stopped")

    assert (fleet["vms"][0]["vcpus"], fleet["vms"][0]["state"]) == (1, "running")


def test_a_dictionary_replaces_the_one_of_the_defaults(host):
    fleet = host.fleet(
        [{"name": "a", "cloud_init": {"hostname": "inside"}, "labels": {"b": "2"}}],
        cloud_init={"user": "admin"},
        labels={"a": "1"},
    )

    assert fleet["vms"][0]["labels"] == {"b": "2"}
    told = fleet["diff"]["after"]["a"]["cloud_init"]
    assert (told["hostname"], told["user"]) == ("inside", "vm")


def test_each_result_is_that_of_the_module_for_one(host, tmp_path):
    wishes = [
        {"name": "a", "vcpus": 2},
        {"name": "b", "state": "suspended"},
        {"name": "c", "state": "absent"},
        {"name": "d", "disks": [{"name": "data", "size": "1GiB"}]},
    ]
    alone = Host(tmp_path / "alone")

    for dummy_round in range(2):
        fleet = host.fleet(wishes)
        for number, wish in enumerate(wishes):
            one, told = alone.vm(**wish), fleet["results"][number]
            for key in ("changed", "actions", "restart_required"):
                assert told[key] == one[key], (wish, key)
            for key in set(one["vm"]) - set(DECIDED_BY_THE_RUN):
                assert fleet["vms"][number][key] == one["vm"][key], (wish, key)
            for side in ("before", "after"):
                expected = one["diff"][side] or None if one["changed"] else None
                assert fleet["diff"][side].get(wish["name"]) == expected


def test_a_second_run_changes_nothing(host):
    wishes = names("a", "b")
    host.fleet(wishes)

    again = host.fleet(wishes)

    assert (again["changed"], again["diff"]) == (False, {"before": {}, "after": {}})
    assert [entry["actions"] for entry in again["results"]] == [[], []]
    assert [vm["name"] for vm in again["vms"]] == ["a", "b"]


def test_machines_that_only_pretend_may_have_the_same_port(host):
    """Theirs follows from their names alone."""
    wishes = names("vm2", "vm10")
    ports = {vm["ssh"]["port"] for vm in host.fleet(wishes)["vms"]}

    assert len(ports) == 1
    assert host.fleet(wishes)["changed"] is False


def test_no_machines_are_no_change(host):
    assert host.fleet([]) == {
        "changed": False,
        "vms": [],
        "results": [],
        "diff": {"before": {}, "after": {}},
    }
    assert not host.data_dir.exists()


STORIES = {
    "new": ([], [{"name": "a"}, {"name": "b", "state": "present"}]),
    "one of two": (names("a"), names("a", "b")),
    "changed": (names("a", "b"), [{"name": "a", "vcpus": 3}, {"name": "b", "labels": {"x": "1"}}]),
    "removed": (names("a", "b"), [{"name": "a", "state": "absent"}, {"name": "b"}]),
    "renamed": (
        [{"name": "a", "state": "stopped"}, {"name": "b"}],
        [{"name": "a", "new_name": "c", "state": "stopped"}, {"name": "b"}],
    ),
    "clone of a new one": (
        [],
        [
            {"name": "a", "state": "present", "disk_size": "2GiB", "vcpus": 3},
            {"name": "b", "clone_from": "a"},
        ],
    ),
    "clone of a clone": (
        [{"name": "a", "state": "stopped", "disks": [{"name": "data", "size": "1GiB"}]}],
        [
            {"name": "a", "state": "stopped", "disk_size": "4GiB"},
            {"name": "b", "clone_from": "a", "state": "present", "clone_mode": "linked"},
            {"name": "c", "clone_from": "b", "state": "present"},
        ],
    ),
    "clone of one that is stopped for it": (
        names("a"),
        [{"name": "a", "state": "stopped", "memory": "2GiB"}, {"name": "b", "clone_from": "a"}],
    ),
    "clone of one that gets another name": (
        [{"name": "a", "state": "stopped"}],
        [
            {"name": "a", "new_name": "z", "state": "stopped"},
            {"name": "b", "clone_from": "z"},
        ],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_check_mode_tells_what_the_run_does_and_touches_nothing(host, story):
    there, wishes = STORIES[story]
    host.fleet(there)
    before = host.files()

    told = host.fleet(wishes, check=True)
    untouched = host.files() == before
    done = host.fleet(wishes)

    assert untouched
    assert done["changed"] is True
    for key in ("changed", "results", "diff"):
        assert told[key] == done[key], key
    for one, other in zip(told["vms"], done["vms"]):
        for key in set(one) - {*DECIDED_BY_THE_RUN, "stopped_by", "disks"}:
            assert one[key] == other[key], key
    assert host.fleet(wishes)["changed"] is False


def test_an_image_is_fetched_once_for_all(host, monkeypatch):
    """Check mode says so, too: the machines after the first one find it there."""
    monkeypatch.setattr(_fleet, "will_fetch", lambda looked, store: True)

    told = host.fleet(
        [*names("a", "b"), {"name": "c", "image": "/srv/other.qcow2"}],
        check=True,
        image="/srv/image.qcow2",
    )

    fetch = [entry["actions"][0] == "fetch" for entry in told["results"]]
    assert fetch == [True, False, True]


@pytest.mark.parametrize("check", [False, True], ids=["run", "check mode"])
@pytest.mark.parametrize(
    ("vms", "defaults", "option"),
    [
        ([{"name": "a"}, {"vcpus": 1}], {}, "vms[1].name"),
        ([{"name": "a"}, {"name": "../b"}], {}, "vms[1].name"),
        ([{"name": "a", "memry": 1}], {}, "vms[0].memry"),
        ([{"name": "a", "data_dir": "/srv"}], {}, "vms[0].data_dir"),
        ([{"name": "a", "vcpus": "many"}], {}, "vms[0].vcpus"),
        ([{"name": "a", "memory": "a lot"}], {}, "vms[0].memory"),
        ([{"name": "a"}], {"memory": "a lot"}, "defaults.memory"),
        ([{"name": "a"}], {"name": "a"}, "defaults.name"),
        ([{"name": "a"}], {"state": "up"}, "defaults.state"),
        ([{"name": "a"}], {"networks": [{"mtu": 5}]}, "defaults.networks[0].mtu"),
        ([{"name": "a", "networks": [{}, {"mac": "x"}]}], {}, "vms[0].networks[1].mac"),
        ([{"name": "a"}, {"name": "b"}, {"name": "a"}], {}, "vms[2].name"),
        ([{"name": "a", "new_name": "b"}, {"name": "b"}], {}, "vms[1].name"),
        ([{"name": "a"}, {"name": "b", "new_name": "a"}], {}, "vms[1].new_name"),
        ([{"name": "b", "clone_from": "a"}, {"name": "a"}], {}, "vms[0].clone_from"),
        ([{"name": "b"}, {"name": "a"}], {"clone_from": "a"}, "defaults.clone_from"),
    ],
)
def test_wrong_options_are_refused_with_their_path_before_anything_is_touched(
    host, vms, defaults, option, check
):
    error = host.refused(vms, check=check, **defaults)

    assert error.details["option"] == option
    assert error.message.startswith(f"{option}: ")


CLASHES = {
    "port": (user_card(8080), user_card(8080), "the TCP port 8080"),
    "port of all addresses": (
        user_card(8080),
        user_card(8080, address="0.0.0.0"),
        "the TCP port 8080",
    ),
    "MAC address": (user_card(mac="52:54:00:00:00:01"), user_card(mac="52-54-00-00-00-01"), "MAC"),
    "interface": (
        [{"type": "tap", "interface": "tap7"}],
        [{"type": "tap", "interface": "tap7"}],
        "the interface tap7",
    ),
}


@pytest.mark.parametrize("check", [False, True], ids=["run", "check mode"])
@pytest.mark.parametrize("clash", CLASHES)
def test_two_that_want_the_same_are_refused_before_anything_is_touched(host, clash, check):
    first, second, what = CLASHES[clash]

    error = host.refused(
        [{"name": "a", "networks": first}, {"name": "b", "networks": second}], check=check
    )

    assert error.message.startswith("vms[1].networks[0].")
    assert what in error.message
    assert "'a' (vms[0])" in error.message


def test_the_same_port_from_the_defaults_is_refused_where_it_stands(host):
    error = host.refused(names("a", "b"), networks=user_card(8080))

    assert error.details["option"] == "defaults.networks[0].port_forwards[0].host"


def test_what_a_machine_has_already_counts_as_well(host):
    made = host.vm(name="a")["vm"]
    card = user_card(mac=made["networks"][0]["mac"])

    error = host.refused([*names("a"), {"name": "b", "networks": card}])

    assert error.details["option"] == "vms[1].networks[0].mac"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"networks": user_card(80)}, {"networks": user_card(81)}),
        ({"networks": user_card(80)}, {"networks": user_card(80, address="127.0.0.2")}),
        ({"networks": user_card(80)}, {"networks": user_card(80), "state": "stopped"}),
        ({"networks": user_card(80)}, {"networks": user_card(80), "state": "absent"}),
    ],
)
def test_what_two_can_have_is_taken(host, first, second):
    fleet = host.fleet([{"name": "a", **first}, {"name": "b", **second}])

    assert [vm["name"] for vm in fleet["vms"]] == ["a", "b"]


RELEASES = {
    "stopped": ({"state": "stopped"}, {8080, SSH}),
    "removed": ({"state": "absent"}, {8080, SSH}),
    "changed live": ({"networks": []}, {8080, SSH}),
    "restarted with another": ({"networks": user_card(8081), "state": "restarted"}, {8080}),
    "without its network": ({"networks": [], "state": "restarted"}, {8080, SSH}),
    "renamed": ({"new_name": "z", "state": "stopped"}, {8080, SSH}),
    "labels": ({"labels": {"x": "1"}}, set()),
    "restarted": ({"state": "restarted"}, set()),
    "suspended": ({"state": "suspended"}, set()),
    "at the next start": ({"networks": user_card(8081), "apply": "next_start"}, set()),
}


@pytest.mark.parametrize("check", [False, True], ids=["run", "check mode"])
@pytest.mark.parametrize("change", RELEASES)
def test_a_machine_may_take_the_ports_that_one_before_it_gives_up(host, monkeypatch, change, check):
    options, expected = RELEASES[change]
    ssh = host.fleet([{"name": "a", "networks": user_card(8080)}])["vms"][0]["ssh"]["port"]
    told = []
    monkeypatch.setattr(
        NoopBackend,
        "check_start",
        lambda backend, spec, found, released: told.append((spec.name, released)),
    )

    host.fleet([{"name": "a", **options}, {"name": "b", "networks": user_card(8090)}], check=check)

    foreseen = next(released for name, released in told if name == "b")
    assert foreseen == {("tcp", ssh if port == SSH else port) for port in expected}
    when_its_turn_comes = [released for name, released in told if name == "b"][1:]
    assert when_its_turn_comes == ([] if check else [set()])


def test_a_machine_that_did_not_run_gives_up_nothing(host, monkeypatch):
    host.fleet([{"name": "a", "networks": user_card(8080), "state": "stopped"}])
    told = []
    monkeypatch.setattr(
        NoopBackend, "check_start", lambda backend, spec, found, released: told.append(released)
    )

    host.fleet([{"name": "a", "state": "absent"}, {"name": "b"}], check=True)

    assert told == [set()]


def test_a_port_that_cannot_be_had_is_known_before_anything_is_touched(host, monkeypatch):
    def check_start(backend, spec, found, released):
        if spec.name == "b":
            raise PortUnavailable("networks[0]: taken.", option="networks[0]", vm="a")

    host.fleet(names("a"))
    monkeypatch.setattr(NoopBackend, "check_start", check_start)

    error = host.refused([{"name": "a", "labels": {"x": "1"}}, {"name": "b"}], FleetRefused)

    assert list(error.result["errors"]) == ["b"]


def test_all_that_cannot_be_done_is_told_and_nothing_is_touched(host, monkeypatch):
    host.fleet([{"name": "a", "disk_size": "2GiB"}])
    gone = PortUnavailable("networks[0].bridge: it is gone.", option="networks[0].bridge")
    failing(monkeypatch, "check", {"c": gone})

    error = host.refused(
        [{"name": "a", "disk_size": "1GiB"}, {"name": "b"}, {"name": "c"}], FleetRefused
    )

    assert error.message.startswith("2 of 3 VMs cannot be as the task asks; nothing was touched.")
    assert " a: vms[0].disk_size: " in error.message
    assert " c: vms[2].networks[0].bridge: it is gone." in error.message
    assert error.result["changed"] is False
    assert error.result["errors"]["a"]["code"] == "vm_manager.spec.invalid"
    assert error.result["errors"]["c"]["details"] == {"option": "vms[2].networks[0].bridge"}


def test_what_an_earlier_task_may_bring_is_warned_of_with_its_path(host, monkeypatch):
    gone = PortUnavailable("networks[0].bridge: it is gone.", option="networks[0].bridge")
    failing(monkeypatch, "check", {"b": gone})

    fleet = host.fleet(names("a", "b"), check=True)

    assert [entry["actions"] for entry in fleet["results"]] == [["prepare", "start"]] * 2
    (warning,) = host.task.warnings
    assert warning.endswith(": vms[1].networks[0].bridge: it is gone.")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"state": "started"}, "is running; only one that is off"),
        ({"state": "absent"}, "there is no VM 'a'"),
        ({"state": "stopped", "disk_size": "2GiB"}, "smaller than the disk"),
        (
            {"state": "stopped", "disks": [{"name": "data", "size": "1GiB", "format": "raw"}]},
            "a linked clone needs qcow2",
        ),
    ],
)
def test_a_clone_is_checked_against_what_its_source_will_be(host, source, told):
    clone = {"name": "b", "clone_from": "a", "clone_mode": "linked", "disk_size": "1GiB"}

    error = host.refused([{"name": "a", **source}, clone], FleetRefused)

    assert list(error.result["errors"]) == ["b"]
    assert told in error.message


def test_one_that_fails_does_not_stop_the_others(host, monkeypatch):
    failing(monkeypatch, "start", {"b": SpawnFailed("QEMU did not start.", "Look.")})

    error = host.failed(names("a", "b", "c"))

    assert error.message == "1 of 3 VMs failed. b: QEMU did not start."
    assert error.help == "Look."
    assert error.result["changed"] is True
    assert [vm["name"] for vm in error.result["vms"]] == ["a", "c"]
    assert [entry["changed"] for entry in error.result["results"]] == [True, False, True]
    assert list(error.result["diff"]["after"]) == ["a", "c"]
    assert error.result["errors"] == {
        "b": {
            "msg": "QEMU did not start.",
            "code": "vm_manager.qemu.spawn_failed",
            "help": "Look.",
            "details": {},
        }
    }
    assert host.machines() == ["a", "c"]


def test_one_that_fails_half_way_tells_what_was_done(host, monkeypatch):
    host.fleet(names("a", "b"))
    failing(monkeypatch, "start", {"a": SpawnFailed("QEMU did not start.")})

    error = host.failed(names("a", "b"), state="restarted")

    assert error.result["results"][0]["actions"] == ["stop"]
    assert [vm["state"] for vm in error.result["vms"]] == ["stopped", "running"]
    assert "is off now" in error.message


@pytest.mark.parametrize("there", [[], [{"name": "a", "state": "stopped"}]], ids=["new", "old"])
def test_nothing_is_cloned_from_one_that_fails(host, monkeypatch, there):
    host.fleet(there)
    failing(monkeypatch, "prepare", {"a": SpawnFailed("The disk is full.")})

    error = host.failed(
        [
            {"name": "a", "state": "stopped", "vcpus": 2},
            {"name": "b", "clone_from": "a", "state": "stopped"},
            {"name": "c", "clone_from": "b"},
        ]
    )

    assert list(error.result["errors"]) == ["a", "b", "c"]
    told = {name: entry["msg"] for name, entry in error.result["errors"].items()}
    assert told["b"] == "vms[1].clone_from: the VM 'a' failed in this task."
    assert told["c"] == "vms[2].clone_from: the VM 'b' failed in this task."
    assert host.machines() == [machine["name"] for machine in there]


def test_a_clone_that_is_there_already_does_not_depend_on_its_source(host, monkeypatch):
    clone = {"name": "b", "clone_from": "a"}
    host.fleet([{"name": "a", "state": "stopped"}, clone])
    failing(monkeypatch, "prepare", {"a": SpawnFailed("The disk is full.")})

    error = host.failed([{"name": "a", "state": "stopped", "vcpus": 2}, {**clone, "vcpus": 2}])

    assert list(error.result["errors"]) == ["a"]
    assert [entry["changed"] for entry in error.result["results"]] == [False, True]


def test_a_defect_hides_neither_what_was_done_nor_what_else_failed(host, monkeypatch):
    defect = ZeroDivisionError("ours")
    failing(monkeypatch, "start", {"b": defect, "c": SpawnFailed("QEMU did not start.")})

    with pytest.raises(ZeroDivisionError) as raised:
        host.fleet(names("a", "b", "c", "d"))

    done = host.task.done
    assert raised.value is defect
    assert done["changed"] is True
    assert [vm["name"] for vm in done["vms"]] == ["a", "d"]
    assert {name: entry["code"] for name, entry in done["errors"].items()} == {
        "b": "vm_manager.internal",
        "c": "vm_manager.qemu.spawn_failed",
    }


def test_all_are_started_before_the_first_guest_is_waited_for(host, monkeypatch):
    order = []
    for verb in ("start", "await_address"):
        real = getattr(NoopBackend, verb)

        def act(backend, subject, *rest, verb=verb, real=real):
            order.append((verb, getattr(subject, "handle", subject).name))
            return real(backend, subject, *rest)

        monkeypatch.setattr(NoopBackend, verb, act)

    host.fleet([*names("a", "b"), {"name": "c", "wait_for": "running"}], wait_for="ip")

    assert order == [
        *(("start", name) for name in "abc"),
        *(("await_address", name) for name in "ab"),
    ]


class Guests:
    """Guests that get an address when asked, some of them never; keeps how long each was waited for."""

    def __init__(self, monkeypatch, dead):
        self.dead, self.patience = dead, {}
        monkeypatch.setattr(NoopBackend, "await_address", lambda _self, vm, end: self.wait(vm, end))

    def wait(self, vm, deadline):
        name = vm.handle.name
        self.patience[name] = deadline - time.monotonic()
        if name in self.dead:
            time.sleep(max(0.0, deadline - time.monotonic()))
            raise NoGuestAddress("The guest had no address.")
        return vm


def test_guests_share_the_time_and_none_fails_for_another(host, monkeypatch):
    guests = Guests(monkeypatch, dead={"a", "d"})

    error = host.failed(
        [*names("a", "b"), {"name": "c", "wait_timeout": 100}, *names("d")],
        wait_for="ip",
        wait_timeout=1,
    )

    assert list(error.result["errors"]) == ["a", "d"]
    assert [vm["name"] for vm in error.result["vms"]] == ["a", "b", "c", "d"]
    assert guests.patience["a"] <= 1
    assert 0 < guests.patience["b"] <= 1, "its own time has passed: it is asked once more"
    assert 1 < guests.patience["c"] < 99.5, "its time runs since it was started"
    assert error.result["errors"]["a"]["msg"] == "The guest had no address."
    assert "busy with other VMs" in error.result["errors"]["d"]["msg"]
    assert [entry["actions"] for entry in error.result["results"]] == [["prepare", "start"]] * 4


def test_a_guest_that_ends_is_not_said_to_have_had_no_time(host, monkeypatch):
    def ends(backend, vm, deadline):
        time.sleep(max(0.0, deadline - time.monotonic()) if vm.handle.name == "a" else 0.0)
        raise NoGuestAddress("The VM's process ended.")

    monkeypatch.setattr(NoopBackend, "await_address", ends)

    error = host.failed(names("a", "b"), wait_for="ip", wait_timeout=1)

    assert error.result["errors"]["b"]["msg"] == "The VM's process ended."


def test_without_time_to_wait_there_is_none(host, monkeypatch):
    guests = Guests(monkeypatch, dead={"a", "b"})

    host.failed(names("a", "b"), wait_for="ip", wait_timeout=0)

    assert max(guests.patience.values()) <= 0


def test_warnings_of_all_machines_are_told(host):
    host.fleet(names("a", "b"))

    host.fleet(names("a", "b"), vcpus=3)

    assert [warning.split("'")[1] for warning in host.task.warnings] == ["a", "b"]
    assert all("must be restarted" in warning for warning in host.task.warnings)
