# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables and links of the documentation say what the code says; examples are run by test_examples.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core import errors, layout
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.changes import (
    EFFECTS,
    Effect,
    option_name,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.plan import STEPS
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import Goal
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.hotplug import (
    Hotplugger,
)

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "roles/*/README.md")
    for path in ROOT.glob(pattern)
)
OWN_URL = "https://github.com/CloudNebulaProject/ansible-hypervisor"
HEADINGS = [
    "Description",
    "Requirements",
    "Installation",
    "Use Cases",
    "Testing",
    "Contributing",
    "Support",
    "Release Notes and Roadmap",
    "Related Information",
    "License Information",
]


def table(page, first_heading):
    """Return the rows, as lists of cells, of the table whose first column has this heading."""
    lines = (ROOT / page).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_heading} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[:1] + rows[2:]


def codes_in_use():
    """Return the codes of all errors that are ever raised: the two bases are not."""
    family = [errors.VmError]
    for parent in family:
        family += parent.__subclasses__()
    return sorted(error.code for error in family if error is not errors.VmError)


def test_every_error_code_is_explained_once():
    rows = table("docs/errors.md", "code")[1:]
    assert sorted(row[0].strip("`") for row in rows) == codes_in_use()
    assert [row for row in rows if len(row) != 3 or not all(row)] == []


def test_options_take_effect_as_documented():
    documented = {row[0].strip("`"): row[1] for row in table("docs/architecture.md", "option")[1:]}
    live = "live, as far as the running machine can, else at the next start"
    words = {effect: live if effect is Effect.LIVE else effect.value for effect in Effect}
    assert documented == {option_name(name): words[effect] for name, effect in EFFECTS.items()}


def test_changes_of_a_running_machine_are_as_documented():
    words = [cell for row in table("docs/architecture.md", "change")[1:] for cell in row[:1]]
    documented = {word.strip("`") for cell in words for word in cell.split(", ")}
    made = {name[1:] for name in vars(Hotplugger) if re.fullmatch(r"_[a-z]+_[a-z]+", name)}
    assert documented == made - {"open_tray"}


def test_steps_are_as_documented():
    heading, *rows = table("docs/architecture.md", r"state \ goal")
    goals = [Goal(word) for word in heading[1:]]
    documented = {
        (row[0], goal): tuple(filter(None, cell.split(", ")))
        for row in rows
        for goal, cell in zip(goals, row[1:])
    }
    assert documented == {
        (state.value, goal): tuple(verb.value for verb in verbs)
        for (state, goal), verbs in STEPS.items()
    }


def test_files_of_a_machine_are_as_documented():
    documented = [row[0].strip("`") for row in table("docs/architecture.md", "file")[1:]]
    known = [value for name, value in vars(layout).items() if name.isupper() and name[0] != "_"]
    assert sorted(documented) == sorted(known)


def test_readme_has_the_headings_that_certified_collections_have():
    found = re.findall(r"^## (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert found == HEADINGS


def anchors(path):
    """Return the names of a page's headings as links give them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, dummy, anchor = link.partition("#")
        if target.startswith(f"{OWN_URL}/"):
            path = ROOT / re.sub(r"^(blob|tree)/main/", "", target[len(OWN_URL) + 1 :])
        elif "://" in target:
            continue
        else:
            path = (ROOT / page).parent / target if target else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            lost.append(link)
    assert lost == []


def test_readme_has_full_links_only():
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not link.startswith("https://")] == []


def test_repository_is_the_one_that_galaxy_names():
    assert yaml.safe_load((ROOT / "galaxy.yml").read_text())["repository"] == OWN_URL


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_that_are_named_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE)
    assert set(named) <= targets


@pytest.mark.parametrize("page", PAGES)
def test_lines_have_a_reasonable_length(page):
    too_long = []
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        # Tables and links cannot be broken.
        if len(line) > 160 and not line.startswith("|") and "](" not in line:
            too_long.append(f"{number}: {line}")
    assert too_long == []
