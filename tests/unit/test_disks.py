# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks as tasks ask for them, and their files."""

from __future__ import annotations

import os
import struct
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import (
    MAX_DISKS,
    SYSTEM_DISK,
    Disk,
    DiskRecord,
    adopted,
    check_disk_changes,
    check_together,
    disks_from_params,
    merged,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import adoption
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.inspect import Image
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import disk_files
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle

GIB = 1024**3


def test_a_disk_is_read_as_it_is_given():
    item = {"name": "data", "size": "20GiB", "bus": "nvme", "cache": "none", "iops": 100}

    assert disks_from_params(None) is None
    assert disks_from_params([]) == ()
    assert disks_from_params([item, {"name": "x", "size": "5"}]) == (
        Disk("data", size=20 * GIB, bus="nvme", cache="none", iops=100),
        Disk("x", size=5 * GIB),
    )


WRONG = {
    "a name with capitals": ([{"name": "Data"}], "disks[0].name"),
    "a name that leads elsewhere": ([{"name": "../x"}], "disks[0].name"),
    "a long name": ([{"name": "a" * 16}], "disks[0].name"),
    "the same name": ([{"name": "a"}, {"name": "a"}], "disks[1].name"),
    "a size of nothing": ([{"name": "a", "size": "0"}], "disks[0].size"),
    "an odd size": ([{"name": "a", "size": "1000B"}], "disks[0].size"),
    "a size that no disk has": ([{"name": "a", "size": "999999TiB"}], "disks[0].size"),
    "a size in no unit": ([{"name": "a", "size": "10 apples"}], "disks[0].size"),
    "a serial with a space": ([{"name": "a", "serial": "a b"}], "disks[0].serial"),
    "a long serial": ([{"name": "a", "serial": "a" * 21}], "disks[0].serial"),
    "a negative limit": ([{"name": "a", "iops": -1}], "disks[0].iops"),
    "a negative place": ([{"name": "a"}, {"name": "b", "boot_index": -2}], "disks[1].boot_index"),
    "raw over an image": ([{"name": "a", "format": "raw", "image": "/x"}], "disks[0].format"),
    "a size of disk0": ([{"name": SYSTEM_DISK, "size": "1GiB"}], "disks[0].size"),
    "an image of disk0": ([{"name": SYSTEM_DISK, "image": "/x"}], "disks[0].image"),
    "another format of disk0": ([{"name": SYSTEM_DISK, "format": "raw"}], "disks[0].format"),
    "disk0 not to be written": ([{"name": SYSTEM_DISK, "readonly": True}], "disks[0].readonly"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_sense_is_named(case):
    items, option = WRONG[case]

    with pytest.raises(VmError) as caught:
        disks_from_params(items)

    assert caught.value.details == {"option": option}
    assert caught.value.message.startswith(f"{option}: ")


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"name": "Data"}, "1 to 15"),
        ({"name": "a", "serial": "a b"}, "1 to 20"),
        ({"name": "a", "size": "10 apples"}, "20GiB"),
    ],
)
def test_the_rule_that_was_broken_is_told(item, words):
    with pytest.raises(VmError) as caught:
        disks_from_params([item])

    assert words in caught.value.help


def plain(name, **options):
    return Disk(name, **options).completed()


