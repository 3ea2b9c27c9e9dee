# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A systemctl that does on a folder what the real one does on a host: links, active units and the commands they run.

It is a program of its own, run as ``systemctl`` or ``busctl``; the folder that stands for ``/`` is in ``FAKE_SYSTEMD``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

TARGETS = {True: "default.target", False: "multi-user.target"}


def install(folder: Path, root: Path) -> str:
    """Put the programs into ``folder``, make ``root`` look like a host that runs systemd; return the PATH to use."""
    folder.mkdir()
    (root / "run/systemd/system").mkdir(parents=True)
    for name in ("systemctl", "busctl"):
        program = folder / name
        call = f'FAKE_SYSTEMD={root} exec {sys.executable} {__file__} {name} "$@"'
        program.write_text(f"#!/bin/sh\n{call}\n")
        program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def calls(root: Path) -> list[str]:
    """Return the commands that were given so far."""
    log = root / "calls"
    return log.read_text().splitlines() if log.exists() else []


def is_active(root: Path, unit: str) -> bool:
    """Tell whether a unit is up."""
    return (root / "active" / unit).exists()


def command(text: str, key: str) -> list[str]:
    """Return the words of a command in a unit, as systemd reads them."""
    line = re.search(rf"^{key}=(.*)$", text, re.MULTILINE).group(1)
    return [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(line)]


def switch(root: Path, folder: Path, unit: str, up: bool) -> int:
    """Run a unit's command if it is not up, or not down, already."""
    mark = root / "active" / unit
    if mark.exists() == up:
        return 0
    done = subprocess.run(
        command((folder / unit).read_text(), "ExecStart" if up else "ExecStop"), check=False
    )
    if done.returncode == 0 and up:
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
    if not up:
        mark.unlink()
    return done.returncode if up else 0


def main(program: str, *words: str) -> int:
    root = Path(os.environ["FAKE_SYSTEMD"])
    with (root / "calls").open("a") as log:
        log.write(f"{program} {' '.join(words)}\n")
    user = "--user" in words
    given = [word for word in words if not word.startswith("--")]
    if program == "busctl" or given[0] == "daemon-reload":
        return 0
    verb, unit = given
    home = Path(os.environ["HOME"])
    folder = home / ".config/systemd/user" if user else root / "etc/systemd/system"
    link = folder / f"{TARGETS[user]}.wants" / unit
    if verb == "enable":
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(folder / unit)
    elif verb == "disable":
        link.unlink(missing_ok=True)
        return switch(root, folder, unit, False) if "--now" in words else 0
    elif verb in ("start", "stop"):
        return switch(root, folder, unit, verb == "start")
    elif verb == "reset-failed":
        return 1  # as for a unit that is not loaded
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
