# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate without QEMU: what our own readers make of images of other hypervisors, byte by byte."""

from __future__ import annotations

import json
import random
import struct
import uuid

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    CommandFailed,
    VmError,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import gate, qemu_img
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.gate import judge
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.inspect import (
    Allowance,
    Image,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.recognise import FORMATS

REFUSED = "vm_manager.image.refused"
UNREADABLE = "vm_manager.image.format_detection_failed"
KIB, MIB = 1024, 1024**2


UNLOCKED = Allowance("hunter2")


def at(data, offset, piece):
    return data[:offset] + piece + data[offset + len(piece) :]


def vmdk(text=None, capacity=2048, offset=1, sectors=20):
    text = text or (
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
        'createType="streamOptimized"\nRW 2048 SPARSE "disk.vmdk"\n'
    )
    head = struct.pack("<4sIIQQQQ", b"KDMV", 3, 3, capacity, 128, offset, sectors)
    return (head.ljust(512, b"\0") + text.encode()).ljust(64 * KIB, b"\0")


def descriptor(**changes):
    settings = {"version": "1", "parentCID": "ffffffff", "createType": '"monolithicSparse"'}
    lines = [f"{name} = {value}" for name, value in {**settings, **changes}.items() if value]
    return vmdk("\r\n".join([*lines, 'rw 2048 sparse "a b.vmdk"', ""]))


def vdi(kind=1, blocks=4, allocated=1, links=bytes(32), length=2 * MIB):
    data = at(bytes(length), 64, struct.pack("<IIII", 0xBEDA107F, 0x10001, 400, kind))
    data = at(data, 340, struct.pack("<II", 512, MIB))
    data = at(data, 368, struct.pack("<QIIII", 4 * MIB, MIB, 0, blocks, allocated))
    return at(data, 424, links)


def vhdx(flags=0, second_flags=None, entries=1):
    data = at(bytes(2 * MIB), 0, b"vhdxfile")
    metadata = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
    parameters = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
    for table, place, said in ((192, 512, flags), (256, 768, second_flags)):
        if said is None:
            continue
        region = struct.pack("<16sQII", metadata, place * KIB, 64 * KIB, 1)
        data = at(data, table * KIB, b"regi".ljust(8, b"\0") + struct.pack("<II", entries, 0))
        data = at(data, table * KIB + 16, region)
        data = at(data, place * KIB, b"metadata\0\0" + struct.pack("<H", 1))
        data = at(data, place * KIB + 32, struct.pack("<16sIII", parameters, 64 * KIB, 8, 0))
        data = at(data, (place + 64) * KIB, struct.pack("<II", MIB, said))
    return data


def vhd(head=3, footer=3):
    def part(kind):
        return at(b"conectix".ljust(512, b"\0"), 60, struct.pack(">I", kind))

    disk = bytes(510) + b"\x55\xaa" if head is None else part(head)
    return disk + bytes(4096) + (part(footer) if footer is not None else b"")


@pytest.fixture
def write(tmp_path):
    def make(data):
        path = tmp_path / "image"
        path.write_bytes(data)
        return str(path)

    return make


@pytest.fixture(autouse=True)
def qemu(monkeypatch):
    """QEMU is asked only for what got through; it likes everything."""
    asked = []

    def info(path, image_format):
        asked.append(image_format)
        return {"format": image_format, "virtual-size": MIB}

    monkeypatch.setattr(qemu_img, "info", info)
    monkeypatch.setattr(qemu_img, "check", lambda *dummy: None)
    return asked


def qcow2(encryption=0, snapshots=0):
    """Return an image with one L1 table, and what may be in it if a task allows that: all of it in the last cluster."""
    place = struct.pack(">IIQQ", 0x0537BE77, 16, 192 * KIB, 64 * KIB) if encryption else b""
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", 3, 0, 0, 16, MIB, encryption, 1, 128 * KIB, 64 * KIB, 1),
        *(snapshots, 192 * KIB, 0, 0, 0, 4, 104),
    )
    return (head + place).ljust(256 * KIB, b"\0")


GOOD = {
    "vmdk": (vmdk(), "vmdk"),
    "vmdk with other spelling": (descriptor(), "vmdk"),
    "vmdk with a small descriptor": (vmdk(sectors=1), "vmdk"),
    "vdi": (vdi(), "vdi"),
    "vdi of full size": (vdi(kind=2, allocated=4, length=5 * MIB), "vdi"),
    "vhdx": (vhdx(), "vhdx"),
    "vhdx with both tables": (vhdx(second_flags=1), "vhdx"),
    "vhdx with the second table": (vhdx(None, 0), "vhdx"),
    "vhd": (vhd(), "vpc"),
    "vhd of full size": (vhd(None, 2), "vpc"),
}


@pytest.mark.parametrize("case", GOOD)
def test_a_good_image_gets_to_qemu_in_its_format(write, qemu, case):
    data, image_format = GOOD[case]
    path = write(data)

    assert judge(path, None) == judge(path, image_format) == Image(path, image_format, MIB)
    assert qemu == [image_format] * 2


