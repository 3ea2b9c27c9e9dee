# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Linked clones on real QEMU: what is shared and what is not, who is removed first, and runs that are killed anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._arguments import VM
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.locks import is_held
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._manage import manage_vm
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import Task
from conftest import command_line, disk_size, in_guest, sha256, wait_until

MARKS = {"0x11": "512k", "0x22": "576k", "0x33": "640k", "0x44": "704k"}


def io(command, *words):
    return subprocess.run(
        [command, *map(str, words)], check=True, capture_output=True, text=True
    ).stdout


def write(disk, mark):
    """Write a mark to its own place on a disk that no process uses, as its guest would."""
    io("qemu-io", "-f", "qcow2", "-c", f"write -P {mark} {MARKS[mark]} 64k", disk)


def marks(disk):
    """Return the marks that a disk holds, read through the files that its headers name."""
    commands = [
        word for mark, place in MARKS.items() for word in ("-c", f"read -P {mark} {place} 64k")
    ]
    words = ["qemu-io", "-f", "qcow2", "-r", *commands, disk]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.stdout.count("read 65536/65536 bytes") == len(MARKS), done
    failed = re.findall(r"verification failed at offset (\d+)", done.stdout)
    return {mark for mark, place in MARKS.items() if str(1024 * int(place[:-1])) not in failed}


def chain(disk):
    """Return the files that a disk rests on, as the headers name them."""
    told = json.loads(io("qemu-img", "info", "-U", "--backing-chain", "--output=json", disk))
    return [item["filename"] for item in told]


class Bench:
    """Machines that boot nothing, and the module as Ansible calls it, without a process around it."""

    def __init__(self, subject):
        self.subject = subject
        self.layers_dir = subject.data_dir / "layers"

    def task(self, name, check=False, **options):
        image = {} if {"clone_from", "image"} & set(options) or self.exists(name) else self.defaults
        given = {"name": name, "data_dir": str(self.subject.data_dir), **image, **options}
        checked = ArgumentSpecValidator(VM).validate(given)
        assert not checked.error_messages, checked.error_messages
        task = Task(checked.validated_parameters, check)
        return json.loads(json.dumps({**manage_vm(task), "warnings": task.warnings}))

    def off(self, name, **options):
        """Make sure of a machine that is off; check mode says the same."""
        told = self.task(name, check=True, state="stopped", force=True, **options)
        real = self.task(name, state="stopped", force=True, **options)
        for key in ("changed", "actions", "diff", "warnings"):
            assert told[key] == real[key], key
        return real

    def link(self, name, source="vm1", **options):
        return self.off(name, clone_from=source, clone_mode="linked", **options)["vm"]

    def remove(self, *names):
        for name in names:
            assert self.task(name, state="absent", force=True)["warnings"] == []

    @property
    def defaults(self):
        return {"networks": [], **self.subject.defaults}

    def exists(self, name):
        return self.subject.record(name).exists()

    def record(self, name):
        return json.loads(self.subject.record(name).read_text())

    def disk(self, name, number=0):
        record = self.record(name)
        paths = [record["overlay_path"], *(row["path"] for row in record["disks"].values())]
        return paths[number]

    def layers(self):
        """Return the names of the layers, all of them read-only."""
        if not self.layers_dir.exists():
            return []
        assert self.layers_dir.stat().st_mode & 0o777 == 0o700
        for path in self.layers_dir.iterdir():
            assert path.stat().st_mode & 0o777 == 0o400
            assert path.stat().st_nlink == 1
        return sorted(path.name for path in self.layers_dir.iterdir())

    def assert_whole(self, name):
        """What a record says of a machine's disks is what the files say of themselves."""
        record = self.record(name)
        system = {
            "path": record["overlay_path"],
            "layers": record["layers"],
            "base_image": record["base_image"],
        }
        for disk in (system, *record["disks"].values()):
            base = [disk["base_image"]] if disk["base_image"] else []
            assert chain(disk["path"]) == [disk["path"], *disk["layers"], *base]


