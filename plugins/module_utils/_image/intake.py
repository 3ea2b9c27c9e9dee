# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From fetched bytes to an image that may be kept: unpacked, judged, and in a format that disks can rest on."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .._core.errors import ImageNotFound
from .checksum import DEFAULT_ALGORITHM, Checksum
from .convert import convert
from .gate import judge
from .inspect import Allowance, Image
from .part import CHUNK
from .unpack import compression_of, unpack

Progress = Callable[[str, int, "int | None"], None]  # phase, bytes done, bytes in all if known


@dataclass(frozen=True)
class TakenIn:
    """An image that passed; ``digest`` is that of its file, ``source`` is what it was before."""

    image: Image
    source: Image
    digest: str


@dataclass(frozen=True)
class Fresh:
    """Bytes that were fetched into ``path``; ``shown`` is what messages call them, ``sha256`` is their digest."""

    path: str
    shown: str
    sha256: str


def take_in(
    fresh: Fresh,
    image_format: str | None,
    target_format: str | None,
    allowance: Allowance,
    progress: Progress,
) -> TakenIn:
    """Return the image in those bytes: in the same file, or in another one beside it. What is allowed is taken out.

    Raises what ``unpack``, ``judge`` and ``convert`` raise.
    """
    path, shown = fresh.path, fresh.shown
    if compression_of(path, shown=shown):
        path = f"{fresh.path}.unpacked"
        unpack(fresh.path, path, shown=shown, progress=partial(progress, "unpack"))
    source = image = judge(path, image_format, shown=shown, allowance=allowance)
    target = target_format or ("raw" if source.format == "raw" else "qcow2")
    if source.format != target or not source.is_plain:
        image = convert(
            source,
            f"{fresh.path}.converted",
            target,
            shown=shown,
            progress=partial(progress, "convert"),
        )
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{fresh.path}.unpacked")
    if image.path == fresh.path:
        digest = f"{DEFAULT_ALGORITHM}:{fresh.sha256}"
    else:
        digest = str(digest_of(image.path, progress=progress))
    return TakenIn(image, source, digest)


def digest_of(
    path: str, algorithm: str = DEFAULT_ALGORITHM, progress: Progress | None = None
) -> Checksum:
    """Return the digest of a file; raise ``ImageNotFound`` if it cannot be read."""
    digest = hashlib.new(algorithm)
    try:
        with open(path, "rb", buffering=0) as stream:
            size, done = os.fstat(stream.fileno()).st_size, 0
            for data in iter(lambda: stream.read(CHUNK), b""):
                digest.update(data)
                done += len(data)
                if progress is not None:
                    progress("verify", done, size)
    except OSError as exc:
        raise ImageNotFound(
            f"image: {path} cannot be read: {exc.strerror}.", option="image"
        ) from exc
    return Checksum(algorithm, digest.hexdigest())
