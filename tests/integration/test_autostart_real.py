# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd runs at boot and at shutdown, run by hand, with real QEMU and a real guest."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._autostart import (
    runner_path,
    write_runner,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.autostart import (
    Commands,
    unit_text,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import Network
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle

TRICKY = "/srv/a b%n$HOME\"c'd\\e"


def run(hypervisor, *words):
    """Run the archive as the unit does, with hardly any environment."""
    store = Store(str(hypervisor.data_dir))
    verb, name, *rest = words
    done = subprocess.run(
        [sys.executable, "-I", runner_path(store), verb, name, store.data_dir, *rest],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    return done.returncode, done.stdout, done.stderr


def test_guest_is_started_at_boot_and_asked_to_power_off(guests):
    guests.vm(state="stopped")
    write_runner(Store(str(guests.data_dir)))

    assert run(guests, "start", "vm1") == (0, "vm1: start\n", "")
    by_boot = guests.info("vm1")[0]
    result = guests.vm(state="started", wait_for="ssh")
    assert (result["changed"], result["vm"]["pid"]) == (False, by_boot["pid"])
    assert run(guests, "start", "vm1") == (0, "vm1: nothing to do\n", "")
    assert run(guests, "stop", "vm1", "60") == (0, "vm1: stop\n", "")

    assert guests.info("vm1")[0]["stopped_by"] == "guest"
    assert guests.processes() == {}


def test_guest_that_does_not_listen_is_ended_in_time(idle):
    idle.vm()
    write_runner(Store(str(idle.data_dir)))

    assert run(idle, "stop", "vm1", "1")[0] == 0
    assert idle.info("vm1")[0]["stopped_by"] in ("quit", "sigterm")
    assert idle.processes() == {}


def test_machine_that_cannot_start_fails_the_unit(idle, tmp_path):
    idle.vm(state="stopped")
    write_runner(Store(str(idle.data_dir)))
    image = tmp_path / "halt.raw"
    image.rename(tmp_path / "away")

    status, said, error = run(idle, "start", "vm1")

    (tmp_path / "away").rename(image)
    assert (status, said) == (1, "")
    assert str(image) in error
    assert "Traceback" not in error


def verify(path, user=False):
    """Return what systemd says of a unit."""
    done = subprocess.run(
        ["systemd-analyze", "--user" if user else "--system", "--man=no", "verify", str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "XDG_RUNTIME_DIR": str(path.parent)},
    )
    return done.returncode, [line for line in done.stderr.splitlines() if path.name in line]


def write_unit(folder, data_dir, user):
    """Write the unit of a machine whose files lie in places of all kinds; return its path."""
    vm = minimal_handle().evolve(base_image=f"{data_dir}/../base.qcow2")
    vm = vm.evolve(spec=replace(vm.spec, networks=(Network("bridge", bridge="br0"),)))
    words = (sys.executable, "-I", data_dir)
    path = folder / "cloudnebula-vm@web1.service"
    path.write_text(unit_text(vm, data_dir, 30, Commands(words, (*words, "9")), user))
    return path


@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
@pytest.mark.parametrize("data_dir", ["/srv/vms", TRICKY], ids=["plain", "tricky"])
def test_systemd_understands_every_line(tmp_path, user, data_dir):
    assert verify(write_unit(tmp_path, data_dir, user), user) == (0, [])


def test_a_wrong_line_would_be_seen(tmp_path):
    path = write_unit(tmp_path, "/srv/vms", False)
    path.write_text(path.read_text().replace("RemainAfterExit=", "RemainsAfterExit="))

    assert "RemainsAfterExit" in "".join(verify(path)[1])
