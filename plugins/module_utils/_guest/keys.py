# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The key pair that lets the host's user log in to a guest that was given no other key."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile

from .._core.errors import CommandFailed, KeygenFailed, ProgramMissing
from .._host.commands import run
from .._host.files import doing, write_atomically

_TYPE = "ed25519"
_PUBLIC_START = f"ssh-{_TYPE} "
_PRIVATE_START = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"
_PRIVATE_END = b"-----END OPENSSH PRIVATE KEY-----\n"


def make_key_pair(path: str, comment: str) -> str:
    """Make an Ed25519 key pair, ``path`` and ``path.pub``, and return the public line.

    A pair that is there is kept, a lost public half made again; half-made files are replaced. Raises
    ``KeygenFailed``, or ``HostError`` if the folder cannot be written.
    """
    with doing(f"read the key {path}"):
        private, public = _read(path), _read(f"{path}.pub").decode(errors="replace").strip()
        if not _is_private_key(private):
            return _generate(path, comment)
        os.chmod(path, 0o600)  # ssh refuses a key that others may read
    if _is_public_key(public):
        return public
    derived = _derive(path)
    if derived is None:
        return _generate(path, comment)
    _write_public(path, derived)
    return derived


def _generate(path: str, comment: str) -> str:
    folder, name = os.path.split(path)
    with doing(f"make the key {path}"):
        # Never readable by others, not even between ssh-keygen's creating the file and our setting its mode.
        work = tempfile.mkdtemp(prefix=f".{name}.part-", dir=folder)
    try:
        made = os.path.join(work, "key")
        _ssh_keygen(path, "-q", "-t", _TYPE, "-N", "", "-C", _one_line(comment), "-f", made)
        with doing(f"make the key {path}"):
            private, public = _read(made), _read(f"{made}.pub").decode().strip()
            # In this order a run that is killed leaves no public half that belongs to another private one.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}.pub")
        write_atomically(path, private)
        _write_public(path, public)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return public


def _derive(path: str) -> str | None:
    """Return the public half of a private key, or ``None`` if ssh-keygen cannot read it."""
    try:
        public = _ssh_keygen(path, "-y", "-P", "", "-f", path).strip()
    except KeygenFailed as exc:
        status = exc.details.get("status")
        if not isinstance(status, int) or status < 0:
            raise  # missing, too slow or killed: that says nothing about the key
        return None
    return public if _is_public_key(public) else None


def _ssh_keygen(path: str, *arguments: str) -> str:
    try:
        return run(["ssh-keygen", *arguments]).stdout
    except ProgramMissing as exc:
        raise KeygenFailed(
            f"The key {path} cannot be made: ssh-keygen is not installed.", path=path
        ) from exc
    except CommandFailed as exc:
        raise KeygenFailed(
            f"The key {path} could not be made: {exc.message}",
            "ssh-keygen's last words are in the message.",
            **{**exc.details, "path": path},
        ) from exc


def _write_public(path: str, line: str) -> None:
    write_atomically(f"{path}.pub", f"{line}\n".encode(), 0o644)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return b""


def _is_private_key(content: bytes) -> bool:
    return content.startswith(_PRIVATE_START) and content.endswith(_PRIVATE_END)


def _is_public_key(line: str) -> bool:
    return line.startswith(_PUBLIC_START) and "\n" not in line


def _one_line(comment: str) -> str:
    return "".join(char if char.isprintable() else " " for char in comment)
