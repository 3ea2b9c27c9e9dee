# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ports of this host: whether somebody has them."""

from __future__ import annotations

import errno
import os
import socket

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Tell whether nobody listens on this port of 127.0.0.1, or of all addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As QEMU does it: connections of the past in TIME_WAIT are no obstacle, listeners are.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError as exc:
            if exc.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def obstacle(port: int, address: str, protocol: str) -> str | None:
    """Return why a port of an IPv4 address cannot be listened on as QEMU does it, in a few words; ``None`` if it can.

    ``protocol`` is tcp or udp.
    """
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            if protocol == "tcp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            if protocol == "tcp":
                probe.listen(1)
        except OSError as exc:
            known = {
                errno.EADDRINUSE: "it is taken",
                errno.EACCES: "this user may not listen on it",
                errno.EADDRNOTAVAIL: "this host has no such address",
            }
            return known.get(exc.errno or 0, os.strerror(exc.errno or 0))
    return None
