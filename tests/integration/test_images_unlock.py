# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypted images and such with snapshots: taken in as a clean disk if the task says so, with all that is refused else."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.commands import Limits
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import qemu_img
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.convert import convert
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.gate import judge
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.inspect import (
    Allowance,
    Image,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.image_server import (
    ImageServer,
    digest,
)
from conftest import play, wait_until

KIB, MIB = 1024, 1024**2
CLUSTER = 64 * KIB
PASSPHRASE = "hunter2, ü=$(id)\n'\""
REFUSED = "vm_manager.image.refused"
SECRET = b"the host's own secret, 4711"
# Its second cluster is free, so what lies below an image would be seen there.
NOISE = b"".join(hashlib.sha512(bytes([n % 256, n // 256])).digest() for n in range(2048))
DISK = ((bytes(510) + b"\x55\xaa").ljust(256 * KIB, b"\0") + NOISE).ljust(MIB, b"\0")
LATER = b"\7" * CLUSTER + DISK[CLUSTER:]  # the active state, newer than the snapshot
BOTH = Allowance(PASSPHRASE, drop_snapshots=True)


@dataclass
class Workshop:
    """A folder with an image, beside a file of the host that no guest may read."""

    folder: Path
    secret: Path

    @property
    def image(self):
        return self.folder / "image.qcow2"

    @property
    def unlocked(self):
        """How QEMU alone names the image, and what it gets besides."""
        if b"LUKS\xba\xbe" not in self.image.read_bytes():
            return [], f"driver=qcow2,file.filename={self.image}"
        (self.folder / "passphrase").write_text(PASSPHRASE)
        option = f"secret,id=s,file={self.folder}/passphrase"
        node = f"driver=qcow2,file.filename={self.image},encrypt.key-secret=s"
        return ["--object", option], node

    def snapshot(self, name="yesterday"):
        """Take a snapshot, and write what is newer."""
        secret, node = self.unlocked
        run("qemu-img", "snapshot", *secret, "-c", name, "--image-opts", node)
        run("qemu-io", *secret, "--image-opts", node, "-c", f"write -P 7 0 {CLUSTER}")

    def rest_on(self, name):
        """Make the image rest on another file."""
        secret, node = self.unlocked
        words = ("-u", "-b", name, "-F", "raw")
        run("qemu-img", "rebase", *secret, *words, "--image-opts", node)

    def guest_sees(self):
        """Return what a guest reads if QEMU alone decides."""
        secret, node = self.unlocked
        seen = self.folder / "seen.raw"
        run("qemu-img", "convert", *secret, "-O", "raw", "--image-opts", node, seen)
        return seen.read_bytes()

    def patch(self, offset, data):
        with open(self.image, "r+b") as stream:
            stream.seek(offset)
            stream.write(data)

    def patch_luks(self, offset, number):
        self.patch(self.image.read_bytes().index(b"LUKS\xba\xbe") + offset, number)


def run(*words):
    done = subprocess.run([*map(str, words)], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A plain and an encrypted image of the disk."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "disk.raw").write_bytes(DISK)
    (folder / "passphrase").write_text(PASSPHRASE)
    source = ["-f", "raw", "-O", "qcow2", folder / "disk.raw"]
    run("qemu-img", "convert", *source, folder / "plain")
    secret = ("--object", f"secret,id=s,file={folder}/passphrase")
    options = ("-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10")
    command = ["qemu-img", "convert", *secret, *options, *source, folder / "encrypted"]
    begin = time.monotonic()
    # On hosts with a coarse clock, it gives up now and then, since it measured no time at all.
    while (
        b"CPU usage" in (done := subprocess.run(command, capture_output=True, check=False)).stderr
    ):
        assert time.monotonic() - begin < 300
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def workshop(images, tmp_path):
    secret = tmp_path / "host" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(SECRET.ljust(512, b".") * 256)
    folder = tmp_path / "images"
    folder.mkdir()
    return Workshop(folder, secret)


@pytest.fixture
def encrypted(workshop, images):
    shutil.copy(images / "encrypted", workshop.image)
    return workshop


@pytest.fixture
def plain(workshop, images):
    shutil.copy(images / "plain", workshop.image)
    return workshop


@pytest.fixture
def drawn(plain):
    """A workshop whose image has a snapshot."""
    plain.snapshot()
    return plain


@pytest.fixture
def task(hypervisor):
    """Run the module vm_image and expect success."""

    def run_task(**options):
        result = hypervisor.run("vm_image", **options)
        assert "failed" not in result, result
        return result

    return run_task


def refused(result, option, words=""):
    assert result.get("failed"), result
    assert result["error"]["code"] == REFUSED, result
    assert result["error"]["details"]["option"] == option
    assert words in result["msg"]
    assert SECRET.decode() not in json.dumps(result)
    assert "hunter2" not in json.dumps(result)
    return result


def kept_as(target):
    return {"target_format": target} if target else {}


def content(image, folder):
    """Return what a guest reads of an image that was taken in, which must be a plain one."""
    judged = judge(image["path"], image["format"])
    assert judged == Image(image["path"], image["format"], MIB)
    run("qemu-img", "convert", "-f", judged.format, "-O", "raw", judged.path, folder / "read.raw")
    return (folder / "read.raw").read_bytes()


@pytest.mark.parametrize("target", [None, "qcow2", "raw"])
def test_an_encrypted_image_is_kept_decrypted(hypervisor, task, encrypted, target):
    before = encrypted.image.read_bytes()
    options = {"image": str(encrypted.image), "passphrase": PASSPHRASE, **kept_as(target)}

    foreseen = task(check=True, **options)
    assert not hypervisor.data_dir.exists()
    made = task(**options)
    again = task(**options)
    foreseen_again = task(check=True, **options)
    without = task(image=str(encrypted.image))

    image = made["image"]
    assert content(image, encrypted.folder) == DISK
    assert (image["decrypted"], image["dropped_snapshots"]) == (True, 0)
    assert (image["format"], image["source_format"]) == (target or "qcow2", "qcow2")
    assert image["source_digest"] == digest(before) != image["digest"]
    assert (foreseen["changed"], made["changed"]) == (True, True)
    assert foreseen["image"]["decrypted"] is None
    assert not (again["changed"] or foreseen_again["changed"] or without["changed"])
    assert again["image"] == foreseen_again["image"] == without["image"] == image
    assert hypervisor.run("vm_image_info")["images"] == [image]
    assert sorted(os.listdir(hypervisor.data_dir / "images")) == sorted(
        [os.path.basename(image["path"]), Path(image["path"]).stem + ".json"]
    )
    assert encrypted.image.read_bytes() == before


@pytest.mark.parametrize("target", [None, "raw"])
def test_of_an_image_with_snapshots_the_active_state_is_kept(hypervisor, task, drawn, target):
    drawn.snapshot("today")
    options = {"image": str(drawn.image), "internal_snapshots": "drop", **kept_as(target)}

    foreseen = task(check=True, **options)
    assert not hypervisor.data_dir.exists()
    made = task(**options)
    again = task(**options)
    without = task(image=str(drawn.image))

    image = made["image"]
    assert content(image, drawn.folder) == LATER
    assert (image["decrypted"], image["dropped_snapshots"]) == (False, 2)
    assert (image["format"], image["source_format"]) == (target or "qcow2", "qcow2")
    assert (foreseen["changed"], made["changed"]) == (True, True)
    assert not (again["changed"] or without["changed"])
    assert again["image"] == without["image"] == image


def test_an_encrypted_image_with_snapshots_needs_both_options(hypervisor, task, encrypted):
    encrypted.snapshot()
    encrypted.image.write_bytes(gzip.compress(encrypted.image.read_bytes()))
    options = {"image": f"file://{encrypted.image}"}

    drop = hypervisor.run("vm_image", internal_snapshots="drop", **options)
    unlock = hypervisor.run("vm_image", passphrase=PASSPHRASE, **options)
    image = task(internal_snapshots="drop", passphrase=PASSPHRASE, **options)["image"]

    assert "passphrase" in refused(drop, "image", "is encrypted.")["error"]["help"]
    words = refused(unlock, "image", "holds 1 internal snapshots.")["error"]["help"]
    assert "internal_snapshots: drop" in words
    assert content(image, encrypted.folder) == LATER
    assert (image["decrypted"], image["dropped_snapshots"]) == (True, 1)


def test_drop_changes_nothing_for_an_image_without_snapshots(task, plain):
    made = task(image=str(plain.image), internal_snapshots="drop")["image"]

    assert made["digest"] == made["source_digest"] == digest(plain.image.read_bytes())
    assert (made["decrypted"], made["dropped_snapshots"]) == (False, 0)


def test_a_wrong_passphrase_is_named_and_leaves_nothing(hypervisor, task, encrypted):
    words = f"passphrase: it does not unlock file://{encrypted.image}."
    for wrong in ("hunter3", PASSPHRASE[:-1], f"{PASSPHRASE}\n"):
        options = {"image": str(encrypted.image), "passphrase": wrong}
        refused(hypervisor.run("vm_image", check=True, **options), "passphrase", words)
        assert not hypervisor.data_dir.exists() or wrong != "hunter3"
        refused(hypervisor.run("vm_image", **options), "passphrase", words)
        assert hypervisor.files() == []

    assert task(image=str(encrypted.image), passphrase=PASSPHRASE)["image"]["decrypted"]


def test_a_wrong_passphrase_does_not_cost_the_download(hypervisor, task, encrypted):
    data = encrypted.image.read_bytes()
    with ImageServer() as server:
        url = server.serve(data, "/laptop.qcow2")
        for options in ({}, {"passphrase": "hunter3"}):
            assert hypervisor.run("vm_image", image=url, **options)["failed"]
            assert [Path(file).suffix for file in hypervisor.files()] == [".part", ".json"]
        image = task(image=url, passphrase=PASSPHRASE)["image"]

        asked = [
            "if-none-match" in asked.headers for asked in server.asked
        ]  # by whoever has all of it
        assert asked == [False, True, True]
    assert content(image, encrypted.folder) == DISK
    assert len(hypervisor.files()) == 2


def test_an_image_that_was_kept_locked_does_not_stand_for_the_decrypted_one(
    hypervisor, task, encrypted
):
    options = {"image": str(encrypted.image), "target_format": "raw"}
    unlocked = {"image_format": "qcow2", "passphrase": PASSPHRASE, **options}
    locked = task(image_format="raw", **options)["image"]

    refusal = refused(hypervisor.run("vm_image", **unlocked), "image_format", "is here already as")
    found = hypervisor.run("vm_image_info")["images"]
    task(image=locked["path"], state="absent")
    image = task(**unlocked)["image"]

    assert locked["path"] in refusal["error"]["help"]
    assert found == [locked]
    assert image["decrypted"]
    assert content(image, encrypted.folder) == DISK


@pytest.mark.parametrize("kind", ["qcow2", "raw", "vmdk"])
def test_a_passphrase_for_an_image_that_is_not_encrypted_is_refused(hypervisor, task, plain, kind):
    path = plain.folder / f"disk.{kind}"
    run("qemu-img", "convert", "-f", "qcow2", "-O", kind, plain.image, path)

    words = f"passphrase: file://{path} is not encrypted."
    foreseen = hypervisor.run("vm_image", image=str(path), passphrase=PASSPHRASE, check=True)
    new = hypervisor.run("vm_image", image=f"file://{path}", passphrase=PASSPHRASE)
    left = hypervisor.files()
    kept = task(image=f"file://{path}")["image"]["path"]

    assert refused(foreseen, "passphrase", words)["error"] == new["error"]
    refused(new, "passphrase", words)
    assert left == []
    for check in (True, False):
        for image in (f"file://{path}", kept):
            result = hypervisor.run("vm_image", image=image, passphrase=PASSPHRASE, check=check)
            refused(result, "passphrase", f"passphrase: {image} is not encrypted.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"passphrase": ""}, "it is empty"),
        ({"passphrase": "a\0b"}, "holds what is no text"),
        ({"passphrase": "x" * 4097}, "longer than 4096 bytes"),
        ({"passphrase": "x", "state": "absent"}, "state=absent takes none"),
        ({"passphrase": "x", "state": "pushed"}, "state=pushed takes none"),
        ({"passphrase": "x", "state": "pruned", "image": None}, "state=pruned takes none"),
        ({"internal_snapshots": "drop", "state": "absent"}, "state=absent takes none"),
        ({"internal_snapshots": "drop", "state": "pushed"}, "state=pushed takes none"),
        (
            {"internal_snapshots": "drop", "state": "pruned", "image": None},
            "state=pruned takes none",
        ),
    ],
    ids=str,
)
def test_options_that_can_do_nothing_are_refused(hypervisor, options, words):
    result = hypervisor.run("vm_image", **{"image": "/x", **options})

    assert result["error"]["details"] == {"option": next(iter(options))}, result
    assert words in result["msg"]
    assert not hypervisor.data_dir.exists()


@pytest.mark.parametrize("length", [1, 4096])
def test_the_longest_passphrase_gets_through(encrypted, length):
    with pytest.raises(VmError, match="it does not unlock"):
        judge(str(encrypted.image), None, allowance=Allowance("x" * length))

    with qemu_img.spoken("x" * length) as stdin:
        assert stdin.read() == b"x" * length


SPY = """#!/bin/sh
{
  tr '\\0' '\\n' < /proc/$$/cmdline
  tr '\\0' '\\n' < /proc/$$/environ
  readlink /proc/$$/fd/0
} > %s
exec %s "$@"
"""


def test_the_passphrase_is_nowhere_to_be_seen(hypervisor, encrypted):
    """What qemu-img is called with is written to a pipe, since it may write no file."""
    pipe, seen = encrypted.folder / "pipe", encrypted.folder / "seen"
    os.mkfifo(pipe)
    spy = encrypted.folder / "bin" / "qemu-img"
    spy.parent.mkdir()
    spy.write_text(SPY % (pipe, shutil.which("qemu-img")))
    spy.chmod(0o755)
    hypervisor.environment["PATH"] = f"{spy.parent}{os.pathsep}{hypervisor.environment['PATH']}"
    options = {"image": str(encrypted.image), "passphrase": PASSPHRASE}
    with open(seen, "wb") as stream:
        fd = os.open(pipe, os.O_RDWR)
        reader = subprocess.Popen(["cat", pipe], stdout=stream)
        task = hypervisor.begin("vm_image", **options)
        shown = [Path(f"/proc/{task.pid}/{name}") for name in ("cmdline", "environ")]
        wait_until(lambda: all(path.read_bytes() for path in shown))  # at once it shows neither
        argv, environ = (path.read_bytes() for path in shown)
        results = [hypervisor.end(task), hypervisor.run("vm_image", check=True, **options)]
        os.close(fd)
        reader.wait(60)

    told = seen.read_text()
    assert results[0]["image"]["decrypted"]
    assert results[0]["invocation"]["module_args"]["passphrase"] == "(hidden)"
    assert b"python" in argv
    assert b"PATH=" in environ
    assert sum(line.startswith("PATH=") for line in told.splitlines()) == 5
    assert told.count("secret,id=passphrase,file=/dev/stdin") == 2
    stdin = [line for line in told.splitlines() if line.startswith(("pipe:[", "/dev/null"))]
    assert [line[:5] for line in stdin] == ["/dev/", "pipe:", "pipe:", "/dev/", "/dev/"]
    texts = [told, argv.decode(), environ.decode(), *map(json.dumps, results)]
    texts += [path.read_text() for path in hypervisor.data_dir.rglob("*.json")]
    assert [text for text in texts if "hunter2" in text] == []
    left = [path for path in hypervisor.data_dir.rglob("*") if path.is_file()]
    assert [path for path in left if PASSPHRASE.encode() in path.read_bytes()] == []


PLAY = """
- name: Images
  hosts: all
  gather_facts: false
  tasks:
    - name: Import
      cloudnebula.hypervisor.vm_image:
        image: "{{ image }}"
        passphrase: "{{ lookup('file', file, rstrip=false) }}"
        data_dir: "{{ data }}"
"""


def test_a_playbook_shows_no_passphrase(hypervisor, encrypted):
    (encrypted.folder / "play.yml").write_text(PLAY)
    (encrypted.folder / "passphrase").write_text(PASSPHRASE)
    variables = {
        "image": str(encrypted.image),
        "data": str(hypervisor.data_dir),
        "file": str(encrypted.folder / "passphrase"),
    }

    told = play(encrypted.folder / "play.yml", "-vvv", "--diff", **variables).stdout

    assert "changed=1" in told
    assert "decrypted: true" in told
    assert "hunter2" not in told


def backing(name):
    """Return an attack by an image that rests on what this says; ``{}`` is the secret's path."""
    return lambda workshop: workshop.rest_on(name.replace("{}", str(workshop.secret)))


def bitmap(workshop):
    secret, node = workshop.unlocked
    run("qemu-img", "bitmap", *secret, "--add", "--image-opts", node, "backup")


def cut_off(workshop):
    os.truncate(workshop.image, workshop.image.stat().st_size - 2 * CLUSTER)


# What is done to an image, and what its refusal says.
ATTACKS = {
    "a backing file": (backing("{}"), "depends on another file"),
    "a backing file by json": (
        backing('json:{"driver":"raw","file":{"driver":"file","filename":"{}"}}'),
        "depends on another file, 'json:",
    ),
    "a backing file by protocol": (backing("file:{}"), "depends on another file, 'file:"),
    "a server": (backing("nbd://127.0.0.1:1/x"), "depends on another file, 'nbd:"),
    "a data file": (lambda w: w.patch(79, b"\4"), "keeps its data in another file"),
    "corruption": (lambda w: w.patch(79, b"\2"), "is marked as corrupt"),
    "exbibytes": (lambda w: w.patch(24, struct.pack(">Q", 1 << 60)), "says that its disk has"),
    "bitmaps": (bitmap, "holds bitmaps"),
    "an end that is missing": (cut_off, "it is cut off|lies where none can|table of snapshots"),
    "wrong counts": (lambda w: w.patch(2 * CLUSTER, bytes(64)), "is damaged, as qemu-img check"),
}


ASKED = {"encrypted": {"passphrase": PASSPHRASE}, "drawn": {"internal_snapshots": "drop"}}
ALLOWED = {"encrypted": Allowance(PASSPHRASE), "drawn": Allowance(drop_snapshots=True)}


@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize("case", ATTACKS)
def test_an_image_that_holds_more_than_is_allowed_is_refused(request, kind, case):
    workshop = request.getfixturevalue(kind)
    attack, words = ATTACKS[case]
    judge(str(workshop.image), None, allowance=ALLOWED[kind])
    attack(workshop)

    if case.startswith("a backing file"):
        assert SECRET in workshop.guest_sees(), "this attack is none"
    for said in (None, "qcow2"):
        with pytest.raises(VmError, match=words):
            judge(str(workshop.image), said, allowance=ALLOWED[kind])


@pytest.mark.parametrize("kind", ALLOWED)
def test_nothing_of_such_an_image_is_kept(hypervisor, request, kind):
    workshop = request.getfixturevalue(kind)
    workshop.rest_on(str(workshop.secret))

    for target in ("qcow2", "raw"):
        options = {"image": str(workshop.image), "target_format": target, **ASKED[kind]}
        for check in (True, False):
            result = hypervisor.run("vm_image", check=check, **options)
            refused(result, "image", "depends on another file")

    assert hypervisor.files() == []


def test_the_old_encryption_stays_refused(workshop):
    (workshop.folder / "passphrase").write_text(PASSPHRASE)
    secret = ("--object", f"secret,id=s,file={workshop.folder}/passphrase")
    options = ("-o", "encrypt.format=aes,encrypt.key-secret=s")
    run("qemu-img", "create", "-q", "-f", "qcow2", *secret, *options, workshop.image, "1M")

    with pytest.raises(VmError, match="is encrypted in a way that is not supported") as caught:
        judge(str(workshop.image), None, allowance=BOTH)

    assert caught.value.code == REFUSED


# Where in the LUKS header, and what it is made to say: qemu-img believes it until its limits end it.
BOMBS = {
    "a key that takes ages to derive": (212, 2**32 - 1),
    "a master key that takes ages to derive": (164, 2**32 - 1),
    "a master key of gibibytes": (108, 2**32 - 1),
    "a key in endless stripes": (252, 2**32 - 1),
    "a key behind the end": (248, 2**32 - 1),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_header_of_luks_cannot_take_the_host_for_itself(encrypted, monkeypatch, case):
    judge(str(encrypted.image), None, allowance=BOTH)
    few = Limits(cpu_seconds=1, address_space=qemu_img.MEMORY, file_size=0, wall_seconds=120)
    monkeypatch.setattr(qemu_img, "_CHECK", few)
    offset, number = BOMBS[case]
    encrypted.patch_luks(offset, struct.pack(">I", number))
    begin = time.monotonic()

    with pytest.raises(VmError) as caught:
        judge(str(encrypted.image), None, allowance=BOTH)

    assert caught.value.code in (REFUSED, "vm_manager.image.format_detection_failed")
    assert ("after 1 s of processor time" in caught.value.message) == ("ages" in case)
    assert time.monotonic() - begin < 120


def test_snapshots_of_great_length_are_refused_before_qemu_img_repeats_them(drawn, monkeypatch):
    monkeypatch.setattr(qemu_img, "info", None)
    head = drawn.image.read_bytes()[60:72]
    offset = struct.unpack(">IQ", head)[1]
    drawn.patch(60, struct.pack(">I", 65536))
    drawn.patch(offset, (bytes(14) + b"\xff\xff" + bytes(24) + b"\1" * 65536) * 20)

    with pytest.raises(VmError, match="its table of snapshots is cut off, or larger"):
        judge(str(drawn.image), None, allowance=BOTH)


def test_the_conversion_of_an_encrypted_image_is_limited(encrypted, monkeypatch):
    image = judge(str(encrypted.image), None, allowance=BOTH)
    encrypted.patch_luks(212, struct.pack(">I", 2**32 - 1))
    few = Limits(cpu_seconds=1, address_space=qemu_img.MEMORY, wall_seconds=120)
    monkeypatch.setattr(convert.__module__ + "._limits", lambda dummy: few)

    with pytest.raises(VmError, match="after 1 s of processor time") as caught:
        convert(image, str(encrypted.folder / "new.qcow2"))

    assert caught.value.code == "vm_manager.image.conversion_failed"
    assert sorted(os.listdir(encrypted.folder)) == ["image.qcow2"]
    assert "hunter2" not in json.dumps(caught.value.as_dict())


@pytest.mark.parametrize("kind", ALLOWED)
def test_a_machine_needs_the_image_taken_in_first(hypervisor, task, request, kind):
    workshop = request.getfixturevalue(kind)
    url = f"file://{workshop.image}"
    machine = {"state": "present", "memory": "64"}

    path = str(workshop.image)
    disks = [{"name": "data", "image": path}]
    plain = str(request.getfixturevalue("images") / "plain")
    results = [
        hypervisor.refuse(image=path, **machine),
        hypervisor.refuse(image=path, check=True, **machine),
        hypervisor.refuse(image=url, **machine),
        hypervisor.refuse(image=plain, disks=disks, **machine),
    ]
    left = hypervisor.files()
    kept = task(image=path, **ASKED[kind])["image"]["path"]
    hypervisor.vm("web1", image=url, **machine)
    hypervisor.vm("web2", image=kept, **machine)

    for result in results:
        assert "Import it with the module vm_image" in result["error"]["help"]
        assert next(iter(ASKED[kind])) in result["error"]["help"]
        assert result["error"]["code"] == REFUSED
    assert left == []
    users = hypervisor.run("vm_image_info")["images"]
    assert [image["in_use_by"] for image in users] == [["web1", "web2"]]
