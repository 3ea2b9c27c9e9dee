# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record beside a fetched image: where it came from, and what it is. Pure but for its name."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .checksum import DEFAULT_ALGORITHM
from .source import ImageSource

SCHEMA = 1
RECORD_SUFFIX = ".json"

_SUFFIXES = re.compile(
    r"(?:\.(?:qcow2|img|raw|vmdk|vdi|vhdx?|gz|xz|zst|zstd|bz2))+$", re.IGNORECASE
)
_UNFIT = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST_STEM = 60
_KEY_LENGTH = 16


@dataclass(frozen=True)
class Entry:
    """An image of the library. ``size`` and ``virtual_size`` are in bytes; digests begin with their algorithm.

    ``source`` is shown to people, ``source_key`` stands for the whole of it. ``source_digests`` are of the bytes as they
    were fetched, ``digest`` is of the file as it is kept. ``source_format`` is what was fetched; ``listed_by`` stands for
    the list of checksums that vouched for it. ``decrypted`` and ``dropped_snapshots`` (how many) tell what was taken out.
    """

    path: str
    source: str
    source_key: str
    source_digests: Mapping[str, str]
    source_format: str
    digest: str
    format: str
    virtual_size: int
    size: int
    fetched_at: str  # UTC, ISO 8601
    etag: str | None = None
    last_modified: str | None = None
    listed_by: str | None = None
    decrypted: bool = False
    dropped_snapshots: int = 0

    @property
    def record(self) -> str:
        """The path of the record."""
        return os.path.splitext(self.path)[0] + RECORD_SUFFIX

    @property
    def is_as_fetched(self) -> bool:
        """Tell whether the file holds the very bytes that were fetched."""
        return self.digest == f"{DEFAULT_ALGORITHM}:{self.source_digests.get(DEFAULT_ALGORITHM)}"

    @property
    def known(self) -> Mapping[str, str]:
        """Headers that ask a server for another version than this one."""
        if self.etag:
            return {"If-None-Match": self.etag}
        return {"If-Modified-Since": self.last_modified} if self.last_modified else {}


def entry_key(source: ImageSource, digest: str, image_format: str) -> str:
    """Return the name, without suffix, of an image from this source with this digest."""
    whole = hashlib.sha256(f"{source.key} {digest} {image_format}".encode()).hexdigest()
    return f"{_stem(source)}-{whole[:_KEY_LENGTH]}"


def unknown_key(source: ImageSource) -> str:
    """Return what :func:`entry_key` will, with question marks in place of what depends on the digest."""
    return f"{_stem(source)}-{'?' * _KEY_LENGTH}"


def _stem(source: ImageSource) -> str:
    stem = _UNFIT.sub("-", _SUFFIXES.sub("", source.file_name)).strip(".-")[:_LONGEST_STEM]
    return stem or "image"


def dump(entry: Entry) -> bytes:
    """Return the record as it is kept on disk; the path is that of the record itself."""
    data = {"schema": SCHEMA, **asdict(entry)}
    del data["path"]
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


def load(raw: bytes, record_path: str) -> Entry:
    """Read a record; raise ``ValueError`` saying why this release cannot."""
    data = json.loads(raw)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"it is no record of schema {SCHEMA}")
    known = {field.name: str(field.type) for field in fields(Entry)} | {"path": "str"}
    values = {name: value for name, value in data.items() if name in known}
    stem = record_path[: -len(RECORD_SUFFIX)]
    try:
        entry = Entry(**{**values, "path": f"{stem}.{values['format']}"})
    except (KeyError, TypeError) as exc:
        raise ValueError(f"it cannot be understood: {exc!r}") from exc
    for name, kind in known.items():
        if not _fits(getattr(entry, name), kind):
            raise ValueError(f"{name} has the type {type(getattr(entry, name)).__name__}")
    if entry.format not in ("qcow2", "raw"):
        raise ValueError(f"{entry.format!r} is no format that images are kept in")
    return entry


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, Mapping):
        pairs = (*value.keys(), *value.values())
        return kind.startswith("Mapping") and all(isinstance(part, str) for part in pairs)
    name = "None" if value is None else type(value).__name__
    return name in kind.split(" | ")
