# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads from a server that misbehaves in every way that we know of."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    ChecksumMismatch,
    ChecksumUnknown,
    ImageFetchFailed,
    ImageNotFound,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import (
    download,
    transfer,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.checksum import (
    Checksum,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.fetch import (
    fetch,
    is_unchanged,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.listing import (
    fetch_list,
    same_server,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.source import (
    parse_source,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.transfer import Fetch
from ansible_collections.cloudnebula.hypervisor.tests.unit.image_server import (
    MIB,
    ImageServer,
    announce,
    chunked,
    cut,
    of_unknown_length,
    raw_disk,
    redirect,
    silent_after,
    slowly,
    status,
    trickling,
)

DISK = raw_disk()
SHA256 = hashlib.sha256(DISK).hexdigest()
SHA512 = hashlib.sha512(DISK).hexdigest()
RIGHT = (Checksum("sha256", SHA256),)
WRONG = (Checksum("sha256", "0" * 64),)


@pytest.fixture
def server():
    with ImageServer() as found:
        found.serve(DISK)
        yield found


@pytest.fixture
def part(tmp_path):
    return tmp_path / "part"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", (0.01, 0.01, 0.01, 0.01))


def get(server, part, **options):
    options = {"timeout": 5.0, **options}
    return fetch(Fetch(server.url(), **options), str(part))


def failure(server, part, **options):
    with pytest.raises(ImageFetchFailed) as caught:
        get(server, part, **options)
    return caught.value


def nothing_is_left(part):
    return sorted(os.listdir(part.parent)) == []


def test_a_file_comes_whole(server, part):
    seen = []

    fetched = fetch(Fetch(server.url()), str(part), lambda done, total: seen.append((done, total)))

    assert part.read_bytes() == DISK
    assert (fetched.digests, fetched.length) == ({"sha256": SHA256}, len(DISK))
    assert fetched.etag == server_etag()
    assert seen[-1] == (len(DISK), len(DISK))
    assert [done for done, dummy in seen] == sorted(done for done, dummy in seen)
    assert part.stat().st_mode & 0o777 == 0o600


def server_etag(data=DISK):
    return f'"{hashlib.md5(data).hexdigest()}"'


def test_digests_that_are_asked_for_are_taken(server, part):
    fetched = get(server, part, expected=(Checksum("sha512", SHA512),))

    assert fetched.digests == {"sha256": SHA256, "sha512": SHA512}


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 451])
def test_fault_an_answer_that_will_not_change_fails_at_once(server, part, code):
    server.faults = [status(code)]

    error = failure(server, part)

    assert f"answered {code}" in error.message
    assert error.help.startswith("Check the URL")
    assert "kept" not in error.help
    assert ("username" in error.help) == (code in (401, 403))
    assert error.details["status"] == code
    assert len(server.asked) == 1
    assert nothing_is_left(part)


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503])
def test_fault_a_server_in_trouble_is_asked_again(server, part, code):
    server.faults = [status(code)] * 2

    get(server, part)

    assert part.read_bytes() == DISK
    assert len(server.asked) == 3


def test_fault_a_server_that_stays_in_trouble_is_given_up(server, part):
    server.faults = [status(500)] * 9

    error = failure(server, part)

    assert "answered 500" in error.message
    assert len(server.asked) == 5
    assert nothing_is_left(part)


def test_fault_a_redirect_loop_ends(server, part):
    server.faults = [redirect("/disk.raw")] * 20

    error = failure(server, part)

    assert "redirects more than 10 times" in error.message
    assert len(server.asked) == 11


def test_redirects_are_followed(server, part):
    server.faults = [redirect("/a?token=s3cr3t", 301), redirect("/disk.raw", 307)]

    get(server, part)

    assert part.read_bytes() == DISK


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/"])
def test_fault_a_redirect_out_of_the_web_is_not_followed(server, part, place):
    server.faults = [redirect(place)]

    failure(server, part)

    assert len(server.asked) == 1
    assert nothing_is_left(part)


def test_credentials_are_not_sent_on_to_another_server(server, part):
    with ImageServer() as other:
        server.faults = [redirect(other.serve(DISK))]
        headers = {"Authorization": "Basic c2VjcmV0", "Private-Token": "s3cr3t"}

        get(server, part, headers=headers)

        assert server.asked[0].headers["private-token"] == "s3cr3t"
        assert {"authorization", "private-token"} & set(other.asked[0].headers) == set()


def test_fault_a_reset_in_the_middle_is_gone_on_after(server, part):
    server.faults = [cut(2 * MIB, reset=True)]

    fetched = get(server, part)

    assert part.read_bytes() == DISK
    assert fetched.digests["sha256"] == SHA256
    first, second = server.asked
    assert first.range is None
    assert second.range == f"bytes={second_offset(second)}-"
    assert second.headers["if-range"] == server_etag()


def second_offset(asked):
    return int(asked.range.removeprefix("bytes=").rstrip("-"))


def test_fault_a_connection_that_is_closed_too_early_is_gone_on_after(server, part):
    server.faults = [cut(MIB), cut(MIB), cut(0)]

    get(server, part)

    assert part.read_bytes() == DISK
    assert [asked.range for asked in server.asked] == [
        None,
        f"bytes={MIB}-",
        f"bytes={2 * MIB}-",
        f"bytes={2 * MIB}-",
    ]


def test_fault_a_connection_that_is_always_cut_off_is_given_up(server, part):
    server.faults = [cut(1000)] * 20

    error = failure(server, part)

    assert f"5000 of {len(DISK)} bytes" in error.message or "closed" in error.message
    assert error.details["received"] == 5000
    assert len(server.asked) == 5


def test_the_next_run_goes_on_with_what_a_failed_one_left(server, part):
    server.faults = [cut(MIB), *[status(500)] * 4]
    failure(server, part)

    get(server, part)

    assert part.read_bytes() == DISK
    assert server.asked[-1].range == f"bytes={MIB}-"


def test_fault_a_server_without_ranges_sends_all_again(server, part):
    server.ranges = False
    server.faults = [cut(MIB)]

    get(server, part)

    assert part.read_bytes() == DISK
    assert len(server.asked) == 2


def test_without_a_name_of_the_version_nothing_is_gone_on_with(server, part):
    server.etags = False
    server.faults = [cut(MIB)]

    get(server, part)

    assert part.read_bytes() == DISK
    assert [asked.range for asked in server.asked] == [None, None]


def test_a_weak_name_of_the_version_is_not_enough_to_go_on(server, part):
    def cut_off(handler):
        handler.send_response(200)
        handler.send_header("ETag", 'W/"1"')
        handler.send_header("Content-Length", str(len(DISK)))
        handler.end_headers()
        handler.wfile.write(DISK[:MIB])

    server.faults = [cut_off]

    get(server, part)

    assert part.read_bytes() == DISK
    assert [asked.range for asked in server.asked] == [None, None]


def test_a_known_digest_is_enough_to_go_on(server, part):
    server.etags = False
    server.faults = [cut(MIB)]

    get(server, part, expected=RIGHT)

    assert part.read_bytes() == DISK
    assert server.asked[1].range == f"bytes={MIB}-"


def test_a_beginning_that_proves_wrong_is_fetched_anew_once(server, part):
    server.etags = False
    other = raw_disk(seed=b"other")
    server.files["/disk.raw"] = other
    server.faults = [cut(MIB), *[status(500)] * 4]
    failure(server, part, expected=RIGHT)
    server.files["/disk.raw"] = DISK

    get(server, part, expected=RIGHT)

    assert part.read_bytes() == DISK
    assert [asked.range for asked in server.asked[-2:]] == [f"bytes={MIB}-", None]


def test_fault_another_version_between_two_parts_is_noticed(server, part):
    other = raw_disk(seed=b"other")

    def change(handler):
        handler.send_file(MIB)
        server.files["/disk.raw"] = other

    server.faults = [change]

    fetched = get(server, part)

    assert part.read_bytes() == other
    assert fetched.etag == server_etag(other)


def test_fault_a_server_that_goes_on_with_another_version_is_not_believed(server, part):
    other = raw_disk(seed=b"other")

    def go_on_with_other(handler):
        handler.headers.replace_header("If-Range", server_etag(other))
        handler.body = other
        handler.send_file()

    server.faults = [cut(MIB), go_on_with_other]

    get(server, part)

    assert part.read_bytes() == DISK
    assert server.asked[2].range is None


WHOLE = len(DISK)


@pytest.mark.parametrize(
    "answered",
    [
        f"bytes {MIB - 1}-{WHOLE - 1}/{WHOLE}",
        f"bytes {MIB + 1}-{WHOLE - 1}/{WHOLE}",
        f"bytes {MIB}-{WHOLE - 1}/{WHOLE + 1}",
        f"lines {MIB}-{WHOLE - 1}/{WHOLE}",
        "",
    ],
)
def test_fault_a_server_that_sends_another_part_than_asked_for_is_not_believed(
    server, part, answered
):
    def send_another_part(handler):
        handler.answer(206, DISK[MIB:], Content_Range=answered, ETag=server_etag())

    server.faults = [cut(MIB), send_another_part]

    get(server, part)

    assert part.read_bytes() == DISK
    assert [asked.range for asked in server.asked] == [None, f"bytes={MIB}-", None]


@pytest.mark.parametrize("extra", [1, MIB])
def test_fault_a_length_that_is_too_large_is_noticed(server, part, extra):
    server.faults = [announce(len(DISK) + extra)] * 9
    server.etags = False

    error = failure(server, part)

    assert str(len(DISK) + extra) in error.message
    assert nothing_is_left(part)


def test_fault_a_length_that_is_too_small_is_noticed_by_the_digest(server, part):
    server.faults = [announce(len(DISK) - 512)]

    with pytest.raises(ChecksumMismatch):
        get(server, part, expected=RIGHT)

    assert nothing_is_left(part)


def test_fault_a_length_other_than_the_registry_says_is_refused(server, part):
    error = failure(server, part, size=len(DISK) - 1)

    assert f"{len(DISK)} bytes, not {len(DISK) - 1}" in error.message


def test_fault_a_wrong_digest_leaves_nothing(server, part):
    with pytest.raises(ChecksumMismatch) as caught:
        get(server, part, expected=WRONG)

    assert SHA256 in caught.value.message
    assert caught.value.details == {"expected": str(WRONG[0]), "found": f"sha256:{SHA256}"}
    assert nothing_is_left(part)
    assert len(server.asked) == 1


def test_fault_silence_in_the_middle_is_given_up(server, part):
    server.faults = [silent_after(1000)] * 9
    began = time.monotonic()

    error = failure(server, part, timeout=0.2)

    assert "no answer in time" in error.message
    assert time.monotonic() - began < 10


def test_fault_a_server_that_trickles_is_given_up(server, part):
    server.faults = [trickling] * 9
    began = time.monotonic()

    error = failure(server, part, timeout=1)

    assert "less than 1024 bytes per second" in error.message
    assert time.monotonic() - began < 30


def test_a_server_that_needs_time_gets_it(server, part):
    server.faults = [slowly(0.3)]

    get(server, part, timeout=1.0)

    assert part.read_bytes() == DISK


def test_a_file_in_chunks_comes_whole(server, part):
    server.faults = [chunked]

    assert get(server, part).digests["sha256"] == SHA256


def test_fault_a_file_of_unknown_length_needs_a_digest(server, part):
    server.faults = [of_unknown_length]
    error = failure(server, part)
    server.faults = [of_unknown_length]
    fetched = get(server, part, expected=RIGHT)

    assert "does not say how long" in error.message
    assert "checksum" in error.help
    assert fetched.length == len(DISK)


def test_fault_nobody_listens(part):
    with ImageServer() as server:
        pass

    error = failure(server, part)

    assert "refused" in error.message
    assert nothing_is_left(part)


def test_fault_the_disk_is_full(server, part):
    # A limit of this process on the length of files: the write fails as it does on a full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, before[1]))
    try:
        error = failure(server, part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert "Could not write" in error.message
    assert "room" in error.help
    assert nothing_is_left(part)


def test_fault_a_file_that_the_disk_has_no_room_for_is_not_begun(server, part):
    server.faults = [announce(10**16)]

    error = failure(server, part)

    assert "free" in error.message
    assert nothing_is_left(part)


def test_a_part_of_an_earlier_start_of_the_host_needs_a_digest(server, part):
    server.faults = [cut(MIB), *[status(500)] * 4]
    failure(server, part)
    note = part.with_name("part.json")
    note.write_text(json.dumps({**json.loads(note.read_text()), "boot": "another"}))

    get(server, part)

    assert server.asked[-1].range is None
    assert part.read_bytes() == DISK


@pytest.mark.parametrize("content", ["", "[]", "{", '{"etag": 1, "strange": 2}'])
def test_a_note_that_is_not_understood_is_not_believed(server, part, content):
    part.write_bytes(b"something else")
    part.with_name("part.json").write_text(content)

    get(server, part)

    assert part.read_bytes() == DISK


def test_a_part_that_is_whole_is_not_fetched_again(server, part):
    get(server, part, expected=RIGHT)
    get(server, part, expected=RIGHT)
    by_etag = get(server, part)

    assert [asked.headers.get("if-none-match") for asked in server.asked] == [None, server_etag()]
    assert by_etag.digests["sha256"] == SHA256


def test_the_version_at_hand_is_not_fetched_again(server, part):
    known = {"If-None-Match": server_etag()}

    assert get(server, part, known=known) is None
    assert nothing_is_left(part)
    assert is_unchanged(Fetch(server.url(), known=known))
    assert not is_unchanged(Fetch(server.url(), known={"If-None-Match": '"other"'}))


def test_a_server_that_does_not_say_whether_a_file_has_changed_is_an_error(server):
    server.faults = [status(403)]

    with pytest.raises(ImageFetchFailed):
        is_unchanged(Fetch(server.url()))


def test_secrets_in_a_url_are_not_shown(server, part):
    server.faults = [status(403)]

    with pytest.raises(ImageFetchFailed) as caught:
        fetch(Fetch(server.url("/disk.raw?signature=s3cr3t")), str(part))

    assert server.asked[0].path == "/disk.raw?signature=s3cr3t"
    assert "s3cr3t" not in json.dumps([caught.value.message, caught.value.as_dict()])


def test_a_local_file_is_copied(tmp_path, part):
    source = tmp_path / "a disk.raw"
    source.write_bytes(DISK)
    url = f"file://{tmp_path}/a%20disk.raw"

    fetched = fetch(Fetch(url, expected=RIGHT), str(part))

    assert part.read_bytes() == DISK
    assert (fetched.digests["sha256"], fetched.length) == (SHA256, len(DISK))
    assert fetch(Fetch(url, known={"If-None-Match": fetched.etag}), str(part)) is None
    assert is_unchanged(Fetch(url, known={"If-None-Match": fetched.etag}))


def test_a_local_file_with_a_wrong_digest_leaves_nothing(tmp_path):
    (tmp_path / "disk.raw").write_bytes(DISK)
    part = tmp_path / "folder" / "part"
    part.parent.mkdir()

    with pytest.raises(ChecksumMismatch):
        fetch(Fetch(f"file://{tmp_path}/disk.raw", expected=WRONG), str(part))

    assert nothing_is_left(part)


@pytest.mark.parametrize("name", ["missing", "folder", "pipe"])
def test_what_is_no_local_file_is_refused(tmp_path, part, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ImageNotFound):
        fetch(Fetch(f"file://{tmp_path}/{name}"), str(part))


def test_a_list_of_checksums_is_fetched(server, tmp_path):
    text = f"{SHA256}  disk.raw\n"
    url = server.serve(text.encode(), "/SHA256SUMS")
    (tmp_path / "SHA256SUMS").write_text(text)

    assert fetch_list(parse_source(url), {"A": "b"}, 5) == text
    assert fetch_list(parse_source(f"file://{tmp_path}/SHA256SUMS"), {}, 5) == text
    assert server.asked[0].headers["a"] == "b"


def test_a_list_that_cannot_be_had_is_an_error(server, tmp_path):
    nobody = "http://127.0.0.1:1/none"
    for url in (server.url("/none"), f"file://{tmp_path}/none", nobody):
        with pytest.raises(ChecksumUnknown) as caught:
            fetch_list(parse_source(url), {}, 5)

        assert f"{caught.value} ".count("/none ") == 1


def test_a_list_without_end_is_an_error(server):
    url = server.serve(bytes(5 * MIB), "/SHA256SUMS")

    with pytest.raises(ChecksumUnknown, match="longer than"):
        fetch_list(parse_source(url), {}, 5)


def test_fault_a_list_that_comes_by_drops_is_given_up(server, monkeypatch):
    monkeypatch.setattr(transfer, "PATIENCE", 0.3)
    url = server.serve(bytes(MIB), "/SHA256SUMS")
    server.faults = [trickling]

    with pytest.raises(ChecksumUnknown, match="not there after"):
        fetch_list(parse_source(url), {}, 5)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a/x", "https://a/y", True),
        ("https://a/x", "https://a:444/y", False),
        ("https://a/x", "http://a/y", False),
        ("https://a/x", "https://b/y", False),
    ],
)
def test_servers_are_told_apart(one, other, same):
    assert same_server(one, other) is same
