# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the role hypervisor_host for illumos, against programs that act like those of illumos."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils import _arguments
from ansible_collections.cloudnebula.hypervisor.tests.doubles.illumos.world import IllumosWorld
from conftest import BIN, ENVIRONMENT, LOCALHOST, ROOT

ROLE = ROOT / "roles" / "hypervisor_host"


class Host:
    """A pretended illumos host, and the role to run on it."""

    def __init__(self, world, folder):
        self.world = world
        self.folder = folder
        self.data_dir = folder / "vmctl"
        self.report = folder / "report.json"
        self.variables = {
            "hypervisor_host_platform": "illumos",
            "hypervisor_host_data_dir": str(self.data_dir),
        }

    def role(self, *arguments, **variables):
        """Run the role; return the number of changes, or -1 for a failure, and what was printed."""
        content = "{{ hypervisor_host_report | to_json }}"
        keep = {
            "ansible.builtin.copy": {"content": content, "dest": str(self.report), "mode": "0600"},
            "changed_when": False,
        }
        play = {
            "hosts": "localhost",
            "gather_facts": False,
            "roles": ["cloudnebula.hypervisor.hypervisor_host"],
            "post_tasks": [keep],
        }
        playbook = self.folder / "play.json"
        playbook.write_text(json.dumps([play]))
        done = subprocess.run(
            [
                *(*self.world.prefix, str(BIN / "ansible-playbook"), "-i", str(LOCALHOST)),
                *(str(playbook), "-e", json.dumps(self.variables | variables), *arguments),
            ],
            check=False,
            capture_output=True,
            text=True,
            env={**ENVIRONMENT, **self.world.environment, "HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            timeout=120,
        )
        recap = re.search(r"changed=(\d+) .*failed=(\d+)", done.stdout)
        assert recap, done.stdout + done.stderr
        return (-1 if recap[2] != "0" else int(recap[1])), done.stdout

    def changes(self, *arguments, **variables):
        """Run the role and return the number of changes."""
        number, output = self.role(*arguments, **variables)
        assert number >= 0, output
        return number

    def refusal(self, **variables):
        """Run the role, expect it to fail, and return what was printed as one line."""
        number, output = self.role(**variables)
        assert number == -1, output
        return " ".join(output.replace("''", "'").split())

    def made(self):
        """Return the datasets and etherstubs."""
        state = self.world.state()
        stubs = {name for name, link in state["links"].items() if link["class"] == "etherstub"}
        return set(state["datasets"]), stubs


@pytest.fixture
def host(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "world").mkdir()
    with IllumosWorld(tmp_path / "world") as world:
        yield Host(world, folder)


WANTED = {"hypervisor_host_etherstubs": ["vmstub0"]}
NOTHING = ({"rpool"}, set())
ALL = ({"rpool", "rpool/images", "rpool/vms"}, {"vmstub0"})


def test_second_run_changes_nothing_and_check_mode_tells_the_first(host):
    assert host.changes("--check", **WANTED) == 3
    assert host.made() == NOTHING
    assert not host.data_dir.exists()

    assert host.changes(**WANTED) == 3
    assert host.made() == ALL
    assert host.data_dir.stat().st_mode & 0o777 == 0o700

    assert host.changes(**WANTED) == 0
    assert host.made() == ALL
    report = json.loads(host.report.read_text())
    assert report["data_dir"] == str(host.data_dir)
    assert report["networks"] == []
    assert {link["name"] for link in report["links"]} >= {"net0", "vmstub0"}


def test_pool_may_be_a_dataset(host):
    assert host.changes(hypervisor_host_propolis={"pool": "rpool/guests"}) == 2
    assert host.made()[0] == {"rpool", "rpool/guests", "rpool/guests/images", "rpool/guests/vms"}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"hypervisor_host_propolis": {"pool": "tank"}}, "has no pool tank. Name another"),
        (
            {"hypervisor_host_etherstubs": ["net0"]},
            "net0 is a link of localhost already, of class phys",
        ),
        (
            {"hypervisor_host_networks": [{"name": "vmbr0"}]},
            "hypervisor_host_networks makes bridges",
        ),
        (
            {"hypervisor_host_features": ["tpm", "uefi"]},
            "hypervisor_host_features: machines on Propolis have no tpm, uefi",
        ),
        (
            {"hypervisor_host_illumos_needs": {"bhyve": "false", "keys": "false"}},
            "lacks programs for bhyve, keys, and this role does not know all packages of",
        ),
    ],
)
def test_what_is_not_possible_is_refused_before_anything_is_touched(host, variables, words):
    assert words in host.refusal(**variables)
    assert host.made() == NOTHING
    assert not host.data_dir.exists()


def test_what_propolis_lacks_is_told_with_what_to_do(host):
    missing = {"bootrom": "/nowhere/OVMF_CODE.fd", "server": "/nowhere/propolis-server"}

    output = host.refusal(hypervisor_host_propolis=missing)

    assert "Virtual machines cannot run on localhost yet" in output
    assert "propolis.server: /nowhere/propolis-server does not exist. Install" in output
    assert "propolis.bootrom: /nowhere/OVMF_CODE.fd does not exist. Put" in output


@pytest.mark.parametrize(("program", "words"), [("zfs", "list"), ("dladm", "show-link")])
def test_what_cannot_be_looked_for_is_not_taken_for_missing(host, program, words):
    host.world.fail(program, words, f"{program}: the disk is on fire")

    assert f"{program}: the disk is on fire" in host.refusal(**WANTED)
    assert host.made() == NOTHING


def test_what_could_not_be_found_out_is_said(host):
    host.world.fail("rsrvrctl", "-q", "Could not open vmmctl: Device busy")

    number, output = host.role()

    assert number > 0
    assert "Could not open vmmctl: Device busy" in output


def test_failure_of_a_program_fails_the_role_and_the_next_run_goes_on(host):
    host.world.fail("zfs", "create rpool/vms", "cannot create 'rpool/vms': out of space")

    assert "cannot create 'rpool/vms': out of space" in host.refusal(**WANTED)
    assert host.changes(**WANTED) > 0
    assert host.made() == ALL


def test_suboptions_are_those_of_the_modules():
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())
    documented = specs["argument_specs"]["main"]["options"]["hypervisor_host_propolis"]["options"]

    assert {
        name: {key: option[key] for key in ("type", "choices") if key in option}
        for name, option in documented.items()
    } == _arguments.VM["propolis"]["options"]
