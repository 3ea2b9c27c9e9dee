# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a machine on Propolis, over doubles of illumos' programs and of propolis-server, through Ansible."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.handle import load
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.instance import (
    Seed,
    build_ensure,
)
from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._payload import (
    build_program,
    read_answer,
)
from ansible_collections.cloudnebula.hypervisor.tests.doubles.illumos.world import IllumosWorld
from ansible_collections.cloudnebula.hypervisor.tests.doubles.propolis_thread import ask
from conftest import ENVIRONMENT, LOCALHOST, ROOT, Hypervisor, clean_up, wait_until

MIB = 1024 * 1024
STORIES = ROOT / "tests" / "integration" / "stories"
GUEST = "10.77.0.5"
# Logs in to the pretended guest: the folder of the key is that of the machine, where its server works.
SSH = """#!/bin/sh
while [ "$1" != -i ]; do shift; done
touch "$(dirname "$2")/guest-poweroff"
"""


def settings(world, **chosen):
    """Choose how the servers of this host behave."""
    (world.folder / "propolis.json").write_text(json.dumps(chosen))


def volumes(world):
    """Return the sizes of all volumes of machines, by name."""
    rows = world.run("zfs", "list", "-Hp", "-o", "name,volsize", "-t", "volume").splitlines()
    found = dict(row.split("\t") for row in rows)
    return {name: int(size) for name, size in found.items() if "/vms/" in name}


def vnics(world):
    """Return all VNICs of this host."""
    return {n: link for n, link in world.state()["links"].items() if link["class"] == "vnic"}


@pytest.fixture
def world(tmp_path):
    """A pretended illumos host."""
    with IllumosWorld(tmp_path / "illumos") as world:
        yield world


@pytest.fixture
def propolis(world, tmp_path):
    """A hypervisor on that host, with an image; all that a test leaves is removed, and then nothing is left."""
    image = tmp_path / "base.raw"
    image.write_bytes(b"\x55\xaa".rjust(512, b"\x01") + bytes(4 * MIB - 512))
    settings(world, addresses={"*": f"{GUEST}/24"})
    ssh = world.folder / "bin" / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    subject = Hypervisor(tmp_path / "data")
    subject.defaults = {"backend": "propolis", "image": str(image), "memory": "64"}
    subject.prefix = world.prefix
    subject.environment = {**ENVIRONMENT, **world.environment}
    yield subject
    clean_up(subject)
    state = world.state()
    assert [name for name in state["datasets"] if "/vms/" in name] == []
    assert state["services"] == {"global": {}}
    assert state["zones"] == {}
    assert [name for name, link in state["links"].items() if link["class"] == "vnic"] == []


def test_story_of_one_machine(propolis, world, tmp_path):
    """Every state, each in check mode, for real, and both again; the same playbook as with QEMU."""
    image = propolis.defaults["image"]
    options = {"data_dir": str(propolis.data_dir), "image": image, "backend": "propolis"}
    done = subprocess.run(
        [
            *(*propolis.prefix, sys.executable, "-m", "ansible", "playbook", "-i", str(LOCALHOST)),
            *(str(STORIES / "lifecycle.yml"), "-e", json.dumps(options)),
        ],
        env=propolis.environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert propolis.files() == [path for path in propolis.files() if path.startswith("images/.")]


def test_a_machine_and_what_the_host_has_of_it(propolis, world):
    network = {"type": "vnic", "link": "net0", "vlan": 7, "mtu": 1400, "mac": "02:08:20:0a:0b:0c"}

    vm = propolis.vm(networks=[network], disk_size="16MiB", vnc=True, wait_for="ip")["vm"]

    assert (vm["state"], vm["run_state"], vm["ip_address"]) == ("running", "Running", GUEST)
    assert vm["ssh"] == {**vm["ssh"], "host": GUEST, "port": 22, "user": "vm"}
    assert vm["console"]["type"] == "websocket"
    assert vm["vnc"]["host"] == "127.0.0.1"
    assert vm["disks"][0]["path"] == "/dev/zvol/rdsk/rpool/vms/vm1/disk0"
    assert volumes(world) == {"rpool/vms/vm1/disk0": 16 * MIB}
    (link,) = vnics(world).values()
    assert (link["over"], link["vid"], link["mtu"]) == ("net0", 7, 1400)
    assert link["mac"] == "02:08:20:0a:0b:0c"
    assert "listening" in (propolis.folder() / "propolis.log").read_text() or world.servers()


def test_the_disk_holds_the_image(propolis, world, tmp_path):
    content = b"\x55\xaa".rjust(512, b"\x01") + os.urandom(MIB) + bytes(3 * MIB) + os.urandom(5120)
    raw = tmp_path / "full.raw"
    raw.write_bytes(content)
    qcow2 = tmp_path / "full.qcow2"
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2)]
    subprocess.run(command, check=True)

    for name, image in (("plain", raw), ("converted", qcow2)):
        propolis.vm(name, state="present", image=str(image))
        disk = world.folder / "zvol" / "rdsk" / "rpool" / "vms" / name / "disk0"
        assert disk.read_bytes()[: len(content)] == content


