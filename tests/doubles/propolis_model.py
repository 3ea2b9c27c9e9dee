# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a propolis-server accepts as the body of ``PUT /instance``, by hand and for each version of its API.

In three steps, as in the real one: ``parse`` (its JSON types), ``connect`` (its instance specification) and
``judge_devices`` (what it does when it makes the devices). Nothing here is shared with the collection's own checks.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import stat
import uuid


class Unparsable(Exception):
    """400: the JSON does not have the types of the API."""


class Inconsistent(Exception):
    """400: the components do not fit together."""


class InitFailed(Exception):
    """500: a device could not be made. The reason is for the log only."""


class Panic(Exception):
    """The server ends itself."""


def number(bits):
    def check(value, where):
        if isinstance(value, bool) or not isinstance(value, int):
            raise Unparsable(f"{where}: invalid type: {shown(value)}, expected u{bits}")
        if not 0 <= value < 1 << bits:
            raise Unparsable(f"{where}: invalid value: integer `{value}`, expected u{bits}")

    return check


def text(value, where):
    if not isinstance(value, str):
        raise Unparsable(f"{where}: invalid type: {shown(value)}, expected a string")


def flag(value, where):
    if not isinstance(value, bool):
        raise Unparsable(f"{where}: invalid type: {shown(value)}, expected a boolean")


def identifier(value, where):
    text(value, where)
    try:
        uuid.UUID(value)
    except ValueError:
        raise Unparsable(f"{where}: UUID parsing failed: {value!r}") from None


def one_of(*words):
    def check(value, where):
        if value not in words:
            expected = ", ".join(f"`{word}`" for word in words)
            raise Unparsable(f"{where}: unknown variant `{value}`, expected one of {expected}")

    return check


def maybe(inner):
    return lambda value, where: None if value is None else inner(value, where)


def array(inner, length=None):
    def check(value, where):
        if not isinstance(value, list):
            raise Unparsable(f"{where}: invalid type: {shown(value)}, expected an array")
        if length is not None and len(value) != length:
            found = len(value)
            raise Unparsable(
                f"{where}: invalid length {found}, expected an array of length {length}"
            )
        for index, item in enumerate(value):
            inner(item, f"{where}[{index}]")

    return check


def mapping(inner):
    def check(value, where):
        if not isinstance(value, dict):
            raise Unparsable(f"{where}: invalid type: {shown(value)}, expected a map")
        for key, item in value.items():
            inner(item, f"{where}.{key}")

    return check


def record(optional=(), strict=True, **fields):
    """A struct: all fields that are not optional; unknown ones are refused if it is strict."""

    def check(value, where):
        if not isinstance(value, dict):
            raise Unparsable(f"{where}: invalid type: {shown(value)}, expected a struct")
        for name in value:
            if strict and name not in fields:
                expected = ", ".join(f"`{field}`" for field in fields)
                raise Unparsable(f"{where}: unknown field `{name}`, expected one of {expected}")
        for name, inner in fields.items():
            if name in value:
                inner(value[name], f"{where}.{name}")
            elif name not in optional:
                raise Unparsable(f"{where}: missing field `{name}`")

    return check


def tagged(tag, content, variants):
    """An enum whose name lies in one field and whose value lies in another."""

    def check(value, where):
        record(**{tag: one_of(*variants), content: lambda *dummy: None})(value, where)
        variants[value[tag]](value[content], f"{where}.{content}")

    return check


def pci_path(value, where):
    record(strict=False, bus=number(8), device=number(8), function=number(8))(value, where)
    if value["device"] > 31:
        raise Unparsable(f"{where}: PCI device {value['device']} outside range of 0-31")
    if value["function"] > 7:
        raise Unparsable(f"{where}: PCI function {value['function']} outside range of 0-7")


def shown(value):
    kinds = {bool: "boolean", int: "integer", str: "string", list: "sequence", dict: "map"}
    return "null" if value is None else f"{kinds.get(type(value), 'value')} {json.dumps(value)}"


METADATA = record(
    strict=False,
    silo_id=identifier,
    project_id=identifier,
    sled_id=identifier,
    sled_serial=text,
    sled_revision=number(32),
    sled_model=text,
)
PROPERTIES = record(strict=False, id=identifier, name=text, description=text, metadata=METADATA)
CHIPSET = tagged("type", "value", {"i440_fx": record(enable_pcie=flag)})
BOARD = record(
    optional=("cpuid", "guest_hv_interface"),
    cpus=number(8),
    memory_mb=number(64),
    chipset=CHIPSET,
    cpuid=maybe(mapping(lambda *dummy: None)),
    guest_hv_interface=mapping(lambda *dummy: None),
)
SMBIOS = record(manufacturer=text, product_name=text, serial_number=text, version=number(64))
ANYTHING = mapping(lambda *dummy: None)  # of components that are refused later anyway
SPECIAL_BUILDS = {
    **dict.fromkeys(("soft_npu_pci_port", "soft_npu_port", "soft_npu_p9", "p9fs"), "falcon"),
    "dlpi_network_backend": "falcon",
    "migration_failure_injector": "failure-injection",
}