@pytest.fixture
def bench(idle):
    bench = Bench(idle)
    yield bench
    for name in [vm["name"] for vm in idle.info()]:
        bench.task(name, state="absent", force=True)
    assert bench.layers() == []


DATA = [{"name": "data", "size": "1MiB"}]


def test_what_was_written_before_is_shared_and_what_is_written_after_is_not(bench):
    bench.off("vm1", disks=DATA)
    for number in range(2):
        write(bench.disk("vm1", number), "0x11")
    before = [bench.disk("vm1", number) for number in range(2)]

    bench.link("vm2", disk_size="2MiB")
    shared = {name: sha256(bench.layers_dir / name) for name in bench.layers()}
    for number in range(2):
        write(bench.disk("vm1", number), "0x22")
        write(bench.disk("vm2", number), "0x33")

    for number in range(2):
        assert marks(bench.disk("vm1", number)) == {"0x11", "0x22"}
        assert marks(bench.disk("vm2", number)) == {"0x11", "0x33"}
        assert not os.path.exists(before[number])
    assert len(shared) == 2
    assert {name: sha256(bench.layers_dir / name) for name in bench.layers()} == shared
    assert disk_size(bench.disk("vm2")) == 2 << 20
    for name in ("vm1", "vm2"):
        bench.assert_whole(name)
        vm = bench.task(name, state="started")["vm"]
        said = command_line(vm["pid"])
        for disk in vm["disks"]:
            assert len(disk["layers"]) == 1
            node = {"driver": "file", "filename": disk["layers"][0], "read-only": True}
            assert json.dumps(node, separators=(",", ":")) in said
    assert not bench.task("vm2", clone_from="vm1", clone_mode="linked")["changed"]


def test_an_old_record_costs_no_disk_that_rests_on_layers(bench):
    """A record from before there was a disk: neither what it holds nor what it rests on goes."""
    bench.off("vm1")
    before = bench.record("vm1")
    bench.off("vm1", disks=DATA)
    write(bench.disk("vm1", 1), "0x11")
    bench.link("vm2", disks=DATA)
    disk, whole = bench.disk("vm1", 1), bench.record("vm1")
    write(disk, "0x22")
    bench.subject.record("vm1").write_text(json.dumps(before))

    bench.link("vm3")
    with pytest.raises(VmError, match=f"{os.path.basename(disk)} is there already"):
        bench.off("vm1", disks=DATA)
    warnings = [bench.task(name, state="absent")["warnings"] for name in ("vm2", "vm3")]

    assert marks(disk) == {"0x11", "0x22"}
    assert warnings == [[], []]
    assert len(bench.layers()) == 1
    bench.subject.record("vm1").write_text(json.dumps(whole))
    bench.remove("vm1")
    assert bench.layers() == []


def test_a_linked_clone_is_somebody_else(bench):
    first = bench.off("vm1", networks=[{"type": "user"}])["vm"]
    write(bench.disk("vm1"), "0x11")

    clone = bench.link("vm2")

    records = [bench.record(name) for name in ("vm1", "vm2")]
    assert first["id"] != clone["id"]
    assert first["networks"][0]["mac"] != clone["networks"][0]["mac"]
    assert first["ssh"]["port"] != clone["ssh"]["port"]
    assert records[0]["generation"] != records[1]["generation"]
    keys = [(bench.subject.folder(name) / "id_ed25519.pub").read_text() for name in ("vm1", "vm2")]
    assert keys[0] != keys[1]


def test_ten_clones_of_one_machine_share_one_layer(bench):
    bench.off("vm1")
    write(bench.disk("vm1"), "0x11")

    for number in range(10):
        bench.link(f"clone{number}")
        write(bench.disk(f"clone{number}"), "0x22")

    assert len(bench.layers()) == 1
    assert len(chain(bench.disk("vm1"))) == len(chain(bench.disk("clone9"))) == 3
    for number in range(10):
        assert marks(bench.disk(f"clone{number}")) == {"0x11", "0x22"}


