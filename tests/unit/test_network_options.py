# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of network cards: what is taken, what is refused, and what is kept."""

from __future__ import annotations

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import InvalidSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import (
    AddressFilter,
    Network,
    PortForward,
    address_filter_from_params,
    networks_from_params,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import VmSpec

BRIDGE = {"type": "bridge", "bridge": "br0"}
FORWARD = {"host": 8080, "guest": 80}

TAKEN = {
    "left open": (None, None),
    "none at all": ([], ()),
    "none by name": ([{"type": "none"}], ()),
    "user": ([{"type": "user"}], (Network(),)),
    "bridge": ([BRIDGE], (Network("bridge", "net0", bridge="br0"),)),
    "named by place": (
        [BRIDGE, {"type": "user"}],
        (Network("bridge", "net0", "br0"), Network("user", "net1")),
    ),
    "tap": ([{"type": "tap", "interface": "tap0"}], (Network("tap", "net0", interface="tap0"),)),
    "MAC in other clothes": (
        [{**BRIDGE, "mac": "52-54-00-AB-CD-EF"}],
        (Network("bridge", bridge="br0", mac="52:54:00:ab:cd:ef"),),
    ),
    "forward": (
        [
            {
                "type": "user",
                "port_forwards": [{**FORWARD, "protocol": "udp", "host_address": "0.0.0.0"}],
            }
        ],
        (Network(port_forwards=(PortForward(8080, 80, "udp", "0.0.0.0"),)),),
    ),
    "forward on loopback": (
        [{"type": "user", "port_forwards": [FORWARD]}],
        (Network(port_forwards=(PortForward(8080, 80),)),),
    ),
    "same port of two protocols": (
        [{"type": "user", "port_forwards": [FORWARD, {**FORWARD, "protocol": "udp"}]}],
        (Network(port_forwards=(PortForward(8080, 80), PortForward(8080, 80, "udp"))),),
    ),
}

REFUSED = {
    "none with others": ([{"type": "none"}, BRIDGE], "networks"),
    "nine": ([BRIDGE] * 9, "networks"),
    "bridge without its name": ([{"type": "bridge"}], "networks[0].bridge"),
    "tap without interface": ([{"type": "tap"}], "networks[0].interface"),
    "bridge for user": ([{"type": "user", "bridge": "br0"}], "networks[0].bridge"),
    "forward over a bridge": (
        [{**BRIDGE, "port_forwards": [FORWARD]}],
        "networks[0].port_forwards",
    ),
    "bridge name too long": ([{**BRIDGE, "bridge": "b" * 16}], "networks[0].bridge"),
    "bridge name with a slash": ([{**BRIDGE, "bridge": "../br0"}], "networks[0].bridge"),
    "bridge name with a comma": ([{**BRIDGE, "bridge": "br0,x=y"}], "networks[0].bridge"),
    "name with a newline": ([{**BRIDGE, "name": "lan\n"}], "networks[0].name"),
    "MAC of a group": ([{**BRIDGE, "mac": "01:00:5e:00:00:01"}], "networks[0].mac"),
    "MAC of nobody": ([{**BRIDGE, "mac": "00:00:00:00:00:00"}], "networks[0].mac"),
    "MAC too short": ([{**BRIDGE, "mac": "52:54:00:ab:cd"}], "networks[0].mac"),
    "same MAC twice": (
        [{**BRIDGE, "mac": "52:54:00:00:00:01"}, {**BRIDGE, "mac": "52:54:00:00:00:01"}],
        "networks",
    ),
    "same name twice": ([{**BRIDGE, "name": "lan"}, {**BRIDGE, "name": "lan"}], "networks"),
    "name that another has by its place": ([{**BRIDGE, "name": "net1"}, BRIDGE], "networks"),
    "MTU that nobody would be told": (
        [{"type": "user", "mtu": 1400, "model": "e1000e"}],
        "networks[0].mtu",
    ),
    "MTU too small": ([{**BRIDGE, "mtu": 575}], "networks[0].mtu"),
    "MTU too large": ([{**BRIDGE, "mtu": 65522}], "networks[0].mtu"),
    "port 0": (
        [{"type": "user", "port_forwards": [{"host": 0, "guest": 80}]}],
        "networks[0].port_forwards[0].host",
    ),
    "port 65536": (
        [{"type": "user", "port_forwards": [{"host": 1, "guest": 65536}]}],
        "networks[0].port_forwards[0].guest",
    ),
    "address that is none": (
        [{"type": "user", "port_forwards": [{**FORWARD, "host_address": "everywhere"}]}],
        "networks[0].port_forwards[0].host_address",
    ),
    "same port twice": ([{"type": "user", "port_forwards": [FORWARD, FORWARD]}], "networks"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_taken(case):
    items, networks = TAKEN[case]
    assert networks_from_params(items) == networks


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    items, option = REFUSED[case]

    with pytest.raises(InvalidSpec) as caught:
        networks_from_params(items)

    assert caught.value.details["option"] == option
    assert str(caught.value).startswith(option.split("[")[0])
    assert caught.value.help


def test_address_filter():
    assert address_filter_from_params({}) is None
    given = {"ip_version": 4, "ip_range": ["192.168.77.0/24"], "lease_files": ["/var/leases"]}
    assert address_filter_from_params(given) == AddressFilter(
        4, ("192.168.77.0/24",), ("/var/leases",)
    )


def test_an_option_that_is_left_out_keeps_what_counted_before():
    before = VmSpec("web1", addresses=AddressFilter(6, ("fd00::/8",), ("/var/leases",)))

    def then(**params):
        return VmSpec("web1", addresses=address_filter_from_params(params)).over(before).addresses

    assert then(ip_version=4) == AddressFilter(4, ("fd00::/8",), ("/var/leases",))
    assert then(ip_range=[], lease_files=["/a"]) == AddressFilter(6, (), ("/a",))
    new = VmSpec("web1", addresses=address_filter_from_params({"ip_version": 4})).completed()
    assert new.addresses == AddressFilter(4, (), ())


@pytest.mark.parametrize("junk", ["192.168.77.0/33", "192.168.77.1/24", "home", ""])
def test_address_filter_refuses_what_is_no_range(junk):
    with pytest.raises(InvalidSpec) as caught:
        address_filter_from_params({"ip_range": ["10.0.0.0/8", junk]})
    assert caught.value.details["option"] == "ip_range[1]"
