# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The option ``qemu_args``: arguments for QEMU that this collection has no words for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .errors import InvalidSpec

_OURS = "the collection gives it itself"
_SUPERVISED = "QEMU is started, watched and ended by the collection"
_TALK = "the collection talks to QEMU over monitors of its own; qmp-debug.sock is there for you"
_SAFE = "the sandbox stays on"
_STATE = "it would change in which state the machine begins"
_ENDS = "QEMU would end at once"
_UNREAD = "nobody would check what is in the file"
_LOST = "what the guest writes would be lost"

# Without the dash, and why it cannot be given. What QEMU takes as one flag by another name is there, too.
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("daemonize", "pidfile", "runas", "run-with", "chroot"), _SUPERVISED),
    **dict.fromkeys(("no-shutdown", "action", "watchdog-action"), _SUPERVISED),
    **dict.fromkeys(("qmp", "qmp-pretty", "mon", "monitor"), _TALK),
    "sandbox": _SAFE,
    **dict.fromkeys(("S", "incoming", "loadvm", "preconfig"), _STATE),
    **dict.fromkeys(("name", "uuid", "M", "machine", "accel", "enable-kvm", "cpu", "smp"), _OURS),
    **dict.fromkeys(("m", "nodefaults", "no-user-config", "add-fd"), _OURS),
    **dict.fromkeys(("kernel", "initrd", "append", "bios", "pflash", "L"), _OURS),
    **dict.fromkeys(("h", "help", "?", "version", "writeconfig", "dump-vmstate"), _ENDS),
    "snapshot": _LOST,
    "readconfig": _UNREAD,
}


def qemu_args_from_params(value: Sequence[str] | None) -> tuple[str, ...] | None:
    """Read the option ``qemu_args``; raise ``InvalidSpec`` for an argument that breaks what is promised elsewhere."""
    for index, argument in enumerate(value or ()):
        option = f"qemu_args[{index}]"
        if "\0" in argument or not argument:
            raise InvalidSpec(f"{option}: {argument!r} cannot be an argument.", option=option)
        wrong = None
        if index == 0 and not argument.startswith("-"):
            wrong = "does not begin with a dash, so QEMU would take it for a disk"
        elif argument.startswith("-") and " " in argument:
            wrong = "begins with a dash and has a blank, so it is an argument and its value in one"
        if wrong is not None:
            raise InvalidSpec(
                f"{option}: {argument!r} {wrong}.",
                "Give each argument as an item of its own, such as ['-device', 'virtio-balloon-pci'].",
                option=option,
            )
        flag = argument[2:] if argument.startswith("--") else argument[1:]
        reason = REFUSED.get(flag) if argument.startswith("-") else None
        if reason is not None:
            raise InvalidSpec(
                f"{option}: {argument} cannot be given: {reason}.",
                "Leave it out; see whether there is an option for what you want.",
                option=option,
            )
    return None if value is None else tuple(value)
