# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compressed images: told by their content, unpacked as a stream, whole or not at all."""

from __future__ import annotations

import importlib
import os
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import IO, Any

from .._core.errors import CommandFailed, ProgramMissing, UnpackFailed
from .._core.sizes import show_size
from .._host.commands import Limits, find_program, reading_from
from .._host.files import doing, replacing
from .content import opened
from .recognise import recognise_compression, refuse_archives

_CHUNK = 1 << 20
_HOLE = 64 * 1024
_MEMORY = 256 << 20  # bytes for the window of a decompressor; xz -9 needs 65 MiB, zstd --long 128
# A disk that is nearly empty shrinks a lot; what swells by more than this is no disk.
RATIO, ALLOWANCE = 300, 4 << 30
_PROGRAMS = {
    "xz": ("xz",),
    "zst": ("zstd", "unzstd"),
}  # Ansible itself needs zlib, so gz needs none

Progress = Callable[[int, "int | None"], None]  # bytes done of the compressed file, and its length


def compression_of(path: str, *, shown: str | None = None) -> str | None:
    """Return gz, xz, zst or ``None`` by the file's first bytes; raise ``ImageRefused`` for archives."""
    with opened(path, shown) as content:
        compression = recognise_compression(content.read(0, 8))
        if compression is None:
            refuse_archives(content)
        return compression


Chunks = Generator[bytes, None, None]


def unpack(
    source: str,
    target: str,
    *,
    shown: str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the content of the compressed file ``source`` to ``target``, in one step, and return its length in bytes.

    Runs of zeros become holes. ``limit`` is the length that is allowed; by default it grows with the source's. A file
    that is not compressed is copied. Raises ``UnpackFailed`` for a stream that is cut off, damaged, too long, or
    followed by anything else, ``ProgramMissing`` if neither Python nor a program can unpack it, and ``ImageRefused``.
    """
    compression = compression_of(source, shown=shown)
    shown = shown or source
    with doing(f"unpack {shown}"), open(source, "rb") as stream, replacing(target) as part:
        length = os.fstat(stream.fileno()).st_size
        allowed = ALLOWANCE + RATIO * length if limit is None else limit
        try:
            watched = _Watched(stream, length, progress)
            with closing(watched.decompressed(compression)) as chunks:  # ends a program, too
                return _write(part, chunks, allowed)
        except CommandFailed as exc:
            said = str(exc.details.get("output") or exc.message).strip().rstrip(".")
            raise _failed(shown, compression, said) from exc
        except ValueError as exc:
            raise _failed(shown, compression, str(exc)) from exc


def _failed(shown: str, compression: str | None, reason: str) -> UnpackFailed:
    return UnpackFailed(
        f"image: {shown} cannot be unpacked ({compression}): {reason}.", option="image"
    )


def _write(path: str, chunks: Iterator[bytes], allowed: int) -> int:
    """Write the chunks, leave holes for zeros, and return how many bytes they were."""
    length = 0
    zeros = bytes(_HOLE)
    with open(path, "r+b", buffering=0) as out:
        for chunk in chunks:
            if length + len(chunk) > allowed:
                raise ValueError(f"it grows beyond {show_size(allowed)}, as no disk does")
            for start in range(0, len(chunk), _HOLE):
                piece = memoryview(chunk)[start : start + _HOLE]
                if piece != zeros[: len(piece)]:
                    _write_all(out, length + start, piece)
            length += len(chunk)
        out.truncate(length)
    return length


def _write_all(out: IO[bytes], offset: int, piece: memoryview) -> None:
    while piece:
        done = os.pwrite(out.fileno(), piece, offset)
        offset, piece = offset + done, piece[done:]


class _Watched:
    """A compressed stream whose reader tells how far it is."""

    def __init__(self, stream: IO[bytes], length: int, progress: Progress | None) -> None:
        self._stream = stream
        self._length = length
        self._progress = progress

    def decompressed(self, compression: str | None) -> Chunks:
        """Yield the content; raise ``ValueError`` or ``CommandFailed`` saying what is wrong with it."""
        if compression is None:
            return (chunk for chunk in iter(self._read, b""))
        make = _decompressor(compression)
        if make is not None:
            return self._by_python(make, compression)
        return self._by_program(compression)

    def _read(self) -> bytes:
        data = self._stream.read(_CHUNK)
        self._tell(self._stream.tell())
        return data

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, self._length)

    def _by_python(self, make: Callable[[], Any], compression: str) -> Chunks:
        """Unpack one member after the other: all of these formats may be strung together."""
        data = self._read()
        while data.strip(b"\0"):
            if recognise_compression(data.ljust(8, b"\0")) != compression:
                raise ValueError("something else follows its end")
            member = make()
            while not member.eof:
                chunk = _step(member, data)
                data = b""
                if chunk:
                    yield chunk
                if member.needs_input and not member.eof:
                    data = self._read()
                    if not data:
                        raise ValueError("it is cut off")
            data = member.unused_data
            if len(data) < 8:
                data += self._read()
            while data and not data.strip(b"\0"):  # padding, as tapes and block devices leave it
                data = self._read()

    def _by_program(self, compression: str) -> Chunks:
        program = find_program(*_PROGRAMS[compression])
        if program is None:
            names = _PROGRAMS[compression]
            raise ProgramMissing(
                f"To unpack {compression}, Python's own module or the program {' or '.join(names)} is needed.",
                programs=list(names),
            )
        limits = Limits(
            cpu_seconds=300 + self._length // _CHUNK,
            address_space=2 * _MEMORY,
            file_size=_CHUNK,  # its complaints
        )
        command = [program, "-d", "-c", "-q"]
        with reading_from(command, limits, stdin=self._stream) as chunks:
            for chunk in chunks:
                # The program reads by the same open file, so that its place in it is ours as well.
                self._tell(os.lseek(self._stream.fileno(), 0, os.SEEK_CUR))
                yield chunk


def _step(member: Any, data: bytes) -> bytes:
    try:
        chunk: bytes = member.decompress(data, _CHUNK)
    except Exception as exc:  # each module has an error class of its own, below Exception only
        raise ValueError(f"its data is damaged ({exc})") from exc
    return chunk


def _decompressor(compression: str) -> Callable[[], Any] | None:
    """Return what makes a decompressor for one stream; ``None`` if this Python has none for it."""
    if compression == "gz":
        return _Gzip
    try:
        module = importlib.import_module("lzma" if compression == "xz" else "compression.zstd")
    except ImportError:
        return None
    if compression == "xz":
        return lambda: module.LZMADecompressor(format=module.FORMAT_XZ, memlimit=_MEMORY)
    decompressor: Callable[[], Any] = module.ZstdDecompressor
    return decompressor


class _Gzip:
    """A member of a gzip file, with the interface that the decompressors of xz and zstd have."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._rest = b""

    def decompress(self, data: bytes, most: int) -> bytes:
        """Return at most so many bytes."""
        chunk = self._inner.decompress(self._rest + data, most)
        self._rest = self._inner.unconsumed_tail
        return chunk

    @property
    def eof(self) -> bool:
        """Tell whether the member ends here."""
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        """Tell whether there is nothing left to unpack of what was given."""
        return not self._rest

    @property
    def unused_data(self) -> bytes:
        """Return what was given and lies behind the end."""
        return self._inner.unused_data
