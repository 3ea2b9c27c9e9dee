# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lease files of four servers, whole, broken and hostile."""

from __future__ import annotations

import json
import os

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.leases import (
    Lease,
    parse_leases,
    read_leases,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.macs import (
    link_local_of,
    mac_of_duid,
    normal_mac,
)

A, B = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
LLT_OF_A = "00:01:00:01:2c:ab:cd:ef:52:54:00:aa:00:01"
LL_OF_B = "00:03:00:01:52:54:00:AA:00:02"
UUID = "00:04:6d:7f:1c:83:00:01:52:54:00:aa:00:01:00:01:00:01"

DNSMASQ = f"""\
1763900000 {A} 192.168.77.50 twin 01:{A}
1763900100 {B.upper()} 192.168.77.51 * *
0 52:54:00:aa:00:03 192.168.77.52 for-ever *
duid 00:01:00:01:2e:00:00:00:02:00:00:00:77:01
1763900200 11141121 fd00:77::50 twin {LLT_OF_A}
1763900300 T11141122 fd00:77::51 * {LL_OF_B}
1763900400 11141123 fd00:77::52 * {UUID}
"""

LIBVIRT = json.dumps(
    [
        {
            "ip-address": "192.168.122.10",
            "mac-address": A,
            "hostname": "twin",
            "client-id": "ff:00",
            "expiry-time": 1763900000,
        },
        {"ip-address": "fd00::10", "iaid": "1", "client-id": LLT_OF_A, "expiry-time": 1763900000},
        {"ip-address": "192.168.122.11", "mac-address": B, "expiry-time": 0},
    ],
    indent=2,
)

NETWORKD_LEASES = [
    {
        "ClientId": [1, 82, 84, 0, 170, 0, 1],
        "Address": [10, 0, 0, 5],
        "Hostname": "twin",
        "ExpirationUSec": 9_000_000,
    },
    {"ClientId": [255, 1, 2, 3, 4, 0, 2, 0, 0], "Address": [10, 0, 0, 6]},
    {
        "ClientId": [255, 1, 2, 3, 4, 0, 2, 0, 0],
        "Address": [10, 0, 0, 7],
        "HardwareAddress": [82, 84, 0, 170, 0, 2],
        "ExpirationRealtimeUSec": 1763900000500000,
    },
]

KEA4 = f"""\
address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context,pool_id
192.0.2.10,{A},01:{A},3600,1763900000,1,0,0,twin,0,,0
192.0.2.11,{A},,3600,1763900001,1,0,0,twin,0,,0
192.0.2.10,{B},,3600,1763900002,1,0,0,other,0,,0
192.0.2.12,{A},,3600,1763900003,1,0,0,,1,,0
192.0.2.13,{A},,3600,1763900004,1,0,0,,2,,0
192.0.2.14,{A},,3600,1763900005,1,0,0,,0,,0
192.0.2.14,{A},,0,1763900005,1,0,0,,0,,0
192.0.2.15,{A},,4294967295,4294967295,1,0,0,,0,,0
"""

KEA6 = f"""\
address,duid,valid_lifetime,expire,subnet_id,pref_lifetime,lease_type,iaid,prefix_len,fqdn_fwd,fqdn_rev,hostname,hwaddr,state,user_context,hwtype,hwaddr_source,pool_id
2001:db8::10,{UUID},4000,1763900000,1,3000,0,7,128,0,0,twin,{A},0,,1,2,0
2001:db8::11,{LL_OF_B},4000,1763900001,1,3000,0,7,128,0,0,,,0,,,,0
2001:db8:1::,{LL_OF_B},4000,1763900001,1,3000,2,7,56,0,0,,,0,,,,0
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            DNSMASQ,
            [
                ("192.168.77.50", A, 1763900000.0),
                ("192.168.77.51", B, 1763900100.0),
                ("192.168.77.52", "52:54:00:aa:00:03", None),
                ("fd00:77::50", A, 1763900200.0),
                ("fd00:77::51", B, 1763900300.0),
            ],
            id="dnsmasq",
        ),
        pytest.param(
            LIBVIRT,
            [("192.168.122.10", A, 1763900000.0), ("192.168.122.11", B, None)],
            id="libvirt",
        ),
        pytest.param(
            json.dumps(NETWORKD_LEASES),
            [("10.0.0.5", A, None), ("10.0.0.7", B, 1763900000.5)],
            id="networkd, a list",
        ),
        pytest.param(
            json.dumps({"BootID": "0", "Leases": NETWORKD_LEASES[:1]}),
            [("10.0.0.5", A, None)],
            id="networkd, an object",
        ),
        pytest.param(
            KEA4,
            [
                ("192.0.2.10", B, 1763900002.0),
                ("192.0.2.11", A, 1763900001.0),
                ("192.0.2.15", A, None),
            ],
            id="Kea for IPv4",
        ),
        pytest.param(
            KEA6,
            [("2001:db8::10", A, 1763900000.0), ("2001:db8::11", B, 1763900001.0)],
            id="Kea for IPv6",
        ),
    ],
)
def test_each_kind_of_file(text, expected):
    found = [(lease.address, lease.mac, lease.expires) for lease in parse_leases(text, "f")]

    assert found == expected


GOOD = f"1763900000 {A} 192.168.77.50 twin *"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\x00\x01\x02",
        "x" * 1_000_000,
        f"soon {A} 192.168.77.60 twin *",
        f"-5 {A} 192.168.77.60 twin *",
        f"1e9 {A} 192.168.77.60 twin *",
        f"²³ {A} 192.168.77.60 twin *",
        f"{'9' * 5000} {A} 192.168.77.60 twin *",
        f"1763900000 {A} 192.168.77.600 twin *",
        f"1763900000 {A} 3232255292 twin *",
        f"1763900000 {A}:00 192.168.77.60 twin *",
        f"1763900000 {A[:-1]}g 192.168.77.60 twin *",
        f"1763900000 06-{A} 192.168.77.60 twin *",
        f"1763900000 192.168.77.60 {A} twin *",
        f"1763900000 {A} 192.168.77.60 twin",
        f"1763900000 {A} 192.168.77.60 twin * more",
        f"1763900000 {A} 192.168.77.60\x1b[2J twin *",
    ],
    ids=repr,
)
def test_lines_without_sense_are_left_out(line):
    found = parse_leases(f"{line[:70]}\n{line}\n{GOOD}\n{line}\n")

    assert {lease.address for lease in found} == {"192.168.77.50"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[" * 100_000,
        "{}",
        '{"Leases": 5}',
        "[1, null, [], {}]",
        json.dumps([{"ip-address": 5, "mac-address": A, "expiry-time": 1}]),
        json.dumps([{"ip-address": "1.2.3.4", "mac-address": [A], "expiry-time": 1}]),
        json.dumps([{"ip-address": "1.2.3.4", "mac-address": A, "expiry-time": "soon"}]),
        json.dumps([{"ip-address": "1.2.3.4", "mac-address": A, "expiry-time": True}]),
        json.dumps([{"ip-address": "1.2.3.4", "mac-address": A, "expiry-time": 1e300}]),
        json.dumps([{"Address": [1, 2, 3, 256], "ClientId": [1, 0, 0, 0, 0, 0, 0]}]),
        json.dumps([{"Address": [1, 2, 3, 4], "ClientId": [1, 0, 0, 0, 0, 0, True]}]),
        json.dumps([{"Address": "1.2.3.4", "ClientId": "x"}]),
        f'[{{"ip-address": "1.2.3.4", "mac-address": "{A}", "expiry-time": 1{"0" * 4000}}}]',
        "address,hwaddr\n192.0.2.10,52:54:00:aa:00:01\n",
        f"address,hwaddr,valid_lifetime,expire,state\n192.0.2.10,{A},3600,never,0\n",
        f"address,hwaddr,valid_lifetime,expire,state\n192.0.2.999,{A},3600,1763900000,0\n",
    ],
    ids=lambda text: repr(text[:60]),
)
def test_files_without_sense_say_nothing(text):
    assert parse_leases(text) == ()


def test_lease_lives_until_it_ends():
    assert Lease("192.0.2.1", A, 100.0).lives(99.0)
    assert not Lease("192.0.2.1", A, 100.0).lives(100.0)
    assert Lease("192.0.2.1", A, None).lives(1e12)


def test_places_are_paths_and_patterns(tmp_path):
    (tmp_path / "one.status").write_text(LIBVIRT)
    (tmp_path / "two.status").write_text(DNSMASQ)
    os.mkfifo(tmp_path / "fifo.status")
    (tmp_path / "folder.status").mkdir()
    places = [str(tmp_path / "*.status"), str(tmp_path / "missing"), "", "nul\0"]

    found = read_leases(places)

    assert {os.path.basename(lease.path) for lease in found} == {"one.status", "two.status"}
    assert len(found) == 7


def test_kea_files_that_are_being_tidied_up_count(tmp_path):
    header = KEA4.splitlines()[0]
    row = "{},{},,3600,{},1,0,0,,0,,0"
    for name, rows in {
        "leases4.csv.2": [row.format("192.0.2.10", A, 5), row.format("192.0.2.11", A, 5)],
        "leases4.csv.1": [row.format("192.0.2.10", B, 6)],
        "leases4.csv": [row.format("192.0.2.12", A, 7)],
    }.items():
        (tmp_path / name).write_text("\n".join([header, *rows, ""]))

    found = {lease.address: lease.mac for lease in read_leases([str(tmp_path / "leases4.csv")])}
    (tmp_path / "leases4.csv.completed").write_text(
        "\n".join([header, row.format("192.0.2.10", A, 9), ""])
    )
    tidied = {lease.address: lease.mac for lease in read_leases([str(tmp_path / "leases4.csv")])}

    assert found == {"192.0.2.10": B, "192.0.2.11": A, "192.0.2.12": A}
    assert tidied == {"192.0.2.10": A, "192.0.2.12": A}


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("52:54:00:AA:00:01", A),
        ("52-54-00-aa-00-01", A),
        ("5254.00aa.0001", None),
        ("52:54:00:aa:00", None),
        (f"{A}\n", None),
        ("٥٢:54:00:aa:00:01", None),
        (None, None),
        (5, None),
    ],
)
def test_spelling_of_macs(text, mac):
    assert normal_mac(text) == mac


@pytest.mark.parametrize(
    ("duid", "mac"),
    [
        (LLT_OF_A, A),
        (LL_OF_B, B),
        (UUID, None),
        ("00:01:00:06:2c:ab:cd:ef:52:54:00:aa:00:01", None),
        ("00:03:00:01:52:54:00:aa:00", None),
        ("00:03:00:01:52:54:00:aa:00:02:03", None),
        ("*", None),
        ("", None),
        (None, None),
    ],
)
def test_mac_inside_a_client_identifier(duid, mac):
    assert mac_of_duid(duid) == mac


def test_link_local_address_of_a_mac():
    assert link_local_of("52:54:00:aa:00:03") == "fe80::5054:ff:feaa:3"
