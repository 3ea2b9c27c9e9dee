# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers point one way: reads the imports of every plugin and fails where a layer reaches up or sideways."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
COLLECTION = "ansible_collections.cloudnebula.hypervisor.plugins."
CORE = {"_core"}
HOST = {"_host"} | CORE
BACKENDS = {"_qemu", "_propolis", "_noop"}
GUEST = HOST | {"_guest", "_image"}
ROUTER = GUEST | BACKENDS
# What each entry of module_utils may import, besides itself.
MAY_IMPORT = {
    "_core": set(),
    "_host": CORE,
    "_guest": HOST,
    "_image": HOST,
    **dict.fromkeys(BACKENDS, GUEST),
    "_router": ROUTER,
    "_module": ROUTER | {"_router", "_arguments"},
    "_autostart": HOST,
    "_describe": ROUTER | {"_router", "_module"},
    "_manage": ROUTER | {"_router", "_module", "_autostart", "_arguments", "_describe"},
    "_fleet": ROUTER | {"_router", "_module", "_autostart", "_arguments", "_describe", "_manage"},
    "_manage_images": GUEST | {"_module"},
    "_host_info": ROUTER | {"_router", "_module"},
    "_arguments": set(),
}
HTTP_DOOR = "_host/http.py"
# The decisions are pure: these belong to _host and to what stands on it.
NOT_IN_CORE = {
    "fcntl",
    "http",
    "mmap",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "urllib",
}


def imports_of(path):
    """Yield the absolute dotted name of every import in the file, wherever in the file it stands."""
    package = (COLLECTION + ".".join(path.relative_to(PLUGINS).parent.parts)).split(".")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *filter(None, [node.module])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def entry_of(path):
    """Return the entry of module_utils that the file belongs to."""
    return path.relative_to(PLUGINS / "module_utils").parts[0].removesuffix(".py")


def may_import_ansible(path, entry, name):
    """Only the edge speaks with Ansible, and the door to HTTP uses Ansible's URL code."""
    if path.relative_to(PLUGINS / "module_utils").as_posix() == HTTP_DOOR:
        return name == "ansible.module_utils.urls"
    return entry == "_module" and name.startswith("ansible.module_utils.")


def trespasses(path):
    """Yield a sentence for every import of the file that its layer does not allow."""
    entry = entry_of(path)
    for name in imports_of(path):
        top = name.partition(".")[0]
        if name.startswith(COLLECTION + "module_utils."):
            target = name.removeprefix(COLLECTION + "module_utils.").partition(".")[0]
            if target != entry and target not in MAY_IMPORT[entry]:
                yield f"{entry} must not import {target}"
        elif top == "ansible":
            if not may_import_ansible(path, entry, name):
                yield f"{entry} must not import {name}: only _module speaks with Ansible"
        elif top not in sys.stdlib_module_names | {"pycdlib"}:
            yield f"{entry} must not import {name}: hypervisor hosts have the standard library"
        elif entry == "_core" and top in NOT_IN_CORE:
            yield f"_core must not import {name}: decisions touch nothing"


MODULE_UTILS = sorted((PLUGINS / "module_utils").rglob("*.py"))


@pytest.mark.parametrize("path", MODULE_UTILS, ids=lambda p: str(p.relative_to(PLUGINS)))
def test_layer_reaches_only_down(path):
    assert entry_of(path) in MAY_IMPORT, "say in this file which layer the new entry belongs to"
    assert list(trespasses(path)) == []


@pytest.mark.parametrize(
    ("place", "line", "complaint"),
    [
        ("_core/x.py", "from .._host import files", "_core must not import _host"),
        ("_core/x.py", "import subprocess", "_core must not import subprocess"),
        ("_qemu/x.py", "from .._noop.backend import B", "_qemu must not import _noop"),
        ("_qemu/x.py", "def f():\n    from .. import _router", "_qemu must not import _router"),
        ("_host/x.py", "import yaml", "_host must not import yaml"),
        ("_router.py", "from . import _module", "_router must not import _module"),
        ("_guest/x.py", "from ansible.module_utils import basic", "only _module speaks"),
        ("_host/x.py", "from ansible.module_utils import urls", "only _module speaks"),
        ("_host/http.py", "from ansible.module_utils import basic", "only _module speaks"),
        ("_image/http.py", "from ansible.module_utils import urls", "only _module speaks"),
    ],
)
def test_trespass_is_seen(tmp_path, monkeypatch, place, line, complaint):
    monkeypatch.setitem(globals(), "PLUGINS", tmp_path)
    path = tmp_path / "module_utils" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    assert [complaint in sentence for sentence in trespasses(path)] == [True]


def test_plugins_have_no_init_files():
    assert list(PLUGINS.rglob("__init__.py")) == []


def test_private_entries_say_so():
    entries = {entry_of(path) for path in MODULE_UTILS}
    assert [entry for entry in entries if not entry.startswith("_")] == []
