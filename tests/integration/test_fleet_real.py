# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several machines from one task, through Ansible and with real QEMU."""

from __future__ import annotations

import json
import re
import socket

import pytest
from conftest import LOCALHOST, ansible, wait_until

SECRETS = {
    "user_data": {"password": "hush-user-data", "packages": ["1"]},
    "meta_data": "instance-id: web\ntoken: |\n  hush-meta-data\n",
    "network_config": {"version": 2, "wifis": {"w": {"password": "hush-network"}}},
}
WORDS = re.compile(r"hush-(user-data|meta-data|network|typo)")
DECIDED_BY_THE_RUN = {
    *("id", "pid", "run_state", "paths", "ssh", "console", "networks", "ip_address"),
    *("accelerator", "accelerator_reason", "stopped_by", "disks"),
}


def fleet(subject, vms, check=False, **defaults):
    """Run the module and expect success."""
    result = subject.run(
        "vm_fleet", vms=vms, defaults={**subject.defaults, **defaults}, check=check
    )
    assert "failed" not in result, result
    return result


def names(*machines):
    return [{"name": name} for name in machines]


def play(folder, *words):
    """Run the module by Ansible, once for each mapping among the words, whatever comes of it; return what Ansible says."""
    tasks = [
        {"name": "Several", "cloudnebula.hypervisor.vm_fleet": options, "ignore_errors": True}
        for options in words
        if isinstance(options, dict)
    ]
    playbook = folder / "play.json"
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    flags = ["--diff", *(word for word in words if isinstance(word, str))]
    done = ansible("ansible-playbook", "-i", str(LOCALHOST), *flags, str(playbook))
    playbook.unlink()
    return done.stdout + done.stderr


def free_port():
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def card(port):
    return [{"type": "user", "port_forwards": [{"host": port, "guest": 80}]}]


def test_ansible_shows_each_machine_that_changes(hypervisor, tmp_path):
    options = {"data_dir": str(hypervisor.data_dir), "defaults": {"backend": "noop"}}

    told = play(tmp_path, "--check", {"vms": names("a", "b"), **options})
    untouched = not hypervisor.data_dir.exists()
    made = play(tmp_path, {"vms": names("a", "b"), **options})
    again = play(tmp_path, {"vms": [{"name": "a"}, {"name": "b", "vcpus": 2}], **options})

    assert untouched
    for said in (told, made):
        assert "changed=1" in said
        assert re.findall(r"^([+-]) {4}(\w+):", said, re.MULTILINE) == [("+", "a"), ("+", "b")]
    assert re.search(r"^- +vcpus: 1\n\+ +vcpus: 2$", again, re.MULTILINE)
    assert not re.search(r"^. {4}a:", again, re.MULTILINE)


SECRET_TASKS = {
    "mapping": ([{"name": "web", "cloud_init": SECRETS}, {"name": "db"}], None),
    "text": ([{"name": "web", "cloud_init": json.dumps(SECRETS)}], None),
    "of all": (names("web", "db"), SECRETS),
    "as text, of all": (names("web", "db"), json.dumps(SECRETS)),
    "wrong suboption": ([{"name": "web", "cloud_init": {"user_dta": "hush-typo"}}], None),
    "wrong suboption of all": (names("web"), {"user_dta": {"password": "hush-typo"}}),
    "wrong option": ([{"name": "web", "cloud_init": SECRETS}, {"name": "db", "colour": 1}], None),
    "wrong value": ([{"name": "web", "cloud_init": SECRETS, "vcpus": "many"}], None),
    "misspelt": ([{"name": "web", "cloudinit": '{"user_data": "hush-typo"}'}], None),
    "misspelt mapping": ([{"name": "web", "cloud-init": {"user_data": "hush-typo"}}], None),
    "no machine": ([{"name": "web", "cloud_init": SECRETS}, "db"], None),
}


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["run", "check mode"])
def test_nothing_is_said_about_secrets(hypervisor, tmp_path, check):
    tasks = [
        {"data_dir": f"{hypervisor.data_dir}{number}", "vms": vms}
        | {"defaults": {"backend": "noop", "cloud_init": shared}}
        for number, (vms, shared) in enumerate(SECRET_TASKS.values())
    ]

    said = play(tmp_path, "-vvvv", *check, *tasks)

    assert re.search(r"ok=11 +changed=4 .* ignored=7", said), said[-2000:]
    assert not WORDS.search(said)


def test_check_mode_tells_what_the_run_does(idle):
    """Of real machines, among them a clone of one that is made by the same task from an image."""
    wishes = [
        {"name": "golden", "state": "stopped", "disk_size": "4MiB"},
        {"name": "plain", "state": "stopped"},
        {"name": "copy", "clone_from": "golden", "image": None},
        {"name": "linked", "clone_from": "plain", "clone_mode": "linked", "image": None},
    ]

    told = fleet(idle, wishes, check=True)
    untouched = not idle.data_dir.exists()
    done = fleet(idle, wishes)
    again = fleet(idle, wishes)

    assert untouched
    for key in ("changed", "results", "diff"):
        assert told[key] == done[key], key
    for one, other in zip(told["vms"], done["vms"]):
        for key in set(one) - DECIDED_BY_THE_RUN:
            assert one[key] == other[key], key
    assert [vm["state"] for vm in done["vms"]] == ["prepared", "prepared", "running", "running"]
    assert len({vm["id"] for vm in done["vms"]}) == 4
    assert again["changed"] is False


