# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a machine's further disks, made once, in the machine's folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace

from .._core.disks import SYSTEM_DISK, Disk, DiskRecord
from .._core.errors import BadRecord, ImageNotFound, InvalidSpec
from .._core.handle import VmHandle
from .._core.layout import data_disk
from .._core.sizes import MAX_DISK, show_size
from .._core.spec import VmSpec
from .._host.files import doing
from .._host.store import Store
from .._image.content import opened
from .._image.inspect import inspect_image, unreadable
from .._image.overlay import create_disk, create_overlay, grow_disk_file
from .._image.qcow2 import parse_header
from .._image.recognise import SECTOR
from .._image.source import parse_source


def check_disks(spec: VmSpec, found: VmHandle | None) -> None:
    """Raise what would hinder the making of disks that are not there yet. Touches nothing."""
    known = found.disks if found is not None else {}
    if found is not None and found.overlay_path is not None:
        system = DiskRecord(found.overlay_path, found.disk_format, found.disk_bytes or 0)
        _refuse_shrinking("disk_size", spec.disk_size, system)
    for disk in spec.disks or ():
        if disk.name == SYSTEM_DISK:
            continue
        option = f"disks ({disk.name})"  # its place in the task's list is not known here
        record = known.get(disk.name)
        if record is not None:
            if not os.path.exists(record.path):
                raise BadRecord(
                    f"{option}: the file {record.path} of the disk is gone.", option=option
                )
            _refuse_shrinking(f"{option}.size", disk.size, record)
            if disk.size != record.size:
                _refuse_huge(option, disk.size, record.format)
            continue
        _refuse_huge(option, disk.size, disk.format)
        if disk.image is not None:
            image = inspect_image(_path(disk, option), None)
            if disk.size is not None and disk.size < image.virtual_size:
                raise InvalidSpec(
                    f"{option}.size: {show_size(disk.size)} is smaller than the image, which needs "
                    f"{show_size(image.virtual_size)}.",
                    option=f"{option}.size",
                )
        elif disk.size is None:
            raise InvalidSpec(
                f"{option}.size: a new disk needs a size or an image.", option=f"{option}.size"
            )


def _refuse_huge(option: str, size: int | None, form: str | None) -> None:
    # ext4 ends a file one block below 16 TiB, where a qcow2 file may still be small.
    if form == "raw" and size is not None and size >= MAX_DISK:
        raise InvalidSpec(
            f"{option}.size: a raw file has less than {show_size(MAX_DISK)}.",
            "Give a smaller size; a new disk may be qcow2 instead.",
            option=f"{option}.size",
        )


def _refuse_shrinking(option: str, size: int | None, record: DiskRecord) -> None:
    """Raise ``InvalidSpec`` if the file is larger than the size that it is to grow to; the record may not know."""
    if size is None or size <= record.size:
        return
    with opened(record.path) as content:
        has = content.length
        if record.format == "qcow2":
            try:
                has = parse_header(content.read(0, SECTOR)).virtual_size
            except ValueError as exc:
                raise unreadable(record.path, "qcow2", exc) from exc
    if size < has:
        raise InvalidSpec(
            f"{option}: {show_size(size)} is smaller than {record.path}, which has {show_size(has)}.",
            "A disk only grows: shrinking would cut off the guest's data.",
            option=option,
        )


def make_disks(vm: VmHandle, store: Store) -> VmHandle:
    """Make the files of disks that have none yet. The record names each before a machine can use it."""
    for disk in vm.spec.disks or ():
        if disk.name != SYSTEM_DISK and disk.name not in vm.disks:
            record = _make(vm, disk, f"disks ({disk.name})")
            vm = store.save(vm.evolve(disks={**vm.disks, disk.name: record}))
    return vm


def grow_disks(vm: VmHandle, store: Store) -> VmHandle:
    """Make the files as large as the spec says. No process may use them."""
    vm = make_disks(vm, store)  # a task that was cut off may have left some out
    for disk in vm.spec.disks or ():
        record = vm.disks.get(disk.name)
        if record is not None and disk.size is not None and disk.size > record.size:
            grow_disk_file(record.path, record.format, disk.size)
            vm = note_size(vm, disk.name, disk.size, store)
    return vm


def note_size(vm: VmHandle, name: str, size: int, store: Store) -> VmHandle:
    """Record the size of a disk that grew."""
    return store.save(vm.evolve(disks={**vm.disks, name: replace(vm.disks[name], size=size)}))


def discard_disks(vm: VmHandle, names: Sequence[str], store: Store) -> VmHandle:
    """Delete the files of disks that nothing uses any more."""
    for name in names:
        path = vm.disks[name].path
        with doing(f"delete {path}"), contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return store.save(vm.evolve(disks={n: r for n, r in vm.disks.items() if n not in names}))


def _make(vm: VmHandle, disk: Disk, option: str) -> DiskRecord:
    form = disk.format or "qcow2"
    path = os.path.join(vm.work_dir, data_disk(disk.name, form))
    if disk.image is None:
        if disk.size is None:
            raise InvalidSpec(f"{option}.size: a new disk needs a size or an image.", option=option)
        create_disk(path, form, disk.size)
        return DiskRecord(path, form, disk.size)
    image = inspect_image(_path(disk, option), None)
    size = disk.size or image.virtual_size
    create_overlay(path, image, size)
    return DiskRecord(path, "qcow2", size, image.path, image.format)


def _path(disk: Disk, option: str) -> str:
    source = parse_source(disk.image or "", f"{option}.image")
    if source.kind != "path":
        raise ImageNotFound(
            f"{option}.image: {disk.image} is not a path.",
            "Fetch it with the module vm_image and give the path that it returns.",
            option=f"{option}.image",
        )
    return source.text
