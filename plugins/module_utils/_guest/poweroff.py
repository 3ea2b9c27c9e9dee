# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ask a guest over SSH to power off, where the hypervisor has no power button to press."""

from __future__ import annotations

import os

from .._core.errors import VmError
from .._core.handle import VmHandle
from .._core.layout import KNOWN_HOSTS
from .._host.commands import run

_COMMAND = "sudo -n poweroff || poweroff"
_CONNECT = 5  # seconds


def ask_to_power_off(vm: VmHandle, address: str, timeout: float) -> str | None:
    """Log in with the key that was made for the machine and power it off; return why that was not possible.

    ``timeout`` is in seconds. A connection that breaks off after the command was sent counts as success.
    """
    user, key = vm.spec.login_user, vm.private_key_path
    if user is None or key is None:
        return "no key pair was made for it, so this host cannot log in to it"
    known_hosts = os.path.join(vm.work_dir, KNOWN_HOSTS)
    options = [
        "BatchMode=yes",
        f"ConnectTimeout={max(1, int(min(timeout, _CONNECT)))}",
        "IdentitiesOnly=yes",
        "LogLevel=ERROR",
        f"HostKeyAlias={vm.id}",
        f"UserKnownHostsFile={_quoted(known_hosts)}",
        "GlobalKnownHostsFile=/dev/null",
        *_trust(vm),
    ]
    arguments = [word for option in options for word in ("-o", option)]
    try:
        run(
            ["ssh", "-F", "/dev/null", "-i", key, *arguments, f"{user}@{address}", _COMMAND],
            timeout=max(1.0, timeout),
        )
    except VmError as exc:
        # SSH reports 255 when the connection goes down with the guest.
        text = str(exc.details.get("output", ""))
        if exc.details.get("status") == 255 and "closed by remote host" in text:
            return None
        return exc.message
    return None


def _trust(vm: VmHandle) -> list[str]:
    if vm.host_key is None:
        return ["StrictHostKeyChecking=accept-new"]
    return ["StrictHostKeyChecking=yes", f"KnownHostsCommand=/bin/echo {vm.id} {vm.host_key}"]


def _quoted(path: str) -> str:
    # As ssh_config(5) wants it: it takes several paths, parted by blanks, and expands %h and the like.
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
