# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a task becomes a call and the result becomes JSON: run with Ansible's own AnsibleModule."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sys
import syslog

import pytest
from ansible.module_utils import basic
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common import warnings as ansible_warnings
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._arguments import (
    VM,
    VM_FLEET,
    VM_INFO,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    HostError,
    InvalidSpec,
    PortUnavailable,
    SpawnFailed,
    SshFailed,
    VmError,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._describe import describe_vms
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._manage import manage_vm
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import (
    hide,
    run,
    typed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._noop.backend import (
    NoopBackend,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import KEY, SECRET

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:  # before ansible-core 2.19

    @contextlib.contextmanager
    def patch_module_args(args):
        old = basic._ANSIBLE_ARGS
        basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": args}).encode()
        yield
        basic._ANSIBLE_ARGS = old


SECRETS = {
    "user": "admin",
    "ssh_authorized_keys": [KEY],
    "user_data": {"password": SECRET, "runcmd": [["echo", SECRET]]},
    "meta_data": f"key: {SECRET}",
    "network_config": {"wifi": {"password": SECRET}},
}


class Edge:
    """Runs a module as Ansible does, but in this process."""

    def __init__(self, capsys, data_dir):
        self.capsys = capsys
        self.data_dir = data_dir
        self.printed = ""

    def task(self, spec, act, check=False, **options):
        options = {"data_dir": str(self.data_dir), **options}
        flags = {"_ansible_check_mode": check, "_ansible_diff": True}
        self.capsys.readouterr()
        with patch_module_args({**options, **flags}), pytest.raises(SystemExit) as ended:
            run(AnsibleModule(argument_spec=spec, supports_check_mode=True), act)
        self.printed, errors = self.capsys.readouterr()
        assert errors == ""
        result = json.loads(self.printed)
        assert ended.value.code == (1 if result.get("failed") else 0)
        return result

    def vm(self, name="web1", check=False, **options):
        options = {"backend": "noop", **options}
        return self.task(VM, manage_vm, check, name=name, **options)

    def info(self, **options):
        return self.task(VM_INFO, describe_vms, **options)


@pytest.fixture
def edge(capsys, tmp_path, monkeypatch):
    # A process that has imported Ansible's controller takes itself for one, and sends warnings elsewhere.
    internal = sys.modules.get("ansible.module_utils._internal")  # from ansible-core 2.19 on
    if internal is not None:
        monkeypatch.setattr(internal, "is_controller", False)
    ansible_warnings._global_warnings.clear()
    return Edge(capsys, tmp_path / "data")


def text_of(warnings):
    return json.dumps(warnings)


def test_a_machine_is_made_once(edge):
    first = edge.vm(vcpus=2)
    second = edge.vm(vcpus=2)

    assert (first["changed"], first["actions"]) == (True, ["prepare", "start"])
    assert (second["changed"], second["actions"]) == (False, [])
    assert first["vm"] == second["vm"]
    assert (first["vm"]["state"], first["vm"]["vcpus"]) == ("running", 2)
    assert first["diff"]["before"] == {}
    assert first["diff"]["after"] == second["diff"]["before"] == second["diff"]["after"]
    assert "failed" not in first


def test_an_error_of_ours_comes_out_whole_and_without_a_traceback(edge):
    result = edge.vm(vcpus=0)

    assert result["failed"] is True
    assert result["msg"] == "vcpus: 0 is not between 1 and 1024."
    assert result["error"] == {
        "code": "vm_manager.create.invalid_vcpus",
        "help": "Give a number of virtual CPUs that is in this range.",
        "details": {"option": "vcpus"},
    }
    assert "exception" not in result
    assert "Traceback" not in edge.printed
    assert not edge.data_dir.exists()


def test_details_without_a_value_are_left_out(edge):
    def act(task):
        raise VmError("It broke.", pid=None, path="/x", count=0)

    assert edge.task(VM_INFO, act)["error"]["details"] == {"path": "/x", "count": 0}


@pytest.mark.parametrize("text", ["plain", f"with {SECRET} inside"])
def test_an_unexpected_error_is_a_defect_to_report_and_tells_no_secret(edge, text):
    def act(task):
        raise RuntimeError(text)

    result = edge.task(VM, act, name="web1", cloud_init=SECRETS)

    assert result["failed"] is True
    assert result["error"]["code"] == "vm_manager.internal"
    assert "report" in result["error"]["help"]
    assert result["msg"].startswith("Unexpected error: RuntimeError(")
    assert SECRET not in edge.printed


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"check": True},
        {"vcpus": 0},
        {"image_format": "vmdk"},
        {"vcpus": "many"},
        {"no_such_option": 1},
        {"state": "absent"},
        {"wait_timeout": -1},
    ],
    ids=repr,
)
def test_no_secret_is_printed_or_logged_whatever_the_end(edge, monkeypatch, options):
    logged = []
    monkeypatch.setattr(basic, "has_journal", False)
    monkeypatch.setattr(syslog, "syslog", lambda *words: logged.append(repr(words)))

    edge.vm(cloud_init=SECRETS, **options)

    assert "web1" in edge.printed + "".join(logged)
    assert SECRET not in edge.printed
    assert SECRET not in "".join(logged)


