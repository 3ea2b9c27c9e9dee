# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine made from another one, and what cloud-init is told a second time: the decisions, on the backend noop."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils import _arguments, _manage
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.cloud_init import (
    checked_wish,
    instance_id,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import Task
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import (
    KEY,
    SECRET,
    minimal_handle,
)


class Bench:
    """The module ``vm`` on the backend noop, each task first in check mode."""

    def __init__(self, folder):
        self.store = Store(str(folder))

    def once(self, name, check=False, **options):
        defaults = {key: item.get("default") for key, item in _arguments.VM.items()}
        given = {"name": name, "data_dir": self.store.data_dir, "backend": "noop", **options}
        return _manage.manage_vm(Task({**defaults, **given}, check))

    def vm(self, name="web1", **options):
        predicted = self.once(name, check=True, **options)
        result = self.once(name, **options)
        for key in ("changed", "actions", "diff", "restart_required"):
            assert predicted[key] == result[key]
        return result

    def refuse(self, name="web1", **options):
        texts = set()
        for check in (True, False):
            with pytest.raises(VmError) as caught:
                self.once(name, check=check, **options)
            texts.add(caught.value.message)
        assert len(texts) == 1
        return caught.value


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_clone_is_like_the_other_one_and_somebody_else(bench):
    source = bench.vm(
        state="stopped",
        vcpus=3,
        memory="3GiB",
        disk_size="20GiB",
        labels={"role": "web"},
        disks=[{"name": "data", "size": "5GiB"}],
        cloud_init={"hostname": "first", "user": "admin", "ssh_authorized_keys": [KEY]},
    )["vm"]

    result = bench.vm("web2", state="stopped", clone_from="web1", vcpus=1)
    clone = result["vm"]

    assert result["actions"] == ["prepare"]
    for key in ("memory_mb", "labels"):
        assert clone[key] == source[key]
    assert clone["vcpus"] == 1
    assert [(d["name"], d["size"]) for d in clone["disks"]] == [
        (d["name"], d["size"]) for d in source["disks"]
    ]
    assert clone["id"] != source["id"]
    assert clone["networks"][0]["mac"] != source["networks"][0]["mac"]
    told = bench.store.load("web2").spec.cloud_init
    assert (told.hostname, told.user, told.ssh_authorized_keys) == (None, "admin", (KEY,))


def test_a_second_run_changes_nothing_even_if_the_other_one_runs_or_is_gone(bench):
    bench.vm(state="stopped")
    bench.vm("web2", clone_from="web1")

    bench.vm(state="started")
    assert not bench.vm("web2", clone_from="web1")["changed"]
    bench.vm(state="absent")
    assert not bench.vm("web2", clone_from="web1")["changed"]
    assert not bench.vm("web2")["changed"]


def test_a_given_mac_address_is_not_given_twice(bench):
    mac = "52:54:00:00:00:01"
    card = {"type": "user", "mac": mac, "connected": True, "port_forwards": []}
    bench.vm(state="stopped", networks=[card])

    clone = bench.vm("web2", state="stopped", clone_from="web1")["vm"]

    assert clone["networks"][0]["mac"] not in (None, mac)


def test_a_clone_does_not_come_back_with_its_host_unasked(bench):
    bench.vm(state="stopped")
    handle = bench.store.load("web1")
    bench.store.save(handle.evolve(spec=replace(handle.spec, autostart=True)))

    bench.vm("web2", state="stopped", clone_from="web1")

    assert bench.store.load("web2").spec.autostart is False


@pytest.mark.parametrize("state", ["started", "suspended"])
def test_one_that_runs_is_not_cloned(bench, state):
    bench.vm(state=state)

    error = bench.refuse("web2", clone_from="web1")

    assert error.code == "vm_manager.vm.invalid_state"
    assert bench.store.names() == ["web1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clone_from": "nobody"}, "there is no VM 'nobody'"),
        ({"clone_from": "web2"}, "cannot be the machine to clone"),
        ({"clone_from": "../web1"}, "cannot be the machine to clone"),
        ({"clone_from": "web1", "image": "/x.qcow2"}, "has the image of the machine"),
        ({"clone_from": "web1", "disk_size": "1GiB"}, "is smaller"),
        ({"clone_mode": "linked"}, "clone_from makes a machine, which is not given"),
        ({"clone_mode": "full"}, "clone_from makes a machine, which is not given"),
    ],
)
def test_what_cannot_be_a_clone(bench, options, words):
    bench.vm(state="stopped", disk_size="20GiB")

    assert words in str(bench.refuse("web2", **options))
    assert bench.store.names() == ["web1"]


