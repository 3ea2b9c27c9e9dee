# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Another wish for cloud-init than that with which a machine was created: only if the task says so. Pure."""

from __future__ import annotations

from dataclasses import replace

from .errors import CannotChange, Unsupported
from .handle import VmHandle
from .spec import VmSpec

_WHAT_IT_DOES = (
    "With cloud_init.rerun the guest gets the new value at its next start, as a new instance: cloud-init then does "
    "anew all that it does once for each instance, such as making accounts and SSH host keys."
)


def checked_wish(wish: VmSpec, found: VmHandle | None, can_rerun: bool) -> VmSpec:
    """Return the wish as it is recorded; raise if cloud-init would have to run again unasked, or cannot."""
    asked = wish.cloud_init
    if asked is None:
        return wish
    recorded = replace(wish, cloud_init=replace(asked, rerun=None))
    if found is None or recorded.over(found.spec).cloud_init == found.spec.cloud_init:
        return recorded
    unused = found.booted is None and not found.state.has_process
    if not asked.rerun and not (unused and can_rerun):
        # Neither value is told: they may hold secrets.
        why = f"backend {found.backend} writes it only then"
        if not unused:
            why = "which cloud-init in the guest may have used"
        raise CannotChange(
            f"cloud_init: the VM '{wish.name}' was created with another value, {why}.",
            _WHAT_IT_DOES if can_rerun else None,
            option="cloud_init",
        )
    if not can_rerun:
        raise Unsupported(
            f"cloud_init.rerun is not available on backend {found.backend}.",
            option="cloud_init.rerun",
        )
    return recorded


def next_instance(before: VmHandle, spec: VmSpec) -> VmHandle:
    """Return the record with ``spec``; if cloud-init is told something else, its seed is due at the next start."""
    if before.spec.cloud_init == spec.cloud_init:
        return before.evolve(spec=spec)
    return before.evolve(spec=spec, instance=before.instance + 1, seed_stale=True)


def instance_id(vm: VmHandle) -> str:
    """Return what cloud-init knows the machine by: another one makes it begin anew."""
    return f"{vm.id}-{vm.instance}" if vm.instance else vm.id
