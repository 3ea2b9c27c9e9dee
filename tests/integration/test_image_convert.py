# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of other hypervisors, as qemu-img makes them, become disks that hold the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.commands import Limits
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import (
    convert as converting,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.convert import convert
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.gate import judge
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.inspect import Image

MIB = 1024**2
FAILED = "vm_manager.image.conversion_failed"
SIZE = 48 * MIB


@pytest.fixture
def disk(tmp_path):
    """A raw disk with a boot sector, something at its beginning and at its end, and much nothing between."""
    path = tmp_path / "disk.raw"
    with open(path, "wb") as stream:
        stream.write(bytes(510) + b"\x55\xaa" + os.urandom(2 * MIB))
        stream.seek(SIZE - MIB)
        stream.write(os.urandom(MIB))
    return path


def qemu_img(*words):
    return subprocess.run(["qemu-img", *map(str, words)], capture_output=True, check=True).stdout


@pytest.fixture
def image(tmp_path, disk):
    """The disk as a judged VMDK."""
    path = tmp_path / "image.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", disk, path)
    return judge(str(path), None)


KINDS = {
    "vmdk": ["vmdk"],
    "vmdk as OVF has it": ["vmdk", "-o", "subformat=streamOptimized"],
    "vdi": ["vdi"],
    "vdi of full size": ["vdi", "-o", "static=on"],
    "vhdx": ["vhdx"],
    "vhdx of full size": ["vhdx", "-o", "subformat=fixed"],
    "vhd": ["vpc", "-o", "force_size=on"],
    "vhd of full size": ["vpc", "-o", "force_size=on,subformat=fixed"],
    "compressed qcow2": ["qcow2", "-c"],
    "raw": ["raw"],
}


@pytest.mark.parametrize("target_format", ["qcow2", "raw"])
@pytest.mark.parametrize("case", KINDS)
def test_a_converted_image_holds_the_same(tmp_path, disk, case, target_format):
    source, target = tmp_path / "source", tmp_path / "target"
    qemu_img("convert", "-f", "raw", "-O", *KINDS[case], disk, source)
    before = source.read_bytes()
    seen = []

    made = convert(
        judge(str(source), None),
        str(target),
        target_format,
        progress=lambda done, total: seen.append((done, total)),
    )

    assert made == Image(str(target), target_format, SIZE)
    qemu_img("compare", "-f", "raw", "-F", target_format, disk, target)
    assert target.stat().st_blocks * 512 < 8 * MIB, "holes were filled"
    assert target.stat().st_mode & 0o777 == 0o600
    assert source.read_bytes() == before
    assert seen == sorted(seen) and seen[-1] == (SIZE, SIZE)
    assert sorted(os.listdir(tmp_path)) == ["disk.raw", "source", "target"]


def test_the_format_that_was_judged_is_the_one_that_is_converted(tmp_path, disk, image):
    target = tmp_path / "target"

    made = convert(Image(image.path, "raw", SIZE), str(target))

    length = os.path.getsize(image.path)
    assert made.virtual_size == -(-length // 512) * 512
    qemu_img("compare", "-f", "raw", "-F", "qcow2", image.path, target)


def test_data_that_cannot_be_unpacked_leaves_nothing(tmp_path, disk):
    source, target = tmp_path / "image.vmdk", tmp_path / "target"
    qemu_img("convert", "-f", "raw", "-O", *KINDS["vmdk as OVF has it"], disk, source)
    with open(source, "r+b") as stream:
        stream.seek(MIB)
        stream.write(bytes(MIB // 4))
    image = judge(str(source), None)
    target.write_text("what was there")

    with pytest.raises(VmError, match="could not be converted from vmdk to qcow2") as caught:
        convert(image, str(target), shown="https://here/x.vmdk")

    assert caught.value.code == FAILED
    assert caught.value.message.startswith("image: https://here/x.vmdk could not")
    assert "json:" not in caught.value.message
    assert target.read_text() == "what was there"
    assert sorted(os.listdir(tmp_path)) == ["disk.raw", "image.vmdk", "target"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(file_size=MIB), "wrote more than 1MiB|File too large"),
        (Limits(wall_seconds=-1.0), "did not end within"),
        (Limits(address_space=16 * MIB), "."),
    ],
    ids=["file", "time", "memory"],
)
def test_limits_bite(tmp_path, image, monkeypatch, limits, words):
    monkeypatch.setattr(converting, "_limits", lambda dummy: limits)

    with pytest.raises(VmError, match=words) as caught:
        convert(image, str(tmp_path / "target"))

    assert caught.value.code == FAILED
    assert sorted(os.listdir(tmp_path)) == ["disk.raw", "image.vmdk"]


def test_a_folder_that_is_not_there_is_named(tmp_path, image):
    with pytest.raises(VmError, match=r"Could not convert .*: No such file") as caught:
        convert(image, str(tmp_path / "missing" / "target"))

    assert caught.value.code == "vm_manager.io"


def test_a_conversion_that_is_killed_shows_nothing_under_the_name(tmp_path, image):
    slow = tmp_path / "bin" / "qemu-img"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\necho half >$6\necho '    (50.00/100%)'\nexec sleep 60\n")
    slow.chmod(0o755)
    target = tmp_path / "target"
    package = Image.__module__.rpartition(".")[0]
    code = (
        f"from {package}.convert import convert, Image\n"
        f"convert(Image({image.path!r}, 'vmdk', {SIZE}), {str(target)!r},"
        " progress=lambda *how_far: print(*how_far, flush=True))"
    )
    environment = {**os.environ, "PATH": f"{slow.parent}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment
    ) as task:
        assert task.stdout.readline().split() == [str(SIZE // 2).encode(), str(SIZE).encode()]
        children = f"/proc/{task.pid}/task/{task.pid}/children"
        with open(children) as stream:
            child = int(stream.read())
        task.kill()
    os.kill(child, signal.SIGKILL)
    time.sleep(0.1)

    assert not target.exists()
    assert (tmp_path / ".target.part").read_text() == "half\n"
    assert convert(image, str(target)).virtual_size == SIZE
    assert sorted(os.listdir(tmp_path)) == ["bin", "disk.raw", "image.vmdk", "target"]
