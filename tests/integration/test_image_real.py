# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images as qemu-img makes them: what we read of them is what qemu-img says, and what is unsafe is refused."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    OverlayFailed,
    VmError,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.inspect import (
    Image,
    inspect_image,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.overlay import (
    create_overlay,
    grow_overlay,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import preparation

MIB = 1024**2
REFUSED = "vm_manager.image.refused"
UNREADABLE = "vm_manager.image.format_detection_failed"


@pytest.fixture
def qemu_img(tmp_path):
    def run(*words):
        done = subprocess.run(
            ["qemu-img", *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    return run


def info(qemu_img, path):
    return json.loads(qemu_img("info", "--output=json", str(path)))


@pytest.fixture
def disk(tmp_path):
    """A raw disk with a boot sector and something on it."""
    path = tmp_path / "disk.raw"
    path.write_bytes((bytes(510) + b"\x55\xaa" + os.urandom(300_000)).ljust(8 * MIB, b"\0"))
    return path


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-o", "compat=0.10"],
        ["-o", "compat=1.1"],
        ["-o", "cluster_size=512"],
        ["-o", "cluster_size=2M"],
        ["-o", "lazy_refcounts=on"],
        ["-o", "extended_l2=on,cluster_size=128k"],
        ["-o", "preallocation=metadata"],
        ["-o", "refcount_bits=1"],
        ["-c"],
        ["-c", "-o", "compression_type=zstd"],
    ],
    ids=" ".join,
)
def test_a_converted_image_is_read_as_qemu_img_reads_it(tmp_path, qemu_img, disk, options):
    path = tmp_path / "image.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, str(disk), str(path))

    image = inspect_image(str(path), None)

    shown = info(qemu_img, path)
    assert (image.format, image.virtual_size) == (shown["format"], shown["virtual-size"])
    assert inspect_image(str(path), "qcow2") == image


@pytest.mark.parametrize("size", ["512", "10M", "3000G", "12345678B"])
def test_an_empty_image_of_any_size_is_read(tmp_path, qemu_img, size):
    path = tmp_path / "image.qcow2"
    qemu_img("create", "-f", "qcow2", str(path), size.rstrip("B"))

    assert inspect_image(str(path), None).virtual_size == info(qemu_img, path)["virtual-size"]


def test_a_raw_disk_is_told_by_its_boot_sector(disk):
    assert inspect_image(str(disk), None) == Image(str(disk), "raw", 8 * MIB)


UNSAFE = {
    "a backing file": ["-b", "disk.raw", "-F", "raw"],
    "a backing file of qcow2": ["-u", "-b", "/nowhere/base.qcow2", "-F", "qcow2"],
    "a backing file that is no file": ["-u", "-b", "nbd://127.0.0.1:1/x", "-F", "raw"],
    "a data file": ["-o", "data_file=data.raw"],
    "a raw data file": ["-o", "data_file=data.raw,data_file_raw=on"],
    "encryption": [
        *("--object", "secret,id=s,data=hunter2"),
        *("-o", "encrypt.format=aes,encrypt.key-secret=s"),
    ],
}


@pytest.mark.parametrize("case", UNSAFE)
def test_an_image_that_reaches_beyond_itself_is_refused(tmp_path, qemu_img, disk, case):
    path = tmp_path / "image.qcow2"
    qemu_img("create", "-f", "qcow2", *UNSAFE[case], str(path), "16M")

    for image_format in (None, "qcow2"):
        with pytest.raises(VmError) as caught:
            inspect_image(str(path), image_format)

        assert caught.value.code == REFUSED


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vpc", "vhdx", "qed"])
def test_other_formats_are_not_guessed(tmp_path, qemu_img, kind):
    path = tmp_path / "image"
    qemu_img("create", "-f", kind, str(path), "16M")

    with pytest.raises(VmError) as guessed:
        inspect_image(str(path), None)
    with pytest.raises(VmError) as declared:
        inspect_image(str(path), "qcow2")

    assert (guessed.value.code, declared.value.code) == (REFUSED, UNREADABLE)


@pytest.mark.parametrize("length", [4, 71, 104, 512, 65536, 65536 * 3])
def test_an_image_that_was_cut_off_is_not_read(tmp_path, qemu_img, disk, length):
    path = tmp_path / "image.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", str(disk), str(path))
    os.truncate(path, length)

    with pytest.raises(VmError) as caught:
        inspect_image(str(path), None)

    assert caught.value.code == UNREADABLE


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_an_overlay_rests_on_the_image_and_grows(tmp_path, qemu_img, disk, kind):
    base = tmp_path / "a b,c=d ü.img"
    qemu_img("convert", "-f", "raw", "-O", kind, str(disk), str(base))
    before = base.read_bytes()
    overlay = tmp_path / "overlay.qcow2"

    create_overlay(str(overlay), inspect_image(str(base), kind), 16 * MIB)
    made = info(qemu_img, overlay)
    grow_overlay(str(overlay), 32 * MIB)

    assert (made["virtual-size"], made["backing-filename-format"]) == (16 * MIB, kind)
    assert made["full-backing-filename"] == str(base)
    assert info(qemu_img, overlay)["virtual-size"] == 32 * MIB
    assert overlay.stat().st_mode & 0o777 == 0o600
    assert base.read_bytes() == before


def test_an_overlay_never_shrinks(tmp_path, qemu_img, disk):
    overlay = tmp_path / "overlay.qcow2"
    create_overlay(str(overlay), inspect_image(str(disk), None), 16 * MIB)

    with pytest.raises(OverlayFailed, match="could not be grown"):
        grow_overlay(str(overlay), 8 * MIB)

    assert info(qemu_img, overlay)["virtual-size"] == 16 * MIB


def test_an_overlay_that_cannot_be_made_leaves_nothing(tmp_path):
    missing = Image(str(tmp_path / "missing"), "qcow2", MIB)

    with pytest.raises(OverlayFailed, match="could not be made"):
        create_overlay(str(tmp_path / "overlay.qcow2"), missing, MIB)

    assert os.listdir(tmp_path) == []


def test_a_disk_that_was_left_half_way_gets_the_size_of_the_next_wish(tmp_path, qemu_img, disk):
    store = Store(str(tmp_path / "data"))
    keys = CloudInit(ssh_authorized_keys=())
    wish = VmSpec("web1", image=str(disk), disk_size=16 * MIB, cloud_init=keys).completed()
    made = preparation.create(wish, None, store)
    left = store.save(made.evolve(state=VmState.PREPARING, overlay_path=None, disk_bytes=None))

    done = preparation.create(replace(left.spec, disk_size=32 * MIB), left, store)

    assert done.disk_bytes == info(qemu_img, done.overlay_path)["virtual-size"] == 32 * MIB
