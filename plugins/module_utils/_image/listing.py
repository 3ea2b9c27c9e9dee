# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetch a list of checksums."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from .._core.errors import ChecksumUnknown, HttpFailed
from .._core.sizes import show_size
from .._host.http import Request, send
from .source import ImageSource
from .transfer import PATIENCE, REDIRECTS, read_document, reason_of, without_waiting

_LONGEST_LIST = 4 * 1024 * 1024  # bytes


def fetch_list(source: ImageSource, headers: Mapping[str, str], timeout: float) -> str:
    """Return a list of checksums as text; raise ``ChecksumUnknown`` if it cannot be had."""
    path = source.local_path
    try:
        data = _read_list(path) if path else _ask_list(source.text, headers, timeout)
    except HttpFailed as exc:
        raise _no_list(source, reason_of(exc).rstrip(".")) from exc
    except OSError as exc:
        raise _no_list(source, exc.strerror or str(exc)) from exc
    if data is None or len(data) > _LONGEST_LIST:
        limits = f"{show_size(_LONGEST_LIST)}, or was not there after {PATIENCE} s"
        raise _no_list(source, f"it is longer than {limits}")
    return data.decode(errors="replace")


def same_server(one: str, other: str) -> bool:
    """Tell whether two URLs lead to the same server, so that both may be shown the same credentials."""
    first, second = urlsplit(one), urlsplit(other)
    return (first.scheme, first.netloc) == (second.scheme, second.netloc)


def _read_list(path: str) -> bytes:
    with open(path, "rb", opener=without_waiting) as stream:
        return stream.read(_LONGEST_LIST + 1) or b""


def _ask_list(url: str, headers: Mapping[str, str], timeout: float) -> bytes | None:
    request = Request("GET", url, headers, timeout=timeout, redirects=REDIRECTS)
    with send(request) as response:
        if response.status != 200:
            raise HttpFailed(f"the server answered {response.status}")
        return read_document(response, _LONGEST_LIST)


def _no_list(source: ImageSource, reason: str) -> ChecksumUnknown:
    return ChecksumUnknown(
        f"The list of checksums {source.shown} cannot be used: {reason}.", url=source.shown
    )
