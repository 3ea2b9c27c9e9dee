# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wish: what a task asks a virtual machine to be. Nothing in it knows a hypervisor.

``None`` means that the user left the option open. Defaults are filled in only when a machine is made
(:meth:`VmSpec.completed`), so that a later task without the option never reverts it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from .disks import Disk, disks_from_params, merged
from .errors import InvalidMemory, InvalidName, InvalidSpec, InvalidVcpus
from .firmware import file_path, kernel_cmdline, smbios_from_params
from .folders import SharedFolder, folders_from_params
from .networks import AddressFilter, Network, address_filter_from_params, networks_from_params
from .propolis import PropolisOptions, propolis_from_params
from .qemu_args import qemu_args_from_params
from .sizes import GIB, MAX_DISK, MIB, parse_size, show_size

DEFAULT_USER = "vm"
MAX_VCPUS = 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_CPU = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.+=,-]*)?")
_MACHINE = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_HOSTNAME_RULE = (
    "A host name has parts of 1 to 63 letters, digits and dashes with dots between them, 253 characters in all; "
    "no part begins or ends with a dash."
)
_USER_RULE = "A user name has 1 to 32 small letters, digits, dashes and underscores, not beginning with a digit or dash."
_CPU_RULE = (
    "Give a CPU model, with flags if need be, such as max,-avx2: letters, digits and _ . + = , - are possible; "
    "or an empty string for the default."
)
_MACHINE_RULE = (
    "Give a machine type such as q35 or pc-q35-8.2: small letters, digits and _ . - are possible."
)
_PUBLIC_KEY = re.compile(
    r"(?:ssh|ecdsa|sk)-[!-~]+[ \t]+AAAA[A-Za-z0-9+/]*={0,3}(?:[ \t][^\x00-\x08\x0a-\x1f\x7f]*)?"
)


@dataclass(frozen=True)
class CloudInit:
    """What cloud-init in the guest is told at its first boot. The three documents may hold secrets."""

    hostname: str | None = None
    user: str | None = None
    ssh_authorized_keys: tuple[str, ...] | None = None
    user_data: str | Mapping[str, Any] | None = None
    meta_data: str | Mapping[str, Any] | None = None
    network_config: str | Mapping[str, Any] | None = None
    ssh_host_key: bool | None = (
        None  # whether the guest's SSH host key is made here, so that it is known beforehand
    )
    rerun: bool | None = None  # allows the others to change; it is not recorded


