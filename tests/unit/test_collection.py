# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that describe the collection agree with each other and with what lies in plugins/."""

from __future__ import annotations

import ast
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text())
RUNTIME = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))
NAME = f"{GALAXY['namespace']}.{GALAXY['name']}"


def documentation_of(path):
    """Return the module's DOCUMENTATION, read without importing it."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "DOCUMENTATION":
            return yaml.safe_load(node.value.value)
    return {}


def test_action_group_lists_every_module():
    assert RUNTIME["action_groups"]["all"] == [path.stem for path in MODULES]


def test_every_module_documents_the_shared_attributes():
    wanted = {f"{NAME}._attributes", f"{NAME}._attributes.actiongroup_all"}
    fragments = {p.stem: documentation_of(p)["extends_documentation_fragment"] for p in MODULES}
    assert {
        name: wanted - set(given) for name, given in fragments.items() if wanted - set(given)
    } == {}


def test_ee_requirements_match_what_the_venv_gets():
    def names(path):
        lines = (ROOT / path).read_text().splitlines()
        return {line for line in lines if line and not line.startswith(("#", "ansible-core"))}

    assert names("meta/ee-requirements.txt") == names("requirements/runtime.txt")


def test_licence_text_is_the_same_in_both_places():
    assert (ROOT / "COPYING").read_text() == (ROOT / "LICENSES/GPL-3.0-or-later.txt").read_text()
    assert GALAXY["license"] == ["GPL-3.0-or-later"]


def source_files():
    """Return every source file that people write: all but changelog fragments, golden files and documents."""
    suffixes = {".py", ".sh", ".yml", ".yaml", ".cfg", ".toml"}
    folders = ("plugins", "roles", "playbooks", "meta", "tests", "extensions")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    found += [*ROOT.glob("*"), ROOT / ".ci" / "run", ROOT / "changelogs" / "config.yaml"]
    return [
        path
        for path in found
        if (path.suffix in suffixes or path.name in ("Makefile", "run"))
        and path.is_file()
        and "golden" not in path.parts
    ]


def test_every_source_file_begins_with_the_licence_header():
    header = (
        "# Copyright: (c) 2026, CloudNebula contributors\n"
        "# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt"
        " or https://www.gnu.org/licenses/gpl-3.0.txt)\n"
        "# SPDX-License-Identifier: GPL-3.0-or-later\n"
    )
    files = source_files()
    assert ROOT / "galaxy.yml" in files
    assert [str(p.relative_to(ROOT)) for p in files if header not in p.read_text()[:400]] == []