def test_a_linked_clone_of_one_that_the_same_task_stops(idle):
    idle.vm("golden")

    wishes = [
        {"name": "golden", "state": "stopped", "force": True},
        {"name": "linked", "clone_from": "golden", "clone_mode": "linked", "image": None},
    ]
    told = fleet(idle, wishes, check=True)
    done = fleet(idle, wishes)

    assert told["results"] == done["results"]
    assert [entry["actions"] for entry in done["results"]] == [["stop"], ["prepare", "start"]]
    assert [vm["state"] for vm in done["vms"]] == ["stopped", "running"]


def test_a_port_goes_from_one_machine_to_the_next(idle):
    port = free_port()
    idle.vm("old", networks=card(port))

    wishes = [
        {"name": "old", "state": "stopped", "force": True},
        {"name": "new", "networks": card(port)},
    ]
    told = fleet(idle, wishes, check=True)
    done = fleet(idle, wishes)

    assert told["warnings"] == done["warnings"] == []
    assert [vm["state"] for vm in done["vms"]] == ["stopped", "running"]


def test_what_the_last_one_lacks_keeps_the_first_one_from_being_made(idle, tmp_path):
    wishes = [{"name": "a"}, {"name": "b", "image": str(tmp_path / "missing.qcow2")}]

    foreseen = fleet(idle, wishes, check=True)
    refused = idle.run("vm_fleet", vms=wishes, defaults=idle.defaults)

    assert "vms[1].image: " in foreseen["warnings"][0]
    assert refused["error"]["code"] == "vm_manager.fleet.refused"
    assert refused["errors"]["b"]["code"] == "vm_manager.create.image_not_found"
    assert "nothing was touched" in refused["msg"]
    assert not idle.data_dir.exists()


def test_check_mode_foresees_a_clone_of_one_whose_image_an_earlier_task_brings(idle, tmp_path):
    golden = {"name": "golden", "image": str(tmp_path / "missing.qcow2"), "state": "stopped"}

    told = fleet(
        idle, [golden, {"name": "copy", "image": None, "clone_from": "golden"}], check=True
    )

    assert [w.partition(": vms")[2][:11] for w in told["warnings"]] == [
        "[0].image: ",
        "[1].image: ",
    ]
    assert [entry["actions"] for entry in told["results"]] == [["prepare"], ["prepare", "start"]]


def test_one_that_does_not_start_does_not_stop_the_others(idle):
    wishes = [{"name": "a"}, {"name": "b", "qemu_args": ["-device", "abacus"]}, {"name": "c"}]

    failed = idle.run("vm_fleet", vms=wishes, defaults=idle.defaults)
    wishes[1]["qemu_args"] = []
    mended = fleet(idle, wishes)

    assert failed["failed"] is True
    assert "1 of 3 VMs failed. b: " in failed["msg"]
    assert "abacus" in failed["msg"]
    assert failed["errors"]["b"]["code"] == "vm_manager.qemu.spawn_failed"
    assert [(vm["name"], vm["state"]) for vm in failed["vms"]] == [
        ("a", "running"),
        ("c", "running"),
    ]
    assert [entry["changed"] for entry in mended["results"]] == [False, True, False]
    assert [vm["pid"] for vm in mended["vms"]][::2] == [vm["pid"] for vm in failed["vms"]]


@pytest.mark.parametrize("step", ["vm.json", "overlay.qcow2", "qmp.sock"])
def test_a_killed_task_is_finished_by_the_next_one(idle, step):
    wishes = names("a", "b", "c")
    task = idle.begin("vm_fleet", vms=wishes, defaults=idle.defaults)
    wait_until((idle.folder("b") / step).exists)
    task.kill()
    task.communicate()
    left = idle.info("a")[0]

    result = fleet(idle, wishes)

    assert [vm["state"] for vm in result["vms"]] == ["running"] * 3
    assert (result["vms"][0]["pid"], result["results"][0]["changed"]) == (left["pid"], False)
    machines = [command for command in idle.processes().values() if "qemu-system" in command]
    assert len(machines) == 3
    fleet(idle, wishes, state="absent", force=True)
    assert idle.files() == []


def test_guests_that_never_answer_are_told_and_run_on(idle):
    """They halt as soon as they are started: the task waits for the first, and asks the second once more."""
    failed = idle.run(
        "vm_fleet",
        vms=names("a", "b"),
        defaults={**idle.defaults, "wait_for": "ssh", "wait_timeout": 2},
    )

    assert list(failed["errors"]) == ["a", "b"]
    assert {error["code"] for error in failed["errors"].values()} == {"vm_manager.ssh.failed"}
    assert "busy with other VMs" in failed["errors"]["b"]["msg"]
    assert [entry["actions"] for entry in failed["results"]] == [["prepare", "start"]] * 2
    assert [vm["state"] for vm in failed["vms"]] == ["running", "running"]
