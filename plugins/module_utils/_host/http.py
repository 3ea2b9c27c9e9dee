# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The door to HTTP: one request over Ansible's URL code, answered by a status, headers and a stream of bytes."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol, Union
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from .._core.errors import HttpFailed

_REDIRECTS = (301, 302, 303, 307, 308)
# All others may hold secrets: tokens have many names.
_HARMLESS = (
    "accept",
    "accept-encoding",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "range",
    "user-agent",
)


class Readable(Protocol):
    """What a long body is read from, piece by piece; its length is given as the header ``Content-Length``."""

    def read(self, size: int = ..., /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""

    def seek(self, offset: int, /) -> int:
        """Go back to where the body begins, to send it again."""


Body = Union[bytes, Readable]


@dataclass(frozen=True)
class Request:
    """What is asked. ``timeout`` is in seconds: of the connection, and of each silence after it.

    ``redirects`` is how many may be followed, by GET and HEAD only, and never from https to http; one more is an
    answer like any other. ``proxies`` tells whether the proxies of the environment are used.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    timeout: float = 30.0
    redirects: int = 0
    proxies: bool = True


class Response:
    """An answer of any status. ``headers`` have names in lower case; ``url`` is the last one, after redirects.

    The bytes are as they came over the wire: a content encoding is not undone.
    """

    def __init__(self, status: int, headers: Mapping[str, str], request: Request, stream: Any):
        self.status = status
        self.headers = headers
        self.url = request.url
        self.received = 0  # bytes of the body so far
        self._stream = stream
        # These announce the length of a body that does not come.
        self._bodiless = request.method.upper() == "HEAD" or status in (204, 304)

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def length(self) -> int | None:
        """How many bytes the body has, if the server said so."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes of the body; none means that it has ended.

        Raises ``HttpFailed`` if the connection breaks, or is closed before the announced length.
        """
        return self._take(self._stream.read, size)

    def read_some(self, size: int) -> bytes:
        """Return what has come of the next ``size`` bytes, without waiting for all of them; else like :meth:`read`."""
        return self._take(self._stream.read1, size)

    def _take(self, take: Callable[[int], bytes], size: int) -> bytes:
        try:
            data = take(size)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            reason = f"{_reason(exc)} after {self.received} bytes"
            raise _failed(self.url, reason, exc) from exc
        self.received += len(data)
        if not data and size and self._is_cut_off():
            raise _failed(
                self.url, f"the connection was closed after {self.received} of {self.length} bytes"
            )
        return data

    def close(self) -> None:
        """End the connection, whether all has been read or not."""
        self._stream.close()

    def _is_cut_off(self) -> bool:
        return not self._bodiless and self.length is not None and self.received < self.length


def send(request: Request) -> Response:
    """Send a request and return the answer, whatever its status, as soon as its headers are there.

    Raises ``HttpFailed`` if no answer came: no connection, no name, a broken TLS handshake, silence (then
    ``details`` have ``timed_out``), or a URL that is not http or https. Headers that may hold secrets are not sent on to another origin.

    Ansible's URL code keeps its settings for the whole process: threads that send at the same time must agree on
    ``proxies``.
    """
    for dummy in range(request.redirects):
        response = _exchange(request)
        onward = _redirected(request, response)
        if onward is None:
            return response
        response.close()
        request = onward
    return _exchange(request)


def shown(url: str) -> str:
    """Return the URL without what may be secret in it: the account, the query and the fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a URL that cannot be read"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _exchange(request: Request) -> Response:
    # Costs some 30 ms to import, so only those tasks pay that speak HTTP.
    scheme = request.url.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise _failed(request.url, "this is no URL of the kind http or https")
    import ssl

    try:
        from ansible.module_utils import urls
    except ImportError:
        return _exchange_without_ansible(request)
    make_opener: Any = urls.Request  # has no types
    plain = scheme == "http" and not request.proxies
    try:
        stream = make_opener().open(
            request.method,
            request.url,
            data=request.body,
            headers=dict(request.headers),
            timeout=request.timeout,
            use_proxy=request.proxies,
            follow_redirects="none",
            decompress=False,
            use_netrc=False,
            # Reading the system's certificates would take longer than the whole request.
            context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else None,
        )
    except HTTPError as exc:  # an answer, too
        return Response(exc.code, _headers(exc.headers), request, exc)
    except (OSError, http.client.HTTPException, ValueError, urls.ConnectionError) as exc:
        raise _failed(request.url, _reason(exc), exc) from exc
    return Response(stream.status, _headers(stream.headers), request, stream)


def _exchange_without_ansible(request: Request) -> Response:
    """Do the same for a server nearby: the inventory looks at machines on hosts where no part of Ansible is."""
    parts = urlsplit(request.url)
    if parts.scheme.lower() != "http" or request.proxies:
        raise _failed(request.url, "Ansible's URL code is missing")
    target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port or 80, timeout=request.timeout
    )
    body: Any = request.body
    try:
        connection.request(request.method, target, body, dict(request.headers))
        answer = connection.getresponse()
    except (OSError, http.client.HTTPException, ValueError) as exc:
        connection.close()
        raise _failed(request.url, _reason(exc), exc) from exc
    return Response(answer.status, _headers(answer.headers), request, answer)


def _headers(found: Any) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in found.items():  # one that comes twice is a list, by RFC 9110, 5.3
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


def _redirected(request: Request, response: Response) -> Request | None:
    target = response.headers.get("location")
    if (
        response.status not in _REDIRECTS
        or not target
        or request.method.upper() not in ("GET", "HEAD")
    ):
        return None
    try:
        url = urljoin(request.url, target.replace(" ", "%20"))
        before, after = urlsplit(request.url), urlsplit(url)
        same = _origin(before) == _origin(after)
    except ValueError as exc:
        response.close()
        raise _failed(request.url, f"it redirects to a URL that cannot be read: {exc}") from exc
    if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
        response.close()
        raise _failed(request.url, f"it redirects to {shown(url)}, which is less safe")
    headers = {
        name: value for name, value in request.headers.items() if same or name.lower() in _HARMLESS
    }
    return replace(request, url=url, headers=headers)


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or {"https": 443}.get(parts.scheme, 80)


def _is_silence(exc: BaseException | None) -> bool:
    if isinstance(exc, URLError) and isinstance(exc.reason, BaseException):
        exc = exc.reason
    return isinstance(exc, (TimeoutError, socket.timeout))  # one class since Python 3.10


def _reason(exc: BaseException) -> str:
    if isinstance(exc, URLError) and isinstance(exc.reason, BaseException):
        return _reason(exc.reason)
    if _is_silence(exc):
        return "no answer in time"
    if isinstance(exc, (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)):
        return "the connection was closed"
    if isinstance(exc, http.client.HTTPException):
        return f"this is not HTTP ({type(exc).__name__})"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__


def _failed(url: str, reason: str, cause: BaseException | None = None) -> HttpFailed:
    return HttpFailed(
        f"{shown(url)} could not be asked: {reason}.",
        url=shown(url),
        reason=reason,
        timed_out=_is_silence(cause) or None,
    )
