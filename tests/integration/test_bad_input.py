# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong input: one clear sentence with a code and help, before anything is touched, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MIB = 1024 * 1024

# what is wrong, the options, the code, and a part of the sentence
OPTIONS = {
    "empty name": ({"name": ""}, "spec.invalid_name", "name"),
    "name that climbs out": ({"name": "../x"}, "spec.invalid_name", "'../x'"),
    "name of 300 characters": ({"name": "x" * 300}, "spec.invalid_name", "name"),
    "name with a newline": ({"name": "a\nb"}, "spec.invalid_name", "name"),
    "name that ends with a newline": ({"name": "ab\n"}, "spec.invalid_name", "name"),
    "name that begins with a dash": ({"name": "-x"}, "spec.invalid_name", "'-x'"),
    "name that begins with a dot": ({"name": ".x"}, "spec.invalid_name", "'.x'"),
    "no vcpus": ({"vcpus": 0}, "create.invalid_vcpus", "vcpus: 0"),
    "negative vcpus": ({"vcpus": -1}, "create.invalid_vcpus", "vcpus: -1"),
    "no memory": ({"memory": 0}, "create.invalid_memory", "memory"),
    "memory in bananas": ({"memory": "2 bananas"}, "create.invalid_memory", "2 bananas"),
    "no disk": ({"disk_size": 0}, "spec.invalid", "disk_size"),
    "disk smaller than the image": ({"disk_size": "512KiB"}, "spec.invalid", "512KiB is smaller"),
    "unknown CPU model": ({"cpu": "abacus"}, "spec.invalid", "abacus"),
    "CPU model with a comma trick": ({"cpu": "max\n-S"}, "spec.invalid", "cpu"),
    "unknown machine type": ({"machine": "sewing"}, "spec.invalid", "sewing"),
    "SSH over no network": ({"networks": [], "wait_for": "ssh"}, "spec.invalid", "wait_for"),
    "ports that are no range": ({"ssh_port_range": "22"}, "spec.invalid", "ssh_port_range"),
    "negative time": ({"stop_timeout": -1}, "spec.invalid", "stop_timeout"),
    "image with a relative path": ({"image": "images/a.raw"}, "spec.invalid", "image: 'images"),
    "image with a zero byte": ({"image": "/srv/a\0.raw"}, "spec.invalid", "image: '/srv/a\\x00"),
    "relative data folder": ({"data_dir": "data"}, "spec.invalid", "data_dir: 'data'"),
    "data folder with a zero byte": ({"data_dir": "/srv/\0"}, "spec.invalid", "data_dir: '/srv"),
    "private key instead of a public one": (
        {"cloud_init": {"ssh_authorized_keys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]}},
        "spec.invalid",
        "ssh_authorized_keys[0]",
    ),
    "user-data that is none": (
        {"cloud_init": {"user_data": "just words"}},
        "spec.invalid",
        "user_data",
    ),
}

# what Ansible itself refuses by the argument specification
ARGUMENTS = {
    "unknown option": ({"colour": "red"}, "colour"),
    "unknown suboption": ({"networks": [{"type": "user", "speed": 10}]}, "speed"),
    "unknown network": ({"networks": [{"type": "carrier-pigeon"}]}, "carrier-pigeon"),
    "unknown state": ({"state": "flying"}, "flying"),
    "vcpus that are no number": ({"vcpus": "many"}, "vcpus"),
}


def expect(hypervisor, options, code, part):
    """Run with bad options, for real and in check mode; nothing may be left behind."""
    for check in (False, True):
        result = hypervisor.refuse(**{**hypervisor.defaults, **options}, check=check)
        assert result["error"]["code"] == f"vm_manager.{code}"
        assert part in result["msg"]
        assert "\n" not in result["msg"].strip()
        assert result["error"]["help"]
    assert not hypervisor.data_dir.exists()


@pytest.mark.parametrize("case", OPTIONS)
def test_option(idle, case):
    expect(idle, *OPTIONS[case])


@pytest.mark.parametrize("data_dir", ["data", "./data", "/srv/a\0b"])
def test_data_folder_of_a_look(hypervisor, data_dir):
    result = hypervisor.run("vm_info", data_dir=data_dir)

    assert result["failed"]
    assert result["error"]["code"] == "vm_manager.spec.invalid"
    assert result["error"]["details"] == {"option": "data_dir"}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_argument(idle, case):
    options, part = ARGUMENTS[case]

    result = idle.run("vm", **{"name": "vm1", **idle.defaults, **options})

    assert result["failed"]
    assert part in result["msg"]
    assert not idle.data_dir.exists()


def missing(folder: Path) -> Path:
    return folder / "nowhere.qcow2"


def a_folder(folder: Path) -> Path:
    return folder


def no_image(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("not a disk\n" * 1000)
    return path


def empty(folder: Path) -> Path:
    path = folder / "empty"
    path.touch()
    return path


def truncated(folder: Path) -> Path:
    path = folder / "cut.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1G"], check=True)
    os.truncate(path, 60)
    return path


def reaching_out(folder: Path) -> Path:
    secret = folder / "secret"
    secret.write_bytes(b"s" * MIB)
    path = folder / "hostile.qcow2"
    command = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-F",
        "raw",
        "-b",
        secret,
        path,
        "1M",
    ]
    subprocess.run(command, check=True)
    return path


IMAGES = {
    missing: ("create.image_not_found", "does not exist"),
    a_folder: ("create.image_not_found", "is a folder"),
    no_image: ("image.refused", "no disk image that is known here"),
    empty: ("image.refused", "no disk image that is known here"),
    truncated: ("image.format_detection_failed", "cannot be read as qcow2"),
    reaching_out: ("image.refused", "depends on another file"),
}