def test_what_could_not_be_asked_for_an_address_is_said(propolis, world):
    settings(world, addresses={})
    propolis.vm()
    assert propolis.run("vm_info").get("warnings", []) == []

    world.fail("ndp", "-an", "ndp: the disk is on fire")

    (warning,) = propolis.run("vm_info")["warnings"]
    assert "ndp: the disk is on fire" in warning
    world.fail("arp", "-an", "arp: the disk is on fire", times=100)
    refused = propolis.refuse(wait_for="ip", wait_timeout=1)
    assert "arp: the disk is on fire" in refused["msg"]


def test_several_machines_from_one_task(propolis, world):
    defaults = {**propolis.defaults, "wait_for": "ip"}
    wishes = [{"name": "a"}, {"name": "b", "networks": [{"type": "vnic", "link": "net1"}]}]

    told = propolis.run("vm_fleet", vms=wishes, defaults=defaults, check=True)
    untouched = volumes(world) == {} and vnics(world) == {}
    made = propolis.run("vm_fleet", vms=wishes, defaults=defaults)
    again = propolis.run("vm_fleet", vms=wishes, defaults=defaults)
    refused = propolis.run(
        "vm_fleet",
        vms=[{"name": "c"}, {"name": "d", "image": None, "clone_from": "a"}],
        defaults=defaults,
    )
    removed = propolis.run(
        "vm_fleet", vms=[{"name": "a"}, {"name": "b"}], defaults={"state": "absent"}
    )

    assert untouched
    assert told["results"] == made["results"]
    assert told["diff"] == made["diff"]
    assert [(vm["name"], vm["state"], vm["ip_address"]) for vm in made["vms"]] == [
        ("a", "running", GUEST),
        ("b", "running", GUEST),
    ]
    assert [vm["run_state"] for vm in again["vms"]] == ["Running", "Running"]
    assert again["changed"] is False
    assert refused["errors"]["d"]["code"] == "vm_manager.backend.unsupported"
    assert refused["changed"] is False
    assert [vm["state"] for vm in removed["vms"]] == ["destroyed", "destroyed"]
    assert volumes(world) == {}


def test_guest_is_asked_to_power_off_before_its_power_is_cut(propolis, world):
    propolis.vm(wait_for="ip")

    assert propolis.vm(state="stopped")["vm"]["stopped_by"] == "guest"
    assert "ci-info" in (propolis.folder() / "console.log").read_text()

    settings(world, addresses={"*": f"{GUEST}/24"}, ignores_poweroff=True)
    propolis.vm(state="started", wait_for="ip")
    assert propolis.vm(state="stopped", stop_timeout=1)["vm"]["stopped_by"] == "quit"
    propolis.vm(state="started")
    assert propolis.vm(state="stopped", force=True)["vm"]["stopped_by"] == "quit"


def test_a_console_that_cannot_be_kept_is_not_replaced_by_an_older_one(propolis, world):
    settings(world, fail_history="the moon is in the way")
    propolis.vm()
    console = propolis.folder() / "console.log"
    console.write_text("of another day")

    (warning,) = propolis.run("vm_info")["warnings"]
    propolis.vm(state="stopped", stop_timeout=0)

    assert "the moon is in the way" in warning
    assert console.read_text().startswith("What the guest printed could not be kept: ")
    assert "the moon is in the way" in console.read_text()


