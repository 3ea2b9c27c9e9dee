# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What registries' documents say: the layer that is the image, and all that makes a document unusable."""

from __future__ import annotations

import json

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    OciAmbiguous,
    OciRefused,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci_manifest import (
    Descriptor,
    architecture_of,
    build_manifest,
    choose_layer,
    choose_manifest,
    parse_document,
)

QCOW2 = "application/vnd.cloudnebula.qcow2.layer.v1"
RAW = "application/vnd.cloudnebula.raw.layer.v1"
BYTES = "application/octet-stream"
TAR = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def entry(number, media_type, title=None, architecture=None, **rest):
    found = {"mediaType": media_type, "digest": f"sha256:{number:064x}", "size": number}
    if title:
        found["annotations"] = {"org.opencontainers.image.title": title}
    if architecture:
        found["platform"] = {"architecture": architecture, "os": "linux"}
    return {**found, **rest}


def manifest(*layers, **rest):
    return parse({"schemaVersion": 2, "layers": list(layers), **rest}, MANIFEST)


def index(*manifests):
    return parse({"schemaVersion": 2, "manifests": list(manifests)}, INDEX)


def parse(content, content_type):
    return parse_document(json.dumps(content).encode(), content_type, "oci://x.org/a")


@pytest.mark.parametrize(
    ("types", "chosen"),
    [
        ([QCOW2], 0),
        ([RAW], 0),
        ([BYTES], 0),
        (["text/plain", QCOW2], 1),
        ([TAR, BYTES], 1),
        ([BYTES, QCOW2, BYTES], 1),
    ],
)
def test_layer_is_chosen(types, chosen):
    layers = [entry(number, media_type) for number, media_type in enumerate(types)]

    assert choose_layer(manifest(*layers), "oci://x.org/a").size == chosen


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        ([], "no layer is a disk image"),
        ([TAR], "no layer is a disk image"),
        ([BYTES, BYTES], "not clear"),
        ([QCOW2, QCOW2], "not clear"),
        ([QCOW2, RAW], "not clear"),
    ],
)
def test_layer_is_not_clear(types, reason):
    layers = [entry(number, kind, f"disk{number}.img") for number, kind in enumerate(types)]

    with pytest.raises(OciAmbiguous, match=reason) as caught:
        choose_layer(manifest(*layers), "oci://x.org/a")

    assert caught.value.message.startswith("oci://x.org/a: ")
    for number in range(len(types)):
        assert f"'disk{number}.img'" in caught.value.message
        assert f"disk{number}.img" in caught.value.details["layers"][number]


def test_long_lists_are_cut():
    layers = [entry(number, TAR) for number in range(5000)]

    with pytest.raises(OciAmbiguous, match="and 4980 more") as caught:
        choose_layer(manifest(*layers), "oci://x.org/a")

    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize(
    ("manifests", "chosen"),
    [
        ([entry(0, MANIFEST, None, "amd64"), entry(1, MANIFEST, None, "arm64")], 1),
        ([entry(0, DOCKER, None, "amd64"), entry(1, DOCKER, None, "arm64")], 1),
        ([entry(0, MANIFEST)], 0),
        ([entry(0, MANIFEST), entry(1, MANIFEST, None, "arm64")], 1),
        ([entry(0, MANIFEST, None, "arm64"), entry(1, MANIFEST, None, "unknown")], 0),
        ([entry(0, INDEX, None, "arm64"), entry(1, MANIFEST, None, "arm64")], 1),
    ],
)
def test_manifest_is_chosen_by_architecture(manifests, chosen):
    assert choose_manifest(index(*manifests), "arm64", "n").size == chosen