@dataclass(frozen=True)
class PortRange:
    """Host ports from ``first`` to ``last``, both included."""

    first: int = 10022
    last: int = 10122

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True)
class VmSpec:
    """What the user asked for. Memory counts in MiB, disk sizes in bytes."""

    name: str
    backend: str | None = None
    image: str | None = None
    image_format: str | None = None
    vcpus: int | None = None
    memory_mib: int | None = None
    disk_size: int | None = None
    networks: tuple[Network, ...] | None = None
    addresses: AddressFilter | None = None
    ssh_port_range: PortRange | None = None
    cloud_init: CloudInit | None = None
    accelerator: str | None = None
    cpu: str | None = None
    machine: str | None = None
    vnc: bool | None = None
    labels: Mapping[str, str] | None = None
    description: str | None = None
    image_checksum: str | None = None
    propolis: PropolisOptions | None = None
    disks: tuple[Disk, ...] | None = None  # besides the one that is made from the image
    cdrom: str | None = None  # "" is an empty drive
    vcpus_max: int | None = None  # up to here a running machine gets more
    memory_max_mib: int | None = None
    firmware: str | None = None
    secure_boot: bool | None = None
    tpm: bool | None = None
    kernel: str | None = None  # "" boots from the disk
    initrd: str | None = None
    kernel_cmdline: str | None = None
    smbios: Mapping[str, str] | None = None
    shared_folders: tuple[SharedFolder, ...] | None = None
    qemu_args: tuple[str, ...] | None = None
    autostart: bool | None = None
    clone_from: str | None = None
    clone_mode: str | None = None  # full or linked; of a machine that was cloned

    @property
    def has_user_network(self) -> bool:
        """Tell whether the guest's SSH is reached through a forwarded host port."""
        return any(network.type == "user" for network in self.networks or ())

    @property
    def login_user(self) -> str | None:
        """The account that SSH logs in to, if it is known: user-data as text may make any."""
        return self.cloud_init.user if self.cloud_init else None

    def completed(self) -> VmSpec:
        """Return this wish with the defaults of a new machine where it left options open."""
        spec = self.over(DEFAULTS)
        cloud_init = replace(spec.cloud_init or CloudInit(), rerun=None)
        if cloud_init.user is None and not isinstance(cloud_init.user_data, str):
            cloud_init = replace(cloud_init, user=DEFAULT_USER)
        disks = tuple(disk.completed() for disk in spec.disks or ())
        return replace(spec, cloud_init=cloud_init, disks=disks)

    def over(self, base: VmSpec) -> VmSpec:
        """Return this wish with each option that was left open taken from ``base``."""
        spec = _over(self, base)
        if self.cloud_init is not None and base.cloud_init is not None:
            spec = replace(spec, cloud_init=_over(self.cloud_init, base.cloud_init))
        if self.addresses is not None and base.addresses is not None:
            spec = replace(spec, addresses=_over(self.addresses, base.addresses))
        if self.propolis is not None and base.propolis is not None:
            spec = replace(spec, propolis=_over(self.propolis, base.propolis))
        if self.disks is not None and base.disks is not None:
            spec = replace(spec, disks=merged(self.disks, base.disks))
        return _with_left_open(spec)


# A task that gives one of these this value takes it back: it is left open again, as if it had never been given.
LEFT_OPEN: Mapping[str, Any] = {"cpu": "", "vcpus_max": 0, "memory_max_mib": 0}


def _with_left_open(spec: VmSpec) -> VmSpec:
    given = {name: getattr(spec, name) for name in LEFT_OPEN}
    options: dict[str, Any] = {
        name: None if value == LEFT_OPEN[name] else value for name, value in given.items()
    }
    if spec.addresses is not None and spec.addresses.version == 0:
        options["addresses"] = replace(spec.addresses, version=None)
    return replace(spec, **options)


_Options = TypeVar("_Options", AddressFilter, CloudInit, PropolisOptions, VmSpec)


def _over(wish: _Options, base: _Options) -> _Options:
    values = {field.name: getattr(wish, field.name) for field in fields(wish)}
    return replace(base, **{name: value for name, value in values.items() if value is not None})


DEFAULTS = VmSpec(
    name="",
    vcpus=1,
    memory_mib=1024,
    networks=(Network(),),
    addresses=AddressFilter(ranges=(), lease_files=()),
    ssh_port_range=PortRange(),
    cloud_init=CloudInit(),
    accelerator="auto",
    vnc=False,
    labels={},
    description="",
    firmware="bios",
    secure_boot=False,
    tpm=False,
    kernel="",
    initrd="",
    kernel_cmdline="",
    smbios={},
    shared_folders=(),
    qemu_args=(),
    autostart=False,
)


def check_name(name: str, option: str = "name") -> str:
    """Return ``name`` if a virtual machine can be called so; raise ``InvalidName`` if not."""
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 80 else f"{name[:77]}..."
        raise InvalidName(f"{option}: {shown!r} cannot be the name of a VM.", option=option)
    return name


