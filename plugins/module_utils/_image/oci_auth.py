# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who a registry is asked as: its challenges, and credentials from options, the environment or login files."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._core.errors import InvalidSpec, OciAuthFailed
from .oci_reference import DOCKER_HUB, Reference

_GITHUB = "ghcr.io"
_GITHUB_USER = "_token"  # any name does: the token tells who it is
_DOCKER_HUB_KEY = "index.docker.io"
_LARGEST_FILE = 1024 * 1024

# RFC 9110, 11.2 to 11.4: a scheme, then parameters name=token or name="quoted".
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_SCHEME = re.compile(rf"({_TOKEN})(?=\s|,|$)(?!\s*=)")
_SKIPPED = re.compile(rf'{_TOKEN}|".*|.', re.DOTALL)
_LONGEST_HEADER = 8192


@dataclass(frozen=True)
class Challenge:
    """What a registry wants: ``scheme`` is ``bearer``, ``basic`` or another, in lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class Credentials:
    """A user and a password or token; ``origin`` says in words where they were found."""

    username: str
    password: str = field(repr=False)
    origin: str

    def basic(self) -> str:
        """Return the header that shows them to a server."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


@dataclass(frozen=True)
class Access:
    """How a registry is reached. ``plain_http`` means http instead of https; ``timeout``, in seconds, is of each silence."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    plain_http: bool = False
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if (self.username is None) != (self.password is None):
            missing = "username" if self.username is None else "password"
            raise InvalidSpec(f"{missing}: username and password go together.", option=missing)
        if self.username is not None and ":" in self.username:
            raise InvalidSpec("username: a colon cannot be part of it.", option="username")


@dataclass(frozen=True)
class Login:
    """What was found for a registry; ``helper`` names a credential helper that was not run."""

    credentials: Credentials | None
    helper: str | None = None


def parse_challenges(header: str) -> list[Challenge]:
    """Read the header ``WWW-Authenticate``, which may hold several challenges; skip what cannot be read."""
    challenges: list[Challenge] = []
    position = 0
    header = header[:_LONGEST_HEADER]
    while position < len(header):
        scheme = _SCHEME.match(header, position)
        parameter = _PARAMETER.match(header, position)
        if scheme:
            challenges.append(Challenge(scheme[1].lower(), {}))
        elif parameter and challenges:
            last = challenges.pop()
            named = {**last.parameters, parameter[1].lower(): _value(parameter)}
            challenges.append(Challenge(last.scheme, named))
        read = scheme or parameter or _SKIPPED.match(header, position)
        position = read.end() if read else len(header)
    return challenges


def find_login(reference: Reference, access: Access, environment: Mapping[str, str]) -> Login:
    """Return the credentials for a registry: from the options, GITHUB_TOKEN (ghcr.io only), or a login file.

    Raises ``OciAuthFailed`` if a login file cannot be read as one.
    """
    if access.username is not None and access.password is not None:
        return Login(Credentials(access.username, access.password, "the task's options"))
    token = environment.get("GITHUB_TOKEN")
    if reference.registry == _GITHUB and token:
        return Login(Credentials(_GITHUB_USER, token, "the variable GITHUB_TOKEN"))
    helper = None
    for path in login_files(environment):
        content = _read(path)
        found = find_in_file(content, reference, path) if content is not None else Login(None)
        if found.credentials:
            return found
        helper = helper or found.helper
    return Login(None, helper)


def login_files(environment: Mapping[str, str]) -> list[str]:
    """Return where podman and docker keep logins, the most telling first. REGISTRY_AUTH_FILE replaces the others."""
    if environment.get("REGISTRY_AUTH_FILE"):
        return [environment["REGISTRY_AUTH_FILE"]]
    home = environment.get("HOME") or os.path.expanduser("~")
    config = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    docker = environment.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    runtime = environment.get("XDG_RUNTIME_DIR")
    podman = [folder for folder in (runtime, config) if folder]
    return [
        *(os.path.join(folder, "containers", "auth.json") for folder in podman),
        os.path.join(docker, "config.json"),
    ]


def find_in_file(content: Mapping[str, Any], reference: Reference, path: str) -> Login:
    """Look the reference up in the content of a login file: the longest name that fits counts."""
    logins = content.get("auths")
    for name in _names(reference):
        for key, login in logins.items() if isinstance(logins, dict) else ():
            if _plain(key) == name and isinstance(login, dict) and login.get("auth"):
                return Login(_decode(login["auth"], path))
    helpers = content.get("credHelpers")
    for key, helper in helpers.items() if isinstance(helpers, dict) else ():
        if _plain(key) in _names(reference):
            return Login(None, f"docker-credential-{helper} ({path})")
    store = content.get("credsStore")
    return Login(None, f"docker-credential-{store} ({path})" if store else None)


def _value(parameter: re.Match[str]) -> str:
    quoted, bare = parameter[2], parameter[3]
    return re.sub(r"\\(.)", r"\1", quoted) if bare is None else bare


def _names(reference: Reference) -> Iterator[str]:
    """Yield registry/a/b, registry/a and registry, as podman's auth.json has them."""
    hosts = [reference.registry]
    if reference.registry == DOCKER_HUB:
        hosts.append(_DOCKER_HUB_KEY)
    parts = reference.repository.split("/")
    for count in range(len(parts), -1, -1):
        yield from ("/".join([host, *parts[:count]]) for host in hosts)


def _plain(key: str) -> str:
    # Docker's own keys were once URLs: "https://index.docker.io/v1/".
    if "://" in key:
        return key.partition("://")[2].partition("/")[0].lower()
    return key.rstrip("/").lower()


def _decode(auth: object, path: str) -> Credentials:
    try:
        pair = base64.b64decode(str(auth), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise _unreadable(path, "an entry is not a user and a password in base64") from exc
    username, colon, password = pair.partition(":")
    if not colon:
        raise _unreadable(path, "an entry is not a user and a password in base64")
    return Credentials(username, password.rstrip("\0"), path)


def _read(path: str) -> Mapping[str, Any] | None:
    try:
        with open(path, "rb") as stream:
            text = stream.read(_LARGEST_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise _unreadable(path, exc.strerror or str(exc)) from exc
    try:
        content = json.loads(text) if len(text) <= _LARGEST_FILE else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise _unreadable(path, "it is not a JSON object")
    return content


def _unreadable(path: str, reason: str) -> OciAuthFailed:
    return OciAuthFailed(
        f"The login file {path} cannot be used: {reason}.",
        "Mend it, log in anew with podman or docker, or give username and password.",
        path=path,
    )
