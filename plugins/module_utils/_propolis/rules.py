# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a request to make an instance must fulfil beyond the schema of the API: one function for each rule. Pure.

A real server answers some breaches with a sentence, some with "Internal Server Error" and a line in its log, and
some by ending itself; and the schema accepts all of them. Source: the specification reader and the initializer of
propolis-server.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.errors import InvalidSpec
from .._core.propolis import API_VERSIONS

MAX_BODY = 1024 * 1024  # bytes
MAX_SEED = (
    (MAX_BODY - 16384) * 3 // 4
)  # bytes of a seed inside a request, which base64 makes longer
MAX_CPUS = 255  # the field has 8 bits
WRITE_CACHE_SINCE = (6, 0, 0)

_SMBIOS_SINCE = (2, 0, 0)
_DISKS = ("nvme_disk", "virtio_disk")
_STORAGE = ("file_storage_backend", "blob_storage_backend")
_NICS = ("virtio_nic",)
_LINKS = ("virtio_network_backend",)
_BLOCK_SIZES = (512, 4096)
_SECTOR = 512  # bytes
_SERIAL_LENGTH = 20  # bytes
_DEVICES, _FUNCTIONS = 32, 8  # of a PCI bus, of a PCI device
# The chipset's own. They are missing from the server's search for duplicates.
_CHIPSET = ((0, 0, 0), (0, 1, 0), (0, 1, 3))
_LINK_NAME = re.compile(r"(?=.{2,31}$)[A-Za-z](?:[A-Za-z0-9_.]*[A-Za-z_.])?(?:0|[1-9][0-9]*)")

# What each kind of component consists of: all of it, and nothing else.
_FIELDS: Mapping[str, frozenset[str]] = {
    "nvme_disk": frozenset({"backend_id", "pci_path", "serial_number"}),
    "virtio_disk": frozenset({"backend_id", "pci_path"}),
    "virtio_nic": frozenset({"backend_id", "interface_id", "pci_path"}),
    "serial_port": frozenset({"num"}),
    "qemu_pvpanic": frozenset({"enable_isa"}),
    "boot_settings": frozenset({"order"}),
    "file_storage_backend": frozenset({"path", "readonly", "block_size"}),
    "blob_storage_backend": frozenset({"base64", "readonly"}),
    "virtio_network_backend": frozenset({"vnic_name"}),
}


@dataclass(frozen=True)
class _Part:
    """A component under its key."""

    key: str
    kind: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class _Request:
    """The request taken apart, as far as all rules rely on it."""

    body: Mapping[str, Any]
    version: tuple[int, ...]
    spec: Mapping[str, Any]
    board: Mapping[str, Any]
    parts: tuple[_Part, ...]

    def of(self, *kinds: str) -> list[_Part]:
        """Return the components of these kinds."""
        return [part for part in self.parts if part.kind in kinds]


def version_of(text: str) -> tuple[int, ...]:
    """Return an API version as numbers that can be compared; raise ``InvalidSpec`` if it is not known."""
    if text not in API_VERSIONS:
        raise InvalidSpec(
            f"propolis.api_version: {text!r} is not one of {', '.join(API_VERSIONS)}.",
            option="propolis.api_version",
        )
    return tuple(int(number) for number in text.split("."))


def encode(body: Mapping[str, Any]) -> bytes:
    """Return the body as it goes over the wire."""
    return json.dumps(body, separators=(",", ":")).encode()


def check_ensure(body: Mapping[str, Any], api_version: str) -> None:
    """Raise ``InvalidSpec`` naming the first rule that the request breaks; ``details["problems"]`` has all."""
    request = _taken_apart(body, version_of(api_version))
    problems = list(_shapes(request))
    if not problems:  # the other rules rely on the shapes
        problems = [problem for rule in _RULES for problem in rule(request)]
    if problems:
        raise _invalid(problems)


def _taken_apart(body: Mapping[str, Any], version: tuple[int, ...]) -> _Request:
    try:
        spec = body["init"]["value"]["spec"]
        parts = tuple(
            _Part(str(key), str(part["type"]), dict(part["component"]))
            for key, part in spec["components"].items()
        )
        return _Request(body, version, spec, spec["board"], parts)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise _invalid([f"it lacks what the API demands ({exc!r})"]) from exc


