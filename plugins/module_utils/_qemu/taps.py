# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's end of a network card: a TAP interface that lives exactly as long as the QEMU that has it open.

It is not made persistent, so the kernel removes it with the last process that holds it: nothing has to be cleaned up
after a machine that ended, or a task that was killed. Source: Documentation/networking/tuntap.rst of Linux.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from .._core.errors import CommandFailed, NetworkFailed
from .._core.handle import VmHandle
from .._core.networks import Network
from .._host.commands import find_program, run

TUN_DEVICE = "/dev/net/tun"
VHOST_DEVICE = "/dev/vhost-net"
MAX_QUEUES = 8

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x0100, 0x1000, 0x4000
_HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
_HELPER_WAIT = 10.0


@dataclass(frozen=True)
class Tap:
    """Open ends of one TAP interface, a descriptor for each queue; ``vhost`` has as many, or none."""

    network: str
    fds: tuple[int, ...]
    vhost: tuple[int, ...] = ()


def interface_name(handle: VmHandle, index: int) -> str:
    """Return the name of the host's end of a card on a bridge: at most 13 characters that belong to this machine."""
    return f"vt{handle.uuid.replace('-', '')[:8]}n{index}"


def _free_name(handle: VmHandle) -> str:
    """Return such a name that no card of the running machine has: they keep theirs when others before them go."""
    names = (interface_name(handle, index) for index in range(100))
    return next(name for name in names if not os.path.exists(f"/sys/class/net/{name}"))


def bridge_exists(bridge: str) -> bool:
    """Tell whether there is a bridge of this name in our network namespace."""
    return os.path.isdir(f"/sys/class/net/{bridge}/bridge")


def bridge_helper() -> str | None:
    """Return the program by which users without privileges may join a bridge, if it is installed."""
    found = find_program("qemu-bridge-helper")
    return found or next((path for path in _HELPERS if os.access(path, os.X_OK)), None)


@contextlib.contextmanager
def opened_taps(handle: VmHandle) -> Iterator[tuple[Tap, ...]]:
    """Open the host's ends of all cards on bridges and TAPs; ours are closed afterwards."""
    with contextlib.ExitStack() as stack:
        cards = handle.spec.networks or ()
        yield tuple(
            stack.enter_context(opened_tap(handle, network, interface_name(handle, index)))
            for index, network in enumerate(cards)
            if network.type in ("bridge", "tap")
        )


@contextlib.contextmanager
def opened_tap(handle: VmHandle, network: Network, name: str | None = None) -> Iterator[Tap]:
    """Open the host's end of one card; ours is closed afterwards."""
    tap = _open(handle, network, network.interface or name or _free_name(handle))
    try:
        yield tap
    finally:
        for fd in (*tap.fds, *tap.vhost):
            os.close(fd)


def _open(handle: VmHandle, network: Network, name: str) -> Tap:
    if network.bridge is not None and os.geteuid() != 0:
        return Tap(network.name, (_ask_helper(network.bridge),))
    queues = min(handle.vcpus, MAX_QUEUES) if os.access(VHOST_DEVICE, os.R_OK | os.W_OK) else 1
    with contextlib.ExitStack() as undo:
        fds: list[int] = []
        for dummy_queue in range(queues):
            fds.append(_attach(name, queues > 1))
            undo.callback(os.close, fds[-1])
        if network.bridge is not None:
            _join(name, network, handle.mac_of(network) or "")
        vhost = tuple(os.open(VHOST_DEVICE, os.O_RDWR | os.O_CLOEXEC) for fd in fds if queues > 1)
        undo.pop_all()
    return Tap(network.name, tuple(fds), vhost)


def _attach(name: str, several: bool) -> int:
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if several else 0)
    try:
        fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        except OSError:
            os.close(fd)
            raise
    except OSError as exc:
        raise NetworkFailed(
            f"The TAP interface {name} could not be opened: {exc.strerror}.",
            "Run the task as root (become), or have an interface made that this user owns:"
            f" ip tuntap add dev {name} mode tap user NAME",
            interface=name,
        ) from exc
    return fd


def _join(name: str, network: Network, mac: str) -> None:
    # The guest's address with a high first byte: a bridge without an address of its own takes the lowest of its ports.
    link = ["ip", "link", "set", "dev", name]
    mtu = ["mtu", str(network.mtu)] if network.mtu else []
    try:
        run([*link, "address", f"fe{mac[2:]}", "addrgenmode", "none", *mtu])
        run([*link, "master", str(network.bridge), "up"])
    except CommandFailed as exc:
        raise NetworkFailed(
            f"The interface {name} could not join the bridge {network.bridge}: {exc}",
            bridge=network.bridge,
        ) from exc


def _ask_helper(bridge: str) -> int:
    helper = bridge_helper()
    if helper is None:
        raise NetworkFailed(
            f"Only root may join the bridge {bridge}, and qemu-bridge-helper is not installed.",
            "Run the task as root (become), or install the helper and allow the bridge in /etc/qemu/bridge.conf.",
            bridge=bridge,
        )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            [helper, "--use-vnet", f"--br={bridge}", f"--fd={theirs.fileno()}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=(theirs.fileno(),),
            timeout=_HELPER_WAIT,
            check=False,
        )
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip()
            raise NetworkFailed(
                f"{helper} refused the bridge {bridge}: {words}",
                f"The administrator allows it with the line 'allow {bridge}' in /etc/qemu/bridge.conf,"
                " and by the set-user-ID bit of the helper.",
                bridge=bridge,
            )
        fds = socket.recv_fds(ours, 1, 1)[1]
    return int(fds[0])