@pytest.mark.parametrize("mode", ["full", "linked"])
def test_how_a_clone_was_made_is_recorded_and_stays(bench, mode):
    other = {"full": "linked", "linked": "full"}[mode]
    bench.vm(state="stopped", disks=[{"name": "data", "size": "5GiB"}])

    made = bench.vm("web2", state="stopped", clone_from="web1", clone_mode=mode)

    assert made["diff"]["after"]["clone_mode"] == mode
    assert not bench.vm("web2", state="stopped", clone_from="web1", clone_mode=mode)["changed"]
    assert not bench.vm("web2", state="stopped", clone_from="web1")["changed"]
    assert not bench.vm("web2", state="stopped")["changed"]
    error = bench.refuse("web2", clone_from="web1", clone_mode=other)
    assert (error.code, error.details["option"]) == (
        "vm_manager.spec.cannot_change",
        "clone_mode",
    )


def test_a_clone_is_full_unless_the_task_says_more(bench):
    bench.vm(state="stopped")
    bench.vm("web2", state="stopped", clone_from="web1", clone_mode="linked")

    bench.vm("web3", state="stopped", clone_from="web2")

    modes = [bench.store.load(name).spec.clone_mode for name in ("web1", "web2", "web3")]
    assert modes == [None, "linked", "full"]


def test_a_linked_clone_that_was_cut_off_goes_on_as_one(bench):
    bench.vm(state="stopped")
    bench.vm("web2", state="stopped", clone_from="web1", clone_mode="linked")
    bench.store.save(bench.store.load("web2").evolve(state=VmState.PREPARING))

    bench.vm("web2", state="stopped", clone_from="web1")

    assert bench.store.load("web2").spec.clone_mode == "linked"


def test_a_raw_disk_cannot_be_shared(bench):
    disks = [{"name": "data", "size": "5GiB", "format": "raw"}]
    bench.vm(state="stopped", disks=disks)

    error = bench.refuse("web2", clone_from="web1", clone_mode="linked")

    assert "'data'" in error.message
    assert "raw" in error.message
    assert error.help == "Use clone_mode: full."
    assert bench.vm("web2", clone_from="web1", clone_mode="full")["changed"]


def test_a_clone_has_the_backend_of_the_other_machine(bench):
    bench.vm(state="stopped")
    source = bench.store.load("web1")
    bench.store.save(source.evolve(backend="qemu", spec=replace(source.spec, backend="qemu")))

    assert "backend" in str(bench.refuse("web2", clone_from="web1"))


def test_the_other_machine_is_never_cloned_without_its_lock(bench, monkeypatch):
    """A task that only has to start the clone waits for its lock, and the clone is removed meanwhile."""
    bench.vm(state="stopped")
    bench.vm("web2", state="stopped", clone_from="web1")
    locked, lock = [], Store.lock

    def waiting(store, name, timeout):
        locked.append(name)
        store.forget("web2")
        return lock(store, name, timeout)

    monkeypatch.setattr(Store, "lock", waiting)

    with pytest.raises(VmError, match="has just removed the VM 'web2'"):
        bench.once("web2", state="started", clone_from="web1")

    assert locked == ["web2"]
    assert bench.once("web2", state="started", clone_from="web1")["changed"]
    assert locked == ["web2", "web1", "web2"]
    assert bench.store.names() == ["web1", "web2"]


def test_a_machine_does_not_become_a_clone_later(bench):
    bench.vm(state="stopped")
    bench.vm("web2", state="stopped")

    assert bench.refuse("web2", clone_from="web1").code == "vm_manager.spec.cannot_change"


def test_cloud_init_changes_only_if_it_is_to_run_again(bench):
    bench.vm(cloud_init={"user": "admin"})
    bench.vm(state="stopped")

    error = bench.refuse(cloud_init={"user": "other", "user_data": {"password": SECRET}})

    assert error.code == "vm_manager.spec.cannot_change"
    assert error.message.endswith("which cloud-init in the guest may have used.")
    assert "cloud_init.rerun" in error.help
    assert SECRET not in repr((error.message, error.as_dict()))
    for same in ({"user": "admin"}, {"user": "admin", "rerun": True}):
        assert not bench.vm(state="stopped", cloud_init=same)["changed"]
    assert bench.store.load("web1").instance == 0


