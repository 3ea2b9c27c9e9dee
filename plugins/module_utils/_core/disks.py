# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks as a task asks for them. A disk is known by its name for as long as it exists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from .errors import CannotChange, InvalidSpec
from .sizes import GIB, MAX_DISK, parse_size, show_size

SYSTEM_DISK = "disk0"  # the one that is made from the image
BUSES = ("virtio-blk", "virtio-scsi", "nvme", "sata")
MAX_DISKS = 16
MAX_SATA = 5  # the board has six ports, and one is the CD-ROM drive's
NO_PLACE = -1  # in the boot order, as QEMU says it, too
LIMITS = ("iops", "iops_read", "iops_write", "bps", "bps_read", "bps_write")

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,14}")
_NAME_RULE = "A disk's name has 1 to 15 small letters, digits, dashes and underscores, beginning with a letter."
_SERIAL_RULE = "A serial number has 1 to 20 letters, digits, dots, dashes and underscores; an empty string takes it away."
_SIZE_RULE = "Give a size with a unit, such as 20GiB; a bare number counts in GiB."
_SERIAL = re.compile(r"[A-Za-z0-9_.-]{0,20}")  # what virtio-blk has room for


@dataclass(frozen=True)
class Disk:
    """One disk. ``None`` means left open. Sizes in bytes, limits per second."""

    name: str
    size: int | None = None
    image: str | None = None
    format: str | None = None
    bus: str | None = None
    cache: str | None = None
    aio: str | None = None
    discard: bool | None = None
    serial: str | None = None
    readonly: bool | None = None
    boot_index: int | None = None
    iops: int | None = None
    iops_read: int | None = None
    iops_write: int | None = None
    bps: int | None = None
    bps_read: int | None = None
    bps_write: int | None = None

    def over(self, base: Disk) -> Disk:
        """Return this disk with each option that was left open taken from ``base``."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(base, **{name: value for name, value in given.items() if value is not None})

    def completed(self) -> Disk:
        """Return this disk with the defaults of a new one where it left options open.

        A limit of 0, an empty serial number and ``NO_PLACE`` are none.
        """
        given: dict[str, Any] = {name: getattr(self, name) or None for name in (*LIMITS, "serial")}
        given["boot_index"] = None if self.boot_index == NO_PLACE else self.boot_index
        return replace(self.over(replace(_DEFAULTS, name=self.name)), **given)

    @property
    def limits(self) -> Mapping[str, int]:
        """Return the limits, 0 meaning none."""
        return {name: getattr(self, name) or 0 for name in LIMITS}


_DEFAULTS = Disk(
    name="",
    format="qcow2",
    bus="virtio-blk",
    cache="writeback",
    aio="threads",
    discard=True,
    readonly=False,
)


@dataclass(frozen=True)
class DiskRecord:
    """A disk that was made: where it lies and what it holds.

    It rests on its ``layers``, each on the next, and these on the image.
    """

    path: str
    format: str
    size: int  # bytes
    base_image: str | None = None
    base_format: str | None = None
    layers: tuple[str, ...] = ()  # files that it shares with linked clones, the uppermost first


def merged(wish: Sequence[Disk] | None, base: Sequence[Disk] | None) -> tuple[Disk, ...] | None:
    """Return the disks of ``base`` brought to what ``wish`` says of them, and its new ones behind them."""
    if wish is None or base is None:
        given = base if wish is None else wish
        return None if given is None else tuple(given)
    wanted = {disk.name: disk for disk in wish}
    known = [wanted.pop(old.name).over(old) if old.name in wanted else old for old in base]
    return (*known, *wanted.values())


def adopted(disk: Disk, record: DiskRecord | None) -> Disk:
    """Return a disk that was detached and is asked for again with what it was made as."""
    if record is None:
        return disk
    return disk.over(Disk(disk.name, image=record.base_image, format=record.format))


def check_together(disks: Sequence[Disk], wish: Sequence[Disk]) -> None:
    """Raise ``InvalidSpec`` for the first disk of a machine that does not go with the others. ``wish`` is the task's list."""
    if len([disk for disk in disks if disk.name != SYSTEM_DISK]) > MAX_DISKS:
        raise InvalidSpec(f"disks: at most {MAX_DISKS} are possible.", option="disks")
    if len([disk for disk in disks if disk.bus == "sata"]) > MAX_SATA:
        raise InvalidSpec(f"disks: at most {MAX_SATA} on sata are possible.", option="disks")
    for field in ("serial", "boot_index"):
        _refuse_twice(field, disks, wish)
    for disk in disks:
        for total in ("iops", "bps"):
            if getattr(disk, total) and (
                getattr(disk, f"{total}_read") or getattr(disk, f"{total}_write")
            ):
                raise _invalid(
                    f"{_place(disk.name, wish)}.{total}",
                    f"it stands for reads and writes together, so {total}_read and {total}_write must be 0",
                )
        if disk.bus == "sata" and disk.readonly:
            place = _place(disk.name, wish)
            raise _invalid(f"{place}.readonly", "a disk on sata can only be written, too")
        if disk.aio == "native" and disk.cache not in ("none", "directsync"):
            raise _invalid(
                f"{_place(disk.name, wish)}.aio", "native needs cache none or directsync"
            )


