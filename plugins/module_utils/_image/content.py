# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bytes of an image file that nobody has vouched for: read a little, anywhere, and not for ever."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .._core.errors import ImageNotFound, ImageRefused

_SECONDS = 60.0


@dataclass(frozen=True)
class Content:
    """An open image. ``shown`` is what messages call it, ``length`` is in bytes."""

    shown: str
    length: int
    _fd: int
    _deadline: float

    def read(self, offset: int, size: int) -> bytes:
        """Return what the file holds there: less than ``size`` bytes at its end, none behind it."""
        if time.monotonic() > self._deadline:
            raise self.refused(f"has tables that could not be read through within {_SECONDS:g} s")
        if offset >= self.length:
            return b""
        try:
            return os.pread(self._fd, size, offset)
        except OSError as exc:
            raise _unreadable(self.shown, exc) from exc

    def refused(
        self, what: str, help_text: str | None = None, *, mendable: bool = False, **details: object
    ) -> ImageRefused:
        """Return the error for an image that is readable but not fit for use. ``what`` follows the name of the file."""
        message = f"image: {self.shown} {what}."
        return ImageRefused(message, help_text, mendable=mendable, option="image", **details)


@contextlib.contextmanager
def opened(path: str, shown: str | None = None) -> Iterator[Content]:
    """Open an image file for reading; raise ``ImageNotFound`` if there is none or it may not be read."""
    shown = shown or path
    try:
        if not os.path.isfile(path):
            exists = os.path.exists(path)
            what = "is a folder or a device, not a file" if exists else "does not exist"
            raise ImageNotFound(f"image: {shown} {what}.", option="image")
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise _unreadable(shown, exc) from exc
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ImageNotFound(f"image: {shown} is no file any more.", option="image")
        yield Content(shown, found.st_size, fd, time.monotonic() + _SECONDS)
    finally:
        os.close(fd)


def _unreadable(shown: str, exc: OSError) -> ImageNotFound:
    return ImageNotFound(f"image: {shown} cannot be read: {exc.strerror}.", option="image")