def test_cloud_init_runs_again_once(bench):
    bench.vm(cloud_init={"user": "admin"})
    wish = {"user": "other", "rerun": True}

    first = bench.vm(cloud_init=wish)
    second = bench.vm(cloud_init=wish)
    there = bench.store.load("web1")

    assert (first["actions"], first["restart_required"]) == (["prepare"], True)
    assert (second["actions"], second["restart_required"]) == ([], True)
    assert (there.instance, there.seed_stale) == (1, True)
    assert there.spec.cloud_init.rerun is None
    bench.vm(state="restarted")
    again = bench.vm(cloud_init=wish)
    assert (again["changed"], again["restart_required"]) == (False, False)
    assert (bench.store.load("web1").instance, bench.store.load("web1").seed_stale) == (1, False)
    assert not bench.vm(cloud_init={"user": "other"})["changed"]


def test_a_guest_that_never_booted_is_told_something_else(bench):
    bench.vm(state="present")
    other = {"user": "fred", "ssh_authorized_keys": [KEY]}

    first = bench.vm(state="present", cloud_init=other)
    second = bench.vm(state="present", cloud_init=other)

    assert (first["actions"], first["restart_required"]) == (["prepare"], False)
    assert not second["changed"]
    assert bench.store.load("web1").seed_stale
    bench.vm(cloud_init=other)
    assert not bench.store.load("web1").seed_stale
    assert bench.refuse(cloud_init={"user": "other"}).code == "vm_manager.spec.cannot_change"


def test_a_clone_that_never_booted_is_told_something_else(bench):
    bench.vm()
    bench.vm(state="stopped")
    bench.vm("web2", state="stopped", clone_from="web1")

    bench.vm("web2", state="stopped", cloud_init={"user": "fred"})

    assert bench.store.load("web2").spec.cloud_init.user == "fred"
    assert bench.refuse("web1", cloud_init={"user": "fred"}).details == {"option": "cloud_init"}


@pytest.mark.parametrize("booted", [False, True])
def test_a_backend_that_cannot_write_the_seed_again_offers_no_way_that_it_has_not(booted):
    there = minimal_handle()
    there = there.evolve(booted=there.spec if booted else None)

    with pytest.raises(VmError) as caught:
        checked_wish(VmSpec("web1", cloud_init=CloudInit(user="other")), there, False)

    assert caught.value.code == "vm_manager.spec.cannot_change"
    assert "rerun" not in caught.value.message + caught.value.help
    assert ("may have used" in caught.value.message) == booted


def test_a_diff_of_creation_shows_what_is_set(bench):
    made = bench.vm(state="stopped", labels={"a": "b"}, ip_range=["10.0.0.0/8"], ip_version=4)
    clone = bench.vm("web2", state="stopped", clone_from="web1")

    for result in (made, clone):
        after = result["diff"]["after"]
        assert result["diff"]["before"] == {}
        assert after["labels"] == {"a": "b"}
        assert (after["ip_range"], after["ip_version"]) == (["10.0.0.0/8"], 4)
        assert empty_parts(after) == []
        assert set(after) <= {*_arguments.VM}
    more = {"clone_from", "clone_mode", *clone["diff"]["after"]["cloud_init"]}
    assert set(clone["diff"]["after"]) <= set(made["diff"]["after"]) | more


def empty_parts(value, path=""):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in items:
        if item in (None, "", [], {}):
            found.append(f"{path}.{key}")
        elif isinstance(item, (dict, list)):
            found += empty_parts(item, f"{path}.{key}")
    return found


def test_a_diff_of_a_change_shows_an_option_that_becomes_empty(bench):
    bench.vm(description="old", cdrom="/a.iso")

    diff = bench.vm(description="", cdrom="", labels={"a": "1"})["diff"]

    for option, before, after in (
        ("description", "old", ""),
        ("cdrom", "/a.iso", ""),
        ("labels", {}, {"a": "1"}),
    ):
        assert (diff["before"][option], diff["after"][option]) == (before, after)
    assert diff["before"].keys() == diff["after"].keys()
    assert "kernel" not in diff["after"]


def test_a_new_machine_may_say_rerun_from_the_start(bench):
    wish = {"user": "admin", "rerun": True}

    bench.vm(cloud_init=wish)

    assert not bench.vm(cloud_init=wish)["changed"]
    assert bench.store.load("web1").spec.cloud_init.rerun is None


def test_a_backend_that_cannot_write_the_seed_again_says_so():
    wish = VmSpec("web1", cloud_init=CloudInit(user="other", rerun=True))

    with pytest.raises(VmError, match="not available on backend") as caught:
        checked_wish(wish, minimal_handle(), False)

    assert caught.value.details == {"option": "cloud_init.rerun"}


def test_instances_have_names_of_their_own():
    names = {instance_id(minimal_handle(instance=number)) for number in range(3)}

    assert len(names) == 3
    assert minimal_handle().id in names