STORAGE_BACKENDS = (
    "file_storage_backend",
    "blob_storage_backend",
    "crucible_storage_backend",
)


def components_of(version):
    nvme = {"backend_id": text, "pci_path": pci_path, "serial_number": array(number(8), 20)}
    if version >= (6, 0, 0):
        nvme["has_write_cache"] = flag
    kinds = {
        "virtio_disk": record(backend_id=text, pci_path=pci_path),
        "nvme_disk": record(**nvme),
        "virtio_nic": record(backend_id=text, interface_id=identifier, pci_path=pci_path),
        "serial_port": record(num=one_of("com1", "com2", "com3", "com4")),
        "pci_pci_bridge": record(downstream_bus=number(8), pci_path=pci_path),
        "qemu_pvpanic": record(enable_isa=flag),
        "boot_settings": record(order=array(record(strict=False, id=text))),
        "file_storage_backend": record(
            optional=("workers",),
            path=text,
            readonly=flag,
            block_size=number(32),
            workers=maybe(number(64)),
        ),
        "blob_storage_backend": record(base64=text, readonly=flag),
        "crucible_storage_backend": record(request_json=text, readonly=flag),
        "virtio_network_backend": record(vnic_name=text),
        **dict.fromkeys(SPECIAL_BUILDS, ANYTHING),
    }
    if version >= (3, 0, 0):
        kinds["virtio_socket"] = record(guest_cid=number(64), pci_path=pci_path)
    return mapping(tagged("type", "component", kinds))


def request_of(version):
    spec = {"board": BOARD, "components": components_of(version)}
    optional = ()
    if version >= (2, 0, 0):
        spec["smbios"], optional = maybe(SMBIOS), ("smbios",)
    spec = record(optional=optional, strict=version < (2, 0, 0), **spec)
    migration = record(
        strict=False, migration_id=identifier, src_addr=text, replace_components=ANYTHING
    )
    methods = {"Spec": record(strict=False, spec=spec), "MigrationTarget": migration}
    return record(strict=False, properties=PROPERTIES, init=tagged("method", "value", methods))