def test_a_machine_that_holds_nothing_needs_no_layer(bench):
    bench.off("vm1", disks=DATA)

    bench.link("vm2")

    assert bench.layers() == []
    assert chain(bench.disk("vm2"))[1:] == [bench.defaults["image"]]
    assert chain(bench.disk("vm2", 1))[1:] == []
    bench.assert_whole("vm2")


def test_a_chain_grows_with_each_change_and_a_full_clone_rests_on_no_layer(bench):
    bench.off("vm1")
    for turn, mark in enumerate(MARKS):
        write(bench.disk("vm1"), mark)
        bench.off("vm1", disk_size=f"{turn + 2}MiB")
        bench.link(f"clone{turn}")
        if turn == 2:  # what was given back must not come back
            io("qemu-io", "-f", "qcow2", "-c", f"discard {MARKS['0x11']} 64k", bench.disk("vm1"))
    bench.link("grandchild", "clone3", disk_size="9MiB")

    bench.off("flat", clone_from="grandchild")
    bench.off("flat1", clone_from="vm1", clone_mode="full")

    assert len(bench.record("vm1")["layers"]) == 4
    for name, flat in (("grandchild", "flat"), ("vm1", "flat1")):
        disks = (bench.disk(name), bench.disk(flat))
        assert "identical" in io("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", *disks)
        assert chain(disks[1]) == [disks[1], bench.defaults["image"]]
        assert bench.record(flat)["layers"] == []
        assert marks(disks[1]) == {"0x22", "0x33", "0x44"}
    assert marks(bench.disk("clone0")) == {"0x11"}
    assert not [name for name in bench.subject.files() if ".part" in name]
    bench.remove("vm1", "grandchild", "clone3")
    for name in ("clone0", "clone1", "clone2", "flat"):
        bench.assert_whole(name)
    assert len(bench.layers()) == 3
    bench.remove("clone2")
    assert len(bench.layers()) == 2


def test_a_full_clone_of_a_disk_without_an_image_holds_what_its_layers_hold(bench):
    bench.off("vm1", disks=DATA)
    write(bench.disk("vm1", 1), "0x11")
    bench.link("vm2")
    write(bench.disk("vm2", 1), "0x22")

    bench.off("vm3", clone_from="vm2")

    assert marks(bench.disk("vm3", 1)) == {"0x11", "0x22"}
    assert chain(bench.disk("vm3", 1)) == [bench.disk("vm3", 1)]


@pytest.mark.parametrize("first", ["vm1", "vm2"])
def test_either_may_be_removed_first(bench, first):
    other = {"vm1": "vm2", "vm2": "vm1"}[first]
    bench.off("vm1", disks=DATA)
    write(bench.disk("vm1"), "0x11")
    write(bench.disk("vm1", 1), "0x22")
    bench.link("vm2")

    bench.remove(first)

    assert len(bench.layers()) == 2
    assert marks(bench.disk(other)) == {"0x11"}
    assert bench.task(other, state="started")["vm"]["pid"]
    bench.off(other)
    bench.task(
        other, state="stopped", disks=[], unlisted_disks="detach", delete_detached_disks=True
    )
    assert len(bench.layers()) == 1
    bench.remove(other)
    assert bench.subject.files() == []


def test_what_a_disk_rests_on_stays_while_the_record_cannot_be_read(bench):
    bench.off("vm1")
    write(bench.disk("vm1"), "0x11")
    bench.link("vm2")
    record = bench.subject.record("vm2")
    whole = record.read_text()
    record.write_text("{")

    warnings = bench.task("vm1", state="absent")["warnings"]

    assert (len(bench.layers()), warnings) == (1, [])
    record.write_text(whole)
    assert marks(bench.disk("vm2")) == {"0x11"}


def test_an_image_stays_as_long_as_a_layer_rests_on_it(bench):
    shutil.copy(bench.defaults["image"], bench.subject.data_dir.parent / "other.raw")
    url = f"file://{bench.subject.data_dir.parent}/other.raw"
    bench.off("vm1", image=url)
    write(bench.disk("vm1"), "0x11")
    bench.link("vm2")
    bench.remove("vm1")

    result = bench.subject.run("vm_image", image=url, state="absent")

    assert result["error"]["details"]["used_by"] == ["vm2"]
    assert not bench.subject.run("vm_image", state="pruned")["changed"]
    bench.assert_whole("vm2")
    bench.remove("vm2")
    assert bench.subject.run("vm_image", state="pruned")["changed"]