TOGETHER = {
    "too many": ([plain(f"d{n}") for n in range(MAX_DISKS + 1)], "disks"),
    "too many on sata": ([plain(f"d{n}", bus="sata") for n in range(6)], "disks"),
    "a serial twice": ([plain("a", serial="1"), plain("b", serial="1")], "disks[1].serial"),
    "a place twice": ([plain("a", boot_index=2), plain("b", boot_index=2)], "disks[1].boot_index"),
    "one on sata that is only read": (
        *([plain("a"), plain("b", bus="sata", readonly=True)], "disks[1].readonly"),
    ),
    "native without none": ([plain("a"), plain("b", aio="native")], "disks[1].aio"),
    "all and some of iops": ([plain("a", iops=1, iops_read=1)], "disks[0].iops"),
    "all and some of bps": ([plain("a", bps=1, bps_write=1)], "disks[0].bps"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_disks_that_do_not_go_together_are_named_by_their_place_in_the_task(case):
    disks, option = TOGETHER[case]

    with pytest.raises(VmError) as caught:
        check_together(disks, disks)
    assert caught.value.details == {"option": option}

    with pytest.raises(VmError) as caught:  # the other is from an earlier task
        check_together(disks, disks[-1:])
    assert caught.value.details["option"].startswith(option.replace("disks[1]", "disks[0]"))


def test_disks_that_go_together():
    every = [plain(f"d{n}", serial=f"S{n}", boot_index=n) for n in range(MAX_DISKS)]

    check_together([plain(SYSTEM_DISK), *every], [])
    check_together([plain("a", aio="native", cache="none", iops_read=1, iops_write=1)], [])


@pytest.mark.parametrize(
    ("option", "value", "none"),
    [("serial", "A", ""), ("boot_index", 0, -1), ("iops", 5, 0), ("bps_read", 5, 0)],
)
def test_what_is_taken_back_is_as_if_it_had_never_been_given(option, value, none):
    given, back = (disks_from_params([{"name": "a", option: word}]) for word in (value, none))
    old = given[0].completed()
    assert getattr(old, option) == value

    assert merged(back, [old])[0].completed() == back[0].completed() == plain("a")


def test_what_is_not_listed_stays_and_what_is_left_out_keeps_its_value():
    base = (plain("a", size=GIB, cache="none"), plain("b"))
    wish = (Disk("c"), Disk("a", size=2 * GIB))

    assert merged(wish, base) == (plain("a", size=2 * GIB, cache="none"), plain("b"), Disk("c"))
    assert merged(None, base) == base
    assert merged(wish, None) == wish


MADE = {
    "old": DiskRecord("/x", "qcow2", 5 * GIB, "/base", "raw"),
    "gone": DiskRecord("/y", "raw", GIB),
}
SIZES = {"old": 5 * GIB, "gone": GIB}
OLD = (plain("old", image="/base"),)


@pytest.mark.parametrize(
    ("wish", "option"),
    [
        (Disk("old"), None),
        (Disk("old", size=5 * GIB, image="/base", format="qcow2"), None),
        (Disk("old", size=6 * GIB), None),
        (Disk("new", size=1), None),
        (Disk("gone", size=GIB), None),
        (Disk("old", size=5 * GIB - 512), "disks[0].size"),
        (Disk("old", image="/other"), "disks[0].image"),
        (Disk("old", format="raw"), "disks[0].format"),
        (Disk("gone", size=512), "disks[0].size"),
        (Disk("gone", image="/other"), "disks[0].image"),
        (Disk("gone", format="qcow2"), "disks[0].format"),
    ],
)
def test_a_disk_that_was_made_stays_what_it_is_and_never_shrinks(wish, option):
    if option is None:
        check_disk_changes("web1", [wish], OLD, MADE, SIZES)
        return

    with pytest.raises(VmError, match="'web1'") as caught:
        check_disk_changes("web1", [wish], OLD, MADE, SIZES)

    assert caught.value.details == {"option": option}


def test_a_disk_that_was_detached_is_taken_up_as_it_was_made():
    assert adopted(Disk("gone", cache="none"), MADE["gone"]) == Disk(
        "gone", format="raw", cache="none"
    )
    assert adopted(Disk("new"), None) == Disk("new")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A machine, and files of as many bytes as the disks would have."""

    def create(path, form, size):
        with open(path, "wb") as file:
            file.truncate(size)

    monkeypatch.setattr(disk_files, "create_disk", create)
    monkeypatch.setattr(
        disk_files, "create_overlay", lambda path, image, size: create(path, "qcow2", size)
    )
    monkeypatch.setattr(disk_files, "grow_disk_file", create)
    monkeypatch.setattr(disk_files, "inspect_image", lambda path, form: Image(path, "raw", 4096))
    store = Store(str(tmp_path / "data"))
    handle = minimal_handle().evolve(work_dir=store.work_dir("web1"))
    return store, store.save(handle)


def with_disks(vm, *disks):
    return vm.evolve(spec=type(vm.spec)("web1", disks=disks).over(vm.spec))


def test_files_are_made_once_and_grow(files):
    store, vm = files
    vm = with_disks(vm, plain(SYSTEM_DISK), plain("a", size=512), plain("b", image="/base"))

    vm = disk_files.grow_disks(vm, store)  # a task that was cut off has not made them
    first = {name: os.stat(record.path) for name, record in vm.disks.items()}
    vm = disk_files.grow_disks(with_disks(vm, plain("a", size=1024)), store)

    assert {name: found.st_size for name, found in first.items()} == {"a": 512, "b": 4096}
    assert vm.disks["b"] == DiskRecord(f"{vm.work_dir}/disk-b.qcow2", "qcow2", 4096, "/base", "raw")
    assert os.stat(vm.disks["a"].path).st_size == vm.disks["a"].size == 1024
    assert os.stat(vm.disks["b"].path).st_ino == first["b"].st_ino
    assert store.load("web1") == vm


def test_only_what_is_named_is_deleted(files):
    store, vm = files
    vm = disk_files.make_disks(with_disks(vm, plain("a", size=512), plain("b", size=512)), store)
    os.unlink(vm.disks["b"].path)

    after = disk_files.discard_disks(vm, ("b",), store)

    assert list(after.disks) == ["a"]
    assert os.path.exists(after.disks["a"].path)
    assert disk_files.discard_disks(after, ("a",), store).disks == {}
    assert not os.path.exists(after.disks["a"].path)


CHECKED = {
    "a disk of no size": (plain("a"), "disks (a).size"),
    "a size that no raw file has": (
        *(plain("a", size=16 * 1024 * GIB, format="raw"), "disks (a).size"),
    ),
    "a size below the image's": (plain("a", size=512, image="/base"), "disks (a).size"),
    "an image from elsewhere": (plain("a", image="https://x/y"), "disks (a).image"),
}


@pytest.mark.parametrize("case", CHECKED)
def test_what_cannot_be_made_is_found_before_anything_is(files, case):
    dummy_store, vm = files
    disk, option = CHECKED[case]

    with pytest.raises(VmError) as caught:
        disk_files.check_disks(with_disks(vm, disk).spec, vm)

    assert caught.value.details["option"] == option


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_a_file_that_is_larger_than_recorded_is_not_to_become_smaller(files, monkeypatch, form):
    """Somebody has made it larger, or a task was killed between the deed and the record."""
    store, vm = files
    monkeypatch.setattr(disk_files, "create_disk", lambda path, form, size: None)
    vm = disk_files.make_disks(with_disks(vm, plain("a", size=GIB, format=form)), store)
    system = f"{vm.work_dir}/overlay.qcow2"
    vm = vm.evolve(overlay_path=system, disk_bytes=GIB)
    for path, kind in ((vm.disks["a"].path, form), (system, "qcow2")):
        with open(path, "wb") as file:
            if kind == "raw":
                file.truncate(4 * GIB)
            else:
                file.write(struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 0, 0, 16, 4 * GIB).ljust(512))

    for size, has in ((1, None), (2, "4GiB"), (3, "4GiB"), (4, None), (5, None)):
        data = with_disks(vm, plain("a", size=size * GIB)).spec
        first = replace(with_disks(vm, plain("a", size=GIB)).spec, disk_size=size * GIB)
        for spec, option in ((data, "disks (a).size"), (first, "disk_size")):
            if has is None:
                disk_files.check_disks(spec, vm)
                continue
            with pytest.raises(VmError, match=f"{size}GiB is smaller .* has {has}") as caught:
                disk_files.check_disks(spec, vm)
            assert caught.value.details == {"option": option}


def test_a_raw_file_does_not_grow_beyond_what_a_file_takes(files, monkeypatch):
    store, vm = files
    monkeypatch.setattr(disk_files, "create_disk", lambda path, form, size: open(path, "w").close())
    vm = disk_files.make_disks(with_disks(vm, plain("a", size=GIB, format="raw")), store)

    for size in (16 * 1024 * GIB - 512, 16 * 1024 * GIB):
        spec = with_disks(vm, plain("a", size=size, format="raw")).spec
        if size % GIB:
            disk_files.check_disks(spec, vm)
            continue
        with pytest.raises(VmError, match=r"a raw file .* less than 16TiB"):
            disk_files.check_disks(spec, vm)


def test_a_disk_whose_file_is_gone_is_not_made_anew(files):
    store, vm = files
    vm = disk_files.make_disks(with_disks(vm, plain("a", size=512)), store)
    os.unlink(vm.disks["a"].path)

    with pytest.raises(VmError, match="is gone") as caught:
        disk_files.check_disks(vm.spec, vm)

    assert caught.value.code == "vm_manager.vm.bad_record"


def qcow2(size=1 << 20, below=b"", form=b"raw", table=b"\1", **more):
    """Return a disk of the smallest kind, as QEMU's format page says; a guest wrote to it unless its table is empty."""
    extension = struct.pack(">II", 0xE2792ACA, len(form)) + form.ljust(8, b"\0") if below else b""
    place = 512 - len(below) if below else 0
    fixed = struct.pack(
        *(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, place, len(below), 9, size, more.get("encryption", 0)),
        *(64, 512, 1024, 1, 0, 0),
    )
    head = fixed + struct.pack(">QQQII", more.get("features", 0), 0, 0, 4, 104) + extension
    return (head.ljust(512, b"\0")[: place or 512] + below + table).ljust(2048, b"\0")


MIB = 1 << 20
# What is asked for, what is there under which name, and why it is not taken.
THERE = {
    "what would be made": (plain("a", size=MIB), "disk-a.qcow2", qcow2(), None),
    "over the image": (plain("a", image="/b"), "disk-a.qcow2", qcow2(4096, b"/b"), None),
    "raw": (plain("a", size=4096, format="raw"), "disk-a.raw", b"x" * 4096, None),
    "an empty one over a layer that is gone": (
        *(plain("a", size=MIB), "disk-a.0123456789abcdef.qcow2", qcow2(table=b"")),
        None,
    ),
    "one of another disk": (plain("a", size=MIB), "disk-a-b.qcow2", b"", None),
    "smaller": (plain("a", size=2 * MIB), "disk-a.qcow2", qcow2(), "it has 1MiB, not 2MiB"),
    "larger": (plain("a", size=MIB), "disk-a.qcow2", qcow2(2 * MIB), "it has 2MiB, not 1MiB"),
    "a raw one that is larger": (
        *(plain("a", size=512, format="raw"), "disk-a.raw", b"x" * 1024),
        "it has 1KiB, not 512B",
    ),
    "over no image": (plain("a", image="/b"), "disk-a.qcow2", qcow2(4096), "rests on no other"),
    "over an image": (plain("a", size=MIB), "disk-a.qcow2", qcow2(below=b"/b"), "rests on /b"),
    "over another": (plain("a", image="/b"), "disk-a.qcow2", qcow2(4096, b"/c"), "rests on /c"),
    "over it as another format": (
        *(plain("a", image="/b"), "disk-a.qcow2", qcow2(4096, b"/b", b"qcow2")),
        "it takes /b for another format",
    ),
    "encrypted": (plain("a", size=MIB), "disk-a.qcow2", qcow2(encryption=2), "encrypted"),
    "with data elsewhere": (
        plain("a", size=MIB),
        "disk-a.qcow2",
        qcow2(features=4),
        "another file",
    ),
    "no qcow2": (plain("a", size=MIB), "disk-a.qcow2", b"x" * 512, "cannot be read as qcow2"),
    "cut off": (plain("a", size=MIB), "disk-a.qcow2", qcow2()[:600], "it is cut off"),
    "larger, and the guest wrote to it": (
        *(plain("a", image="/b"), "disk-a.qcow2", qcow2(2 * MIB, b"/b")),
        "it has 2MiB, not 4KiB",
    ),
    "in another format": (
        *(plain("a", size=MIB), "disk-a.raw", b"x" * 512),
        "it is called otherwise than",
    ),
    "over a layer": (
        *(plain("a", size=MIB), "disk-a.0123456789abcdef.qcow2", qcow2()),
        "it is called otherwise than",
    ),
}


@pytest.mark.parametrize("case", THERE)
def test_a_file_that_no_record_names_is_taken_as_it_is_or_left_alone(files, case):
    """A run was killed before it could record it, or the record is from before there was such a disk."""
    store, vm = files
    disk, name, content, reason = THERE[case]
    vm = with_disks(store.save(vm.evolve(state=VmState.STOPPED)), disk)
    path = f"{vm.work_dir}/{name}"
    with open(path, "wb") as file:
        file.write(content)
    found = os.stat(path)

    if reason is None:
        disk_files.check_disks(vm.spec, vm)
        made = disk_files.make_disks(vm, store)
        assert store.load("web1").disks == made.disks
        assert os.path.exists(made.disks["a"].path)
    else:
        for act in (disk_files.check_disks, lambda spec, vm: disk_files.make_disks(vm, store)):
            with pytest.raises(VmError, match=reason) as caught:
                act(vm.spec, vm)
            assert caught.value.code == "vm_manager.vm.bad_record"
            assert caught.value.details == {"path": path, "option": "disks (a)"}
            assert "Then move it away or delete it" in caught.value.help

    assert os.stat(path) == found
    with open(path, "rb") as file:
        assert file.read() == content


@pytest.mark.parametrize("below", [b"", b"/b"])
def test_an_empty_disk_of_another_size_is_made_anew(files, below):
    """A run was killed before it could record it, and something else is asked for now."""
    store, vm = files
    wish = plain("a", size=2 * MIB, image=os.fsdecode(below) or None)
    vm = with_disks(store.save(vm.evolve(state=VmState.STOPPED)), wish)
    with open(f"{vm.work_dir}/disk-a.qcow2", "wb") as file:
        file.write(qcow2(below=below, table=b""))

    disk_files.check_disks(vm.spec, vm)
    made = disk_files.make_disks(vm, store).disks["a"]

    assert (made.size, os.stat(made.path).st_size) == (2 * MIB, 2 * MIB)


def test_what_another_program_has_open_is_not_taken_for_empty(files, monkeypatch):
    """QEMU may hold back what a guest has written."""
    dummy_store, vm = files
    vm = with_disks(vm.evolve(state=VmState.STOPPED), plain("a", size=2 * MIB))
    path = f"{vm.work_dir}/disk-a.qcow2"
    with open(path, "wb") as file:
        file.write(qcow2(table=b""))
    monkeypatch.setattr(adoption, "is_held", path.__eq__)

    with pytest.raises(VmError, match="it has 1MiB, not 2MiB"):
        disk_files.check_disks(vm.spec, vm)


@pytest.mark.parametrize("frozen", [True, False])
def test_an_empty_disk_over_a_layer_may_be_all_there_is(files, frozen):
    """Unless the run that was to make the layer was killed: then the disk still has its first name."""
    store, vm = files
    vm = with_disks(store.save(vm.evolve(state=VmState.STOPPED)), plain("a", size=MIB))
    layers = os.path.join(store.data_dir, "layers")
    os.mkdir(layers)
    layer, path = f"{layers}/{'c' * 16}.qcow2", f"{vm.work_dir}/disk-a.{'c' * 16}.qcow2"
    for name, content in ((layer, qcow2()), (path, qcow2(below=os.fsencode(layer), table=b""))):
        with open(name, "wb") as file:
            file.write(content)
    os.link(layer, f"{layers}/other" if frozen else f"{vm.work_dir}/disk-b.qcow2")

    if frozen:
        with pytest.raises(VmError, match=f"{os.path.basename(path)} is there already"):
            disk_files.check_disks(vm.spec, vm)
        return
    disk_files.check_disks(vm.spec, vm)
    assert disk_files.make_disks(vm, store).disks["a"].path == f"{vm.work_dir}/disk-a.qcow2"


def test_what_a_killed_run_has_made_over_a_disk_goes_with_it(files):
    store, vm = files
    vm = disk_files.make_disks(with_disks(vm, plain("a", size=MIB)), store)
    layers, path = f"{store.data_dir}/layers", f"{vm.work_dir}/disk-a.{'c' * 16}.qcow2"
    os.mkdir(layers)
    os.link(vm.disks["a"].path, f"{layers}/{'c' * 16}.qcow2")
    with open(path, "wb") as file:
        file.write(qcow2(table=b""))

    disk_files.discard_disks(vm, ("a",), store)

    assert not os.path.exists(path)


@pytest.mark.parametrize("how", ["a link", "a second name", "a folder"])
def test_only_a_plain_file_of_its_own_is_taken(files, tmp_path, how):
    dummy_store, vm = files
    vm = with_disks(vm.evolve(state=VmState.STOPPED), plain("a", size=MIB))
    other, path = tmp_path / "other", f"{vm.work_dir}/disk-a.qcow2"
    other.write_bytes(qcow2())
    {"a link": os.symlink, "a second name": os.link}.get(how, lambda *dummy: os.mkdir(path))(
        other, path
    )

    with pytest.raises(VmError, match=r"no plain file|another name"):
        disk_files.check_disks(vm.spec, vm)

    assert other.read_bytes() == qcow2()


def test_what_a_killed_run_has_made_for_a_machine_that_never_ran_may_become_another(files):
    store, vm = files
    with open(f"{vm.work_dir}/disk-a.qcow2", "wb") as file:
        file.write(qcow2())

    made = disk_files.make_disks(with_disks(vm, plain("a", size=2048)), store)

    assert os.stat(made.disks["a"].path).st_size == 2048
