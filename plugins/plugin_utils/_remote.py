# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: the frame in which code of this collection runs on another host. Sent there as text.

It imports modules from the sources that came with it, so nothing is written over there.
"""

from __future__ import annotations

import importlib.machinery
import json
import signal
import sys
from typing import Any

MARK = "vms of this hypervisor: "  # what a login shell prints comes before it


class Sources:
    """An importer of modules whose source is in a dictionary; a name that others begin with is a package."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts
        names = [name.split(".") for name in texts]
        self._packages = {".".join(parts[:end]) for parts in names for end in range(1, len(parts))}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return what Python needs for an import, or ``None`` for modules of others."""
        if name not in self._texts and name not in self._packages:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=name in self._packages)

    def create_module(self, spec: Any) -> None:
        """Leave that to Python."""

    def exec_module(self, module: Any) -> None:
        """Run the source of a module."""
        name = module.__name__
        code = compile(self._texts.get(name, ""), f"<{name}>", "exec", dont_inherit=True)
        exec(code, module.__dict__)


def run(texts: dict[str, str], request: dict[str, Any]) -> None:
    """Do what the request asks and print the answer in one line of JSON; end when nobody can be waiting any more."""
    signal.alarm(request["seconds"])
    sys.meta_path.insert(0, Sources(texts))
    module = __import__(request["module"], fromlist=["observe"])
    sys.stdout.write("\n" + MARK + json.dumps(module.observe(*request["arguments"])) + "\n")