LINES = "one-secret-line"
# Text of several lines and mappings are shown escaped, so hiding equal text would miss them.
DOCUMENTS = {
    "text": f"#cloud-config\npassword: {LINES}\nruncmd:\n  - \"echo '{LINES}'\"\n",
    "mapping": {"password": LINES, "write_files": [{"content": f"a\n{LINES}\nb\n"}]},
    "list": [f"#include\n{LINES}\n", {"a": [LINES]}],
    "quoted": f"#cloud-config\na: 'it''s \\{LINES}\t'\n",
}
PRIVATE_KEY = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{LINES}\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.fixture
def logged(monkeypatch):
    """Return what Ansible would write to the system's log."""
    words = []

    def log(self, msg, log_args=None):
        words.append(repr((msg, log_args)))

    monkeypatch.setattr(AnsibleModule, "log", log)
    return words


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("field", ["user_data", "meta_data", "network_config"])
@pytest.mark.parametrize("options", [{}, {"check": True}, {"colour": "red"}], ids=repr)
def test_documents_of_any_shape_are_neither_logged_nor_echoed(
    edge, logged, document, field, options
):
    edge.vm(cloud_init={"hostname": "inside", field: DOCUMENTS[document]}, **options)

    said = "".join(logged) + edge.printed
    assert "web1" in said
    assert LINES not in said


@pytest.mark.parametrize("options", [{}, {"vcpus": 0}, {"colour": "red"}], ids=repr)
def test_a_private_key_that_was_pasted_by_mistake_is_not_repeated(edge, logged, options):
    result = edge.vm(cloud_init={"ssh_authorized_keys": [KEY, PRIVATE_KEY]}, **options)

    assert result["failed"]
    assert LINES not in "".join(logged) + edge.printed
    if not options:
        assert result["msg"] == "cloud_init.ssh_authorized_keys[1]: this is a private key."


def test_a_changed_secret_is_refused_without_being_told(edge):
    edge.vm(cloud_init=SECRETS)

    result = edge.vm(cloud_init={**SECRETS, "user_data": {"password": "other-secret"}})

    assert result["error"]["code"] == "vm_manager.spec.cannot_change"
    assert "other-secret" not in edge.printed
    assert SECRET not in edge.printed


def test_words_of_user_data_are_not_blotted_out_of_the_result(edge):
    data = {"hostname": "web1", "count": "1", "state": "running", "where": str(edge.data_dir)}

    result = edge.vm(cloud_init={"user_data": data})

    assert (result["vm"]["name"], result["vm"]["state"]) == ("web1", "running")
    assert result["vm"]["paths"]["work_dir"] == str(edge.data_dir / "vms" / "web1")
    assert "VALUE_SPECIFIED" not in edge.printed


def test_the_echo_of_the_options_says_what_was_hidden(edge):
    echo = edge.vm(cloud_init={**SECRETS, "meta_data": None}, vcpus=3)["invocation"]["module_args"]

    shown = echo["cloud_init"]
    assert (echo["vcpus"], shown["user"], shown["meta_data"]) == (3, "admin", None)
    assert shown["user_data"] == shown["network_config"] == "(hidden)"


