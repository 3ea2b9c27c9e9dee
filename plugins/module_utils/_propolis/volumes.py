# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ZFS volumes: one for each image, written once, and clones of it for the machines' disks."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import sha256

from .._core.errors import CommandFailed, InvalidSpec, VmError, VolumeFailed
from .._core.propolis import ZVOLS
from .._host.commands import run
from .._host.files import doing, make_private_folder
from .._host.locks import exclusive

BLOCK = 4096  # of a volume that is made here; a multiple of every sector size

_CHUNK = 1 << 20
_IMPORT = 3600.0  # seconds that a task waits for another one to bring an image in
_LONG = 600.0  # seconds for a command that may have much to free
_SECTOR = 512
_LONGEST_NAME = 255  # of a dataset or snapshot
_DISK = re.compile(r"disk[0-9]+")

RawImage = Callable[[], AbstractContextManager[str]]  # gives the path of the raw blocks


def device_of(dataset: str) -> str:
    """Return the path of a volume's raw device."""
    return f"{ZVOLS}/{dataset}"


def exists(dataset: str) -> bool:
    """Tell whether there is a dataset or snapshot of this name."""
    return _get(dataset, "name") is not None


def available(dataset: str) -> int | None:
    """Return how many bytes can still be written in a dataset; ``None`` if there is none of this name."""
    free = _get(dataset, "available")
    return None if free is None else int(free)


def volume_size(dataset: str) -> int:
    """Return the size of a volume in bytes; raise ``VolumeFailed`` if there is no such volume."""
    size = _get(dataset, "volsize")
    if size is None or not size.isdecimal():
        raise VolumeFailed(f"There is no volume {dataset}.", dataset=dataset)
    return int(size)


def ensure_image(pool: str, key: str, raw: RawImage, size: int, lock: str) -> str:
    """Have the image as a volume and return the snapshot that disks are cloned from.

    ``raw`` is used only if the image is not there yet; ``size`` is in bytes. The volume gets its name when it is
    complete: a run that is killed leaves none of that name. ``lock`` is a file that other tasks for this image
    wait for; what an earlier holder left half made is removed.
    """
    volume = f"{pool}/images/{key}"
    snapshot = f"{volume}@base"
    _check_name(snapshot)
    if exists(snapshot):
        return snapshot
    make_private_folder(os.path.dirname(lock))
    with exclusive(lock, _IMPORT, f"the image {volume}"):
        if exists(snapshot):
            return snapshot
        if exists(volume):
            raise VolumeFailed(
                f"There is a volume {volume} without the snapshot base: it was not made here.",
                "Rename it ('zfs rename'), or remove it if nobody needs it.",
                dataset=volume,
            )
        # Whoever holds another lock, because it works in another data_dir, has another name here.
        part = f"{volume}:part-{sha256(os.path.realpath(lock).encode(errors='surrogateescape')).hexdigest()[:8]}"
        _check_name(f"{part}@base")
        try:
            _import(part, volume, raw, size)
        except CommandFailed:
            if not exists(snapshot):  # else a task with another lock was faster
                raise
    return snapshot


def clone_disk(snapshot: str, disk: str) -> None:
    """Have a volume that begins as a clone of the snapshot; raise ``VolumeFailed`` if it came from elsewhere."""
    _check_name(disk)
    origin = _get(disk, "origin")
    if origin is None:
        run(["zfs", "clone", "-p", snapshot, disk])
    elif origin != snapshot:
        raise VolumeFailed(
            f"There is a volume {disk} already; it was made from {'nothing' if origin == '-' else origin} and not "
            f"from {snapshot}.",
            "Rename it to keep it ('zfs rename'), or remove it if nobody needs it.",
            dataset=disk,
        )


def grow(disk: str, size: int) -> bool:
    """Make a volume at least ``size`` bytes large and tell whether it grew. Raise ``VolumeFailed`` if it is larger.

    The guest must not run. Sizes are rounded up to whole blocks.
    """
    now = volume_size(disk)
    block = int(_get(disk, "volblocksize") or BLOCK)
    wanted = _rounded(size, block)
    if wanted < now:
        raise VolumeFailed(
            f"The volume {disk} has {now} bytes and cannot become smaller ({wanted}): the guest's data would be cut off.",
            "Leave disk_size as it was, or larger.",
            dataset=disk,
        )
    if wanted > now:
        run(["zfs", "set", f"volsize={wanted}", disk])
    return wanted > now


def destroy(dataset: str) -> list[str]:
    """Destroy a machine's disks with their snapshots, and the dataset around them.

    Return the datasets in there that somebody else made; they are kept, and so is the dataset.
    """
    if not exists(dataset):
        return []
    kept = []
    for name, kind in _below(dataset):
        if kind == "volume" and _DISK.fullmatch(name[len(dataset) + 1 :]):
            _destroy(name)
        else:
            kept.append(name)
    if not kept:
        _destroy(dataset)
    return kept


def _import(part: str, volume: str, raw: RawImage, size: int) -> None:
    if exists(part):
        _destroy(part)
    with raw() as path:
        volsize = str(_rounded(size, BLOCK))
        run(["zfs", "create", "-p", "-s", "-V", volsize, "-o", f"volblocksize={BLOCK}", part])
        try:
            _write_blocks(path, device_of(part), size)
            run(["zfs", "snapshot", f"{part}@base"])
            run(["zfs", "rename", part, volume])
        except BaseException:
            with contextlib.suppress(VmError):  # why it failed matters more
                _destroy(part)
            raise


def _write_blocks(path: str, device: str, size: int) -> None:
    """Write a raw image to a new volume. Holes stay holes; the tail is padded to a whole block."""
    offset = 0
    with doing(f"write {path} to {device}"), open(path, "rb") as reader:
        fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        try:
            while chunk := reader.read(_CHUNK):
                if offset + len(chunk) > size:
                    break
                if chunk.count(0) != len(chunk):
                    _write_at(fd, chunk + bytes(-len(chunk) % BLOCK), offset)
                offset += len(chunk)
            os.fsync(fd)
        finally:
            os.close(fd)
    if chunk or size - offset >= _SECTOR:
        raise VolumeFailed(
            f"The image {path} does not have the {size} bytes that were announced: it is being changed.",
            "Run the task again when the file is complete.",
            path=path,
        )


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _destroy(dataset: str) -> None:
    # -r takes snapshots, too. Never -R: that would take clones, which are other machines' disks.
    run(["zfs", "destroy", "-r", dataset], timeout=_LONG)


def _below(dataset: str) -> list[tuple[str, str]]:
    """Return the names and types of all datasets in a dataset, those further in first."""
    command = ["zfs", "list", "-Hp", "-r", "-o", "name,type", "-t", "filesystem,volume", dataset]
    rows = [line.split("\t") for line in run(command).stdout.splitlines()]
    return sorted(((name, kind) for name, kind in rows if name != dataset), reverse=True)


def _get(dataset: str, column: str) -> str | None:
    """Return what ``zfs list`` says in one column; ``None`` if there is no such dataset."""
    try:
        return run(["zfs", "list", "-Hp", "-o", column, dataset]).stdout.rstrip("\n")
    except CommandFailed as exc:
        if "dataset does not exist" in str(exc.details.get("output")):
            return None
        raise


def _check_name(name: str) -> None:
    if len(name) > _LONGEST_NAME:
        raise InvalidSpec(
            f"propolis.pool: the name {name} has more than {_LONGEST_NAME} characters.",
            "Choose a pool or dataset with a shorter name.",
            option="propolis.pool",
        )


def _rounded(size: int, block: int) -> int:
    return -(-size // block) * block
