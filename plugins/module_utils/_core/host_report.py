# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a look at this host tells of one backend: what hinders it, and what it would work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import VmError


@dataclass(frozen=True)
class BackendReport:
    """One backend on this host. Without problems, it can run virtual machines."""

    backend: str
    problems: Sequence[VmError] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as the module ``host_info`` shows it."""
        return {
            "backend": self.backend,
            "available": not self.problems,
            "problems": [
                {"message": problem.message, "help": problem.help, "code": problem.code}
                for problem in self.problems
            ],
            "facts": dict(self.facts),
        }
