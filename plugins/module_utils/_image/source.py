# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the option ``image`` names: a file, a URL, an OCI reference or an image of the catalogue. Pure but for paths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from .._core.errors import InvalidSpec

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_UNFIT = re.compile(r"[^\x21-\x7e]")  # in a URL: they could split a request in two
_ACCOUNT = re.compile(r"\A([\w+.-]+://)[^/?]*@")
_QUERY = re.compile(r"\A([\w+.-]+://[^?]*\?).+", re.DOTALL)
_KEY_LENGTH = 16


@dataclass(frozen=True)
class ImageSource:
    """Where an image comes from. ``kind`` is path, url, oci or name; ``text`` may hold the signature of a URL."""

    kind: str
    text: str

    @property
    def key(self) -> str:
        """A short name that no other source has, made of the whole text."""
        import hashlib

        return hashlib.sha256(self.text.encode()).hexdigest()[:_KEY_LENGTH]

    @property
    def shown(self) -> str:
        """What is recorded and shown: the text, but for the query of a URL, which may be a signature."""
        return hide_secrets(self.text) if self.kind == "url" else self.text

    @property
    def has_query(self) -> bool:
        """Tell whether it is a URL with something after a question mark."""
        return self.kind == "url" and "?" in self.text

    @property
    def file_name(self) -> str:
        """The last word of the path, without what belongs to a query, a tag or a digest."""
        if self.kind == "url":
            return unquote(urlsplit(self.text).path).rpartition("/")[2]
        if self.kind == "oci":
            return self.text.partition("@")[0].rpartition("/")[2].partition(":")[0]
        return os.path.basename(self.text)

    @property
    def local_path(self) -> str | None:
        """The path on this host that a path or a ``file://`` URL names."""
        if self.kind == "path":
            return self.text
        parts = urlsplit(self.text) if self.kind == "url" else None
        return unquote(parts.path) if parts and parts.scheme == "file" else None


def parse_source(text: str, option: str = "image") -> ImageSource:
    """Read what a user gave as an image; raise ``InvalidSpec`` for what cannot be one."""
    if "\0" in text or not text:
        raise _invalid(text, option, "it is empty or holds a null byte")
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme in ("http", "https", "file"):
        return ImageSource("url", _check_url(text, option))
    if scheme == "oci":
        from .oci_reference import parse_reference

        return ImageSource("oci", str(parse_reference(text, option)))
    if scheme:
        raise _invalid(
            hide_secrets(text), option, f"{scheme} is not a scheme that images can be fetched by"
        )
    path = os.path.expandvars(os.path.expanduser(text))
    if os.path.isabs(path):
        return ImageSource("path", os.path.realpath(path))
    if _NAME.fullmatch(text):
        return ImageSource("name", text)
    # A module runs in whatever folder the connection begins in: a relative path would mean another file each time.
    raise _invalid(text, option, "it is not an absolute path")


def refuse_query(source: ImageSource, option: str = "image") -> ImageSource:
    """Return a source that may be recorded as it is; raise ``InvalidSpec`` for a URL with a query."""
    if source.has_query:
        raise InvalidSpec(
            f"{option}: {source.shown} has a query, which may be a signature and would be recorded.",
            "Fetch it first with the module vm_image, and give the path that it returns, image.path.",
            option=option,
        )
    return source


def hide_secrets(text: str) -> str:
    """Return a text, if it is a URL, with three dots in place of its account and its query."""
    return _QUERY.sub(r"\1...", _ACCOUNT.sub(r"\1...@", text))


def _check_url(text: str, option: str) -> str:
    shown = hide_secrets(text)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        # It is not shown: nobody can tell where a password in it would be.
        raise _invalid(f"{text.partition('://')[0]}://...", option, "it is no URL") from exc
    if parts.username is not None or parts.password is not None:
        raise InvalidSpec(
            f"{option}: a URL with a user or password in it would be recorded and shown.",
            "Fetch it first with the module vm_image and its options username and password.",
            option=option,
        )
    if _UNFIT.search(text):
        reason = "there is a character in it that must be written as %XX"
        raise _invalid(shown, option, reason)
    if parts.scheme == "file":
        _check_file_url(parts.netloc, unquote(parts.path), shown, option)
    elif not parts.hostname or port == 0:
        raise _invalid(shown, option, "it names no host and port that could be asked")
    return urlunsplit(parts._replace(fragment=""))


def _check_file_url(host: str, path: str, shown: str, option: str) -> None:
    if host not in ("", "localhost"):
        raise _invalid(
            shown, option, "a file:// URL with a host in it would be on another computer"
        )
    if not os.path.isabs(path) or "\0" in path or path.endswith("/"):
        raise _invalid(shown, option, "it names no file")


def _invalid(text: str, option: str, reason: str) -> InvalidSpec:
    return InvalidSpec(
        f"{option}: {text!r} cannot be used: {reason}.",
        "Give an absolute path, a URL (https://...), an OCI reference (oci://registry/repository:tag) "
        "or the name of a well-known image.",
        option=option,
    )
