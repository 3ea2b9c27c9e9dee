# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules that the schema of the API does not have: each breach is seen before anything is sent, and by the server too.

The table has one row for each breach: what is done to a good body, what is said of it here, and what a server that got
it all the same would do: refuse it, fail with a reason in its log only, or end itself.
"""

from __future__ import annotations

import base64
import copy
import http.client

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    InvalidSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis import rules
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.api import (
    PropolisApi,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.instance import (
    check_ensure,
)
from ansible_collections.cloudnebula.hypervisor.tests.doubles.propolis_thread import (
    ServerThread,
    ThreadHost,
    ask,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.propolis_samples import good_body

UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"


class Breach:
    """A row of the table: a change of a good body, and what becomes of it here and on a server."""

    def __init__(self, said, change, version="1.0.0", **outcome):
        self.said, self.change, self.version, self.outcome = said, change, version, outcome

    def of(self, body):
        body = copy.deepcopy(body)
        self.change(body)
        return body


def parts(body):
    return body["init"]["value"]["spec"]["components"]


def options(body, key):
    return parts(body)[key]["component"]


def sets(key, name, value):
    """Return a change that sets a field of a component."""
    return lambda body: options(body, key).__setitem__(name, value)


def lacks(key, name):
    return lambda body: options(body, key).pop(name)


def without(*keys):
    return lambda body: [parts(body).pop(key) for key in keys]


def renamed(old, new):
    """Return a change that gives a component another key, and its device that key too."""

    def change(body):
        parts(body)[new] = parts(body).pop(old)
        for item in parts(body).values():
            if item["component"].get("backend_id") == old:
                item["component"]["backend_id"] = new

    return change


def board(name, value):
    return lambda body: body["init"]["value"]["spec"]["board"].__setitem__(name, value)


def properties(name, value):
    return lambda body: body["properties"].__setitem__(name, value)


def spec(name, value):
    return lambda body: body["init"]["value"]["spec"].__setitem__(name, value)


def added(key, kind, **fields):
    return lambda body: parts(body).__setitem__(key, {"type": kind, "component": fields})


def at(bus, device, function=0):
    return {"bus": bus, "device": device, "function": function}


def blob(data):
    text = base64.b64encode(data).decode() if isinstance(data, bytes) else data

    def change(body):
        fields = {"base64": text, "readonly": True}
        added("cloud-init-backend", "blob_storage_backend", **fields)(body)

    return change


def both(*changes):
    def change(body):
        for one in changes:
            one(body)

    return change


def equal_uuids(body):
    """Have two keys that differ in spelling only."""
    renamed("vnic-net0", UUID)(body)
    renamed("vnic-net1", UUID.upper())(body)


def boots_from(key):
    return sets("boot-settings", "order", [{"id": key}])


DISK_PATH = "pci_path"
INTERNAL = "Internal Server Error"
BREACHES = {
    "no com1": Breach(
        "no serial port com1", without("com1"), panic="called `Option::unwrap()` on a `None` value"
    ),
    "com1 twice": Breach(
        "the serial port com1 is there 2 times",
        sets("com2", "num", "com1"),
        status=400,
        text="serial port Com1 already specified",
    ),
    "a fifth serial port": Breach(
        "there is no serial port com5", sets("com2", "num", "com5"), status=400, text="`com5`"
    ),
    "a device of the chipset's": Breach(
        "lies at 0.0.0, where the chipset is",
        sets("disk0", DISK_PATH, at(0, 0)),
        panic="chipset",
    ),
    "at the chipset's bridge": Breach(
        "lies at 0.1.0, where the chipset is",
        sets("nic-net0", DISK_PATH, at(0, 1)),
        panic="chipset",
    ),
    "at the chipset's power management": Breach(
        "lies at 0.1.3, where the chipset is",
        sets("cloud-init", DISK_PATH, at(0, 1, 3)),
        panic="chipset",
    ),
    "PCI device 32": Breach(
        "lies at 0.32.0, which is no PCI address",
        sets("disk0", DISK_PATH, at(0, 32)),
        status=400,
        text="PCI device 32 outside range of 0-31",
    ),
    "PCI function 8": Breach(
        "lies at 0.16.8, which is no PCI address",
        sets("disk0", DISK_PATH, at(0, 16, 8)),
        status=400,
        text="PCI function 8 outside range of 0-7",
    ),
    "PCI bus without bridge": Breach(
        "lies on PCI bus 1, to which no bridge leads",
        sets("nic-net0", DISK_PATH, at(1, 8)),
        status=500,
        log="no bus 1",
    ),
    "PCI address taken": Breach(
        "2 devices lie at the PCI address 0.8.0",
        sets("nic-net1", DISK_PATH, at(0, 8)),
        status=400,
        text="already attached at PciPath { bus: 0, device: 8, function: 0 }",
    ),
    "PCI address of two numbers": Breach(
        "does not consist of bus, device and function",
        sets("disk0", DISK_PATH, {"bus": 0, "device": 16}),
        status=400,
        text="missing field `function`",
    ),
    "serial number of 19 bytes": Breach(
        "the serial number of 'disk0' does not have 20 bytes",
        sets("disk0", "serial_number", [65] * 19),
        status=400,
        text="invalid length 19, expected an array of length 20",
    ),
    "serial number with a large number": Breach(
        "the serial number of 'disk0' does not have 20 bytes",
        sets("disk0", "serial_number", [256] * 20),
        status=400,
        text="invalid value: integer `256`, expected u8",
    ),
    "backend used twice": Breach(
        "the backend 'vnic-net0' is used by 2 devices",
        both(sets("nic-net1", "backend_id", "vnic-net0"), without("vnic-net1")),
        status=400,
        text="network backend vnic-net0 not found for device nic-net1",
    ),
    "backend not used": Breach(
        "the backend 'spare' is used by 0 devices",
        added("spare", "virtio_network_backend", vnic_name="vm1n1"),
        status=400,
        text="backend spare not used by any device",
    ),
    "backend missing": Breach(
        "'disk0' names a backend that is not there",
        without("disk0-backend"),
        status=400,
        text="storage backend disk0-backend not found for device disk0",
    ),
    "backend of the other kind": Breach(
        "'nic-net0' names a backend that is not there",
        both(
            sets("nic-net0", "backend_id", "cloud-init-backend"), without("vnic-net0", "cloud-init")
        ),
        status=400,
        text="network backend cloud-init-backend not found",
    ),
    "device that is its own backend": Breach(
        "the device 'disk0' has the same key as its backend",
        sets("disk0", "backend_id", "disk0"),
        status=400,
        text="disk0 not found for device disk0",
    ),
    "equal keys": Breach(
        f"the key '{UUID}' is there 2 times",
        equal_uuids,
        status=400,
        text="already exists",
    ),
    "boot from a backend": Breach(
        "names 'disk0-backend', which is no disk",
        boots_from("disk0-backend"),
        status=400,
        text="boot option disk0-backend is not an attached device",
    ),
    "boot from a card": Breach(
        "names 'nic-net0', which is no disk",
        boots_from("nic-net0"),
        status=400,
        text="boot option nic-net0 is not an attached device",
    ),
    "boot from behind a bridge": Breach(
        "names 'disk0', which is not on PCI bus 0",
        sets("disk0", DISK_PATH, at(1, 16)),
        status=500,
        log="no bus 1",
    ),
    "two boot orders": Breach(
        "more than one component of the kind boot_settings",
        added("boot", "boot_settings", order=[{"id": "disk0"}]),
        status=400,
        text="boot settings were already specified",
    ),
    "two panic devices": Breach(
        "more than one component of the kind qemu_pvpanic",
        added("panic", "qemu_pvpanic", enable_isa=True),
        status=400,
        text="pvpanic device already specified",
    ),
    "blob of half a sector": Breach(
        "has 700 bytes, which are no whole sectors",
        blob(bytes(700)),
        status=500,
        log="must be a multiple of 512",
    ),
    "empty blob": Breach(
        "has 0 bytes, which are no whole sectors", blob(b""), status=500, log="multiple of 512"
    ),
    "blob without padding": Breach(
        "is not base64", blob("QUJD" * 170 + "QU"), status=500, log="failed to decode"
    ),
    "oversized body": Breach(
        "and the server takes 1048576",
        blob(bytes(800 * 1024)),
        status=400,
        text="request body exceeded maximum size of 1048576 bytes",
    ),
    "write cache before there was one": Breach(
        "'disk0' must not have has_write_cache",
        sets("disk0", "has_write_cache", True),
        version="5.0.0",
        status=400,
        text="unknown field `has_write_cache`",
    ),
    "no write cache since there is one": Breach(
        "'disk0' lacks has_write_cache",
        lacks("disk0", "has_write_cache"),
        version="6.0.0",
        status=400,
        text="missing field `has_write_cache`",
    ),
    "a write cache of sorts": Breach(
        "has_write_cache of 'disk0' is neither true nor false",
        sets("disk0", "has_write_cache", "on"),
        version="6.0.0",
        status=400,
        text="expected a boolean",
    ),
    "smbios before there was one": Breach(
        "must not have smbios",
        spec("smbios", None),
        status=400,
        text="unknown field `smbios`",
    ),
    "block size 1000": Breach(
        "the block size of 'disk0-backend' is 1000",
        sets("disk0-backend", "block_size", 1000),
        status=500,
        log="unsupported block size 1000",
    ),
    "no block size": Breach(
        "'disk0-backend' lacks block_size",
        lacks("disk0-backend", "block_size"),
        status=400,
        text="missing field `block_size`",
    ),
    "relative path": Breach(
        "is no absolute path",
        sets("disk0-backend", "path", "disk.raw"),
        status=500,
        log="failed to read file backend metadata",
    ),
    "illegal name of a VNIC": Breach(
        "the VNIC of 'vnic-net0' cannot be called 'vnic_web'",
        sets("vnic-net0", "vnic_name", "vnic_web"),
        status=500,
        log="failed to create viona device",
    ),
    "no processor": Breach("vcpus: there can be 1 to 255", board("cpus", 0), status=500, log="vmm"),
    "300 processors": Breach(
        "vcpus: there can be 1 to 255, not 300",
        board("cpus", 300),
        status=400,
        text="invalid value: integer `300`, expected u8",
    ),
    "no memory": Breach("memory: 0 MiB", board("memory_mb", 0), status=500, log="vmm"),
    "id that is no UUID": Breach(
        "properties.id is not a UUID",
        properties("id", "propolis-1"),
        status=400,
        text="UUID parsing failed",
    ),
    "no metadata": Breach(
        "properties.metadata is missing",
        lambda body: body["properties"].pop("metadata"),
        status=400,
        text="missing field `metadata`",
    ),
    "no description": Breach(
        "properties.description is not a text",
        properties("description", None),
        status=400,
        text="expected a string",
    ),
    "interface id that is no UUID": Breach(
        "interface_id of 'nic-net0' is not a UUID",
        sets("nic-net0", "interface_id", "net0"),
        status=400,
        text="UUID parsing failed",
    ),
    "a device of special builds": Breach(
        "'share' is of the kind 'p9fs'",
        added("share", "p9fs", source="/", target="t", chunk_size=1, pci_path=at(0, 5)),
        status=400,
        text="support for component share compiled out via falcon",
    ),
    "an unknown device": Breach(
        "'cd' is of the kind 'ahci_cd'",
        added("cd", "ahci_cd"),
        status=400,
        text="unknown variant `ahci_cd`",
    ),
    "no specification": Breach(
        "lacks what the API demands",
        lambda body: body["init"]["value"].pop("spec"),
        status=400,
        text="missing field `spec`",
    ),
}


@pytest.fixture
def host(tmp_path):
    host = ThreadHost(tmp_path, step=0.0)
    host.vnics = {f"vm7c1f{index}n{index}": f"02:08:20:00:00:0{index}" for index in range(2)}
    return host


@pytest.fixture
def server(host):
    with ServerThread(host) as server:
        yield server


@pytest.mark.parametrize("version", ["1.0.0", "5.0.0", "6.0.0"])
def test_good_body_passes_both(host, server, version):
    body = good_body(host, version)

    check_ensure(body, version)

    status, answer = ask(server.url, "PUT", "/instance", body, api_version=version)
    assert (status, answer) == (201, {"migrate": None})


@pytest.mark.parametrize("name", BREACHES)
def test_breach_is_seen_before_anything_is_sent(host, name):
    breach = BREACHES[name]
    body = breach.of(good_body(host, breach.version))

    with pytest.raises(InvalidSpec) as caught:
        check_ensure(body, breach.version)

    assert breach.said in " ".join(caught.value.details["problems"])
    assert caught.value.details["problems"][0] in caught.value.message


@pytest.mark.parametrize("name", BREACHES)
def test_client_sends_no_such_body(host, name):
    breach = BREACHES[name]
    body = breach.of(good_body(host, breach.version))

    with ServerThread(host) as server, pytest.raises(InvalidSpec):
        PropolisApi(server.url, breach.version).ensure(body)

    assert server.server.machine is None
    assert not (host.kernel.has(body["properties"].get("id", "")))


@pytest.mark.parametrize("name", BREACHES)
def test_server_refuses_the_breach(host, server, name):
    breach = BREACHES[name]
    body = breach.of(good_body(host, breach.version))
    expected = breach.outcome

    if "panic" in expected:
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            ask(server.url, "PUT", "/instance", body, api_version=breach.version)
        assert host.died.wait(20)
        assert expected["panic"] in host.panicked
        return
    status, answer = ask(server.url, "PUT", "/instance", body, api_version=breach.version)
    assert status == expected["status"]
    if "text" in expected:
        assert expected["text"] in answer["message"]
    else:
        assert answer["message"] == INTERNAL
        with open(host.log_path, encoding="utf-8") as log:
            assert expected["log"] in log.read()


@pytest.mark.parametrize("rule", rules._RULES, ids=lambda rule: rule.__name__.strip("_"))
def test_every_rule_is_needed_to_see_a_breach(host, monkeypatch, rule):
    others = tuple(other for other in rules._RULES if other is not rule)
    monkeypatch.setattr(rules, "_RULES", others)

    unseen = []
    for name, breach in BREACHES.items():
        try:
            check_ensure(breach.of(good_body(host, breach.version)), breach.version)
        except InvalidSpec as exc:
            if breach.said not in " ".join(exc.details["problems"]):
                unseen.append(name)
        else:
            unseen.append(name)

    assert unseen != []


def test_key_twice_in_the_text_is_refused(host, server):
    raw = rules.encode(good_body(host, "1.0.0"))
    twice = raw.replace(b'"com1":{', b'"com2":{', 1)

    status, answer = ask(server.url, "PUT", "/instance", twice)

    assert (status, "duplicate field `com2`" in answer["message"]) == (400, True)


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (None, 'missing expected header "api-version"'),
        ("9.0.0", "server does not support this API version: 9.0.0"),
        ("1.0", 'bad value for header "api-version"'),
        ("v1.0.0", 'bad value for header "api-version"'),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/instance"),
        ("PUT", "/instance"),
        ("PUT", "/instance/state"),
        ("GET", "/instance/state-monitor"),
        ("GET", "/instance/serial"),
        ("GET", "/instance/vnc"),
        ("GET", "/no/such/route"),
    ],
)
def test_header_is_demanded_on_every_route(server, method, path, version, text):
    upgrade = {"upgrade": "websocket", "connection": "Upgrade"}

    status, answer = ask(server.url, method, path, api_version=version, **upgrade)

    assert (status, text in answer["message"], "error_code" in answer) == (400, True, False)


def test_message_names_the_option_that_a_user_can_correct(host):
    body = good_body(host, "1.0.0")
    board("cpus", 300)(body)

    with pytest.raises(InvalidSpec) as caught:
        check_ensure(body, "1.0.0")

    assert caught.value.message == (
        "The machine cannot be described to propolis-server: vcpus: there can be 1 to 255, not 300."
    )