def no_duplicates(pairs):
    """Refuse a key that is there twice. The real server silently takes the last one, which helps nobody to see it."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, dummy in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Unparsable(f"duplicate field `{twice}`")
    return found


def parse_json(raw):
    try:
        return json.loads(raw, object_pairs_hook=no_duplicates)
    except ValueError as exc:
        raise Unparsable(str(exc)) from None


def parse(raw, version):
    """Return the request for an API version given as numbers; raise ``Unparsable``."""
    body = parse_json(raw)
    request_of(version)(body, "")
    return body


def key_of(value):
    """A key that can be read as a UUID is one, however it is spelt."""
    try:
        return str(uuid.UUID(value))
    except ValueError:
        return value


def of_kind(components, *kinds):
    return {key: item["component"] for key, item in components.items() if item["type"] in kinds}


def connect(spec):
    """Do what makes an instance specification of components; raise ``Inconsistent``."""
    components = {}
    for key, item in spec["components"].items():
        if key_of(key) in components:
            raise Inconsistent(f"a component with name {key} already exists")
        components[key_of(key)] = item
    free = {
        "storage": set(of_kind(components, *STORAGE_BACKENDS)),
        "network": set(of_kind(components, "virtio_network_backend")),
    }
    paths, once = set(), set()
    for key, item in components.items():
        kind, options = item["type"], item["component"]
        if kind in SPECIAL_BUILDS:
            feature = SPECIAL_BUILDS[kind]
            raise Inconsistent(f"support for component {key} compiled out via {feature}")
        if "backend_id" in options:
            take_backend(key, options, free["network" if kind == "virtio_nic" else "storage"], kind)
        take_pci_path(options.get("pci_path"), paths)
        take_once(kind, options, once)
    check_boot_order(components)
    for backend in sorted(free["storage"] | free["network"]):
        raise Inconsistent(f"backend {backend} not used by any device")


def take_backend(key, options, free, kind):
    backend = key_of(options["backend_id"])
    if backend not in free:
        what = "network" if kind == "virtio_nic" else "storage"
        raise Inconsistent(f"{what} backend {backend} not found for device {key}")
    free.remove(backend)


def take_pci_path(path, taken):
    if path is None:
        return
    if (path["bus"], path["device"], path["function"]) in taken:
        where = ", ".join(f"{name}: {path[name]}" for name in ("bus", "device", "function"))
        raise Inconsistent(f"a PCI device is already attached at PciPath {{ {where} }}")
    taken.add((path["bus"], path["device"], path["function"]))


def take_once(kind, options, taken):
    what = {"qemu_pvpanic": "pvpanic device", "virtio_socket": "vsock device"}.get(kind)
    if kind == "serial_port":
        what = f"serial port {options['num'].capitalize()}"
    if what is not None and what in taken:
        raise Inconsistent(f"{what} already specified")
    taken.add(what)


def check_boot_order(components):
    settings = of_kind(components, "boot_settings")
    if len(settings) > 1:  # the real server takes the last one
        raise Inconsistent("boot settings were already specified")
    disks = {key_of(key) for key in of_kind(components, "nvme_disk", "virtio_disk")}
    for options in settings.values():
        for entry in options["order"]:
            if key_of(entry["id"]) not in disks:
                raise Inconsistent(f"boot option {entry['id']} is not an attached device")


CHIPSET_PATHS = ((0, 0, 0), (0, 1, 0), (0, 1, 3))


def judge_devices(spec, bootrom, mac_of_vnic):
    """Do what makes the devices; raise ``Panic`` or ``InitFailed``. ``mac_of_vnic`` asks the host, ``None`` if not there."""
    components = spec["components"]
    if spec["board"]["cpus"] < 1 or spec["board"]["memory_mb"] < 1:
        raise InitFailed("failed to create kernel vmm builder: Invalid argument (os error 22)")
    judge_bootrom(bootrom)
    judge_pci(components)
    if "com1" not in [port["num"] for port in of_kind(components, "serial_port").values()]:
        raise Panic("called `Option::unwrap()` on a `None` value")
    for key, backend in of_kind(components, "file_storage_backend").items():
        judge_file(key, backend)
    for backend in of_kind(components, "blob_storage_backend").values():
        judge_blob(backend)
    for key, device in of_kind(components, "virtio_nic").items():
        link = components[device["backend_id"]]["component"]["vnic_name"]
        if mac_of_vnic(link) is None:
            raise InitFailed(f'failed to create viona device "{key}": failed dladm')
    disks = of_kind(components, "nvme_disk", "virtio_disk")
    for settings in of_kind(components, "boot_settings").values():
        for entry in settings["order"]:
            bus = disks[entry["id"]]["pci_path"]["bus"]
            if bus != 0:
                raise InitFailed(
                    f"boot entry {entry['id']} refers to a device on non-zero PCI bus {bus}"
                )


def judge_bootrom(path):
    try:
        size = os.stat(path).st_size
    except OSError as exc:
        raise Panic(
            f"Cannot open bootrom: failed to open bootrom {path!r}: {exc.strerror}"
        ) from None
    if size % 4096:
        raise Panic(f"Cannot open bootrom: bootrom {path!r} length {size:x} not aligned to 1000")


def judge_pci(components):
    buses = {0}
    buses |= {item["downstream_bus"] for item in of_kind(components, "pci_pci_bridge").values()}
    for key, item in components.items():
        path = item["component"].get("pci_path")
        if path is None:
            continue
        if (path["bus"], path["device"], path["function"]) in CHIPSET_PATHS:
            raise Panic("attempted to attach a device to an occupied slot of the chipset")
        if path["bus"] not in buses:
            raise InitFailed(f"no bus {path['bus']} for the device {key}")


def judge_file(key, backend):
    path = backend["path"]
    try:
        found = os.stat(path)
    except OSError as exc:
        raise InitFailed(
            f'failed to read file backend metadata for "{path}": {exc.strerror}'
        ) from None
    size = backend["block_size"]
    if size not in (512, 4096):
        raise InitFailed(f"failed to create file backend {key}: unsupported block size {size}")
    if not backend["readonly"] and not found.st_mode & 0o222:
        raise InitFailed(f'failed to create file backend for file "{path}": file is read-only')
    if stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_size < size):
        raise InitFailed(f'failed to create file backend for file "{path}": it holds no blocks')
    try:
        os.close(os.open(path, os.O_RDONLY if backend["readonly"] else os.O_RDWR))
    except OSError as exc:
        raise InitFailed(f'failed to create file backend for "{path}": {exc.strerror}') from None


def judge_blob(backend):
    try:
        data = base64.b64decode(backend["base64"], validate=True)
    except (binascii.Error, ValueError):
        raise InitFailed("failed to decode in-memory storage backend contents") from None
    if not data or len(data) % 512:
        raise InitFailed(
            f"failed to create in-memory storage backend: size {len(data)} must be a multiple of 512"
        )


def parse_version(text_, latest):
    """Return the version that a header asks for; raise ``Unparsable`` with what the server says of it."""
    if text_ is None:
        raise Unparsable('missing expected header "api-version"')
    if not re.fullmatch(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}", text_):
        raise Unparsable(f'bad value for header "api-version": unexpected text in {text_!r}')
    version = tuple(int(part) for part in text_.split("."))
    if not (1, 0, 0) <= version <= latest:
        raise Unparsable(f"server does not support this API version: {text_}")
    return version
