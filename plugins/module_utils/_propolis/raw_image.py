# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image as the raw blocks that Propolis needs; it knows no other format."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .._host.commands import require_program
from .._image.convert import convert
from .._image.inspect import Image


@contextlib.contextmanager
def as_raw(image: Image, copy: str) -> Iterator[str]:
    """Give the path of the image's raw blocks: the file itself, or a converted copy that is removed afterwards.

    ``copy`` is the path that such a copy gets; what an earlier run has left there is replaced.
    """
    if image.format == "raw":
        yield image.path
        return
    require_program("qemu-img")
    try:
        yield convert(image, copy, "raw").path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(copy)
