# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The seed disk: a few small files in an ISO 9660 image, written by pycdlib or by a program that the host has."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec

from .._core.errors import CommandFailed, SeedFailed
from .._host.commands import find_program, run
from .._host.files import doing, write_atomically

LABEL = "cidata"
PYCDLIB = "pycdlib"
PROGRAMS = ("xorriso", "genisoimage", "mkisofs")
# Busybox and others look for a file system of any kind up to here, and give up at the end of a smaller disk before
# they come to ISO 9660. The programs add this much by themselves.
_PADDING = 150 * 2048


def available_tool() -> str | None:
    """Return the name of what :func:`write_iso` would use, or ``None`` if the host has nothing that can."""
    # Finding is not importing, which takes as long as all the rest of a plan.
    return PYCDLIB if find_spec(PYCDLIB) else _program()


def write_iso(path: str, files: Mapping[str, bytes], label: str = LABEL) -> str:
    """Replace ``path`` in one step by an image with these files, readable by its owner only; return the tool used.

    Raises ``SeedFailed`` if the host has no tool for it or the tool fails, ``HostError`` if the path cannot be
    written.
    """
    tool = PYCDLIB
    image = _made_by_pycdlib(files, label)
    if image is None:
        tool = _program() or ""
        if not tool:
            raise SeedFailed(
                f"The seed {path} cannot be written: this host has neither Python's pycdlib nor the program "
                f"{', '.join(PROGRAMS[:-1])} or {PROGRAMS[-1]}.",
                path=path,
            )
        image = _made_by_program(tool, path, files, label)
    write_atomically(path, image)
    return tool


def _program() -> str | None:
    return next((name for name in PROGRAMS if find_program(name)), None)


def _made_by_pycdlib(files: Mapping[str, bytes], label: str) -> bytes | None:
    """Return the image, or ``None`` if pycdlib is not installed."""
    try:
        import pycdlib
        from pycdlib.pycdlibexception import PyCdlibException
    except ImportError:
        return None
    image = io.BytesIO()
    disc = pycdlib.PyCdlib()
    try:
        disc.new(vol_ident=label, joliet=3, rock_ridge="1.09")
        for number, (name, data) in enumerate(sorted(files.items())):
            disc.add_fp(
                io.BytesIO(data),
                len(data),
                f"/FILE{number}.;1",  # plain ISO 9660 has no names like ours; the other two catalogues do
                rr_name=name,
                joliet_path=f"/{name}",
                file_mode=0o100444,
            )
        disc.write_fp(image)
        disc.close()
    except PyCdlibException as exc:
        raise SeedFailed(f"pycdlib could not make the seed: {exc}.", tool=PYCDLIB) from exc
    return image.getvalue() + bytes(_PADDING)


def _made_by_program(tool: str, path: str, files: Mapping[str, bytes], label: str) -> bytes:
    folder, name = os.path.split(path)
    with doing(f"prepare {path}"):
        # The files hold secrets: only a folder that nobody else can enter may have them, if only for a moment.
        work = tempfile.mkdtemp(prefix=f".{name}.part-", dir=folder)
    try:
        image, source = os.path.join(work, "image"), os.path.join(work, "files")
        with doing(f"prepare {path}"):
            _write_files(source, files)
        options = ["-quiet", "-output", image, "-volid", label, "-joliet", "-rational-rock"]
        run([tool, *(["-as", "mkisofs"] if tool == "xorriso" else []), *options, source])
        with doing(f"read {image}"), open(image, "rb") as stream:
            return stream.read()
    except CommandFailed as exc:
        raise SeedFailed(
            f"The seed {path} could not be made: {exc.message}",
            "The program's last words are in the message; installing Python's pycdlib does without it.",
            **{**exc.details, "tool": tool},
        ) from exc
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_files(folder: str, files: Mapping[str, bytes]) -> None:
    os.mkdir(folder, 0o700)
    for name, data in sorted(files.items()):
        fd = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as stream:
            stream.write(data)