def clone_source(params: Mapping[str, Any]) -> str | None:
    """Return the name of the machine to clone; raise ``InvalidSpec`` if it cannot be one."""
    source: str | None = params.get("clone_from")
    if source is None:
        return None
    if not _NAME.fullmatch(source) or source == params["name"]:
        raise InvalidSpec(
            f"clone_from: {source!r} cannot be the machine to clone.",
            f"Give the name of another machine. {InvalidName.default_help}",
            option="clone_from",
        )
    if params.get("image") is not None:
        raise InvalidSpec(
            "clone_from: a clone has the image of the machine that it is made from.",
            "Leave image out, or clone_from.",
            option="clone_from",
        )
    return source


def _clone_mode(params: Mapping[str, Any]) -> str | None:
    mode: str | None = params.get("clone_mode")
    if mode is not None and params.get("clone_from") is None:
        raise InvalidSpec(
            "clone_mode: it tells how clone_from makes a machine, which is not given.",
            "Give clone_from too, or leave clone_mode out.",
            option="clone_mode",
        )
    return mode


def spec_from_params(params: Mapping[str, Any]) -> VmSpec:
    """Build the wish from a task's options; raise ``InvalidSpec`` naming the first option that makes no sense."""
    return VmSpec(
        name=check_name(params["name"]),
        backend=params.get("backend"),
        image=params.get("image"),
        image_format=params.get("image_format"),
        vcpus=_vcpus(params.get("vcpus")),
        memory_mib=_memory(params.get("memory")),
        disk_size=_disk_size(params.get("disk_size")),
        networks=networks_from_params(params.get("networks")),
        addresses=address_filter_from_params(params),
        ssh_port_range=_port_range(params.get("ssh_port_range")),
        cloud_init=_cloud_init(params.get("cloud_init")),
        accelerator=params.get("accelerator"),
        cpu=_matching("cpu", _CPU, params.get("cpu"), _CPU_RULE),
        machine=_matching("machine", _MACHINE, params.get("machine"), _MACHINE_RULE),
        vnc=params.get("vnc"),
        labels=_labels(params.get("labels")),
        description=params.get("description"),
        image_checksum=params.get("image_checksum"),
        propolis=propolis_from_params(params.get("propolis")),
        disks=disks_from_params(params.get("disks")),
        cdrom=_cdrom(params.get("cdrom")),
        vcpus_max=_vcpus(params.get("vcpus_max"), "vcpus_max", least=0),
        memory_max_mib=_memory(params.get("memory_max"), "memory_max", least=0),
        firmware=params.get("firmware"),
        secure_boot=params.get("secure_boot"),
        tpm=params.get("tpm"),
        kernel=file_path("kernel", params.get("kernel")),
        initrd=file_path("initrd", params.get("initrd")),
        kernel_cmdline=kernel_cmdline(params.get("kernel_cmdline")),
        smbios=smbios_from_params(params.get("smbios")),
        shared_folders=folders_from_params(params.get("shared_folders")),
        qemu_args=qemu_args_from_params(params.get("qemu_args")),
        autostart=params.get("autostart"),
        clone_from=clone_source(params),
        clone_mode=_clone_mode(params),
    )


def _vcpus(value: int | None, option: str = "vcpus", least: int = 1) -> int | None:
    if value is not None and not least <= value <= MAX_VCPUS:
        raise InvalidVcpus(
            f"{option}: {value} is not between {least} and {MAX_VCPUS}.", option=option
        )
    return value


def _cdrom(value: str | None) -> str | None:
    if value and not value.startswith("/"):
        raise InvalidSpec(
            f"cdrom: {value!r} is not an absolute path.",
            "Give the path of an ISO image, or an empty string for an empty drive.",
            option="cdrom",
        )
    return value


def _memory(value: str | int | None, option: str = "memory", least: int = 1) -> int | None:
    if value is None:
        return None
    try:
        size = parse_size(value, bare_unit=MIB)
    except ValueError as exc:
        raise InvalidMemory(f"{option}: {exc}.", option=option) from exc
    if size < least * MIB or size % MIB:
        raise InvalidMemory(
            f"{option}: '{value}' is not a positive whole number of MiB.", option=option
        )
    return size // MIB


