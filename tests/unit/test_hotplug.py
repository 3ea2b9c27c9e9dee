# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of a running machine as QMP commands, spoken to a small model of QEMU and of its guest."""

from __future__ import annotations

import json
import os
import socket
import threading
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.disks import (
    LIMITS,
    SYSTEM_DISK,
    Disk,
    DiskRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    ChangeFailed,
    QmpCommandFailed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.live import (
    Change,
    Hotplug,
    LiveFacts,
    live_changes,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import (
    Network,
    PortForward,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu import cards, hotplug
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.backend import (
    QemuBackend,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.blocks import throttle
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.facts import read_facts
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.hotplug import (
    Hotplugger,
    finish_start,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.ports import PORTS
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.qmp import Qmp
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.taps import Tap
from ansible_collections.cloudnebula.hypervisor.tests.unit.fake_qmp import (
    GREETING,
    FakeQmp,
    event,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import (
    FULL_HANDLE,
    FULL_SPEC,
    GIB,
)

MIB = 1024**2
DATA = Disk("data", size=GIB).completed()
SCSI = Disk("many", size=GIB, bus="virtio-scsi", iops=100).completed()
NVME = Disk("fast", size=GIB, bus="nvme", serial="F1").completed()
SPEC = replace(FULL_SPEC, disks=(DATA,), cdrom="", networks=(Network(),))
VM = FULL_HANDLE.evolve(
    spec=SPEC,
    booted=SPEC,
    disks={d.name: DiskRecord(f"/vms/{d.name}", "qcow2", GIB) for d in (DATA, SCSI, NVME)},
    macs={"net0": "52:54:00:00:00:00", "net1": "52:54:00:00:00:01", "lan": "52:54:00:00:00:02"},
)
LOOKS = ("qom-list", "qom-get", "query-", "human-monitor-command", "qmp_capabilities")


class Model:
    """As much of QEMU as the changes need. ``guest`` is how it takes an unplug: willing, deaf or unwilling."""

    def __init__(self, guest="willing"):
        self.guest = guest
        self.devices = {"dev-data": "port1", "card-net0": "port0", "cdrom": "ide.5"}
        self.nodes = {"disk0", "disk-data"}
        self.ends = {"net0"}
        self.cpus = [0]
        self.dimms = []
        self.medium = None  # a node
        self.locked = False  # the drive, by the guest
        self.tray_open = False
        self.refused = set()  # commands
        self.ssh = True  # whether a card leads there
        self.did = []

    def serve(self, session):
        session.greet()
        while True:
            request = session.hear()
            name, arguments = request["execute"], request.get("arguments", {})
            if not name.startswith(LOOKS):
                self.did.append((name, arguments))
            events = []
            try:
                if name in self.refused:
                    raise ValueError("it is refused")
                act = getattr(self, name.replace("-", "_"))
                answer = {
                    "return": act(events, **{k.replace("-", "_"): v for k, v in arguments.items()})
                }
            except ValueError as exc:
                answer = {"error": {"class": "GenericError", "desc": str(exc)}}
            session.say({**answer, "id": request["id"]}, *events)

    def qom_list(self, events, path):
        return [{"name": name, "type": "x"} for name in ("type", *self.devices)]

    def qom_get(self, events, path, property):
        if path.rpartition("/")[2] not in self.devices:
            raise ValueError("no such device")
        return f"/machine/peripheral/x/{self.devices[path.rpartition('/')[2]]}"

    def query_named_block_nodes(self, events, flat):
        return [{"node-name": name} for name in self.nodes]

    def query_block(self, events):
        drive = {"qdev": "/machine/peripheral/cdrom", "tray_open": self.tray_open}
        return [drive if self.medium is None else {**drive, "inserted": {"node-name": self.medium}}]

    def query_hotpluggable_cpus(self, events):
        slots = []
        for core in (3, 2, 1, 0):
            slot = {"type": "max-x86_64-cpu", "vcpus-count": 1, "props": {"core-id": core}}
            slots.append({**slot, "qom-path": "/x"} if core in self.cpus else slot)
        return slots

    def query_memory_size_summary(self, events):
        return {"base-memory": 1024 * MIB, "plugged-memory": sum(self.dimms)}

    def human_monitor_command(self, events, command_line):
        rule = f"  TCP[HOST_FORWARD]  12  127.0.0.1 {VM.ssh_host_port}  10.0.2.15  22  0  0\r\n"
        return f"Hub\r\n{rule if self.ssh else ''}"

    def device_add(self, events, driver, **more):
        if driver == "max-x86_64-cpu":
            self.cpus.append(more["core_id"])
        if driver == "pc-dimm":
            self.dimms.append(self.memory)
        self.devices[more["id"]] = more.get("bus", "")

    def device_del(self, events, id):
        path = f"/machine/peripheral/{id}"
        if self.guest == "unwilling":
            events.append(event("DEVICE_UNPLUG_GUEST_ERROR", device=id, path=path))
        if self.guest == "willing":
            del self.devices[id]
            events.append(event("DEVICE_DELETED", path=f"{path}/virtio-backend"))
            events.append(event("DEVICE_DELETED", device=id, path=path))

    def blockdev_add(self, events, **node):
        if node["node_name"] in self.nodes:
            raise ValueError("there is one")
        self.nodes.add(node["node_name"])

    def blockdev_del(self, events, node_name):
        if f"dev-{node_name.removeprefix('disk-')}" in self.devices or node_name == self.medium:
            raise ValueError("it is in use")
        if node_name not in self.nodes:
            raise ValueError("there is none")
        self.nodes.remove(node_name)

    def netdev_add(self, events, type, id, **more):
        if id in self.ends:
            raise ValueError("there is one")
        self.ends.add(id)

    def netdev_del(self, events, id):
        if f"card-{id}" in self.devices or id not in self.ends:
            raise ValueError("no")
        self.ends.remove(id)

    def object_add(self, events, **more):
        self.memory = more["size"]

    def object_del(self, events, id):
        pass

    def set_link(self, events, name, up):
        pass

    def block_resize(self, events, node_name, size):
        pass

    def block_set_io_throttle(self, events, **more):
        pass

    def blockdev_open_tray(self, events, id):
        if self.locked and self.guest != "willing":
            return  # QEMU asks the guest and says nothing
        self.tray_open = True
        if self.locked:
            events.append(event("DEVICE_TRAY_MOVED", **{"device": "", "id": id, "tray-open": True}))

    def blockdev_close_tray(self, events, id):
        self.tray_open = False

    def blockdev_remove_medium(self, events, id):
        if not self.tray_open:
            raise ValueError("Tray of device 'cdrom' is not open")
        self.medium = None

    def blockdev_insert_medium(self, events, id, node_name):
        self.medium = node_name


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(hotplug, "_UNPLUG", 0.4)
    monkeypatch.setattr(hotplug, "_AGAIN", 0.1)
    monkeypatch.setattr(hotplug, "_EJECT", 0.2)


def make(tmp_path, model, *changes, vm=VM):
    with FakeQmp(tmp_path / "qmp", model.serve), Qmp.connect(str(tmp_path / "qmp"), 2) as qmp:
        for change in changes:
            Hotplugger(vm, qmp).make(change)
    return model.did


def names(did):
    return [name for name, dummy in did]


def test_a_disk_is_added_at_a_free_port(tmp_path):
    model = Model()
    add = Change("add_disk", "fast", NVME)

    did = make(tmp_path, model, add)

    assert names(did) == ["blockdev-del", "blockdev-add", "device_add"]  # the first finds nothing
    assert did[1][1]["file"]["filename"] == "/vms/fast"
    assert did[2][1] == {
        "driver": "nvme",
        "id": "dev-fast",
        "drive": "disk-fast",
        "serial": "F1",
        "bus": "port2",
    }
    assert names(make(tmp_path, model, add))[3:] == [], "the second time it is there"


def test_a_disk_on_scsi_brings_its_controller_and_its_limits(tmp_path):
    did = make(tmp_path, Model(), Change("add_disk", "many", SCSI))

    devices = [arguments for name, arguments in did if name == "device_add"]
    assert devices[0] == {"driver": "virtio-scsi-pci", "id": "scsi0", "bus": "port2"}
    assert (devices[1]["driver"], devices[1]["bus"]) == ("scsi-hd", "scsi0.0")
    assert did[-1][0] == "block_set_io_throttle"
    assert (did[-1][1]["id"], did[-1][1]["iops"], did[-1][1]["bps"]) == ("dev-many", 100, 0)


def test_a_disk_whose_device_is_refused_leaves_nothing_open(tmp_path):
    model = Model()
    model.refused = {"device_add"}

    with pytest.raises(ChangeFailed, match=r"add disk fast.*it is refused") as caught:
        make(tmp_path, model, Change("add_disk", "fast", NVME))

    assert caught.value.details["change"] == "add disk fast"
    assert model.nodes == {"disk0", "disk-data"}


def test_all_ports_may_be_taken(tmp_path):
    model = Model()
    model.devices |= {f"x{number}": f"port{number}" for number in range(PORTS)}

    with pytest.raises(ChangeFailed, match=f"All {PORTS} ports .* are taken"):
        make(tmp_path, model, Change("add_disk", "fast", NVME))


def test_a_machine_without_ports_lets_qemu_choose(tmp_path):
    board = replace(SPEC, machine="pc")

    did = make(tmp_path, Model(), Change("add_disk", "fast", NVME), vm=VM.evolve(booted=board))

    assert "bus" not in did[-1][1]


def test_only_the_end_of_the_device_itself_lets_its_disk_go(tmp_path):
    model = Model()

    did = make(tmp_path, model, Change("remove_disk", "data"))

    assert did == [("device_del", {"id": "dev-data"}), ("blockdev-del", {"node-name": "disk-data"})]
    assert model.nodes == {"disk0"}


@pytest.mark.parametrize("guest", ["deaf", "unwilling"])
@pytest.mark.parametrize(
    "change", [Change("remove_disk", "data"), Change("remove_network", "net0")]
)
def test_a_guest_that_does_not_let_go_is_asked_again_and_told_of(tmp_path, guest, change):
    model = Model(guest)

    with pytest.raises(ChangeFailed, match=r"did not let the device \S+ go within 0.4 s"):
        make(tmp_path, model, change)

    assert len(model.did) >= 3, "it is asked again"
    assert set(names(model.did)) == {"device_del"}, "what the device uses stays"


def test_a_device_without_a_port_of_its_own_is_told_of_at_once(tmp_path):
    model = Model()

    def refuse(events, id):
        raise ValueError("Bus 'pcie.0' does not support hotplugging")

    model.device_del = refuse
    with pytest.raises(ChangeFailed, match=r"remove disk data.*does not support hotplugging"):
        make(tmp_path, model, Change("remove_disk", "data"))


def test_a_guest_that_lets_go_late_is_noticed_without_its_event(tmp_path):
    model = Model("deaf")
    answered = model.qom_list
    asked = []

    def gone_at_the_second_look(events, path):
        asked.append(path)
        if len(asked) == 2:
            del model.devices["dev-data"]
        return answered(events, path)

    model.qom_list = gone_at_the_second_look
    make(tmp_path, model, Change("remove_disk", "data"))

    assert "disk-data" not in model.nodes


def test_a_size_is_set_by_node_and_a_limit_by_device(tmp_path):
    limits = replace(DATA, bps_read=7).limits
    booted = replace(SPEC, disks=(replace(DATA, bus="nvme"),))  # not yet what the spec says

    did = make(
        *(tmp_path, Model()),
        Change("resize_disk", SYSTEM_DISK, 2 * GIB),
        Change("resize_disk", "data", 3 * GIB),
        Change("limit_disk", "data", limits),
        vm=VM.evolve(booted=booted),
    )
    did += make(tmp_path, Model(), Change("limit_disk", "data", limits))
    did += make(tmp_path, Model(), Change("limit_disk", SYSTEM_DISK, limits))

    assert [a["node-name"] for dummy, a in did[:2]] == ["disk0", "disk-data"]
    assert [a["size"] for dummy, a in did[:2]] == [2 * GIB, 3 * GIB]
    shell = "/machine/peripheral/{}/virtio-backend"
    assert [a["id"] for dummy, a in did[2:]] == [
        "dev-data",
        shell.format("dev-data"),
        shell.format("dev-disk0"),
    ]
    assert {a["bps_rd"] for dummy, a in did[2:]} == {7}


def test_cpus_are_added_in_their_order_up_to_the_number_that_is_asked_for(tmp_path):
    model = Model()

    did = make(tmp_path, model, Change("set_vcpus", value=3))

    assert [a["core-id"] for dummy, a in did] == [1, 2]
    assert make(tmp_path, model, Change("set_vcpus", value=3)) == did, "they are there"


def test_memory_is_added_in_pieces(tmp_path):
    model = Model()

    make(tmp_path, model, Change("set_memory", value=1536), Change("set_memory", value=2048))

    objects = [a for name, a in model.did if name == "object-add"]
    assert [(a["id"], a["size"], a["dump"]) for a in objects] == [
        ("mem0", 512 * MIB, False),
        ("mem1", 512 * MIB, False),
    ]
    assert [a["memdev"] for name, a in model.did if name == "device_add"] == ["mem0", "mem1"]


def test_memory_that_does_not_fit_is_given_back(tmp_path):
    model = Model()
    model.refused = {"device_add"}

    with pytest.raises(ChangeFailed, match="set memory"):
        make(tmp_path, model, Change("set_memory", value=1536))

    assert names(model.did) == ["object-add", "device_add", "object-del"]


def test_media_are_changed_in_turns(tmp_path):
    model = Model()
    changes = [Change("set_medium", value=value) for value in ("/a.iso", "/b.iso", "", "/c.iso")]

    seen = []
    for change in changes:
        make(tmp_path, model, change)
        seen.append((model.medium, sorted(model.nodes)))

    rest = ["disk-data", "disk0"]
    assert seen == [
        ("medium", [*rest, "medium"]),
        ("medium2", [*rest, "medium2"]),
        (None, rest),
        ("medium", [*rest, "medium"]),
    ]
    assert names(model.did)[-1] == "blockdev-close-tray"


def test_a_medium_that_cannot_be_opened_leaves_the_old_one_in(tmp_path):
    model = Model()
    make(tmp_path, model, Change("set_medium", value="/a.iso"))
    model.refused = {"blockdev-add"}

    with pytest.raises(ChangeFailed, match="set medium"):
        make(tmp_path, model, Change("set_medium", value="/gone.iso"))

    assert model.medium == "medium"
    assert names(model.did)[-1] == "blockdev-add"


def test_a_guest_is_asked_to_unlock_its_drive(tmp_path):
    model = Model()
    make(tmp_path, model, Change("set_medium", value="/a.iso"))
    model.locked = True

    make(tmp_path, model, Change("set_medium", value="/b.iso"))

    assert model.medium == "medium2"


def test_a_guest_that_keeps_its_drive_locked_keeps_the_medium(tmp_path):
    model = Model("deaf")
    make(tmp_path, model, Change("set_medium", value="/a.iso"))
    model.locked = True

    with pytest.raises(ChangeFailed, match="has locked its CD-ROM drive") as caught:
        make(tmp_path, model, Change("set_medium", value="/b.iso"))

    assert "unmount" in caught.value.help
    assert (model.medium, "medium2" in model.nodes) == ("medium", False)


def test_a_card_in_user_mode_brings_its_forwards_and_leads_to_ssh_if_no_other_does(tmp_path):
    card = Network(name="net1", port_forwards=(PortForward(8080, 80),), connected=False)
    second, first = Model(), Model()
    first.ssh = False

    did = make(tmp_path, second, Change("add_network", "net1", card))
    alone = make(tmp_path, first, Change("add_network", "net1", card))

    forward = {"str": "tcp:127.0.0.1:8080-:80"}
    assert did[1][1] == {"type": "user", "id": "net1", "hostfwd": [forward]}
    ssh = {"str": f"tcp:127.0.0.1:{VM.ssh_host_port}-:22"}
    assert alone[1][1]["hostfwd"] == [ssh, forward]
    assert did[2][1] == {
        "driver": "virtio-net-pci",
        "id": "card-net1",
        "netdev": "net1",
        "mac": "52:54:00:00:00:01",
        "romfile": "",
        "bus": "port2",
    }
    assert did[3] == ("set_link", {"name": "card-net1", "up": False})


def test_a_card_whose_device_is_refused_leaves_no_other_end(tmp_path):
    model = Model()
    model.refused = {"device_add"}

    with pytest.raises(ChangeFailed, match="add network net1"):
        make(tmp_path, model, Change("add_network", "net1", Network(name="net1")))

    assert model.ends == {"net0"}


def test_a_card_goes_with_its_other_end(tmp_path):
    model = Model()

    make(tmp_path, model, Change("remove_network", "net0"))

    assert (model.ends, "card-net0" in model.devices) == (set(), False)


def test_a_cable_is_plugged_and_unplugged(tmp_path):
    plug = [Change("plug_cable", "net0", value) for value in (False, True)]

    did = make(tmp_path, Model(), *plug)

    assert did == [("set_link", {"name": "card-net0", "up": up}) for up in (False, True)]


def test_what_the_command_line_has_no_words_for_is_done_at_the_start(tmp_path):
    spec = replace(
        SPEC, disks=(DATA, SCSI), networks=(Network(), Network(name="x", connected=False))
    )
    model = Model()

    with FakeQmp(tmp_path / "qmp", model.serve), Qmp.connect(str(tmp_path / "qmp"), 2) as qmp:
        finish_start(VM.evolve(spec=spec), qmp)

    assert names(model.did) == ["block_set_io_throttle", "set_link"]
    assert model.did[1][1] == {"name": "card-x", "up": False}


class Receiver:
    """The side of QEMU that takes descriptors; a thread, for the client waits for each answer."""

    def __init__(self, refuse=()):
        self.ours, theirs = socket.socketpair()
        self.refuse, self.heard, self.inodes = refuse, [], {}
        self._thread = threading.Thread(target=self._serve, args=(theirs,))
        self._thread.start()

    def join(self):
        self._thread.join(10)

    def _serve(self, sock):
        with sock:
            sock.settimeout(10)
            sock.sendall(json.dumps(GREETING).encode() + b"\n")
            while True:
                data, fds, dummy_flags, dummy_address = socket.recv_fds(sock, 65536, 4)
                if not data:
                    return
                request = json.loads(data)
                self.heard.append((request["execute"], request.get("arguments")))
                for fd in fds:
                    self.inodes[request["arguments"]["fdname"]] = os.fstat(fd).st_ino
                    os.close(fd)
                answer = {"return": {}, "id": request["id"]}
                if request["execute"] in self.refuse:
                    answer = {"error": {"class": "X", "desc": "no"}, "id": request["id"]}
                sock.sendall(json.dumps(answer).encode() + b"\n")


@pytest.fixture
def pipes():
    ends = [os.pipe() for dummy in range(2)]
    yield [end[0] for end in ends]
    for pair in ends:
        for fd in pair:
            os.close(fd)


@pytest.mark.parametrize(
    ("count", "vhost", "end"),
    [
        (1, False, {"fd": "lan-0"}),
        (2, False, {"fds": "lan-0:lan-1"}),
        (1, True, {"fd": "lan-0", "vhost": True, "vhostfd": "lan-1"}),
    ],
)
def test_the_hosts_end_of_a_card_is_handed_over_as_descriptors(
    monkeypatch, pipes, count, vhost, end
):
    tap = Tap("lan", tuple(pipes[:count]), tuple(pipes[count:]) if vhost else ())
    monkeypatch.setattr(cards, "opened_tap", lambda vm, card: AsContext(tap))
    receiver = Receiver()

    with Qmp.over(receiver.ours, 5) as qmp:
        queues = cards.add_host_end(VM, Network("bridge", "lan", bridge="br0"), qmp)
    receiver.join()

    assert queues == count
    passed = (*tap.fds, *tap.vhost)
    assert receiver.inodes == {f"lan-{n}": os.fstat(fd).st_ino for n, fd in enumerate(passed)}
    assert receiver.heard[-1] == ("netdev_add", {"type": "tap", "id": "lan", **end})


def test_descriptors_that_qemu_does_not_take_are_closed_there(monkeypatch, pipes):
    tap = Tap("lan", tuple(pipes[:1]))
    monkeypatch.setattr(cards, "opened_tap", lambda vm, card: AsContext(tap))
    receiver = Receiver(refuse=("netdev_add",))

    with Qmp.over(receiver.ours, 5) as qmp, pytest.raises(QmpCommandFailed):
        cards.add_host_end(VM, Network("bridge", "lan", bridge="br0"), qmp)
    receiver.join()

    assert receiver.heard[-1] == ("closefd", {"fdname": "lan-0"})


class AsContext:
    def __init__(self, value):
        self.value = value

    def __enter__(self):
        return self.value

    def __exit__(self, *dummy):
        pass


QEMUS_WORDS = ("iops", "iops_rd", "iops_wr", "bps", "bps_rd", "bps_wr")


def drive(device, size=GIB, limit=0, **more):
    limits = {word: limit and limit + n for n, word in enumerate(QEMUS_WORDS)}
    inserted = {"file": "/x", "image": {"virtual-size": size}, **limits}
    return {"qdev": device, "inserted": inserted, **more}


@pytest.mark.parametrize(
    ("drives", "disks", "medium"),
    [
        ([], {}, None),
        ([drive("/machine/peripheral/dev-data/virtio-backend", 5)], {"data": 5}, None),
        ([drive("dev-data", 7), drive("/machine/x/dev-b", 8)], {"data": 7, "b": 8}, None),
        ([drive("seed-of-others"), {"device": "x"}], {}, None),
        ([{"qdev": "cdrom", "tray_open": False}], {}, ""),
        ([drive("cdrom", tray_open=False)], {}, "/x"),
        ([drive("cdrom", tray_open=True)], {}, ""),
    ],
)
def test_what_the_machine_has_is_read_from_qemu(tmp_path, drives, disks, medium):
    model = Model()
    model.dimms = [256 * MIB]
    model.query_block = lambda events: drives
    model.query_cpus_fast = lambda events: [{}, {}, {}]

    with FakeQmp(tmp_path / "qmp", model.serve), Qmp.connect(str(tmp_path / "qmp"), 2) as qmp:
        facts = read_facts(qmp, 2.0)

    none = dict.fromkeys(LIMITS, 0)
    assert facts == LiveFacts(3, 1280, disks, ("net0",), medium, dict.fromkeys(disks, none))


def test_each_limit_is_read_by_its_name(tmp_path):
    model = Model()
    model.query_block = lambda events: [drive("dev-disk0"), drive("dev-data", limit=11)]

    with FakeQmp(tmp_path / "qmp", model.serve), Qmp.connect(str(tmp_path / "qmp"), 2) as qmp:
        facts = read_facts(qmp, 2.0, started=True)

    limits = {"disk0": dict.fromkeys(LIMITS, 0), "data": dict(zip(LIMITS, range(11, 17)))}
    assert facts == LiveFacts(disks={"disk0": GIB, "data": GIB}, limits=limits)
    assert throttle(replace(DATA, **limits["data"]), "q35") == {
        "id": "/machine/peripheral/dev-data/virtio-backend",
        "group": "dev-data",
        **dict(zip(QEMUS_WORDS, range(11, 17))),
    }


def test_every_change_that_a_plan_can_hold_can_be_made():
    more = {"vcpus": 3, "memory_mib": 3072, "disk_size": 30 * GIB, "cdrom": "/a.iso"}
    cards_then = (replace(Network(), connected=False), Network(name="net1"))
    wanted = replace(
        SPEC, **more, disks=(replace(DATA, size=9 * GIB, iops=5), NVME), networks=cards_then
    )
    everything = QemuBackend.features.hotplug
    there = live_changes(SPEC, wanted, everything).changes
    back = live_changes(
        replace(SPEC, disks=(DATA, NVME), networks=(*SPEC.networks, *cards_then[1:])),
        SPEC,
        everything,
    )

    words = {change.what for change in (*there, *back.changes)}

    assert all(hasattr(Hotplugger, f"_{word}") for word in words)
    acts = {
        *("set_vcpus", "set_memory", "set_medium", "resize_disk", "limit_disk", "add_disk"),
        *("remove_disk", "add_network", "remove_network", "plug_cable"),
    }
    assert words == acts
    assert everything != Hotplug()
