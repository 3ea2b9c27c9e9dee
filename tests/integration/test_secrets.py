# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No secret on a command line, in a result, in a diff, in a log, or in a file that others can read."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import pytest
from conftest import LOCALHOST, ansible, command_line

SECRETS = {
    "user_data": {
        "password": "hush-user-data",
        "chpasswd": {"list": ["root:hush-list"]},
        "packages": ["1"],
    },
    "meta_data": {"token": "hush-meta-data"},
    "network_config": {"version": 2, "wifis": {"w": {"password": "hush-network"}}},
}
WORDS = re.compile(r"hush-(user-data|list|meta-data|network)")


def run_verbosely(idle, *extra, **options):
    """Run the module through Ansible with all that it can say."""
    arguments = {"name": "vm1", "data_dir": str(idle.data_dir), **idle.defaults, **options}
    play = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "tasks": [{"cloudnebula.hypervisor.vm": arguments}],
        }
    ]
    playbook = idle.data_dir.parent / "play.json"
    playbook.write_text(json.dumps(play))
    done = ansible(
        *("ansible-playbook", "-i", str(LOCALHOST), "-vvvv", "--diff", *extra, str(playbook)),
        check=False,
    )
    playbook.unlink()
    return done.stdout + done.stderr


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["for real", "check mode"])
def test_nothing_is_said_about_secrets(idle, check):
    said = run_verbosely(idle, *check, cloud_init={"hostname": "web", **SECRETS})

    assert "changed=1" in said
    assert re.search(r'hostname"?: "?web', said), "what is no secret is shown"
    assert not WORDS.search(said)


TEXTS = {
    "user_data": "#cloud-config\npassword: hush-user-data\nruncmd:\n  - 'echo \"hush-list\"'\n",
    "meta_data": "instance-id: web\ntoken: |\n  hush-meta-data\n  'hush-list'\n",
    "network_config": "version: 2\nwifis:\n  w:\n    password: 'hush-network'\n",
}


@pytest.mark.parametrize("field", TEXTS)
def test_nothing_is_said_about_text_of_several_lines(idle, field):
    said = run_verbosely(idle, "--check", cloud_init={field: TEXTS[field]})

    assert "changed=1" in said
    assert not WORDS.search(said)


@pytest.mark.parametrize("options", [{}, {"colour": "red"}], ids=["by us", "by Ansible"])
def test_private_key_that_was_pasted_by_mistake_is_not_repeated(idle, options):
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nhush-user-data\n-----END OPENSSH PRIVATE KEY-----"

    said = run_verbosely(idle, cloud_init={"ssh_authorized_keys": [key]}, **options)

    assert "failed=1" in said
    assert not WORDS.search(said)


@pytest.mark.parametrize(
    "options", [{"vcpus": 0}, {"networks": [], "wait_for": "ssh"}, {"cpu": "abacus"}], ids=str
)
def test_nothing_is_said_when_the_task_fails(idle, options):
    said = run_verbosely(idle, cloud_init=SECRETS, **options)

    assert "failed=1" in said
    assert not WORDS.search(said)


def test_words_of_user_data_do_not_blot_out_the_result(idle):
    """Hiding by value would turn every 1, and the host's name, into stars."""
    cloud_init = {"user_data": {"fqdn": "vm1", "packages": ["1", "started"]}}

    vm = idle.vm(cloud_init=cloud_init, vcpus=1)["vm"]

    assert (vm["name"], vm["vcpus"]) == ("vm1", 1)
    assert "*" not in json.dumps(vm)


def test_files_and_processes(idle):
    old = os.umask(0)
    try:
        vm = idle.vm(cloud_init=SECRETS, vnc=True)["vm"]
    finally:
        os.umask(old)
    commands = [command_line(pid) for pid in idle.processes()]

    assert not [command for command in commands if WORDS.search(command)]
    password = Path(vm["vnc"]["password_file"]).read_text()
    assert not [command for command in commands if password in command]
    for folder in (idle.data_dir, idle.folder().parent, idle.folder()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in idle.folder().iterdir():
        if path.suffix != ".pub":
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert not WORDS.search(json.dumps(idle.info()))


def test_processes_get_nothing_of_the_tasks_environment(idle):
    idle.environment |= {"VAULT_TOKEN": "hush-user-data", "LC_ALL": "C.UTF-8"}
    vm = idle.vm()["vm"]

    processes = idle.processes()

    assert len(processes) == 2, "QEMU and the log keeper"
    for pid in processes:
        variables = Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
        assert sorted(variables) == ["LC_ALL=C", f"PATH={idle.environment['PATH']}"]
    limits = Path(f"/proc/{vm['pid']}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
    assert "dump-guest-core=off" in processes[vm["pid"]]


def key_files(folder):
    """Return the files of key pairs below a folder in which files come and go; ``os.walk`` passes over what is gone."""
    return [
        Path(place, name)
        for place, dummy_folders, names in os.walk(folder)
        for name in names
        if "id_ed25519" in name
    ]


def test_private_key_is_never_readable_by_others(idle):
    """Not even for a moment: the folder is closed before the key is made."""
    old = os.umask(0)
    try:
        task = idle.begin("vm", name="vm1", state="present", **idle.defaults)
        seen = set()
        while task.poll() is None:
            for path in key_files(idle.data_dir):
                try:
                    seen.add(
                        (
                            stat.S_IMODE(path.stat().st_mode) & 0o077,
                            stat.S_IMODE(path.parent.stat().st_mode),
                        )
                    )
                except FileNotFoundError:
                    continue
    finally:
        os.umask(old)
    idle.end(task)
    assert seen
    assert {folder & 0o077 for _mode, folder in seen} == {0}