def _disk_size(value: str | int | None) -> int | None:
    if value is None:
        return None
    hint = "Give a size with a unit, such as 20GiB; a bare number counts in GiB."
    try:
        size = parse_size(value, bare_unit=GIB)
    except ValueError as exc:
        raise InvalidSpec(f"disk_size: {exc}.", hint, option="disk_size") from exc
    if size <= 0 or size % 512:
        raise InvalidSpec(
            f"disk_size: '{value}' is not a positive multiple of 512 bytes.",
            hint,
            option="disk_size",
        )
    if size > MAX_DISK:
        raise InvalidSpec(
            f"disk_size: '{value}' is more than {show_size(MAX_DISK)}, which is the most that a disk can have.",
            hint,
            option="disk_size",
        )
    return size


def _port_range(value: str | None) -> PortRange | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", value)
    first, last = (int(number) for number in match.groups()) if match else (0, 0)
    if not 1024 <= first <= last <= 65535:
        raise InvalidSpec(
            f"ssh_port_range: '{value}' is not a range of ports.",
            "Give two ports from 1024 to 65535 with a dash between them, such as 10022-10122.",
            option="ssh_port_range",
        )
    return PortRange(first, last)


def _labels(value: Mapping[str, Any] | None) -> Mapping[str, str] | None:
    if value is None:
        return None
    for key, item in value.items():
        if isinstance(item, (dict, list)) or item is None:
            raise InvalidSpec(
                f"labels.{key}: a label is a single value.",
                "Give a string.",
                option=f"labels.{key}",
            )
    return {str(key): str(item) for key, item in sorted(value.items())}


def _matching(option: str, pattern: re.Pattern[str], value: str | None, rule: str) -> str | None:
    if value is not None and not pattern.fullmatch(value):
        raise InvalidSpec(
            f"{option}: {value!r} has characters that QEMU does not take there.",
            rule,
            option=option,
        )
    return value


def _cloud_init(value: Mapping[str, Any] | None) -> CloudInit | None:
    if value is None:
        return None
    hostname, user = value.get("hostname"), value.get("user")
    if hostname is not None and not _HOSTNAME.fullmatch(hostname):
        raise InvalidSpec(
            f"cloud_init.hostname: {hostname!r} is not a host name.",
            _HOSTNAME_RULE,
            option="cloud_init.hostname",
        )
    if user is not None and not _USER.fullmatch(user):
        raise InvalidSpec(
            f"cloud_init.user: {user!r} is not a user name.",
            _USER_RULE,
            option="cloud_init.user",
        )
    for document in ("user_data", "meta_data", "network_config"):
        if not isinstance(value.get(document), (str, dict, type(None))):
            option = f"cloud_init.{document}"
            raise InvalidSpec(f"{option}: this is neither text nor a mapping.", option=option)
    keys = value.get("ssh_authorized_keys")
    return CloudInit(
        hostname=hostname,
        user=user,
        ssh_authorized_keys=None
        if keys is None
        else tuple(_public_key(i, key) for i, key in enumerate(keys)),
        user_data=value.get("user_data"),
        meta_data=value.get("meta_data"),
        network_config=value.get("network_config"),
        ssh_host_key=value.get("ssh_host_key"),
        rerun=value.get("rerun"),
    )


def _public_key(index: int, line: str) -> str:
    option = f"cloud_init.ssh_authorized_keys[{index}]"
    key = line.strip()
    if "PRIVATE KEY" in key:
        raise InvalidSpec(
            f"{option}: this is a private key.",
            "Give the public half, from the .pub file.",
            option=option,
        )
    if not _PUBLIC_KEY.fullmatch(key):
        raise InvalidSpec(
            f"{option}: this is not an SSH public key.",
            "Give one line as in a .pub file, such as 'ssh-ed25519 AAAA... me@example.org'.",
            option=option,
        )
    return key
