# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a backend can do beyond the verbs that all of them have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Features:
    """Capabilities as data, asked by the planner before anything is touched."""

    suspend: bool = False
    vnc: bool = False
    network_types: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    needs_image: bool = True
    machine: str | None = None  # the machine type that a new machine gets
