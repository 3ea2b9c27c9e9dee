# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that every module of this collection has."""

from __future__ import annotations


class ModuleDocFragment:
    """Where virtual machines are kept on the hypervisor host."""

    DOCUMENTATION = r"""
options:
  data_dir:
    description:
      - Folder on the hypervisor host in which virtual machines are kept, each in C(vms/<name>/) below it.
      - The default is C($XDG_DATA_HOME/vmctl), or C(~/.local/share/vmctl) of the user that runs the module.
    type: path
requirements:
  - "Python >= 3.9 on the hypervisor host"
"""
