# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""UEFI, Secure Boot, TPM, kernels, microvm and shared folders: what the guest sees of them, and what is left at the end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.qmp import Qmp
from conftest import in_guest, wait_until

CMDLINE = "console=ttyS0 net.ifnames=0 mitigations=off cryptomgr.notests random.trust_cpu=on"


@pytest.fixture
def kernel(smoke_image):
    """The options that start the smoke guest's kernel without a boot loader."""
    return {
        "kernel": str(smoke_image.with_suffix(".vmlinuz")),
        "initrd": str(smoke_image.with_suffix(".initrd")),
        "kernel_cmdline": f"{CMDLINE} no_timer_check",
    }


def holders(path: Path) -> list[int]:
    """Return the processes that have a file open."""
    found = []
    for process in os.listdir("/proc"):
        if process.isdigit():
            with contextlib.suppress(OSError):  # a process may end while it is looked at
                descriptors = os.listdir(f"/proc/{process}/fd")
                if any(_same(f"/proc/{process}/fd/{number}", path) for number in descriptors):
                    found.append(int(process))
    return sorted(found)


def _same(link: str, path: Path) -> bool:
    try:
        return os.path.samefile(link, path)
    except OSError:
        return False  # it was closed meanwhile


def console(hypervisor) -> str:
    return (hypervisor.folder() / "console.log").read_text(errors="replace")


def machine_type(vm: dict) -> str:
    command = Path(f"/proc/{vm['pid']}/cmdline").read_bytes().decode().split("\0")
    return command[command.index("-machine") + 1].partition(",")[0]


def test_guest_sees_uefi_tpm_smbios_and_shared_folder_and_nothing_outlives_its_qemu(
    guests, kernel, tmp_path
):
    options = {
        **kernel,
        "memory": "256",
        "firmware": "uefi",
        "tpm": True,
        "smbios": {"manufacturer": "Example, Inc.", "family": "x=1"},
        "shared_folders": [{"name": "work", "path": str(tmp_path)}],
        "qemu_args": ["-device", "virtio-balloon-pci,id=mine"],
    }
    vm = guests.vm(**options, wait_for="ssh")["vm"]

    assert "efi: EFI v2" in in_guest(vm, "sudo dmesg")
    assert in_guest(vm, "cat /sys/class/tpm/tpm0/tpm_version_major").strip() == "2"
    table = "/sys/class/dmi/id"
    told = in_guest(vm, f"cat {table}/sys_vendor {table}/product_family /proc/cmdline")
    vendor, family, cmdline = told.splitlines()
    assert (vendor, family) == ("Example, Inc.", "x=1")
    assert cmdline.startswith(kernel["kernel_cmdline"]), "the firmware adds a word of its own"
    kinds = in_guest(vm, "cat /sys/bus/virtio/devices/*/device").split()
    assert {"0x001a", "0x0005"} <= set(kinds), "file system and balloon"
    again = guests.vm(**options)
    assert (again["changed"], again["vm"]["pid"]) == (False, vm["pid"])

    locks = [guests.folder() / name for name in ("tpm.lock", "share-work.lock")]
    assert [bool(holders(lock)) for lock in locks] == [True, True]
    assert not list(guests.folder().glob("share-*.sock")), "nobody else can connect"
    os.kill(vm["pid"], signal.SIGKILL)
    wait_until(lambda: not any(holders(lock) for lock in locks))
    guests.vm(state="absent")
    assert guests.files() == []


