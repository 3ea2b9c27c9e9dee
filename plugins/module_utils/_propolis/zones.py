# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Zones for machines' servers: configured from a file, installed by their brand, booted, and taken apart."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from .._core.errors import CommandFailed, InvalidSpec, VmError, ZoneFailed
from .._host.commands import run
from .._host.files import doing, write_atomically
from .parsable import split_parsable, zone_name
from .services import Service, manifest

__all__ = [
    "Zone",
    "ZoneLink",
    "boot",
    "ensure_zone",
    "halt",
    "path_inside",
    "put_service",
    "remove_zone",
    "zone_config",
    "zone_name",
    "zone_state",
]

_DEVICES = ("/dev/vmm/*", "/dev/vmmctl", "/dev/viona")
_MARK = "cloudnebula"  # the attribute that says whose zone it is and what it was made from
_MANIFESTS = "var/svc/manifest/site"
_PASSING = ("shutting_down", "down")  # states that end by themselves
_UP = ("running", "ready")
_PAUSE = 0.1
_LONG = 600.0  # seconds for a command of zoneadm, beyond any deadline that it is given
_UNFIT = re.compile(r'["\x00-\x1f\x7f]')


@dataclass(frozen=True)
class ZoneLink:
    """A link that belongs to the zone. With an address, the zone plumbs it and may use no other."""

    name: str
    address: str | None = None  # with its length


@dataclass(frozen=True)
class Zone:
    """What the zone of one machine is made of."""

    name: str
    owner: str  # the machine's UUID
    brand: str
    path: str
    links: Sequence[ZoneLink] = ()
    disks: Sequence[str] = ()  # paths of devices
    image: str | None = None  # what the brand installs it from


def zone_config(zone: Zone) -> str:
    """Return the commands for zonecfg; raise ``InvalidSpec`` for text that they cannot hold."""
    lines = [
        "create -b",
        f"set brand={_value(zone.brand)}",
        f"set zonepath={_value(zone.path)}",
        "set autoboot=false",
        "set ip-type=exclusive",
    ]
    for link in zone.links:
        lines += ["add net", f"set physical={_value(link.name)}"]
        lines += [] if link.address is None else [f"set allowed-address={_value(link.address)}"]
        lines += ["end"]
    for device in (*_DEVICES, *zone.disks):
        lines += ["add device", f"set match={_value(device)}", "end"]
    made_from = sha256("\n".join((*lines, zone.image or "")).encode()).hexdigest()
    mark = _value(f"{zone.owner}/{made_from}")
    lines += ["add attr", f"set name={_MARK}", "set type=string", f"set value={mark}", "end"]
    return "\n".join((*lines, "verify", "commit", ""))


def ensure_zone(zone: Zone, config_path: str, deadline: float) -> None:
    """Have the zone installed as it should be; ``config_path`` is where its configuration is kept.

    A zone of the same machine that differs is removed and made anew, running or not. Raises ``ZoneFailed`` if the
    zone is not this machine's.
    """
    config = zone_config(zone)
    state = zone_state(zone.name)
    if state is not None and _mark_of(zone) not in config:
        remove_zone(zone.name, zone.owner, deadline)
        state = None
    if state in _UP or state in _PASSING or state == "installed":
        return
    if state is None:
        with doing(f"make the folder {os.path.dirname(zone.path)}"):
            os.makedirs(os.path.dirname(zone.path), mode=0o755, exist_ok=True)
        write_atomically(config_path, config.encode())
        run(["zonecfg", "-z", zone.name, "-f", config_path])
    elif state != "configured":  # its installation was cut off
        _zoneadm(zone.name, deadline, "uninstall", "-F")
    _zoneadm(zone.name, deadline, "install", *([] if zone.image is None else [zone.image]))
    reached = zone_state(zone.name)
    if reached != "installed":
        raise ZoneFailed(
            f"The zone {zone.name} is {reached} after its installation.", state=reached
        )


def put_service(zone_path: str, service: Service) -> None:
    """Put a service's manifest and its folder into an installed zone, which takes them up when it boots.

    A link in the way, which only somebody inside the zone can have made, is refused.
    """
    root = os.path.join(zone_path, "root")
    _make_inside(root, service.folder)
    folder = _make_inside(root, _MANIFESTS)
    write_atomically(os.path.join(folder, "cloudnebula-vm.xml"), manifest(service), mode=0o644)


