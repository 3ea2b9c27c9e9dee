# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of the module ``vm``, changed on a machine that runs: generated from the argument spec.

Each option has a row: an old value, a new one, and how to see it. Set alone, it is a change once; changed, check mode and
diff say what then happens, the same process goes on, and QEMU or the record shows it. An option without a row fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._arguments import VM
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._manage import manage_vm
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import Task
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.qmp import Qmp
from conftest import HALT, Hypervisor, clean_up, command_line

GIB = 1024**3
# These say how a task works, not what a machine is.
NO_WISHES = {
    *("name", "data_dir", "state", "apply", "unlisted_disks", "delete_detached_disks"),
    *("stop_timeout", "force", "wait_for", "wait_timeout"),
}
# These have a life of their own, and tests of their own.
ELSEWHERE = {
    "autostart": "unit/test_autostart.py",
    "new_name": "unit/test_rename.py",
    "clone_from": "unit/test_clone.py",
    "clone_mode": "unit/test_clone.py",
    "cloud_init.rerun": "integration/test_clone_real.py",
}


class Machine:
    """One machine that runs, and the module as Ansible calls it, without a process around it."""

    def __init__(self, subject: Hypervisor, name: str, base: dict[str, Any]):
        self.subject, self.name, self.base = subject, name, base

    def task(self, check: bool = False, **options: Any) -> dict[str, Any]:
        given = {"name": self.name, "data_dir": str(self.subject.data_dir), **options}
        checked = ArgumentSpecValidator(VM).validate(given)
        assert not checked.error_messages, checked.error_messages
        task = Task(checked.validated_parameters, check)
        return json.loads(json.dumps({**manage_vm(task), "warnings": task.warnings}))

    @property
    def record(self) -> dict[str, Any]:
        return json.loads(self.subject.record(self.name).read_text())

    @property
    def argv(self) -> str:
        return command_line(self.record["pid"])

    def ask(self, command: str, **arguments: Any) -> Any:
        with Qmp.connect(str(self.subject.folder(self.name) / "qmp-debug.sock"), 5) as qmp:
            return qmp.execute(command, arguments)

    def drive(self, disk: str) -> dict[str, Any]:
        owners = {
            drive.get("qdev", "").removesuffix("/virtio-backend").rpartition("/")[2]: drive
            for drive in self.ask("query-block")
        }
        return owners[f"dev-{disk}"]["inserted"]

    def devices(self) -> set[str]:
        return {item["name"] for item in self.ask("qom-list", path="/machine/peripheral")}


See = Callable[[Machine], bool]


@dataclass(frozen=True)
class Row:
    """``effect`` is live, later, at once or refused; ``later`` are words of the command line after a restart."""

    old: dict[str, Any]
    new: dict[str, Any]
    effect: str
    see: See | None = None
    later: tuple[str, ...] = ()
    on: str = "qemu"


def option(name: str, old: Any, new: Any, effect: str, see: See | None = None, **more: Any) -> Row:
    return Row({name: old}, {name: new}, effect, see, **more)


def disk(name: str, old: Any, new: Any, effect: str, see: See | None = None, **more: Any) -> Row:
    """A suboption of a disk that is there."""
    rows = [{"disks": [{"name": "data", name: value}]} for value in (old, new)]
    return Row(*rows, effect, see, **more)


def card(name: str, old: Any, new: Any, effect: str, see: See | None = None, **more: Any) -> Row:
    """A suboption of a card that is there."""
    kept = more.pop("kept", {"type": "user"})
    rows = [{"networks": [{**kept, name: value}]} for value in (old, new)]
    return Row(*rows, effect, see, **more)


def limit(total: str, way: str = "") -> Row:
    """A limit of reads, of writes or of both; one of both goes with none of the others."""
    others = dict.fromkeys((total, f"{total}_read", f"{total}_write"), 0)
    name, told = f"{total}{way}", f"{total}{way[:3]}".replace("_re", "_rd")
    rows = [{"disks": [{**DATA, **others, name: value}]} for value in (1000000, 2000000)]
    return Row(*rows, "live", lambda vm: vm.drive("data")[told] == 2000000)


def inside(group: str, name: str, old: Any, new: Any, effect: str, **more: Any) -> Row:
    return Row({group: {name: old}}, {group: {name: new}}, effect, **more)


def recorded(**options: Any) -> See:
    return lambda vm: {key: vm.record["spec"][key] for key in options} == options


