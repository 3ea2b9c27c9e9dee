# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people write as an image."""

from __future__ import annotations

import json

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    InvalidSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.source import (
    hide_secrets,
    parse_source,
    refuse_query,
)

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("text", "kind", "recorded", "name"),
    [
        ("/srv/images/a.qcow2", "path", "/srv/images/a.qcow2", "a.qcow2"),
        ("/srv/../srv//a.raw", "path", "/srv/a.raw", "a.raw"),
        ("https://example.org/x/a.img", "url", "https://example.org/x/a.img", "a.img"),
        ("HTTP://example.org/a.img#top", "url", "http://example.org/a.img", "a.img"),
        ("https://example.org/a%20b.img", "url", "https://example.org/a%20b.img", "a b.img"),
        ("https://[::1]:8443/a.img", "url", "https://[::1]:8443/a.img", "a.img"),
        ("https://example.org/", "url", "https://example.org/", ""),
        ("file:///srv/a%20b.img", "url", "file:///srv/a%20b.img", "a b.img"),
        ("file://localhost/srv/a.img", "url", "file://localhost/srv/a.img", "a.img"),
        ("oci://ghcr.io/me/images/debian:12", "oci", "oci://ghcr.io/me/images/debian:12", "debian"),
        ("debian-12", "name", "debian-12", "debian-12"),
    ],
)
def test_sources_are_read(text, kind, recorded, name):
    source = parse_source(text)

    assert (source.kind, source.text, source.shown) == (kind, recorded, recorded)
    assert source.file_name == name
    assert refuse_query(source) is source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\0b",
        "images/a.qcow2",
        "./a.qcow2",
        "Debian 12",
        "ftp://example.org/a.img",
        "json://x",
        "nbd://127.0.0.1/x",
        "https://",
        "https:///a.img",
        "https://example.org:0/a.img",
        "https://example.org:x/a.img",
        "https://example.org/a b.img",
        "https://example.org/a.img\r\nHost: other",
        "https://example.org/ä.img",
        "file://server/srv/a.img",
        "file:///srv/",
        "file://",
        "file:///srv/a%00b",
        f"https://user:{SECRET}@example.org/a.img",
        f"https://{SECRET}@example.org/a.img",
        f"https://user:{SECRET}@[bad/a.img",
        f"ftp://example.org/a.img?{SECRET}",
        f"https://example.org/a b?{SECRET}",
        f"oci://user:{SECRET}@ghcr.io/a/b",
        "oci://debian",
    ],
)
def test_what_is_no_source_is_refused_without_showing_secrets(text):
    with pytest.raises(InvalidSpec) as caught:
        parse_source(text, "src")

    assert caught.value.message.startswith("src: ")
    assert SECRET not in json.dumps([caught.value.message, caught.value.as_dict()])


def test_the_query_of_a_url_is_a_secret():
    source = parse_source(f"https://example.org/a.img?signature={SECRET}")

    assert source.text.endswith(SECRET)
    assert source.shown == "https://example.org/a.img?..."
    assert source.file_name == "a.img"
    with pytest.raises(InvalidSpec) as caught:
        refuse_query(source)
    assert SECRET not in caught.value.message
    assert "vm_image" in caught.value.help


def test_keys_tell_sources_apart():
    texts = ["https://a/x", "https://a/x?1", "https://a/x?2", "https://b/x", "/a/x", "x"]

    assert len({parse_source(text).key for text in texts}) == len(texts)
    assert parse_source("https://a/x").key == parse_source("https://a/x#y").key


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/srv/a.img", "/srv/a.img"),
        ("file:///srv/a%20b.img", "/srv/a b.img"),
        ("https://example.org/srv/a.img", None),
        ("debian-12", None),
    ],
)
def test_local_paths_are_known(text, path):
    assert parse_source(text).local_path == path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a/x?y=z", "https://a/x?..."),
        ("https://a/x?", "https://a/x?"),
        ("is it https://a/x?y", "is it https://a/x?y"),
        ("what?", "what?"),
        ("https://me:pw@a/x?y=z@a", "https://...@a/x?..."),
        ("https://a/x@1?y", "https://a/x@1?..."),
        ("git+https://me:pw@a/x?y=z", "git+https://...@a/x?..."),
    ],
)
def test_urls_lose_their_account_and_query(text, shown):
    assert hide_secrets(text) == shown
