# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines become hosts: their variables, their groups, their names."""

from __future__ import annotations

import shlex

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.handle import VmHandle
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.vm import Vm, show_vm
from ansible_collections.cloudnebula.hypervisor.plugins.plugin_utils._hosts import (
    HERE,
    Style,
    Way,
    host_connection,
    host_fields,
    host_groups,
    host_name,
    name_ladder,
    safe_id,
    settle_names,
)

STYLE = Style()
CONNECTION = {
    "ansible_host": "127.0.0.1",
    "ansible_port": 10061,
    "ansible_user": "vm",
    "ansible_ssh_private_key_file": "/d/vms/web1/id_ed25519",
    "ansible_ssh_common_args": """-o 'UserKnownHostsFile="/d/vms/web1/known_hosts"'"""
    " -o StrictHostKeyChecking=accept-new -o ServerAliveInterval=15 -o IdentitiesOnly=yes",
}


def machine(state=VmState.RUNNING, address="127.0.0.1", wish=None, **record):
    """Return a machine as the modules show it."""
    spec = VmSpec(name="web1", **(wish or {})).completed()
    record = {
        "work_dir": "/d/vms/web1",
        "ssh_host_port": 10061,
        "private_key_path": "/d/vms/web1/id_ed25519",
        **record,
    }
    handle = VmHandle(id="qemu-1", name="web1", backend="qemu", spec=spec, **record)
    shown = show_vm(Vm(handle, state))
    if shown["ssh"] and address and not address.startswith("127."):
        shown["ssh"] |= {"host": address, "port": 22}
    return {**shown, "ip_address": address, "hypervisor": "hv2"}


def connection(vm, style=STYLE, way=HERE):
    """Return the variables that say how to connect."""
    return host_connection(vm, style, way)


def ssh_options(variables):
    """Return the options of SSH by their names."""
    words = shlex.split(variables["ansible_ssh_common_args"])
    return dict(word.split("=", 1) for word in words if word != "-o")


def test_running_machine_can_be_connected_to():
    assert connection(machine()) == CONNECTION


@pytest.mark.parametrize(
    ("case", "missing"),
    [
        ({"state": VmState.STOPPED, "address": None}, set(CONNECTION)),
        ({"address": None}, set(CONNECTION)),
        ({"wish": {"networks": ()}, "address": None}, set(CONNECTION)),
        ({"private_key_path": None}, {"ansible_ssh_private_key_file"}),
        ({"wish": {"cloud_init": CloudInit(user_data="#!/bin/sh")}}, {"ansible_user"}),
        ({"state": VmState.SUSPENDED}, set()),
    ],
    ids=[
        "stopped",
        "no address yet",
        "no network",
        "keys of the user",
        "account unknown",
        "suspended",
    ],
)
def test_only_what_is_there_is_named(case, missing):
    found = connection(machine(**case))

    assert set(found) == set(CONNECTION) - missing
    assert None not in found.values()


def test_address_of_its_own_needs_no_port():
    found = connection(machine(address="192.0.2.9"))

    assert (found["ansible_host"], found["ansible_port"]) == ("192.0.2.9", None)


@pytest.mark.parametrize("address", ["-oProxyCommand=reboot", "a b", "", "{{ 1 }}"])
def test_address_that_is_none_is_not_used(address):
    vm = machine()
    vm["ssh"]["host"] = vm["ip_address"] = address

    assert connection(vm) == {}


def test_guest_of_another_host_is_reached_through_it(tmp_path):
    way = Way("ssh -W %h:%p hv2", str(tmp_path))

    found = connection(machine(), way=way)

    assert (found["ansible_host"], found["ansible_port"]) == ("127.0.0.1", 10061)
    assert "ansible_ssh_private_key_file" not in found
    assert ssh_options(found) == {
        "ProxyCommand": "ssh -W %h:%p hv2",
        "UserKnownHostsFile": f'"{tmp_path}/known_hosts"',
        "StrictHostKeyChecking": "accept-new",
        "ServerAliveInterval": "15",
        "HostKeyAlias": "qemu-1",
    }


