# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's command line: each row of the table has a golden file with one argument on each line.

``REGENERATE=1`` writes the golden files anew; read the difference before you keep it.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import (
    SYSTEM_DISK,
    Disk,
    DiskRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BackendNotAvailable,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.argv import (
    Descriptors,
    Launch,
    build_argv,
    machine_for,
    option,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.run_state import (
    RUN_STATES,
    state_of,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import (
    FULL_HANDLE,
    FULL_SPEC,
    PLAIN_BOARD,
    SECRET,
)

GOLDEN = Path(__file__).parent / "golden" / "argv"
FDS = Descriptors(qmp=11, debug=12, console=13, agent=14, console_log=15)
TCG = Launch("/usr/bin/qemu-system-x86_64", "tcg", "max", "/data/vms/web1/qemu.pid", None, FDS)
KVM = replace(TCG, accelerator="kvm", cpu="host")
AWKWARD = "/srv/a b,c=d/ü🐧\"'\\%s$HOME,,x"


def machine(folder="/data/vms/web1", **spec):
    """Return a machine with a plain spec but for what is given."""
    plain = {"cpu": None, "machine": None, "vnc": False, "disks": (), "cdrom": None}
    plain |= {"vcpus_max": None, "memory_max_mib": None, **PLAIN_BOARD}
    return FULL_HANDLE.evolve(
        base_image=None,  # records of older releases name none
        layers=(),
        spec=replace(FULL_SPEC, **{**plain, **spec}),
        overlay_path=f"{folder}/overlay.qcow2",
        seed_iso_path=f"{folder}/seed.iso",
    )


GIB = 1024**3
DISKS = (
    Disk(SYSTEM_DISK, cache="none", aio="native", discard=False).completed(),
    Disk("data", size=GIB, serial="DATA1", cache="directsync", boot_index=3).completed(),
    Disk("fast", size=GIB, bus="nvme", readonly=True, cache="unsafe").completed(),
    Disk("many", size=GIB, bus="virtio-scsi", format="raw", aio="io_uring").completed(),
    Disk("old", size=GIB, bus="sata", image="/srv/images/data.raw").completed(),
)


def made(disks):
    """Return the records of disks as they would be."""
    return {
        disk.name: DiskRecord(
            f"/data/vms/web1/disk-{disk.name}.{disk.format}",
            disk.format,
            GIB,
            disk.image,
            disk.image and "raw",
        )
        for disk in disks
        if disk.name != SYSTEM_DISK
    }


CASES = {
    "tcg": (machine(), TCG),
    "kvm": (machine(), KVM),
    "no_network": (machine(networks=()), TCG),
    "vnc": (machine(vnc=True), replace(KVM, vnc_password="/data/vms/web1/vnc.password")),
    "fetched": (
        machine(image="https://example.org/a.qcow2").evolve(base_image="/data/images/a.qcow2"),
        TCG,
    ),
    "raw_base": (machine(image="/srv/images/base.raw", image_format="raw"), TCG),
    "no_seed": (machine().evolve(seed_iso_path=None), TCG),
    "machine_and_cpu": (
        machine(machine="pc-q35-7.2", cpu="Nehalem,+vmx,pmu=off"),
        replace(TCG, cpu="Nehalem,+vmx,pmu=off"),
    ),
    "disks": (
        machine(machine="q35", disks=DISKS, cdrom="").evolve(disks=made(DISKS)),
        TCG,
    ),
    "disks_without_ports": (
        machine(machine="pc", disks=DISKS[:4], cdrom="/srv/a,b.iso").evolve(disks=made(DISKS)),
        TCG,
    ),
    "room_for_more": (machine(machine="q35", vcpus_max=8, memory_max_mib=16384), TCG),
    "awkward_paths": (
        machine(AWKWARD, image=f"{AWKWARD}.qcow2", vnc=True),
        replace(TCG, pid_file=f"{AWKWARD}/qemu.pid", vnc_password=f"{AWKWARD}/vnc.password"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_command_is_as_in_the_golden_file(case):
    golden = GOLDEN / f"{case}.argv"
    argv = build_argv(*CASES[case])

    assert not [word for word in argv if "\n" in word]
    text = "".join(f"{word}\n" for word in argv)
    if os.environ.get("REGENERATE"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_every_golden_file_has_its_row():
    assert sorted(CASES) == sorted(path.stem for path in GOLDEN.iterdir())


def values(argv, flag):
    """Return what follows each occurrence of a flag."""
    return [word for before, word in zip(argv, argv[1:]) if before == flag]


def parse(value):
    """Read a comma-separated value as QEMU does: two commas are one that belongs to the value."""
    words = [word.replace("\0", ",") for word in value.replace(",,", "\0").split(",")]
    return {key: rest for key, _sign, rest in (word.partition("=") for word in words)}


def by_id(argv, flag):
    parsed = [parse(value) for value in values(argv, flag)]
    return {entry.get("id") or entry.get("chardev"): entry for entry in parsed}


@pytest.fixture(params=CASES)
def built(request):
    vm, launch = CASES[request.param]
    return vm, launch, build_argv(vm, launch)


def test_the_machine_is_identified(built):
    vm, launch, argv = built

    assert argv[0] == launch.binary
    assert values(argv, "-uuid") == ["7c1f0f0e-64fb-4d0f-8f0e-0c6f3f3e9f5b"]
    assert parse(values(argv, "-name")[0])["guest"] == vm.name
    assert values(argv, "-pidfile") == [launch.pid_file]


def test_the_sandbox_denies_all_that_it_can(built):
    sandbox = parse(values(built[2], "-sandbox")[0])

    denied = ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")
    assert sandbox == {"on": "", **dict.fromkeys(denied, "deny")}


def test_nothing_comes_from_defaults_and_nothing_goes_to_the_background(built):
    argv = built[2]

    assert {"-nodefaults", "-no-user-config"} <= set(argv)
    assert values(argv, "-display") == ["none"]
    assert "-daemonize" not in argv
    assert not [word for word in argv if "script=" in word or "smb=" in word]


def test_no_secret_is_on_the_command_line(built):
    vm, _launch, argv = built

    assert SECRET in repr(vm.spec.cloud_init)
    assert SECRET not in "\n".join(argv)
    assert not [word for word in argv if re.search(r"password=|,data=", word)]


def test_everything_that_listens_is_a_descriptor_or_on_loopback(built):
    vm, _launch, argv = built

    chardevs = by_id(argv, "-chardev")
    assert {key: entry["fd"] for key, entry in chardevs.items()} == {
        "qmp": "11",
        "debug": "12",
        "console": "13",
        "agent": "14",
    }
    for entry in chardevs.values():
        assert (entry["server"], entry["wait"]) == ("on", "off")
        assert "path" not in entry
    for netdev in values(argv, "-netdev"):
        assert re.findall(r"hostfwd=([^,]*)", netdev) == [f"tcp:127.0.0.1:{vm.ssh_host_port}-:22"]
    for vnc in values(argv, "-vnc"):
        assert vnc.startswith("127.0.0.1:")
        assert parse(vnc)["password-secret"] == "vnc"


def test_both_monitors_speak_qmp(built):
    monitors = by_id(built[2], "-mon")

    assert {key: entry["mode"] for key, entry in monitors.items()} == {
        "qmp": "control",
        "debug": "control",
    }


def test_the_console_is_logged_through_a_pipe(built):
    argv = built[2]

    assert parse(values(argv, "-add-fd")[0]) == {"fd": "15", "set": "1"}
    console = by_id(argv, "-chardev")["console"]
    assert (console["logfile"], console["logappend"]) == ("/dev/fdset/1", "on")
    assert values(argv, "-serial") == ["chardev:console"]


def test_disks_name_every_file_with_its_format_and_write_only_the_overlay(built):
    vm, _launch, argv = built
    nodes = {node["node-name"]: node for node in map(json.loads, values(argv, "-blockdev"))}
    root, seed, medium = (nodes.pop(name, None) for name in ("disk0", "seed", "medium"))

    assert (root["driver"], root["file"]["filename"]) == ("qcow2", vm.overlay_path)
    assert "read-only" not in root
    base = root["backing"]
    assert (base["driver"], base["file"]["filename"]) == (
        vm.spec.image_format,
        vm.base_image or vm.spec.image,
    )
    assert base["read-only"] is base["file"]["read-only"] is True
    assert base.get("backing", "unset") == (None if base["driver"] == "qcow2" else "unset")
    for node, path in ((seed, vm.seed_iso_path), (medium, vm.spec.cdrom)):
        assert (node is None) == (not path)
        if node is not None:
            assert (node["driver"], node["file"]["filename"]) == ("raw", path)
            assert node["read-only"] is node["file"]["read-only"] is True
    listed = [disk for disk in vm.spec.disks or () if disk.name != SYSTEM_DISK]
    assert list(nodes) == [f"disk-{disk.name}" for disk in listed]
    for disk in listed:
        node, record = nodes[f"disk-{disk.name}"], vm.disks[disk.name]
        assert (node["driver"], node["file"]["filename"]) == (record.format, record.path)
        assert ("backing" in node) == (record.format == "qcow2")
        assert node.get("read-only", False) == disk.readonly
    assert not {"-drive", "-hda", "-cdrom"} & set(argv)


def test_the_disk_comes_before_the_seed_and_is_booted(built):
    disks = [value for value in values(built[2], "-device") if value.startswith("virtio-blk")]

    assert parse(disks[0])["drive"] == "disk0"
    assert [parse(disk).get("bootindex") for disk in disks][:2] == ["1", None][: len(disks)]


def test_the_network_card_has_the_machines_address(built):
    vm, _launch, argv = built
    cards = [parse(value) for value in values(argv, "-device") if value.startswith("virtio-net")]

    if not vm.spec.networks:
        assert (cards, values(argv, "-netdev"), values(argv, "-nic")) == ([], [], [])
        return
    assert [(card["mac"], card["netdev"]) for card in cards] == [("52:54:00:12:34:56", "net0")]
    assert parse(values(argv, "-netdev")[0])["id"] == "net0"


def test_size_and_speed_are_as_the_spec_says(built):
    vm, launch, argv = built

    assert [value.partition(",")[0] for value in values(argv, "-smp")] == ["2"]
    assert [value.partition(",")[0] for value in values(argv, "-m")] == ["2048M"]
    assert values(argv, "-cpu") == [launch.cpu]
    accelerator = values(argv, "-accel")[0]
    assert accelerator == ("kvm" if launch.accelerator == "kvm" else "tcg,tb-size=64")
    board = parse(values(argv, "-machine")[0])
    assert next(iter(board)) == (vm.spec.machine or "q35")


def test_the_guests_memory_stays_out_of_a_core_file(built):
    assert parse(values(built[2], "-machine")[0])["dump-guest-core"] == "off"


def test_a_screen_is_there_only_when_it_is_asked_for(built):
    vm, launch, argv = built
    screens = [value for value in values(argv, "-device") if "vga" in value]

    assert bool(screens) == bool(values(argv, "-vnc")) == vm.spec.vnc
    if vm.spec.vnc:
        secret = parse(values(argv, "-object")[0])
        assert (secret["id"], secret["file"]) == ("vnc", launch.vnc_password)


def test_the_command_does_not_depend_on_what_changes_by_itself():
    other = machine().evolve(pid=1, state=VmState.STOPPED, stopped_by=None, vnc_addr=None)

    assert build_argv(other, TCG) == build_argv(machine(), TCG)


VALUES = ["plain", "a,b", ",", ",,", "a,,b", "=", "a=b,c=d", " ", "'\"\\", "ü🐧", "%d$(id)", "-x"]


@pytest.mark.parametrize("value", VALUES)
def test_every_value_survives_the_way_to_qemu(value):
    built = option("socket", id="x", logfile=value, append="on")

    assert parse(built) == {"socket": "", "id": "x", "logfile": value, "append": "on"}


@pytest.mark.parametrize("value", VALUES)
def test_awkward_values_survive_in_the_whole_command(value):
    vm = machine(f"/{value}", image=f"/{value}", vnc=True).evolve(name=value)
    launch = replace(TCG, pid_file=f"/{value}", vnc_password=f"/{value}")

    argv = build_argv(vm, launch)

    root, seed = [json.loads(found) for found in values(argv, "-blockdev")]
    assert parse(values(argv, "-name")[0])["guest"] == value
    assert parse(values(argv, "-object")[0])["file"] == f"/{value}"
    assert values(argv, "-pidfile") == [f"/{value}"]
    assert root["file"]["filename"] == f"/{value}/overlay.qcow2"
    assert root["backing"]["file"]["filename"] == f"/{value}"
    assert seed["file"]["filename"] == f"/{value}/seed.iso"
    assert len(argv) == len(build_argv(machine(vnc=True), launch))


def test_what_is_not_set_is_left_out():
    assert option("a", b=None, c=0, d="") == "a,c=0,d="
    assert option("", tb_size=64) == "tb-size=64"


def test_only_architectures_that_were_tried_have_a_machine():
    assert machine_for("x86_64") == "q35"
    for architecture in ("aarch64", "i686", ""):
        with pytest.raises(BackendNotAvailable, match="x86_64"):
            machine_for(architecture)


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("running a-word-of-the-future RUNNING", VmState.RUNNING),
        ("paused suspended prelaunch inmigrate postmigrate debug", VmState.SUSPENDED),
        ("io-error guest-panicked internal-error watchdog shutdown", VmState.FAILED),
    ],
)
def test_run_states_are_told_honestly(words, state):
    assert {state_of(word) for word in words.split()} == {state}


def test_every_run_state_belongs_to_a_living_process():
    assert all(state.has_process for state in RUN_STATES.values())
