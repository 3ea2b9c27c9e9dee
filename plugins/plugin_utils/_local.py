# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: what a hypervisor host answers, and the answer of this one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a host said, or the cause, in a sentence without its full stop, why it said nothing."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    failure: str | None = None


def local_answer(data_dir: str) -> Answer:
    """Return the machines of this host."""
    from ._observer import observe

    facts = observe(data_dir)
    return Answer(facts, facts.get("error"))
