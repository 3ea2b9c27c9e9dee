# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One repository of a registry over HTTP: who is asked for what, and what the answers mean.

Credentials go to the registry, and to the token server that it names, when they ask for them; never to where a
redirect leads. Everything is https, unless the task asked for http.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from .._core.errors import HttpFailed, OciAuthFailed, OciFailed, OciNotFound, OciRefused, VmError
from .._host.http import Body, Request, Response, send, shown
from .oci_auth import Access, Credentials, Login, find_login, parse_challenges
from .oci_reference import Reference
from .transfer import PATIENCE, read_document

_REDIRECTS = 5
_LARGEST_ANSWER = 4 * 1024 * 1024  # the distribution specification's own limit for manifests
_LARGEST_COMPLAINT = 64 * 1024


class Registry:
    """The server of one reference. ``pushes`` tells which rights a token is asked for."""

    def __init__(self, reference: Reference, access: Access, pushes: bool = False) -> None:
        self.reference = reference
        self._access = access
        self._resource = f"repository:{reference.repository}:"
        self._scope = self._resource + ("pull,push" if pushes else "pull")
        scheme = "http" if access.plain_http else "https"
        self._base = f"{scheme}://{reference.server}/v2/{reference.repository}/"
        self._authorization: str | None = None
        self._login: Login | None = None

    def url(self, path: str) -> str:
        """Return the URL of something in the repository; a whole URL stays as it is, if it is safe to use."""
        schemes = ("https", "http") if self._access.plain_http else ("https",)
        try:
            url = urljoin(self._base, path)
            safe = _origin(url)[0] in schemes
        except ValueError:  # no URL at all
            url, safe = path, False
        if not safe:
            raise OciFailed(
                f"{self.reference}: the registry leads to {shown(url)}, which is not safe to use.",
                "The registry, or the proxy before it, must be told that it is reached by https.",
            )
        return url

    def headers(self, url: str) -> dict[str, str]:
        """Return the headers that show who asks, for a URL of the registry itself; none for other servers."""
        known = self._authorization is not None and _origin(url) == _origin(self._base)
        return {"Authorization": str(self._authorization)} if known else {}

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Response:
        """Send a request, and once more with credentials if the registry asks for them."""
        url = self.url(path)
        response = self._send(method, url, headers or {}, body)
        # Only the registry itself may ask: where a redirect or an upload has led could name a token server of its own.
        if response.status != 401 or _origin(response.url) != _origin(self._base):
            return response
        with response:
            self._authorize(response.headers.get("www-authenticate", ""))
        if body is not None and not isinstance(body, bytes):
            body.seek(0)
        return self._send(method, url, headers or {}, body)

    def read(self, response: Response) -> bytes:
        """Return the body of an answer; raise ``OciRefused`` if it is absurdly long or slow."""
        data = read_document(response, _LARGEST_ANSWER)
        if data is None:
            raise OciRefused(
                f"{self.reference}: the registry sent a document of more than {_LARGEST_ANSWER} bytes, "
                f"or one that was not there after {PATIENCE} s."
            )
        return data

    def failed(self, response: Response, act: str) -> VmError:
        """Return the error that an answer means. ``act`` follows 'the registry did not'."""
        words = _complaint(response)
        told = f"status {response.status}{f': {words}' if words else ''}"
        if response.status in (401, 403):
            return self._refused(f"it answered with {told}")
        kind: type[VmError] = OciFailed
        what = f"{self.reference}: the registry did not {act}"
        if response.status == 404:
            kind = OciNotFound
            what = f"{self.reference} was not found"
        return kind(f"{what} ({told}).", url=shown(response.url), status=response.status)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None
    ) -> Response:
        request = Request(
            method=method,
            url=url,
            headers={**headers, **self.headers(url)},
            body=body,
            timeout=self._access.timeout,
            redirects=_REDIRECTS,
        )
        try:
            return send(request)
        except HttpFailed as exc:
            if not self._access.plain_http:
                exc.help = (
                    "Check the registry's address, the network and, if one is used, the proxy. "
                    "A registry without TLS is asked only if the task says plain_http: true."
                )
            raise

    def _authorize(self, header: str) -> None:
        challenges = {challenge.scheme: challenge for challenge in parse_challenges(header)}
        credentials = self._find_login().credentials
        if "bearer" in challenges:
            self._authorization = self._fetch_token(challenges["bearer"].parameters, credentials)
        elif "basic" not in challenges:
            ways = ", ".join(challenges) or "none"
            raise self._refused(f"it asks for credentials in a way that is not known here ({ways})")
        elif credentials is None:
            raise self._refused("it asks for a user and a password")
        else:
            self._authorization = credentials.basic()

    def _fetch_token(self, wanted: Mapping[str, str], credentials: Credentials | None) -> str:
        realm = wanted.get("realm", "")
        try:
            scheme, host, dummy_port = _origin(realm)
        except ValueError:
            scheme, host = "", None
        if not host or scheme not in (("https", "http") if self._access.plain_http else ("https",)):
            raise self._refused(f"it names a token server that is not safe to ask: {shown(realm)}")
        # A registry behind another one knows its own name for the repository. The rights are those that will be needed.
        others = [s for s in wanted.get("scope", "").split() if not s.startswith(self._resource)]
        query = [("scope", scope) for scope in (*others, self._scope)]
        if wanted.get("service"):
            query.append(("service", wanted["service"]))
        asked = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query, quote_via=quote)}"
        headers = {"Accept": "application/json"}
        if credentials:
            headers["Authorization"] = credentials.basic()
        request = Request("GET", asked, headers, timeout=self._access.timeout, redirects=_REDIRECTS)
        with send(request) as response:
            if response.status != 200:
                words = _complaint(response)
                told = f"status {response.status}{f': {words}' if words else ''}"
                raise self._refused(f"its token server {shown(realm)} answered with {told}")
            return f"Bearer {self._token(self.read(response), realm)}"

    def _token(self, answer: bytes, realm: str) -> str:
        content = _json(answer)
        token = content.get("token") or content.get("access_token")
        # A line break in it would add headers of the server's choice.
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise self._refused(f"its token server {shown(realm)} gave no token")
        return token

    def _find_login(self) -> Login:
        if self._login is None:
            self._login = find_login(self.reference, self._access, os.environ)
        return self._login

    def _refused(self, reason: str) -> OciAuthFailed:
        login = self._find_login()
        if login.credentials:
            who = f"The user '{login.credentials.username}' of {login.credentials.origin} was shown"
        else:
            who = "No credentials were found for it"
        message = f"{self.reference}: the registry refused access: {reason}. {who}."
        if login.helper:
            message += f" Credential helpers are not run: {login.helper}."
        return OciAuthFailed(message)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _json(data: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _complaint(response: Response) -> str:
    """Return what the registry says went wrong, in one line; nothing if it says nothing that can be read."""
    try:
        content = _json(read_document(response, _LARGEST_COMPLAINT) or b"")
    except HttpFailed:
        return ""
    errors = content.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else {}
    words = [first.get("code"), first.get("message")] if isinstance(first, dict) else []
    line = ", ".join(word for word in words if isinstance(word, str))
    return "".join(letter for letter in line if letter.isprintable())[:300]