FORWARDS = [{"host": 18080, "guest": 80}]
DATA = {"name": "data"}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA nobody"
VNIC = {"type": "vnic", "link": "igb0"}
FOLDER = {"name": "share", "path": "/srv"}

ROWS: dict[str, Row] = {
    "vcpus": option("vcpus", 2, 3, "live", lambda vm: len(vm.ask("query-cpus-fast")) == 3),
    "memory": option(
        *("memory", "256", "384", "live"),
        lambda vm: sum(vm.ask("query-memory-size-summary").values()) == 384 * 1024**2,
    ),
    "vcpus_max": option("vcpus_max", 4, 6, "later", later=("maxcpus=6",)),
    "memory_max": option("memory_max", "1GiB", "2GiB", "later", later=("maxmem=2048M",)),
    "disk_size": option(
        *("disk_size", "2MiB", "3MiB", "live"),
        lambda vm: vm.drive("disk0")["image"]["virtual-size"] == 3 * 1024**2,
    ),
    "cdrom": option("cdrom", "", "/dev/null", "live"),
    "cpu": option("cpu", "qemu64", "Nehalem", "later", later=("-cpu Nehalem",)),
    "machine": option("machine", "q35", "pc", "later", later=("-machine pc",)),
    "accelerator": option("accelerator", "auto", "tcg", "later", later=("-accel tcg",)),
    "vnc": option("vnc", False, True, "later", later=("-vnc 127.0.0.1",)),
    "labels": option("labels", {"a": "1"}, {"a": "2"}, "at once", recorded(labels={"a": "2"})),
    "description": option("description", "x", "y", "at once", recorded(description="y")),
    "ip_version": option("ip_version", 4, 6, "at once"),
    "ip_range": option("ip_range", ["10.0.0.0/8"], ["192.168.0.0/16"], "at once"),
    "lease_files": option("lease_files", ["/a"], ["/b"], "at once"),
    "ssh_port_range": option("ssh_port_range", "10000-20000", "10000-20001", "at once"),
    "qemu_args": option("qemu_args", [], ["-no-hpet"], "later", later=("-no-hpet",)),
    # Whatever the host has: what the command line makes of these is for the tests of each.
    "firmware": option("firmware", "bios", "uefi", "later", on="noop"),
    "secure_boot": Row(
        {"firmware": "uefi", "secure_boot": False, "machine": "q35"},
        {"secure_boot": True},
        "later",
        on="noop",
    ),
    "tpm": option("tpm", False, True, "later", on="noop"),
    "kernel": option("kernel", "/a", "/b", "later", on="noop"),
    "initrd": Row({"kernel": "/a", "initrd": "/c"}, {"initrd": "/d"}, "later", on="noop"),
    "kernel_cmdline": Row(
        {"kernel": "/a", "kernel_cmdline": "quiet"},
        {"kernel_cmdline": "debug"},
        "later",
        on="noop",
    ),
    "shared_folders[].name": option(
        *("shared_folders", [FOLDER], [{**FOLDER, "name": "other"}], "later"), on="noop"
    ),
    "shared_folders[].path": option(
        *("shared_folders", [FOLDER], [{**FOLDER, "path": "/mnt"}], "later"), on="noop"
    ),
    "shared_folders[].readonly": option(
        *("shared_folders", [FOLDER], [{**FOLDER, "readonly": True}], "later"), on="noop"
    ),
    # What a machine was made from.
    "backend": Row({"backend": "qemu"}, {"backend": "noop"}, "refused"),
    "image": Row({}, {"image": "/other"}, "refused"),
    "image_checksum": Row({}, {"image_checksum": "sha256:" + 64 * "1"}, "refused"),
    "image_format": Row({"image_format": "raw"}, {"image_format": "qcow2"}, "refused"),
    "disks[].image": Row({"disks": [DATA]}, {"disks": [{**DATA, "image": "/other"}]}, "refused"),
    "disks[].format": Row({"disks": [DATA]}, {"disks": [{**DATA, "format": "raw"}]}, "refused"),
    **{
        f"cloud_init.{name}": inside("cloud_init", name, None, value, "refused")
        for name, value in {
            "hostname": "other",
            "user": "other",
            "ssh_authorized_keys": [KEY],
            "user_data": {"a": 1},
            "meta_data": {"a": 1},
            "network_config": {"version": 2},
            "ssh_host_key": True,
        }.items()
    },
    "disks[].name": Row(
        {"disks": [DATA]},
        {"disks": [{"name": "more", "size": "1GiB"}]},
        "live",
        lambda vm: "dev-more" in vm.devices(),
    ),
    "disks[].size": disk(
        *("size", "1GiB", "2GiB", "live"),
        lambda vm: vm.drive("data")["image"]["virtual-size"] == 2 * GIB,
    ),
    **{
        f"disks[].{total}{way}": limit(total, way)
        for total in ("iops", "bps")
        for way in ("", "_read", "_write")
    },
    "disks[].bus": disk("bus", "virtio-blk", "nvme", "later", later=("nvme,id=dev-data",)),
    "disks[].cache": disk("cache", "writeback", "unsafe", "later", later=('"no-flush":true',)),
    "disks[].aio": disk("aio", "threads", "io_uring", "later", later=('"aio":"io_uring"',)),
    "disks[].discard": disk("discard", True, False, "later", later=('"discard":"ignore"',)),
    "disks[].serial": disk("serial", "A1", "B2", "later", later=("serial=B2",)),
    "disks[].readonly": disk("readonly", False, True, "later", later=('disk-data","discard"',)),
    "disks[].boot_index": disk("boot_index", 5, 6, "later", later=("bootindex=6",)),
    "networks[].name": Row(
        {"networks": [{"type": "user"}]},
        {"networks": [{"type": "user"}, {"type": "user", "name": "second"}]},
        "live",
        lambda vm: "card-second" in vm.devices(),
        on="cards",  # of its own, for no guest lets the card go again
    ),
    "networks[].mac": card("mac", "52:54:00:00:00:01", "52:54:00:00:00:02", "later"),
    "networks[].model": card("model", "virtio", "e1000", "later"),
    "networks[].mtu": card("mtu", 1500, 1400, "later"),
    "networks[].connected": card(
        *("connected", True, False, "live"),
        lambda vm: vm.record["booted"]["networks"][0]["connected"] is False,
    ),
    "networks[].port_forwards[].host": card("port_forwards", [], FORWARDS, "later"),
    "networks[].port_forwards[].guest": card(
        "port_forwards", FORWARDS, [{"host": 18080, "guest": 81}], "later"
    ),
    "networks[].port_forwards[].protocol": card(
        "port_forwards", FORWARDS, [{**FORWARDS[0], "protocol": "udp"}], "later"
    ),
    "networks[].port_forwards[].host_address": card(
        *("port_forwards", FORWARDS, [{**FORWARDS[0], "host_address": "127.0.0.2"}], "later"),
        kept={"type": "user", "mac": "52:54:00:00:00:03", "model": "e1000"},
        later=(
            *("hostfwd=tcp:127.0.0.2:18080-:80", "e1000,id=card-net0"),
            *("mac=52:54:00:00:00:03",),
        ),
    ),
    "networks[].type": Row(
        {"networks": [{"type": "user"}]},
        {"networks": [{"type": "tap", "interface": "tapx"}]},
        "later",
        on="noop",
    ),
    "networks[].interface": card(
        *("interface", "tapa", "tapb", "later"), kept={"type": "tap"}, on="noop"
    ),
    "networks[].bridge": card(
        *("bridge", "br0", "br1", "later"), kept={"type": "bridge"}, on="noop"
    ),
    "networks[].link": card("link", "igb0", "igb1", "later", kept=VNIC, on="noop"),
    "networks[].vlan": card("vlan", 5, 6, "later", kept=VNIC, on="noop"),
    **{
        f"smbios.{name}": inside("smbios", name, "A", "B", "later", on="noop")
        for name in VM["smbios"]["options"]
    },
    "propolis.hosting": Row(
        {"propolis": {"hosting": "global"}},
        {"propolis": {"hosting": "zone", "control_link": "x0", "control_network": "10.0.0.0/24"}},
        "refused",
        on="noop",
    ),
    **{
        f"propolis.{name}": inside("propolis", name, old, new, effect, on="noop")
        for name, old, new, effect in (
            ("pool", "rpool", "tank", "refused"),
            ("server", "/a", "/b", "later"),
            ("bootrom", "/a", "/b", "later"),
            ("api_version", "1.0.0", "2.0.0", "later"),
            ("zone_brand", "a", "b", "refused"),
            ("zone_image", "/a", "/b", "refused"),
            ("zone_dir", "/a", "/b", "refused"),
            ("control_link", "stub0", "stub1", "later"),
            ("control_network", "10.0.0.0/24", "10.0.1.0/24", "refused"),
        )
    },
}