def test_guest_and_host_work_in_one_folder_until_the_machine_is_gone(guests, kernel, tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "from_host").write_text("hello guest\n")
    shared = [{"name": "work", "path": str(folder)}]
    vm = guests.vm(**kernel, shared_folders=shared, wait_for="ssh")["vm"]

    in_guest(vm, "sudo mount -t virtiofs work /mnt")
    assert in_guest(vm, "cat /mnt/from_host") == "hello guest\n"
    in_guest(vm, "echo as root | sudo tee /mnt/by_root && echo as vm >/mnt/by_vm")
    (folder / "later").write_text("more\n")
    assert in_guest(vm, "cat /mnt/later; rm /mnt/from_host") == "more\n"

    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert written == {"by_root": "as root\n", "by_vm": "as vm\n", "later": "more\n"}
    assert (folder / "by_root").stat().st_uid == os.geteuid()
    assert (folder / "by_vm").stat().st_uid == int(in_guest(vm, "id -u"))
    guests.vm(state="absent", force=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(written)


def test_secure_boot_lets_only_signed_systems_in_and_keeps_variables_of_its_own(guests):
    first = guests.vm(firmware="uefi", secure_boot=True, memory="256")["vm"]
    begun_as = machine_type(first)
    exact = json.loads(guests.record().read_text())["machine_types"]["q35"]
    wait_until(lambda: "Access Denied" in console(guests), 60)

    second = guests.vm(secure_boot=False, apply="restart", force=True, wait_for="ssh")

    assert second["actions"] == ["stop", "prepare", "start"]
    in_guest(second["vm"], "test -d /sys/firmware/efi")
    assert re.fullmatch(r"pc-q35-[0-9.]+", exact)
    assert (begun_as, machine_type(second["vm"])) == ("q35", exact)
    assert guests.vm(machine="q35", firmware="uefi")["changed"] is False
    record = json.loads(guests.record().read_text())
    nvram = {key: entry["nvram"] for key, entry in record["firmware"].items()}
    assert nvram == {"uefi": "nvram.qcow2", "secure_boot": "nvram-secure-boot.qcow2"}
    assert record["uefi"] is True

    guests.vm(state="stopped")
    (guests.folder() / "nvram.qcow2").unlink()
    lost = guests.refuse(state="started")
    assert lost["error"]["code"] == "vm_manager.vm.bad_record"
    assert "nvram.qcow2" in lost["msg"]


def test_microvm_runs_a_kernel_without_pci_and_powers_off(guests, kernel):
    # An emulated microvm has no clock by which Linux could find out the speed of the processor's counter.
    speed = re.search(r"^cpu MHz\s*: ([0-9.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    kernel["kernel_cmdline"] = f"{CMDLINE} tsc_early_khz={float(speed.group(1)) * 1000:.0f}"

    data = {"name": "data", "size": "64MiB", "iops": 1000}
    vm = guests.vm(machine="microvm", **kernel, disks=[data], wait_for="ssh")["vm"]

    assert in_guest(vm, "ls /sys/bus/pci/devices").split() == []
    disks = in_guest(vm, "for disk in /sys/block/vd?; do cat $disk/size; done").split()
    assert (len(disks), disks[2]) == (3, str(64 * 2048)), "the system first, the further one last"
    limited = guests.vm(disks=[{**data, "iops": 500}])
    assert (limited["actions"], limited["restart_required"]) == (["prepare", "change"], False)
    with Qmp.connect(str(guests.folder() / "qmp-debug.sock"), 5) as qmp:
        drives = [drive["inserted"] for drive in qmp.execute("query-block")]
    assert [drive["iops"] for drive in drives if drive["node-name"] == "disk-data"] == [500]
    later = guests.vm(disks=[{"name": "more", "size": "1MiB"}])
    assert (later["actions"], later["restart_required"]) == (["prepare"], True)
    refused = guests.refuse(tpm=True)
    assert refused["msg"] == "tpm: a microvm has no TPM."
    assert guests.vm(state="stopped")["vm"]["stopped_by"] == "guest"


def test_tpm_is_part_of_its_machine(idle):
    foreseen = idle.vm(tpm=True, check=True)
    first = idle.vm(tpm=True)
    assert foreseen["diff"] == first["diff"]
    lock = idle.folder() / "tpm.lock"
    state = idle.folder() / "tpm" / "tpm2-00.permall"
    wait_until(lambda: len(holders(lock)) == 1 and state.exists())
    (tpm,) = holders(lock)
    assert oct((idle.folder() / "tpm").stat().st_mode & 0o777) == "0o700"
    made = state.read_bytes()

    os.kill(tpm, signal.SIGKILL)
    wait_until(lambda: not holders(lock))
    shown = idle.vm()
    assert (shown["changed"], shown["vm"]["state"]) == (False, "running")
    assert [word for word in shown["warnings"] if "runs without its TPM (swtpm)" in word]

    again = idle.vm(state="restarted", force=True)
    assert again["warnings"] == []
    wait_until(lambda: len(holders(lock)) == 1)
    (second,) = holders(lock)
    assert second != tpm
    assert len(state.read_bytes()) == len(made)

    os.kill(again["vm"]["pid"], signal.SIGKILL)
    wait_until(lambda: not holders(lock))
    idle.vm(state="started")
    idle.vm(state="absent", force=True)
    assert idle.files() == []


def test_tpm_that_hangs_does_not_keep_a_machine_from_its_removal(idle):
    idle.vm(tpm=True)
    (tpm,) = holders(idle.folder() / "tpm.lock")
    os.kill(tpm, signal.SIGSTOP)

    idle.vm(state="absent", force=True)

    assert idle.files() == []
    wait_until(lambda: not os.path.exists(f"/proc/{tpm}/fd/0"))


def test_missing_files_are_told_before_anything_is_made(idle, tmp_path):
    for option, value in (
        ("kernel", str(tmp_path / "none")),
        ("shared_folders", [{"name": "work", "path": str(tmp_path / "none")}]),
    ):
        result = idle.refuse(**idle.defaults, **{option: value})
        assert result["error"]["code"] == "vm_manager.host.file_missing"
        foreseen = idle.run("vm", name="vm1", check=True, **idle.defaults, **{option: value})
        assert "would fail now" in foreseen["warnings"][0]
    assert idle.files() == []