def path_inside(zone_path: str, path: str) -> str | None:
    """Return the path, as seen from outside, of a plain file in a zone; ``None`` if there is none, or a link leads to it."""
    current = os.path.join(zone_path, "root")
    modes = []
    for part in path.strip("/").split("/"):
        current = os.path.join(current, part)
        try:
            modes.append(os.lstat(current).st_mode)
        except OSError:
            return None
    return current if all(map(stat.S_ISDIR, modes[:-1])) and stat.S_ISREG(modes[-1]) else None


def boot(name: str, deadline: float) -> None:
    """Boot an installed zone; return when it runs. One that runs already is left alone."""
    state = _settled(name, deadline)
    if state in ("installed", "ready"):
        _zoneadm(name, deadline, "boot")
        state = _settled(name, deadline, until="running")
    if state != "running":
        raise ZoneFailed(f"The zone {name} is {state or 'gone'} and cannot be booted.", state=state)


def halt(name: str, deadline: float) -> None:
    """End all that runs in the zone; one that is not there or does not run is no error."""
    if _settled(name, deadline) in (*_UP, "mounted"):
        _zoneadm(name, deadline, "halt")
        _settled(name, deadline)


def remove_zone(name: str, owner: str, deadline: float) -> None:
    """Halt, uninstall and delete the zone, from whatever state it is in; one that is not there is no error.

    Raises ``ZoneFailed`` if it is not the zone of the machine ``owner``, a UUID.
    """
    while True:
        state = _settled(name, deadline)
        if state is None:
            return
        if not _value_of_mark(name).startswith(f"{owner}/"):
            raise _foreign(name)
        if state in _UP:
            _zoneadm(name, deadline, "halt")
        elif state == "configured":
            run(["zonecfg", "-z", name, "delete", "-F"])
        else:
            _zoneadm(name, deadline, "uninstall", "-F")
        if time.monotonic() >= deadline:
            raise _too_slow(name, state)


def zone_state(name: str) -> str | None:
    """Return the state of a zone, in zoneadm's words; ``None`` if there is no such zone."""
    try:
        line = run(["zoneadm", "-z", name, "list", "-p"]).stdout
    except CommandFailed as exc:
        known = "No such zone" in str(exc.details.get("output"))
        if exc.details.get("status") == 1 and known:
            return None
        raise
    return split_parsable(line)[2]


def _settled(name: str, deadline: float, until: str | None = None) -> str | None:
    """Wait until the zone is in no passing state, or in one state; return the state."""
    while True:
        state = zone_state(name)
        if state == until or (until is None and state not in _PASSING):
            return state
        if time.monotonic() >= deadline:
            raise _too_slow(name, state)
        time.sleep(_PAUSE)


def _zoneadm(name: str, deadline: float, *words: str) -> None:
    # The program itself must not be cut off early: half an installation would be left.
    patience = max(_LONG, deadline - time.monotonic())
    run(["zoneadm", "-z", name, *words], timeout=patience)


def _mark_of(zone: Zone) -> str:
    found = _value_of_mark(zone.name)
    if not found.startswith(f"{zone.owner}/"):
        raise _foreign(zone.name)
    return found


def _value_of_mark(name: str) -> str:
    """Return the value of our attribute; empty if the zone has none, or is just being removed."""
    try:
        said = run(["zonecfg", "-z", name, "info", "attr"]).stdout
    except CommandFailed as exc:
        if "No such zone" in str(exc.details.get("output")):
            return ""
        raise
    rows = [line.strip().partition(": ")[::2] for line in said.splitlines()]
    for number, row in enumerate(rows):
        if row == ("name", _MARK):
            values = (value for key, value in rows[number:] if key == "value")
            return next(values, "").strip('"')
    return ""


def _make_inside(root: str, path: str) -> str:
    """Make a folder inside a zone's root step by step, following no links; return its path outside."""
    with doing(f"make the folder {path} in {root}"):
        current = root
        for part in (part for part in path.split("/") if part):
            current = os.path.join(current, part)
            if not os.path.lexists(current):
                os.mkdir(current, 0o755)
            if part == ".." or not stat.S_ISDIR(os.lstat(current).st_mode):
                raise ZoneFailed(f"{current} in the zone is no folder.", path=current)
    return current


def _value(text: str) -> str:
    if _UNFIT.search(text):
        raise InvalidSpec(f"{text!r} cannot be part of a zone's configuration.")
    return f'"{text}"'


def _foreign(name: str) -> VmError:
    return ZoneFailed(
        f"There is a zone {name} that is not this VM's.",
        "Rename it, or remove it if nobody needs it: zoneadm and zonecfg.",
        zone=name,
    )


def _too_slow(name: str, state: str | None) -> VmError:
    return ZoneFailed(f"The zone {name} is still {state or 'gone'}.", state=state)