def test_what_a_server_is_shown_is_hidden_in_the_echo():
    shown = {"username": "me", "headers": None, "image": "https://example.org/a?key=s"}
    hidden = {"headers": {"Private-Token": "s"}, "password": "s", "passphrase": "s"}

    assert hide({"a": shown, "b": [hidden]}) == {
        "a": {**shown, "image": "https://example.org/a?..."},
        "b": [dict.fromkeys(hidden, "(hidden)")],
    }


def test_cloud_init_that_nobody_has_read_yet_is_echoed_without_what_may_be_secret():
    typed_wrongly = {"user": "admin", "user_dta": {"password": "s"}, "meta_data": None}
    shown = {"user": "admin", "user_dta": "(hidden)", "meta_data": None}

    assert hide({"vms": [{"cloud_init": typed_wrongly}]}) == {"vms": [{"cloud_init": shown}]}
    assert hide({"cloud_init": '{"user_data": "s"}'}) == {"cloud_init": "(hidden)"}
    assert hide({"cloud_init": None}) == {"cloud_init": None}


def test_options_of_machines_that_do_not_exist_are_echoed_without_what_may_be_secret():
    given = {"name": "a", "vcpus": 2, "cloudinit": {"user_data": "s"}, "cloud-init": "s", "x": None}
    shown = {**given, "cloudinit": "(hidden)", "cloud-init": "(hidden)"}

    assert hide({"vms": [given], "defaults": given}) == {"vms": [shown], "defaults": shown}


def test_an_unexpected_error_blots_out_nothing_but_secrets_and_tells_what_was_done(edge):
    def act(task):
        task.done = {"changed": True, "vms": [{"name": "web1"}]}
        raise RuntimeError(f"web1 in web.py: {SECRET} {web1['image']} hush-typo")

    web1 = {
        "name": "web1",
        "image": "https://example.org/a?hush-signature",
        "cloud_init": SECRETS,
        "cloudinit": {"user_data": ["hush-typo"]},
    }
    result = edge.task(VM_FLEET, act, vms=[web1], defaults={"description": "web.py", "vcpus": 1})

    assert result["error"]["code"] == "vm_manager.internal"
    assert result["msg"].startswith("Unexpected error: RuntimeError('web1 in web.py: ")
    assert (result["changed"], result["vms"]) == (True, [{"name": "web1"}])
    assert result["invocation"]["module_args"]["vms"][0]["name"] == "web1"
    assert SECRET not in edge.printed
    assert not re.search("hush-(signature|typo)", edge.printed)


TYPED = [
    ({"vcpus": "2", "vnc": "yes", "memory": 512}, {"vcpus": 2, "vnc": True, "memory": "512"}),
    ({"vcpus": None}, {"vcpus": None}),
    ({"labels": '{"a": "b"}'}, {"labels": {"a": "b"}}),
    ({"ip_range": "10.0.0.0/8,fd00::/8"}, {"ip_range": ["10.0.0.0/8", "fd00::/8"]}),
]


@pytest.mark.parametrize(("given", "read"), TYPED)
def test_options_inside_another_one_are_read_as_those_of_a_module(given, read):
    assert typed(given, VM, "vms[0]") == read


