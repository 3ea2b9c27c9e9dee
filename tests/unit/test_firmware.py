# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""UEFI firmware: which one is taken, what is kept of it for a machine, and how QEMU is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BadRecord,
    FirmwareMissing,
    OverlayFailed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.firmware import (
    FirmwareRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import VmSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import firmware
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.argv import (
    Descriptors,
    Launch,
    build_argv,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.firmware import (
    Firmware,
    check_firmware,
    find_firmware,
    make_nvram,
    read_description,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle

FDS = Descriptors(qmp=11, debug=12, console=13, agent=14, console_log=15)
LAUNCH = Launch("/usr/bin/qemu-system-x86_64", "tcg", "max", "/x/qemu.pid", None, FDS)
PLAIN = ["acpi-s3", "verbose-dynamic"]
ENROLLED = ["acpi-s3", "enrolled-keys", "requires-smm", "secure-boot"]
UNENROLLED = ["acpi-s3", "requires-smm", "secure-boot"]


def description(features=(), machines=("pc-i440fx-*", "pc-q35-*"), name="x", **changes):
    """Return a description as the packages of distributions have it; a dash takes a key out."""
    told = {
        "description": "UEFI",
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": f"/fw/{name}.code", "format": "raw"},
            "nvram-template": {"filename": f"/fw/{name}.vars", "format": "qcow2"},
        },
        "targets": [{"architecture": "x86_64", "machines": list(machines)}],
        "features": list(features),
        "tags": [],
    }
    for path, value in changes.items():
        *folders, last = path.replace("nvram_template", "nvram-template").split("__")
        place = told
        for folder in folders:
            place = place[folder]
        place[last.replace("interface_types", "interface-types")] = value
    return told


@pytest.mark.parametrize(
    ("told", "machine", "secure", "fits"),
    [
        (description(PLAIN), "q35", False, True),
        (description(PLAIN), "pc", False, True),
        (description(PLAIN), "pc-q35-7.2", False, True),
        (description(PLAIN, machines=["pc-q35-*"]), "pc", False, False),
        (description(PLAIN), "isapc", False, False),
        (description(PLAIN), "q35", True, False),
        (description(ENROLLED), "q35", True, True),
        (description(ENROLLED), "q35", False, False),
        (description(UNENROLLED), "q35", True, False),
        (description(UNENROLLED), "q35", False, False),
        (description(["secure-boot"]), "q35", False, True),
        (description(["secure-boot", "enrolled-keys"]), "q35", True, True),
        (description(PLAIN, interface_types=["bios"]), "q35", False, False),
        (description(PLAIN, mapping__device="memory"), "q35", False, False),
        (description(PLAIN, mapping__mode="split"), "q35", False, True),
        (description(PLAIN, mapping__mode="stateless"), "q35", False, False),
        (description(PLAIN, targets=[]), "q35", False, False),
        (
            description(PLAIN, targets=[{"architecture": "aarch64", "machines": ["*"]}]),
            "q35",
            False,
            False,
        ),
        ({}, "q35", False, False),
        (description(PLAIN, mapping={"device": "flash"}), "q35", False, False),
        (description(("a", 1), targets=None), "q35", False, False),
        (description(PLAIN, mapping="flash"), "q35", False, False),
    ],
)
def test_a_description_fits_or_not(told, machine, secure, fits):
    found = read_description(told, machine, secure)

    assert found == (Firmware("/fw/x.code", "raw", "/fw/x.vars", "qcow2") if fits else None)


class Host:
    """Folders with descriptions and the files that they name."""

    def __init__(self, path):
        self.path = path
        self.folders = [str(path / "vendor"), str(path / "admin")]
        for folder in self.folders:
            os.mkdir(folder)

    def describe(self, file, features=None, folder=0, there=True):
        told = description(PLAIN if features is None else features)
        for part in ("executable", "nvram-template"):
            file_path = self.path / f"{file}-{folder}.{part}"
            told["mapping"][part]["filename"] = str(file_path)
            if there:
                file_path.touch()
        (self.path / self.folders[folder] / f"{file}.json").write_text(json.dumps(told))

    def find(self, secure=False):
        return os.path.basename(find_firmware("q35", secure, self.folders).code)


@pytest.fixture
def host(tmp_path, monkeypatch):
    monkeypatch.setattr(firmware, "_PLAIN", ())
    monkeypatch.setattr(firmware, "_SECURE", ())
    return Host(tmp_path)


def test_the_first_by_name_that_fits_and_is_there_is_taken(host):
    host.describe("10-gone", there=False)
    host.describe("20-keys", ENROLLED)
    host.describe("40-later")
    host.describe("30-plain")
    (host.path / "vendor" / "00-broken.json").write_text("{")
    (host.path / "vendor" / "01-list.json").write_text("[]")
    (host.path / "vendor" / "02-notes.txt").write_text("{}")

    assert host.find() == "30-plain-0.executable"
    assert host.find(secure=True) == "20-keys-0.executable"


def test_the_administrators_descriptions_hide_those_of_the_same_name(host):
    host.describe("10-one")
    host.describe("20-two")
    host.describe("20-two", folder=1)
    (host.path / "admin" / "10-one.json").write_text("")

    assert host.find() == "20-two-1.executable"


@pytest.mark.parametrize("secure", [False, True])
def test_no_firmware_is_an_error_that_says_what_to_install(host, secure):
    host.describe("10-other", UNENROLLED)

    with pytest.raises(FirmwareMissing, match="this host has no UEFI firmware") as caught:
        host.find(secure)

    assert caught.value.details == {"option": "secure_boot" if secure else "firmware"}
    for word in ("ovmf", "edk2-ovmf", "hypervisor_host_features"):
        assert word in caught.value.help


def test_known_paths_count_only_where_nothing_is_described(host, monkeypatch):
    code, variables = host.path / "code.fd", host.path / "vars.fd"
    monkeypatch.setattr(firmware, "_PLAIN", ((str(code), str(variables)),))
    code.touch()
    with pytest.raises(FirmwareMissing):
        host.find()
    variables.touch()
    assert host.find() == "code.fd"
    with pytest.raises(FirmwareMissing):
        host.find(secure=True)

    host.describe("10-other", UNENROLLED)

    with pytest.raises(FirmwareMissing):
        host.find()


def uefi(**changes):
    return replace(VmSpec("web1", machine="q35", firmware="uefi").completed(), **changes)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A recorded machine, on a host with firmware that is one MiB of ones."""
    code, variables = tmp_path / "code.fd", tmp_path / "vars.fd"
    code.write_bytes(b"code")
    variables.write_bytes(b"\1" * 2**20)
    for name in ("_PLAIN", "_SECURE"):
        monkeypatch.setattr(firmware, name, ((str(code), str(variables)),))
    monkeypatch.setattr(firmware.find_firmware, "__defaults__", ((),))
    store = Store(str(tmp_path / "data"))
    vm = minimal_handle("web1", work_dir=store.work_dir("web1"), spec=uefi())
    return store, store.save(vm)


@pytest.mark.real_host
@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_variables_are_made_once_for_each_kind_and_kept(machine, tmp_path):
    store, vm = machine

    vm = make_nvram(vm, store)

    nvram = os.path.join(vm.work_dir, "nvram.qcow2")
    assert vm.firmware == {"uefi": FirmwareRecord(str(tmp_path / "code.fd"), "raw", "nvram.qcow2")}
    assert store.load("web1") == vm
    told = json.loads(
        subprocess.check_output(["qemu-img", "info", "--output=json", nvram], text=True)
    )
    assert (told["format"], told["virtual-size"]) == ("qcow2", 2**20)
    assert os.stat(nvram).st_mode & 0o777 == 0o600

    (tmp_path / "vars.fd").unlink()
    assert make_nvram(vm, store) == vm
    with pytest.raises(FirmwareMissing):
        make_nvram(vm.evolve(spec=uefi(secure_boot=True)), store)
    (tmp_path / "vars.fd").write_bytes(b"\2" * 2**20)
    both = make_nvram(vm.evolve(spec=uefi(secure_boot=True)), store)
    assert {key: record.nvram for key, record in both.firmware.items()} == {
        "uefi": "nvram.qcow2",
        "secure_boot": "nvram-secure-boot.qcow2",
    }


@pytest.mark.real_host
@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_variables_that_no_record_names_are_kept(machine, tmp_path):
    """A run was killed before it could record them, or the record is from before the machine had them."""
    store, vm = machine
    vm = vm.evolve(state=VmState.STOPPED)
    recorded = make_nvram(vm, store)
    nvram = os.path.join(vm.work_dir, "nvram.qcow2")
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 512", nvram]
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
    written = Path(nvram).read_bytes()

    check_firmware(vm.spec, vm)
    assert make_nvram(vm, store) == recorded

    (tmp_path / "vars.fd").write_bytes(b"\1" * 2**19)
    for act in (check_firmware, lambda spec, vm: make_nvram(vm, store)):
        with pytest.raises(BadRecord, match="it has 1MiB, not 512KiB") as other:
            act(vm.spec, vm)
        assert other.value.details == {"path": nvram, "option": "firmware"}
    assert Path(nvram).read_bytes() == written
    make_nvram(vm.evolve(state=VmState.PREPARING), store)
    assert Path(nvram).read_bytes() != written, "nobody wrote to those of a machine that never ran"


@pytest.mark.real_host
@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_variables_that_cannot_be_made_leave_nothing(machine, tmp_path):
    store, vm = machine
    (tmp_path / "vars.fd").unlink()
    (tmp_path / "vars.fd").mkdir()

    with pytest.raises(OverlayFailed, match=r"nvram\.qcow2 could not be made"):
        make_nvram(vm, store)

    assert os.listdir(vm.work_dir) == ["vm.json"]


def test_a_machine_with_a_bios_has_no_variables(machine):
    store, vm = machine
    vm = vm.evolve(spec=VmSpec("web1").completed())

    assert make_nvram(vm, store) == vm
    check_firmware(vm.spec, vm)


def test_what_is_gone_is_told_before_a_start(machine, tmp_path):
    _store, vm = machine
    record = FirmwareRecord(str(tmp_path / "code.fd"), "raw", "nvram.qcow2")
    vm = vm.evolve(firmware={"uefi": record})
    check_firmware(uefi(), None)
    with pytest.raises(BadRecord, match=r"nvram\.qcow2, in which .* 'web1' .* is gone") as lost:
        check_firmware(vm.spec, vm)
    with open(os.path.join(vm.work_dir, "nvram.qcow2"), "w"):
        check_firmware(vm.spec, vm)
    (tmp_path / "code.fd").unlink()

    with pytest.raises(FirmwareMissing, match=r"code\.fd, which the VM 'web1' boots with, is gone"):
        check_firmware(vm.spec, vm)

    assert lost.value.details == {"path": os.path.join(vm.work_dir, "nvram.qcow2")}
    with pytest.raises(FirmwareMissing):
        check_firmware(uefi(), None)


def values(argv, flag):
    return [word for before, word in zip(argv, argv[1:]) if before == flag]


def argv_of(spec, work_dir="/data/vms/web1"):
    kinds = {"uefi": "nvram.qcow2", "secure_boot": "nvram-secure-boot.qcow2"}
    records = {key: FirmwareRecord(f"/fw/{key}.fd", "raw", name) for key, name in kinds.items()}
    spec = replace(spec, networks=())
    return build_argv(minimal_handle(spec=spec, work_dir=work_dir, firmware=records), LAUNCH)


def test_qemu_gets_the_firmware_read_only_and_its_variables_with_their_formats():
    argv = argv_of(uefi(), "/data/a,b")

    code, variables = [json.loads(value) for value in values(argv, "-blockdev")][:2]
    assert code == {
        "driver": "raw",
        "node-name": "firmware",
        "read-only": True,
        "file": {"driver": "file", "filename": "/fw/uefi.fd", "read-only": True},
    }
    assert variables == {
        "driver": "qcow2",
        "node-name": "nvram",
        "file": {"driver": "file", "filename": "/data/a,b/nvram.qcow2"},
        "backing": None,
    }
    assert values(argv, "-machine") == ["q35,dump-guest-core=off,pflash0=firmware,pflash1=nvram"]
    assert values(argv, "-global") == []


def test_secure_boot_has_variables_of_its_own_that_only_the_firmware_writes():
    argv = argv_of(uefi(secure_boot=True))

    variables = json.loads(values(argv, "-blockdev")[1])
    assert variables["file"]["filename"] == "/data/vms/web1/nvram-secure-boot.qcow2"
    assert values(argv, "-machine")[0].endswith(",pflash0=firmware,pflash1=nvram,smm=on")
    assert values(argv, "-global") == ["driver=cfi.pflash01,property=secure,value=on"]


def test_a_bios_needs_nothing():
    argv = argv_of(VmSpec("web1", machine="q35").completed())

    assert values(argv, "-machine") == ["q35,dump-guest-core=off"]
    assert "pflash" not in " ".join(argv)
