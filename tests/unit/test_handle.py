# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record: written and read back whole, and refused in one sentence where it cannot be read."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import BadRecord
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.handle import (
    SCHEMA,
    VmHandle,
    dump,
    load,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    Network,
    PortRange,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import (
    FULL_HANDLE,
    FULL_SPEC,
    GIB,
    minimal_handle,
)

PATH = "/data/vms/web1/vm.json"
HANDLES = {
    "everything set": FULL_HANDLE,
    "defaults only": minimal_handle(),
    "nothing set": minimal_handle(spec=VmSpec("web1")),
    "no network and no keys": minimal_handle(
        spec=replace(FULL_SPEC, networks=(), cloud_init=CloudInit(ssh_authorized_keys=()))
    ),
    "UTF-8": minimal_handle(spec=VmSpec("web1", image="/srv/ümläut 🐧,'\"", labels={"ö": "\n"})),
    **{state.value: minimal_handle(state=state) for state in VmState},
}


@pytest.mark.parametrize("case", HANDLES)
def test_a_record_reads_back_as_it_was(case):
    handle = HANDLES[case]

    again = load(dump(handle), PATH)

    assert again == handle
    assert isinstance(again.state, VmState)
    assert hash(again.spec.networks) == hash(handle.spec.networks)


def test_everything_set_sets_everything():
    for sample in (FULL_HANDLE, FULL_SPEC, FULL_SPEC.cloud_init):
        unset = [
            field.name
            for field in fields(sample)
            if getattr(sample, field.name) in (None, field.default)
        ]

        assert [name for name in unset if name not in ("ssh_port_range",)] == []


def test_a_record_is_plain_sorted_json_of_one_schema():
    text = dump(FULL_HANDLE).decode()

    data = json.loads(text)
    assert text.endswith("}\n")
    assert text == json.dumps(data, indent=2, sort_keys=True) + "\n"
    assert (data["schema"], data["state"], data["spec"]["memory_mib"]) == (SCHEMA, "running", 2048)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "qemu-7c1f0f0e-64fb-4d0f-8f0e-0c6f3f3e9f5b"),
        ("name", "web1"),
        ("backend", "qemu"),
        ("work_dir", "/data/vms/web1"),
        ("overlay_path", "/data/vms/web1/overlay.qcow2"),
        ("seed_iso_path", "/data/vms/web1/seed.iso"),
        ("pid", 4711),
        ("qmp_socket", "/data/vms/web1/qmp.sock"),
        ("console_socket", "/data/vms/web1/console.sock"),
        ("vnc_addr", "127.0.0.1:5900"),
        ("vcpus", 2),
        ("memory_mb", 2048),
        ("disk_gb", 20.0),
        ("network", "user"),
        ("ssh_host_port", 10061),
        ("mac_addr", "52:54:00:12:34:56"),
        ("uefi", True),
    ],
)
def test_a_handle_tells_all_that_identifies_a_machine(name, value):
    assert getattr(FULL_HANDLE, name) == value


def test_a_handle_of_which_little_is_known_has_the_defaults():
    handle = VmHandle("noop-1", "web1", "noop", "/data/vms/web1", VmSpec("web1"))

    assert (handle.state, handle.vcpus, handle.memory_mb) == (VmState.PREPARING, 1, 1024)
    assert (handle.disk_gb, handle.network, handle.uefi) == (None, "none", False)
    assert handle.uuid == "1"
    assert handle.evolve(disk_bytes=GIB // 2).disk_gb == 0.5


def changed(**changes):
    """Return a full record with some values of its JSON replaced; a dash leaves one out."""
    data = json.loads(dump(FULL_HANDLE))
    for path, value in changes.items():
        *folders, name = path.split("__")
        place = data
        for folder in folders:
            place = place[folder]
        if value == "-":
            del place[name]
        else:
            place[name] = value
    return json.dumps(data).encode()


UNREADABLE = {
    "empty": b"",
    "cut off": dump(FULL_HANDLE)[:200],
    "no JSON": b"web1: yes\n",
    "zeros after a power cut": b"\0" * 512,
    "not UTF-8": b'{"schema": 1, "name": "\xff"}',
    "null": b"null",
    "a list": b"[]",
    "a text": b'"schema"',
    "a number": b"1",
    "no fields": b"{}",
    "no schema": changed(schema="-"),
    "newer schema": changed(schema=SCHEMA + 1),
    "schema as text": changed(schema=str(SCHEMA)),
    "only a schema": json.dumps({"schema": SCHEMA}).encode(),
    "no name": changed(name="-"),
    "no spec": changed(spec="-"),
    "no state": changed(state="-"),
    "unknown state": changed(state="paused"),
    "state is a list": changed(state=[]),
    "spec is null": changed(spec=None),
    "spec is a list": changed(spec=[]),
    "spec is text": changed(spec="web1"),
    "spec without a name": changed(spec__name="-"),
    "spec of a newer release": changed(spec__hologram=True),
    "booted is a list": changed(booted=[1]),
    "networks is a number": changed(spec__networks=5),
    "networks of text": changed(spec__networks=["user"]),
    "network of unknown shape": changed(spec__networks=[{"colour": "red"}]),
    "port range is text": changed(spec__ssh_port_range="1-2"),
    "port range of texts": changed(spec__ssh_port_range__first="1"),
    "cloud_init is text": changed(spec__cloud_init="x"),
    "keys are a number": changed(spec__cloud_init__ssh_authorized_keys=1),
    "pid is text": changed(pid="4711"),
    "id is a number": changed(id=1),
    "vcpus is text": changed(spec__vcpus="two"),
    "labels is a number": changed(spec__labels=5),
    "booted with labels as a number": changed(booted__labels=5),
    "uefi is null": changed(uefi=None),
    "disks is a list": changed(disks=["data"]),
    "firmware is text": changed(firmware="bios"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_record_that_cannot_be_read_is_refused_by_its_path(case):
    with pytest.raises(BadRecord) as caught:
        load(UNREADABLE[case], PATH)

    assert PATH in caught.value.message
    assert caught.value.message.endswith(".")
    assert caught.value.details == {"path": PATH}
    assert caught.value.help


def test_a_newer_schema_is_named():
    with pytest.raises(BadRecord, match=f"has schema 2; this release reads schema {SCHEMA}"):
        load(changed(schema=2), PATH)


def test_unknown_fields_of_a_newer_release_with_the_same_schema_are_passed_over():
    assert load(changed(tpm=True), PATH) == FULL_HANDLE


def test_fields_that_came_later_may_be_missing():
    old = changed(**dict.fromkeys(("uefi", "booted", "stopped_by", "accelerator_reason"), "-"))

    handle = load(old, PATH)

    assert handle == FULL_HANDLE.evolve(
        uefi=False, booted=None, stopped_by=None, accelerator_reason=None
    )


def test_values_come_back_in_their_own_types():
    spec = load(dump(FULL_HANDLE), PATH).spec

    assert spec.networks == (Network("user"),)
    assert spec.ssh_port_range == PortRange(10022, 10122)
    assert isinstance(spec.cloud_init.ssh_authorized_keys, tuple)