def test_options_that_are_left_out_inside_have_their_defaults():
    forward = {"host": "8080", "guest": 80, "protocol": None}

    (network,) = typed({"networks": [{"port_forwards": [forward]}]}, VM, "x")["networks"]

    assert (network["type"], network["connected"], network["mac"]) == ("user", True, None)
    whole = {"host": 8080, "guest": 80, "protocol": "tcp", "host_address": "127.0.0.1"}
    assert network["port_forwards"] == [whole]


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"memry": "1GiB"}, "x.memry"),
        ({1: 2}, "x.1"),
        ({"vcpus": "many"}, "x.vcpus"),
        ({"state": "up"}, "x.state"),
        ({"networks": "lan"}, "x.networks"),
        ({"networks": [None]}, "x.networks"),
        ({"networks": [{}, {"type": "lan"}]}, "x.networks[1].type"),
        ({"networks": [{"port_forwards": [{"host": 1}]}]}, "x.networks[0].port_forwards[0].guest"),
        ({"cloud_init": "hush"}, "x.cloud_init"),
        ({"cloud_init": {"user_dta": "hush"}}, "x.cloud_init.user_dta"),
        (
            {"cloud_init": {"ssh_authorized_keys": {"a": "hush"}}},
            "x.cloud_init.ssh_authorized_keys",
        ),
    ],
)
def test_a_wrong_option_inside_another_one_is_named_by_its_path(given, path):
    with pytest.raises(InvalidSpec) as raised:
        typed(given, VM, "x")

    assert raised.value.details == {"option": path}
    assert raised.value.message.startswith(f"{path}: ")
    assert "hush" not in raised.value.message


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"stop_timeout": -1}, "stop_timeout"),
        ({"wait_timeout": -1}, "wait_timeout"),
        ({"image": ""}, "image"),
        ({"image": "images/a.qcow2"}, "image"),
        ({"image": "/srv/a\0b"}, "image"),
        ({"data_dir": "data"}, "data_dir"),
        ({"data_dir": "/srv/a\0b"}, "data_dir"),
        ({"name": "../x"}, "name"),
        ({"networks": [], "wait_for": "ssh"}, "wait_for"),
        ({"memory": "a lot"}, "memory"),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_wrong_input_fails_before_anything_is_touched(edge, options, option, check):
    result = edge.vm(check=check, **options)

    assert result["failed"] is True
    assert result["error"]["details"] == {"option": option}
    assert result["msg"].startswith(f"{option}: ")
    assert not edge.data_dir.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"stop_timeout": 0, "wait_timeout": 0},
        {"state": "stopped", "networks": [], "wait_for": "ssh"},
        {"state": "absent", "networks": [], "wait_for": "ssh"},
    ],
    ids=repr,
)
def test_what_only_looks_wrong_is_taken(edge, options):
    assert "failed" not in edge.vm(**options)


