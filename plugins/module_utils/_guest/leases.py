# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lease files of DHCP servers: dnsmasq, dnsmasq under libvirt, systemd-networkd and Kea.

A file is read as what its content looks like, whatever its name. Lines that make no sense are left out. Host names
play no part: any guest can send any name.
"""

from __future__ import annotations

import glob
import ipaddress
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from .macs import mac_of_duid, normal_mac

DEFAULT_PLACES = (
    "/var/lib/cloudnebula/*.leases",  # of the role hypervisor_host
    "/var/lib/misc/dnsmasq.leases",
    "/var/lib/dnsmasq/*.leases",
    "/var/lib/libvirt/dnsmasq/*.status",
    "/var/lib/NetworkManager/dnsmasq-*.leases",
    "/run/systemd/netif/dhcp-server-lease/*",
    "/var/lib/systemd/network/dhcp-server-lease/*",
    "/var/lib/kea/kea-leases4.csv",
    "/var/lib/kea/kea-leases6.csv",
)
_SIZE_LIMIT = 16 * 1024 * 1024  # bytes; some 200,000 leases
_FOREVER_KEA = 0xFFFFFFFF
_PREFIX_DELEGATION = "2"


@dataclass(frozen=True)
class Lease:
    """An address that was given to a MAC until ``expires``, in seconds since 1970; ``None`` is for ever."""

    address: str
    mac: str
    expires: float | None
    path: str = ""

    def lives(self, now: float) -> bool:
        """Tell whether the lease counts at ``now``."""
        return self.expires is None or self.expires > now

    @property
    def age_order(self) -> float:
        """A number that is greater for what was leased for longer from now on."""
        return float("inf") if self.expires is None else self.expires


def read_leases(places: Iterable[str] | None = None) -> tuple[Lease, ...]:
    """Return what the files say; ``places`` are paths or patterns, ``None`` the usual ones.

    A file that is missing or cannot be read says nothing.
    """
    found: list[Lease] = []
    for place in DEFAULT_PLACES if places is None else places:
        for path in sorted(glob.glob(place)) if glob.has_magic(place) else [place]:
            found += parse_leases(_read_all(path), path)
    return tuple(found)


def parse_leases(text: str, path: str = "") -> tuple[Lease, ...]:
    """Read the text of a lease file of any known kind."""
    start = text.lstrip()[:8]
    parse: Callable[[str], Iterator[Lease | None]]
    if start.startswith(("[", "{")):
        parse = _parse_json
    elif start == "address,":
        parse = _parse_kea
    else:
        parse = _parse_dnsmasq
    return tuple(
        Lease(lease.address, lease.mac, lease.expires, path)
        for lease in parse(text)
        if lease is not None
    )


def _read_all(path: str) -> str:
    """Return the file's text; Kea's, after what it has set aside to tidy up."""
    return "".join(_read(part) for part in (*_set_aside(path), path))


def _set_aside(path: str) -> tuple[str, ...]:
    if not path.endswith(".csv"):
        return ()
    tidied = f"{path}.completed"
    return (tidied,) if os.path.exists(tidied) else (f"{path}.2", f"{path}.1")


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # not for ever on a FIFO
    except (OSError, ValueError):
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        with open(fd, "rb", closefd=False) as stream:
            return stream.read(_SIZE_LIMIT).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _lease(address: object, mac: str | None, expires: float | None) -> Lease | None:
    if mac is None or not isinstance(address, str):
        return None
    try:
        return Lease(str(ipaddress.ip_address(address)), mac, expires)
    except ValueError:
        return None


def _seconds(text: object) -> float | None:
    """Return a count of seconds; raise ``ValueError`` for anything else, and ``None`` for 0, which is for ever."""
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ValueError(text)
    digits = str(text) if isinstance(text, str) or 0 <= text < 10**18 else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise ValueError("not a time")
    return float(digits) or None


def _parse_dnsmasq(text: str) -> Iterator[Lease | None]:
    """Expiry, MAC, address, name, client; after the line ``duid``: expiry, IAID, address, name, client's DUID."""
    version_6 = False
    for line in text.split("\n"):
        words = line.split()
        if words[:1] == ["duid"]:
            version_6 = True
            continue
        if len(words) != 5:
            continue
        try:
            expires = _seconds(words[0])
        except ValueError:
            continue
        mac = mac_of_duid(words[4]) if version_6 else normal_mac(words[1])
        yield _lease(words[2], mac, expires)


def _parse_json(text: str) -> Iterator[Lease | None]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(data, dict):
        data = data.get("Leases")
    for item in data if isinstance(data, list) else ():
        if isinstance(item, dict):
            yield _from_libvirt(item) if "ip-address" in item else _from_networkd(item)


def _from_libvirt(item: Mapping[str, object]) -> Lease | None:
    try:
        expires = _seconds(item.get("expiry-time", 0))
    except ValueError:
        return None
    return _lease(item["ip-address"], normal_mac(item.get("mac-address")), expires)


def _from_networkd(item: Mapping[str, object]) -> Lease | None:
    address, client = _octets(item.get("Address"), 4), _octets(item.get("ClientId"), 7)
    hardware = _octets(item.get("HardwareAddress"), 6)
    if hardware is None and client is not None and client[0] == 1:  # Ethernet, RFC 2132, 9.14
        hardware = client[1:]
    if address is None or hardware is None:
        return None
    try:
        # The other time it tells, ExpirationUSec, counts from the host's boot.
        expires = _seconds(item.get("ExpirationRealtimeUSec", 0))
    except ValueError:
        return None
    mac = ":".join(f"{octet:02x}" for octet in hardware)
    expires = None if expires is None else expires / 1e6
    return _lease(".".join(map(str, address)), mac, expires)


def _octets(value: object, count: int) -> list[int] | None:
    if not isinstance(value, list) or len(value) != count:
        return None
    octets = [item for item in value if isinstance(item, int) and 0 <= item <= 255]
    return octets if len(octets) == count and not any(item is True for item in value) else None


def _parse_kea(text: str) -> Iterator[Lease | None]:
    """Columns are named in the first line; a later line about an address takes the place of an earlier one."""
    columns: list[str] = []
    latest: dict[str, dict[str, str]] = {}
    for line in text.split("\n"):
        cells = line.rstrip("\r").split(",")
        if cells[0] == "address":
            columns = cells
        elif len(cells) >= 5:
            latest[cells[0]] = dict(zip(columns, cells))
    for row in latest.values():
        yield _from_kea(row)


def _from_kea(row: Mapping[str, str]) -> Lease | None:
    lifetime = row.get("valid_lifetime", "")
    gone = row.get("state", "") != "0" or lifetime == "0"
    if gone or row.get("lease_type") == _PREFIX_DELEGATION:
        return None
    try:
        expires = _seconds(row.get("expire"))
    except ValueError:
        return None
    mac = normal_mac(row.get("hwaddr")) or mac_of_duid(row.get("duid"))
    return _lease(row["address"], mac, None if lifetime == str(_FOREVER_KEA) else expires)
