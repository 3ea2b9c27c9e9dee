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
from .._core.layout import data_disk, is_file_of_disk
from .._core.sizes import MAX_DISK, show_size
from .._core.spec import VmSpec
from .._core.state import VmState
from .._host.files import doing
from .._host.store import Store
from .._image.adoption import is_alike, unknown
from .._image.content import opened
from .._image.inspect import Image, inspect_image, unreadable
from .._image.overlay import create_disk, create_overlay, grow_disk_file
from .._image.own_disk import is_left_over
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
        planned = _planned(disk, "" if found is None else found.work_dir, option)
        if found is not None:
            _is_there(planned, disk.name, found, option)


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
            record = _make(vm, disk)
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
        # What a killed run has left over it is only known for that as long as the disk is there.
        left_over = [file for file in _files(vm, name) if file != path and is_left_over(file)]
        for file in (*left_over, path):
            with doing(f"delete {file}"), contextlib.suppress(FileNotFoundError):
                os.unlink(file)
    return store.save(vm.evolve(disks={n: r for n, r in vm.disks.items() if n not in names}))


def _make(vm: VmHandle, disk: Disk) -> DiskRecord:
    option = f"disks ({disk.name})"
    record = _planned(disk, vm.work_dir, option)
    if _is_there(record, disk.name, vm, option):
        return record
    if record.base_image is None:
        create_disk(record.path, record.format, record.size)
    else:
        image = Image(record.base_image, record.base_format or "raw", record.size)
        create_overlay(record.path, image, record.size)
    return record


def _planned(disk: Disk, folder: str, option: str) -> DiskRecord:
    """Return the record of a disk that is yet to be made; raise ``InvalidSpec`` if it cannot be."""
    form = disk.format or "qcow2"
    path = os.path.join(folder, data_disk(disk.name, form))
    if disk.image is None:
        if disk.size is None:
            raise InvalidSpec(
                f"{option}.size: a new disk needs a size or an image.", option=f"{option}.size"
            )
        return DiskRecord(path, form, disk.size)
    image = inspect_image(_path(disk, option), None)
    size = disk.size or image.virtual_size
    if size < image.virtual_size:
        raise InvalidSpec(
            f"{option}.size: {show_size(size)} is smaller than the image, which needs "
            f"{show_size(image.virtual_size)}.",
            option=f"{option}.size",
        )
    return DiskRecord(path, "qcow2", size, image.path, image.format)


def _is_there(planned: DiskRecord, name: str, vm: VmHandle, option: str) -> bool:
    """Tell whether the file of a disk that is not recorded is there already; raise ``BadRecord`` if it is another one.

    An empty one of another size is as good as none.
    """
    if vm.state is VmState.PREPARING:
        return False  # it never ran: what a killed run has left holds nothing, and may have another size
    is_there = False
    for path in _files(vm, name):
        if path == planned.path:
            is_there = is_alike(option, planned)
        elif not is_left_over(path):
            raise unknown(option, path, f"it is called otherwise than {planned.path}")
    return is_there


def _files(vm: VmHandle, name: str) -> list[str]:
    """Return the paths of all files that are called as those of a disk are, recorded or not."""
    with doing(f"list {vm.work_dir}"):
        files = [file for file in sorted(os.listdir(vm.work_dir)) if is_file_of_disk(file, name)]
    return [os.path.join(vm.work_dir, file) for file in files]


def _path(disk: Disk, option: str) -> str:
    source = parse_source(disk.image or "", f"{option}.image")
    if source.kind != "path":
        raise ImageNotFound(
            f"{option}.image: {disk.image} is not a path.",
            "Fetch it with the module vm_image and give the path that it returns.",
            option=f"{option}.image",
        )
    return source.text
