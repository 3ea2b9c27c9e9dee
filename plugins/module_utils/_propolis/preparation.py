# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make what a machine on Propolis needs: its record, keys, seed, volume and VNICs; or bring them up to its spec."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from dataclasses import replace
from functools import partial

from .._core.errors import BadRecord, ImageNotFound, InvalidSpec, PortUnavailable
from .._core.handle import VmHandle
from .._core.propolis import PROPOLIS_DEFAULTS, PropolisOptions, PropolisRecord
from .._core.spec import VmSpec
from .._core.state import VmState
from .._guest.identity import complete_macs, new_id
from .._guest.material import make_material
from .._host.ports import LOOPBACK, is_free
from .._host.store import Store
from .._image.inspect import Image, check_disk_size
from .._image.provide import keeping, provide_image
from . import links, volumes
from .hosting import options_of, record_of
from .raw_image import as_raw
from .rules import MAX_SEED

PORTS = range(12400, 13400)  # of servers in the global zone; 12400 is the usual one
VNC_PORTS = range(5900, 6900)
ZONE_PORT = 12400

_DIGEST = 16  # digits


def refuse_unknown_volume(spec: VmSpec, found: VmHandle | None, store: Store) -> None:
    """Raise ``BadRecord`` if a new machine's dataset is there already: its record is lost, its data may matter."""
    dataset = _dataset(spec)
    # Asked in this order, a machine that another task makes meanwhile is not taken for a lost one.
    if found is None and volumes.exists(dataset) and store.load(spec.name) is None:
        raise BadRecord(
            f"There is no record of a VM '{spec.name}' in {store.data_dir}, but its dataset {dataset} is there.",
            "Rename the dataset to keep it ('zfs rename'), restore the record, or choose another name.",
            dataset=dataset,
        )


def create(spec: VmSpec, found: VmHandle | None, store: Store) -> VmHandle:
    """Make all of a machine; ``found`` is what an unfinished run has left. The record comes first."""
    image = provide_image(spec, store.data_dir)
    check_disk_size(image, spec.disk_size)
    spec = replace(spec, image_format=spec.image_format or image.format)
    vm = found.evolve(spec=spec) if found else _new_handle(spec, store)
    with keeping(image, store.data_dir):
        vm = reserve(vm.evolve(base_image=image.path, disk_format="raw"), store)
    vm = make_material(vm)
    _check_seed(vm)
    vm = _make_disk(vm, image, store).evolve(base_image=None)  # the volume has it now
    vm = ensure_links(vm, store)
    return store.save(vm.evolve(state=VmState.PREPARED))


def update(spec: VmSpec, found: VmHandle, store: Store, running: bool) -> VmHandle:
    """Record a changed spec; what the running machine holds is brought up to it at the next start."""
    vm = reserve(found.evolve(spec=spec), store)
    if running:
        return vm
    return ensure_links(grow_disk(vm, store), store)


def grow_disk(vm: VmHandle, store: Store) -> VmHandle:
    """Make the volume as large as the spec says. Its machine must not run."""
    wanted, disk = vm.spec.disk_size, record_of(vm).disk
    if disk is None or wanted is None or wanted == vm.disk_bytes:
        return vm
    volumes.grow(disk, wanted)
    return store.save(vm.evolve(disk_bytes=wanted))


def ensure_links(vm: VmHandle, store: Store) -> VmHandle:
    """Have a VNIC for each network card, and none for cards that are gone. The record names them beforehand."""
    record = record_of(vm)
    cards = vm.spec.networks or ()
    over = {card.name: card.link or record.links.get(card.name) for card in cards}
    chosen = {name: link or links.default_link() for name, link in over.items()}
    gone = [link for name, link in record.vnics.items() if name not in chosen]
    taken = {name: link for name, link in record.vnics.items() if name in chosen}
    for index, card in enumerate(cards):
        if card.name not in taken:
            numbers = (index, *range(len(cards), 2 * len(cards) + 1))
            names = (links.vnic_name(vm.name, vm.uuid, number) for number in numbers)
            taken[card.name] = next(name for name in names if name not in taken.values())
    if (taken, chosen) != (dict(record.vnics), dict(record.links)):
        vm = store.save(vm.evolve(propolis=replace(record, vnics=taken, links=chosen)))
    for link in gone:
        links.remove_vnic(link)
    for card in cards:
        mac = vm.mac_of(card) or ""
        links.ensure_vnic(taken[card.name], chosen[card.name], mac, card.vlan, card.mtu)
    return vm


def reserve(vm: VmHandle, store: Store) -> VmHandle:
    """Write the record with what no other machine of this host may have: MAC addresses, port, address."""
    with store.reservations() as all_records:
        others = [other for other in all_records if other.name != vm.name]
        vm = complete_macs(vm, others) if vm.spec.networks else vm
        record = record_of(vm)
        options = options_of(vm)
        if options.hosting == "zone":
            record = _in_zone(record, options, others)
        elif record.port is None:
            record = replace(record, port=_free(PORTS, _taken(others, "port"), "propolis-server"))
        # Kept when the screen is switched off: a server that runs goes on listening there.
        if vm.spec.vnc and record.vnc_port is None:
            used = _taken(others, "vnc_port")
            record = replace(record, vnc_port=_free(VNC_PORTS, used, "VNC"))
        return store.save(vm.evolve(propolis=record))


