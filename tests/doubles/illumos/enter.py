# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""enter.py FOLDER COMMAND...: run a command where the devices and programs of the pretended host are in their places.

As an ordinary user it makes a user namespace, in which that user is root.
"""

from __future__ import annotations

import ctypes
import os
import sys

NEWNS, NEWUSER = 0x00020000, 0x10000000
BIND, REC, PRIVATE = 0x1000, 0x4000, 0x40000
LIBC = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    if getattr(LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def mount(source, target, kind, flags, data=None):
    call("mount", os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), data)


def unshare():
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        try:
            return call("unshare", NEWNS)
        except PermissionError:
            pass
    call("unshare", NEWNS | NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as stream:
            stream.write(text)
    return None


def cover(folder, added, stage):
    """Replace ``folder`` by one that has what was in it, and ``added``: paths by name."""
    mount("none", stage, b"tmpfs", 0, b"mode=755")
    kept = {entry.name: entry.path for entry in os.scandir(folder)} if os.path.isdir(folder) else {}
    for name, source in {**kept, **added}.items():
        target = os.path.join(stage, name)
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
            continue
        if os.path.isdir(source):
            os.mkdir(target)
        else:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
        mount(source, target, None, BIND | REC)
    mount(stage, folder, None, BIND | REC)


def main(world, *command):
    unshare()
    mount("none", "/", None, REC | PRIVATE)
    devices = {name: os.path.join(world, "dev", name) for name in os.listdir(f"{world}/dev")}
    stages = [os.path.join(world, "stage", name) for name in ("dev", "opt")]
    cover("/dev", {**devices, "zvol": os.path.join(world, "zvol")}, stages[0])
    cover("/opt", {"oxide": os.path.join(world, "oxide")}, stages[1])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
