# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disk images as artifacts in OCI registries: find the blob that a reference means, and push one.

This is a small client of our own. The Python package ``oras`` does not compare what it downloads with the digest, reads
a whole image into memory to upload it, and would bring ``requests`` and ``jsonschema`` to every hypervisor host.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO
from urllib.parse import urljoin

from .._core.errors import HostError, InvalidSpec, OciRefused
from .checksum import Checksum
from .intake import Progress
from .oci_auth import Access
from .oci_manifest import (
    EMPTY,
    EMPTY_CONFIG,
    FORMAT_OF,
    INDEXES,
    LAYER_OF,
    MANIFESTS,
    OCI_MANIFEST,
    Descriptor,
    Document,
    architecture_of,
    build_manifest,
    choose_layer,
    choose_manifest,
    digest_of,
    parse_document,
)
from .oci_reference import Reference, is_digest
from .oci_registry import Registry

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class OciBlob:
    """A disk image in a registry: where its bytes are, and what they must be. ``size`` in bytes.

    ``headers`` let the URL be read; they hold secrets, and are meant for its server alone. ``image_format`` is
    ``None`` if the registry does not tell it.
    """

    url: str
    digest: str
    size: int
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def checksum(self) -> Checksum:
        """Return what the bytes must add up to."""
        algorithm, dummy, digits = self.digest.partition(":")
        return Checksum(algorithm, digits)

    @property
    def image_format(self) -> str | None:
        """Return the format that the artifact's author stated, by the layer's type."""
        return FORMAT_OF.get(self.media_type)


@dataclass(frozen=True)
class Pushed:
    """An image in a registry after a push; ``digest`` is that of its manifest."""

    reference: str
    digest: str
    changed: bool


@dataclass(frozen=True)
class _Artifact:
    layer: Descriptor
    manifest: bytes

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def resolve(reference: Reference, access: Access, architecture: str | None = None) -> OciBlob:
    """Return the blob that a reference means, for this host's architecture unless another one is given.

    Raises ``OciNotFound``, ``OciAuthFailed``, ``OciAmbiguous``, ``OciRefused``, ``OciFailed`` or ``HttpFailed``.
    """
    registry = Registry(reference, access)
    name = str(reference)
    document = _fetch_document(registry, reference.wanted)
    if document.is_index:
        wanted = architecture or architecture_of(os.uname().machine)
        document = _fetch_document(registry, choose_manifest(document, wanted, name).digest)
        if document.is_index:
            raise OciRefused(f"{name}: its index leads to another index.")
    layer = choose_layer(document, name)
    url = registry.url(f"blobs/{layer.digest}")
    return OciBlob(
        url=url,
        digest=layer.digest,
        size=layer.size,
        media_type=layer.media_type,
        headers=registry.headers(url),
    )


def foresee_push(path: str, reference: Reference, access: Access, image_format: str) -> Pushed:
    """Return what ``push`` would do; changes nothing, here or in the registry."""
    registry = _registry_to_push_to(reference, access)
    with _opened(path) as stream:
        artifact = _describe(stream, path, image_format)
    there = _digest_there(registry, reference.wanted)
    return Pushed(str(reference), artifact.digest, there != artifact.digest)


def push(
    path: str,
    reference: Reference,
    access: Access,
    image_format: str,
    progress: Progress | None = None,
) -> Pushed:
    """Make the reference mean the image ``path``; upload only what the registry lacks, straight from the disk.

    ``image_format`` is qcow2 or raw. Raises ``InvalidSpec``, ``OciAuthFailed``, ``OciFailed``, ``HttpFailed`` or
    ``HostError``.
    """
    registry = _registry_to_push_to(reference, access)
    with _opened(path) as stream:
        artifact = _describe(stream, path, image_format, progress)
        if _digest_there(registry, reference.wanted) == artifact.digest:
            return Pushed(str(reference), artifact.digest, changed=False)
        layer = artifact.layer
        stream.seek(0)
        _upload(
            registry, layer, _Upload(stream, layer.size, progress and partial(progress, "upload"))
        )
    empty = Descriptor(EMPTY_CONFIG, digest_of(EMPTY), len(EMPTY))
    _upload(registry, empty, EMPTY)
    _put_manifest(registry, reference.wanted, artifact)
    return Pushed(str(reference), artifact.digest, changed=True)


