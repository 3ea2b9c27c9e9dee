# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images that were fetched to this host, in ``<data_dir>/images/``: each is fetched once and never changed.

An image lies there under a name made of its source and its digest, so another version of it is another file, and the
disks of machines that rest on the old one are not touched. A record beside it says what it is. The record is written
first: without its image, it counts for nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial

from .._core.errors import (
    BadRecord,
    ImageInUse,
    ImageNotFound,
    ImageRefused,
    Unready,
    VmError,
)
from .._host.files import (
    doing,
    make_private_folder,
    read_private,
    refuse_foreign_folder,
    sync,
    write_atomically,
)
from .._host.locks import exclusive, is_taken
from .checksum import DEFAULT_ALGORITHM, Checksum
from .entry import Entry, dump, entry_key, load, unknown_key
from .fetch import fetch, is_unchanged
from .intake import Fresh, Progress, TakenIn, digest_of, take_in
from .part import note_of
from .transfer import Fetched
from .uses import Uses, look_for_uses
from .wish import ImageWish, locate, settled, with_digest

_PATIENCE = 3600.0  # seconds to wait for another task that fetches the same image
_A_MOMENT = 30.0  # seconds to wait for one that looks which images are used
_RECORD = re.compile(r"[^.].*-[0-9a-f]{16}\.json")
_LEFT_OVER = re.compile(r"\.+[0-9a-f]{16}\.(?:part|lock)\b.*|\..+-[0-9a-f]{16}\.json\.part")
_READ_ONLY = 0o444


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be: images, and files that runs left which were cut off. ``freed`` is in bytes."""

    entries: tuple[Entry, ...]
    left_over: tuple[str, ...]
    freed: int


class ImageLibrary:
    """The images of one data folder. ``warnings`` gather what is wrong with records."""

    def __init__(self, data_dir: str, warnings: list[str] | None = None) -> None:
        self.data_dir = os.path.abspath(data_dir)
        self.folder = os.path.realpath(os.path.join(self.data_dir, "images"))
        self._warnings: list[str] = [] if warnings is None else warnings

    def entries(self) -> list[Entry]:
        """Return all images, sorted by their path."""
        self._refuse_foreign()
        return list(self._entries())

    def find(self, wish: ImageWish) -> Entry | None:
        """Return the image that was fetched last of those that fit the wish; ``None`` if none does. Asks nobody."""
        wish = settled(wish)
        fitting = [entry for entry in self.entries() if _fits(entry, wish)]
        for entry in sorted(fitting, key=lambda entry: entry.fetched_at, reverse=True):
            if self._is_vouched_for(entry, wish):
                return entry
        return None

    def foresee(self, wish: ImageWish) -> Entry | None:
        """Return the image that :meth:`ensure` would return without fetching anything; ``None`` if it would fetch.

        Touches nothing here, but asks the source if the wish is to look for a newer version.
        """
        wish = settled(wish)
        if not any(_fits(entry, wish) for entry in self.entries()):
            return None
        found = self.find(wish)
        if found is not None and wish.update == "never":
            return found
        exact = with_digest(wish)
        found = self.find(exact)
        if found is None or exact.digest:
            return found
        request = locate(exact, found.known)
        if request.expected:
            return found if _has(found, request.expected) else None
        return found if found.known and is_unchanged(request) else None

    def ensure(self, wish: ImageWish, progress: Progress | None = None) -> Entry:
        """Return the image, fetched if need be. Tasks that want the same one at the same time fetch it once.

        Raises what hinders that, after which no image is here that was not here before.
        """
        begun = _now()
        wish = settled(wish)
        found = self.find(wish)
        if found is not None and wish.update == "never":
            return found
        self._make_folder()
        with self._lock(wish):
            found = self.find(wish)
            if found is not None and (wish.update == "never" or found.fetched_at >= begun):
                return found
            return self._renew(wish, progress or _silent)

    def users(self, entry: Entry) -> list[str]:
        """Return the names of the machines of this data folder whose disks rest on an image.

        Raises ``BadRecord`` if a machine's record cannot be read, so that nobody knows.
        """
        return self._uses().of(entry.path)

    def refuse_used(self, entry: Entry) -> None:
        """Raise ``ImageInUse`` if the disk of a machine rests on an image."""
        names = self.users(entry)
        if names:
            raise ImageInUse(
                f"The image {entry.path} is used by the VM{'s' if names[1:] else ''} "
                f"{', '.join(repr(name) for name in names)}.",
                path=entry.path,
                used_by=names,
            )

    def remove(self, entry: Entry) -> None:
        """Remove an image that is not used; raise ``ImageInUse`` if it is."""
        with self._changing():
            self.refuse_used(entry)
            self._drop(entry)

    def foreseen_path(self, wish: ImageWish) -> str:
        """Return the path of the image once it is fetched, with question marks in place of what nobody knows yet."""
        wish = settled(wish)
        image_format = wish.target_format
        if image_format is None and wish.image_format is not None:
            image_format = "raw" if wish.image_format == "raw" else "qcow2"
        digest = wish.digest if wish.digest and wish.digest.algorithm == DEFAULT_ALGORITHM else None
        if digest is None or image_format is None:
            return self._path(f"{unknown_key(wish.source)}.{image_format or '?'}")
        return self._path(f"{entry_key(wish.source, digest.hex, image_format)}.{image_format}")

    def prune(self, *, dry: bool = False) -> Pruned:
        """Remove the images that no machine uses, and what runs have left that were cut off; ``dry`` only looks."""
        if not os.path.isdir(self.folder):
            return Pruned((), (), 0)
        with contextlib.nullcontext() if dry else self._changing():
            uses = self._uses()
            unused = tuple(entry for entry in self.entries() if not uses.of(entry.path))
            left_over = tuple(self._left_over())
            freed = sum(_size(path) for path in (*(e.path for e in unused), *left_over))
            if not dry:
                for entry in unused:
                    self._drop(entry)
                for path in left_over:
                    _unlink(path)
        return Pruned(unused, left_over, freed)

    @contextlib.contextmanager
    def kept(self, path: str) -> Iterator[None]:
        """Keep an image from being removed until a machine's record says that it is used.

        Raises ``ImageNotFound`` if it has been removed just now. A file elsewhere is nobody's to remove.
        """
        if os.path.dirname(os.path.realpath(path)) != self.folder:
            yield
            return
        with self._changing():
            if not os.path.isfile(path):
                raise ImageNotFound(
                    f"image: {path} was removed by another task.", "Run the task again."
                )
            yield

    def _entries(self) -> Iterator[Entry]:
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return
        for name in names:
            if not _RECORD.fullmatch(name):
                continue
            path = os.path.join(self.folder, name)
            try:
                entry = load(read_private(path), path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as exc:
                self._warnings.append(f"The record of an image, {path}, cannot be read: {exc}.")
                continue
            size = _size(entry.path)
            if size == entry.size:
                yield entry
            elif size:
                self._warnings.append(
                    f"The image {entry.path} has {size} bytes, and had {entry.size} when it was fetched: "
                    "it is not used. Fetch it again, or remove it together with its record."
                )

    def _is_vouched_for(self, entry: Entry, wish: ImageWish) -> bool:
        if wish.checksum is None:
            return True
        if wish.digest is None:
            return entry.listed_by == wish.list_key
        known = entry.source_digests.get(wish.digest.algorithm)
        if known is None and entry.is_as_fetched:
            return digest_of(entry.path, wish.digest.algorithm) == wish.digest
        return known == wish.digest.hex

    def _renew(self, wish: ImageWish, progress: Progress) -> Entry:
        exact = with_digest(wish)
        found = self.find(exact)
        if found is not None and exact.digest and wish.update != "always":
            with self._changing():
                return self._save(replace(found, listed_by=wish.list_key or found.listed_by))
        conditional = found is not None and wish.update == "if_changed"
        request = locate(exact, found.known if found and conditional else {})
        if found is not None and conditional and _has(found, request.expected):
            return found
        part = self._path(f".{wish.source.key}.part")
        fetched = fetch(request, part, partial(progress, "download"))
        if fetched is None and found is not None:
            return found
        if fetched is None:
            raise ImageNotFound(f"image: {wish.source.shown} is not here, and was not sent.")
        stated = replace(wish, image_format=wish.image_format or request.image_format)
        return self._keep(stated, part, fetched, progress)

    def _keep(self, wish: ImageWish, part: str, fetched: Fetched, progress: Progress) -> Entry:
        fresh = Fresh(part, wish.source.shown, fetched.digests[DEFAULT_ALGORITHM])
        try:
            taken = take_in(fresh, wish.image_format, wish.target_format, wish.allowance, progress)
            entry = self._entry_of(wish, taken, fetched)
            for known in self._at(entry.path):
                _refuse_unlike(known, entry)
        except VmError as exc:
            # The next run need not download it again if that one can go another way.
            mendable = isinstance(exc, Unready) or (isinstance(exc, ImageRefused) and exc.mendable)
            self._clear(part, keep=mendable and wish.source.local_path is None)
            raise
        made = taken.image.path
        with self._changing():
            there = self._at(entry.path)
            if there:  # never change a file that disks may rest on: converted anew, it may have another layout
                entry = self._save(replace(entry, digest=there[0].digest, size=there[0].size))
            else:
                self._save(entry)
                with doing(f"keep {entry.path}"):
                    os.chmod(made, _READ_ONLY)
                    sync(made)
                    os.replace(made, entry.path)
            self._clear(part)
        return entry

    def _entry_of(self, wish: ImageWish, taken: TakenIn, fetched: Fetched) -> Entry:
        image, sha256 = taken.image, fetched.digests[DEFAULT_ALGORITHM]
        return Entry(
            path=self._path(f"{entry_key(wish.source, sha256, image.format)}.{image.format}"),
            source=wish.source.shown,
            source_key=wish.source.key,
            source_digests=fetched.digests,
            source_format=taken.source.format,
            digest=taken.digest,
            format=image.format,
            virtual_size=image.virtual_size,
            size=os.path.getsize(image.path),
            fetched_at=_now(),
            etag=fetched.etag,
            last_modified=fetched.last_modified,
            listed_by=wish.list_key,
            decrypted=taken.source.is_encrypted,
            dropped_snapshots=taken.source.snapshots,
        )

    def _at(self, path: str) -> list[Entry]:
        return [known for known in self._entries() if known.path == path]

    def _save(self, entry: Entry) -> Entry:
        write_atomically(entry.record, dump(entry))
        return entry

    def _clear(self, part: str, keep: bool = False) -> None:
        """Remove what was made of a part, also by a run that was killed, and the part itself unless it is kept."""
        name = os.path.basename(part)
        stays = (name, os.path.basename(note_of(part))) if keep else ()
        for found in os.listdir(self.folder):
            if found.startswith((name, f".{name}")) and found not in stays:
                _unlink(self._path(found))
        with doing(f"write {self.folder}"):
            sync(self.folder)

    def _drop(self, entry: Entry) -> None:
        _unlink(entry.path)
        _unlink(entry.record)

    def _left_over(self) -> Iterator[str]:
        for name in sorted(os.listdir(self.folder)):
            key = name.lstrip(".").partition(".")[0]
            path = self._path(name)
            if _LEFT_OVER.fullmatch(name):
                if not is_taken(self._path(f".{key}.lock")):
                    yield path
            elif _RECORD.fullmatch(name) and _has_no_image(path):
                yield path

    @contextlib.contextmanager
    def _lock(self, wish: ImageWish) -> Iterator[None]:
        path = self._path(f".{wish.source.key}.lock")
        with exclusive(path, _PATIENCE, f"the image {wish.source.shown}"):
            try:
                yield
            finally:
                _unlink(path)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with exclusive(self.folder, _A_MOMENT, f"the images in {self.folder}"):
            yield

    def _uses(self) -> Uses:
        uses = look_for_uses(self.data_dir)
        if uses.unreadable:
            raise BadRecord(
                f"Nobody knows which images are used: {uses.unreadable[0]}",
                "Repair or remove what the message names first.",
            )
        return uses

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _refuse_foreign(self) -> None:
        refuse_foreign_folder(self.data_dir, "data_dir", stat.S_IWOTH)
        refuse_foreign_folder(self.folder, "data_dir")

    def _make_folder(self) -> None:
        self._refuse_foreign()
        make_private_folder(self.data_dir)
        make_private_folder(self.folder)


def _fits(entry: Entry, wish: ImageWish) -> bool:
    return (
        entry.source_key == wish.source.key
        and wish.image_format in (None, entry.source_format, entry.format)
        and wish.target_format in (None, entry.format)
    )


def _refuse_unlike(known: Entry, new: Entry) -> None:
    """Raise ``ImageRefused`` if the same bytes were taken for something else before: their name does not tell."""
    before, now = _taken_for(known), _taken_for(new)
    if before != now:
        raise ImageRefused(
            f"image: {new.source} is here already as {known.path}, taken for {before}. Now it is taken for {now}.",
            f"If that is right, remove it first, with state=absent and image={known.path}.",
            mendable=True,
            option="image_format",
            path=known.path,
        )


def _taken_for(entry: Entry) -> str:
    secret = "encrypted " if entry.decrypted else ""
    snapshots = f" with {entry.dropped_snapshots} snapshots" if entry.dropped_snapshots else ""
    return f"{secret}{entry.source_format}{snapshots}"


def _has(entry: Entry, expected: Iterable[Checksum]) -> bool:
    known = [entry.source_digests.get(checksum.algorithm) == checksum.hex for checksum in expected]
    return bool(known) and all(known)


def _has_no_image(record: str) -> bool:
    try:
        return not os.path.lexists(load(read_private(record), record).path)
    except (OSError, ValueError):
        return False  # nobody knows what it belongs to


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _unlink(path: str) -> None:
    with doing(f"remove {path}"), contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="microseconds")


def _silent(phase: str, done: int, total: int | None) -> None:
    """Report nothing."""
