# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The door to the file system: private folders, whole files, open folders for paths of any length."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator

from .._core.errors import HostError

_TERMINAL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # ECMA-48, 5.4


@contextlib.contextmanager
def doing(what: str) -> Iterator[None]:
    """Turn what the operating system refuses into our own family of errors. ``what`` follows 'Could not'."""
    try:
        yield
    except OSError as exc:
        raise HostError(
            f"Could not {what}: {exc.strerror or exc}.", path=exc.filename, errno=exc.errno
        ) from exc


def make_private_folder(path: str) -> None:
    """Make a folder that only its owner can enter, and the folders above it; keep it if it exists."""
    with doing(f"make the folder {path}"):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, mode=0o700)


def refuse_foreign_folder(path: str, what: str, mode: int = stat.S_IWGRP | stat.S_IWOTH) -> None:
    """Raise ``HostError`` if somebody else owns a folder, or may write to it by one of the bits in ``mode``."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise HostError(f"{what}: {path} cannot be looked at: {exc.strerror}.", path=path) from exc
    if found.st_uid != os.geteuid():
        raise HostError(
            f"{what}: {path} belongs to another user (uid {found.st_uid}).",
            "Run the task as that user (become_user), or choose another data_dir.",
            path=path,
        )
    if found.st_mode & mode:
        raise HostError(
            f"{what}: other users may write to {path}.",
            f"Keep them out: chmod go-w {path}",
            path=path,
        )


def read_private(path: str) -> bytes:
    """Return the content of a plain file; a link or a pipe in its place is refused like any other failure."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", path)
        return stream.read()


def write_atomically(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace a file in one step that survives a power cut: write beside it, fsync, rename, fsync the folder."""
    with doing(f"write {path}"), replacing(path, mode) as part, open(part, "wb") as stream:
        stream.write(data)


@contextlib.contextmanager
def replacing(path: str, mode: int = 0o600) -> Iterator[str]:
    """Give the path of an empty file that becomes ``path`` if the block succeeds, and vanishes if it fails."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.part")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    try:
        yield part
        sync(part)
        os.replace(part, path)
        sync(folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def sync(path: str) -> None:
    """Bring a file or a folder's entries to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_tail(path: str, limit: int = 4000) -> str:
    """Return the last ``limit`` bytes of a text file as printable text; nothing if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - limit))
            text = stream.read(limit).decode(errors="replace")
    except OSError:
        return ""
    text = _TERMINAL_SEQUENCE.sub("", text)
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """Give a path to the same file that fits into a UNIX socket address, however long ``path`` is (Linux)."""
    folder, name = os.path.split(path)
    fd = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def check_writable(folder: str, option: str = "data_dir") -> None:
    """Raise ``HostError`` naming ``option`` if this user could not make ``folder`` or files in it. Touches nothing."""
    existing = folder
    while not os.path.exists(existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing) or not os.access(existing, os.W_OK | os.X_OK):
        what = "is not writable for this user" if os.path.isdir(existing) else "is not a folder"
        raise HostError(
            f"{option}: {folder} cannot be used: {existing} {what}.",
            f"Choose another {option}.",
            option=option,
        )