def test_changes_apply_at_the_next_start(propolis, world):
    propolis.vm()

    changed = propolis.vm(vcpus=3, networks=[{"type": "vnic", "name": "lan", "link": "net1"}])

    assert changed["actions"] == ["prepare"]
    assert changed["restart_required"] is True
    assert [link["over"] for link in vnics(world).values()] == ["net0"]
    propolis.vm(state="restarted", stop_timeout=0)
    assert [link["over"] for link in vnics(world).values()] == ["net1"]
    assert propolis.vm()["changed"] is False


def test_a_version_of_the_api_that_the_server_lacks_can_be_put_right(propolis, world):
    settings(world, latest="1.0.0")
    propolis.vm()

    changed = propolis.vm(propolis={"api_version": "5.0.0"})

    assert (changed["vm"]["state"], changed["restart_required"]) == ("running", True)
    looked = propolis.run("vm_info")
    assert looked["vms"][0]["run_state"] == "Running", (
        "the server is asked in the version that it has"
    )
    assert looked.get("warnings", []) == []
    refused = propolis.refuse(state="restarted", stop_timeout=0)
    assert "does not support this API version: 5.0.0" in refused["msg"]
    assert "propolis.api_version" in refused["error"]["help"]
    again = propolis.vm(state="started", propolis={"api_version": "1.0.0"})
    assert again["vm"]["state"] == "running"


def test_an_instance_that_a_killed_start_left_is_described_anew(propolis, world):
    url = propolis.vm()["vm"]["console"]["path"].replace("ws:", "http:").partition("/instance")[0]
    record = propolis.record()
    handle = load(record.read_bytes(), str(record))
    ask(url, "PUT", "/instance/state", "Stop")
    wait_until(lambda: ask(url, "GET", "/instance")[1]["instance"]["state"] == "Destroyed")
    body = build_ensure(handle, Seed(path=handle.seed_iso_path))
    assert ask(url, "PUT", "/instance", body)[0] == 201

    assert propolis.state() == "stopped"
    assert propolis.vm(state="started", vcpus=3)["actions"] == ["prepare", "start"]

    spec = ask(url, "GET", "/instance/spec", api_version="5.0.0")[1]["spec"]["value"]
    assert spec["board"]["cpus"] == 3


def test_a_link_that_was_chosen_once_stays(propolis, world):
    propolis.vm()
    with world.changed() as state:
        state["links"]["net1"]["state"] = "up"

    assert "It is not clear which link" in propolis.refuse("vm2", **propolis.defaults)["msg"]
    propolis.vm(state="restarted", stop_timeout=0)
    assert [link["over"] for link in vnics(world).values()] == ["net0"]


def test_the_screen_is_that_of_the_server_that_runs(propolis):
    propolis.vm()

    assert propolis.vm(vnc=True)["vm"]["vnc"] is None
    screen = propolis.vm(state="restarted", stop_timeout=0)["vm"]["vnc"]
    assert screen["port"]
    assert propolis.vm(vnc=False)["vm"]["vnc"] == screen
    assert propolis.vm(state="restarted", stop_timeout=0)["vm"]["vnc"] is None


def test_a_disk_only_grows(propolis, world):
    propolis.vm(state="present", disk_size="8MiB")

    result = propolis.refuse(disk_size="4MiB")
    propolis.vm(state="present", disk_size="12MiB")

    assert "8MiB" in result["msg"]
    assert volumes(world) == {"rpool/vms/vm1/disk0": 12 * MIB}


def test_the_disk_of_a_running_machine_grows_at_its_next_start(propolis, world):
    propolis.vm(disk_size="8MiB")

    assert propolis.vm(disk_size="12MiB")["restart_required"] is True
    assert volumes(world) == {"rpool/vms/vm1/disk0": 8 * MIB}
    propolis.vm(state="restarted", stop_timeout=0)
    assert volumes(world) == {"rpool/vms/vm1/disk0": 12 * MIB}


def test_after_a_reboot_of_the_host_it_is_started_from_the_record(propolis, world):
    first = propolis.vm(wait_for="ip")["vm"]
    place = urlsplit(first["console"]["path"])

    def listens():
        with socket.socket() as client:
            return client.connect_ex((place.hostname, place.port)) == 0

    world.reboot()
    wait_until(listens)

    assert propolis.state() == "stopped"
    again = propolis.vm(state="started", wait_for="ip")["vm"]
    for name in ("id", "networks", "console"):
        assert again[name] == first[name]


def lose_vnics(world):
    with world.changed() as state:
        state["links"] = {n: link for n, link in state["links"].items() if link["class"] != "vnic"}


