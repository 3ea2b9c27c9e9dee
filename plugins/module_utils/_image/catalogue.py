# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Well-known cloud images by name: where each is, and where its publisher lists its checksum. Pure data.

All of them read a NoCloud seed. Where a publisher keeps a file that is always the newest build, that one is named: a
name then means what the publisher offers on the day it is fetched. Each publisher's own page stands at its entries. The
URLs were gathered from there at second hand, in 2026: nothing here has asked those servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .._core.errors import InvalidSpec

# What Python calls a machine, by what Linux calls it.
_ARCHITECTURES = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "i86pc": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
}
_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}  # Debian's names, and those of its kin
_LINUX = {"x86_64": "x86_64", "aarch64": "aarch64"}
_INTEL = {"x86_64": "x86_64"}


@dataclass(frozen=True)
class CatalogueEntry:
    """An image for one architecture. ``user`` is whom the image itself makes, unless user-data says otherwise."""

    url: str
    checksum_url: str
    image_format: str
    user: str


@dataclass(frozen=True)
class _Image:
    """A URL for all architectures, ``{0}`` being the publisher's name of one; checksums stand beside it or below it."""

    url: str
    checksums: str  # a file's name in the same folder, or an ending that is put after the URL
    user: str
    architectures: Mapping[str, str]


def _debian(version: int, codename: str) -> _Image:
    # https://cloud.debian.org/images/cloud/
    folder = f"https://cloud.debian.org/images/cloud/{codename}/latest"
    url = f"{folder}/debian-{version}-genericcloud-{{0}}.qcow2"
    return _Image(url, "SHA512SUMS", "debian", _DEBIAN)


def _ubuntu(version: str) -> _Image:
    # https://cloud-images.ubuntu.com/releases/ - qcow2, whatever the name says
    folder = f"https://cloud-images.ubuntu.com/releases/{version}/release"
    url = f"{folder}/ubuntu-{version}-server-cloudimg-{{0}}.img"
    return _Image(url, "SHA256SUMS", "ubuntu", _DEBIAN)


def _fedora(version: int, build: str) -> _Image:
    # https://fedoraproject.org/cloud/download - one build for each release
    folder = (
        f"https://download.fedoraproject.org/pub/fedora/linux/releases/{version}/Cloud/{{0}}/images"
    )
    url = f"{folder}/Fedora-Cloud-Base-Generic-{version}-{build}.{{0}}.qcow2"
    return _Image(url, f"Fedora-Cloud-{version}-{build}-{{0}}-CHECKSUM", "fedora", _LINUX)


def _almalinux(version: int) -> _Image:
    # https://wiki.almalinux.org/cloud/Generic-cloud.html
    folder = f"https://repo.almalinux.org/almalinux/{version}/cloud/{{0}}/images"
    url = f"{folder}/AlmaLinux-{version}-GenericCloud-latest.{{0}}.qcow2"
    return _Image(url, "CHECKSUM", "almalinux", _LINUX)


def _rocky(version: int) -> _Image:
    # https://rockylinux.org/download
    folder = f"https://dl.rockylinux.org/pub/rocky/{version}/images/{{0}}"
    url = f"{folder}/Rocky-{version}-GenericCloud-Base.latest.{{0}}.qcow2"
    return _Image(url, ".CHECKSUM", "rocky", _LINUX)


def _leap(version: str, prefix: str) -> _Image:
    # https://get.opensuse.org/leap/
    folder = f"https://download.opensuse.org/distribution/leap/{version}/appliances"
    url = f"{folder}/{prefix}-{version}-Minimal-VM.{{0}}-Cloud.qcow2"
    return _Image(url, ".sha256", "opensuse", _LINUX)


def _alpine(version: str) -> _Image:
    # https://alpinelinux.org/cloud/ - a file for each minor release; those for aarch64 are called after their firmware
    folder = f"https://dl-cdn.alpinelinux.org/alpine/v{version.rpartition('.')[0]}/releases/cloud"
    url = f"{folder}/nocloud_alpine-{version}-{{0}}-cloudinit-r0.qcow2"
    return _Image(url, ".sha512", "alpine", {"x86_64": "x86_64-bios", "aarch64": "aarch64-uefi"})


def _freebsd(version: str) -> _Image:
    # https://download.freebsd.org/releases/VM-IMAGES/ - packed with xz; reads the seed by nuageinit
    folder = f"https://download.freebsd.org/releases/VM-IMAGES/{version}-RELEASE"
    url = f"{folder}/{{0}}-BASIC-CLOUDINIT-ufs.qcow2.xz"
    prefix = f"Latest/FreeBSD-{version}-RELEASE"
    own = {"x86_64": f"amd64/{prefix}-amd64", "aarch64": f"aarch64/{prefix}-arm64-aarch64"}
    return _Image(url, "CHECKSUM.SHA256", "freebsd", own)


def _omnios(version: str) -> _Image:
    # https://omnios.org/download - the next stable release takes this one's place in the folder
    url = f"https://downloads.omnios.org/media/stable/omnios-{version}.cloud.qcow2"
    return _Image(url, ".sha256", "omnios", _INTEL)


_IMAGES: Mapping[str, _Image] = {
    "almalinux-9": _almalinux(9),
    "almalinux-10": _almalinux(10),
    "alpine-3.22": _alpine("3.22.1"),
    "alpine-3.23": _alpine("3.23.4"),
    "debian-12": _debian(12, "bookworm"),
    "debian-13": _debian(13, "trixie"),
    "fedora-43": _fedora(43, "1.6"),
    "fedora-44": _fedora(44, "1.7"),
    "freebsd-14.4": _freebsd("14.4"),
    "freebsd-15.1": _freebsd("15.1"),
    "omnios-r151058": _omnios("r151058"),
    "opensuse-leap-15.6": _leap("15.6", "openSUSE-Leap"),
    "opensuse-leap-16.0": _leap("16.0", "Leap"),
    "rocky-9": _rocky(9),
    "rocky-10": _rocky(10),
    "ubuntu-22.04": _ubuntu("22.04"),
    "ubuntu-24.04": _ubuntu("24.04"),
    "ubuntu-26.04": _ubuntu("26.04"),
}


def names() -> list[str]:
    """Return the names that :func:`find_image` knows."""
    return list(_IMAGES)


def find_image(name: str, architecture: str, option: str = "image") -> CatalogueEntry:
    """Return the image of a name for a machine as ``platform.machine()`` calls it.

    Raises ``InvalidSpec``, naming ``option``, for a name or an architecture that there is no image for.
    """
    image = _IMAGES.get(name)
    if image is None:
        raise InvalidSpec(
            f"{option}: there is no well-known image called {name!r}.",
            f"Give one of {', '.join(_IMAGES)}, an absolute path or a URL.",
            option=option,
        )
    own = image.architectures.get(_ARCHITECTURES.get(architecture, ""))
    if own is None:
        raise InvalidSpec(
            f"{option}: the image {name} is not made for {architecture}.",
            f"It is there for {' and '.join(image.architectures)}; for others, give a URL.",
            option=option,
        )
    url = image.url.format(own)
    checksums = image.checksums.format(own)
    beside = url.rpartition("/")[0] + "/" + checksums
    return CatalogueEntry(
        url=url,
        checksum_url=url + checksums if checksums.startswith(".") else beside,
        image_format="qcow2",
        user=image.user,
    )
