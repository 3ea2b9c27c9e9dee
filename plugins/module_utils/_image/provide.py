# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the option ``image`` to a file on this host that a machine's disk can be made from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from .._core.errors import ImageNotFound
from .._core.spec import VmSpec
from .inspect import Image, inspect_image
from .source import ImageSource, parse_source

if TYPE_CHECKING:
    from .intake import Progress
    from .library import ImageLibrary
    from .wish import ImageWish

# The rest is imported where it is used: it takes time, and an image that lies here already does without.


def foresee_image(spec: VmSpec, data_dir: str, *, target_format: str | None = None) -> Image | None:
    """Return the image that is there already; ``None`` if it must be fetched first. Touches nothing.

    Raises what would hinder its use.
    """
    if spec.image is None:
        return None
    source = parse_source(spec.image)
    if source.kind == "path":
        return _in_place(spec, source)
    entry = _library(data_dir).find(_wish(spec, source, target_format))
    return inspect_image(entry.path, entry.format) if entry else None


def provide_image(
    spec: VmSpec,
    data_dir: str,
    progress: Progress | None = None,
    *,
    target_format: str | None = None,
) -> Image:
    """Return the image, fetched, verified and found safe. ``target_format`` is the one to keep a fetched image in."""
    if spec.image is None:
        raise ImageNotFound(f"The record of the VM '{spec.name}' names no image.", option="image")
    source = parse_source(spec.image)
    if source.kind == "path":
        return _in_place(spec, source)
    from .progress import reporting

    with contextlib.nullcontext(progress) if progress else reporting() as report:
        entry = _library(data_dir).ensure(_wish(spec, source, target_format), report)
    return inspect_image(entry.path, entry.format)


def prove(wish: ImageWish, path: str) -> None:
    """Raise ``ChecksumMismatch`` if a file that is used where it lies is not what the wish's checksum stands for."""
    from .intake import digest_of
    from .transfer import mismatch
    from .wish import with_digest

    wanted = with_digest(wish).digest
    if wanted is None:
        return
    found = digest_of(path, wanted.algorithm)
    if found != wanted:
        raise mismatch(path, wanted, found.hex)


@contextlib.contextmanager
def keeping(image: Image, data_dir: str) -> Iterator[None]:
    """Keep a fetched image from being removed until the machine's record says that it is used."""
    folder = os.path.realpath(os.path.join(data_dir, "images"))
    fetched = os.path.dirname(os.path.realpath(image.path)) == folder
    with _library(data_dir).kept(image.path) if fetched else contextlib.nullcontext():
        yield


def _library(data_dir: str) -> ImageLibrary:
    from .library import ImageLibrary

    return ImageLibrary(data_dir)


def _wish(spec: VmSpec, source: ImageSource, target_format: str | None) -> ImageWish:
    from .checksum import parse_checksum
    from .wish import ImageWish

    checksum = parse_checksum(spec.image_checksum) if spec.image_checksum else None
    return ImageWish(source, checksum, spec.image_format, target_format)


def _in_place(spec: VmSpec, source: ImageSource) -> Image:
    """Look at an image that is used where it lies."""
    image = inspect_image(source.text, spec.image_format)
    if spec.image_checksum:
        found = os.stat(image.path)
        facts = (found.st_ino, found.st_size, found.st_mtime_ns)
        _prove(source, spec.image_checksum, facts)
    return image


@lru_cache(maxsize=1)  # a task looks at its image twice, and a digest of gigabytes takes seconds
def _prove(source: ImageSource, checksum: str, facts: tuple[int, ...]) -> None:
    """Do as :func:`prove` does, once; ``facts`` tell one content from another."""
    from .checksum import parse_checksum
    from .wish import ImageWish

    prove(ImageWish(source, parse_checksum(checksum)), source.text)