def _shapes(request: _Request) -> Iterator[str]:
    for part in request.parts:
        if part.kind not in _FIELDS:
            yield f"'{part.key}' is of the kind {part.kind!r}, which is not used here"
            continue
        expected = _FIELDS[part.kind]
        if part.kind == "nvme_disk" and request.version >= WRITE_CACHE_SINCE:
            expected = expected | {"has_write_cache"}
        found = set(part.options)
        for name in sorted(expected - found):
            yield f"'{part.key}' lacks {name}"
        for name in sorted(found - expected):
            yield f"'{part.key}' must not have {name} at this version of the API"
        path = part.options.get("pci_path", {"bus": 0, "device": 0, "function": 0})
        if not isinstance(path, Mapping) or sorted(path) != ["bus", "device", "function"]:
            yield f"the PCI address of '{part.key}' does not consist of bus, device and function"


def _identity(request: _Request) -> Iterator[str]:
    properties = request.body.get("properties")
    if not isinstance(properties, Mapping) or not _is_uuid(properties.get("id")):
        yield "properties.id is not a UUID"
        return
    for name in ("name", "description"):
        if not isinstance(properties.get(name), str):
            yield f"properties.{name} is not a text"
    if not isinstance(properties.get("metadata"), Mapping):
        yield "properties.metadata is missing"


def _size_of_board(request: _Request) -> Iterator[str]:
    cpus, memory = request.board.get("cpus"), request.board.get("memory_mb")
    if not _is_int(cpus, 1, MAX_CPUS):
        yield f"vcpus: there can be 1 to {MAX_CPUS}, not {cpus}"
    if not _is_int(memory, 1, 1 << 44):
        yield f"memory: {memory} MiB is no size of a machine"


def _extras_of_version(request: _Request) -> Iterator[str]:
    allowed = {"board", "components"}
    if request.version >= _SMBIOS_SINCE:
        allowed.add("smbios")
    for name in sorted(set(request.spec) - allowed):
        yield f"the specification must not have {name} at this version of the API"


def _first_serial_port(request: _Request) -> Iterator[str]:
    if "com1" not in (part.options["num"] for part in request.of("serial_port")):
        yield "there is no serial port com1, without which the server ends itself"


def _serial_ports(request: _Request) -> Iterator[str]:
    numbers = Counter(part.options["num"] for part in request.of("serial_port"))
    for number, count in numbers.items():
        if number not in ("com1", "com2", "com3", "com4"):
            yield f"there is no serial port {number}"
        elif count > 1:
            yield f"the serial port {number} is there {count} times"


def _only_one(request: _Request) -> Iterator[str]:
    for kind in ("boot_settings", "qemu_pvpanic"):
        if len(request.of(kind)) > 1:
            yield f"there is more than one component of the kind {kind}"


def _unique_keys(request: _Request) -> Iterator[str]:
    # A key that can be read as a UUID is one to the server, however it is spelt.
    for key, count in Counter(_meaning(part.key) for part in request.parts).items():
        if count > 1:
            yield f"the key '{key}' is there {count} times"
        elif not key:
            yield "a component has an empty key"


def _own_key(request: _Request) -> Iterator[str]:
    for part in request.of(*_DISKS, *_NICS):
        if _meaning(part.key) == _meaning(part.options["backend_id"]):
            yield f"the device '{part.key}' has the same key as its backend"


def _backends_present(request: _Request) -> Iterator[str]:
    for devices, backends in ((_DISKS, _STORAGE), (_NICS, _LINKS)):
        known = {_meaning(part.key) for part in request.of(*backends)}
        for part in request.of(*devices):
            if _meaning(part.options["backend_id"]) not in known:
                yield f"the device '{part.key}' names a backend that is not there: '{part.options['backend_id']}'"


def _backends_used_once(request: _Request) -> Iterator[str]:
    users = Counter(_meaning(part.options["backend_id"]) for part in request.of(*_DISKS, *_NICS))
    for part in request.of(*_STORAGE, *_LINKS):
        count = users[_meaning(part.key)]
        if count != 1:
            yield f"the backend '{part.key}' is used by {count} devices instead of one"


def _boot_order(request: _Request) -> Iterator[str]:
    disks = {_meaning(part.key): part for part in request.of(*_DISKS)}
    for part in request.of("boot_settings"):
        for entry in part.options["order"]:
            disk = disks.get(_meaning(entry.get("id", "")))
            if disk is None:
                yield f"the boot order names '{entry.get('id')}', which is no disk"
            elif disk.options["pci_path"]["bus"] != 0:
                yield f"the boot order names '{disk.key}', which is not on PCI bus 0"


