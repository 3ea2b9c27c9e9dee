# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compressed images: whole or not at all, whatever the stream holds, and in bounded memory."""

from __future__ import annotations

import functools
import gzip
import importlib
import io
import lzma
import os
import random
import shutil
import subprocess
import sys
import tracemalloc
import types
import zlib

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import unpack as module
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.unpack import (
    compression_of,
    unpack,
)

pytestmark = pytest.mark.real_host  # zstd is a program here

MIB = 1024**2
FAILED = "vm_manager.image.unpack_failed"
MISSING = "vm_manager.host.program_missing"
# Something that shrinks little, nothing, and a rest that is no whole sector.
DISK = random.Random(1).randbytes(300_000) + bytes(2 * MIB) + b"the end"
MIDDLE = 150_000  # within what shrinks little


@functools.cache
def pack(kind, data):
    if kind == "gz":
        return gzip.compress(data, 1)
    if kind == "xz":
        return lzma.compress(data, preset=0)
    return subprocess.run(["zstd", "-q", "-c"], check=True, input=data, stdout=-1).stdout


PACK = {kind: functools.partial(pack, kind) for kind in ("gz", "xz", "zst")}
# How each is unpacked: by Python's modules, and by the system's programs where Python lacks them.
WAYS = [("gz", "python"), ("xz", "python"), ("xz", "program"), ("zst", "program")]


@pytest.fixture(params=WAYS, ids="-".join)
def way(request, monkeypatch):
    if request.param[1] == "program":
        monkeypatch.setattr(module, "_decompressor", lambda dummy: None)
    return request.param


@pytest.fixture
def kind(way):
    return way[0]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 65536)


@pytest.fixture
def paths(tmp_path):
    return str(tmp_path / "packed"), str(tmp_path / "target")


def write(path, data):
    with open(path, "wb") as stream:
        stream.write(data)


def content(path):
    with open(path, "rb") as stream:
        return stream.read()


def test_what_was_packed_comes_out(paths, way, kind):
    source, target = paths
    write(source, PACK[kind](DISK))
    seen = []

    length = unpack(source, target, progress=lambda done, total: seen.append((done, total)))

    packed = os.path.getsize(source)
    assert compression_of(source) == kind
    assert length == len(DISK)
    assert content(target) == DISK
    assert os.stat(target).st_blocks * 512 < MIB, "holes were filled"
    assert os.stat(target).st_mode & 0o777 == 0o600
    assert seen == sorted(seen) and seen[-1] == (packed, packed)
    assert sorted(os.listdir(os.path.dirname(target))) == ["packed", "target"]


def test_what_is_not_packed_is_copied(paths):
    source, target = paths
    write(source, DISK)

    assert compression_of(source) is None
    assert unpack(source, target) == len(DISK)
    assert content(target) == DISK


@pytest.mark.parametrize("offset", [0, 32769])
def test_what_kind_of_disk_it_is_does_not_matter_yet(paths, offset):
    """It may have been said to be raw."""
    source, dummy = paths
    write(source, bytes(offset) + {0: b"LUKS\xba\xbe", 32769: b"CD001"}[offset] + bytes(4096))

    assert compression_of(source) is None


def test_nothing_comes_out_of_nothing(paths, way, kind):
    source, target = paths
    write(source, PACK[kind](b""))

    assert unpack(source, target) == 0
    assert content(target) == b""


def test_several_streams_in_one_file_are_one(paths, way, kind):
    source, target = paths
    parts = [DISK[:100], b"", DISK[100:MIB], DISK[MIB:]]
    write(source, b"".join(PACK[kind](part) for part in parts))

    assert unpack(source, target) == len(DISK)
    assert content(target) == DISK


@pytest.mark.parametrize("kind", ["gz", "xz"])
@pytest.mark.parametrize("padding", [4, 4096, 3 * MIB])
def test_zeros_may_follow(paths, kind, padding):
    source, target = paths
    write(source, PACK[kind](b"data") + bytes(padding))

    assert unpack(source, target) == 4


def refusal(source, target, **options):
    with pytest.raises(VmError) as caught:
        unpack(source, target, **options)
    assert sorted(os.listdir(os.path.dirname(target))) == ["packed"], "something was left"
    assert caught.value.details["option"] == "image"
    return caught.value


@pytest.mark.parametrize("kept", [10, 100, MIDDLE, -8, -1])
def test_a_stream_that_is_cut_off_is_refused(paths, way, kind, kept):
    source, target = paths
    write(source, PACK[kind](DISK)[:kept])

    error = refusal(source, target, shown="https://here/x")

    assert error.code == FAILED
    assert error.message.startswith(f"image: https://here/x cannot be unpacked ({kind}): ")
    assert way[1] == "program" or error.message.endswith(": it is cut off.")


@pytest.mark.parametrize("what", [b"garbage", b"x", b"\0\0\0\0<html>" + bytes(MIB)])
def test_what_follows_the_end_is_refused(paths, way, kind, what):
    source, target = paths
    write(source, PACK[kind](DISK) + what)

    error = refusal(source, target)

    assert error.code == FAILED
    assert way[1] == "program" or "something else follows its end" in error.message


@pytest.mark.parametrize("kind", ["gz", "xz"])  # zstd unpacks all of them
def test_another_compression_may_not_follow(paths, kind):
    source, target = paths
    other = "xz" if kind == "gz" else "gz"
    write(source, PACK[kind](DISK) + PACK[other](DISK))

    assert refusal(source, target).code == FAILED


