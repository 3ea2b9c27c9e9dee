# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task wants of an image, and where its bytes are."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from .._core.errors import ChecksumUnknown
from .checksum import Checksum, ChecksumUrl, find_in_list
from .inspect import NOTHING, Allowance
from .listing import fetch_list, same_server
from .oci_auth import Access, Credentials
from .source import ImageSource
from .transfer import Fetch, mismatch

UPDATES = ("never", "if_changed", "always")


@dataclass(frozen=True)
class ImageWish:
    """An image that a task wants to have on this host.

    ``image_format`` is that of the source, if it is known; ``target_format`` is the one to keep it in, qcow2 unless it
    is raw anyway. ``update`` says whether an image that is here already is looked for anew. ``headers`` may hold secrets.
    ``allowance`` says what is to be taken out of the image; without it, an image that holds such things is refused.
    """

    source: ImageSource
    checksum: Checksum | ChecksumUrl | None = None
    image_format: str | None = None
    target_format: str | None = None
    update: str = "never"
    access: Access = field(default_factory=Access)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    allowance: Allowance = NOTHING

    @property
    def digest(self) -> Checksum | None:
        """The digest that is wanted, if it is known without asking anybody."""
        return self.checksum if isinstance(self.checksum, Checksum) else None

    @property
    def list_key(self) -> str | None:
        """What stands for the list of checksums that is to vouch for the image, if one is."""
        return self.checksum.source.key if isinstance(self.checksum, ChecksumUrl) else None


def settled(wish: ImageWish) -> ImageWish:
    """Return the wish with a URL in place of a well-known name or of a path, which would be fetched as a copy."""
    source = wish.source
    if source.kind == "path":
        return replace(wish, source=ImageSource("url", f"file://{quote(source.text)}"))
    if source.kind != "name":
        return wish
    from .catalogue import find_image

    known = find_image(source.text, platform.machine())
    return replace(
        wish,
        source=ImageSource("url", known.url),
        checksum=wish.checksum
        or ChecksumUrl(ImageSource("url", known.checksum_url), image=source.text),
        image_format=wish.image_format or known.image_format,
    )


def with_digest(wish: ImageWish) -> ImageWish:
    """Return the wish with the digest that the list of checksums gives, if it names one; raise ``ChecksumUnknown``."""
    listed = wish.checksum
    if not isinstance(listed, ChecksumUrl):
        return wish
    try:
        return replace(wish, checksum=_listed_digest(wish, listed))
    except ChecksumUnknown as exc:
        if listed.image is not None:
            exc.help = (
                f"The publisher of the well-known image {listed.image} keeps this list: check this host's network, "
                "or give an image by its path or its URL."
            )
        raise


def _listed_digest(wish: ImageWish, listed: ChecksumUrl) -> Checksum:
    # Credentials are for the server that they were given for.
    own = same_server(wish.source.text, listed.source.text)
    text = fetch_list(listed.source, http_headers(wish) if own else {}, wish.access.timeout)
    name = wish.source.file_name
    beside = listed.source.file_name.startswith(f"{name}.")
    try:
        return find_in_list(text, name, listed.algorithm, alone=beside)
    except ValueError as exc:
        url = listed.source.shown
        raise ChecksumUnknown(f"The list of checksums {url} is of no use: {exc}.", url=url) from exc


def locate(wish: ImageWish, known: Mapping[str, str]) -> Fetch:
    """Return what is to be fetched; ``known`` are headers that name the version at hand.

    Asks the registry what a reference to it means.
    """
    expected = (wish.digest,) if wish.digest else ()
    if wish.source.kind != "oci":
        headers, timeout = http_headers(wish), wish.access.timeout
        return Fetch(wish.source.text, headers, expected, known=known, timeout=timeout)
    from .oci import resolve
    from .oci_reference import parse_reference

    blob = resolve(parse_reference(wish.source.text), wish.access)
    promised = blob.checksum
    for digest in expected:
        if digest.algorithm == promised.algorithm and digest != promised:
            raise mismatch(wish.source.shown, digest, promised.hex)
    expected = tuple(dict.fromkeys((*expected, promised)))
    timeout = wish.access.timeout
    return Fetch(blob.url, blob.headers, expected, blob.size, blob.image_format, timeout=timeout)


def http_headers(wish: ImageWish) -> dict[str, str]:
    """Return the headers with which the source is asked; they may hold secrets."""
    access = wish.access
    if access.username is None or access.password is None:
        return dict(wish.headers)
    basic = Credentials(access.username, access.password, "the task").basic()
    return {**wish.headers, "Authorization": basic}
