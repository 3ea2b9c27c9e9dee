# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page on backends says what the planner does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils import _arguments
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.changes import EFFECTS
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.features import Features
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import Goal
from ansible_collections.cloudnebula.hypervisor.tests.tools import matrix


def row(tables, table, name):
    """Return the cells of a row."""
    lines = [line for line in tables[table].splitlines() if line.startswith(f"| `{name}`")]
    assert len(lines) == 1, name
    return [cell.strip() for cell in lines[0].strip("|").split("|")][1:]


def test_page_is_up_to_date():
    page = matrix.PAGE.read_text()

    assert matrix.renewed(page, matrix.tables()) == page, (
        "run: tests/tools/run.sh python tests/tools/matrix.py"
    )


def test_all_backends_that_can_be_chosen_are_shown():
    assert list(matrix.BACKENDS) == _arguments.VM["backend"]["choices"]


def test_every_option_is_asked_for():
    assert set(matrix.ASKING) == set(EFFECTS) - {"backend"}


@pytest.mark.parametrize(
    ("table", "name", "change"),
    [
        ("options", "cpu", {"unsupported": ("cpu",)}),
        ("values", "state=suspended", {"suspend": False}),
        ("values", "networks[].type=tap", {"network_types": ("user",)}),
        ("values", "networks[].model=e1000", {"network_models": ("virtio",)}),
        ("values", "networks[].connected=false", {"cables": False}),
        ("values", "accelerator=kvm", {"accelerators": ()}),
        ("values", "cloud_init.rerun=true", {"rerun_cloud_init": False}),
        ("values", "new_name", {"rename": False}),
    ],
)
def test_what_a_backend_lacks_is_shown(table, name, change):
    flags = dict.fromkeys(("suspend", "rename", "rerun_cloud_init"), True)
    able = Features(network_types=("user", "tap"), accelerators=("kvm", "tcg"), **flags)

    tables = matrix.tables({"able": able, "unable": replace(able, **change)})

    assert row(tables, table, name)[-2:] == ["yes", "refused"]


def test_defaults_that_differ_are_shown():
    tables = matrix.tables()

    assert row(tables, "defaults", "networks") == [
        "one of type `user`",
        "one of type `vnic`",
        "one of type `user`",
    ]


def test_defaults_that_ask_for_nothing_are_no_difference():
    assert "| `` |" not in matrix.tables()["defaults"]
    assert "`tpm`" not in matrix.tables()["defaults"]


@pytest.mark.parametrize("goal", Goal)
def test_every_goal_is_shown(goal):
    refused = {"suspended": ["yes", "refused", "yes"]}

    assert row(matrix.tables(), "values", f"state={goal.value}") == refused.get(
        goal.value, ["yes"] * 3
    )


@pytest.mark.parametrize("count", [0, 2])
def test_a_page_without_a_place_for_a_table_is_an_error(count):
    with pytest.raises(ValueError, match=f"{count} places for the table options"):
        matrix.renewed(
            "<!-- table: options --><!-- end of table: options -->" * count, {"options": ""}
        )