def change_vnics(world):
    with world.changed() as state:
        for link in state["links"].values():
            if link["class"] == "vnic":
                link.update(mac="02:08:20:00:00:99", mtu=1300)


def service(world):
    (fmri,) = world.state()["services"]["global"]
    return fmri


def disable_service(world):
    world.run("svcadm", "disable", "-s", service(world))


def lose_service(world):
    disable_service(world)
    world.run("svccfg", "delete", service(world))


@pytest.mark.parametrize("harm", [lose_vnics, change_vnics, disable_service, lose_service])
def test_what_is_gone_after_a_reboot_is_made_again(propolis, world, harm):
    propolis.vm()
    before = vnics(world)
    world.reboot()

    harm(world)

    assert propolis.state() == "stopped"
    again = propolis.vm(state="started")
    assert (again["actions"], again["vm"]["state"]) == (["start"], "running")
    assert vnics(world) == before
    assert len(world.servers()) == 1
    assert propolis.vm(state="started")["changed"] is False


def test_a_disk_that_is_gone_after_a_reboot_is_not_made_anew(propolis, world):
    propolis.vm()
    world.reboot()
    disable_service(world)
    world.run("zfs", "destroy", "rpool/vms/vm1/disk0")

    assert "volume rpool/vms/vm1/disk0, is gone" in propolis.refuse(state="started")["msg"]
    assert volumes(world) == {}
    assert propolis.vm(state="absent")["actions"] == ["destroy"]


def test_the_kernel_keeps_nothing_of_a_machine_that_is_stopped(propolis, world):
    kernel = world.folder / "dev" / "vmm"
    propolis.vm()
    assert len(list(kernel.iterdir())) == 1
    propolis.vm(state="stopped", stop_timeout=0)
    assert list(kernel.iterdir()) == []
    assert world.calls("bhyvectl") == [], "its power was cut, and then its server was ended"

    propolis.vm(state="started")
    (pid,) = world.servers().values()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: list(world.servers().values()) not in ([pid], []))
    assert len(list(kernel.iterdir())) == 1
    propolis.vm(state="absent")
    assert list(kernel.iterdir()) == []


def test_a_server_that_dies_takes_its_machine_along(propolis, world):
    propolis.vm()
    (pid,) = world.servers().values()

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: list(world.servers().values()) not in ([pid], []))

    assert propolis.state() == "stopped"
    assert propolis.vm(state="started")["actions"] == ["start"]


class Stranger(http.server.BaseHTTPRequestHandler):
    """Answers as a server does that knows nothing of instances."""

    def answer(self):
        self.send_response(404)
        self.end_headers()

    do_GET = do_PUT = answer  # noqa: N815

    def log_message(self, *dummy_args):
        pass


class Mute(Stranger):
    """Takes requests and closes the connection without a word."""

    def answer(self):
        pass

    do_GET = do_PUT = answer  # noqa: N815


def take_port(world, part, port, stranger):
    """End a machine's server as often as it takes to have a stranger listen in its place, and return that."""
    deadline = time.monotonic() + 20
    while True:
        for fmri, pid in world.servers().items():
            if part in fmri:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            return http.server.HTTPServer(("127.0.0.1", port), stranger)
        assert time.monotonic() < deadline


@pytest.mark.parametrize("stranger", [Stranger, Mute])
def test_a_stranger_on_the_servers_port_hinders_nobody_for_long(propolis, world, stranger):
    propolis.vm("other")
    first = propolis.vm()["vm"]["console"]["path"]
    port = int(first.partition("127.0.0.1:")[2].partition("/")[0])
    with take_port(world, ":vm1-", port, stranger) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            found = {vm["name"]: vm["state"] for vm in propolis.info()}
            again = propolis.vm(state="restarted", stop_timeout=0)["vm"]
        finally:
            server.shutdown()
            thread.join()

    assert found == {"other": "running", "vm1": "running"}
    assert again["state"] == "running"
    assert again["console"]["path"] != first


