# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is opened for QEMU before it runs."""

from __future__ import annotations

import os
import socket

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.layout import (
    AGENT_SOCKET,
    CONSOLE_SOCKET,
    DEBUG_SOCKET,
    QMP_SOCKET,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.launcher import opened

SOCKETS = {
    "qmp": QMP_SOCKET,
    "debug": DEBUG_SOCKET,
    "console": CONSOLE_SOCKET,
    "agent": AGENT_SOCKET,
}


@pytest.mark.parametrize("name", SOCKETS)
def test_of_two_threads_that_take_one_client_neither_waits(tmp_path, name):
    with opened(str(tmp_path)) as openings, socket.socket(socket.AF_UNIX) as client:
        fd = getattr(openings.fds, name)
        assert not os.get_blocking(fd)  # else this test would not end
        client.connect(str(tmp_path / SOCKETS[name]))
        with socket.socket(fileno=os.dup(fd)) as listener:
            first, dummy_address = listener.accept()
            with first, pytest.raises(BlockingIOError):
                listener.accept()