class _Upload:
    """A file on its way to a registry: read in pieces by whoever sends it."""

    def __init__(
        self, stream: BinaryIO, size: int, progress: Callable[[int, int], None] | None
    ) -> None:
        self._stream = stream
        self._size = size
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, never more than were announced."""
        left = self._size - self._stream.tell()
        data = self._stream.read(left if size < 0 else min(size, left))
        if self._progress and data:
            self._progress(self._stream.tell(), self._size)
        return data

    def seek(self, offset: int) -> int:
        """Begin anew, after the registry has asked for credentials."""
        return self._stream.seek(offset)


def _fetch_document(registry: Registry, wanted: str) -> Document:
    name = str(registry.reference)
    accept = {"Accept": ", ".join(MANIFESTS + INDEXES)}
    with registry.ask("GET", f"manifests/{wanted}", accept) as response:
        if response.status != 200:
            raise registry.failed(response, "give the manifest")
        data = registry.read(response)
    promised = wanted if is_digest(wanted) else response.headers.get("docker-content-digest", "")
    algorithm = promised.partition(":")[0] if is_digest(promised) else "sha256"
    digest = digest_of(data, algorithm)
    if is_digest(promised) and digest != promised:
        raise OciRefused(
            f"{name}: the manifest is not what it should be: its digest is {digest}, not {promised}.",
            "The registry or something before it has altered it; do not trust it.",
            expected=promised,
            found=digest,
        )
    return parse_document(data, response.headers.get("content-type", ""), name)


def _registry_to_push_to(reference: Reference, access: Access) -> Registry:
    if reference.digest:
        raise InvalidSpec(
            f"destination: {reference} cannot be pushed to: the digest follows from the content.",
            "Leave the digest out and give a tag.",
            option="destination",
        )
    return Registry(reference, access, pushes=True)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as exc:
        raise HostError(f"{path} cannot be read: {exc.strerror}.", path=path) from exc
    with stream:
        yield stream


def _describe(
    stream: BinaryIO, path: str, image_format: str, progress: Progress | None = None
) -> _Artifact:
    whole = hashlib.sha256()
    try:
        length = os.fstat(stream.fileno()).st_size
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            whole.update(chunk)
            if progress:
                progress("verify", stream.tell(), length)
        size = stream.tell()
    except OSError as exc:
        raise HostError(f"{path} cannot be read: {exc.strerror}.", path=path) from exc
    layer = Descriptor(
        LAYER_OF[image_format], f"sha256:{whole.hexdigest()}", size, os.path.basename(path)
    )
    return _Artifact(layer, build_manifest(layer))


def _digest_there(registry: Registry, tag: str) -> str | None:
    """Return the digest of the manifest that a tag means by now; ``None`` if there is none."""
    accept = {"Accept": ", ".join(MANIFESTS + INDEXES)}
    # Not HEAD: its answer need not have the digest, and a refusal would come without a reason.
    with registry.ask("GET", f"manifests/{tag}", accept) as response:
        if response.status == 404:
            return None
        if response.status != 200:
            raise registry.failed(response, "tell what the tag means")
        return digest_of(registry.read(response))


def _upload(registry: Registry, blob: Descriptor, body: _Upload | bytes) -> None:
    with registry.ask("HEAD", f"blobs/{blob.digest}") as response:
        if response.status == 200:
            return
    with registry.ask("POST", "blobs/uploads/", body=b"") as response:
        location = response.headers.get("location")
        if response.status != 202 or not location:
            raise registry.failed(response, "begin an upload")
        # The place may be anywhere, and may have a query of its own.
        place = registry.url(urljoin(response.url, location))
    place += f"{'&' if '?' in place else '?'}digest={blob.digest}"
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)}
    with registry.ask("PUT", place, headers, body) as response:
        if response.status != 201:
            raise registry.failed(response, "take the image")


def _put_manifest(registry: Registry, tag: str, artifact: _Artifact) -> None:
    headers = {"Content-Type": OCI_MANIFEST}
    with registry.ask("PUT", f"manifests/{tag}", headers, artifact.manifest) as response:
        if response.status != 201:
            raise registry.failed(response, "take the manifest")
