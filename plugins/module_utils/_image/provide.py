# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the option ``image`` to a file on this host that a machine's disk can be made from."""

from __future__ import annotations

from .._core.errors import ImageNotFound, InvalidSpec
from .._core.spec import VmSpec
from .inspect import Image, inspect_image
from .source import parse_source


def foresee_image(spec: VmSpec, data_dir: str) -> Image | None:
    """Return the image that is there already; ``None`` if it must be fetched first. Touches nothing.

    Raises what would hinder its use.
    """
    if spec.image is None:
        return None
    source = parse_source(spec.image)
    if source.kind != "path":
        raise InvalidSpec("image: only paths can be used.", option="image")
    return inspect_image(source.text, spec.image_format)


def provide_image(spec: VmSpec, data_dir: str) -> Image:
    """Return the image, fetched, verified and found safe."""
    image = foresee_image(spec, data_dir)
    if image is None:
        raise ImageNotFound(f"The record of the VM '{spec.name}' names no image.", option="image")
    return image
