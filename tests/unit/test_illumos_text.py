# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What illumos programs print is read, and what they are given is built, with names that mean harm, too."""

from __future__ import annotations

import re
import subprocess
from xml.etree import ElementTree

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import InvalidSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.neighbours import (
    Neighbour,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.arp import (
    parse_arp,
    parse_ndp,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.parsable import (
    padded_mac,
    service_instance,
    split_parsable,
    vnic_name,
    zone_name,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.services import (
    Service,
    manifest,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.zones import (
    Zone,
    ZoneLink,
    zone_config,
)

UUID = "7c3c4f8a-63ca-4da2-bb74-dc6f8fc4553a"
NAMES = ("web1", "1.2-3", "-", "_x.y", "A" * 63, "a" * 62 + ".", "0", "x--y..z__")


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("", [""]),
        ("net0", ["net0"]),
        ("net0:up\n", ["net0", "up"]),
        (r"vm0:net0:2\:8\:20\:aa\:bb\:cc:0:--", ["vm0", "net0", "2:8:20:aa:bb:cc", "0", "--"]),
        (r"3:z:running:/zones/a\:b\\c:uuid:omicron1:excl:D", None),
        (r"a\\:b", ["a\\", "b"]),
        ("::", ["", "", ""]),
        ("a:b\\", ["a", "b"]),
    ],
)
def test_parsable_line(line, fields):
    fields = fields or ["3", "z", "running", "/zones/a:b\\c", "uuid", "omicron1", "excl", "D"]

    assert split_parsable(line) == fields


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("2:8:20:2d:e9:24", "02:08:20:2d:e9:24"),
        ("02:08:20:2D:E9:24", "02:08:20:2d:e9:24"),
        ("0:0:0:0:0:0", "00:00:00:00:00:00"),
        ("2:8:20:2d:e9", None),
        ("2:8:20:2d:e9:24:1", None),
        ("2:8:20:2d:e9:124", None),
        ("2:8:20:2d:e9:g", None),
        ("--", None),
        ("", None),
    ],
)
def test_octets_are_padded(text, mac):
    assert padded_mac(text) == mac


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("index", [0, 1, 7, 10, 123])
def test_link_name_is_legal(name, index):
    link = vnic_name(name, UUID, index)

    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*[a-z](0|[1-9][0-9]*)", link)
    assert len(link) <= 31
    assert link.endswith(f"n{index}")


def test_link_names_differ_by_machine_and_card():
    other = "8c3c4f8a-63ca-4da2-bb74-dc6f8fc4553a"
    names = [vnic_name("a" * 63, uuid, index) for uuid in (UUID, other) for index in range(12)]

    assert len(set(names)) == len(names)


def test_link_name_is_what_people_recognise():
    assert vnic_name("web-1", UUID, 0) == "web_1_7c3c4f8an0"


@pytest.mark.parametrize("name", NAMES)
def test_instance_and_zone_names_are_legal(name):
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,100}-7c3c4f8a", service_instance(name, UUID))
    zone = zone_name(name, UUID)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", zone)
    assert len(zone) <= 63


# --- Manifests -------------------------------------------------------------------------------------------------

HOSTILE = (
    "/vm/a b",
    "/vm/'; touch owned; '",
    "/vm/$(touch owned)`touch owned`",
    '/vm/"><exec_method name="stop"/><!--',
    "/vm/]]>&amp;<x>",
    "/vm/%i%%s%",
    "/vm/é…",
    "/vm/--flag=\\x",
    "/vm/a;b|c&d>e<f*?#!~",
)


def service(**changes):
    values = {"command": ("/opt/server", "run"), "folder": "/vm/web1", "log": "propolis.log"}
    return Service("web1-7c3c4f8a", **{**values, **changes})


def instance_of(text):
    found = ElementTree.fromstring(text).findall("service/instance")
    assert len(found) == 1
    return found[0]


def methods_of(text):
    return {each.get("name"): each.get("exec") for each in instance_of(text).iter("exec_method")}


def test_manifest_says_all_that_smf_needs():
    text = manifest(service(command=("/opt/server", "run", "/rom", "127.0.0.1:12400")))

    root, instance = ElementTree.fromstring(text), instance_of(text)
    assert text.startswith(b'<?xml version="1.0"?>\n<!DOCTYPE service_bundle SYSTEM ')
    assert (root.tag, root.get("type")) == ("service_bundle", "manifest")
    assert root.find("service").get("name") == "application/cloudnebula/vm"
    assert instance.attrib == {"name": "web1-7c3c4f8a", "enabled": "false"}
    assert [child.tag for child in instance] == [
        *("dependency", "method_context", "exec_method", "exec_method", "property_group"),
    ]
    assert instance.find("method_context").get("working_directory") == "/vm/web1"
    variable = instance.find("method_context/method_environment/envvar")
    assert "/usr/sbin" in variable.get("value").split(":")
    assert instance.find("property_group/propval").attrib == {
        **{"name": "duration", "type": "astring", "value": "child"},
    }
    assert methods_of(text) == {
        "start": "/opt/server run /rom 127.0.0.1:12400 >> propolis.log 2>&1",
        "stop": ":kill",
    }


def test_method_does_not_begin_with_exec():
    # svc.startd puts one in front, and no shell knows a program of that name.
    assert not methods_of(manifest(service()))["start"].startswith("exec ")


def test_instance_can_start_with_its_zone():
    assert instance_of(manifest(service(enabled=True))).get("enabled") == "true"


