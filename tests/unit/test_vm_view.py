# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task shows of a machine: always the same keys, and never a secret."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.vm import (
    ConsoleEndpoint,
    Vm,
    VncEndpoint,
    predict_vm,
    show_options,
    show_vm,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import SECRETS, hide
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import (
    FULL_HANDLE,
    FULL_SPEC,
    GIB,
    KEY,
    SECRET,
    minimal_handle,
)

RUNNING = Vm(
    FULL_HANDLE,
    VmState.RUNNING,
    run_state="running",
    pid=4711,
    addresses={"net0": ("127.0.0.1",)},
    console=ConsoleEndpoint("unix", "/data/vms/web1/console.sock"),
    vnc=VncEndpoint("127.0.0.1", 5900, "/data/vms/web1/vnc.password"),
)


def test_a_running_machine_shows_everything():
    assert show_vm(RUNNING) == {
        "name": "web1",
        "id": "qemu-7c1f0f0e-64fb-4d0f-8f0e-0c6f3f3e9f5b",
        "backend": "qemu",
        "state": "running",
        "run_state": "running",
        "image": "/srv/images/base.qcow2",
        "vcpus": 2,
        "memory_mb": 2048,
        "disks": [
            {
                "name": "disk0",
                "path": "/data/vms/web1/overlay.qcow2",
                "format": "raw",
                "size": 20 * GIB,
                "image": "/srv/images/base.qcow2",
                "layers": list(FULL_HANDLE.layers),
                "attached": True,
            },
            {
                "name": "data",
                "path": "/data/vms/web1/disk-data.qcow2",
                "format": "qcow2",
                "size": 5 * GIB,
                "image": None,
                "layers": [],
                "attached": True,
            },
        ],
        "networks": [
            {
                "type": "user",
                "name": "net0",
                "bridge": None,
                "interface": None,
                "model": "virtio",
                "mtu": None,
                "port_forwards": [],
                "link": None,
                "connected": True,
                "vlan": None,
                "mac": "52:54:00:12:34:56",
                "ip_addresses": ["127.0.0.1"],
            }
        ],
        "ip_address": "127.0.0.1",
        "ssh": {
            "host": "127.0.0.1",
            "port": 10061,
            "user": "admin",
            "private_key_path": "/data/vms/web1/id_ed25519",
            "host_key": "ssh-ed25519 AAAAC3NzaHostKey",
        },
        "console": {"type": "unix", "path": "/data/vms/web1/console.sock"},
        "vnc": {
            "host": "127.0.0.1",
            "port": 5900,
            "password_file": "/data/vms/web1/vnc.password",
        },
        "pid": 4711,
        "paths": {
            "work_dir": "/data/vms/web1",
            "qmp_socket": "/data/vms/web1/qmp.sock",
            "console_log": "/data/vms/web1/console.log",
            "hypervisor_log": "/data/vms/web1/qemu.log",
        },
        "accelerator": "tcg",
        "accelerator_reason": "The task asks for it.",
        "stopped_by": None,
        "restart_required": False,
        "labels": {"role": "web"},
        "description": "A server",
    }


@pytest.mark.parametrize("state", VmState)
@pytest.mark.parametrize("handle", [FULL_HANDLE, minimal_handle()], ids=["full", "minimal"])
def test_found_and_predicted_machines_have_the_same_keys(handle, state):
    shown = show_vm(Vm(handle, state))
    predicted = predict_vm(handle.spec, "qemu", state)

    assert set(shown) == set(predicted) == set(show_vm(RUNNING))
    assert shown["state"] == predicted["state"] == state.value
    json.dumps([shown, predicted])


@pytest.mark.parametrize("spec", [FULL_SPEC, VmSpec("web1")], ids=["full", "minimal"])
def test_both_sides_of_a_diff_have_the_same_keys(spec):
    sides = [show_options(spec, "qemu", state) for state in (VmState.PREPARED, VmState.RUNNING)]

    assert set(sides[0]) == set(sides[1]) == set(show_options(FULL_SPEC, "x", VmState.FAILED))
    assert show_options(spec, "qemu", VmState.DESTROYED) == {}
    json.dumps(sides)


