# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people write as a checksum, and the lists that publishers put beside their images."""

from __future__ import annotations

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    InvalidSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.checksum import (
    Checksum,
    ChecksumUrl,
    check_recordable,
    find_in_list,
    parse_checksum,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.source import (
    ImageSource,
)

A256, B256 = "a" * 64, "b" * 64
A512, B512 = "a" * 128, "b" * 128
URL = "https://example.org/SHA256SUMS"
LIST = ImageSource("url", URL)
NAME = "disk.qcow2"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (f"sha256:{A256}", Checksum("sha256", A256)),
        (f"SHA256:{A256.upper()}", Checksum("sha256", A256)),
        (f" sha512:{A512}\n", Checksum("sha512", A512)),
        (URL, ChecksumUrl(LIST)),
        (f"sha512:{URL}", ChecksumUrl(LIST, "sha512")),
        ("file:///srv/SUMS", ChecksumUrl(ImageSource("url", "file:///srv/SUMS"))),
    ],
)
def test_checksums_are_read(text, parsed):
    assert parse_checksum(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        A256,
        "sha256:",
        f"sha256:{A256}0",
        f"sha256:{A512}",
        f"sha512:{A256}",
        f"sha256:{'g' * 64}",
        f"sha256:-{'a' * 63}",
        f"sha1:{'a' * 40}",
        f"md5:{'a' * 32}",
        f"crc32:{A256}",
        "SHA256SUMS",
        "/srv/SHA256SUMS",
        "oci://example.org/sums:1",
        "https://user:s3cr3t@example.org/SHA256SUMS",
        "ftp://example.org/SHA256SUMS",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidSpec) as caught:
        parse_checksum(text, "checksum")

    assert caught.value.message.startswith("checksum: ")
    assert "s3cr3t" not in caught.value.message


def test_a_list_with_a_signature_in_its_url_is_not_recorded():
    check_recordable(f"sha256:{A256}")
    check_recordable(URL)
    with pytest.raises(InvalidSpec) as caught:
        check_recordable(f"{URL}?signature=s3cr3t")
    assert "s3cr3t" not in caught.value.message


GNU = f"{B256}  other.qcow2\n{A256}  {NAME}\n"
BSD = f"SHA256 (other.qcow2) = {B256}\nSHA256 ({NAME}) = {A256}\n"
SIGNED = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# {NAME}: 5 bytes\n{BSD}-----BEGIN PGP SIGNATURE-----\n"


@pytest.mark.parametrize(
    "text",
    [
        GNU,
        GNU.replace("  ", " *"),
        GNU.replace("  ", " "),
        GNU.replace("\n", "\r\n"),
        GNU.replace(NAME, f"./{NAME}"),
        GNU.replace(NAME, f"images/{NAME}"),
        GNU + GNU,
        GNU.replace(A256, A256.upper()),
        BSD,
        BSD.replace(" (", "(").replace(" = ", "= "),
        SIGNED,
        A256,
        f"{A256}\n",
        f"{'c' * 32}  {NAME}\n{GNU}",
    ],
)
def test_lists_are_read(text):
    assert find_in_list(text, NAME) == Checksum("sha256", A256)


def test_the_strongest_digest_is_taken_unless_another_is_asked_for():
    both = f"{GNU}{A512}  {NAME}\n"

    assert find_in_list(both, NAME) == Checksum("sha512", A512)
    assert find_in_list(both, NAME, "sha256") == Checksum("sha256", A256)


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        ("", None),
        ("<html>not found</html>", None),
        (f"{A256}  other.qcow2", None),
        (f"{A256}  {NAME}.sig", None),
        (f"{A256}  my{NAME}", None),
        (f"{A256[1:]}  {NAME}", None),
        (f"{A256}0  {NAME}", None),
        (f"SHA512 ({NAME}) = {A256}", None),
        (f"MD5 ({NAME}) = {'a' * 32}", None),
        (GNU, "sha512"),
        (A256, "sha512"),
        (f"{A256}  {NAME}\n{B256}  {NAME}\n", None),
    ],
)
def test_lists_that_say_nothing_clear_are_refused(text, algorithm):
    with pytest.raises(ValueError, match="it lists"):
        find_in_list(text, NAME, algorithm)


def test_a_list_for_one_file_may_call_it_by_the_name_of_its_build():
    build = f"{A256}  disk-Build16.63.qcow2\n"

    assert find_in_list(build, NAME, alone=True) == Checksum("sha256", A256)
    with pytest.raises(ValueError, match="it lists no"):
        find_in_list(build, NAME)
    with pytest.raises(ValueError, match="it lists no"):
        find_in_list(build + f"{B256}  other\n", NAME, alone=True)
