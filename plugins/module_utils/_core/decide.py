# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole decision: the plan for the machine itself, and what belongs to it besides. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from .autostart import with_autostart
from .clone import clone_wish
from .cloud_init import checked_wish
from .features import Features
from .plan import Plan, Power, make_plan
from .rename import power_to_rename, renamed, with_rename
from .spec import VmSpec
from .state import Goal, VmState
from .vm import Vm


@dataclass(frozen=True)
class Seen:
    """What is there. If ``found`` has another name than the wish, it gets this one; ``source`` is the one to clone."""

    found: Vm | None
    source: Vm | None = None


def decide(wish: VmSpec, power: Power, seen: Seen, tag: str, features: Features) -> Plan:
    """Decide what is to be done. Raises when the wish cannot be met, before anything is touched."""
    found = seen.found
    if power.goal is Goal.ABSENT:
        return with_autostart(make_plan(wish, power, found, tag, features), wish, power, found)
    if wish.clone_from is not None and (found is None or found.state is VmState.PREPARING):
        begun = found.handle.spec.clone_mode if found else None
        wish = replace(wish, clone_mode=wish.clone_mode or begun)
        wish = clone_wish(wish, seen.source, tag, features)
    wish = checked_wish(wish, found.handle if found else None, features.rerun_cloud_init)
    if found is None or found.handle.name == wish.name:
        plan = make_plan(wish, power, found, tag, features)
    else:
        power = power_to_rename(power, found, tag, features)
        plan = with_rename(make_plan(wish, power, _under(found, wish.name), tag, features), found)
    return with_autostart(plan, wish, power, found)


def _under(found: Vm, name: str) -> Vm:
    folder = os.path.dirname(found.handle.work_dir)
    return replace(found, handle=renamed(found.handle, name, os.path.join(folder, name)))
