# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes that every module of this collection documents; each module sets its own ``support`` values."""

from __future__ import annotations


class ModuleDocFragment:
    """Shared ``attributes`` documentation."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and report what it would change without changing anything.
  diff_mode:
    description: Will return details on what has changed (or would change in C(check_mode)) when in diff mode.
  idempotent:
    description: When run twice in a row with the same options, the second run changes nothing.
  platform:
    description: Operating systems that the hypervisor host may run.
"""

    ACTIONGROUP_ALL = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/cloudnebula.hypervisor.all) in C(module_defaults) to set options for all modules of this collection.
    support: full
    membership:
      - cloudnebula.hypervisor.all
"""