def test_key_that_was_fetched_is_used(tmp_path):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "qemu-1").write_text("")

    found = connection(machine(), way=Way("ssh -W %h:%p hv2", str(tmp_path)))

    assert found["ansible_ssh_private_key_file"] == str(tmp_path / "keys" / "qemu-1")
    assert ssh_options(found)["IdentitiesOnly"] == "yes"


def test_jump_stays_if_the_other_options_are_the_users(tmp_path):
    found = connection(machine(), Style(ssh_options=False), Way("jump", str(tmp_path)))

    assert ssh_options(found) == {"ProxyCommand": "jump"}


def test_guests_of_two_hosts_share_no_connection(tmp_path):
    """Address, port and account are the same: the name that Ansible would choose is, too."""
    way = Way("jump", str(tmp_path))
    other = {**machine(), "id": "qemu-2"}

    paths = {connection(vm, way=way)["ansible_control_path"] for vm in (machine(), other)}

    assert len(paths) == 2


def test_host_that_is_not_reached_by_ssh_is_no_way_to_its_guests():
    assert connection(machine(), way=Way(folder="/d", closed=True)) == {}


@pytest.mark.parametrize(
    ("given", "safe"),
    [("qemu-1a", "qemu-1a"), ("../../x", "______x"), ("a b\nc", "a_b_c"), (7, "7")],
)
def test_id_is_a_safe_name_of_a_file(given, safe):
    assert safe_id({"id": given}) == safe


def test_agent_may_offer_keys_if_the_machine_has_none_of_its_own():
    assert (
        "IdentitiesOnly"
        not in connection(machine(private_key_path=None))["ansible_ssh_common_args"]
    )


def test_ssh_options_can_be_left_to_the_user():
    found = connection(machine(), Style(ssh_options=False))

    assert set(CONNECTION) - set(found) == {"ansible_ssh_common_args"}


@pytest.mark.parametrize(
    ("folder", "option"),
    [
        ("/d/vms/web1", '"/d/vms/web1/known_hosts"'),
        ("/my data/it's", '''"/my data/it's/known_hosts"'''),
        ("/100%/x", '"/100%%/x/known_hosts"'),
        ('/a"b\\c', r'"/a\"b\\c/known_hosts"'),
    ],
)
def test_path_is_quoted_for_ansible_and_for_ssh(folder, option):
    arguments = shlex.split(connection(machine(work_dir=folder))["ansible_ssh_common_args"])

    assert arguments[:2] == ["-o", f"UserKnownHostsFile={option}"]


@pytest.mark.parametrize("prefix", ["vm_", "hv_"])
def test_every_field_is_a_variable(prefix):
    vm = machine()

    fields = host_fields(vm, Style(hostvars_prefix=prefix))

    assert fields == {f"{prefix}{field}": value for field, value in vm.items()}


@pytest.mark.parametrize(
    ("style", "complaint"),
    [
        ({"hostvars_prefix": ""}, "hostvars_prefix"),
        ({"hostvars_prefix": "vm-"}, "hostvars_prefix"),
        ({"hostvars_prefix": "1_"}, "hostvars_prefix"),
        ({"group": ""}, "group"),
    ],
)
def test_style_refuses_what_ansible_could_not_use(style, complaint):
    with pytest.raises(ValueError, match=complaint):
        Style(**style)


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ({}, []),
        ({"tier": "web", "env": "prod"}, ["label_env_prod", "label_tier_web"]),
        ({"tier": ""}, ["label_tier"]),
        ({"my.key": "a-b c/{{ 1 }}"}, ["label_my_key_a_b_c____1___"]),
    ],
)
def test_groups_by_state_backend_and_label(labels, groups):
    assert host_groups(machine(wish={"labels": labels}), STYLE) == [
        "vms",
        "state_running",
        "backend_qemu",
        "hypervisor_hv2",
        *groups,
    ]