def choose_ports_again(vm: VmHandle, store: Store) -> VmHandle:
    """Take other ports if somebody listens on the machine's, which nobody but its record knows."""
    record = record_of(vm)
    if record.address != LOOPBACK:
        return vm
    port, vnc_port = (_if_free(number) for number in (record.port, record.vnc_port))
    if (port, vnc_port) == (record.port, record.vnc_port):
        return vm
    return reserve(vm.evolve(propolis=replace(record, port=port, vnc_port=vnc_port)), store)


def _if_free(port: int | None) -> int | None:
    return port if port is not None and is_free(port) else None


def _in_zone(
    record: PropolisRecord, options: PropolisOptions, others: list[VmHandle]
) -> PropolisRecord:
    if record.address != LOOPBACK:
        return record
    network = ipaddress.IPv4Network(options.control_network or "")
    used = {other.propolis.address for other in others if other.propolis}
    hosts = network.hosts()
    next(hosts)  # the global zone's own
    for address in hosts:
        if str(address) not in used:
            return replace(record, address=str(address), port=ZONE_PORT)
    raise InvalidSpec(
        f"propolis.control_network: all addresses of {network} are taken.",
        "Remove VMs that are no longer needed, or give new ones another network.",
        option="propolis.control_network",
    )


def _taken(others: list[VmHandle], name: str) -> set[int]:
    return {getattr(other.propolis, name) for other in others if other.propolis}


def _free(ports: range, taken: set[int], what: str) -> int:
    for port in ports:
        if port not in taken and is_free(port):
            return port
    raise PortUnavailable(
        f"All ports from {ports.start} to {ports.stop - 1} are taken, so {what} has none.",
        "End programs that listen there, or remove VMs that are no longer needed.",
    )


def _make_disk(vm: VmHandle, image: Image, store: Store) -> VmHandle:
    pool = options_of(vm).pool or PROPOLIS_DEFAULTS.pool or ""
    record = record_of(vm)
    disk = f"{record.dataset}/disk0"
    key = image_key(image)
    # Named as the library names what it is making, so that what a killed run leaves is cleared away with that.
    mark = os.path.join(store.data_dir, "images", f".{key[-_DIGEST:]}")
    raw = partial(as_raw, image, f"{mark}.part.raw")
    origin = volumes.ensure_image(pool, key, raw, image.virtual_size, f"{mark}.lock")
    if record.origin not in (None, origin):
        # Of an unfinished run, with an image that has changed since.
        volumes.destroy(record.dataset or "")
    vm = store.save(vm.evolve(propolis=replace(record, origin=origin, disk=disk)))
    volumes.clone_disk(origin, disk)
    if vm.spec.disk_size is not None:
        volumes.grow(disk, vm.spec.disk_size)
    return store.save(vm.evolve(disk_bytes=vm.spec.disk_size or image.virtual_size))


def _check_seed(vm: VmHandle) -> None:
    """Raise ``InvalidSpec`` if the machine could never start, because its seed does not fit into a request."""
    seed = vm.seed_iso_path
    if seed is None or options_of(vm).hosting != "zone" or os.path.getsize(seed) <= MAX_SEED:
        return
    raise InvalidSpec(
        f"cloud_init.user_data: the seed has {os.path.getsize(seed)} bytes; a server in a zone takes {MAX_SEED}.",
        "Let the guest fetch what is long, or run the server in the global zone (propolis.hosting).",
        option="cloud_init.user_data",
    )


def image_key(image: Image) -> str:
    """Return the name of the image's volume: of the file as it is now, so that another file gets another volume."""
    try:
        found = os.stat(image.path)
    except OSError as exc:
        raise ImageNotFound(f"image: {image.path}: {exc.strerror}.", option="image") from exc
    facts = f"{os.path.realpath(image.path)}:{found.st_size}:{found.st_mtime_ns}"
    stem = os.path.basename(image.path).partition(".")[0]
    safe = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem)
    return f"{safe[:40]}-{hashlib.sha256(facts.encode(errors='surrogateescape')).hexdigest()[:_DIGEST]}"


def _new_handle(spec: VmSpec, store: Store) -> VmHandle:
    return VmHandle(
        id=new_id("propolis"),
        name=spec.name,
        backend="propolis",
        work_dir=store.work_dir(spec.name),
        spec=spec,
        propolis=PropolisRecord(dataset=_dataset(spec)),
    )


def _dataset(spec: VmSpec) -> str:
    return f"{(spec.propolis or PROPOLIS_DEFAULTS).pool}/vms/{spec.name}"
