# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library of images: fetched once, never changed, removed only when nobody uses them."""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import os
import struct
import threading
from dataclasses import replace
from fnmatch import fnmatch

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BadRecord,
    ChecksumMismatch,
    ChecksumUnknown,
    HostError,
    ImageFetchFailed,
    ImageInUse,
    ImageNotFound,
    ImageRefused,
    InvalidSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import VmSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.locks import (
    exclusive,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import (
    catalogue,
    download,
    library,
    wish,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.catalogue import (
    CatalogueEntry,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.checksum import (
    parse_checksum,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.entry import (
    dump,
    load,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.library import (
    ImageLibrary,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.provide import (
    foresee_image,
    keeping,
    provide_image,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.source import (
    parse_source,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.wish import ImageWish
from ansible_collections.cloudnebula.hypervisor.tests.unit.image_server import (
    MIB,
    ImageServer,
    cut,
    digest,
    raw_disk,
    slowly,
    status,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle

DISK = raw_disk()
OTHER = raw_disk(seed=b"other")
NO_IMAGE = b"<html>" + bytes(2000)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", (0.01, 0.01))


@pytest.fixture
def server():
    with ImageServer() as found:
        found.serve(DISK)
        yield found


@pytest.fixture
def images(tmp_path):
    return ImageLibrary(str(tmp_path / "data"))


def wanted(text, checksum=None, **options):
    parsed = parse_checksum(checksum) if checksum else None
    return ImageWish(parse_source(text), parsed, **options)


def names(images):
    """Return the names of all files in the library's folder."""
    return sorted(os.listdir(images.folder)) if os.path.isdir(images.folder) else []


def content(entry):
    with open(entry.path, "rb") as stream:
        return stream.read()


def use(images, name, path, **changes):
    """Record a machine whose disk rests on a file."""
    store = Store(images.data_dir)
    return store.save(
        minimal_handle(name, work_dir=store.work_dir(name), base_image=path, **changes)
    )


def test_an_image_is_fetched_once(images, server):
    first = images.ensure(wanted(server.url()))
    second = images.ensure(wanted(server.url()))

    assert first == second
    assert content(first) == DISK
    assert len(server.asked) == 1
    assert names(images) == sorted([os.path.basename(first.path), os.path.basename(first.record)])
    assert os.stat(first.path).st_mode & 0o777 == 0o444
    assert os.stat(images.folder).st_mode & 0o777 == 0o700


def test_an_entry_says_what_the_image_is(images, server):
    entry = images.ensure(wanted(server.url(), digest(DISK, "sha512")))

    assert (entry.source, entry.format, entry.source_format) == (server.url(), "raw", "raw")
    assert (entry.size, entry.virtual_size, entry.digest) == (len(DISK), len(DISK), digest(DISK))
    assert entry.source_digests["sha512"] == digest(DISK, "sha512").partition(":")[2]
    assert entry.etag
    assert entry.fetched_at.endswith("+00:00")
    assert images.entries() == [entry]


def test_reading_makes_nothing(images, server):
    assert images.entries() == []
    assert images.find(wanted(server.url())) is None
    assert images.foresee(wanted(server.url())) is None
    assert images.prune(dry=True).entries == ()
    assert not os.path.exists(images.data_dir)
    assert server.asked == []


def test_sources_do_not_share_an_entry(images, server):
    server.serve(DISK, "/same.raw")
    first = images.ensure(wanted(server.url()))
    second = images.ensure(wanted(server.url("/same.raw")))
    third = images.ensure(wanted(server.url("/disk.raw?version=2")))

    assert len({entry.path for entry in (first, second, third)}) == 3
    assert third.source == server.url("/disk.raw?...")


def test_secrets_are_not_recorded(images, server):
    server.files["/disk.raw"] = DISK
    url = server.url("/disk.raw?signature=s3cr3t")
    headers = {"Private-Token": "t0k3n"}
    access = wish.Access("me", "p4ssw0rd")

    entry = images.ensure(replace(wanted(url), headers=headers, access=access))

    asked = server.asked[0]
    assert asked.path.endswith("s3cr3t")
    assert asked.headers["private-token"] == "t0k3n"
    assert asked.headers["authorization"].startswith("Basic ")
    with open(entry.record) as stream:
        record = stream.read()
    for secret in ("s3cr3t", "t0k3n", "p4ssw0rd", asked.headers["authorization"][6:]):
        assert secret not in record


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)], ids=["gz", "xz"]
)
def test_a_compressed_image_is_unpacked_and_checked_as_published(images, server, suffix, compress):
    packed = compress(DISK)
    url = server.serve(packed, f"/disk.raw{suffix}")

    entry = images.ensure(wanted(url, digest(packed)))

    assert content(entry) == DISK
    assert entry.digest == digest(DISK)
    assert entry.source_digests["sha256"] == digest(packed).partition(":")[2]
    assert len(names(images)) == 2
    assert images.find(wanted(url, digest(packed))) == entry
    assert images.find(wanted(url, digest(packed, "sha512"))) is None  # nobody can tell any more


@pytest.mark.parametrize("checksum", [digest(OTHER), digest(OTHER, "sha512")])
def test_a_wrong_checksum_leaves_nothing_that_a_later_run_would_take(images, server, checksum):
    with pytest.raises(ChecksumMismatch):
        images.ensure(wanted(server.url(), checksum))

    assert names(images) == []
    assert images.find(wanted(server.url())) is None
    images.ensure(wanted(server.url()))
    assert [asked.range for asked in server.asked] == [None, None]


def test_an_image_that_is_here_with_another_digest_is_not_taken(images, server):
    images.ensure(wanted(server.url()))

    with pytest.raises(ChecksumMismatch):
        images.ensure(wanted(server.url(), digest(OTHER)))
    assert len(images.entries()) == 1


def test_an_image_that_is_here_is_compared_with_a_digest_of_another_kind(images, server):
    entry = images.ensure(wanted(server.url()))

    assert images.ensure(wanted(server.url(), digest(DISK, "sha512"))) == entry
    assert len(server.asked) == 1


def test_what_is_no_image_is_not_kept(images, server):
    url = server.serve(NO_IMAGE, "/page.qcow2")

    with pytest.raises(ImageRefused) as caught:
        images.ensure(wanted(url))

    assert url in caught.value.message
    assert names(images) == []


def test_a_download_is_kept_if_another_option_would_let_it_in(images, server):
    blank = bytes(MIB)  # no boot sector
    url = server.serve(blank, "/blank.raw")
    key = parse_source(url).key

    for dummy in range(2):
        with pytest.raises(ImageRefused, match="no raw disk with a boot sector"):
            images.ensure(wanted(url))
        assert names(images) == [f".{key}.part", f".{key}.part.json"]
    entry = images.ensure(wanted(url, image_format="raw"))

    assert content(entry) == blank
    assert len(names(images)) == 2
    asked = ["if-none-match" in asked.headers for asked in server.asked]  # by whoever has all of it
    assert asked == [False, True, True]


def test_a_copy_of_a_local_file_is_not_kept_for_another_option(images, tmp_path):
    (tmp_path / "blank.raw").write_bytes(bytes(MIB))

    with pytest.raises(ImageRefused, match="no raw disk with a boot sector"):
        images.ensure(wanted(str(tmp_path / "blank.raw")))

    assert names(images) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source_format": "vmdk"}, "taken for vmdk. Now it is taken for raw."),
        ({"decrypted": True}, "taken for encrypted raw. Now"),
        ({"dropped_snapshots": 2}, "taken for raw with 2 snapshots. Now"),
    ],
    ids=str,
)
def test_bytes_that_were_taken_for_something_else_before_are_not_mixed_up(
    images, server, change, words
):
    first = images.ensure(wanted(server.url()))
    before = replace(first, **change)
    with open(first.record, "wb") as stream:
        stream.write(dump(before))

    for dummy in range(2):
        with pytest.raises(ImageRefused) as caught:
            images.ensure(wanted(server.url(), update="always"))

        assert words in caught.value.message
        assert first.path in caught.value.help
        assert images.entries() == [before]
    images.remove(before)
    again = images.ensure(wanted(server.url(), update="always"))

    assert replace(again, fetched_at=first.fetched_at) == first
    assert len(names(images)) == 2


@pytest.mark.parametrize("data", [DISK, NO_IMAGE], ids=["taken in", "refused"])
def test_what_a_killed_run_left_half_made_is_swept_by_the_next(images, server, data):
    url = server.serve(data, "/disk.raw")
    key, folder = parse_source(url).key, os.path.join(images.data_dir, "images")
    os.makedirs(folder, mode=0o700)
    ends = (".part.unpacked", ".part.converted", ".part.json.part")
    left = [f".{key}{end}" for end in ends] + [f"..{key}.part.converted.part"]
    others = [f"{key}.part", "..0123456789abcdef.part.converted.part"]
    for name in (*left, *others):
        with open(os.path.join(folder, name), "w"):
            pass

    with contextlib.suppress(ImageRefused):
        images.ensure(wanted(url))

    assert [name for name in names(images) if name in (*left, *others)] == sorted(others)


def test_a_list_of_checksums_vouches_for_an_image(images, server):
    sums = server.serve(f"{digest(DISK)[7:]}  disk.raw\n".encode(), "/SHA256SUMS")

    entry = images.ensure(wanted(server.url(), sums))
    again = images.ensure(wanted(server.url(), sums))

    assert entry == again
    assert [asked.path for asked in server.asked] == ["/SHA256SUMS", "/disk.raw"]


def test_an_image_that_is_here_needs_only_the_list(images, server):
    sums = server.serve(f"{digest(DISK)[7:]}  disk.raw\n".encode(), "/SHA256SUMS")
    entry = images.ensure(wanted(server.url()))

    again = images.ensure(wanted(server.url(), sums))
    images.ensure(wanted(server.url(), sums))

    assert again.path == entry.path
    assert [asked.path for asked in server.asked] == ["/disk.raw", "/SHA256SUMS"]


@pytest.mark.parametrize("listing", [None, "", f"{digest(DISK)[7:]}  other.raw\n"])
def test_the_list_of_a_well_known_image_is_not_the_task_s(images, server, monkeypatch, listing):
    if listing is not None:
        server.serve(listing.encode(), "/SHA256SUMS")
    entry = CatalogueEntry(server.url(), server.url("/SHA256SUMS"), "raw", "debian")
    monkeypatch.setattr(catalogue, "find_image", lambda name, machine: entry)

    with pytest.raises(ChecksumUnknown) as caught:
        images.ensure(wanted("debian-12"))

    assert str(caught.value).count(server.url("/SHA256SUMS")) == 1
    assert "debian-12" in caught.value.help
    assert "Check the URL" not in caught.value.help


@pytest.mark.parametrize(
    ("checksum", "options", "known"),
    [
        (digest(DISK), {"image_format": "raw"}, True),
        (digest(DISK), {"target_format": "raw"}, True),
        (digest(DISK), {}, False),
        (digest(DISK, "sha512"), {"image_format": "raw"}, False),
        (None, {"image_format": "raw"}, False),
    ],
)
def test_only_what_is_certain_of_a_path_is_foreseen(images, server, checksum, options, known):
    wish = wanted(server.url(), checksum, **options)

    foreseen = images.foreseen_path(wish)
    path = images.ensure(wish).path

    assert (foreseen == path) == known
    assert ("?" in foreseen) == (not known)
    assert fnmatch(path, foreseen.replace(".?", ".*"))
    assert not os.path.exists(foreseen) or known


@pytest.mark.parametrize(
    ("listing", "error"),
    [
        (f"{digest(OTHER)[7:]}  disk.raw\n", ChecksumMismatch),
        (f"{digest(DISK)[7:]}  other.raw\n", ChecksumUnknown),
        ("", ChecksumUnknown),
    ],
)
def test_a_list_that_does_not_vouch_stops_the_task(images, server, listing, error):
    sums = server.serve(listing.encode(), "/SHA256SUMS")

    with pytest.raises(error):
        images.ensure(wanted(server.url(), sums))

    assert names(images) == []


def test_credentials_do_not_go_to_the_list_on_another_server(images, server):
    with ImageServer() as other:
        sums = other.serve(f"{digest(DISK)[7:]}  disk.raw\n".encode(), "/SHA256SUMS")
        access = wish.Access("me", "p4ssw0rd")

        images.ensure(replace(wanted(server.url(), sums), access=access))

        assert "authorization" in server.asked[0].headers
        assert "authorization" not in other.asked[0].headers


def test_if_changed_asks_and_keeps_what_is_current(images, server):
    entry = images.ensure(wanted(server.url()))
    look = wanted(server.url(), update="if_changed")

    assert images.foresee(look) == entry
    assert images.ensure(look) == entry
    assert [asked.headers.get("if-none-match") for asked in server.asked] == [
        None,
        entry.etag,
        entry.etag,
    ]


def test_another_version_is_another_file(images, server):
    old = images.ensure(wanted(server.url()))
    server.serve(OTHER)
    look = wanted(server.url(), update="if_changed")

    assert images.foresee(look) is None
    new = images.ensure(look)

    assert (content(old), content(new)) == (DISK, OTHER)
    assert images.find(wanted(server.url())) == new
    assert images.find(wanted(server.url(), digest(DISK))) == old


def test_if_changed_asks_nobody_for_an_image_with_a_known_digest(images, server):
    entry = images.ensure(wanted(server.url(), digest(DISK)))

    assert images.ensure(wanted(server.url(), digest(DISK), update="if_changed")) == entry
    assert len(server.asked) == 1


def test_always_fetches_the_same_image_again_without_touching_it(images, server):
    first = images.ensure(wanted(server.url()))
    inode = os.stat(first.path).st_ino

    second = images.ensure(wanted(server.url(), update="always"))

    assert (second.path, os.stat(second.path).st_ino) == (first.path, inode)
    assert len(server.asked) == 2
    assert len(names(images)) == 2


def test_a_server_that_fails_does_not_cost_the_image_that_is_here(images, server):
    entry = images.ensure(wanted(server.url()))
    server.faults = [status(404)]

    with pytest.raises(ImageFetchFailed):
        images.ensure(wanted(server.url(), update="always"))

    assert images.entries() == [entry]


def test_many_tasks_at_once_fetch_once(images, server):
    server.faults = [slowly(0.3)]
    got, errors = [], []

    def task():
        try:
            got.append(ImageLibrary(images.data_dir).ensure(wanted(server.url())))
        except Exception as exc:
            errors.append(exc)

    tasks = [threading.Thread(target=task) for dummy in range(8)]
    for thread in tasks:
        thread.start()
    for thread in tasks:
        thread.join()

    assert errors == []
    assert got == [got[0]] * 8
    assert len(server.asked) == 1
    assert len(names(images)) == 2


def test_a_wait_for_another_task_ends(images, server, monkeypatch):
    monkeypatch.setattr(library, "_PATIENCE", 0.1)
    os.makedirs(images.folder, mode=0o700)
    source = parse_source(server.url())

    with exclusive(os.path.join(images.folder, f".{source.key}.lock"), 1, "it"):
        with pytest.raises(Exception, match="Another task works on the image http"):
            images.ensure(wanted(server.url()))


def test_a_run_that_was_cut_off_is_gone_on_with(images, server):
    server.faults = [cut(MIB), *[status(500)] * 2]
    with pytest.raises(ImageFetchFailed) as caught:
        images.ensure(wanted(server.url()))
    left = names(images)

    images.ensure(wanted(server.url()))

    key = parse_source(server.url()).key
    assert left == [f".{key}.part", f".{key}.part.json"]
    assert "is kept" in caught.value.help
    assert server.asked[-1].range == f"bytes={MIB}-"
    assert len(names(images)) == 2


def test_a_path_is_imported_as_a_copy(images, tmp_path):
    source = tmp_path / "my disk.raw"
    source.write_bytes(DISK)

    entry = images.ensure(wanted(str(source)))

    assert content(entry) == DISK
    assert entry.source == f"file://{tmp_path}/my%20disk.raw"
    assert os.path.basename(entry.path).startswith("my-disk-")
    assert images.find(wanted(f"file://{tmp_path}/my%20disk.raw")) == entry


def test_a_changed_local_file_is_another_version(images, tmp_path):
    source = tmp_path / "disk.raw"
    source.write_bytes(DISK)
    look = wanted(str(source), update="if_changed")
    old = images.ensure(look)
    assert images.ensure(look) == old

    source.write_bytes(OTHER)

    assert images.ensure(look).path != old.path


def test_a_well_known_name_stands_for_its_url(server, images, monkeypatch):
    entry = wish.settled(wanted("debian-12"))

    assert entry.source.text.startswith("https://cloud.debian.org/")
    assert entry.list_key == parse_source(entry.checksum.source.text).key
    assert entry.image_format == "qcow2"
    with pytest.raises(InvalidSpec):
        images.find(wanted("debain-12"))


def test_an_image_that_was_altered_is_not_used(images, server):
    entry = images.ensure(wanted(server.url()))
    os.chmod(entry.path, 0o600)
    os.truncate(entry.path, 512)
    warnings = []

    assert ImageLibrary(images.data_dir, warnings).entries() == []
    assert "has 512 bytes" in warnings[0]
    assert images.ensure(wanted(server.url())).path == entry.path
    assert content(entry) == DISK


def test_a_record_without_its_image_counts_for_nothing(images, server):
    entry = images.ensure(wanted(server.url()))
    os.unlink(entry.path)

    assert images.entries() == []
    images.ensure(wanted(server.url()))
    assert len(server.asked) == 2


def test_a_record_without_its_image_is_pruned(images, server):
    whole, half = (
        images.ensure(wanted(server.url())),
        images.ensure(wanted(server.serve(OTHER, "/other.raw"))),
    )
    use(images, "web1", whole.path)
    os.unlink(half.path)  # as a run leaves it that is killed between the two

    assert images.prune(dry=True).left_over == (half.record,)
    assert images.prune().left_over == (half.record,)
    assert len(names(images)) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"size": "1"},
        {"digest": None},
        {"format": "vmdk"},
        {"format": "/../../x"},
        {"source_digests": {"sha256": 1}},
        {"source_digests": []},
    ],
    ids=str,
)
def test_a_record_that_is_not_understood_is_warned_of(images, server, change):
    entry = images.ensure(wanted(server.url()))
    with open(entry.record) as stream:
        data = json.load(stream)
    with open(entry.record, "w") as stream:
        json.dump({**data, **change}, stream)
    warnings = []

    assert ImageLibrary(images.data_dir, warnings).entries() == []
    assert entry.record in warnings[0]


def test_a_record_is_read_as_it_was_written(images, server):
    entry = images.ensure(wanted(server.url()))

    assert load(dump(entry), entry.record) == entry
    assert load(dump(entry).replace(b'"schema"', b'"new": 1, "schema"'), entry.record) == entry
    taken_out = {"decrypted": True, "dropped_snapshots": 2}
    assert load(dump(replace(entry, **taken_out)), entry.record) == replace(entry, **taken_out)
    older = {k: v for k, v in json.loads(dump(entry)).items() if k not in taken_out}
    assert load(json.dumps(older).encode(), entry.record) == entry


def test_other_files_are_not_ours(images, server):
    os.makedirs(images.folder, mode=0o700)
    for name in ("smoke-abc.qcow2", "smoke-abc.json", "notes.json", ".hidden", "x.part"):
        with open(os.path.join(images.folder, name), "w") as stream:
            stream.write("mine")
    warnings = []

    pruned = ImageLibrary(images.data_dir, warnings).prune()

    assert (pruned.entries, pruned.left_over, warnings) == ((), (), [])
    assert len(names(images)) == 5


def test_an_image_that_is_used_is_not_removed(images, server):
    entry = images.ensure(wanted(server.url()))
    use(images, "web2", entry.path)
    use(images, "web1", entry.path)

    with pytest.raises(ImageInUse) as caught:
        images.remove(entry)

    assert "VMs 'web1', 'web2'" in caught.value.message
    assert caught.value.details["used_by"] == ["web1", "web2"]
    assert images.users(entry) == ["web1", "web2"]
    assert images.entries() == [entry]
    Store(images.data_dir).forget("web1")
    Store(images.data_dir).forget("web2")
    images.remove(entry)
    assert names(images) == []


def test_nothing_is_removed_while_nobody_knows_who_uses_it(images, server):
    entry = images.ensure(wanted(server.url()))
    handle = use(images, "web1", entry.path)
    with open(os.path.join(handle.work_dir, "vm.json"), "w") as stream:
        stream.write("{")

    for act in (lambda: images.remove(entry), images.prune, lambda: images.prune(dry=True)):
        with pytest.raises(BadRecord, match="Nobody knows"):
            act()
    assert images.entries() == [entry]


def test_an_image_below_a_disk_that_no_record_names_is_not_removed(images, server):
    entry = images.ensure(wanted(server.url()))
    folder = os.path.join(images.data_dir, "vms", "web1")
    os.makedirs(folder, mode=0o700)
    name = os.fsencode(entry.path)
    fixed = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 72, len(name), 16, MIB, 0, 1, 2048, 0, 1, 0, 0
    )
    with open(os.path.join(folder, "disk-a.qcow2"), "wb") as stream:
        stream.write((fixed + name).ljust(4096, b"\0"))

    with pytest.raises(ImageInUse, match="'web1'"):
        images.remove(entry)
    assert images.prune().entries == ()
    assert images.entries() == [entry]


