# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine made from another one: the same disks and hardware, and an identity of its own. Pure."""

from __future__ import annotations

from dataclasses import replace

from .disks import SYSTEM_DISK, DiskRecord
from .errors import InvalidSpec, InvalidState, Unsupported
from .features import Features
from .handle import VmHandle
from .plan import Plan
from .spec import CloudInit, VmSpec
from .state import VmState
from .vm import Vm


def clone_wish(wish: VmSpec, source: Vm | None, tag: str, features: Features) -> VmSpec:
    """Return the wish for a new machine with what it leaves open taken from ``source``; raise if that cannot be cloned."""
    if not features.clone:
        raise Unsupported(f"clone_from is not available on backend {tag}.", option="clone_from")
    found = check_source(wish, source)
    base = found.handle.spec
    if found.handle.backend != tag:
        raise InvalidSpec(
            f"backend: a clone has that of the machine that it is made from, {found.handle.backend}.",
            "Leave backend out.",
            option="backend",
        )
    mode = wish.clone_mode or "full"
    if mode == "linked":
        _check_linkable(found)
    cards = tuple(replace(card, mac=None) for card in base.networks or ())
    cloud_init = replace(base.cloud_init or CloudInit(), hostname=None)
    base = replace(base, networks=cards, cloud_init=cloud_init, autostart=False, backend=tag)
    size = wish.disk_size or found.handle.disk_bytes
    return replace(wish.over(base), disk_size=size, clone_mode=mode)


def check_source(wish: VmSpec, source: Vm | None) -> Vm:
    """Return the machine ``source``; raise if none can be made from it right now."""
    if source is None:
        raise InvalidSpec(f"clone_from: there is no VM '{wish.clone_from}'.", option="clone_from")
    if source.state not in (VmState.PREPARED, VmState.STOPPED):
        raise InvalidState(
            f"clone_from: the VM '{wish.clone_from}' is {source.state.value}; only one that is off can be cloned, "
            "since its disks must not change meanwhile.",
            "Stop it first with state=stopped.",
            option="clone_from",
        )
    has = source.handle.disk_bytes
    if wish.disk_size is not None and has is not None and wish.disk_size < has:
        raise InvalidSpec(
            f"disk_size: {wish.disk_size} is smaller than the disk of the VM '{wish.clone_from}', which has {has} bytes.",
            "A disk only grows.",
            option="disk_size",
        )
    return source


def source_after(plan: Plan, found: Vm | None, tag: str, disk_bytes: int | None) -> Vm | None:
    """Return a machine as its plan leaves it, as far as a clone of it depends on that; ``None`` if it will be gone.

    ``disk_bytes`` is the size of the image that its disk is made from, if it is known.
    """
    spec = plan.spec
    if plan.state is VmState.DESTROYED:
        return None
    handle = found.handle if found else VmHandle("", spec.name, tag, "", spec)
    sizes = [size for size in (handle.disk_bytes or disk_bytes, spec.disk_size) if size is not None]
    disks = {
        disk.name: DiskRecord("", disk.format or "qcow2", disk.size or 0, disk.image)
        for disk in spec.disks or ()
        if disk.name != SYSTEM_DISK
    }
    return Vm(
        handle.evolve(spec=spec, disk_bytes=max(sizes, default=None), disks=disks), plan.state
    )


def _check_linkable(source: Vm) -> None:
    """Raise ``InvalidSpec`` if a disk of the machine is of a kind that nothing can be made to rest on."""
    handle = source.handle
    for disk in handle.spec.disks or ():
        record = handle.disks.get(disk.name)
        if record is not None and record.format != "qcow2":
            raise InvalidSpec(
                f"clone_mode: the disk '{disk.name}' of the VM '{handle.name}' is {record.format}, and a linked clone "
                "needs qcow2.",
                "Use clone_mode: full.",
                option="clone_mode",
            )
