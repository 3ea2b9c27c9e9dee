# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an image must be, as people say it: a digest, or the URL of a file that lists digests. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .._core.errors import InvalidSpec
from .source import ImageSource, parse_source, refuse_query

LENGTHS = {"sha256": 64, "sha512": 128}  # algorithms that still prove something, with their digits
DEFAULT_ALGORITHM = "sha256"

_HEX = re.compile(r"[0-9a-fA-F]+")
_GNU = re.compile(r"([0-9a-fA-F]{64,128})[ \t]+\*?(.+)")  # as sha256sum writes it
_BSD = re.compile(r"(SHA256|SHA512) ?\((.+)\) ?= ?([0-9a-fA-F]{64,128})")  # as sha256sum --tag


@dataclass(frozen=True)
class Checksum:
    """A digest in lower case, with its algorithm."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True)
class ChecksumUrl:
    """Where a list of digests is; only those of ``algorithm`` count, if it is given.

    ``image`` is the well-known image whose publisher keeps the list, if no task named its URL.
    """

    source: ImageSource
    algorithm: str | None = None
    image: str | None = None


def parse_checksum(text: str, option: str = "image_checksum") -> Checksum | ChecksumUrl:
    """Read ``sha256:<digits>``, ``sha512:<digits>``, a URL, or ``sha256:<URL>``; raise ``InvalidSpec`` for the rest."""
    word, colon, rest = text.strip().partition(":")
    algorithm = word.lower()
    if colon and algorithm in LENGTHS:
        if "://" in rest:
            return ChecksumUrl(_parse_url(rest, option), algorithm)
        if len(rest) == LENGTHS[algorithm] and _HEX.fullmatch(rest):
            return Checksum(algorithm, rest.lower())
        raise _invalid(
            option, f"after '{algorithm}:' come {LENGTHS[algorithm]} hexadecimal digits or a URL"
        )
    if "://" in text:
        return ChecksumUrl(_parse_url(text.strip(), option))
    if algorithm in ("md5", "sha1"):
        raise _invalid(option, f"{algorithm} can be forged, so it proves nothing")
    raise _invalid(option, "it names no algorithm that is known here")


def check_recordable(text: str, option: str = "image_checksum") -> None:
    """Raise ``InvalidSpec`` for what is no checksum, or may not be recorded as it is."""
    parsed = parse_checksum(text, option)
    if isinstance(parsed, ChecksumUrl):
        refuse_query(parsed.source, option)


def find_in_list(
    listing: str, name: str, algorithm: str | None = None, *, alone: bool = False
) -> Checksum:
    """Return the digest that a list gives for the file ``name``.

    Understands what sha256sum and sha512sum write, with and without ``--tag``, and a file that holds one digest and
    nothing else. ``alone`` says that the list is for this file alone: a single digest in it may stand beside the name
    of the build that ``name`` means today. Raises ``ValueError`` saying what is wrong with the list.
    """
    bare = _of_digits(listing.strip())
    listed = [(bare, name)] if bare else list(_entries(listing))
    if alone and len(listed) == 1:
        listed = [(listed[0][0], name)]
    found = {
        checksum
        for checksum, path in listed
        if path.rpartition("/")[2] == name and algorithm in (None, checksum.algorithm)
    }
    if not found:
        raise ValueError(f"it lists no {algorithm or 'SHA-256 or SHA-512 digest'} of {name}")
    strongest = max(LENGTHS[checksum.algorithm] for checksum in found)
    best = [checksum for checksum in found if len(checksum.hex) == strongest]
    if len(best) > 1:
        raise ValueError(f"it lists {len(best)} different digests of {name}")
    return best[0]


def _entries(listing: str) -> Iterator[tuple[Checksum, str]]:
    for line in listing.splitlines():
        gnu, bsd = _GNU.fullmatch(line.rstrip()), _BSD.fullmatch(line.rstrip())
        digits, name = (gnu[1], gnu[2]) if gnu else (bsd[3], bsd[2]) if bsd else ("", "")
        checksum = _of_digits(digits)
        if checksum and (bsd is None or bsd[1].lower() == checksum.algorithm):
            yield checksum, name


def _of_digits(digits: str) -> Checksum | None:
    algorithms = [name for name, length in LENGTHS.items() if len(digits) == length]
    return (
        Checksum(algorithms[0], digits.lower()) if algorithms and _HEX.fullmatch(digits) else None
    )


def _parse_url(text: str, option: str) -> ImageSource:
    source = parse_source(text, option)
    if source.kind != "url":
        raise _invalid(option, "a list of checksums is fetched by http, https or file")
    return source


def _invalid(option: str, reason: str) -> InvalidSpec:
    return InvalidSpec(
        f"{option}: {reason}.",
        "Give sha256:<64 digits>, sha512:<128 digits>, or the URL of a file such as SHA256SUMS.",
        option=option,
    )
