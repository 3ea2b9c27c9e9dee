# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""References to images in OCI registries: ``oci://registry[:port]/repository[:tag][@digest]``. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .._core.errors import OciReferenceInvalid

SCHEME = "oci://"
DOCKER_HUB = "docker.io"
_DOCKER_HUB_SERVER = "registry-1.docker.io"
_DEFAULT_TAG = "latest"
_LONGEST_REPOSITORY = 255

# The grammar of the OCI distribution specification, "Pulling manifests"; a digest only by algorithms that are checked.
_HOST_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_REGISTRY = re.compile(
    rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9a-f:.]+\])(?P<port>:[0-9]{{1,5}})?", re.ASCII
)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """One artifact in a registry. ``registry`` is as the user wrote it, in lower case; a digest counts before a tag."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{SCHEME}{self.registry}/{self.repository}{tag}{digest}"

    @property
    def server(self) -> str:
        """Host and port that answer for the registry; Docker Hub's have another name."""
        return _DOCKER_HUB_SERVER if self.registry == DOCKER_HUB else self.registry

    @property
    def wanted(self) -> str:
        """What the manifest is asked for by: the digest, the tag, or ``latest``."""
        return self.digest or self.tag or _DEFAULT_TAG


def parse_reference(text: str, option: str = "image") -> Reference:
    """Read a reference; raise ``OciReferenceInvalid`` for what is none, without showing a password in it."""
    rest = text[len(SCHEME) :] if text[: len(SCHEME)].lower() == SCHEME else text
    registry, slash, path = rest.partition("/")
    if "@" in registry and slash:
        # The text is not shown: it holds a secret.
        raise _invalid(
            option, "a reference with a user or password in it would be recorded and shown"
        )
    if not slash:
        raise _invalid(option, f"{text!r} names no repository in a registry")
    registry = _check_registry(registry.lower(), text, option)
    path, at, digest = path.partition("@")
    repository, colon, tag = path.partition(":")
    if at and not is_digest(digest):
        reason = "'sha256:' and 64, or 'sha512:' and 128, hexadecimal digits in lower case"
        raise _invalid(option, f"the digest in {text!r} is not {reason}")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(option, f"the tag in {text!r} is not 1 to 128 letters, digits, _ . -")
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _LONGEST_REPOSITORY:
        raise _invalid(option, f"the repository in {text!r} is not lower-case words between '/'")
    return Reference(registry, repository, tag or None, digest or None)


def is_digest(text: object) -> bool:
    """Tell whether this is a digest by an algorithm that can be checked here."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def _check_registry(registry: str, text: str, option: str) -> str:
    found = _REGISTRY.fullmatch(registry)
    if found is None or (found["port"] and not 0 < int(found["port"][1:]) < 65536):
        raise _invalid(option, f"the registry in {text!r} is no host name or address")
    # Elsewhere "debian/image" means a repository of Docker Hub; here it would silently mean a host called debian.
    if not set(".:[") & set(registry) and registry != "localhost":
        raise _invalid(option, f"the registry in {text!r} has neither a domain nor a port")
    return DOCKER_HUB if registry == f"index.{DOCKER_HUB}" else registry


def _invalid(option: str, reason: str) -> OciReferenceInvalid:
    return OciReferenceInvalid(f"{option}: {reason}.", option=option)
