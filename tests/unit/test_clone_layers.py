# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers of linked clones and the images below them: who needs which, told from records, and what QEMU opens."""

from __future__ import annotations

import json
import os
import struct

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import (
    Disk,
    DiskRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BadRecord,
    HostError,
    OverlayFailed,
    VmError,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.handle import dump, load
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.layout import (
    is_disk,
    is_ours,
    is_over_layer,
    is_system_disk,
    over_layer,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.rename import renamed
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import layers as module
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.layers import (
    Layers,
    layers_of,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.own_disk import (
    look_at_disk,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.uses import (
    look_for_uses,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import freezing
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.blocks import (
    disk_node,
    system_node,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import (
    FULL_HANDLE,
    minimal_handle,
)

A, B, C, D = (f"{letter * 16}.qcow2" for letter in "abcd")


class Bench:
    """A data folder with machines that rest on layers."""

    def __init__(self, folder):
        self.store = Store(str(folder))
        self.layers = Layers(self.store)
        self.folder = folder / "layers"

    def there(self):
        return sorted(path.name for path in self.folder.iterdir())

    def make(self, *names):
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            (self.folder / name).write_text(name)

    def vm(self, name, *names, **changes):
        paths = tuple(str(self.folder / layer) for layer in names)
        given = {"work_dir": self.store.work_dir(name), "layers": paths, **changes}
        return self.store.save(minimal_handle(name, **given))

    def data(self, *names, **more):
        paths = tuple(str(self.folder / layer) for layer in names)
        return {"disks": {"data": DiskRecord("", "qcow2", 1, layers=paths, **more)}}

    def file(self, name, content):
        path = self.folder.parent / "vms" / "web1" / name
        path.write_bytes(content)
        return path


def own_disk(table=bytes(16), l1_entries=2, snapshots=0, features=0, below=b""):
    """Return a disk of the smallest kind, as QEMU's format page says."""
    fixed = struct.pack(
        *(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 112 if below else 0, len(below), 16, 1 << 30, 0),
        *(l1_entries, 512, 1024, 1, snapshots, 0),
    )
    head = fixed + struct.pack(">QQQII", features, 0, 0, 4, 104)
    return (head.ljust(112, b"\0") + below).ljust(512, b"\0") + table


def over(path, table=bytes(15) + b"\1"):
    """Return a disk over another file; a guest wrote to it, unless its table is empty."""
    return own_disk(table, below=os.fsencode(path))


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "data")


def test_an_image_under_any_disk_counts_once(tmp_path):
    store, images = Store(str(tmp_path)), [str(tmp_path / name) for name in "abc"]
    disks = {name: DiskRecord("", "qcow2", 1, image) for name, image in zip("xyz", images[1:])}
    for name, base in (("web1", images[0]), ("web2", images[1]), ("web3", None)):
        work_dir = store.work_dir(name)
        store.save(minimal_handle(name, work_dir=work_dir, base_image=base, disks=disks))

    uses = look_for_uses(str(tmp_path))

    assert [uses.of(image) for image in images] == [
        ["web1"],
        ["web1", "web2", "web3"],
        ["web1", "web2", "web3"],
    ]
    assert uses.of("/other") == []


def test_a_machine_that_gets_another_name_meanwhile_counts(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    store.save(minimal_handle("web1", work_dir=store.work_dir("web1"), base_image="/image"))
    names, turns = Store.names, []

    def listed(self):
        turns.append(names(self))
        if len(turns) == 1:
            store.rename(store.load("web1"), "web2")
        return turns[-1]

    monkeypatch.setattr(Store, "names", listed)

    assert look_for_uses(str(tmp_path)).of("/image") == ["web2"]


@pytest.mark.parametrize("record", ["an older one", "none"])
def test_what_a_disk_rests_on_counts_whatever_records_say(bench, record):
    """The record is from before there was such a disk, or it was lost."""
    bench.make()
    image, system = f"{bench.folder}/../images/a", f"{bench.folder}/../images/b"
    bench.vm("web1")
    bench.file("disk-a.qcow2", over(image))
    bench.file("disk-c.raw", b"no header")
    (bench.folder / A).write_bytes(over(system))
    (bench.folder / B).write_bytes(over(f"../layers/{A}"))
    bench.file("overlay.0123456789abcdef.qcow2", over(bench.folder / B))
    if record == "none":
        os.unlink(f"{bench.store.work_dir('web1')}/vm.json")

    uses = look_for_uses(bench.store.data_dir)

    assert (uses.of(image), uses.of(system), uses.unreadable) == (["web1"], ["web1"], [])
    bench.layers.collect()
    assert bench.there() == [A, B]


UNREADABLE = {
    "no qcow2": b"a disk",
    "empty": b"",
    "over what QEMU finds": over("json:{}"),
    "over a protocol": over("nbd://host/x"),
    "over a name that is too long": own_disk(below=b"x" * 1024),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_nobody_knows_what_a_disk_that_cannot_be_read_rests_on(bench, case):
    bench.make(A)
    bench.vm("web1")
    path = bench.file("disk-a.qcow2", UNREADABLE[case])

    (doubt,) = look_for_uses(bench.store.data_dir).unreadable

    assert str(path) in doubt
    (warning,) = bench.layers.collect()
    assert (doubt in warning, bench.there()) == (True, [A])


def test_layers_below_layers_come_to_an_end(bench):
    bench.make()
    bench.vm("web1")
    (bench.folder / A).write_bytes(over(bench.folder / B))
    (bench.folder / B).write_bytes(over(bench.folder / A))
    bench.file("disk-a.qcow2", over(bench.folder / B))
    bench.file("disk-c.qcow2", over(bench.folder / C))

    assert look_for_uses(bench.store.data_dir).of(f"{bench.folder}/{C}") == ["web1"]
    bench.layers.collect()
    assert bench.there() == [A, B]


def test_layers_that_a_record_names_stay(bench):
    bench.make(A, B, C, D)
    bench.vm("web1", A, B)
    bench.vm("web2", B)
    bench.vm("web3", **bench.data(C))

    assert bench.layers.collect() == []

    assert bench.there() == [A, B, C]
    bench.store.forget("web1")
    bench.layers.collect()
    assert bench.there() == [B, C]
    for name in ("web2", "web3"):
        bench.store.forget(name)
    bench.layers.collect()
    assert bench.there() == []


def test_only_a_name_goes_if_the_file_has_another(bench, tmp_path):
    bench.make()
    bench.vm("web1")
    disk = tmp_path / "overlay.qcow2"
    disk.write_text("what the guest wrote")
    key, path = bench.layers.add(str(disk))

    assert os.path.samefile(disk, path)
    assert path == str(bench.folder / f"{key}.qcow2")
    bench.layers.collect()

    assert bench.there() == []
    assert disk.read_text() == "what the guest wrote"
    assert disk.stat().st_mode & 0o200


def test_what_is_not_a_layer_is_left_alone(bench):
    bench.make("notes.txt", "a.qcow2", f".{A}", f"{A}.old")
    bench.vm("web1")

    bench.layers.collect()

    assert len(bench.there()) == 4


def test_nothing_is_made_where_there_are_no_layers(bench):
    assert bench.layers.collect() == []
    assert not bench.folder.exists()


def test_nothing_goes_where_the_machines_cannot_be_seen(bench):
    bench.make(A)

    with pytest.raises(HostError):
        bench.layers.collect()

    assert bench.there() == [A]


def damaged(bench):
    (bench.folder.parent / "vms" / "web1" / "vm.json").write_text("{")


def lost(bench):
    folder = bench.folder.parent / "vms" / "web1"
    (folder / "overlay.0123456789abcdef.qcow2").write_text("a disk")
    (folder / "vm.json").unlink()


def moved_away(bench):
    folder = bench.folder.parent / "vms" / "web1"
    (folder / "overlay.qcow2").write_text("a disk")
    folder.rename(bench.folder.parent / "elsewhere")
    folder.symlink_to(bench.folder.parent / "elsewhere")


@pytest.mark.parametrize("how", [damaged, lost, moved_away])
def test_nothing_goes_while_nobody_knows_what_a_machine_needs(bench, how):
    bench.make(A, B)
    bench.vm("web1", A)
    bench.vm("web2", B)
    how(bench)

    warnings = bench.layers.collect()

    assert len(warnings) == 1
    assert "web1" in warnings[0]
    assert "none was removed" in warnings[0]
    assert bench.there() == [A, B]


OLD_RECORDS = {
    "what it names has become a layer": ("overlay.qcow2", None, True),
    "it does not name a disk": ("disk-data.0123456789abcdef.qcow2", bytes(15) + b"\1", True),
    "no disk that was used": ("disk-data.0123456789abcdef.qcow2", bytes(16), False),
    "no disk over a layer": ("disk-data.qcow2", bytes(15) + b"\1", False),
}


@pytest.mark.parametrize("case", OLD_RECORDS)
def test_nothing_goes_while_a_record_seems_to_be_older_than_the_disks(bench, case):
    """It was restored from a backup: the layers that the machine rests on by now are in no record."""
    name, table, is_old = OLD_RECORDS[case]
    bench.make(A)
    vm = bench.vm("web1")
    if table is None:
        bench.store.save(vm.evolve(overlay_path=f"{vm.work_dir}/{name}"))
    else:
        bench.file(name, own_disk(table))

    warnings = bench.layers.collect()

    assert ["web1" in warning and name in warning for warning in warnings] == [True] * is_old
    assert bench.there() == ([A] if is_old else [])


def test_a_name_that_a_killed_run_has_left_of_a_layer_hinders_nobody(bench):
    bench.make(A)
    bench.vm("web1")
    disk = bench.file("overlay.0123456789abcdef.qcow2", own_disk(bytes(15) + b"\1"))
    os.link(disk, bench.folder / B)

    assert bench.layers.collect() == []
    assert bench.there() == []


@pytest.mark.parametrize("frozen", [True, False])
def test_all_that_a_machine_has_may_lie_below_a_blank_disk(bench, frozen):
    """So it is once layers are made. A run that was killed before has left the disk's first name, too."""
    bench.make(A)
    bench.vm("web1")
    layer = bench.folder / "0123456789abcdef.qcow2"
    layer.write_bytes(own_disk(bytes(15) + b"\1"))
    bench.file("disk-data.0123456789abcdef.qcow2", over(layer, bytes(16)))
    other = "backup" if frozen else "disk-data.qcow2"
    os.link(layer, bench.folder.parent / "vms" / "web1" / other)

    warnings = bench.layers.collect()

    assert [str(bench.folder) in warning for warning in warnings] == [True] * frozen
    assert bench.there() == ([layer.name, A] if frozen else [])


@pytest.mark.parametrize("frozen", [True, False])
def test_tidying_leaves_a_blank_disk_alone_that_may_be_all_there_is(bench, frozen):
    bench.make()
    vm = bench.vm("web1")
    layer = bench.folder / "0123456789abcdef.qcow2"
    layer.write_bytes(own_disk(bytes(15) + b"\1"))
    path = bench.file("disk-data.0123456789abcdef.qcow2", over(layer, bytes(16)))
    if not frozen:
        os.link(layer, path.with_name("disk-data.qcow2"))

    freezing._tidy(vm)

    assert (path.exists(), layer.exists()) == (frozen, True)


def test_an_unreadable_record_is_no_matter_where_all_layers_are_needed(bench):
    bench.make(A)
    bench.vm("web1")
    bench.vm("web2", A)
    damaged(bench)

    assert bench.layers.collect() == []
    assert bench.there() == [A]


def test_a_folder_without_a_record_and_without_disks_hinders_nobody(bench):
    bench.make(A)
    (bench.folder.parent / "vms" / "notes").mkdir(parents=True)
    (bench.folder.parent / "vms" / "notes" / "text").write_text("mine")

    assert bench.layers.collect() == []
    assert bench.there() == []


def test_the_lock_of_the_folder_is_waited_for(bench, monkeypatch):
    bench.make(A)
    (bench.folder.parent / "vms").mkdir()
    monkeypatch.setattr(module, "_A_MOMENT", 0.05)

    with bench.layers.changing(), pytest.raises(VmError, match="the layers in"):
        bench.layers.collect()

    assert bench.there() == [A]


def test_a_folder_that_others_may_write_to_is_refused(bench):
    bench.make()
    bench.folder.chmod(0o777)

    with pytest.raises(HostError, match="other users may write"), bench.layers.changing():
        pytest.fail("it was taken")


def test_a_disk_on_another_file_system_is_refused_in_plain_words(bench, monkeypatch):
    def refuse(*_words, **_more):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)

    with pytest.raises(HostError, match="cannot get a second name") as caught:
        bench.layers.add("/disk")

    assert "clone_mode: full" in caught.value.help


def test_another_name_leaves_layers_where_they_are(bench):
    vm = bench.vm("web1", A, **bench.data(B))

    again = renamed(vm, "db1", bench.store.work_dir("db1"))

    assert layers_of(again) == layers_of(vm) == {str(bench.folder / name) for name in (A, B)}


@pytest.mark.parametrize("layers", ["/a", [1], {"a": 1}, None])
def test_a_record_whose_layers_make_no_sense_is_refused(layers):
    data = json.loads(dump(FULL_HANDLE))
    data["disks"]["data"]["layers"] = []
    for place in (data, data["disks"]["data"]):
        whole = place.get("layers")
        place["layers"] = layers
        with pytest.raises(BadRecord, match="cannot be understood"):
            load(json.dumps(data).encode(), "/vm.json")
        place["layers"] = whole
    assert load(json.dumps(data).encode(), "/vm.json")


def test_a_record_from_before_there_were_layers_has_none():
    data = json.loads(dump(FULL_HANDLE))
    for place in (data, data["disks"]["data"]):
        del place["layers"]
    for spec in (data["spec"], data["booted"]):
        del spec["clone_mode"]
    handle = load(json.dumps(data).encode(), "/vm.json")

    assert (handle.layers, handle.disks["data"].layers) == ((), ())
    assert (handle.spec.clone_mode, handle.booted.clone_mode) == ("full", "full")


def flat(node):
    """Return the files of a chain of nodes, each with its format and whether it is written."""
    found = []
    while node is not None:
        written = not (node.get("read-only") and node["file"].get("read-only"))
        found.append((node["driver"], node["file"]["filename"], written))
        assert node["file"]["driver"] == "file"
        assert "backing" in node or node["driver"] == "raw", "QEMU would read a name from the file"
        node = node.get("backing")
    return found


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_qemu_is_told_each_file_below_a_disk(form):
    record = DiskRecord("/vms/web1/disk-data.qcow2", "qcow2", 1, "/image", form, ("/b", "/a"))

    found = flat(disk_node(Disk("data").completed(), record))

    assert found == [
        ("qcow2", "/vms/web1/disk-data.qcow2", True),
        ("qcow2", "/b", False),
        ("qcow2", "/a", False),
        (form, "/image", False),
    ]


def test_layers_may_rest_on_nothing():
    record = DiskRecord("/disk", "qcow2", 1, layers=("/a",))

    assert flat(disk_node(Disk("data").completed(), record)) == [
        ("qcow2", "/disk", True),
        ("qcow2", "/a", False),
    ]


def test_the_system_disk_has_its_layers_and_the_image_its_name():
    node = system_node(FULL_HANDLE)

    assert [file for _form, file, _written in flat(node)] == [
        FULL_HANDLE.overlay_path,
        *FULL_HANDLE.layers,
        FULL_HANDLE.base_image,
    ]
    assert node["node-name"] == "disk0"
    assert node["backing"]["backing"]["backing"]["node-name"] == "image"
    assert "node-name" not in node["backing"]


KEY = "0123456789abcdef"
FILES = {
    "overlay.qcow2": ("ours", "disk", "system"),
    f"overlay.{KEY}.qcow2": ("ours", "disk", "system", "over"),
    "disk-data.qcow2": ("ours", "disk"),
    "disk-data.raw": ("ours", "disk"),
    f"disk-a-b.{KEY}.qcow2": ("ours", "disk", "over"),
    f".overlay.{KEY}.qcow2.part": ("ours",),
    ".overlay.qcow2.part.below": ("ours",),
    ".disk-data.qcow2.part": ("ours",),
    "vm.json": ("ours",),
    f"overlay.{KEY}.raw": (),
    f"overlay.{KEY}0.qcow2": (),
    "overlay.old.qcow2": (),
    f"overlay-{KEY}.qcow2": (),
    "disk-Data.qcow2": (),
    "backup.qcow2": (),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_told_by_their_names(name):
    tells = {"ours": is_ours, "disk": is_disk, "system": is_system_disk, "over": is_over_layer}

    assert tuple(word for word, tell in tells.items() if tell(name)) == FILES[name]


def test_each_new_file_of_a_disk_has_a_name_of_its_own():
    for first in ("overlay.qcow2", "disk-a-b.qcow2"):
        second = over_layer(first, KEY)
        third = over_layer(second, KEY[::-1])
        assert len({first, second, third}) == 3
        assert is_over_layer(second)
        assert is_over_layer(third)


OWN = {
    "nothing written": (own_disk(), True, None),
    "something written": (own_disk(bytes(15) + b"\1"), False, None),
    "a table that is cut off": (own_disk(bytes(8)), False, None),
    "internal snapshots": (own_disk(snapshots=2), False, "2 internal snapshots"),
    "marked as corrupt": (own_disk(features=2), True, "corrupt"),
}


@pytest.mark.parametrize("case", OWN)
def test_what_a_disk_holds_is_seen_in_its_tables(case, tmp_path):
    raw, blank, fault = OWN[case]
    (tmp_path / "disk").write_bytes(raw)

    found = look_at_disk(str(tmp_path / "disk"))

    assert (found.virtual_size, found.is_blank) == (1 << 30, blank)
    assert (fault or "") in (found.fault or "")
    assert (fault is None) == (found.fault is None)


@pytest.mark.parametrize("raw", [b"", b"no disk" * 100, own_disk(l1_entries=1 << 30)])
def test_what_is_no_disk_is_refused(raw, tmp_path):
    (tmp_path / "disk").write_bytes(raw)

    with pytest.raises(OverlayFailed, match="cannot be read as qcow2"):
        look_at_disk(str(tmp_path / "disk"))


def test_a_link_in_place_of_a_disk_is_refused(tmp_path):
    (tmp_path / "real").write_bytes(own_disk())
    (tmp_path / "disk").symlink_to(tmp_path / "real")

    with pytest.raises(HostError):
        look_at_disk(str(tmp_path / "disk"))
