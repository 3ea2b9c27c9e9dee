# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: what this side keeps for guests of other hosts, which are host keys and private keys."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from ._hosts import safe_id


def cache_folder() -> str:
    """Return where this side keeps what belongs to guests of other hosts."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "cloudnebula.hypervisor")


def prepare_folder() -> None:
    """Make the folder for host keys, as SSH does not; without it, SSH forgets them, which it says itself."""
    with contextlib.suppress(OSError):
        os.makedirs(cache_folder(), mode=0o700, exist_ok=True)


def keep_keys(keys: Mapping[str, str]) -> None:
    """Keep private keys of guests on this side; a key that is there already is written only if it is another one."""
    if not keys:
        return
    folder = os.path.join(cache_folder(), "keys")
    prepare_folder()
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.chmod(folder, 0o700)
    for machine, text in keys.items():
        _write_private(os.path.join(folder, safe_id({"id": machine})), text)


def _write_private(path: str, text: str) -> None:
    with contextlib.suppress(OSError), open(path, encoding="ascii") as stream:
        if stream.read() == text:
            return
    part = f"{path}.{os.getpid()}"
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
    os.replace(part, path)