def test_prune_removes_what_nobody_uses(images, server):
    used = images.ensure(wanted(server.url()))
    unused = images.ensure(wanted(server.serve(OTHER, "/other.raw")))
    use(images, "web1", used.path)
    server.faults = [cut(MIB), *[status(500)] * 2]
    with pytest.raises(ImageFetchFailed):
        images.ensure(wanted(server.serve(DISK, "/third.raw")))
    before = names(images)

    foreseen = images.prune(dry=True)
    assert names(images) == before
    pruned = images.prune()

    assert foreseen == pruned
    assert pruned.entries == (unused,)
    assert len(pruned.left_over) == 2
    assert pruned.freed >= len(OTHER) + MIB
    assert images.entries() == [used]
    assert len(names(images)) == 2
    assert images.prune().freed == 0


def test_prune_leaves_a_download_alone_that_goes_on(images, server):
    os.makedirs(images.folder, mode=0o700)
    key = parse_source(server.url()).key
    for name in (f".{key}.part", f".{key}.part.json"):
        with open(os.path.join(images.folder, name), "w") as stream:
            stream.write("x")

    with exclusive(os.path.join(images.folder, f".{key}.lock"), 1, "it"):
        assert images.prune().left_over == ()
    assert len(images.prune().left_over) == 3