def test_groups_may_have_other_names():
    style = Style(group="my lab", group_prefix="lab-")

    groups = host_groups(machine(wish={"labels": {"a": "b"}}), style)

    assert groups == [
        "my_lab",
        "lab_state_running",
        "lab_backend_qemu",
        "lab_hypervisor_hv2",
        "lab_label_a_b",
    ]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("web1", "web1"),
        (" web1.example.org\n", "web1.example.org"),
        (7, "7"),
        ("fe80::1", "fe80::1"),
        ("", None),
        ("  ", None),
        (None, None),
    ],
)
def test_name_of_a_host(value, name):
    assert host_name(value) == name


@pytest.mark.parametrize(
    "value", ["two words", "a,b", "../../x", "{{ 1+1 }}", "!web", "-x", "web[1:3]", True, ["a"], {}]
)
def test_what_cannot_be_the_name_of_a_host(value):
    with pytest.raises(ValueError, match=r"no text|cannot be"):
        host_name(value)


@pytest.mark.parametrize(
    ("wanted", "names", "disputed"),
    [
        ({"a": "x", "b": "y"}, {"a": "x", "b": "y"}, []),
        ({"a": "x", "b": "x", "c": "y"}, {"a": "a", "b": "b", "c": "y"}, ["x"]),
        ({"a": "b", "b": "b"}, {"a": "a", "b": "b"}, ["b"]),
        ({"a": "x", "b": "x", "c": "a"}, {"a": "a", "b": "b", "c": "c"}, ["x", "a"]),
        ({"a": "b", "b": "a"}, {"a": "b", "b": "a"}, []),
        ({}, {}, []),
    ],
    ids=[
        "no dispute",
        "two want one",
        "one's own name",
        "a dispute leads to another",
        "swap",
        "none",
    ],
)
def test_machines_that_want_the_same_name_keep_their_own(wanted, names, disputed):
    ladders = {vm: name_ladder(host, {**machine(), "name": vm}) for vm, host in wanted.items()}

    settled, warnings = settle_names(ladders)

    assert settled == names
    assert [warning.partition("'")[2].partition("'")[0] for warning in warnings] == disputed


def test_machines_of_the_same_name_are_called_after_their_hypervisors():
    vms = [
        {"id": "qemu-1", "name": "web1", "hypervisor": "hv1"},
        {"id": "qemu-2", "name": "web1", "hypervisor": "hv 2"},
        {"id": "qemu-3", "name": "db1", "hypervisor": "hv1"},
    ]

    names, warnings = settle_names({vm["id"]: name_ladder(vm["name"], vm) for vm in vms})

    assert names == {"qemu-1": "web1_hv1", "qemu-2": "web1_hv_2", "qemu-3": "db1"}
    assert warnings == ["2 VMs would be the host 'web1': there will be web1_hv1, web1_hv_2."]


def test_last_rung_is_the_id():
    vms = [
        {"id": "qemu-1", "name": "a_b", "hypervisor": "c"},
        {"id": "qemu-2", "name": "a", "hypervisor": "b_c"},
    ]

    names, dummy_warnings = settle_names({vm["id"]: name_ladder("x", vm) for vm in vms})
    assert sorted(names.values()) == ["a", "a_b"]

    same = {vm["id"]: [f"{vm['name']}_{vm['hypervisor']}", vm["id"]] for vm in vms}
    assert settle_names(same)[0] == {"qemu-1": "qemu-1", "qemu-2": "qemu-2"}


def test_two_that_are_the_same_to_the_last_rung_end_the_search():
    names, warnings = settle_names({1: ["a"], 2: ["a"]})

    assert names == {1: "a", 2: "a"}
    assert warnings == []