@pytest.mark.parametrize(
    ("manifests", "reason"),
    [
        ([], "none is for arm64"),
        ([entry(0, MANIFEST, None, "amd64")], "none is for arm64.*amd64"),
        ([entry(0, MANIFEST, None, "arm64"), entry(1, MANIFEST, None, "arm64")], "more than one"),
        ([entry(0, MANIFEST), entry(1, MANIFEST)], "more than one"),
        ([entry(0, INDEX, None, "arm64")], "none is for arm64"),
    ],
)
def test_manifest_is_not_clear(manifests, reason):
    with pytest.raises(OciAmbiguous, match=reason):
        choose_manifest(index(*manifests), "arm64", "n")


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("x86_64", "amd64"), ("i86pc", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")],
)
def test_architecture_is_called_as_in_registries(machine, expected):
    assert architecture_of(machine) == expected


@pytest.mark.parametrize(
    ("content_type", "member", "is_index"),
    [
        (MANIFEST, None, False),
        (f"{MANIFEST}; charset=utf-8", None, False),
        ("application/json", MANIFEST, False),
        ("", DOCKER, False),
        (INDEX, INDEX, True),
        (DOCKER_LIST, None, True),
    ],
)
def test_kind_of_document(content_type, member, is_index):
    content = {"schemaVersion": 2, "layers": [], "manifests": []}
    if member:
        content["mediaType"] = member

    assert parse(content, content_type).is_index is is_index


@pytest.mark.parametrize(
    ("content", "content_type", "reason"),
    [
        ([], MANIFEST, "no manifest of schema 2"),
        ({"schemaVersion": 1, "fsLayers": []}, MANIFEST, "no manifest of schema 2"),
        ({"schemaVersion": 2}, MANIFEST, "lists nothing"),
        ({"schemaVersion": 2, "layers": {}}, MANIFEST, "lists nothing"),
        ({"schemaVersion": 2, "layers": []}, "text/html", "its type is 'text/html'"),
        ({"schemaVersion": 2, "layers": [], "mediaType": INDEX}, MANIFEST, "the server says"),
        ({"schemaVersion": 2, "layers": [], "mediaType": []}, "text/html", "its type is"),
        ({"schemaVersion": 2, "layers": ["x"]}, MANIFEST, "no object"),
        ({"schemaVersion": 2, "layers": [entry(1, None)]}, MANIFEST, "no media type"),
        ({"schemaVersion": 2, "layers": [entry(1, "a/b\x1b[2J")]}, MANIFEST, "no media type"),
        ({"schemaVersion": 2, "layers": [entry(1, BYTES, digest="x")]}, MANIFEST, "no digest"),
        (
            {"schemaVersion": 2, "layers": [entry(1, BYTES, digest="../../etc")]},
            MANIFEST,
            "no digest",
        ),
        ({"schemaVersion": 2, "layers": [entry(1, BYTES, size=-1)]}, MANIFEST, "no size"),
        ({"schemaVersion": 2, "layers": [entry(1, BYTES, size="1")]}, MANIFEST, "no size"),
        ({"schemaVersion": 2, "layers": [entry(1, BYTES, size=True)]}, MANIFEST, "no size"),
    ],
)
def test_document_is_refused(content, content_type, reason):
    with pytest.raises(OciRefused, match=reason):
        parse(content, content_type)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 1000000])
def test_what_is_not_json_is_refused(data):
    with pytest.raises(OciRefused, match="not JSON"):
        parse_document(data, MANIFEST, "oci://x.org/a")


def test_terminal_sequences_in_a_title_are_not_shown():
    layer = entry(1, QCOW2, title="\x1b[2Jdisk")

    assert choose_layer(manifest(layer), "n").title is None


def test_manifest_that_is_pushed_is_read_back_and_never_varies():
    layer = Descriptor(QCOW2, "sha256:" + "0" * 64, 5, "disk.qcow2")

    data = build_manifest(layer)

    assert choose_layer(parse_document(data, MANIFEST, "n"), "n") == layer
    assert data == build_manifest(layer)
    content = json.loads(data)
    assert content["artifactType"] == "application/vnd.cloudnebula.vm.v1"
    assert content["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