CUT, PARENT = "it is cut off", "depends on another image, its parent"
ELSEWHERE = "has extents in other files or devices"
BAD = {
    "vmdk of ESX": (b"COWD".ljust(4096, b"\0"), "vmdk", "is a part of a VMDK"),
    "vmdk descriptor": (b"# Disk DescriptorFile\n", "vmdk", "is a part of a VMDK"),
    "vmdk descriptor behind a blank": (
        *(b"\n# Disk DescriptorFile\n".ljust(4096), "vmdk"),
        "is a part of a VMDK",
    ),
    "no vmdk": (bytes(4096), "vmdk", "it does not begin like a VMDK"),
    "short vmdk": (vmdk()[:511], "vmdk", "it does not begin like a VMDK"),
    "vmdk without capacity": (vmdk(capacity=0), "vmdk", "without data of its own"),
    "vmdk descriptor later": (vmdk(offset=2), "vmdk", "is not behind its header"),
    "vmdk without descriptor": (vmdk(sectors=0), "vmdk", "is not behind its header"),
    "vmdk of a great descriptor": (vmdk(sectors=2**40), "vmdk", "is not behind its header"),
    "vmdk parent": (descriptor(parentCID="12345678"), "vmdk", "depends on a parent"),
    "vmdk that says nothing of parents": (descriptor(parentCID=""), "vmdk", "on a parent"),
    "vmdk parent by name": (
        *(descriptor(parentFileNameHint='"/etc/shadow"'), "vmdk"),
        "depends on another file, its parent",
    ),
    "vmdk parent behind a null byte": (
        *(at(vmdk(), 5000, b"ParentFileNameHint"), "vmdk"),
        "depends on another file, its parent",
    ),
    "vmdk parent behind the descriptor": (
        *(at(vmdk(sectors=2), 5000, b"parentFileNameHint"), "vmdk"),
        "depends on another file, its parent",
    ),
    "vmdk kind": (descriptor(createType='"vmfs"'), "vmdk", "is a VMDK of the kind 'vmfs'"),
    "vmdk without kind": (descriptor(createType=""), "vmdk", "is a VMDK of the kind ''"),
    "no vdi": (bytes(4096), "vdi", "it does not begin like a VDI"),
    "short vdi": (vdi()[:500], "vdi", "it does not begin like a VDI"),
    "vdi parent": (vdi(kind=4), "vdi", PARENT),
    "vdi link": (vdi(links=b"x".ljust(32, b"\0")), "vdi", PARENT),
    "vdi parent by its number": (vdi(links=b"x".rjust(32, b"\0")), "vdi", PARENT),
    "vdi cut off": (vdi()[:-1], "vdi", CUT),
    "vdi that counts badly": (vdi(blocks=1, allocated=2, length=9 * MIB), "vdi", "more blocks"),
    "no vhdx": (bytes(4096), "vhdx", "it does not begin like a VHDX"),
    "vhdx cut off": (vhdx()[: 256 * KIB], "vhdx", "its metadata cannot be found"),
    "vhdx without entries": (vhdx(entries=0), "vhdx", "its metadata cannot be found"),
    "vhdx parent": (vhdx(2), "vhdx", PARENT),
    "vhdx parent in the second table": (vhdx(0, 3), "vhdx", PARENT),
    "no vhd": (bytes(4096), "vpc", "it is cut off: its footer is missing"),
    "short vhd": (b"conectix", "vpc", "it is cut off: its footer is missing"),
    "vhd cut off": (vhd(footer=None), "vpc", "it is cut off: its footer is missing"),
    "vhd parent": (vhd(4, 4), "vpc", PARENT),
    "vhd parent in the footer": (vhd(3, 4), "vpc", PARENT),
    "vhd parent in the head": (vhd(4, 3), "vpc", PARENT),
    "vhd of two kinds": (vhd(3, 2), "vpc", "its kind is not known"),
    "vhd of an old kind": (vhd(None, 1), "vpc", "its kind is not known"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_does_not_get_to_qemu(write, qemu, case):
    data, image_format, words = BAD[case]
    path = write(data)

    with pytest.raises(VmError) as caught:
        judge(path, image_format, shown="https://here/x")

    assert words in caught.value.message
    assert caught.value.message.startswith("image: https://here/x ")
    assert caught.value.code in (REFUSED, UNREADABLE)
    assert (caught.value.code == UNREADABLE) == ("cannot be read as" in caught.value.message)
    assert caught.value.help
    assert qemu == []


@pytest.mark.parametrize("data", [bytes(1024), vmdk()], ids=["zeros", "VMDK"])
def test_nothing_is_asked_about_a_raw_disk(write, qemu, data):
    path = write(data)

    assert judge(path, "raw") == Image(path, "raw", len(data))
    assert qemu == []


WANTED = {
    "encryption": (qcow2(encryption=2), UNLOCKED, {"encrypted": True}),
    "internal snapshots": (
        *(qcow2(snapshots=3), Allowance(drop_snapshots=True)),
        {"snapshots": [{}] * 3},
    ),
}


@pytest.mark.parametrize("case", WANTED)
def test_qemu_may_see_what_we_saw_and_nothing_else(write, monkeypatch, case):
    data, allowance, seen = WANTED[case]
    path, told = write(data), {"format": "qcow2", "virtual-size": MIB}
    all_seen = {"encrypted": True, "snapshots": [{}]}
    monkeypatch.setattr(qemu_img, "info", lambda *dummy: {**told, **seen})

    image = judge(path, None, allowance=allowance)

    assert image == Image(path, "qcow2", MIB, allowance.passphrase, len(seen.get("snapshots", ())))
    monkeypatch.setattr(qemu_img, "info", lambda *dummy: {**told, **all_seen})
    (other,) = WANTED.keys() - {case}
    with pytest.raises(VmError, match=f"what QEMU takes for {other}"):
        judge(path, None, allowance=allowance)


@pytest.mark.parametrize(
    ("data", "said"), [(bytes(1024), "raw"), (vmdk(), None), (vdi(), None), (qcow2(), None)]
)
def test_a_passphrase_that_unlocks_nothing_is_refused_before_qemu_looks(write, qemu, data, said):
    path = write(data)

    with pytest.raises(VmError) as caught:
        judge(path, said, allowance=UNLOCKED)

    assert caught.value.message == f"passphrase: {path} is not encrypted."
    assert caught.value.details == {"option": "passphrase"}
    assert qemu == []


def test_a_wrong_passphrase_is_no_damage(write, monkeypatch):
    def check(*dummy):
        raise CommandFailed("...", output="Invalid password, cannot unlock any keyslot")

    monkeypatch.setattr(qemu_img, "check", check)
    with pytest.raises(
        VmError, match=r"^passphrase: it does not unlock https://here/x\."
    ) as caught:
        judge(write(qcow2(encryption=2)), None, shown="https://here/x", allowance=UNLOCKED)

    assert (caught.value.code, caught.value.details) == (REFUSED, {"option": "passphrase"})
    with pytest.raises(VmError, match="is damaged, as qemu-img check says: Invalid password"):
        judge(write(qcow2()), None)


@pytest.mark.parametrize("size", [0, -1, (16 << 40) + 1, 2**63])
def test_a_size_that_makes_no_sense_is_refused_whoever_tells_it(write, monkeypatch, size):
    monkeypatch.setattr(qemu_img, "info", lambda *a: {"format": "vmdk", "virtual-size": size})

    with pytest.raises(VmError, match="says that its disk has") as caught:
        judge(write(vmdk()), None)

    assert caught.value.code == REFUSED


def test_what_qemu_img_said_is_passed_on_in_plain_words(write, monkeypatch):
    path = write(vmdk())

    def info(path, image_format):
        name = qemu_img.node(path, image_format)
        raise CommandFailed("...", output=f"qemu-img: Could not open '{name}': Bad\nthing.\n")

    monkeypatch.setattr(qemu_img, "info", info)
    with pytest.raises(VmError) as caught:
        judge(path, None)

    said = f"cannot be read as vmdk: Could not open '{path}': Bad; thing."
    assert caught.value.message == f"image: {path} {said}"
    assert caught.value.code == UNREADABLE


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk", "raw"])
@pytest.mark.parametrize("path", ["/a/nbd:x", '/a/"},"driver":"nbd', "/a/b,c=d", "/a/ü\n"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_node_is_that_file_in_that_format_and_nothing_below(path, image_format, encrypted):
    name = qemu_img.node(path, image_format, encrypted=encrypted)

    layer = json.loads(name[len("json:") :])
    assert name.startswith("json:{")
    assert layer.pop("file") == {"driver": "file", "filename": path}
    assert layer.pop("driver") == image_format
    if encrypted:
        assert layer.pop("encrypt") == {"format": "luks", "key-secret": "passphrase"}
    assert layer == ({} if image_format == "raw" else {"backing": None})


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vhdx", "vpc"])
def test_junk_is_read_or_refused_but_never_breaks_anything(write, kind):
    good = {"vmdk": vmdk(), "vdi": vdi(), "vhdx": vhdx(), "vpc": vhd()}[kind]
    spots = [
        range(512),
        range(len(good)),
        range(192 * KIB, 192 * KIB + 64),
        range(512 * KIB, 513 * KIB),
    ]
    dice = random.Random(kind)
    for _dummy in range(150):
        data = bytearray(good)
        for _change in range(dice.randrange(1, 6)):
            spot = dice.choice(dice.choice(spots))
            if spot < len(data):
                data[spot] = dice.randrange(256)
        try:
            judge(write(bytes(data[: dice.choice((len(data), dice.randrange(len(data))))])), kind)
        except VmError as exc:
            assert exc.code in (REFUSED, UNREADABLE)


def test_every_format_that_is_recognised_is_looked_at():
    assert {"qcow2", "raw", *gate._CHECKS} == set(FORMATS)
