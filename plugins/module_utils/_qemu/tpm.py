# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A TPM 2.0 for a machine: swtpm beside QEMU, with its state in the machine's folder."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from .._core.errors import ProgramMissing
from .._core.handle import VmHandle
from .._core.layout import TPM_LOCK, TPM_STATE
from .._core.spec import VmSpec
from .._host.commands import find_program
from .._host.files import make_private_folder
from .companions import Companions

PROGRAM = "swtpm"


def check_tpm(spec: VmSpec) -> None:
    """Raise ``ProgramMissing`` if the machine wants a TPM that this host cannot give."""
    if spec.tpm:
        _program()


@contextlib.contextmanager
def opened_tpm(vm: VmHandle, companions: Companions) -> Iterator[int | None]:
    """Start the TPM of a machine that has one, and give QEMU's end of the connection, which is closed here afterwards.

    It is a pair of sockets without a name: nobody else can connect, and swtpm ends when QEMU's end is closed, however
    QEMU ends.
    """
    if not vm.spec.tpm:
        yield None
        return
    make_private_folder(os.path.join(vm.work_dir, TPM_STATE))
    qemus, theirs = socket.socketpair()
    with qemus, theirs:
        companions.start(tpm_command(_program(), theirs.fileno()), TPM_LOCK, (theirs.fileno(),))
        theirs.close()
        yield qemus.fileno()


def tpm_command(program: str, fd: int) -> list[str]:
    """Return the command of the TPM that is served on the descriptor ``fd``; it runs in the machine's folder."""
    # Not by its whole path, which may have a comma, and for which swtpm has no quotes.
    return [
        *(program, "socket", "--tpm2"),
        *("--tpmstate", f"dir={TPM_STATE},mode=0600"),
        *("--ctrl", f"type=unixio,clientfd={fd}"),
        "--terminate",
    ]


def _program() -> str:
    program = find_program(PROGRAM)
    if program is None:
        raise ProgramMissing(
            f"tpm: the program {PROGRAM} is not installed.",
            f"Install the package {PROGRAM}; the role cloudnebula.hypervisor.hypervisor_host does so with "
            "hypervisor_host_features: [tpm].",
            programs=[PROGRAM],
        )
    return program
