# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetch one file by http, https or file, into a part file that a later run can go on with."""

from __future__ import annotations

import os
import stat

from .._core.errors import HttpFailed, ImageFetchFailed, ImageNotFound
from .._host.http import Request, send, shown
from .download import Download
from .part import CHUNK, Part, forget
from .source import ImageSource
from .transfer import REDIRECTS, Fetch, Fetched, Progress, mismatch, reason_of, without_waiting


def fetch(request: Fetch, part_path: str, progress: Progress | None = None) -> Fetched | None:
    """Bring all bytes into ``part_path``; return ``None`` if the version at hand is still the current one.

    Raises ``ImageFetchFailed``, ``ImageNotFound`` or ``ChecksumMismatch``. After the latter, and after a full disk,
    nothing is left of the file; after others, what a later run can go on with.
    """
    path = ImageSource("url", request.url).local_path
    if path is not None:
        return _copy(path, request, part_path, progress or _silent)
    with Part(part_path, request.algorithms) as part:
        return Download(request, part, progress or _silent).run()


def is_unchanged(request: Fetch) -> bool:
    """Ask whether the version at hand is still the current one, without fetching anything.

    Raises ``ImageFetchFailed`` if the server does not say.
    """
    path = ImageSource("url", request.url).local_path
    if path is not None:
        return _version_of(path) == request.known.get("If-None-Match")
    headers = {**request.headers, **request.known}
    asked = Request("GET", request.url, headers, timeout=request.timeout, redirects=REDIRECTS)
    try:
        with send(asked) as response:
            status = response.status
    except HttpFailed as exc:
        raise _unasked(request, reason_of(exc)) from exc
    if status not in (200, 304):
        raise _unasked(request, f"the server answered {status}")
    return status == 304


def _copy(path: str, request: Fetch, part_path: str, progress: Progress) -> Fetched | None:
    try:
        stream = open(path, "rb", opener=without_waiting)  # noqa: SIM115 - closed below
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    with stream, Part(part_path, request.algorithms) as part:
        facts = os.fstat(stream.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ImageNotFound(f"image: {path} is no file.", option="image")
        version = _version(facts)
        if version == request.known.get("If-None-Match"):
            part.discard()
            return None
        forget(part_path)
        part.restart()
        for data in iter(lambda: stream.read(CHUNK), b""):
            part.write(data)
            progress(part.offset, facts.st_size)
        fetched = Fetched(part.finish(), part.offset, version)
        wrong = fetched.wrong(request.expected)
        if part.offset != facts.st_size:
            part.discard()
            raise ImageFetchFailed(f"{path} was changed while it was read.", "Run the task again.")
        if wrong:
            part.discard()
            raise mismatch(path, wrong, fetched.digests[wrong.algorithm])
        return fetched


def _version_of(path: str) -> str:
    try:
        return _version(os.stat(path))
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _version(facts: os.stat_result) -> str:
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def _unreadable(path: str, exc: OSError) -> ImageNotFound:
    return ImageNotFound(f"image: {path} cannot be read: {exc.strerror}.", option="image")


def _unasked(request: Fetch, reason: str) -> ImageFetchFailed:
    name = shown(request.url)
    return ImageFetchFailed(f"{name} could not be asked for: {reason}.", url=name, reason=reason)


def _silent(done: int, total: int | None) -> None:
    """Report nothing."""
