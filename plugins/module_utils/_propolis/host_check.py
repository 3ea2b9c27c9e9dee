# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look, before anything is touched, whether this host can make and run a machine on Propolis."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Sequence

from .._core.errors import (
    BackendNotAvailable,
    CommandFailed,
    HostError,
    InvalidVcpus,
    LinkMissing,
    PoolMissing,
    ProgramMissing,
    VmError,
)
from .._core.handle import VmHandle
from .._core.networks import Network
from .._core.propolis import PROPOLIS_DEFAULTS, PropolisOptions, PropolisRecord
from .._core.spec import VmSpec
from .._core.state import VmState
from .._guest.material import check_material
from .._host.commands import find_program, require_program, run
from .._host.files import check_writable
from .._image.inspect import check_disk_size
from .._image.provide import foresee_image
from . import links, volumes
from .interfaces import INTERFACES, Ask, ask_version, check_version
from .rules import MAX_CPUS

PROGRAMS = ("dladm", "zfs", "svccfg", "svcadm", "svcs", "bhyvectl")
ZONE_PROGRAMS = ("zoneadm", "zonecfg", "ipadm")
LOOK = 10.0  # seconds that a program gets to answer a question

_PAGE = 4096
_BOOTROM_LIMIT = 2 << 20  # bytes; the server maps it below 4 GiB


def check_host(spec: VmSpec, found: VmHandle | None, data_dir: str, ask: Ask = ask_version) -> None:
    """Raise the first thing that would hinder this host from making or running such a machine. Touches nothing."""
    options = spec.propolis or PROPOLIS_DEFAULTS
    if (spec.vcpus or 1) > MAX_CPUS:
        raise InvalidVcpus(
            f"vcpus: {spec.vcpus} is more than the {MAX_CPUS} that propolis-server can count.",
            option="vcpus",
        )
    for problem in host_problems(options, ask):
        raise problem
    record = found.propolis if found is not None and found.propolis else PropolisRecord()
    _check_links(spec.networks or (), record)
    if found is None or found.state is VmState.PREPARING:
        _check_material(spec, data_dir)
    elif record.disk is not None and not volumes.exists(record.disk):
        raise HostError(
            f"The disk of the VM '{spec.name}', the volume {record.disk}, is gone.",
            "Restore it, for example with 'zfs receive', or remove the VM with state=absent.",
            dataset=record.disk,
        )


def host_problems(options: PropolisOptions, ask: Ask = ask_version) -> Iterator[VmError]:
    """Yield all that hinders this host from running machines on Propolis with these options. Touches nothing."""
    wanted = PROGRAMS + (ZONE_PROGRAMS if options.hosting == "zone" else ())
    missing = [program for program in wanted if find_program(program) is None]
    if missing:
        yield BackendNotAvailable(
            f"The backend propolis needs illumos: this host has no {', '.join(missing)}.",
            "Run the task on a host with illumos, or choose another backend.",
            programs=missing,
        )
    for interface in INTERFACES:
        try:
            check_version(interface, ask(interface))
        except BackendNotAvailable as exc:
            yield exc
    yield from _server_problems(options)
    if "zfs" not in missing:
        yield from _or_failure(_pool_problems(options.pool or PROPOLIS_DEFAULTS.pool or ""))
    if options.hosting != "zone":
        return
    if options.control_link and "dladm" not in missing:
        yield from _or_failure(_control_link_problems(options.control_link))
    if options.control_network and "ipadm" not in missing:
        yield from _or_failure(_control_network_problems(options.control_network))


def _or_failure(problems: Iterator[VmError]) -> Iterator[VmError]:
    """Yield problems; that a program fails while they are looked for is one, too."""
    try:
        yield from problems
    except CommandFailed as exc:
        yield exc


def _control_link_problems(name: str) -> Iterator[VmError]:
    if not links.exists(name):
        option = "propolis.control_link"
        yield LinkMissing(f"{option}: there is no link {name}.", option=option)


def _control_network_problems(text: str) -> Iterator[VmError]:
    network = ipaddress.IPv4Network(text)
    own = network.network_address + 1
    shown = run(["ipadm", "show-addr", "-p", "-o", "ADDR"], timeout=LOOK).stdout.splitlines()
    if not any(line.partition("/")[0] == str(own) for line in shown):
        yield _unready(
            "control_network",
            f"the global zone has not the address {own} on the link to its servers.",
            f"Give it one, for example: ipadm create-addr -T static -a {own}/{network.prefixlen} LINK/v4, "
            "with LINK a VNIC over the control link.",
        )


def _pool_problems(pool: str) -> Iterator[VmError]:
    if not volumes.exists(pool):
        yield PoolMissing(
            f"propolis.pool: there is no ZFS pool or dataset {pool}.",
            option="propolis.pool",
            dataset=pool,
        )


def _server_problems(options: PropolisOptions) -> Iterator[VmError]:
    if options.hosting == "zone":
        # The program and the bootrom are those of the zone.
        image = options.zone_image
        if image is not None and not os.access(image, os.R_OK):
            yield _unready("zone_image", f"{image} {_what_is_wrong(image)}.")
        return
    server = options.server or PROPOLIS_DEFAULTS.server or ""
    if not os.path.isfile(server) or not os.access(server, os.X_OK):
        yield _unready(
            "server",
            f"{server} {_what_is_wrong(server, 'cannot be run by this user')}.",
            "Install propolis-server there, or name the place where it is.",
        )
    problem = _bootrom_problem(options.bootrom or PROPOLIS_DEFAULTS.bootrom or "")
    if problem is not None:
        yield problem


def _bootrom_problem(path: str) -> VmError | None:
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        return _unready(
            "bootrom",
            f"{path} {_what_is_wrong(path)}.",
            "Put the guests' firmware there, OVMF_CODE.fd as Propolis is tested with, or name the place where it is.",
        )
    size = os.path.getsize(path)
    if 0 < size <= _BOOTROM_LIMIT and size % _PAGE == 0:
        return None
    return _unready(
        "bootrom",
        f"{path} has {size} bytes; firmware has whole pages of {_PAGE} bytes, and at most {_BOOTROM_LIMIT} bytes.",
        "Use the code part of OVMF alone, OVMF_CODE.fd, without its variables.",
    )


def _what_is_wrong(path: str, closed: str = "cannot be read by this user") -> str:
    if not os.path.exists(path):
        return "does not exist"
    return closed if os.path.isfile(path) else "is not a file"


def _unready(name: str, sentence: str, help_text: str = "Correct the path.") -> VmError:
    option = f"propolis.{name}"
    return BackendNotAvailable(f"{option}: {sentence}", help_text, option=option)


def _check_links(networks: Sequence[Network], record: PropolisRecord) -> None:
    for index, network in enumerate(networks):
        name = network.link or record.links.get(network.name)
        if name is None:
            links.default_link()
        elif not links.exists(name):
            option = f"networks[{index}].link"
            raise LinkMissing(f"{option}: there is no link {name}.", option=option)


def _check_material(spec: VmSpec, data_dir: str) -> None:
    check_material(spec)
    image = foresee_image(spec, data_dir)
    if image is not None:
        check_disk_size(image, spec.disk_size)
        if image.format != "raw":
            try:
                require_program("qemu-img")
            except ProgramMissing as exc:
                raise ProgramMissing(
                    f"{exc.message} Propolis takes raw disks only, and {image.path} is {image.format}.",
                    "Install qemu-img, or convert the image elsewhere: qemu-img convert -O raw.",
                    **exc.details,
                ) from exc
    check_writable(data_dir)