# What takes an option back, and the words of the command line that go with it. It must be there before, so each of these
# is given with a restart, and gone after another one.
TAKEN_BACK: dict[str, Row] = {
    "cpu": option("cpu", "qemu64", "", "later", later=("-cpu qemu64",)),
    "vcpus_max": option("vcpus_max", 4, 0, "later", later=("maxcpus=4",)),
    "memory_max": option("memory_max", "1GiB", "0", "later", later=("maxmem=1024M",)),
    "ip_version": option("ip_version", 4, 0, "at once"),
    "disks[].serial": disk("serial", "A1", "", "later", later=("serial=A1",)),
    "disks[].boot_index": disk("boot_index", 5, -1, "later", later=("bootindex=5",)),
    "disks[].iops": disk("iops", 1000000, 0, "live", lambda vm: vm.drive("data")["iops"] == 0),
}


def leaves(options: dict[str, Any], path: str = "") -> list[str]:
    """Return the paths of all options that hold a value of their own."""
    found = []
    for name, told in options.items():
        if "options" in told:
            mark = "[]" if told["type"] == "list" else ""
            found += leaves(told["options"], f"{path}{name}{mark}.")
        else:
            found.append(path + name)
    return found


WISHES = [path for path in leaves(VM) if path not in NO_WISHES]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converge")
    image = folder / "halt.raw"
    image.write_bytes(HALT)
    subject = Hypervisor(folder / "data")
    yield subject
    clean_up(subject)


