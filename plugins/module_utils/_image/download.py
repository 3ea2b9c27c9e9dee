# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One file over http or https, in as many attempts as it takes.

The bytes are checked while they come: their number against what the server announced, their digest against what the
task says. What cannot be proven to be the beginning of the same file is never gone on with.
"""

from __future__ import annotations

import os
import shutil
import time

from .._core.errors import HttpFailed, ImageFetchFailed
from .._host.http import Request, Response, send, shown
from .part import CHUNK, Origin, Part, forget, note, noted, this_boot
from .transfer import REDIRECTS, Fetch, Fetched, Progress, mismatch, reason_of

# Seconds before the next attempt, which is the last when there is no pause left.
_PAUSES = (0.5, 1.0, 2.0, 4.0)
_PROGRESS = 1024 * 1024  # bytes after which failures count from the beginning
_SLOWEST = 1024  # bytes per second, below which a server is given up
_LATER = (408, 425, 429)  # answers that may be others a moment later, besides those from 500 on
_KEPT = "Check the network and run the task again: what has been fetched is kept, and only the rest is asked for."
_GONE = "Check the URL: its server has no such file."
_ACCOUNT = (
    "Check the URL. If the server wants an account, fetch the image with the module vm_image and its "
    "options username and password."
)
_NO_LENGTH = (
    "Give a checksum: without one, an image that was cut off could not be told from a whole one."
)


class _Interrupted(Exception):
    """An attempt has failed in a way that another one may not."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class Download:
    """One file over http or https, in as many attempts as it takes."""

    def __init__(self, request: Fetch, part: Part, progress: Progress) -> None:
        self._request = request
        self._part = part
        self._progress = progress
        self._origin = Origin()
        self._weak_etag: str | None = None
        self._last_modified: str | None = None
        self._answered = False  # in this run
        self._unproven = False  # whether some of the bytes were here before

    def run(self) -> Fetched | None:
        """Fetch what is missing; return ``None`` if the version at hand is still the current one."""
        self._take_up()
        fetched = self._all()
        if fetched and fetched.wrong(self._request.expected) and self._unproven:
            self._start_over()  # what was here before may be what is wrong
            fetched = self._all()
        if fetched is None:
            self._part.discard()
            return None
        wrong = fetched.wrong(self._request.expected)
        if wrong:
            self._part.discard()
            raise mismatch(shown(self._request.url), wrong, fetched.digests[wrong.algorithm])
        return fetched

    def _take_up(self) -> None:
        """Go on with what an earlier run has left if it is the beginning of the same file; else throw it away."""
        found, proof = noted(self._part.path), self._request.proof
        proven = found is not None and proof is not None and found.proof == proof
        fresh = found is not None and found.boot is not None and found.boot == this_boot()
        if found is None or not (proven or (fresh and found.etag)):
            self._start_over()
            return
        self._origin = found
        self._part.take_up()
        self._unproven = self._part.offset > 0

    def _start_over(self) -> None:
        forget(self._part.path)
        self._part.restart()
        self._origin = Origin()
        self._unproven = False

    def _all(self) -> Fetched | None:
        failures, furthest = 0, self._part.offset
        while True:
            try:
                if not self._attempt():
                    return None
                break
            except _Interrupted as exc:
                if self._part.offset >= furthest + _PROGRESS:
                    failures, furthest = 0, self._part.offset
                if failures == len(_PAUSES):
                    raise self._failed(str(exc), status=exc.status) from exc
                time.sleep(_PAUSES[failures])
                failures += 1
                self._drop_what_cannot_be_continued()
        origin = self._origin
        etag = origin.etag or self._weak_etag
        return Fetched(self._part.finish(), self._part.offset, etag, self._last_modified)

    def _attempt(self) -> bool:
        """Fetch all that is missing; tell whether there was anything to fetch."""
        if self._is_complete and self._request.expected:
            return True
        try:
            response = send(self._ask())
        except HttpFailed as exc:
            if self._answered:
                raise _Interrupted(reason_of(exc)) from exc
            raise self._failed(reason_of(exc)) from exc
        with response:
            self._answered = True
            if response.status == 304 and (self._is_complete or self._request.known):
                return self._is_complete
            self._begin(response)
            self._stream(response)
        return True

    @property
    def _is_complete(self) -> bool:
        return self._part.offset > 0 and self._part.offset == self._origin.length

    def _ask(self) -> Request:
        headers = {**self._request.headers, "Accept-Encoding": "identity"}
        etag = self._origin.etag
        if self._is_complete:
            headers["If-None-Match"] = etag or ""
        elif self._part.offset:
            headers["Range"] = f"bytes={self._part.offset}-"
            if etag:
                headers["If-Range"] = etag
        else:
            headers.update(self._request.known)
        return Request(
            "GET",
            self._request.url,
            headers,
            timeout=self._request.timeout,
            redirects=REDIRECTS,
        )

    def _begin(self, response: Response) -> None:
        """Make the part end where the answer begins, or raise what the answer means."""
        status = response.status
        if status == 206 and self._part.offset:
            self._check_continuation(response)
        elif status == 200:
            self._start_over()
            self._note(response)
        elif status == 416:
            self._start_over()
            raise _Interrupted("it has fewer bytes than it had", status)
        elif status in _LATER or status >= 500:
            raise _Interrupted(f"the server answered {status}", status)
        elif 300 <= status < 400 and "location" in response.headers:
            last = shown(response.url)
            reason = f"the server redirects more than {REDIRECTS} times, at last from {last}"
            raise self._failed(reason, status=status)
        else:
            raise self._failed(f"the server answered {status}", status=status)

    def _check_continuation(self, response: Response) -> None:
        start, total = _content_range(response)
        etag = _strong(response.headers.get("etag"))
        same = etag is None or self._origin.etag is None or etag == self._origin.etag
        if start != self._part.offset or not same or total not in (None, self._origin.length):
            self._start_over()
            raise _Interrupted("the server went on with another file", response.status)
        self._unproven = self._unproven or self._origin.etag is None

    def _note(self, response: Response) -> None:
        """Keep what the whole is said to be, and write down how a later run can go on."""
        request, length = self._request, response.length
        chunked = "chunked" in response.headers.get("transfer-encoding", "").lower()
        if length is None and not chunked and not request.expected:
            raise self._failed("the server does not say how long it is", help_text=_NO_LENGTH)
        if request.size is not None and length not in (None, request.size):
            raise self._failed(f"it has {length} bytes, not {request.size}", status=200)
        self._check_room(length)
        self._weak_etag = response.headers.get("etag")
        self._last_modified = response.headers.get("last-modified")
        self._origin = Origin(
            etag=_strong(response.headers.get("etag")),
            proof=request.proof,
            length=length if length is not None else request.size,
            boot=this_boot(),
        )
        if self._can_be_continued:
            note(self._part.path, self._origin)

    @property
    def _can_be_continued(self) -> bool:
        return bool(self._origin.etag or self._origin.proof)

    def _drop_what_cannot_be_continued(self) -> None:
        if not self._can_be_continued:
            self._start_over()

    def _check_room(self, length: int | None) -> None:
        free = shutil.disk_usage(os.path.dirname(self._part.path)).free
        if length is not None and length > free:
            raise self._failed(
                f"it has {length} bytes, and only {free} are free in {os.path.dirname(self._part.path)}",
                help_text="Make room there, or choose another data_dir.",
            )

    def _stream(self, response: Response) -> None:
        length = self._origin.length
        watch = _Watch(self._request.timeout)
        while True:
            try:
                data = response.read_some(CHUNK)
            except HttpFailed as exc:
                raise _Interrupted(reason_of(exc)) from exc
            if not data:
                break
            self._part.write(data)
            self._progress(self._part.offset, length)
            if watch.is_too_slow(len(data)):
                raise _Interrupted(f"less than {_SLOWEST} bytes per second came")
        if length is not None and self._part.offset != length:
            raise _Interrupted(f"it ended after {self._part.offset} of {length} bytes")

    def _failed(
        self, reason: str, *, status: int | None = None, help_text: str | None = None
    ) -> ImageFetchFailed:
        kept = self._part.offset if self._can_be_continued else 0
        if not kept:
            self._part.discard()
        return ImageFetchFailed(
            f"{shown(self._request.url)} could not be fetched: {reason}.",
            help_text or _help(status, kept),
            url=shown(self._request.url),
            reason=reason,
            status=status,
            received=kept,
            total=self._origin.length,
        )


def _help(status: int | None, kept: int) -> str | None:
    """Return what to do about a failure; ``kept`` are the bytes that a later run goes on with."""
    if status in (401, 403):
        return _ACCOUNT
    if status in (404, 410):
        return _GONE
    return _KEPT if kept else None


class _Watch:
    """Notices a server that trickles: silence is the socket's matter."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._begun = time.monotonic()
        self._received = 0

    def is_too_slow(self, received: int) -> bool:
        """Count bytes; at the end of each window, tell whether they were too few."""
        self._received += received
        now = time.monotonic()
        if now - self._begun < self._window:
            return False
        slow = self._received < _SLOWEST * (now - self._begun)
        self._begun, self._received = now, 0
        return slow


def _content_range(response: Response) -> tuple[int | None, int | None]:
    """Return where the bytes of the answer begin, and how many there are in all (RFC 9110, 14.4)."""
    unit, dummy, rest = response.headers.get("content-range", "").partition(" ")
    span, dummy, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdigit():
        return None, None
    return int(start), int(total) if total.isdigit() else None


def _strong(etag: str | None) -> str | None:
    """Return an ETag that stands for the very bytes; a weak one (RFC 9110, 8.8.1) does not."""
    return etag if etag and etag.startswith('"') else None
