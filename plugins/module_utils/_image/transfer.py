# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is fetched, and what came of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .._core.errors import ChecksumMismatch, HttpFailed
from .._host.http import Response
from .checksum import DEFAULT_ALGORITHM, Checksum

Progress = Callable[[int, "int | None"], None]  # bytes done, bytes in all if that is known

REDIRECTS = 10  # that are followed
PATIENCE = 60  # seconds for one document, however often a few bytes come


@dataclass(frozen=True)
class Fetch:
    """What is to be fetched. ``expected`` and ``size`` (bytes) are what the whole must be, as far as that is known.

    ``headers`` may hold secrets. ``image_format`` is what its author says it is in. ``known`` are headers that name the
    version at hand, which is not fetched again. ``timeout`` is in seconds: of the connection, and of each silence after it.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    expected: tuple[Checksum, ...] = ()
    size: int | None = None
    image_format: str | None = None
    known: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 30.0

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The digests that are taken."""
        return (DEFAULT_ALGORITHM, *(checksum.algorithm for checksum in self.expected))

    @property
    def proof(self) -> str | None:
        """What the whole must be, as one text."""
        return " ".join(sorted(map(str, self.expected))) or None


@dataclass(frozen=True)
class Fetched:
    """What was fetched: digests by algorithm, length in bytes, and the server's names of this version."""

    digests: Mapping[str, str]
    length: int
    etag: str | None = None
    last_modified: str | None = None

    def wrong(self, expected: Iterable[Checksum]) -> Checksum | None:
        """Return the first checksum that does not stand for what was fetched."""
        return next((c for c in expected if self.digests[c.algorithm] != c.hex), None)


def mismatch(name: str, expected: Checksum, found: str) -> ChecksumMismatch:
    """Return the error for a file with another digest than the task wants."""
    return ChecksumMismatch(
        f"{name} is not the image that the checksum stands for: its {expected.algorithm} is {found}, "
        f"not {expected.hex}.",
        expected=str(expected),
        found=f"{expected.algorithm}:{found}",
    )


def reason_of(exc: HttpFailed) -> str:
    """Return why a request failed, without the URL."""
    return str(exc.details.get("reason") or exc.message)


def read_document(response: Response, limit: int) -> bytes | None:
    """Return the body of an answer; ``None`` if it is longer than ``limit`` bytes, or not there within ``PATIENCE``.

    Raises ``HttpFailed`` if the connection breaks.
    """
    data = b""
    deadline = time.monotonic() + PATIENCE
    while len(data) <= limit and time.monotonic() < deadline:
        more = response.read_some(64 * 1024)
        if not more:
            return data
        data += more
    return None


def without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe in its place must not keep the task waiting."""
    return os.open(path, flags | os.O_NONBLOCK)