@pytest.mark.parametrize("goal", ["present", "absent", "started", "stopped", "suspended"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_check_mode_tells_what_the_run_does_and_touches_nothing(edge, goal, there):
    if there:
        edge.vm()
    before = sorted(edge.data_dir.rglob("*"))
    wish = {"state": goal, "labels": {"a": "1"}}

    told = edge.vm(check=True, **wish)
    untouched = sorted(edge.data_dir.rglob("*")) == before
    done = edge.vm(**wish)

    assert untouched
    assert told["diff"] == done["diff"]
    for key in ("changed", "actions", "restart_required"):
        assert told[key] == done[key]
    for key in ("name", "state", "vcpus", "labels", "memory_mb"):
        assert told["vm"][key] == done["vm"][key]


def test_a_change_that_waits_for_a_restart_is_warned_of_by_name(edge):
    edge.vm()

    result = edge.vm(vcpus=4, memory="2GiB")

    assert (result["actions"], result["restart_required"]) == (["prepare"], True)
    assert "vcpus, memory" in text_of(result["warnings"])
    assert edge.vm(state="restarted")["restart_required"] is False


def test_warnings_are_told_also_when_the_task_fails(edge):
    def act(task):
        task.warnings.append("The floor is wet.")
        raise HostError("It slipped.")

    result = edge.task(VM_INFO, act)

    assert result["msg"] == "It slipped."
    assert "The floor is wet." in text_of(result["warnings"])


def test_removing_keeps_foreign_files_and_warns(edge):
    edge.vm()
    notes = edge.data_dir / "vms" / "web1" / "notes.txt"
    notes.write_text("mine")

    result = edge.vm(state="absent")

    assert (result["actions"], result["vm"]["state"]) == (["stop", "destroy"], "destroyed")
    assert notes.read_text() == "mine"
    assert f"{notes} was not made by this collection" in text_of(result["warnings"])
    assert edge.vm(state="absent")["changed"] is False


def test_a_removal_that_was_killed_is_finished_by_the_next_task(edge):
    edge.vm()
    vms = edge.data_dir / "vms"
    (vms / "web1").rename(vms / ".web1.trash")

    result = edge.vm(state="absent")

    assert result["changed"] is False
    assert list(vms.iterdir()) == []


def test_a_task_without_a_change_waits_for_the_one_that_works_on_the_machine(edge):
    """What it has seen may be half of what the other one does."""
    edge.vm()
    with Store(str(edge.data_dir)).lock("web1", 0):
        busy = edge.vm(wait_timeout=0)
        looked = edge.vm(check=True)

    assert busy["error"]["code"] == "vm_manager.vm.busy"
    assert (looked["changed"], edge.vm(wait_timeout=0)["changed"]) == (False, False)


def test_what_changed_while_the_task_waited_for_another_is_checked_again(edge, monkeypatch):
    """The other task removes the machine, and this host would not take a new one."""
    edge.vm(state="stopped")
    take, seen = Store.lock, []

    @contextlib.contextmanager
    def take_after_the_other(store, name, timeout):
        with take(store, name, timeout):
            (edge.data_dir / "vms" / name / "vm.json").unlink()
            yield

    def check(backend, spec, found):
        seen.append(found is not None)
        if found is None:
            raise InvalidSpec("image: it is gone.", option="image")

    monkeypatch.setattr(Store, "lock", take_after_the_other)
    monkeypatch.setattr(NoopBackend, "check", check)

    refused = edge.vm()

    assert refused["error"]["details"] == {"option": "image"}
    assert seen == [True, False]
    assert not (edge.data_dir / "vms" / "web1" / "vm.json").exists()


def test_a_machine_that_changes_all_the_time_is_not_looked_at_for_ever(edge, monkeypatch):
    """The check fails, and each time the record is another one than that which was checked."""
    edge.vm(state="stopped")
    load, count = Store.load, itertools.count()

    def other_each_time(store, name):
        return load(store, name).evolve(instance=next(count))

    def check(backend, spec, found):
        raise InvalidSpec("image: it is gone.", option="image")

    monkeypatch.setattr(Store, "load", other_each_time)
    monkeypatch.setattr(NoopBackend, "check", check)

    refused = edge.vm(wait_timeout=0)

    assert refused["error"]["details"] == {"option": "image"}


def test_waiting_for_ssh_on_a_machine_that_only_pretends_is_short(edge):
    assert edge.vm(wait_for="ssh", wait_timeout=1)["vm"]["ssh"]["host"] == "127.0.0.1"


def test_all_machines_are_shown_sorted(edge):
    for name in ("b", "a", "c"):
        edge.vm(name)

    result = edge.info()

    assert [vm["name"] for vm in result["vms"]] == ["a", "b", "c"]
    assert result["changed"] is False
    assert result["vms"][1] == edge.vm("b")["vm"]


def test_named_machines_are_shown_once_and_in_order(edge):
    for name in ("a", "b"):
        edge.vm(name)

    result = edge.info(name=["b", "nobody", "a", "b"])

    assert [vm["name"] for vm in result["vms"]] == ["b", "a"]


def test_no_machine_is_an_empty_list_and_nothing_is_made(edge):
    assert edge.info()["vms"] == []
    assert edge.info(name=["web1"])["vms"] == []
    assert edge.info(name=[])["vms"] == []
    assert not edge.data_dir.exists()


def test_a_name_that_cannot_be_is_an_error_also_when_looking(edge):
    assert edge.info(name=["../x"])["error"]["code"] == "vm_manager.spec.invalid_name"


@pytest.mark.parametrize("path", ["data", "./data", "/srv/a\0b"])
def test_a_data_folder_that_cannot_be_is_an_error_also_when_looking(edge, path):
    result = edge.info(data_dir=path)

    assert result["error"]["code"] == "vm_manager.spec.invalid"
    assert result["error"]["details"] == {"option": "data_dir"}


def test_a_failure_after_the_deed_tells_what_was_done(edge):
    def act(task):
        error = SshFailed("It does not answer.")
        error.result = {"changed": True, "actions": ["start"], "vm": {"name": "web1"}}
        raise error

    result = edge.task(VM, act, name="web1")

    assert (result["failed"], result["msg"]) == (True, "It does not answer.")
    assert (result["changed"], result["actions"]) == (True, ["start"])
    assert result["vm"] == {"name": "web1"}
    assert result["error"]["code"] == "vm_manager.ssh.failed"


@pytest.fixture
def no_start(monkeypatch):
    def fail(backend, vm):
        raise SpawnFailed("QEMU did not start.")

    return lambda: monkeypatch.setattr(NoopBackend, "start", fail)


@pytest.mark.parametrize(
    ("options", "done"),
    [
        ({"state": "restarted"}, ["stop"]),
        ({"vcpus": 4, "apply": "restart"}, ["stop", "prepare"]),
    ],
)
def test_a_restart_without_a_start_tells_that_the_machine_is_off(edge, no_start, options, done):
    edge.vm()
    no_start()

    failed = edge.vm(**options)

    assert failed["error"]["code"] == "vm_manager.qemu.spawn_failed"
    assert (failed["changed"], failed["actions"]) == (True, done)
    assert failed["vm"]["state"] == "stopped"
    assert failed["msg"] == (
        "QEMU did not start. The VM 'web1' was stopped before that and is off now."
    )


def test_a_start_that_fails_alone_has_changed_nothing(edge, no_start):
    edge.vm("web2", state="stopped")
    no_start()

    for name in ("web1", "web2"):  # the new one is removed again
        failed = edge.vm(name)
        assert (failed["msg"], failed["changed"]) == ("QEMU did not start.", False)
        assert failed["actions"] == []
    assert [vm["name"] for vm in edge.info()["vms"]] == ["web2"]


def test_a_step_that_fails_half_way_has_changed_what_it_recorded(edge, monkeypatch):
    def record_and_fail(backend, spec, found):
        Store(str(edge.data_dir)).save(found.evolve(spec=spec))
        raise HostError("The disk is full.")

    edge.vm(state="stopped")
    monkeypatch.setattr(NoopBackend, "prepare", record_and_fail)

    failed = edge.vm(state="stopped", vcpus=3)

    assert (failed["changed"], failed["actions"], failed["vm"]["vcpus"]) == (True, [], 3)


@pytest.mark.parametrize("options", [{"state": "restarted"}, {"vcpus": 4, "apply": "restart"}])
def test_what_would_hinder_the_start_is_looked_at_before_the_machine_is_stopped(
    edge, monkeypatch, options
):
    def taken(backend, spec, found, released):
        raise PortUnavailable("The port 8080 is taken.")

    edge.vm()
    monkeypatch.setattr(NoopBackend, "check_start", taken)

    foreseen, failed = edge.vm(check=True, **options), edge.vm(**options)

    assert "would fail now" in text_of(foreseen["warnings"])
    assert (failed["msg"], failed.get("changed", False)) == ("The port 8080 is taken.", False)
    assert edge.info()["vms"][0]["state"] == "running"
    assert edge.vm(state="present", description="It may be taken as long as it does not start.")


@pytest.mark.parametrize("check", [False, True])
def test_ssh_is_not_waited_for_where_the_running_machine_has_no_network(edge, check):
    """Refused before the new network is recorded: the wait could only end in a time-out."""
    edge.vm(networks=[])
    record = edge.data_dir / "vms" / "web1" / "vm.json"
    before = record.read_bytes()

    wish = {"networks": [{"type": "user"}], "apply": "next_start"}
    result = edge.vm(**wish, wait_for="ssh", check=check)

    assert result["error"]["details"] == {"option": "wait_for"}
    assert "state=restarted" in result["error"]["help"]
    assert record.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b'{"schema": 99}',
        b'{"schema": 1, "name": "bad", "spec": {"name": "bad", "labels": 5}, "state": "stopped"}',
    ],
)
def test_one_damaged_record_hides_no_other(edge, damage):
    edge.vm("good")
    edge.vm("bad")
    (edge.data_dir / "vms" / "bad" / "vm.json").write_bytes(damage)

    result = edge.info()
    changed = edge.vm("bad")

    assert [vm["name"] for vm in result["vms"]] == ["good"]
    assert "bad/vm.json" in text_of(result["warnings"])
    assert changed["error"]["code"] == "vm_manager.vm.bad_record"
    assert edge.vm("new")["changed"] is True