@pytest.mark.parametrize(("state", "shown"), [(VmState.RUNNING, True), (VmState.STOPPED, False)])
def test_ssh_is_shown_as_long_as_the_process_has_the_network(state, shown):
    without = FULL_HANDLE.evolve(spec=replace(FULL_SPEC, networks=()))

    assert (show_vm(Vm(without, state))["ssh"] is not None) == shown


def test_a_machine_that_does_not_run_tells_what_ended_it():
    shown = show_vm(Vm(FULL_HANDLE, VmState.STOPPED))

    assert (shown["accelerator"], shown["accelerator_reason"]) == (None, None)
    assert shown["stopped_by"] == "guest"


@pytest.mark.parametrize(
    ("state", "due"),
    [
        (VmState.RUNNING, True),
        (VmState.SUSPENDED, True),
        (VmState.FAILED, True),
        (VmState.STOPPED, False),
        (VmState.PREPARED, False),
    ],
)
def test_a_restart_is_due_only_while_old_options_run(state, due):
    pending = FULL_HANDLE.evolve(spec=replace(FULL_SPEC, vcpus=8))

    assert show_vm(Vm(pending, state))["restart_required"] == due
    assert not show_vm(Vm(FULL_HANDLE, state))["restart_required"]


@pytest.mark.parametrize(
    ("run_state", "can"), [("io-error", True), ("paused", False), (None, False)]
)
def test_only_an_io_error_can_go_on(run_state, can):
    assert Vm(FULL_HANDLE, VmState.FAILED, run_state=run_state).can_go_on == can


def test_the_diff_shows_that_a_document_is_set_but_not_what_it_says():
    with_all = show_options(FULL_SPEC, "qemu", VmState.RUNNING)["cloud_init"]
    without = show_options(VmSpec("a", cloud_init=FULL_SPEC.cloud_init), "q", VmState.RUNNING)
    spec = replace(FULL_SPEC, cloud_init=replace(FULL_SPEC.cloud_init, user_data=None))

    assert with_all == without["cloud_init"]
    assert with_all == {
        "hostname": "web1.example.org",
        "user": "admin",
        "ssh_authorized_keys": [KEY],
        "ssh_host_key": True,
        **dict.fromkeys(SECRETS, "(hidden)"),
    }
    assert "user_data" not in show_options(spec, "qemu", VmState.RUNNING)["cloud_init"]


def test_the_diff_shows_that_a_document_says_something_else_but_not_what():
    before = CloudInit(user_data={"a": SECRET}, meta_data="x")
    after = CloudInit(user_data={"a": 1}, meta_data="x", network_config="y")

    shown = show_options(
        VmSpec("web1", cloud_init=after), "q", VmState.RUNNING, VmSpec("web1", cloud_init=before)
    )["cloud_init"]

    told = {name: shown[name] for name in SECRETS}
    assert told == {
        "user_data": "(hidden, another one)",
        "meta_data": "(hidden)",
        "network_config": "(hidden)",
    }


def test_no_secret_is_shown_anywhere():
    shown = [
        show_vm(RUNNING),
        predict_vm(FULL_SPEC, "qemu", VmState.RUNNING),
        show_options(FULL_SPEC, "qemu", VmState.RUNNING),
        hide(
            {
                "name": "web1",
                "cloud_init": {
                    "user": "admin",
                    "user_data": {"a": {"b": [SECRET]}},
                    "meta_data": SECRET,
                    "network_config": {"password": SECRET},
                },
            }
        ),
    ]

    assert SECRET not in json.dumps(shown)


def test_hiding_keeps_everything_else():
    params = {"a": 1, "cloud_init": {"user": "vm", "user_data": None, "meta_data": ""}, "l": [{}]}

    assert hide(params) == {
        "a": 1,
        "cloud_init": {"user": "vm", "user_data": None, "meta_data": "(hidden)"},
        "l": [{}],
    }
    assert params["cloud_init"]["meta_data"] == ""