@pytest.mark.parametrize("make", IMAGES, ids=lambda make: make.__name__)
def test_image(hypervisor, tmp_path, make):
    code, part = IMAGES[make]
    path = make(tmp_path)

    result = hypervisor.refuse(image=str(path))

    assert result["error"]["code"] == f"vm_manager.{code}"
    assert part in result["msg"]
    assert str(path) in result["msg"]
    assert not hypervisor.data_dir.exists()


def test_no_image_for_a_new_machine(hypervisor):
    expect(hypervisor, {}, "create.no_image", "no image to create it from")


def test_image_that_an_earlier_task_would_bring(hypervisor, tmp_path):
    """In check mode that task has not run, so a missing image is no error there."""
    result = hypervisor.vm(image=str(tmp_path / "later.qcow2"), check=True)

    assert result["changed"]
    assert result["actions"] == ["prepare", "start"]
    assert "unless an earlier one" in result["warnings"][0]
    assert not hypervisor.data_dir.exists()


def programs_without(folder: Path, *missing: str) -> str:
    """Return a PATH on which some programs are not to be found."""
    for place in [*os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/sbin"]:
        for program in Path(place).glob("*"):
            link = folder / program.name
            if program.name not in missing and not link.exists() and not link.is_symlink():
                link.symlink_to(program)
    return str(folder)


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("qemu-system-x86_64", "backend.not_available"),
        ("qemu-img", "host.program_missing"),
        ("ssh-keygen", "ssh.keygen_failed"),
    ],
)
def test_missing_program(idle, tmp_path, program, code):
    places = tmp_path / "bin"
    places.mkdir()
    idle.environment["PATH"] = programs_without(places, program, "qemu-kvm")

    result = idle.refuse(**idle.defaults)

    assert result["error"]["code"] == f"vm_manager.{code}"
    assert program in result["msg"]
    assert not idle.data_dir.exists()


def test_kvm_is_used_where_it_works_and_refused_where_not(idle):
    auto = idle.vm(state="started")["vm"]
    idle.vm(state="absent", force=True)

    if auto["accelerator"] == "kvm":
        assert idle.vm(accelerator="kvm")["vm"]["accelerator"] == "kvm"
    else:
        result = idle.refuse(**idle.defaults, accelerator="kvm")
        assert result["error"]["code"] == "vm_manager.backend.not_available"
        assert auto["accelerator_reason"].startswith("KVM is not usable")
        assert idle.files() == []


def test_data_folder_that_is_a_file(idle):
    idle.data_dir.write_text("in the way")

    result = idle.refuse(**idle.defaults)

    assert result["error"]["code"] == "vm_manager.io"
    assert "data_dir" in result["msg"]
    assert idle.data_dir.read_text() == "in the way"
    idle.data_dir.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("place", ["data", "data/vms"])
@pytest.mark.parametrize("wrong", ["owner", "mode"])
def test_data_folder_of_others(idle, place, wrong):
    """Who owns it, or may write to it, could swap what root is about to use."""
    folder = idle.data_dir.parent / place
    (idle.data_dir / "vms").mkdir(parents=True, mode=0o700)
    if wrong == "owner":
        os.chown(folder, 65534, 65534)
    else:
        folder.chmod(0o777)

    results = [idle.refuse(**idle.defaults, check=check) for check in (True, False)]
    looked = idle.run("vm_info", name=["vm1"])

    said = "belongs to another user (uid 65534)" if wrong == "owner" else "other users may write"
    for result in results:
        assert result["error"]["code"] == "vm_manager.io"
        assert said in result["msg"]
        assert str(folder) in result["msg"]
        assert result["error"]["help"]
    assert looked["vms"] == []
    assert said in looked["warnings"][0]
    assert [path.name for path in idle.data_dir.rglob("*")] == ["vms"]


def test_data_folder_that_a_umask_left_open_to_the_group(idle):
    idle.data_dir.mkdir()
    idle.data_dir.chmod(0o775)

    assert idle.vm(state="present")["changed"]


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can mount a small or read-only file system"
)
@pytest.mark.parametrize(
    "options", ["size=4k", "size=64k,ro", "size=128k"], ids=["full", "read-only", "full later"]
)
def test_file_system_that_refuses(idle, tmp_path, options):
    idle.data_dir = tmp_path / "mounted" / "data"
    idle.data_dir.parent.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", idle.data_dir.parent], check=True
    )
    try:
        result = idle.refuse(**idle.defaults)

        assert result["error"]["code"] in (
            "vm_manager.io",
            "vm_manager.ssh.keygen_failed",
            "vm_manager.image.overlay_creation_failed",
        )
        assert "No space left" in result["msg"] or "not writable" in result["msg"]
        assert idle.files() == []
    finally:
        shutil.rmtree(idle.data_dir, ignore_errors=True)
        subprocess.run(["umount", idle.data_dir.parent], check=True)


def test_options_that_cannot_change(idle, tmp_path):
    idle.vm()
    idle.vm(state="stopped", force=True)
    before = idle.record().read_bytes()
    other = tmp_path / "other.raw"
    other.write_bytes(Path(idle.defaults["image"]).read_bytes())

    for options in (
        {"image": str(other)},
        {"image_format": "qcow2"},
        {"backend": "noop"},
        {"cloud_init": {"user": "somebody"}},
        {"ssh_port_range": "20000-20010"},
    ):
        result = idle.refuse(**options)
        assert result["error"]["code"] == "vm_manager.spec.cannot_change"
        assert next(iter(options)) in result["msg"]
    smaller = idle.refuse(disk_size="512KiB")

    assert "512KiB is smaller than the disk" in smaller["msg"]
    assert "1MiB" in smaller["msg"]
    assert idle.record().read_bytes() == before
