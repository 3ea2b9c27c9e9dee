# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the option ``image`` names: a file, a URL, an OCI reference or an image of the catalogue. Pure but for paths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from .._core.errors import InvalidSpec

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class ImageSource:
    """Where an image comes from. ``kind`` is path, url, oci or name; ``text`` is what is recorded."""

    kind: str
    text: str


def parse_source(text: str, option: str = "image") -> ImageSource:
    """Read what a user gave as an image; raise ``InvalidSpec`` for what cannot be one."""
    if "\0" in text or not text:
        raise _invalid(text, option, "it is empty or holds a null byte")
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme in ("http", "https", "file"):
        return ImageSource("url", _check_url(text, option))
    if scheme == "oci":
        return ImageSource("oci", text)
    if scheme:
        raise _invalid(text, option, f"{scheme} is not a scheme that images can be fetched by")
    path = os.path.expandvars(os.path.expanduser(text))
    if os.path.isabs(path):
        return ImageSource("path", os.path.realpath(path))
    if _NAME.fullmatch(text):
        return ImageSource("name", text)
    # A module runs in whatever folder the connection begins in: a relative path would mean another file each time.
    raise _invalid(text, option, "it is not an absolute path")


def _check_url(text: str, option: str) -> str:
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise InvalidSpec(
            f"{option}: a URL with a user or password in it would be recorded and shown.",
            "Keep them in ~/.netrc, or fetch the image first with the module vm_image.",
            option=option,
        )
    if parts.scheme.lower() != "file" and not parts.hostname:
        raise _invalid(text, option, "it names no host")
    return text


def _invalid(text: str, option: str, reason: str) -> InvalidSpec:
    return InvalidSpec(
        f"{option}: {text!r} cannot be used: {reason}.",
        "Give an absolute path, a URL (https://...), an OCI reference (oci://registry/repository:tag) "
        "or the name of a well-known image.",
        option=option,
    )
