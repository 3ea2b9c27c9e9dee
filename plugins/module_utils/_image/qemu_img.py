# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""qemu-img for files that nobody has vouched for: the format is always said, and it gets no more than it needs."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from .._core.errors import CommandFailed
from .._host.commands import Limits, run

MEMORY = 2 * 1024**3
# Neither writes anything; a file of no length is what they may make.
_LOOK = Limits(cpu_seconds=10, address_space=MEMORY, file_size=0, wall_seconds=60)
_CHECK = Limits(cpu_seconds=120, address_space=MEMORY, file_size=0, wall_seconds=600)
_LEAKS, _NO_CHECK = 3, 63  # statuses: space that nothing uses; a format without a check
_SECRET = "passphrase"  # what QEMU calls it
PASSPHRASE_LIMIT = 4096  # bytes: what any pipe holds before somebody reads it


def node(path: str, image_format: str, *, encrypted: bool = False) -> str:
    """Return the name under which QEMU opens exactly this file in this format, and no file that it depends on.

    Without it, QEMU would take a name such as ``nbd:...`` for a protocol. The passphrase of an encrypted image is that
    of :func:`unlocking`.
    """
    layer: dict[str, object] = {
        "driver": image_format,
        "file": {"driver": "file", "filename": path},
    }
    if image_format != "raw":
        layer["backing"] = None
    if encrypted:
        layer["encrypt"] = {"format": "luks", "key-secret": _SECRET}
    return "json:" + json.dumps(layer)


def unlocking(passphrase: str | None) -> Sequence[str]:
    """Return the options with which qemu-img reads the passphrase, if there is one, from its standard input."""
    return () if passphrase is None else ("--object", f"secret,id={_SECRET},file=/dev/stdin")


@contextlib.contextmanager
def spoken(passphrase: str | None) -> Iterator[IO[bytes] | None]:
    """Give a standard input that holds the passphrase, if there is one. It is in a pipe: nothing is left of it anywhere."""
    if passphrase is None:
        yield None
        return
    inner, outer = os.pipe()
    with open(inner, "rb") as stdin:
        with open(outer, "wb") as stream:
            stream.write(passphrase.encode())
        yield stdin


def info(path: str, image_format: str) -> Mapping[str, Any]:
    """Return what ``qemu-img info`` tells; raise ``CommandFailed``, also if it tells nothing of use."""
    told = run(["qemu-img", "info", "--output=json", node(path, image_format)], limits=_LOOK)
    try:
        found = json.loads(told.stdout)
    except ValueError as exc:
        raise CommandFailed("qemu-img info gave no JSON.") from exc
    if not isinstance(found, dict) or not isinstance(found.get("virtual-size"), int):
        raise CommandFailed("qemu-img info gave no size.")
    return found


def check(path: str, image_format: str, passphrase: str | None = None) -> None:
    """Raise ``CommandFailed`` if ``qemu-img check`` finds errors. Space that nothing uses is none."""
    source = node(path, image_format, encrypted=passphrase is not None)
    stdin = None if passphrase is None else passphrase.encode()
    try:
        run(["qemu-img", "check", *unlocking(passphrase), "-q", source], stdin=stdin, limits=_CHECK)
    except CommandFailed as exc:
        if exc.details.get("status") not in (_LEAKS, _NO_CHECK):
            raise


def is_locked(exc: CommandFailed) -> bool:
    """Tell whether it was the passphrase that qemu-img did not like."""
    return "Invalid password, cannot unlock any keyslot" in str(exc.details.get("output"))


def words(exc: CommandFailed, path: str, image_format: str) -> str:
    """Return what qemu-img said, as a part of a sentence, with the plain path in place of our name for it."""
    said = str(exc.details.get("output") or exc.message)
    for encrypted in (False, True):
        said = said.replace(node(path, image_format, encrypted=encrypted), path)
    said = said.replace("qemu-img: ", "")
    return "; ".join(line.strip() for line in said.splitlines()[:3]).rstrip(".")