def test_an_image_under_a_further_disk_counts_through_layers_too(bench):
    url = f"file://{bench.subject.data_dir.parent}/data.raw"
    shutil.copy(bench.defaults["image"], url.removeprefix("file://"))
    path = bench.subject.run("vm_image", image=url)["image"]["path"]
    bench.off("vm1", disks=[{"name": "data", "image": path, "size": "2MiB"}])
    write(bench.disk("vm1", 1), "0x11")

    for name, removed in (("vm1", None), ("vm2", "vm1")):
        if removed:
            bench.link(name, removed)
            assert len(bench.record(name)["disks"]["data"]["layers"]) == 1
            bench.remove(removed)
        bench.assert_whole(name)
        refused = bench.subject.run("vm_image", image=url, state="absent")
        assert refused["error"]["details"]["used_by"] == [name]
        assert not bench.subject.run("vm_image", state="pruned")["changed"]

    assert marks(bench.disk("vm2", 1)) == {"0x11"}


@pytest.mark.parametrize("mark", [None, "0x11"])
def test_a_disk_that_somebody_else_made_larger_is_not_cut_off(bench, mark):
    bench.off("vm1")
    if mark:
        write(bench.disk("vm1"), mark)
    io("qemu-img", "resize", "-f", "qcow2", bench.disk("vm1"), "3M")

    bench.link("vm2")

    assert disk_size(bench.disk("vm1")) == disk_size(bench.disk("vm2")) == 3 << 20


def test_another_name_for_either(bench):
    bench.off("vm1")
    write(bench.disk("vm1"), "0x11")
    bench.link("vm2")

    bench.off("vm1", new_name="golden")
    bench.off("vm2", new_name="web2")

    for name in ("golden", "web2"):
        bench.assert_whole(name)
        assert marks(bench.disk(name)) == {"0x11"}
    bench.link("web3", "golden")
    assert len(bench.layers()) == 1


def test_a_record_that_was_lost_leaves_its_disk_and_layers_alone(bench):
    bench.off("vm1")
    write(bench.disk("vm1"), "0x11")
    bench.link("vm2")
    whole, disk = bench.subject.record("vm1").read_text(), bench.disk("vm1")
    bench.subject.record("vm1").unlink()

    error = bench.subject.refuse("vm1", **bench.subject.defaults)["error"]
    bench.task("vm2", state="absent")

    assert (error["code"], error["details"]["path"]) == ("vm_manager.vm.bad_record", disk)
    assert len(bench.layers()) == 1
    bench.subject.record("vm1").write_text(whole)
    assert marks(bench.disk("vm1")) == {"0x11"}


def refusal(bench, check, **options):
    with pytest.raises(VmError) as caught:
        bench.task("vm2", check=check, clone_from="vm1", clone_mode="linked", **options)
    return caught.value


@pytest.mark.parametrize("check", [True, False])
def test_snapshots_in_the_disk_would_be_out_of_reach(bench, check):
    bench.off("vm1")
    write(bench.disk("vm1"), "0x11")
    io("qemu-img", "snapshot", "-c", "before", bench.disk("vm1"))

    error = refusal(bench, check)

    assert "internal snapshots" in error.message
    assert (error.help, bench.layers(), bench.exists("vm2")) == ("Use clone_mode: full.", [], False)
    bench.off("vm2", clone_from="vm1")
    assert marks(bench.disk("vm2")) == {"0x11"}


def test_a_disk_that_another_program_has_open_is_not_frozen(bench):
    bench.off("vm1")
    disk = bench.disk("vm1")
    write(disk, "0x11")
    with subprocess.Popen(["qemu-io", "-f", "qcow2", disk], stdin=subprocess.PIPE) as other:
        wait_until(lambda: is_held(disk))

        error = refusal(bench, check=False)
        other.communicate()

    assert (error.code, disk in error.message) == ("vm_manager.vm.invalid_state", True)
    assert (bench.layers(), bench.exists("vm2"), bench.disk("vm1")) == ([], False, disk)
    bench.link("vm2")


