# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a registry's documents say: which layer is the image, and the manifest of an image that is pushed. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.errors import OciAmbiguous, OciRefused
from .oci_reference import is_digest

ARTIFACT_TYPE = "application/vnd.cloudnebula.vm.v1"
QCOW2_LAYER = "application/vnd.cloudnebula.qcow2.layer.v1"
RAW_LAYER = "application/vnd.cloudnebula.raw.layer.v1"
ANY_LAYER = "application/octet-stream"
LAYER_OF = {"qcow2": QCOW2_LAYER, "raw": RAW_LAYER}
FORMAT_OF = {layer: name for name, layer in LAYER_OF.items()}

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MANIFESTS = (OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json")
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
TITLE = "org.opencontainers.image.title"

_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}"
)  # RFC 6838, 4.2
_SHOWN = 20  # entries that a message lists
_ARCHITECTURES = {"x86_64": "amd64", "i86pc": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Descriptor:
    """A blob or manifest as a document names it. ``size`` in bytes."""

    media_type: str
    digest: str
    size: int
    title: str | None = None
    architecture: str | None = None

    def __str__(self) -> str:
        told = [self.title and repr(self.title), self.architecture, self.media_type, self.digest]
        return ", ".join(part for part in told if part)


@dataclass(frozen=True)
class Document:
    """A manifest, which has layers, or an index, which has one manifest for each architecture."""

    is_index: bool
    entries: Sequence[Descriptor]


def architecture_of(machine: str) -> str:
    """Return what a registry calls the architecture that ``uname`` calls ``machine``."""
    return _ARCHITECTURES.get(machine, machine)


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of ``data`` as a registry writes it."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def parse_document(data: bytes, content_type: str, name: str) -> Document:
    """Read a manifest or an index of the reference ``name``; raise ``OciRefused`` if it is neither."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise _refused(name, "it is not JSON") from exc
    if not isinstance(content, dict) or content.get("schemaVersion") != 2:
        raise _refused(name, "it is no manifest of schema 2")
    told = content_type.partition(";")[0].strip().lower()
    media_type = content.get("mediaType", told)
    if media_type != told and told in MANIFESTS + INDEXES:
        # Two readers could take the same bytes for two things.
        raise _refused(name, f"the server says {told}, and it says {media_type!r}")
    if media_type not in MANIFESTS + INDEXES:
        raise _refused(name, f"its type is {media_type!r}")
    is_index = media_type in INDEXES
    entries = content.get("manifests" if is_index else "layers")
    if not isinstance(entries, list):
        raise _refused(name, "it lists nothing")
    return Document(is_index, [_descriptor(entry, name) for entry in entries])


def choose_manifest(index: Document, architecture: str, name: str) -> Descriptor:
    """Return the one manifest for an architecture; raise ``OciAmbiguous`` unless there is exactly one."""
    fitting = [entry for entry in index.entries if entry.architecture == architecture]
    if not fitting:
        fitting = [entry for entry in index.entries if entry.architecture is None]
    manifests = [entry for entry in fitting if entry.media_type in MANIFESTS]
    if len(manifests) != 1:
        problem = "none" if not manifests else "more than one"
        raise OciAmbiguous(
            f"{name}: of its manifests, {problem} is for {architecture}: {_listed(index.entries)}.",
            "Name one by its digest: oci://registry/repository@sha256:...",
            manifests=[str(entry) for entry in index.entries[:_SHOWN]],
        )
    return manifests[0]


def choose_layer(manifest: Document, name: str) -> Descriptor:
    """Return the layer that is the image; raise ``OciAmbiguous`` unless there is exactly one.

    A layer with a type of our own counts before one that is just bytes.
    """
    own = [layer for layer in manifest.entries if layer.media_type in FORMAT_OF]
    layers = own or [layer for layer in manifest.entries if layer.media_type == ANY_LAYER]
    if len(layers) != 1:
        problem = "no layer is a disk image" if not layers else "it is not clear which is the image"
        raise OciAmbiguous(
            f"{name}: {problem}; its layers are {_listed(manifest.entries)}.",
            f"Push the image as the only layer of the type {QCOW2_LAYER}, as this collection does.",
            layers=[str(layer) for layer in manifest.entries[:_SHOWN]],
        )
    return layers[0]


def build_manifest(layer: Descriptor) -> bytes:
    """Return the manifest of an artifact that holds one image: the same bytes for the same layer, at any time."""
    content = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": _as_json(Descriptor(EMPTY_CONFIG, digest_of(EMPTY), len(EMPTY))),
        "layers": [_as_json(layer)],
    }
    return json.dumps(content, separators=(",", ":")).encode()


def _as_json(entry: Descriptor) -> dict[str, Any]:
    named = {"annotations": {TITLE: entry.title}} if entry.title else {}
    return {
        "mediaType": entry.media_type,
        "digest": entry.digest,
        "size": entry.size,
        **named,
    }


def _descriptor(entry: object, name: str) -> Descriptor:
    if not isinstance(entry, dict):
        raise _refused(name, "an entry is no object")
    media_type, digest, size = (entry.get(key) for key in ("mediaType", "digest", "size"))
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise _refused(name, "an entry has no media type")
    if not isinstance(digest, str) or not is_digest(digest):
        raise _refused(name, "an entry has no digest that can be checked")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _refused(name, "an entry has no size")
    title = _member(entry, "annotations").get(TITLE)
    architecture = _member(entry, "platform").get("architecture")
    return Descriptor(media_type, digest, size, _text(title), _text(architecture))


def _member(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = entry.get(name)
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str | None:
    # Others wrote it, and it is shown to people.
    return value if isinstance(value, str) and value and value.isprintable() else None


def _listed(entries: Sequence[Descriptor]) -> str:
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return "; ".join(str(entry) for entry in entries[:_SHOWN]) + more if entries else "none at all"


def _refused(name: str, reason: str) -> OciRefused:
    return OciRefused(f"{name}: what the registry sent cannot be used: {reason}.")
