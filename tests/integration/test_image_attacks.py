# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images made to harm: each is shown to work on QEMU alone first, by a secret of the host that a guest could read."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.commands import Limits
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import qemu_img
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.convert import convert
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.gate import judge
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.inspect import (
    Image,
    inspect_image,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.overlay import (
    create_overlay,
)

MIB = 1024**2
SECRET = b"the host's own secret, 4711"
REFUSED = "vm_manager.image.refused"
UNREADABLE = "vm_manager.image.format_detection_failed"
CLUSTER = 65536


@dataclass
class Workshop:
    """A folder to build attacks in, beside a file of the host that no guest may read."""

    folder: Path
    secret: Path

    @property
    def image(self):
        return self.folder / "image"

    def qemu_img(self, *words):
        return subprocess.run(
            ["qemu-img", *map(str, words)],
            cwd=self.folder,
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout

    def guest_sees(self, path, image_format=None):
        """Return what a guest reads if QEMU alone decides; it probes if no format is said."""
        said = ["-f", image_format] if image_format else []
        self.qemu_img("convert", *said, "-O", "raw", path, "seen.raw")
        return (self.folder / "seen.raw").read_bytes()

    def patch(self, offset, data, path=None):
        with open(path or self.image, "r+b") as stream:
            stream.seek(offset)
            stream.write(data)


@pytest.fixture
def workshop(tmp_path):
    secret = tmp_path / "host" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(SECRET.ljust(512, b".") * 256)
    folder = tmp_path / "images"
    folder.mkdir()
    return Workshop(folder, secret)


@pytest.fixture
def disk(workshop):
    """A raw disk with a boot sector and something on it."""
    path = workshop.folder / "disk.raw"
    path.write_bytes((bytes(510) + b"\x55\xaa" + os.urandom(300_000)).ljust(8 * MIB, b"\0"))
    return path


def backing(*reference):
    """Return a builder of an image that rests on what this says; ``{}`` is the secret's path."""

    def build(workshop):
        name, kind = (part.replace("{}", str(workshop.secret)) for part in reference)
        workshop.qemu_img(
            "create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", kind, "image", "1M"
        )

    return build


def data_file(workshop):
    options = f"data_file={workshop.secret}.copy,data_file_raw=on"
    workshop.qemu_img("create", "-q", "-f", "qcow2", "-o", options, "image", "131072")
    name = f"{workshop.secret}.copy".encode()
    where = workshop.image.read_bytes().index(name)
    # The name in the header is patched to that of the secret, whose length differs.
    workshop.patch(where - 4, struct.pack(">I", len(name) - 5) + name[:-5] + bytes(5))
    workshop.patch(0x58, struct.pack(">Q", 2))  # the guest's data is the file as it is


def raw_with_a_header(workshop):
    backing("{}", "raw")(workshop)
    with open(workshop.image, "ab") as stream:
        stream.truncate(4 * MIB)


DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=12345678
parentCID={parent}
createType="{kind}"
{hint}
RW 256 {extent}
"""


def vmdk(parent="ffffffff", kind="monolithicSparse", hint="", extent='SPARSE "image"'):
    fields = {"parent": parent, "kind": kind, "hint": hint, "extent": extent}
    return DESCRIPTOR.format(**fields).encode()


def sparse_vmdk(workshop, descriptor):
    workshop.qemu_img("create", "-q", "-f", "vmdk", "image", "128k")
    workshop.patch(512, descriptor.ljust(20 * 512, b"\0"))


def vmdk_descriptor(workshop):
    text = vmdk(kind="monolithicFlat", extent=f'FLAT "{workshop.secret}" 0')
    workshop.image.write_bytes(text.ljust(4096, b"\n"))


def vmdk_without_capacity(workshop):
    sparse_vmdk(workshop, vmdk(kind="monolithicFlat", extent=f'FLAT "{workshop.secret}" 0'))
    workshop.patch(12, bytes(8))


def vmdk_secret_parent(workshop, name="parent.vmdk"):
    path = workshop.folder / name
    workshop.qemu_img("convert", "-f", "raw", "-O", "vmdk", workshop.secret, path)
    data = path.read_bytes()
    cid = data[data.index(b"\nCID=") + 5 :].split(b"\n")[0].decode()
    return path, cid


def vmdk_parent(workshop):
    path, cid = vmdk_secret_parent(workshop)
    sparse_vmdk(workshop, vmdk(parent=cid, hint=f'parentFileNameHint="{path}"'))


def vmdk_two_descriptors(workshop):
    """A good descriptor is where the header says, and one with a parent where QEMU looks for it."""
    vmdk_parent(workshop)
    end = workshop.image.stat().st_size
    workshop.patch(end, vmdk().ljust(20 * 512, b"\0"))
    workshop.patch(28, struct.pack("<QQ", end // 512, 20))


# How the image is made, its format, what QEMU is told of it, and what the refusal says.
LEAKS = {
    "backing file": (backing("{}", "raw"), "qcow2", "depends on another file"),
    "backing file by json": (
        backing('json:{"driver":"raw","file":{"driver":"file","filename":"{}"}}', "raw"),
        *("qcow2", "depends on another file, 'json:"),
    ),
    "backing file by protocol": (
        *(backing("file:{}", "raw"), "qcow2"),
        "depends on another file, 'file:",
    ),
    "data file": (data_file, "qcow2", "keeps its data in another file"),
    "raw disk that a guest made look like qcow2": (
        *(raw_with_a_header, None),
        "depends on another file",
    ),
    "VMDK that is a descriptor alone": (vmdk_descriptor, "vmdk", "is a part of a VMDK"),
    "VMDK without capacity": (vmdk_without_capacity, "vmdk", "without data of its own"),
    "VMDK with a parent": (vmdk_parent, "vmdk", "depends on another file, its parent"),
    "VMDK with two descriptors": (
        *(vmdk_two_descriptors, "vmdk"),
        "its descriptor is not behind its header",
    ),
}


@pytest.mark.parametrize("case", LEAKS)
def test_a_secret_of_the_host_does_not_come_through(workshop, case):
    build, image_format, words = LEAKS[case]
    build(workshop)

    assert SECRET in workshop.guest_sees("image", image_format), "this attack is none"
    for said in (None, image_format):
        with pytest.raises(VmError, match=words) as caught:
            judge(str(workshop.image), said)
        assert caught.value.code in (REFUSED, UNREADABLE)
        with pytest.raises(VmError):
            inspect_image(str(workshop.image), said)


UNREACHABLE = {
    "a server": ("nbd://127.0.0.1:1/x", "raw"),
    "a web server": ("https://127.0.0.1:1/x", "raw"),
    "a folder as a disk": ("fat:/etc", "raw"),
    "a device": ("/dev/sda", "raw"),
    "a descriptor of the process": ("/dev/fd/0", "raw"),
    "a name that is empty in json": ("json:{}", "raw"),
    "a file that a guest could make later": ("later.qcow2", "qcow2"),
}


@pytest.mark.parametrize("case", UNREACHABLE)
def test_an_image_that_rests_on_something_else_is_refused(workshop, case):
    name, kind = UNREACHABLE[case]
    workshop.qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", kind, "image", "1M")

    with pytest.raises(VmError, match="depends on another file") as caught:
        judge(str(workshop.image), "qcow2")

    assert caught.value.details["backing_file"] == name


def test_a_guests_disk_that_looks_like_qcow2_stays_raw_if_it_is_said_to_be(workshop):
    raw_with_a_header(workshop)
    overlay = workshop.folder / "overlay.qcow2"

    create_overlay(str(overlay), judge(str(workshop.image), "raw"), 4 * MIB)

    assert workshop.guest_sees(overlay, "qcow2") == workshop.image.read_bytes()


OTHER_EXTENTS = {
    "two extents": vmdk(extent='SPARSE "image"\nRW 256 SPARSE "more"'),
    "an extent that is flat": vmdk(extent='FLAT "/etc/shadow" 0'),
    "an extent elsewhere": vmdk(extent='SPARSE "/etc/shadow"'),
    "an extent upwards": vmdk(extent='SPARSE "../../etc/shadow"'),
    "a device": vmdk(kind="fullDevice", extent='FLAT "/dev/sda" 0'),
    "a partition": vmdk(kind="partitionedDevice", extent='FLAT "/dev/sda1" 63'),
    "parts of 2 GiB": vmdk(kind="twoGbMaxExtentSparse"),
    "no kind at all": vmdk(kind=""),
    "a parent without a name": vmdk(parent="12345678"),
    "a parent in capitals": vmdk(hint='PARENTFILENAMEHINT="/etc/shadow"'),
    "a parent behind the end of the text": vmdk() + b'\0\nparentFileNameHint="/etc/shadow"\n',
    "nothing": b"",
}


@pytest.mark.parametrize("case", OTHER_EXTENTS)
def test_a_vmdk_is_all_in_one_file_or_refused(workshop, case):
    sparse_vmdk(workshop, vmdk())
    good = judge(str(workshop.image), None)
    workshop.patch(512, OTHER_EXTENTS[case].ljust(20 * 512, b"\0"))

    assert good.format == "vmdk"
    with pytest.raises(VmError) as caught:
        judge(str(workshop.image), None)
    assert caught.value.code == REFUSED


def vhdx_flags(workshop):
    data = workshop.image.read_bytes()
    item = data.index(bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b"))  # file parameters
    return data.index(b"metadata\0\0") + struct.unpack_from("<I", data, item + 16)[0] + 4


# How a good image of a format is turned into one with a parent.
PARENTS = {
    "vdi by its kind": ("vdi", lambda w: w.patch(76, struct.pack("<I", 4))),
    "vdi by a link": ("vdi", lambda w: w.patch(424, b"x" * 16)),
    "vdi by a parent": ("vdi", lambda w: w.patch(440, b"x" * 16)),
    "vhdx": ("vhdx", lambda w: w.patch(vhdx_flags(w), b"\2")),
    "vhd": ("vpc", lambda w: w.patch(60, struct.pack(">I", 4))),
    "vhd by its footer": (
        "vpc",
        lambda w: w.patch(w.image.stat().st_size - 452, struct.pack(">I", 4)),
    ),
}


@pytest.mark.parametrize("case", PARENTS)
def test_an_image_with_a_parent_is_refused(workshop, disk, case):
    kind, attack = PARENTS[case]
    workshop.qemu_img("convert", "-f", "raw", "-O", kind, disk, "image")
    good = judge(str(workshop.image), None)
    attack(workshop)

    assert good.format == kind
    with pytest.raises(VmError, match="depends on another image, its parent"):
        judge(str(workshop.image), None)


def test_an_encrypted_image_is_refused(workshop):
    secret = ("--object", "secret,id=s,data=hunter2")
    options = ("-o", "encrypt.format=aes,encrypt.key-secret=s")
    workshop.qemu_img("create", "-q", "-f", "qcow2", *secret, *options, "image", "1M")

    for method in (1, 2):  # AES, LUKS
        workshop.patch(32, struct.pack(">I", method))
        with pytest.raises(VmError, match="is encrypted"):
            judge(str(workshop.image), None)


def test_an_image_with_snapshots_is_refused(workshop):
    workshop.qemu_img("create", "-q", "-f", "qcow2", "image", "1M")
    workshop.qemu_img("snapshot", "-c", "yesterday", "image")

    with pytest.raises(VmError, match="holds 1 internal snapshots"):
        judge(str(workshop.image), None)


def test_an_image_with_bitmaps_is_refused(workshop):
    workshop.qemu_img("create", "-q", "-f", "qcow2", "image", "1M")
    workshop.qemu_img("bitmap", "--add", "image", "backup")

    with pytest.raises(VmError, match="holds bitmaps of changed blocks"):
        judge(str(workshop.image), None)


def absurd_qcow2(workshop):
    workshop.patch(24, struct.pack(">Q", 1 << 62))


def huge_l1(workshop):
    workshop.patch(36, struct.pack(">I", (32 << 20) // 8 + 1))
    os.truncate(workshop.image, 64 << 20)


def huge_refcounts(workshop):
    workshop.patch(56, struct.pack(">I", (8 << 20) // CLUSTER + 1))
    os.truncate(workshop.image, 64 << 20)


def huge_clusters(workshop):
    workshop.patch(20, struct.pack(">I", 30))


BOMBS = {
    "qcow2 of exbibytes": ("qcow2", absurd_qcow2, "says that its disk has"),
    "qcow2 with an L1 table of 32 MiB and more": ("qcow2", huge_l1, "L1 table is larger"),
    "qcow2 with too many reference counts": ("qcow2", huge_refcounts, "reference counts is larger"),
    "qcow2 with clusters of a gibibyte": ("qcow2", huge_clusters, "header is not that of"),
    "vmdk of exbibytes": (
        *("vmdk", lambda w: w.patch(12, struct.pack("<Q", 1 << 50))),
        "cannot be read as vmdk|says that its disk has",
    ),
    "vdi of exbibytes": (
        *("vdi", lambda w: w.patch(368, struct.pack("<Q", 1 << 60))),
        "cannot be read as vdi|says that its disk has",
    ),
    "vhd of exbibytes": (
        *("vpc", lambda w: w.patch(48, struct.pack(">Q", 1 << 60))),
        "cannot be read as vpc|says that its disk has",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_an_absurd_image_is_refused_at_once(workshop, disk, case):
    kind, attack, words = BOMBS[case]
    workshop.qemu_img("convert", "-f", "raw", "-O", kind, disk, "image")
    attack(workshop)
    begin = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(VmError, match=words):
            judge(str(workshop.image), None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert time.monotonic() - begin < 30
    assert peak < 8 * MIB


def test_tables_that_are_one_great_hole_are_read_in_no_time(workshop):
    workshop.qemu_img("create", "-q", "-f", "qcow2", "image", "1T")
    entries = 1024**4 // (CLUSTER * CLUSTER // 8)
    tables = [(1 << 63) + 16 * MIB + number * CLUSTER for number in range(entries)]
    with open(workshop.image, "r+b") as stream:
        stream.seek(40)
        offset = struct.unpack(">Q", stream.read(8))[0]
        stream.seek(offset)
        stream.write(struct.pack(f">{entries}Q", *tables))
    os.truncate(workshop.image, 16 * MIB + entries * CLUSTER)
    begin = time.monotonic()

    inspect_image(str(workshop.image), None)

    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("options", [[], ["-c"]], ids=["plain", "compressed"])
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_qcow2_that_is_cut_off_behind_its_tables_is_refused(workshop, disk, options, missing):
    workshop.qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, disk, "image")
    inspect_image(str(workshop.image), None)
    os.truncate(workshop.image, workshop.image.stat().st_size - missing * CLUSTER)

    assert workshop.qemu_img("info", "-f", "qcow2", "image"), "QEMU sees nothing wrong"
    for look in (inspect_image, judge):
        with pytest.raises(VmError, match="it is cut off: data lies behind its end") as caught:
            look(str(workshop.image), None)
        assert caught.value.code == UNREADABLE


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vhdx", "vpc"])
def test_another_image_that_is_cut_off_is_refused(workshop, disk, kind):
    workshop.qemu_img("convert", "-f", "raw", "-O", kind, disk, "image")
    judge(str(workshop.image), None)
    # What the last blocks hold of the disk, and not only what VHDX keeps free behind them.
    os.truncate(workshop.image, min(workshop.image.stat().st_size // 2, 5 * MIB))

    with pytest.raises(VmError) as caught:
        judge(str(workshop.image), None)

    assert caught.value.code in (REFUSED, UNREADABLE)


def test_damage_that_only_qemu_img_finds_is_refused_where_images_are_taken_in(workshop, disk):
    workshop.qemu_img("convert", "-f", "raw", "-O", "qcow2", disk, "image")
    workshop.patch(2 * CLUSTER, bytes(64))  # the block of reference counts
    inspect_image(str(workshop.image), None)

    with pytest.raises(VmError, match="is damaged, as qemu-img check says: ") as caught:
        judge(str(workshop.image), None, shown="https://here/x.qcow2")

    assert caught.value.code == REFUSED
    assert "json:" not in caught.value.message
    assert caught.value.message.startswith("image: https://here/x.qcow2 is damaged")


def test_space_that_nothing_uses_does_no_harm(workshop, disk):
    workshop.qemu_img("convert", "-f", "raw", "-O", "qcow2", disk, "image")
    end = workshop.image.stat().st_size
    os.truncate(workshop.image, end + CLUSTER)
    workshop.patch(2 * CLUSTER + 2 * (end // CLUSTER), b"\0\1")

    assert subprocess.run(["qemu-img", "check", "-q", workshop.image], check=False).returncode == 3
    assert judge(str(workshop.image), None).format == "qcow2"


NAMES = [
    "nbd:127.0.0.1:1",
    "fat:rw:images",
    "file:secret",
    'json:{"driver":"null-co"}',
    "a,file.filename=b",
    "-f raw",
    "ü\u2028 %s\n",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["qcow2", "raw", "vmdk"])
def test_a_file_name_is_a_file_name(workshop, disk, monkeypatch, name, kind):
    monkeypatch.chdir(workshop.folder)
    path = workshop.folder / name
    workshop.qemu_img("convert", "-f", "raw", "-O", kind, disk, "plain")
    os.rename(workshop.folder / "plain", path)

    image = judge(str(path), kind)
    if kind == "vmdk":
        image = convert(image, str(workshop.folder / f"new {name}"))
    overlay = workshop.folder / f"overlay {name}"
    create_overlay(str(overlay), image, 8 * MIB)

    os.rename(overlay, workshop.folder / "overlay")
    assert workshop.guest_sees("overlay", "qcow2") == disk.read_bytes()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a program in qemu-img's place."""

    def put(script, seconds=60):
        path = tmp_path / "bin" / "qemu-img"
        path.parent.mkdir()
        # It may write nothing, so no bytecode either.
        path.write_text(f"#!{sys.executable} -B\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
        few = Limits(cpu_seconds=1, address_space=256 * MIB, file_size=0, wall_seconds=seconds)
        monkeypatch.setattr(qemu_img, "_LOOK", few)

    return put


BEWITCHED = {
    "processor time": ("while True: pass", "after 1 s of processor time"),
    "memory": ("x = bytearray(1 << 30)", "MemoryError"),
    "files": ("with open('made', 'w') as f: f.write('x' * 4096)", "File too large"),
    "sleep": ("import time; time.sleep(60)", "did not end within 2 s"),
    "no JSON": ("print('{')", "gave no JSON"),
    "no size": ("print('{}')", "gave no size"),
}


@pytest.mark.parametrize("case", BEWITCHED)
def test_an_image_cannot_make_qemu_img_take_the_host_for_itself(
    workshop, disk, stand_in, case, monkeypatch
):
    script, words = BEWITCHED[case]
    workshop.qemu_img("convert", "-f", "raw", "-O", "qcow2", disk, "image")
    monkeypatch.chdir(workshop.folder)
    stand_in(script, seconds=2 if case == "sleep" else 60)
    begin = time.monotonic()

    with pytest.raises(VmError) as caught:
        judge(str(workshop.image), None)

    assert words in f"{caught.value.message} {caught.value.__cause__.details}"
    assert time.monotonic() - begin < 30


SEEN = [
    ("another format", {"format": "raw"}),
    ("a backing file", {"backing-filename": "/etc/shadow"}),
    ("a data file", {"format-specific": {"data": {"data-file": "x"}}}),
    ("encryption", {"encrypted": True}),
    ("encryption", {"format-specific": {"data": {"encrypt": {"format": "luks"}}}}),
    ("internal snapshots", {"snapshots": [{}]}),
    ("several extents", {"format-specific": {"data": {"extents": [{}, {}]}}}),
]


@pytest.mark.parametrize(("what", "said"), SEEN)
def test_what_qemu_sees_and_we_did_not_is_refused(workshop, disk, stand_in, what, said):
    workshop.qemu_img("convert", "-f", "raw", "-O", "qcow2", disk, "image")
    told = {"format": "qcow2", "virtual-size": MIB, **said}
    stand_in(f"print({json.dumps(told)!r})")

    with pytest.raises(VmError, match=f"what QEMU takes for {what}"):
        judge(str(workshop.image), None)


THROUGH_ANSIBLE = {
    "backing file": (backing("{}", "raw"), {}),
    "backing file by json": (LEAKS["backing file by json"][0], {"image_format": "qcow2"}),
    "data file": (data_file, {}),
    "raw disk that a guest made look like qcow2": (raw_with_a_header, {}),
    "VMDK that is a descriptor alone": (vmdk_descriptor, {}),
    "VMDK with a parent": (vmdk_parent, {}),
}


@pytest.mark.parametrize("case", THROUGH_ANSIBLE)
def test_no_machine_is_made_from_such_an_image(hypervisor, workshop, case):
    build, options = THROUGH_ANSIBLE[case]
    build(workshop)

    for check in (True, False):
        result = hypervisor.refuse(image=str(workshop.image), check=check, **options)
        assert result["error"]["code"] == REFUSED
        assert str(workshop.image) in result["msg"]

    assert SECRET.decode() not in json.dumps(result)
    assert not hypervisor.data_dir.exists() or hypervisor.files() == []


def test_no_machine_is_made_from_half_an_image(hypervisor, workshop, disk):
    workshop.qemu_img("convert", "-f", "raw", "-O", "qcow2", disk, "image")
    os.truncate(workshop.image, workshop.image.stat().st_size - CLUSTER)

    result = hypervisor.refuse(image=str(workshop.image))

    assert result["error"]["code"] == UNREADABLE
    assert "it is cut off" in result["msg"]


def test_a_machines_disk_is_what_the_image_holds(hypervisor, workshop, disk):
    workshop.qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", disk, "image")

    hypervisor.vm(image=str(workshop.image), state="present")

    overlay = hypervisor.folder() / "overlay.qcow2"
    assert workshop.guest_sees(overlay, "qcow2") == disk.read_bytes()
    assert judge(str(workshop.image), None) == Image(str(workshop.image), "qcow2", 8 * MIB)