def test_a_server_of_another_machine_is_left_alone(propolis, world):
    propolis.vm("one")
    propolis.vm("two")
    theirs = json.loads(propolis.record("one").read_text())["propolis"]["port"]
    mine = json.loads(propolis.record("two").read_text())["propolis"]
    propolis.edit("two", propolis={**mine, "port": theirs})

    looked = propolis.run("vm_info", name=["two"])
    refused = propolis.refuse("two", state="started")

    assert [vm["state"] for vm in looked["vms"]] == ["stopped"]
    assert "runs another machine" in looked["warnings"][0]
    assert "runs another machine" in refused["msg"]
    assert propolis.vm("two", state="started")["vm"]["state"] == "running", "on a port of its own"
    propolis.edit("two", propolis={**mine, "port": theirs})
    assert propolis.vm("two", state="absent")["actions"] == ["destroy"]
    assert propolis.state("one") == "running"


MOMENTS = [
    ("zfs", "create"),
    ("zfs", "snapshot"),
    ("zfs", "rename"),
    ("zfs", "clone"),
    ("dladm", "create-vnic"),
    ("svccfg", "import"),
    ("svcadm", "enable"),
]


@pytest.mark.parametrize(("program", "word"), MOMENTS)
def test_a_killed_task_is_finished_by_the_next(propolis, world, program, word):
    world.kill(program, word, after=True)
    task = propolis.begin("vm", name="vm1", state="started", **propolis.defaults)
    assert task.communicate(timeout=60)[0] == ""

    assert propolis.vm(state="started", **propolis.defaults)["vm"]["state"] == "running"
    assert propolis.vm(state="started")["changed"] is False
    assert len(vnics(world)) == 1


def test_a_copy_that_a_killed_task_left_is_not_kept(propolis, world, tmp_path):
    qcow2 = tmp_path / "base.qcow2"
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", propolis.defaults["image"]]
    subprocess.run([*command, str(qcow2)], check=True)
    propolis.defaults["image"] = str(qcow2)
    world.kill("zfs", "create")
    task = propolis.begin("vm", name="vm1", state="present", **propolis.defaults)
    assert task.communicate(timeout=60)[0] == ""
    (left,) = (path for path in propolis.files() if path.startswith("images/") and "raw" in path)

    pruned = propolis.run("vm_image", state="pruned", check=True)
    propolis.vm(state="present", **propolis.defaults)

    assert str(propolis.data_dir / left) in pruned["left_over"]
    assert left not in propolis.files()


def test_an_unfinished_machine_gets_the_image_as_it_is_now(propolis, world, tmp_path):
    world.kill("dladm", "create-vnic")
    task = propolis.begin("vm", name="vm1", state="present", **propolis.defaults)
    assert task.communicate(timeout=60)[0] == ""
    image = tmp_path / "base.raw"
    image.write_bytes(image.read_bytes()[:512] + b"another" * 512 + bytes(2 * MIB - 512 * 7))

    propolis.vm(state="present", **propolis.defaults)

    disk = world.folder / "zvol" / "rdsk" / "rpool" / "vms" / "vm1" / "disk0"
    assert disk.read_bytes()[512:519] == b"another"


@pytest.mark.parametrize(("program", "word"), [*MOMENTS, ("zfs", "list"), ("dladm", "show-vnic")])
def test_a_program_that_fails_fails_the_task_and_a_new_machine_leaves_nothing(
    propolis, world, program, word
):
    world.fail(program, word, "it is broken today")

    result = propolis.refuse(state="started", **propolis.defaults)

    assert "it is broken today" in json.dumps(result)
    assert result.get("warnings", []) == []
    assert propolis.info() == []
    assert (volumes(world), vnics(world)) == ({}, {})


@pytest.mark.parametrize("how", ["fail_ensure", "fail_start"])
def test_a_start_that_fails_tells_the_servers_words(propolis, world, how):
    propolis.vm(state="present")
    settings(world, **{how: "the moon is in the way"})

    result = propolis.refuse(state="started")

    assert "the moon is in the way" in json.dumps(result["error"]["details"])
    assert propolis.state() == "prepared"
    settings(world)
    assert propolis.vm(state="started")["vm"]["state"] == "running"


def test_a_server_that_smf_gives_up_is_not_waited_for(propolis, world, tmp_path):
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\nsleep 1\necho no license >&2\nexit 96\n")  # after it was online
    program.chmod(0o755)
    begun = time.monotonic()

    result = propolis.refuse(
        state="started", propolis={"server": str(program)}, **propolis.defaults
    )

    assert time.monotonic() - begun < 60, "the time limit is 120 seconds"
    assert result["error"]["code"] == "vm_manager.illumos.service_failed"
    assert "is maintenance instead of online" in result["msg"]
    assert "no license" in result["error"]["details"]["program_log"]
    assert propolis.info() == []


