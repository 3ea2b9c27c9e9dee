# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue of well-known images: every URL has the form that the rest of the collection can use."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import InvalidSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.catalogue import (
    CatalogueEntry,
    find_image,
    names,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.checksum import (
    ChecksumUrl,
    parse_checksum,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.source import (
    parse_source,
)

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "images.md"
INTEL_ONLY = {"omnios-r151058"}
ALL = [
    (name, machine)
    for name in names()
    for machine in ("x86_64", "aarch64")
    if machine == "x86_64" or name not in INTEL_ONLY
]


@pytest.mark.parametrize(("name", "machine"), ALL)
def test_entry_can_be_fetched_and_verified(name, machine):
    entry = find_image(name, machine)

    image, checksums = urlsplit(entry.url), urlsplit(entry.checksum_url)
    assert image.scheme == checksums.scheme == "https"
    assert image.netloc == checksums.netloc, "checksums come from whom the image comes from"
    assert checksums.path.rpartition("/")[0] == image.path.rpartition("/")[0]
    assert parse_source(entry.url).kind == "url"
    assert isinstance(parse_checksum(entry.checksum_url), ChecksumUrl)
    assert "{" not in entry.url + entry.checksum_url
    assert re.search(r"\.(qcow2|img|qcow2\.xz)$", image.path)
    assert entry.image_format == "qcow2"
    assert name.startswith(entry.user)


@pytest.mark.parametrize("name", names())
def test_name_is_taken_for_one_by_the_option_image(name):
    assert parse_source(name).kind == "name"


def test_the_guide_lists_what_there_is():
    section = GUIDE.read_text().partition("## Well-known images")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| `([^`]+)` \|$", section, re.MULTILINE)

    machines = {name: ", ".join(m for n, m in ALL if n == name) for name in names()}
    assert rows == [(name, machines[name], find_image(name, "x86_64").user) for name in names()]


def test_no_two_entries_are_the_same_file():
    urls = [find_image(name, machine).url for name, machine in ALL]
    assert len(set(urls)) == len(urls)


@pytest.mark.parametrize(
    ("name", "machine", "url", "checksum_url"),
    [
        (
            "debian-12",
            "x86_64",
            "https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2",
            "https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS",
        ),
        (
            "rocky-10",
            "arm64",
            "https://dl.rockylinux.org/pub/rocky/10/images/aarch64/Rocky-10-GenericCloud-Base.latest.aarch64.qcow2",
            "https://dl.rockylinux.org/pub/rocky/10/images/aarch64/Rocky-10-GenericCloud-Base.latest.aarch64.qcow2.CHECKSUM",
        ),
        (
            "fedora-44",
            "amd64",
            "https://download.fedoraproject.org/pub/fedora/linux/releases/44/Cloud/x86_64/images/"
            "Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2",
            "https://download.fedoraproject.org/pub/fedora/linux/releases/44/Cloud/x86_64/images/"
            "Fedora-Cloud-44-1.7-x86_64-CHECKSUM",
        ),
        (
            "freebsd-15.1",
            "aarch64",
            "https://download.freebsd.org/releases/VM-IMAGES/15.1-RELEASE/aarch64/Latest/"
            "FreeBSD-15.1-RELEASE-arm64-aarch64-BASIC-CLOUDINIT-ufs.qcow2.xz",
            "https://download.freebsd.org/releases/VM-IMAGES/15.1-RELEASE/aarch64/Latest/CHECKSUM.SHA256",
        ),
        (
            "alpine-3.23",
            "x86_64",
            "https://dl-cdn.alpinelinux.org/alpine/v3.23/releases/cloud/"
            "nocloud_alpine-3.23.4-x86_64-bios-cloudinit-r0.qcow2",
            "https://dl-cdn.alpinelinux.org/alpine/v3.23/releases/cloud/"
            "nocloud_alpine-3.23.4-x86_64-bios-cloudinit-r0.qcow2.sha512",
        ),
        (
            "omnios-r151058",
            "i86pc",
            "https://downloads.omnios.org/media/stable/omnios-r151058.cloud.qcow2",
            "https://downloads.omnios.org/media/stable/omnios-r151058.cloud.qcow2.sha256",
        ),
    ],
)
def test_url_is_spelt_as_its_publisher_does(name, machine, url, checksum_url):
    user = name.partition("-")[0]
    assert find_image(name, machine) == CatalogueEntry(url, checksum_url, "qcow2", user)


def test_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(InvalidSpec, match="no well-known image called 'debian-1'") as caught:
        find_image("debian-1", "x86_64")

    assert all(name in caught.value.help for name in names())
    assert caught.value.details == {"option": "image"}


@pytest.mark.parametrize(
    ("name", "machine"), [("omnios-r151058", "aarch64"), ("debian-12", "riscv64")]
)
def test_architecture_without_an_image_is_refused(name, machine):
    with pytest.raises(InvalidSpec, match=f"the image {name} is not made for {machine}") as caught:
        find_image(name, machine, option="source")

    assert "x86_64" in caught.value.help
    assert caught.value.details == {"option": "source"}