def test_an_image_is_kept_while_a_machine_is_made_from_it(images, server):
    entry = images.ensure(wanted(server.url()))
    image = provide_image(VmSpec(name="web1", image=server.url()), images.data_dir)
    removed = []
    thread = threading.Thread(target=lambda: removed.append(images.prune()))

    with keeping(image, images.data_dir):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        use(images, "web1", image.path)
    thread.join()

    assert removed[0].entries == ()
    assert images.entries() == [entry]


def test_an_image_that_was_removed_meanwhile_is_noticed(images, server):
    image = provide_image(VmSpec(name="web1", image=server.url()), images.data_dir)
    images.prune()

    with (
        pytest.raises(ImageNotFound, match="removed by another task"),
        keeping(image, images.data_dir),
    ):
        pass


def test_a_folder_that_others_may_write_to_is_refused(images, server):
    os.makedirs(images.folder, mode=0o700)
    os.chmod(images.folder, 0o777)

    with pytest.raises(HostError, match="other users may write"):
        images.ensure(wanted(server.url()))
    assert server.asked == []


def test_a_machine_gets_a_fetched_image(images, server):
    spec = VmSpec(name="web1", image=server.url(), image_checksum=digest(DISK))

    before = foresee_image(spec, images.data_dir)
    image = provide_image(spec, images.data_dir)
    after = foresee_image(spec, images.data_dir)

    assert (before, after) == (None, image)
    assert (image.format, image.virtual_size) == ("raw", len(DISK))
    assert len(server.asked) == 1


