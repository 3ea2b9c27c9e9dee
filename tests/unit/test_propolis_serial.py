# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses from what cloud-init prints on a serial console, however it is mangled there."""

from __future__ import annotations

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.serial_addresses import (
    addresses_on_console,
)
from ansible_collections.cloudnebula.hypervisor.tests.doubles.propolis_machine import (
    net_device_info,
)

MAC, OTHER = "02:08:20:aa:bb:cc", "02:08:20:aa:bb:cd"
TABLE = """\
[    9.124] cloud-init[411]: Cloud-init v. 22.4.2 running 'init' at Mon, 23 Nov 2026 09:00:00 +0000. Up 9.10 seconds.
[    9.201] cloud-init[411]: ci-info: ++++++++++++++++++++Net device info++++++++++++++++++++
[    9.201] cloud-init[411]: ci-info: +--------+-------+-----------+------+-------+----------+
[    9.201] cloud-init[411]: ci-info: | Device |   Up  |  Address  | Mask | Scope | Hw-Address |
[    9.202] cloud-init[411]: ci-info: +--------+-------+-----------+------+-------+----------+
[    9.202] cloud-init[411]: ci-info: | enp0s8 |  True | 10.0.0.5 | 255.255.255.0 | global | 02:08:20:aa:bb:cc |
[    9.202] cloud-init[411]: ci-info: | enp0s8 |  True | 2001:db8::5/64 | . | global | 02:08:20:aa:bb:cc |
[    9.202] cloud-init[411]: ci-info: | enp0s8 |  True | fe80::8:20ff:feaa:bbcc/64 | . | link | 02:08:20:aa:bb:cc |
[    9.203] cloud-init[411]: ci-info: | enp0s9 | False |  .  | . | . | 02:08:20:aa:bb:cd |
[    9.203] cloud-init[411]: ci-info: |   lo   |  True | 127.0.0.1 | 255.0.0.0 | host | . |
[    9.203] cloud-init[411]: ci-info: |   lo   |  True | ::1/128 | . | host | . |
[    9.203] cloud-init[411]: ci-info: +++++++++++++++++++++++++++Route IPv4 info+++++++++++++++
[    9.204] cloud-init[411]: ci-info: | Route | Destination | Gateway | Genmask | Interface | Flags |
[    9.204] cloud-init[411]: ci-info: |   0   | 0.0.0.0 | 10.0.0.1 | 0.0.0.0 | enp0s8 | UG |
"""
FOUND = ((MAC, ("10.0.0.5", "2001:db8::5")),)


def row(address="10.0.0.5", mac=MAC, up="True", scope="global"):
    return f"ci-info: | enp0s8 | {up} | {address} | 255.255.255.0 | {scope} | {mac} |\n".encode()


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        (TABLE.encode(), FOUND),
        (TABLE.replace("\n", "\r\n").encode(), FOUND),
        (b"\xff\xfe\x00" + TABLE.encode() + b"\xc3", FOUND),
        (b"", ()),
        (b"login: ", ()),
        (row(), ((MAC, ("10.0.0.5",)),)),
        (row() + row(), ((MAC, ("10.0.0.5",)),)),
        (row(mac=MAC.upper()), ((MAC, ("10.0.0.5",)),)),
        (row() + row("10.0.0.6", OTHER), ((MAC, ("10.0.0.5",)), (OTHER, ("10.0.0.6",)))),
        (row("10.0.0.5/24"), ((MAC, ("10.0.0.5",)),)),
        (row(scope="link"), ()),
        (row(up="False"), ()),
        (row(mac="."), ()),
        (row("not-an-address"), ()),
        (row("127.0.0.1"), ()),
        (row("169.254.1.1"), ()),
        (row("fe80::1"), ()),
        (row("0.0.0.0"), ()),
        (row("224.0.0.1"), ()),
        (row()[:-10], ()),
        (b"| enp0s8 | True | 10.0.0.5 | . | global | 02:08:20:aa:bb:cc |\n", ()),
    ],
)
def test_rows_become_addresses(printed, found):
    assert addresses_on_console(printed) == found


def test_latest_boot_counts():
    again = TABLE.replace("10.0.0.5", "10.0.0.77").encode()
    assert addresses_on_console(TABLE.encode() + again)[0][1][0] == "10.0.0.77"
    assert "10.0.0.5" not in str(addresses_on_console(TABLE.encode() + again))


def test_endless_rows_are_bounded():
    rows = b"".join(row(f"10.{n >> 8}.{n & 255}.1") for n in range(5000))
    assert len(addresses_on_console(rows)[0][1]) == 64


def test_pretended_guest_prints_such_a_table():
    lines = net_device_info([MAC, OTHER], {MAC: "10.0.0.5/24", OTHER: "2001:db8::7/64"}, "web1")
    printed = "".join(f"ci-info: {line}\r\n" for line in lines).encode()
    assert addresses_on_console(printed) == ((MAC, ("10.0.0.5",)), (OTHER, ("2001:db8::7",)))
