# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The door to systemd: units of the system for root, of the user's own instance for others."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Sequence

from .._core.autostart import MARK, wanted_by
from .._core.errors import CommandFailed, HostError, NoSystemd
from .commands import find_program, run
from .files import doing, write_atomically

_TIMEOUT = 60.0
_MANAGER = "org.freedesktop.systemd1"
_OBJECT = "/org/freedesktop/systemd1"


class Systemd:
    """One instance of systemd. ``root`` is the folder that stands for ``/``."""

    def __init__(self, root: str = "/", uid: int | None = None) -> None:
        self._root = root
        self._uid = os.geteuid() if uid is None else uid
        self.user = self._uid != 0
        home = os.path.expanduser("~") if self.user else "/"
        folder = ".config/systemd/user" if self.user else "etc/systemd/system"
        self.folder = os.path.join(home if self.user else root, folder)

    def check(self) -> None:
        """Raise ``NoSystemd`` if it does not run here, or would not start this user's units at boot. Touches nothing."""
        # As sd_booted(3) does it.
        if not os.path.isdir(self._path("run/systemd/system")) or find_program("systemctl") is None:
            raise NoSystemd("autostart: systemd does not run on this host.", option="autostart")
        if not self.user:
            return
        name = _user_name(self._uid)
        if not os.path.exists(self._path(f"var/lib/systemd/linger/{name}")):
            raise NoSystemd(
                f"autostart: the services of the user {name} do not start at boot, but when somebody logs in.",
                f"Have root run once: loginctl enable-linger {name}",
                option="autostart",
            )
        if not os.path.isdir(self._runtime()):
            raise NoSystemd(
                f"autostart: the user {name} has no running instance of systemd.",
                f"Have root run: systemctl start user@{self._uid}.service",
                option="autostart",
            )

    def read(self, unit: str) -> str | None:
        """Return the text of a unit of ours; ``None`` if there is none. Raises ``HostError`` if it is somebody else's."""
        path = self.path_of(unit)
        try:
            with open(path, encoding="utf-8") as stream:
                text = stream.read()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise HostError(f"autostart: {path} cannot be read: {exc}.", path=path) from exc
        if not text.startswith(MARK):
            raise HostError(
                f"autostart: {path} was not made by this collection.",
                "Move it away; its name is needed for the VM.",
                path=path,
            )
        return text

    def path_of(self, unit: str) -> str:
        """Return where a unit's file lies."""
        return os.path.join(self.folder, unit)

    def is_enabled(self, unit: str) -> bool:
        """Tell whether a unit comes up at boot."""
        return os.path.lexists(self._link(unit))

    def enable(self, unit: str, text: str) -> None:
        """Write a unit and have it come up at boot."""
        self.read(unit)
        with doing(f"make the folder {self.folder}"):
            os.makedirs(self.folder, exist_ok=True)
        write_atomically(self.path_of(unit), text.encode(), 0o644)
        self._systemctl("daemon-reload")
        self._systemctl("enable", unit)

    def start(self, unit: str) -> None:
        """Start a unit; nothing happens if it is active."""
        self._systemctl("start", unit)

    def adopt(self, unit: str, pids: Sequence[int]) -> None:
        """Put processes into the group of an active unit."""
        call = ["call", _MANAGER, _OBJECT, f"{_MANAGER}.Manager", "AttachProcessesToUnit"]
        self._run("busctl", *call, "ssau", unit, "", str(len(pids)), *map(str, pids))

    def remove(self, unit: str) -> None:
        """Take a unit down and remove it. Works without systemd, too."""
        if self.read(unit) is not None and self._runs():
            self._systemctl("disable", "--now", unit)
        with doing(f"remove {self.path_of(unit)}"):
            for path in (self._link(unit), self.path_of(unit)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        if self._runs():
            self._systemctl("daemon-reload")
            with contextlib.suppress(CommandFailed):  # it has not failed, most times
                self._systemctl("reset-failed", unit)

    def _runs(self) -> bool:
        if not os.path.isdir(self._path("run/systemd/system")):
            return False
        return not self.user or os.path.isdir(self._runtime())

    def _link(self, unit: str) -> str:
        return os.path.join(self.folder, f"{wanted_by(self.user)}.wants", unit)

    def _systemctl(self, *words: str) -> None:
        self._run("systemctl", *words)

    def _run(self, program: str, *words: str) -> None:
        if not self.user:
            run([program, *words], timeout=_TIMEOUT)
            return
        # Tasks that became this user have no session, which would have told where its instance listens.
        place = f"XDG_RUNTIME_DIR={os.path.dirname(self._runtime())}"
        run(["env", place, program, "--user", *words], timeout=_TIMEOUT)

    def _runtime(self) -> str:
        return self._path(f"run/user/{self._uid}/systemd")

    def _path(self, path: str) -> str:
        return os.path.join(self._root, path)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
