# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A file that is being fetched: bytes are written as they come, and their digests are taken meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from .._core.errors import ImageFetchFailed
from .._host.files import doing, read_private, write_atomically

CHUNK = 1024 * 1024
_WAITING = 8  # chunks that may wait to be digested: what bounds the memory
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True)
class Origin:
    """What the bytes of a part belong to, so that a later run knows how to go on.

    ``etag`` is the server's name of this version; ``proof`` is the digest that the whole must have; ``boot`` is the run
    of the host's kernel, since after a power cut a file may be longer than what has reached the disk.
    """

    etag: str | None = None
    proof: str | None = None
    length: int | None = None
    boot: str | None = None


class Part:
    """A file that grows by :meth:`write`. A context manager; what was written stays unless it is discarded."""

    def __init__(self, path: str, algorithms: Sequence[str]) -> None:
        self.path = path
        self.offset = 0
        self._algorithms = tuple(dict.fromkeys(algorithms))
        with doing(f"write {path}"):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)
        self._digesting = _Digesting(self._algorithms)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._digesting.end()
        os.close(self._fd)

    def write(self, data: bytes) -> None:
        """Append; raise ``ImageFetchFailed`` when the disk is full, after the part was removed to make room again."""
        self._digesting.add(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as exc:
            self.discard()
            raise ImageFetchFailed(
                f"Could not write {self.path}: {exc.strerror}.",
                "Make room in the data folder, or choose another data_dir.",
                path=self.path,
                errno=exc.errno,
            ) from exc
        self.offset += len(data)

    def take_up(self) -> None:
        """Go on after what the file holds already; its digests are taken anew from the disk."""
        self.offset = os.lseek(self._fd, 0, os.SEEK_SET)
        with doing(f"read {self.path}"):
            for data in iter(lambda: os.read(self._fd, CHUNK), b""):
                self._digesting.add(data)
                self.offset += len(data)

    def restart(self) -> None:
        """Begin anew with an empty file."""
        self._digesting.end()
        self._digesting = _Digesting(self._algorithms)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.offset = 0

    def finish(self) -> Mapping[str, str]:
        """Bring all to the disk and return the digests, by algorithm. Nothing can be written afterwards."""
        with doing(f"write {self.path}"):
            os.fsync(self._fd)
        return self._digesting.end()

    def discard(self) -> None:
        """Remove the file and what is noted beside it, so that no later run takes it up."""
        for path in (note_of(self.path), self.path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        os.ftruncate(self._fd, 0)


def note(path: str, origin: Origin) -> None:
    """Write down what the part ``path`` belongs to."""
    write_atomically(note_of(path), json.dumps(asdict(origin)).encode())


def noted(path: str) -> Origin | None:
    """Return what the part ``path`` belongs to, if an earlier run has noted it and this one understands it."""
    try:
        found = json.loads(read_private(note_of(path)))
        return Origin(**found)
    except (OSError, ValueError, TypeError):
        return None


def forget(path: str) -> None:
    """Remove what was noted beside a part."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(note_of(path))


def this_boot() -> str | None:
    """Return what tells this run of the host's kernel from all others; ``None`` where nothing does."""
    try:
        with open(_BOOT_ID, encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return None


def note_of(path: str) -> str:
    """Return the path of what is noted beside a part."""
    return f"{path}.json"


class _Digesting:
    """A thread that takes digests of bytes while others come: hashlib lets other threads run meanwhile."""

    def __init__(self, algorithms: Sequence[str]) -> None:
        self._digests = {name: hashlib.new(name) for name in algorithms}
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def add(self, data: bytes) -> None:
        """Take these bytes next; wait if too many are waiting already."""
        self._waiting.put(data)

    def end(self) -> Mapping[str, str]:
        """Return the digests of all that was added."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        return {name: digest.hexdigest() for name, digest in self._digests.items()}

    def _work(self) -> None:
        for data in iter(self._waiting.get, None):
            for digest in self._digests.values():
                digest.update(data)
