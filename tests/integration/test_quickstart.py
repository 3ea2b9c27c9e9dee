# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The quickstart playbook, which ``make demo`` runs: from a plain host to a command in a guest, and away again."""

from __future__ import annotations

import re
import shutil

import pytest
from conftest import Hypervisor, ansible


@pytest.fixture
def home(tmp_path, smoke_image):
    """A home folder of its own, with the guest image built already."""
    images = tmp_path / "share" / "vmctl" / "images"
    images.mkdir(parents=True)
    for path in smoke_image.parent.glob(f"{smoke_image.stem}.*"):
        shutil.copy2(path, images)
    return tmp_path


def quickstart(home, *arguments):
    """Run the playbook by its name, as a user would."""
    environment = {"XDG_DATA_HOME": str(home / "share"), "HOME": str(home)}
    done = ansible(
        "ansible-playbook", "cloudnebula.hypervisor.quickstart", *arguments, env=environment
    )
    recap = re.search(r"changed=(\d+) .*failed=(\d+)", done.stdout)
    return done.stdout + done.stderr, int(recap.group(1))


def test_quickstart(home):
    """Guest up, its uptime fetched through the inventory; the second run changes nothing; then nothing is left."""
    subject = Hypervisor(home / "share" / "vmctl")

    first, changed = quickstart(home)

    assert changed > 0
    assert re.search(r"Fetched over SSH through the inventory plugin:\n\s+[\d:]+ up ", first), first
    assert "guest answers SSH" in first
    pid = subject.info("demo")[0]["pid"]

    again, changed = quickstart(home)

    assert changed == 0, again
    assert " up " in again
    assert subject.info("demo")[0]["pid"] == pid

    quickstart(home, "-e", "quickstart_state=absent")

    assert subject.processes() == {}
    assert not subject.data_dir.exists()
    again, changed = quickstart(home, "-e", "quickstart_state=absent")
    assert (changed, "WARNING" in again) == (0, False), again


def test_quickstart_in_check_mode_touches_nothing(home):
    subject = Hypervisor(home / "share" / "vmctl")
    before = subject.files()

    quickstart(home, "--check", "--diff")

    assert subject.files() == before
    assert subject.processes() == {}


def test_what_the_quickstart_did_not_make_is_kept(home, smoke_image):
    data_dir = home / "share" / "vmctl"
    mine = data_dir / "images" / "smoke-mine.qcow2"
    mine.write_text("an image of my own")
    folders = [data_dir / "images" / "later", data_dir / "plans" / "empty"]
    for folder in folders:
        folder.mkdir(parents=True)

    quickstart(home, "-e", "quickstart_state=absent")

    assert mine.read_text() == "an image of my own"
    assert all(folder.is_dir() for folder in folders)
    assert not (data_dir / "images" / smoke_image.name).exists()
    assert quickstart(home, "-e", "quickstart_state=absent")[1] == 0


def test_images_in_use_are_kept(home, smoke_image):
    subject = Hypervisor(home / "share" / "vmctl")
    image = subject.data_dir / "images" / smoke_image.name
    subject.vm("mine", image=str(image), state="present")

    quickstart(home, "-e", "quickstart_state=absent")

    assert image.exists()
    assert subject.state("mine") == "prepared"
    subject.vm("mine", state="absent")