def test_there_is_an_end_to_layers_on_layers(bench, monkeypatch):
    from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import freezing

    monkeypatch.setattr(freezing, "MOST_LAYERS", 1)
    bench.off("vm1")
    write(bench.disk("vm1"), "0x11")
    bench.link("vm3")
    bench.link("vm4")
    write(bench.disk("vm1"), "0x22")

    errors = [refusal(bench, check) for check in (True, False)]

    assert "rests on 1 layers" in errors[0].message
    assert errors[0].message == errors[1].message
    assert len(bench.layers()) == 1


def test_a_layer_that_somebody_has_deleted_is_named(bench):
    bench.off("vm1")
    write(bench.disk("vm1"), "0x11")
    bench.link("vm2")
    (bench.layers_dir / bench.layers()[0]).unlink()

    for check in (True, False):
        with pytest.raises(VmError, match="which a disk of 'vm2' rests on, is gone"):
            bench.task("vm2", check=check, state="started")


def test_two_clones_a_start_and_a_removal_at_the_same_moment(bench):
    """Each waits for those that work on the same machine. Whatever comes first, all disks rest on what records say."""
    subject = bench.subject
    bench.off("vm1", disks=DATA)
    write(bench.disk("vm1"), "0x11")
    link = {"state": "stopped", "clone_from": "vm1", "clone_mode": "linked"}

    tasks = [subject.begin("vm", name=f"vm{number}", **link) for number in (2, 3)]
    tasks.append(subject.begin("vm", name="vm4", state="stopped", clone_from="vm1"))
    tasks.append(
        subject.begin("vm", name="vm1", state="stopped", disks=[{**DATA[0], "size": "2MiB"}])
    )
    results = [subject.end(task) for task in tasks]

    assert [result.get("msg") for result in results] == [None] * 4
    assert len(bench.layers()) == 1
    for name in ("vm1", "vm2", "vm3", "vm4"):
        bench.assert_whole(name)
        assert marks(bench.disk(name)) == {"0x11"}

    write(bench.disk("vm1"), "0x22")
    tasks = [subject.begin("vm", name=f"vm{number}", **link) for number in (5, 6)]
    tasks += [subject.begin("vm", name=name, state="started") for name in ("vm1", "vm2")]
    tasks += [subject.begin("vm", name="vm3", state="absent")]
    results = [subject.end(task) for task in tasks]

    assert [result.get("msg") for result in results[2:]] == [None] * 3
    codes = {result["error"]["code"] for result in results[:2] if "error" in result}
    assert codes <= {"vm_manager.vm.invalid_state"}
    bench.off("vm1")
    for number in (5, 6):
        bench.link(f"vm{number}")
        assert marks(bench.disk(f"vm{number}")) == {"0x11", "0x22"}
    for vm in subject.info():
        bench.assert_whole(vm["name"])


# What changes a folder, and programs that write files: a run is killed right before each of them in turn.
EVENTS = {"os.link", "os.rename", "os.remove", "os.chmod", "os.mkdir", "subprocess.Popen"}


