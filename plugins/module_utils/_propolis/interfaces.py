# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel of illumos has for virtual machines: its two private interfaces and their versions."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass

from .._core.errors import BackendNotAvailable


@dataclass(frozen=True)
class KernelInterface:
    """A device with a versioned interface. Source: usr/src/uts/intel/sys/{vmm_dev,viona_io}.h of illumos-gate."""

    name: str
    device: str
    request: int  # the ioctl that returns the version
    oldest: int  # that propolis-server works with
    exclusive: bool = False  # whether the device opens with O_EXCL only


VMM = KernelInterface("vmm", "/dev/vmmctl", ord("V") << 16 | ord("M") << 8 | 0x04, 8, True)
VIONA = KernelInterface("viona", "/dev/viona", ord("V") << 16 | ord("C") << 8 | 0x03, 6)
INTERFACES = (VMM, VIONA)

Ask = Callable[[KernelInterface], "int | None"]

# What does not answer: a file that is no such device, and a kernel that has no words for this process.
_NO_ANSWER = (errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EFBIG, errno.EBUSY)


def ask_version(interface: KernelInterface) -> int | None:
    """Return the version of a kernel interface; ``None`` if it is there but does not say.

    Raises ``BackendNotAvailable`` if the device is missing or closed to this user.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if interface.exclusive else 0)
    try:
        fd = os.open(interface.device, flags)
    except FileNotFoundError:
        raise BackendNotAvailable(
            f"There is no {interface.device}: the kernel of this host has no {interface.name}.",
            "The backend propolis needs illumos on x86-64 with hardware virtualization, and its package system/bhyve.",
            device=interface.device,
        ) from None
    except OSError as exc:
        if exc.errno in _NO_ANSWER:
            return None
        raise BackendNotAvailable(
            f"{interface.device} cannot be opened: {exc.strerror}.",
            "Run the task as root (become).",
            device=interface.device,
        ) from exc
    try:
        return fcntl.ioctl(fd, interface.request, 0)
    except OSError as exc:
        if exc.errno in _NO_ANSWER:
            return None
        raise BackendNotAvailable(
            f"{interface.device} does not tell its version: {exc.strerror}.",
            "Look at the host's kernel log with 'dmesg'.",
            device=interface.device,
        ) from exc
    finally:
        os.close(fd)


def check_version(interface: KernelInterface, version: int | None) -> None:
    """Raise ``BackendNotAvailable`` if the version is too old. One that is not known passes: the server will tell."""
    if version is not None and version < interface.oldest:
        raise BackendNotAvailable(
            f"The kernel's interface {interface.name} has version {version}; propolis-server needs {interface.oldest}"
            " or newer.",
            "Update the host's operating system.",
            device=interface.device,
            version=version,
            needed=interface.oldest,
        )