def _pci_range(request: _Request) -> Iterator[str]:
    for part, (bus, device, function) in _pci_paths(request):
        if not _is_int(device, 0, _DEVICES - 1) or not _is_int(function, 0, _FUNCTIONS - 1):
            yield f"'{part.key}' lies at {bus}.{device}.{function}, which is no PCI address"
        elif bus != 0:
            yield f"'{part.key}' lies on PCI bus {bus}, to which no bridge leads"


def _pci_reserved(request: _Request) -> Iterator[str]:
    for part, path in _pci_paths(request):
        if path in _CHIPSET:
            yield f"'{part.key}' lies at {_dotted(path)}, where the chipset is: the server would end itself"


def _pci_unique(request: _Request) -> Iterator[str]:
    for path, count in Counter(path for _part, path in _pci_paths(request)).items():
        if count > 1:
            yield f"{count} devices lie at the PCI address {_dotted(path)}"


def _disk_serial(request: _Request) -> Iterator[str]:
    for part in request.of("nvme_disk"):
        serial = part.options["serial_number"]
        if len(serial) != _SERIAL_LENGTH or not all(_is_int(byte, 0, 255) for byte in serial):
            yield f"the serial number of '{part.key}' does not have {_SERIAL_LENGTH} bytes"


def _write_cache(request: _Request) -> Iterator[str]:
    for part in request.of("nvme_disk"):
        if not isinstance(part.options.get("has_write_cache", True), bool):
            yield f"has_write_cache of '{part.key}' is neither true nor false"


def _files(request: _Request) -> Iterator[str]:
    for part in request.of("file_storage_backend"):
        path = part.options["path"]
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            yield f"the file of '{part.key}' is no absolute path: {path!r}"
        if part.options["block_size"] not in _BLOCK_SIZES:
            yield f"the block size of '{part.key}' is {part.options['block_size']}, not 512 or 4096"


def _blobs(request: _Request) -> Iterator[str]:
    for part in request.of("blob_storage_backend"):
        try:
            length = len(base64.b64decode(part.options["base64"], validate=True))
        except (binascii.Error, TypeError, ValueError) as exc:
            yield f"the content of '{part.key}' is not base64: {exc}"
            continue
        if length == 0 or length % _SECTOR:
            yield f"the content of '{part.key}' has {length} bytes, which are no whole sectors of {_SECTOR}"


def _vnics(request: _Request) -> Iterator[str]:
    for part in request.of(*_LINKS):
        name = part.options["vnic_name"]
        if not isinstance(name, str) or not _LINK_NAME.fullmatch(name):
            yield f"the VNIC of '{part.key}' cannot be called {name!r}"


def _interface_ids(request: _Request) -> Iterator[str]:
    for part in request.of(*_NICS):
        if not _is_uuid(part.options["interface_id"]):
            yield f"interface_id of '{part.key}' is not a UUID"


def _length(request: _Request) -> Iterator[str]:
    length = len(encode(request.body))
    if length > MAX_BODY:
        yield (
            f"it has {length} bytes, and the server takes {MAX_BODY}; the seed is the part that grows with "
            "cloud_init.user_data, which may have some 700 kB if the server runs in a zone"
        )


_RULES: tuple[Callable[[_Request], Iterator[str]], ...] = (
    _identity,
    _size_of_board,
    _extras_of_version,
    _first_serial_port,
    _serial_ports,
    _only_one,
    _unique_keys,
    _own_key,
    _backends_present,
    _backends_used_once,
    _boot_order,
    _pci_range,
    _pci_reserved,
    _pci_unique,
    _disk_serial,
    _write_cache,
    _files,
    _blobs,
    _vnics,
    _interface_ids,
    _length,
)


def _pci_paths(request: _Request) -> Iterator[tuple[_Part, tuple[Any, Any, Any]]]:
    for part in request.of(*_DISKS, *_NICS):
        path = part.options["pci_path"]
        yield part, (path["bus"], path["device"], path["function"])


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(number) for number in path)


def _meaning(key: object) -> str:
    text = str(key)
    return str(uuid.UUID(text)) if _is_uuid(text) else text


def _is_uuid(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(uuid.UUID(text))
    except ValueError:
        return False


def _is_int(value: object, first: int, last: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and first <= value <= last


def _invalid(problems: list[str]) -> InvalidSpec:
    return InvalidSpec(
        f"The machine cannot be described to propolis-server: {problems[0]}.",
        "If the message names an option, correct it; else please report this.",
        problems=problems,
    )
