# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names of the files in a virtual machine's folder. What is not listed here is not ours and is never removed."""

from __future__ import annotations

import re

RECORD = "vm.json"
OVERLAY = "overlay.qcow2"
SEED = "seed.iso"
PRIVATE_KEY = "id_ed25519"
PUBLIC_KEY = "id_ed25519.pub"
HOST_KEY = "ssh_host_ed25519_key"  # the guest's own, if it was made here
HOST_PUBLIC_KEY = "ssh_host_ed25519_key.pub"
QMP_SOCKET = "qmp.sock"
DEBUG_SOCKET = (
    "qmp-debug.sock"  # a second monitor, for people: the first takes one client at a time
)
CONSOLE_SOCKET = "console.sock"
AGENT_SOCKET = "agent.sock"  # the QEMU guest agent, if the guest runs one
CONSOLE_LOG = "console.log"
QEMU_LOG = "qemu.log"
PROPOLIS_LOG = "propolis.log"  # what propolis-server says
PROPOLIS_FIRMWARE_LOG = "debug.out"  # written by propolis-server where it was started
SMF_MANIFEST = "manifest.xml"
ZONE_CONFIG = "zone.cfg"
PID_FILE = "qemu.pid"
ALIVE_LOCK = "alive.lock"
VNC_PASSWORD = "vnc.password"
NVRAM = "nvram.qcow2"  # the variables of a UEFI firmware
SECURE_NVRAM = "nvram-secure-boot.qcow2"  # those of the firmware with Secure Boot
TPM_STATE = "tpm"  # a folder
TPM_LOCK = "tpm.lock"  # held as long as the TPM lives
KNOWN_HOSTS = "known_hosts"  # written by SSH when it is told so, as the inventory does

_ROTATED = tuple(f"{name}.1" for name in (CONSOLE_LOG, QEMU_LOG))
_FILES = (
    *(RECORD, OVERLAY, SEED, PRIVATE_KEY, PUBLIC_KEY, QMP_SOCKET, DEBUG_SOCKET, CONSOLE_SOCKET),
    *(AGENT_SOCKET, HOST_KEY, HOST_PUBLIC_KEY, NVRAM, SECURE_NVRAM, TPM_STATE, TPM_LOCK),
    *(PROPOLIS_LOG, PROPOLIS_FIRMWARE_LOG, SMF_MANIFEST, ZONE_CONFIG),
    *(CONSOLE_LOG, QEMU_LOG, PID_FILE, ALIVE_LOCK, VNC_PASSWORD, KNOWN_HOSTS, *_ROTATED),
)
_HALF_MADE = tuple(f".{name}.part" for name in _FILES)


_FOLDER_LOCK = re.compile(r"share-[A-Za-z0-9][A-Za-z0-9_-]{0,35}\.(?:lock|sock)")
_KEY = r"\.[0-9a-f]{16}"  # of the layer that the file was made over
_SYSTEM_DISK = re.compile(rf"overlay(?:{_KEY})?\.qcow2")
_DATA_DISK = re.compile(rf"disk-[a-z][a-z0-9_-]{{0,14}}(?:{_KEY})?\.(?:qcow2|raw)")
_OVER_LAYER = re.compile(rf"(?:overlay|disk-[a-z][a-z0-9_-]{{0,14}}){_KEY}\.qcow2")
_HALF_MADE_DISK = re.compile(
    rf"\.(?:overlay|disk-[a-z][a-z0-9_-]{{0,14}})(?:{_KEY})?\.(?:qcow2|raw)\.part.*"
)


def data_disk(name: str, form: str) -> str:
    """Return the name of the file of a further disk."""
    return f"disk-{name}.{form}"


def over_layer(name: str, key: str) -> str:
    """Return the name of the file that takes the place of the disk's file ``name``, over the layer ``key``."""
    return f"{name.partition('.')[0]}.{key}.qcow2"


def is_over_layer(name: str) -> bool:
    """Tell whether a name is one of :func:`over_layer`."""
    return bool(_OVER_LAYER.fullmatch(name))


def is_system_disk(name: str) -> bool:
    """Tell whether a file of this name is a machine's system disk, or was."""
    return bool(_SYSTEM_DISK.fullmatch(name))


def is_disk(name: str) -> bool:
    """Tell whether a file of this name is a disk of a machine, or was."""
    return is_system_disk(name) or bool(_DATA_DISK.fullmatch(name))


def is_file_of_disk(file: str, name: str) -> bool:
    """Tell whether ``file`` is called as a file of the further disk ``name`` is, or was."""
    return bool(_DATA_DISK.fullmatch(file)) and file.partition(".")[0] == f"disk-{name}"


def is_guests(name: str) -> bool:
    """Tell whether a file of this name holds what a guest wrote, which nothing can bring back."""
    return is_disk(name) or name in (NVRAM, SECURE_NVRAM, TPM_STATE)


def folder_lock(name: str) -> str:
    """Return the name of the file that is locked as long as a shared folder is served."""
    return f"share-{name}.lock"


def folder_socket(name: str) -> str:
    """Return the name of the socket over which a shared folder is connected; it is there for a moment only."""
    return f"share-{name}.sock"


def is_ours(name: str) -> bool:
    """Tell whether the collection makes a file of this name in a machine's folder."""
    if name in _FILES or is_disk(name) or is_half_made(name):
        return True
    return bool(_FOLDER_LOCK.fullmatch(name))


def is_half_made(name: str) -> bool:
    """Tell whether a file of this name was being written; if no task works on the machine, none will finish it."""
    return name.startswith(_HALF_MADE) or bool(_HALF_MADE_DISK.fullmatch(name))