@pytest.mark.real_host
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_stays_one_word(tmp_path, hostile):
    words = ("printf", r"%s\n", hostile, "end")

    text = manifest(service(command=words, folder=hostile, log="a log.txt"))

    assert instance_of(text).find("method_context").get("working_directory") == hostile
    assert set(methods_of(text)) == {"start", "stop"}
    method = methods_of(text)["start"]
    assert set(re.findall("%.?", method)) == {"%%"}
    method = method.replace("%%", "%")
    subprocess.run(["/bin/sh", "-c", f"exec {method}"], cwd=tmp_path, check=True, timeout=10)
    assert [path.name for path in tmp_path.iterdir()] == ["a log.txt"]
    assert (tmp_path / "a log.txt").read_text() == f"{hostile}\nend\n"


@pytest.mark.parametrize("bad", ["/vm/a\nb", "/vm/\x00", "/vm/\x1b[2J", "/vm/\udcff", "/vm/\uffff"])
@pytest.mark.parametrize("field", ["command", "folder", "log"])
def test_what_xml_cannot_hold_is_refused(field, bad):
    with pytest.raises(InvalidSpec, match="cannot be part of a service"):
        manifest(service(**{field: (bad,) if field == "command" else bad}))


# --- Zones -----------------------------------------------------------------------------------------------------


def zone(**changes):
    values = {"brand": "omicron1", "path": "/zones/web1", "image": "/img/propolis.tar.gz"}
    links = (ZoneLink("vmctl1", "10.9.0.2/24"), ZoneLink("vm0"))
    disks = ("/dev/zvol/rdsk/rpool/vms/web1/disk0",)
    return Zone("vm-web1", UUID, **{**values, "links": links, "disks": disks, **changes})


def test_zone_configuration():
    lines = zone_config(zone()).splitlines()

    assert lines[:5] == [
        "create -b",
        'set brand="omicron1"',
        'set zonepath="/zones/web1"',
        "set autoboot=false",
        "set ip-type=exclusive",
    ]
    text = "\n".join(lines)
    assert 'add net\nset physical="vmctl1"\nset allowed-address="10.9.0.2/24"\nend' in text
    assert 'add net\nset physical="vm0"\nend' in text
    devices = re.findall(r'add device\nset match="(.*)"\nend', text)
    assert devices == [
        *("/dev/vmm/*", "/dev/vmmctl", "/dev/viona", "/dev/zvol/rdsk/rpool/vms/web1/disk0"),
    ]
    assert re.search(rf'set name=cloudnebula\nset type=string\nset value="{UUID}/[0-9a-f]+"', text)
    assert lines[-2:] == ["verify", "commit"]


@pytest.mark.parametrize(
    "change",
    [
        {"brand": "ipkg"},
        {"path": "/zones/web2"},
        {"links": ()},
        {"disks": ()},
        {"image": "/img/other.tar.gz"},
        {"image": None},
    ],
)
def test_mark_of_a_zone_changes_with_what_it_is_made_of(change):
    def mark(of):
        return re.search(f"{UUID}/([0-9a-f]+)", zone_config(of))[1]

    assert mark(zone(**change)) != mark(zone())
    assert mark(zone()) == mark(zone())


@pytest.mark.parametrize(
    "change",
    [
        {"path": '/zones/x"\nset autoboot=true'},
        {"path": "/zones/x\ncommit"},
        {"brand": 'x" ; commit'},
        {"disks": ("/dev/a\x00",)},
        {"links": (ZoneLink('a"b0'),)},
        {"links": (ZoneLink("a0", "10.0.0.1/8\nend"),)},
    ],
)
def test_text_that_would_break_out_of_a_zone_configuration_is_refused(change):
    with pytest.raises(InvalidSpec, match="cannot be part of a zone's configuration"):
        zone_config(zone(**change))


# --- Neighbours ------------------------------------------------------------------------------------------------

ARP = """Net to Media Table: IPv4
Device   IP Address               Mask      Flags      Phys Addr
------ -------------------- --------------- -------- ---------------
net0   10.0.0.5             255.255.255.255          02:08:20:aa:bb:cc
net0   10.0.0.6             255.255.255.255 o        2:8:20:aa:bb:cd
net0   10.0.0.1             255.255.255.255 SPLA     02:08:20:00:00:01
net0   10.0.0.7             255.255.255.255 U
net0   224.0.0.0            240.0.0.0       SM       01:00:5e:00:00:00
net0   not-an-address       255.255.255.255          02:08:20:aa:bb:ce
"""
NDP = """Net to Media Table: IPv6
 If   Physical Address    Type      State      Destination/Mask
----- -----------------  ------- ------------ ---------------------------
net0  02:08:20:aa:bb:cc  dynamic REACHABLE    fd00::5
net0  2:8:20:aa:bb:cd    dynamic STALE        fe80::6
net0  02:08:20:aa:bb:cd  dynamic UNREACHABLE  fd00::7
net0  02:08:20:00:00:01  local   REACHABLE    fd00::1
net0  33:33:00:00:00:01  other   REACHABLE    ff02::1
"""


def test_arp_table():
    assert parse_arp(ARP) == (
        Neighbour("10.0.0.5", "02:08:20:aa:bb:cc", "STALE", "net0"),
        Neighbour("10.0.0.6", "02:08:20:aa:bb:cd", "STALE", "net0"),
    )


def test_ndp_table():
    assert parse_ndp(NDP) == (
        Neighbour("fd00::5", "02:08:20:aa:bb:cc", "REACHABLE", "net0"),
        Neighbour("fe80::6", "02:08:20:aa:bb:cd", "STALE", "net0"),
        Neighbour("fd00::7", "02:08:20:aa:bb:cd", "STALE", "net0"),
    )


@pytest.mark.parametrize("text", ["", "\n\n", "a b c d", "net0 10.0.0.5 255.255.255.255 xx"])
def test_text_without_neighbours(text):
    assert parse_arp(text) == ()
    assert parse_ndp(text) == ()