def test_damaged_data_is_refused(paths, way, kind):
    source, target = paths
    packed = bytearray(PACK[kind](DISK))
    packed[MIDDLE] ^= 1
    write(source, packed)

    assert refusal(source, target).code == FAILED


BOMB = bytes(32 * MIB)


def test_a_bomb_is_stopped_in_time(paths, way, kind, monkeypatch):
    source, target = paths
    write(source, PACK[kind](BOMB))
    monkeypatch.setattr(module, "ALLOWANCE", MIB)
    monkeypatch.setattr(module, "RATIO", 10)
    tracemalloc.start()
    try:
        error = refusal(source, target)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    packed = os.path.getsize(source)
    assert error.code == FAILED
    assert f"grows beyond {MIB + 10 * packed}B" in error.message
    assert peak < 4 * MIB


@pytest.mark.parametrize("limit", [len(DISK) - 1, 0])
def test_a_limit_can_be_given(paths, limit):
    source, target = paths
    write(source, PACK["gz"](DISK))

    assert "it grows beyond" in refusal(source, target, limit=limit).message
    assert unpack(source, target, limit=len(DISK)) == len(DISK)


def test_a_window_that_takes_the_hosts_memory_is_refused(paths):
    source, target = paths
    huge = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0}]
    write(source, lzma.compress(b"small", filters=huge))

    assert "Memory usage limit" in refusal(source, target).message


@pytest.mark.parametrize(("kind", "program"), [("xz", "xz"), ("zst", "zstd or unzstd")])
def test_what_is_missing_is_named(paths, kind, program, monkeypatch):
    source, target = paths
    write(source, PACK[kind](DISK))
    monkeypatch.setattr(module, "_decompressor", lambda dummy: None)
    monkeypatch.setattr(module, "find_program", lambda *dummy: None)

    with pytest.raises(VmError, match=f"To unpack {kind}, .* {program}") as caught:
        unpack(source, target)

    assert caught.value.code == MISSING
    assert os.listdir(os.path.dirname(target)) == ["packed"]


def test_a_python_without_lzma_takes_the_program(paths, monkeypatch):
    source, target = paths
    write(source, PACK["xz"](DISK))
    monkeypatch.setitem(sys.modules, "lzma", None)

    assert module._decompressor("xz") is None
    assert unpack(source, target) == len(DISK)


def test_a_python_with_zstd_takes_that(paths, monkeypatch):
    source, target = paths
    write(source, PACK["zst"](DISK))
    used = []

    class Decompressor:
        """Has the interface that Python 3.14's has, over the program."""

        eof = False
        unused_data = b""

        def __init__(self):
            used.append(self)
            self.given = b""
            self.left = io.BytesIO()
            self.needs_input = True

        def decompress(self, data, most):
            self.given += data
            if len(self.given) == os.path.getsize(source):
                if self.needs_input:
                    done = subprocess.run(["zstd", "-dcq"], check=True, input=self.given, stdout=-1)
                    self.left, self.needs_input = io.BytesIO(done.stdout), False
                chunk = self.left.read(most)
                self.eof = not chunk
                return chunk
            return b""

    stand_in = types.ModuleType("compression.zstd")
    stand_in.ZstdDecompressor = Decompressor
    real = importlib.import_module
    monkeypatch.setattr(
        importlib, "import_module", lambda n: stand_in if n == "compression.zstd" else real(n)
    )

    assert unpack(source, target) == len(DISK)
    assert (content(target) == DISK, len(used)) == (True, 1)


ARCHIVES = {"tar": ("x.tar", "tar"), "zip": ("x.zip", "zip")}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_is_called_by_its_name(tmp_path, kind):
    name, archiver = ARCHIVES[kind]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "disk.raw").write_bytes(DISK)
    source = shutil.make_archive(str(tmp_path / "x"), archiver, folder)

    for ask in (compression_of, lambda path: unpack(path, str(tmp_path / "target"))):
        with pytest.raises(VmError, match=f"x.{kind} is a {kind} archive") as caught:
            ask(source)
        assert caught.value.code == "vm_manager.image.refused"
        assert "use the disk image that is in it" in caught.value.help

    assert sorted(os.listdir(tmp_path)) == ["in", name]


def test_a_full_disk_is_an_error_of_the_host(paths, monkeypatch):
    source, target = paths
    write(source, PACK["gz"](DISK))

    def full(*dummy):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(VmError, match=r"Could not unpack .*: No space left") as caught:
        unpack(source, target)

    assert caught.value.code == "vm_manager.io"
    assert os.listdir(os.path.dirname(target)) == ["packed"]


@pytest.mark.parametrize("seed", range(3))
def test_junk_in_a_stream_breaks_nothing_else(paths, seed):
    source, target = paths
    dice = random.Random(seed)
    for kind in ("gz", "xz"):
        good = PACK[kind](DISK[: 64 * 1024] + bytes(64 * 1024))
        for _dummy in range(40):
            data = bytearray(good)
            for _change in range(dice.randrange(1, 4)):
                data[dice.randrange(6, len(data))] = dice.randrange(256)
            write(source, data)
            try:
                unpack(source, target)
            except VmError as exc:
                assert exc.code == FAILED


def test_zlib_checks_what_it_unpacks():
    """Our reader of gzip has no check of its own: this is what it rests on."""
    data = bytearray(gzip.compress(b"data"))
    data[-5] ^= 1

    with pytest.raises(zlib.error, match="incorrect data check"):
        zlib.decompressobj(wbits=31).decompress(bytes(data))