REFUSED = [
    ({"state": "suspended"}, "state=suspended"),
    ({"cpu": "max"}, "cpu"),
    ({"machine": "q35"}, "machine"),
    ({"accelerator": "kvm"}, "accelerator"),
    ({"ssh_port_range": "20000-20010"}, "ssh_port_range"),
    ({"networks": [{"type": "user"}]}, "networks[0].type=user"),
    ({"networks": [{"type": "vnic", "connected": False}]}, "networks[0].connected=false"),
    ({"disks": [{"name": "data", "size": "1GiB"}]}, "disks"),
    ({"firmware": "uefi"}, "firmware"),
    ({"tpm": True}, "tpm"),
    ({"autostart": True}, "autostart"),
    ({"cdrom": ""}, "cdrom"),
    ({"networks": [{"type": "vnic", "model": "e1000"}]}, "networks[0].model=e1000"),
]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(("options", "what"), REFUSED)
def test_what_propolis_cannot_do_is_refused_before_anything_is_touched(
    propolis, world, options, what, check
):
    result = propolis.refuse(check=check, **{**propolis.defaults, **options})

    assert result["msg"] == f"{what} is not available on backend propolis."
    assert result["error"]["code"] == "vm_manager.backend.unsupported"
    assert world.calls() == []
    assert propolis.files() == []


def test_a_prediction_has_the_same_shape_as_with_qemu(propolis):
    options = {"state": "started", "vcpus": 2, "check": True}

    here = propolis.vm(**options)
    there = propolis.vm(**{**options, "backend": "qemu"})

    assert here["actions"] == there["actions"] == ["prepare", "start"]
    for part in ("vm", "diff"):
        assert here[part].keys() == there[part].keys()
    mine, other = (result["diff"]["after"].keys() for result in (here, there))
    assert mine - other == {"propolis"}
    only = {"firmware", "secure_boot", "tpm", "accelerator", "machine", "ssh_port_range"}
    assert other - mine == only, "options that only QEMU has, with their defaults"
    assert propolis.files() == []


def test_a_dataset_without_a_record_is_not_taken(propolis, world):
    world.run("zfs", "create", "-p", "rpool/vms/vm1")

    result = propolis.refuse(state="present", **propolis.defaults)

    assert "rpool/vms/vm1" in result["msg"]
    world.run("zfs", "destroy", "rpool/vms/vm1")


def test_two_machines_share_the_image_and_nothing_else(propolis, world):
    one, two = (propolis.vm(name)["vm"] for name in ("one", "two"))

    assert one["console"]["path"] != two["console"]["path"]
    assert len(vnics(world)) == 2
    datasets = world.state()["datasets"]
    assert len([name for name in datasets if "/images/" in name and "@" not in name]) == 1


@pytest.fixture
def zone(propolis, world, tmp_path):
    """What a task says of zones on a host that has the link to them; it goes after the machine."""
    image = tmp_path / "zone.tar.gz"
    image.write_bytes(b"a zone")
    world.run("dladm", "create-etherstub", "vmctl0")
    world.run("dladm", "create-vnic", "-l", "vmctl0", "vmctl1")
    address_the_host(world)
    yield {
        "hosting": "zone",
        "zone_image": str(image),
        "zone_dir": str(world.zones),
        "control_link": "vmctl0",
        "control_network": "127.88.0.0/24",
    }
    clean_up(propolis)
    assert list(vnics(world)) == ["vmctl1"]
    world.run("ipadm", "delete-addr", "vmctl1/v4")
    world.run("dladm", "delete-vnic", "vmctl1")


def address_the_host(world):
    world.run("ipadm", "create-addr", "-T", "static", "-a", "127.88.0.1/24", "vmctl1/v4")


def test_a_machine_in_a_zone_needs_the_hosts_address_and_a_short_seed(propolis, world, zone):
    world.run("ipadm", "delete-addr", "vmctl1/v4")
    refused = propolis.refuse(propolis=zone, **propolis.defaults)
    assert "127.88.0.1" in refused["msg"]
    assert "ipadm create-addr" in refused["error"]["help"]
    address_the_host(world)

    long = {"user_data": "#" * 900_000}
    state = {"state": "present", "propolis": zone, "cloud_init": long}
    refused = propolis.refuse(**state, **propolis.defaults)
    assert refused["error"]["details"]["option"] == "cloud_init.user_data"
    assert propolis.info() == []

    settings(world, fail_ensure="the moon is in the way")
    failed = propolis.refuse(propolis=zone, **propolis.defaults)
    assert "the moon is in the way" in failed["error"]["details"]["log"]


