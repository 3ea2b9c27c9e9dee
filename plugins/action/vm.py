# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the module of the same name as any other, and shows on the terminal how far a long download has come."""

from __future__ import annotations

import contextlib
from typing import Any

from ansible.plugins.action.normal import ActionModule as Normal

from ..plugin_utils._progress import may_be_fetched, progress_shown


class ActionModule(Normal):
    """What Ansible does for every module, with the progress beside it if the image may have to be fetched."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the module."""
        is_far = may_be_fetched(self._task.args)
        with progress_shown(self, task_vars) if is_far else contextlib.nullcontext():
            return super().run(tmp, task_vars)