@pytest.fixture(scope="module")
def machines(subject):
    base = {"memory": "128", "vcpus_max": 4, "memory_max": "1GiB", "cdrom": ""}
    base |= {"image": str(subject.data_dir.parent / "halt.raw"), "ssh_port_range": "10000-20000"}
    found = {}
    kinds = {"qemu": "qemu", "noop": "noop", "cards": "qemu", "taken": "qemu"}
    for name, backend in kinds.items():
        found[name] = Machine(subject, name, base)
        made = {**base, "disks": [{"name": "data", "size": "512MiB"}]}
        if name == "taken":  # where nothing was ever given that can be taken back
            del made["vcpus_max"], made["memory_max"]
        if backend == "noop":
            made["propolis"] = {
                path.partition(".")[2]: row.old["propolis"][path.partition(".")[2]]
                for path, row in ROWS.items()
                if path.startswith("propolis.")
            }
        found[name].task(backend=backend, **made)
    return found


def test_every_option_has_its_row(record_property):
    missing = [path for path in WISHES if path not in ROWS and path not in ELSEWHERE]
    idle = [path for path in (*ROWS, *ELSEWHERE) if path not in WISHES]
    lost = [page for page in ELSEWHERE.values() if not (Path(__file__).parents[1] / page).exists()]

    told = f"{len(WISHES) - len(missing)} of {len(WISHES)} options have the converge test"
    record_property("note", f"{told} ({len(ELSEWHERE)} in a file of their own)")
    assert (missing, idle, lost) == ([], [], [])


DECIDED_LATER = {"id", "mac", "ip_addresses", "ip_address", "path", "port", "host", "vnc"}
DECIDED_LATER |= {"pid", "run_state", "accelerator", "accelerator_reason", "console"}


def assert_foreseen(told: Any, real: Any, path: str = "") -> None:
    """Compare a prediction with what happened: null, or nothing, stands only for what only the run decides."""
    if isinstance(told, dict) and isinstance(real, dict):
        assert set(told) == set(real), path
        for key in told:
            assert_foreseen(told[key], real[key], f"{path}.{key}")
    elif isinstance(told, list) and isinstance(real, list) and len(told) == len(real):
        for index, pair in enumerate(zip(told, real)):
            assert_foreseen(*pair, f"{path}[{index}]")
    elif told != real:
        assert told in (None, []), f"{path}: {told!r}, {real!r}"
        assert path.rpartition(".")[2] in DECIDED_LATER, f"{path}: {told!r}, {real!r}"


