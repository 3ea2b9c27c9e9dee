# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another name for a machine: when it may get one, what its record says then, and a run that is cut off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils import _arguments, _manage
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.handle import dump
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.rename import renamed
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import Task
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import FULL_HANDLE


class Bench:
    """The module ``vm`` on the backend noop."""

    def __init__(self, folder):
        self.store = Store(str(folder))

    def vm(self, name="web1", check=False, **options):
        defaults = {key: item.get("default") for key, item in _arguments.VM.items()}
        given = {"name": name, "data_dir": self.store.data_dir, "backend": "noop", **options}
        return _manage.manage_vm(Task({**defaults, **given}, check))

    def refuse(self, *words, **options):
        before = self.files()
        with pytest.raises(VmError) as caught:
            self.vm(*words, **options)
        with pytest.raises(VmError) as predicted:
            self.vm(*words, **options, check=True)
        assert str(predicted.value) == str(caught.value)
        assert self.files() == before
        return caught.value

    def files(self):
        return {
            os.path.join(folder, name): os.stat(os.path.join(folder, name)).st_mtime_ns
            for folder, _folders, names in os.walk(self.store.folder)
            for name in names
            if not name.endswith(".lock")
        }


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_it_is_the_same_machine_under_another_name(bench):
    first = bench.vm(state="stopped", labels={"role": "db"})["vm"]
    predicted = bench.vm(new_name="db1", state="present", check=True)

    result = bench.vm(new_name="db1", state="present")
    again = bench.vm(new_name="db1", state="present")
    by_name = bench.vm("db1", state="present")

    assert result["actions"] == predicted["actions"] == ["rename"]
    assert result["diff"] == predicted["diff"]
    assert (result["diff"]["before"]["name"], result["diff"]["after"]["name"]) == ("web1", "db1")
    assert predicted["vm"] == result["vm"] == again["vm"] == by_name["vm"]
    assert not again["changed"]
    assert not by_name["changed"]
    assert bench.store.names() == ["db1"]
    kept = ("id", "networks", "labels", "state")
    assert {key: result["vm"][key] for key in kept} == {key: first[key] for key in kept}
    assert sorted(os.listdir(bench.store.folder)) == [".db1.lock", "db1"]


def test_other_options_change_with_it(bench):
    bench.vm(state="stopped")

    result = bench.vm(new_name="db1", state="started", vcpus=4)

    assert result["actions"] == ["rename", "prepare", "start"]
    assert (result["vm"]["name"], result["vm"]["vcpus"], result["vm"]["state"]) == (
        *("db1", 4),
        "running",
    )


def test_one_that_runs_is_not_renamed(bench):
    bench.vm()

    error = bench.refuse(new_name="db1")

    assert error.code == "vm_manager.vm.invalid_state"
    assert "apply=restart" in error.help


@pytest.mark.parametrize(
    ("options", "actions"),
    [
        ({"apply": "restart"}, ["stop", "rename", "start"]),
        ({"apply": "restart", "vcpus": 3}, ["stop", "rename", "prepare", "start"]),
        ({"state": "restarted"}, ["stop", "rename", "start"]),
        ({"state": "stopped"}, ["stop", "rename"]),
    ],
)
def test_one_that_runs_is_renamed_between_two_runs(bench, options, actions):
    bench.vm()

    predicted = bench.vm(new_name="db1", check=True, **options)
    result = bench.vm(new_name="db1", **options)

    assert predicted["actions"] == result["actions"] == actions
    assert predicted["diff"] == result["diff"]
    assert bench.store.names() == ["db1"]


def test_names_that_cannot_be_given(bench):
    assert "there is no VM 'web1' that could be renamed" in str(bench.refuse(new_name="db1"))

    bench.vm("db1", state="stopped")
    assert "has never had this name" in str(bench.refuse(new_name="db1"))

    bench.vm("web1", state="stopped")
    assert "there is a VM 'db1' already" in str(bench.refuse(new_name="db1"))
    assert bench.refuse(new_name="a/b").details == {"option": "new_name"}
    assert bench.refuse(new_name="db2", state="absent").details == {"option": "new_name"}
    assert not bench.vm(new_name="web1", state="stopped")["changed"]


def test_a_folder_of_somebody_else_is_not_taken(bench):
    bench.vm(state="stopped")
    os.mkdir(bench.store.work_dir("db1"))
    Path(bench.store.work_dir("db1"), "notes.txt").touch()

    with pytest.raises(VmError, match="is there already"):
        bench.vm(new_name="db1", state="stopped")

    assert bench.store.load("web1").renaming is None


class Cut(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("moment", ["before the folder moves", "after the folder has moved"])
def test_a_run_that_is_cut_off_is_finished_by_the_next(bench, monkeypatch, moment):
    first = bench.vm(state="stopped")["vm"]
    rename = os.rename

    def cut(old, new, **options):
        if not str(new).endswith("/db1"):
            return rename(old, new, **options)
        if moment.startswith("after"):
            rename(old, new)
        raise Cut

    monkeypatch.setattr(os, "rename", cut)
    with pytest.raises(Cut):
        bench.vm(new_name="db1", state="stopped")
    monkeypatch.undo()

    there = bench.store.names()
    assert there == (["db1"] if moment.startswith("after") else ["web1"])
    assert bench.store.load(there[0]).name == there[0]
    result = bench.vm(new_name="db1", state="stopped")

    assert bench.store.names() == ["db1"]
    assert result["vm"]["id"] == first["id"]
    assert bench.store.load("db1").renaming is None or not result["changed"]
    assert not bench.vm("db1", state="stopped")["changed"]


def test_a_copy_of_a_machine_whose_renaming_was_cut_off_is_still_a_copy(bench):
    bench.vm(state="stopped")
    handle = bench.store.load("web1")
    bench.store.save(handle.evolve(renaming="db1"))
    os.mkdir(bench.store.work_dir("db1"))
    with open(os.path.join(bench.store.work_dir("db1"), "vm.json"), "wb") as stream:
        stream.write(dump(handle.evolve(renaming="db1")))

    with pytest.raises(VmError, match="is that of another VM"):
        bench.store.load("db1")


def test_all_paths_of_the_record_follow_and_nothing_else_does():
    old = FULL_HANDLE.evolve(state=VmState.STOPPED)

    new = renamed(old, "db1", "/data/vms/db1")

    assert b"/data/vms/web1" not in dump(new)
    assert new.overlay_path == "/data/vms/db1/overlay.qcow2"
    assert (new.spec.name, new.booted.name, new.renamed_from) == ("db1", "db1", "web1")
    back = renamed(new, "web1", "/data/vms/web1")
    assert back == old.evolve(renaming=None, renamed_from="db1")