def check_disk_changes(
    vm: str,
    wish: Sequence[Disk],
    old: Sequence[Disk],
    made: Mapping[str, DiskRecord],
    sizes: Mapping[str, int],
) -> None:
    """Raise for the first disk of a task that cannot become what it says.

    ``old`` is what the machine ``vm`` has, ``made`` are all disks that were ever made for it and not deleted,
    ``sizes`` how large they are in bytes.
    """
    known = {disk.name: disk for disk in old}
    for index, disk in enumerate(wish):
        record = made.get(disk.name)
        before = known.get(disk.name) or adopted(Disk(disk.name), record)
        if record is None and disk.name not in known:
            continue
        for field in ("image", "format"):
            if getattr(disk, field) not in (None, getattr(before, field)):
                raise CannotChange(
                    f"disks[{index}].{field}: the disk '{disk.name}' of the VM '{vm}' was created with another "
                    f"value, {getattr(before, field)!r}.",
                    "Give the new disk another name, or detach and delete the old one first.",
                    option=f"disks[{index}].{field}",
                )
        has = sizes.get(disk.name, before.size)
        if disk.size not in (None, before.size) and (disk.size or 0) < (has or 0):
            raise InvalidSpec(
                f"disks[{index}].size: {show_size(disk.size or 0)} is smaller than the disk '{disk.name}' of the VM "
                f"'{vm}', which has {show_size(has or 0)}.",
                "A disk only grows: shrinking would cut off the guest's data.",
                option=f"disks[{index}].size",
            )


def _place(name: str, wish: Sequence[Disk]) -> str:
    names = [disk.name for disk in wish]
    return f"disks[{names.index(name)}]" if name in names else f"disks ({name})"


def _refuse_twice(field: str, disks: Sequence[Disk], wish: Sequence[Disk]) -> None:
    values: list[object] = []
    for index, disk in enumerate(disks):
        value = getattr(disk, field)
        if value is not None and value in values:
            place = f"disks[{index}]" if disks is wish else _place(disk.name, wish)
            raise _invalid(f"{place}.{field}", f"{value} is there twice")
        values.append(value)


def disks_from_params(items: Sequence[Mapping[str, Any]] | None) -> tuple[Disk, ...] | None:
    """Read the option ``disks``; raise ``InvalidSpec`` naming the first suboption that makes no sense."""
    if items is None:
        return None
    disks = tuple(_disk(f"disks[{index}]", item) for index, item in enumerate(items))
    _refuse_twice("name", disks, disks)
    return disks


def _disk(option: str, item: Mapping[str, Any]) -> Disk:
    name = _matching(f"{option}.name", _NAME, item["name"], _NAME_RULE)
    if name == SYSTEM_DISK:
        for suboption, instead in (("size", "disk_size"), ("image", "image")):
            if item.get(suboption) is not None:
                raise _invalid(
                    f"{option}.{suboption}",
                    f"the disk {SYSTEM_DISK} is made by the option {instead}",
                )
    if item.get("format") == "raw" and name == SYSTEM_DISK:
        raise _invalid(f"{option}.format", f"{SYSTEM_DISK} is qcow2, whatever the image is")
    if item.get("readonly") and name == SYSTEM_DISK:
        raise _invalid(f"{option}.readonly", "the guest's own disk is written")
    if item.get("format") == "raw" and item.get("image") is not None:
        raise _invalid(f"{option}.format", "a disk over an image is qcow2, whatever the image is")
    return Disk(
        name=name or "",
        size=_size(f"{option}.size", item.get("size")),
        image=item.get("image"),
        format=item.get("format"),
        bus=item.get("bus"),
        cache=item.get("cache"),
        aio=item.get("aio"),
        discard=item.get("discard"),
        serial=_matching(f"{option}.serial", _SERIAL, item.get("serial"), _SERIAL_RULE),
        readonly=item.get("readonly"),
        boot_index=_at_least(f"{option}.boot_index", item.get("boot_index"), NO_PLACE),
        **{limit: _at_least(f"{option}.{limit}", item.get(limit), 0) for limit in LIMITS},
    )


def _size(option: str, value: str | int | None) -> int | None:
    if value is None:
        return None
    try:
        size = parse_size(value, bare_unit=GIB)
    except ValueError as exc:
        raise _invalid(option, str(exc), _SIZE_RULE) from exc
    if size <= 0 or size % 512:
        raise _invalid(option, f"'{value}' is not a positive multiple of 512 bytes", _SIZE_RULE)
    if size > MAX_DISK:
        most = show_size(MAX_DISK)
        raise _invalid(
            option, f"'{value}' is more than {most}, which is the most that a disk can have"
        )
    return size


def _at_least(option: str, value: int | None, least: int) -> int | None:
    if value is not None and value < least:
        raise _invalid(option, f"{value} is less than {least}")
    return value


def _matching(option: str, pattern: re.Pattern[str], value: str | None, rule: str) -> str | None:
    if value is not None and not pattern.fullmatch(value):
        raise _invalid(option, f"{value!r} cannot be used", rule)
    return value


def _invalid(option: str, reason: str, rule: str | None = None) -> InvalidSpec:
    return InvalidSpec(f"{option}: {reason}.", rule, option=option)
