# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the firmware is and what it tells the guest: the options of it, and what is recorded of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidSpec

SMBIOS_STRINGS = ("manufacturer", "product", "version", "serial", "sku", "family")
_MAX_STRING = 255
_MAX_CMDLINE = 2047  # what Linux takes on x86


@dataclass(frozen=True)
class FirmwareRecord:
    """A firmware that was chosen for a machine; ``nvram`` is the file in its folder that keeps the variables."""

    code: str
    code_format: str
    nvram: str


def firmware_key(secure_boot: bool | None) -> str:
    """Return under which name a machine keeps its firmware: that for Secure Boot has variables of its own."""
    return "secure_boot" if secure_boot else "uefi"


def file_path(option: str, value: str | None) -> str | None:
    """Return the path of a file of the host, or an empty string for none; raise ``InvalidSpec`` for another value."""
    if value and (not value.startswith("/") or "\0" in value):
        raise InvalidSpec(
            f"{option}: {value!r} is not an absolute path.",
            "Give the path of a file on the hypervisor host, or an empty string for none.",
            option=option,
        )
    return value


def kernel_cmdline(value: str | None) -> str | None:
    """Return the kernel's command line; raise ``InvalidSpec`` if it cannot be one."""
    if value is not None and (not value.isprintable() or len(value.encode()) > _MAX_CMDLINE):
        raise InvalidSpec(
            f"kernel_cmdline: this is not one line of at most {_MAX_CMDLINE} bytes.",
            option="kernel_cmdline",
        )
    return value


def smbios_from_params(value: Mapping[str, Any] | None) -> Mapping[str, str] | None:
    """Read the option ``smbios``; raise ``InvalidSpec`` naming the first string that a table cannot hold."""
    if value is None:
        return None
    given = {name: value[name] for name in SMBIOS_STRINGS if value.get(name) is not None}
    for name, text in given.items():
        if not text or not text.isprintable() or not text.isascii() or len(text) > _MAX_STRING:
            option = f"smbios.{name}"
            raise InvalidSpec(
                f"{option}: {text!r} is not 1 to {_MAX_STRING} printable ASCII characters.",
                option=option,
            )
    return given
