# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the backend propolis is told by users, and what it keeps about a machine beyond what all backends keep."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InvalidSpec

API_VERSIONS = ("1.0.0", "2.0.0", "3.0.0", "4.0.0", "5.0.0", "6.0.0")
ZVOLS = "/dev/zvol/rdsk"  # raw devices of ZFS volumes

_DATASET = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(?:/[A-Za-z0-9][A-Za-z0-9_.-]*)*")
_BRAND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LINK = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,29}[0-9]")  # an illumos link ends in its number
_NAMES = {
    "pool": (_DATASET, "Give a pool or a dataset without a slash before it, such as rpool/vms."),
    "zone_brand": (
        *(_BRAND, "A brand's name has 1 to 63 letters, digits, dots, dashes and underscores."),
    ),
    "control_link": (
        _LINK,
        "A link's name has 2 to 31 letters, digits, dots and underscores; it begins with a letter and ends with a digit.",
    ),
}


@dataclass(frozen=True)
class PropolisOptions:
    """The option ``propolis``: where things are on an illumos host and how the machine's server is hosted."""

    pool: str | None = None  # pool or dataset that holds images and disks
    server: str | None = None  # the program propolis-server
    bootrom: str | None = None
    api_version: str | None = None
    hosting: str | None = (
        None  # global: the server runs in the global zone; zone: in one of its own
    )
    zone_brand: str | None = None
    zone_image: str | None = None  # file that the brand installs the zone from
    zone_dir: str | None = None  # folder that holds the zones' folders
    control_link: str | None = None  # link over which the global zone talks to the zones' servers
    control_network: str | None = None  # the addresses that the servers get there


PROPOLIS_DEFAULTS = PropolisOptions(
    pool="rpool",
    server="/opt/oxide/propolis-server/bin/propolis-server",
    bootrom="/opt/oxide/propolis-server/blob/OVMF_CODE.fd",
    api_version="1.0.0",
    hosting="global",
    zone_brand="omicron1",
    zone_dir="/zones",
)
FIXED = ("pool", "hosting", "zone_brand", "zone_image", "zone_dir", "control_network")


@dataclass(frozen=True)
class PropolisRecord:
    """What was chosen once for a machine on Propolis."""

    port: int | None = None  # of its server
    address: str = "127.0.0.1"  # of its server
    dataset: str | None = None  # of all its disks, such as rpool/vms/web1
    disk: str | None = None  # the volume of its disk
    origin: str | None = None  # snapshot that its disk was cloned from
    vnics: Mapping[str, str] = field(default_factory=dict)  # link names by network name
    links: Mapping[str, str] = field(default_factory=dict)  # what each VNIC was made over
    vnc_port: int | None = None


def propolis_from_params(value: Mapping[str, Any] | None) -> PropolisOptions | None:
    """Read the option ``propolis``; raise ``InvalidSpec`` naming the first suboption that makes no sense."""
    if value is None:
        return None
    for name, (pattern, rule) in _NAMES.items():
        text = value.get(name)
        if text is not None and not pattern.fullmatch(text):
            raise _invalid(name, f"{text!r} is not a name of that kind.", rule)
    for name in ("server", "bootrom", "zone_image", "zone_dir"):
        text = value.get(name)
        if text is not None and (not text.startswith("/") or re.search(r"[\x00-\x1f\x7f]", text)):
            raise _invalid(name, f"{text!r} is not an absolute path.")
    network = value.get("control_network")
    if network is not None:
        _check_control_network(network)
    if value.get("hosting") == "zone":
        for name in ("control_link", "control_network"):
            if value.get(name) is None:
                raise _invalid(name, "hosting in a zone needs it.")
    return PropolisOptions(**{name: value.get(name) for name in PropolisOptions.__annotations__})


def _check_control_network(text: str) -> None:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as exc:
        raise _invalid("control_network", f"{exc}.") from exc
    if network.prefixlen > 30:
        raise _invalid("control_network", f"{text} has no room for two addresses.")


def _invalid(name: str, sentence: str, rule: str | None = None) -> InvalidSpec:
    return InvalidSpec(f"propolis.{name}: {sentence}", rule, option=f"propolis.{name}")