def test_a_machine_in_a_zone_and_what_the_zone_has_of_it(propolis, world, zone):
    vm = propolis.vm(propolis=zone, wait_for="ip")["vm"]

    assert vm["paths"]["hypervisor_log"] is None
    assert vm["console"]["path"].startswith("ws://127.88.0.2:12400/")
    (found,) = world.state()["zones"].values()
    assert found["state"] == "running"
    parts = found["config"]["resources"]
    assert "/dev/zvol/rdsk/rpool/vms/vm1/disk0" in [part.get("match") for part in parts]
    nets = [part.get("allowed-address") for part in parts if part["kind"] == "net"]
    assert nets == ["127.88.0.2/24", None], "the guest may use any"
    spec = ask("http://127.88.0.2:12400", "GET", "/instance/spec", api_version="5.0.0")[1]["spec"]
    seed = spec["value"]["components"]["cloud-init-backend"]
    assert seed["type"] == "blob_storage_backend", "the zone does not see the machine's folder"
    assert propolis.vm(propolis=zone)["changed"] is False


def test_a_server_in_a_zone_takes_up_a_change(propolis, world, zone):
    propolis.vm(propolis=zone, state="present")

    screen = propolis.vm(state="started", vnc=True)["vm"]["vnc"]
    assert f"{screen['host']}:{screen['port']}" in arguments_of_the_server(world)
    propolis.vm(vnc=False)
    assert propolis.vm(state="restarted", stop_timeout=0)["vm"]["vnc"] is None
    assert f"{screen['host']}:{screen['port']}" not in arguments_of_the_server(world)


def arguments_of_the_server(world):
    (pid,) = world.servers().values()
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def test_what_is_gone_of_a_zone_after_a_reboot_is_made_again(propolis, world, zone):
    propolis.vm(propolis=zone)
    made = vnics(world)
    world.reboot()
    world.run("ipadm", "delete-addr", "vmctl1/v4")
    for name in set(made) - {"vmctl1"}:
        world.run("dladm", "delete-vnic", name)

    assert propolis.state() == "stopped"
    assert "ipadm create-addr" in propolis.refuse(state="started")["error"]["help"]
    address_the_host(world)
    assert propolis.vm(state="started")["vm"]["state"] == "running"
    assert vnics(world) == made
    assert propolis.vm(state="stopped", stop_timeout=0)["vm"]["state"] == "stopped"
    (name,) = world.state()["zones"]
    world.run("zoneadm", "-z", name, "uninstall", "-F")
    world.run("zonecfg", "-z", name, "delete", "-F")
    assert propolis.vm(state="restarted")["vm"]["state"] == "running"
    assert propolis.vm(state="absent")["actions"] == ["stop", "destroy"]
    assert world.state()["zones"] == {}


def test_guests_are_hosts_of_the_inventory(propolis, world, tmp_path):
    propolis.vm("web", wait_for="ip")
    propolis.vm("off", state="present")
    source = tmp_path / "guests.hypervisor.yml"
    folder = json.dumps(str(propolis.data_dir))
    source.write_text(f"plugin: cloudnebula.hypervisor.vms\ndata_dir: {folder}\n")

    listed = subprocess.run(
        [
            *(*propolis.prefix, sys.executable, "-m", "ansible", "inventory"),
            *("-i", str(source), "--list"),
        ],
        env=propolis.environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert listed.stderr == ""
    known = json.loads(listed.stdout)["_meta"]["hostvars"]
    assert known["web"]["ansible_host"] == GUEST
    assert known["web"]["vm_backend"] == "propolis"
    assert "ansible_host" not in known.get("off", {})


def test_other_hosts_are_asked_without_any_part_of_ansible(propolis, world):
    propolis.vm("web", wait_for="ip")

    asked = subprocess.run(
        [*propolis.prefix, sys.executable, "-ISE", "-"],
        input=build_program(str(propolis.data_dir), False, 20),
        env=propolis.environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    (vm,) = read_answer(asked.stdout)["vms"]
    assert (vm["state"], vm["ip_address"]) == ("running", GUEST)