def killed(number, act):
    """Do something in a process that is killed before its event of this number; tell whether it came so far."""
    child = os.fork()
    if child == 0:
        seen = [0]

        def hook(event, arguments):
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
            if event in EVENTS or writes:
                seen[0] += 1
                if seen[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def goes_on(bench, options):
    """The guest writes before there is another task."""
    write(bench.disk("vm1"), "0x22")
    is_finished(bench, options, {"0x11", "0x22"})


def is_given_up(bench, options):
    bench.remove("vm2", "vm1")


def is_finished(bench, options, written=frozenset({"0x11"})):
    """The next run ends as the first one would have, and the machines are two."""
    bench.task("vm2", **options)
    for name in ("vm1", "vm2"):
        assert marks(bench.disk(name)) >= {"0x11"}
        assert marks(bench.disk(name, 1)) == {"0x11"}
    assert marks(bench.disk("vm1")) == written
    write(bench.disk("vm2"), "0x33")
    assert marks(bench.disk("vm1")) == written
    bench.link("vm3")
    for name in ("vm1", "vm2", "vm3"):
        bench.assert_whole(name)
    bench.layers()
    bench.remove("vm1", "vm3", "vm2")


@pytest.mark.parametrize("what_follows", [goes_on, is_given_up, is_finished])
def test_a_run_that_is_killed_anywhere_leaves_records_that_are_true(bench, what_follows):
    """After each kill: the other machine holds what it held, a later task finishes, and nothing too much is left."""
    subject = bench.subject
    bench.off("vm1", disks=DATA)
    for number in range(2):
        write(bench.disk("vm1", number), "0x11")
    kept = subject.data_dir.parent / "kept"
    shutil.copytree(subject.data_dir, kept)
    key = {"ssh_authorized_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJkg me@example.org"]}
    options = {"clone_from": "vm1", "clone_mode": "linked", "state": "stopped", "cloud_init": key}

    moment, linked = 1, []
    while killed(moment, lambda: bench.task("vm2", **options)):
        moment += 1
        if bench.layers_dir.exists():
            linked.append(len(list(bench.layers_dir.iterdir())))
            for number in range(2):
                assert marks(bench.disk("vm1", number)) == {"0x11"}
            bench.assert_whole("vm1")
            if bench.exists("vm2") and bench.record("vm2")["state"] == "prepared":
                bench.assert_whole("vm2")
            what_follows(bench, options)
            # A folder that has no record yet is nobody's, and may hold the beginnings of one.
            assert [file for file in subject.files() if "qcow2" in file] == [], moment
        else:  # the disks are as they were
            assert bench.disk("vm1") == str(subject.folder("vm1") / "overlay.qcow2")
        shutil.rmtree(subject.data_dir)
        shutil.copytree(kept, subject.data_dir)
    shutil.rmtree(kept)
    print(f"killed at {moment - 1} moments, {len(linked)} of them with layers")
    assert set(linked) == {0, 1, 2}
    assert len(linked) > 15


def test_a_removal_that_is_killed_anywhere_is_finished(bench):
    subject = bench.subject
    moment, more = 1, True
    while more:
        bench.off("vm1")
        write(bench.disk("vm1"), "0x11")
        bench.link("vm2")
        bench.remove("vm1")
        more = killed(moment, lambda: bench.task("vm2", state="absent"))
        if not bench.exists("vm2"):
            assert len(os.listdir(bench.layers_dir)) <= 1
        else:
            bench.assert_whole("vm2")
        bench.remove("vm2")
        assert subject.files() == [], moment
        moment += 1
    assert moment > 4


def test_guests_see_what_was_there_and_not_what_the_other_writes(guests):
    """A guest writes a mark; a linked clone of its machine sees it. Then both write, and run at the same time."""
    guests.vm(wait_for="ssh")
    first = guests.info("vm1")[0]
    in_guest(first, "echo before > mark; sync")
    guests.vm(state="stopped")
    begun = time.monotonic()
    made = guests.run("vm", name="vm2", state="stopped", clone_from="vm1", clone_mode="linked")
    took = time.monotonic() - begun
    assert "failed" not in made, made

    vms = {name: guests.vm(name, wait_for="ssh")["vm"] for name in ("vm1", "vm2")}

    print(f"a linked clone took {took:.2f} s")
    for name, vm in vms.items():
        assert in_guest(vm, "cat mark") == "before\n"
        in_guest(vm, f"echo {name} > own; echo {name} >> mark; sync")
    guests.vm("vm1", state="absent", force=True)
    vm = guests.vm("vm2", state="restarted", wait_for="ssh")["vm"]
    assert in_guest(vm, "cat own mark") == "vm2\nbefore\nvm2\n"
    assert in_guest(vm, "hostname") != in_guest(vm, "echo vm1")
    guests.vm("vm2", state="absent", force=True)
    assert guests.files() == []
