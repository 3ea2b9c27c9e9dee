# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""References to images in registries: what is understood, and what is refused before anybody is asked."""

from __future__ import annotations

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    OciReferenceInvalid,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci_reference import (
    Reference,
    parse_reference,
)

SHA256 = "sha256:" + "0a" * 32
SHA512 = "sha512:" + "0a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://ghcr.io/a/b", Reference("ghcr.io", "a/b", None, None)),
        ("oci://ghcr.io/a/b:1.0", Reference("ghcr.io", "a/b", "1.0", None)),
        (f"oci://ghcr.io/a/b@{SHA256}", Reference("ghcr.io", "a/b", None, SHA256)),
        (f"oci://ghcr.io/a/b:x@{SHA512}", Reference("ghcr.io", "a/b", "x", SHA512)),
        ("OCI://GHCR.IO/a", Reference("ghcr.io", "a", None, None)),
        ("oci://localhost/a", Reference("localhost", "a", None, None)),
        ("oci://registry:5000/a:b", Reference("registry:5000", "a", "b", None)),
        ("oci://127.0.0.1:5000/a", Reference("127.0.0.1:5000", "a", None, None)),
        ("oci://[::1]:5000/a:b", Reference("[::1]:5000", "a", "b", None)),
        ("oci://x.org/a__b/c-d--e/f.g", Reference("x.org", "a__b/c-d--e/f.g", None, None)),
        ("oci://docker.io/debian:12", Reference("docker.io", "library/debian", "12", None)),
        ("oci://index.docker.io/me/a", Reference("docker.io", "me/a", None, None)),
        (f"oci://x.org/a:{'t' * 128}", Reference("x.org", "a", "t" * 128, None)),
    ],
)
def test_reference_is_understood(text, expected):
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("oci://", "names no repository"),
        ("oci://ghcr.io", "names no repository"),
        ("oci://ghcr.io/", "the repository"),
        ("oci:///a", "no host name"),
        ("oci://debian/a", "neither a domain nor a port"),
        ("oci://x.org:0/a", "no host name"),
        ("oci://x.org:65536/a", "no host name"),
        ("oci://x.org:/a", "no host name"),
        ("oci://x..org/a", "no host name"),
        ("oci://-x.org/a", "no host name"),
        ("oci://x.org\n/a", "no host name"),
        ("oci://ghcr.io/A", "the repository"),
        ("oci://ghcr.io/a//b", "the repository"),
        ("oci://ghcr.io/../b", "the repository"),
        ("oci://ghcr.io/a/./b", "the repository"),
        ("oci://ghcr.io/a?b", "the repository"),
        ("oci://ghcr.io/a#b", "the repository"),
        ("oci://ghcr.io/a%2e", "the repository"),
        ("oci://ghcr.io/a b", "the repository"),
        (f"oci://ghcr.io/{'a' * 256}", "the repository"),
        ("oci://ghcr.io/a:", "the tag"),
        ("oci://ghcr.io/a:b/c", "the tag"),
        ("oci://ghcr.io/a:-b", "the tag"),
        ("oci://ghcr.io/a:b\n", "the tag"),
        (f"oci://ghcr.io/a:{'t' * 129}", "the tag"),
        ("oci://ghcr.io/a@", "the digest"),
        ("oci://ghcr.io/a@sha256:0a", "the digest"),
        (f"oci://ghcr.io/a@{SHA256.upper()}", "the digest"),
        (f"oci://ghcr.io/a@md5:{'0' * 32}", "the digest"),
        (f"oci://ghcr.io/a@{SHA256}@{SHA256}", "the digest"),
    ],
)
def test_reference_is_refused(text, reason):
    with pytest.raises(OciReferenceInvalid, match=reason) as caught:
        parse_reference(text, "source")

    assert caught.value.message.startswith("source: ")
    assert caught.value.details["option"] == "source"


@pytest.mark.parametrize("text", ["oci://me:hunter2@x.org/a", "oci://me:hunter2@x.org:1/a:b"])
def test_password_in_a_reference_is_refused_and_not_shown(text):
    with pytest.raises(OciReferenceInvalid, match="user or password") as caught:
        parse_reference(text)

    assert "hunter2" not in str(caught.value) + repr(caught.value.as_dict())


@pytest.mark.parametrize(
    "text", [f"oci://ghcr.io/a/b:1@{SHA256}", "oci://x.org:1/a", f"oci://x.org/a@{SHA256}"]
)
def test_reference_is_shown_as_it_can_be_given(text):
    assert str(parse_reference(text)) == text


@pytest.mark.parametrize(
    ("text", "server", "wanted"),
    [
        ("oci://ghcr.io/a", "ghcr.io", "latest"),
        ("oci://docker.io/a:b", "registry-1.docker.io", "b"),
        (f"oci://x.org:1/a:b@{SHA256}", "x.org:1", SHA256),
    ],
)
def test_who_is_asked_for_what(text, server, wanted):
    reference = parse_reference(text)

    assert (reference.server, reference.wanted) == (server, wanted)
