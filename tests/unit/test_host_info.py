# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What host_info tells of a host: with programs that are scripts of a line, and with what is really there."""

from __future__ import annotations

import json
import platform
import sys

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils import _arguments
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BackendNotAvailable,
    InvalidSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.host_report import (
    BackendReport,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.propolis import (
    PROPOLIS_DEFAULTS,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest import iso
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host import commands
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host_info import describe_host
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import Task
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.accelerator import (
    Accelerator,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.host_facts import (
    report_host,
)

pytestmark = pytest.mark.real_host  # it runs programs
QEMU = f"qemu-system-{platform.machine()}"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A host that has no programs but those that are given: by name, what each prints."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(commands, "_SYSTEM_PATH", "")
    monkeypatch.setattr(iso, "find_spec", lambda dummy: None)

    def have(**prints):
        for name, text in prints.items():
            path = folder / name.replace("_", "-").replace("QEMU", QEMU)
            path.write_text(f"#!/bin/sh\necho '{text}'\n")
            path.chmod(0o755)
        return folder

    return have


def choose(wish):
    return Accelerator("tcg", f"Because of {wish}.", "max")


@pytest.mark.parametrize("said", ["QEMU emulator version 7.2.22 (Debian 1:7.2)", "nonsense"])
def test_host_with_qemu(programs, said):
    folder = programs(QEMU=said, qemu_img="", mkisofs="")

    report = report_host(choose)

    assert report.as_dict()["available"] is True
    assert report.facts["qemu"] == str(folder / QEMU)
    assert report.facts["version"] == ("7.2.22" if "version" in said else None)
    assert report.facts["qemu_img"] == str(folder / "qemu-img")
    assert report.facts["seed_tool"] == "mkisofs"
    assert (report.facts["accelerator"], report.facts["accelerator_reason"]) == (
        "tcg",
        "Because of auto.",
    )


def test_host_without_anything_has_a_problem_for_each_thing(programs):
    programs()

    shown = report_host(choose).as_dict()

    assert shown["available"] is False
    assert [problem["code"] for problem in shown["problems"]] == [
        "vm_manager.backend.not_available",
        "vm_manager.host.program_missing",
        "vm_manager.cloudinit.iso_failed",
    ]
    assert QEMU in shown["problems"][0]["message"]
    assert all(problem["help"] for problem in shown["problems"])
    assert shown["facts"]["qemu"] is shown["facts"]["version"] is None


def test_qemu_is_for_linux(programs, monkeypatch):
    programs(QEMU="", qemu_img="", mkisofs="")
    monkeypatch.setattr(sys, "platform", "sunos5")

    report = report_host(choose)

    assert [problem.message for problem in report.problems] == [
        "The backend qemu needs Linux; this host runs sunos5."
    ]
    assert report.facts["accelerator"] is None


def test_a_backend_is_available_when_nothing_hinders_it():
    problem = BackendNotAvailable("No.", "Do.")

    assert BackendReport("x").as_dict()["available"] is True
    assert BackendReport("x", (problem,)).as_dict() == {
        "backend": "x",
        "available": False,
        "problems": [{"message": "No.", "help": "Do.", "code": "vm_manager.backend.not_available"}],
        "facts": {},
    }


def test_this_host_is_described(tmp_path):
    data_dir = tmp_path / "data"

    result = describe_host(Task({"data_dir": str(data_dir)}))

    assert json.loads(json.dumps(result)) == result
    assert (result["changed"], result["data_dir"], result["problems"]) == (
        False,
        str(data_dir),
        [],
    )
    assert [b["backend"] for b in result["backends"]] == _arguments.VM["backend"]["choices"]
    assert all(b["available"] is not bool(b["problems"]) for b in result["backends"])
    assert result["backends"][1]["facts"]["server"] == PROPOLIS_DEFAULTS.server
    assert result["backends"][2]["available"] is True
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("system", "default"), [("linux", "qemu"), ("sunos5", "propolis"), ("darwin", None)]
)
def test_default_backend_is_that_of_the_platform(tmp_path, monkeypatch, system, default):
    monkeypatch.setattr(sys, "platform", system)

    assert describe_host(Task({"data_dir": str(tmp_path)}))["default_backend"] == default


def test_options_are_laid_over_the_defaults(tmp_path):
    given = {"server": "/nowhere/server", "bootrom": None}

    facts = describe_host(Task({"data_dir": str(tmp_path), "propolis": given}))["backends"][1]

    assert facts["facts"]["server"] == "/nowhere/server"
    assert facts["facts"]["bootrom"] == PROPOLIS_DEFAULTS.bootrom
    assert any("/nowhere/server does not exist" in p["message"] for p in facts["problems"])


def test_data_folder_that_cannot_be_used_is_a_problem_for_all(tmp_path):
    file = tmp_path / "file"
    file.touch()

    (problem,) = describe_host(Task({"data_dir": str(file / "data")}))["problems"]

    assert str(file) in problem["message"]
    assert problem["code"] == "vm_manager.io"


@pytest.mark.parametrize(
    ("params", "option"),
    [
        ({"data_dir": "relative"}, "data_dir"),
        ({"propolis": {"pool": "no pool"}}, "propolis.pool"),
        ({"propolis": {"hosting": "zone"}}, "propolis.control_link"),
    ],
)
def test_wrong_input_is_refused(params, option):
    with pytest.raises(InvalidSpec) as caught:
        describe_host(Task(params))

    assert caught.value.details["option"] == option