def do(vm: Machine, **options: Any) -> dict[str, Any]:
    """Run a task in check mode and for real; both say the same."""
    told, real = vm.task(check=True, **options), vm.task(**options)
    for key in ("changed", "actions", "diff", "restart_required", "warnings"):
        assert told[key] == real[key], key
    if "start" in real["actions"]:  # what the next process is like, nobody knows
        told["vm"]["console"] = None
    assert_foreseen(told["vm"], real["vm"])
    return real


@pytest.mark.parametrize("path", [path for path in WISHES if path in ROWS])
def test_an_option_is_changed_on_a_running_machine(machines, path):
    row = ROWS[path]
    vm = machines[row.on]
    if path == "cdrom":
        row = option("cdrom", "", vm.base["image"], "live", medium_is(vm.base["image"]))
    old = {key: value for key, value in row.old.items() if value != {path.rpartition(".")[2]: None}}
    pid = do(vm, **old)["vm"]["pid"]
    before = do(vm, **old)
    assert before["changed"] is False
    if row.effect == "refused":
        assert_refused(vm, row.new)
        return

    changed = do(vm, **row.new)
    again = do(vm, **row.new)

    steps = ["prepare", "change"] if row.effect == "live" else ["prepare"]
    assert (changed["changed"], changed["actions"]) == (True, steps)
    assert changed["diff"]["before"] != changed["diff"]["after"]
    assert (again["changed"], again["vm"]["pid"]) == (False, pid)
    assert_waits(vm, row, path, before["warnings"], changed["warnings"])
    assert row.see is None or row.see(vm)
    if not row.later or row.on == "noop":
        take_back(vm, row)


def medium_is(image: str) -> See:
    def see(vm: Machine) -> bool:
        drives = [
            drive for drive in vm.ask("query-block") if drive.get("qdev", "").endswith("cdrom")
        ]
        return [drive["inserted"]["file"] for drive in drives] == [image]

    return see


def assert_waits(vm: Machine, row: Row, path: str, before: list[str], after: list[str]) -> None:
    """What could not be done at once is named, and recorded for the next start; nothing else is."""
    if row.effect != "later":
        assert after == before
        return
    name = path.partition("[")[0].partition(".")[0]
    field = {"memory_max": "memory_max_mib"}.get(name, name)
    record = vm.record
    assert any(name in warning for warning in after)
    assert record["spec"][field] != record["booted"][field]


def assert_refused(vm: Machine, options: dict[str, Any]) -> None:
    before = vm.record
    for check in (True, False):
        with pytest.raises(VmError) as caught:
            vm.task(check=check, **options)
        assert caught.value.code == "vm_manager.spec.cannot_change"
        assert caught.value.help
    assert vm.record == before


def take_back(vm: Machine, row: Row) -> None:
    """Put the old value back, so that the next option is the only one that waits."""
    if row.effect == "later":
        vm.task(**{key: value for key, value in row.old.items() if key in row.new})


def test_what_had_to_wait_is_there_after_one_restart(machines):
    """All that the options above have left for the next start, in one command line."""
    vm = machines["qemu"]
    before = vm.record["pid"]

    done = do(vm, apply="restart", force=True)

    assert done["actions"] == ["stop", "start"]
    assert done["vm"]["pid"] != before
    assert (done["restart_required"], done["vm"]["restart_required"]) == (False, False)
    argv = vm.argv
    lost = [word for row in ROWS.values() for word in row.later if word not in argv]
    assert lost == []
    assert do(vm)["changed"] is False


@pytest.mark.parametrize("path", TAKEN_BACK)
def test_an_option_is_taken_back(machines, path):
    """As an option is changed; afterwards, the machine is as if it had never been given."""
    row, vm = TAKEN_BACK[path], machines["taken"]
    never = vm.record["spec"]
    pid = do(vm, **row.old, apply="restart", force=True)["vm"]["pid"]
    assert [word for word in row.later if word not in vm.argv] == []

    changed = do(vm, **row.new)
    again = do(vm, **row.new)

    steps = ["prepare", "change"] if row.effect == "live" else ["prepare"]
    assert (changed["changed"], changed["actions"]) == (True, steps)
    assert changed["diff"]["before"] != changed["diff"]["after"]
    assert (again["changed"], again["vm"]["pid"]) == (False, pid)
    assert_waits(vm, row, path, [], changed["warnings"])
    assert row.see is None or row.see(vm)
    assert vm.record["spec"] == never
    do(vm, state="restarted", force=True)
    assert [word for word in row.later if word in vm.argv] == []