def test_a_local_path_is_used_in_place(images, tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    spec = VmSpec(name="web1", image=str(path), image_checksum=digest(DISK, "sha512"))

    assert foresee_image(spec, images.data_dir).path == str(path)
    assert provide_image(spec, images.data_dir).path == str(path)
    assert not os.path.exists(images.data_dir)


def test_a_local_path_with_a_wrong_digest_is_refused(images, tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    spec = VmSpec(name="web1", image=str(path), image_checksum=digest(DISK))
    provide_image(spec, images.data_dir)

    path.write_bytes(OTHER)

    for act in (foresee_image, provide_image):
        with pytest.raises(ChecksumMismatch):
            act(spec, images.data_dir)


def test_a_list_vouches_for_a_local_path(images, tmp_path):
    path, sums = tmp_path / "disk.raw", tmp_path / "SHA256SUMS"
    path.write_bytes(DISK)
    sums.write_text(f"{digest(DISK)[7:]}  disk.raw\n")
    spec = VmSpec(name="web1", image=str(path), image_checksum=f"file://{sums}")

    assert provide_image(spec, images.data_dir).path == str(path)
    sums.write_text(f"{digest(OTHER)[7:]}  disk.raw\n")
    path.touch()
    with pytest.raises(ChecksumMismatch):
        provide_image(spec, images.data_dir)
