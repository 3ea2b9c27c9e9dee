# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that come back with their host: the unit, when it is made and removed, and what it runs."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils import _arguments, _manage
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._autostart import (
    HostUnits,
    runner_path,
    write_runner,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.autostart import (
    Commands,
    unit_name,
    unit_text,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    HostError,
    NoSystemd,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.vm import Vm
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.systemd import Systemd
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._module import Task
from ansible_collections.cloudnebula.hypervisor.tests.unit import fake_systemd
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle

pytestmark = pytest.mark.real_host  # the stand-in for systemctl is a program

UNIT_DIR = "etc/systemd/system"


class Host:
    """A host with the tool that stands for systemd, and the module ``vm`` on it."""

    def __init__(self, folder, monkeypatch, uid=0):
        self.root = folder / "root"
        self.store = Store(str(folder / "data"))
        monkeypatch.setenv("PATH", fake_systemd.install(folder / "bin", self.root))
        self.systemd = Systemd(str(self.root), uid)
        self.units = HostUnits(self.store, self.systemd)
        monkeypatch.setattr(_manage, "HostUnits", lambda dummy: self.units)

    def vm(self, name="web1", check=False, **options):
        defaults = {key: item.get("default") for key, item in _arguments.VM.items()}
        given = {"name": name, "data_dir": self.store.data_dir, "backend": "noop", **options}
        self.task = Task({**defaults, **given}, check)
        return _manage.manage_vm(self.task)

    def handle(self, name="web1"):
        return self.store.load(name)

    @property
    def unit(self):
        return self.handle().autostart_unit

    def text(self):
        return (self.root / UNIT_DIR / self.unit).read_text()

    def calls(self):
        """Return the commands given to systemd since the last look."""
        found = fake_systemd.calls(self.root)
        (self.root / "calls").unlink(missing_ok=True)
        return [line.replace(f" {self.handle().autostart_unit}", " UNIT") for line in found]


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


def run_unit(host, key):
    """Run a command of the unit as systemd would, with hardly any environment."""
    words = fake_systemd.command(host.text(), key)
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        words, check=False, capture_output=True, text=True, env=environment, timeout=60, cwd="/"
    )


def test_it_is_made_once_and_removed_once(host):
    first = host.vm(autostart=True)
    made = host.calls()
    second = host.vm(autostart=True)
    third = host.vm()

    assert first["actions"] == ["prepare", "start", "autostart"]
    assert made == ["systemctl daemon-reload", "systemctl enable UNIT", "systemctl start UNIT"]
    assert [second["changed"], third["changed"], host.calls()] == [False, False, []]
    assert fake_systemd.is_active(host.root, host.unit), "it is stopped with its host"
    assert host.handle().state is VmState.RUNNING

    unit = host.unit
    off = host.vm(autostart=False)

    assert off["actions"] == ["prepare", "autostart"]
    assert not fake_systemd.is_active(host.root, unit)
    assert list((host.root / UNIT_DIR).rglob("cloudnebula*")) == []
    assert host.handle().state is VmState.RUNNING, "nobody stopped it"
    assert not host.vm(autostart=False)["changed"]
    assert not host.vm()["changed"]


@pytest.mark.parametrize("state", ["started", "stopped", "present", "suspended"])
def test_check_mode_says_what_a_run_does(host, state):
    host.vm(state=state)
    for options in ({"autostart": True}, {}, {"autostart": False}):
        expected = host.vm(state=state, check=True, **options)
        result = host.vm(state=state, **options)

        assert (expected["actions"], expected["diff"]) == (result["actions"], result["diff"])
        again = host.vm(state=state, check=True, **options)
        assert (again["changed"], again["diff"]["before"]) == (False, result["diff"]["after"])


def test_a_machine_that_does_not_run_is_left_alone(host):
    host.vm(state="stopped", autostart=True)

    assert host.calls() == ["systemctl daemon-reload", "systemctl enable UNIT"]
    assert host.handle().state is VmState.PREPARED


def test_a_start_by_a_task_brings_the_unit_up(host):
    host.vm(state="stopped", autostart=True)
    host.calls()

    host.vm(state="started")

    assert host.calls() == ["systemctl start UNIT"]
    assert fake_systemd.is_active(host.root, host.unit)


def test_removing_the_machine_removes_the_unit(host):
    host.vm(autostart=True)
    unit = host.unit

    result = host.vm(state="absent")

    assert result["actions"] == ["autostart", "stop", "destroy"]
    assert not fake_systemd.is_active(host.root, unit)
    assert list((host.root / UNIT_DIR).rglob("cloudnebula*")) == []


@pytest.mark.parametrize("damage", ["removed", "edited", "disabled", "no runner"])
def test_what_somebody_broke_is_mended(host, damage):
    host.vm(autostart=True)
    path = host.root / UNIT_DIR / host.unit
    before = path.read_text()
    if damage == "removed":
        path.unlink()
    elif damage == "edited":
        path.write_text(before.replace("process", "none"))
    elif damage == "disabled":
        (path.parent / "multi-user.target.wants" / host.unit).unlink()
    else:
        os.unlink(runner_path(host.store))

    assert host.vm(check=True)["actions"] == ["autostart"]
    assert host.vm()["actions"] == ["autostart"]

    assert path.read_text() == before
    assert host.systemd.is_enabled(host.unit)
    assert not host.vm()["changed"]


def test_another_patience_is_taken_from_tasks_that_speak_of_autostart(host):
    host.vm(autostart=True, stop_timeout=100)
    assert "TimeoutStopSec=160" in host.text()

    assert not host.vm(stop_timeout=10)["changed"]
    assert host.vm(autostart=True, stop_timeout=10)["actions"] == ["autostart"]
    assert "TimeoutStopSec=70" in host.text()


def test_another_bridge_is_another_order(host):
    host.vm(autostart=True)
    network = {"type": "bridge", "bridge": "br7", "connected": True}

    assert "autostart" in host.vm(networks=[network])["actions"]

    assert "cloudnebula-network@br7.service" in host.text()


FILES = {
    "CD-ROM": {"cdrom": "/srv/tools.iso"},
    "disk": {"disks": [{"name": "data", "size": "1GiB", "image": "/srv/tools.iso"}]},
    "kernel": {"kernel": "/srv/tools.iso", "kernel_cmdline": "quiet"},
    "initrd": {"kernel": "/boot/vmlinuz", "initrd": "/srv/tools.iso"},
    "folder": {"shared_folders": [{"name": "tools", "path": "/srv/tools.iso"}]},
}
WITHOUT = {
    "CD-ROM": {"cdrom": ""},
    "disk": {"disks": [], "unlisted_disks": "detach", "delete_detached_disks": True},
    "kernel": {"kernel": "", "kernel_cmdline": ""},
    "initrd": {"kernel": "", "initrd": ""},
    "folder": {"shared_folders": []},
}


@pytest.mark.parametrize("kind", FILES)
def test_the_unit_waits_for_the_file_systems_of_what_the_machine_uses(host, kind):
    host.vm(state="stopped", autostart=True)
    before = host.text()

    for options in (FILES[kind], WITHOUT[kind]):
        predicted = host.vm(state="stopped", check=True, **options)["actions"]
        assert host.vm(state="stopped", **options)["actions"] == predicted
        assert predicted[-1] == "autostart"
        assert ('"/srv/tools.iso"' in host.text()) == (options is FILES[kind])
        assert not host.vm(state="stopped", **options)["changed"]

    assert host.text() == before


def test_a_disk_that_is_kept_without_being_attached_is_not_waited_for(host):
    host.vm(state="stopped", autostart=True, **FILES["disk"])

    host.vm(state="stopped", disks=[], unlisted_disks="detach")

    assert "data" in host.handle().disks
    assert '"/srv/tools.iso"' not in host.text()
    assert not host.vm(state="stopped")["changed"]


def test_a_unit_of_somebody_else_is_not_touched(host):
    unit = unit_name("web1", host.store.data_dir, "/elsewhere")
    path = host.root / UNIT_DIR / unit
    path.parent.mkdir(parents=True)
    path.write_text("[Service]\nExecStart=/bin/true\n")

    with pytest.raises(HostError, match="was not made by this collection"):
        host.vm(autostart=True)

    assert path.read_text() == "[Service]\nExecStart=/bin/true\n"


def test_without_systemd_nothing_is_touched(host):
    shutil.rmtree(host.root / "run")

    with pytest.raises(NoSystemd) as caught:
        host.vm(autostart=True)

    assert caught.value.code == "vm_manager.host.no_systemd"
    assert host.handle() is None
    predicted = host.vm(autostart=True, check=True)
    assert predicted["actions"] == ["prepare", "start", "autostart"]
    assert "systemd does not run" in host.task.warnings[0]
    assert host.vm(autostart=False)["actions"] == ["prepare", "start"]


def test_it_can_be_removed_where_systemd_runs_no_longer(host):
    host.vm(autostart=True)
    shutil.rmtree(host.root / "run")

    host.vm(state="absent")

    assert list((host.root / UNIT_DIR).rglob("cloudnebula*")) == []


def test_a_user_needs_lingering_and_an_instance(tmp_path, monkeypatch):
    uid = os.geteuid() or 12345
    monkeypatch.setenv("HOME", str(tmp_path))
    host = Host(tmp_path, monkeypatch, uid)
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)

    with pytest.raises(NoSystemd) as caught:
        host.vm(autostart=True)
    assert caught.value.help == f"Have root run once: loginctl enable-linger {name}"

    linger = host.root / "var/lib/systemd/linger" / name
    linger.parent.mkdir(parents=True)
    linger.touch()
    with pytest.raises(NoSystemd) as caught:
        host.vm(autostart=True)
    assert caught.value.help == f"Have root run: systemctl start user@{uid}.service"
    assert host.handle() is None

    (host.root / f"run/user/{uid}/systemd").mkdir(parents=True)
    host.vm(autostart=True)

    assert host.calls()[1:] == ["systemctl --user enable UNIT", "systemctl --user start UNIT"]
    folder = tmp_path / ".config/systemd/user"
    assert "WantedBy=default.target" in (folder / host.unit).read_text()
    host.vm(state="absent")
    assert list(folder.rglob("cloudnebula*")) == []


def test_the_unit_starts_and_stops_the_machine(host):
    host.vm(state="stopped", autostart=True, stop_timeout=7)

    started = run_unit(host, "ExecStart")
    assert (started.returncode, started.stdout, started.stderr) == (0, "web1: start\n", "")
    assert host.handle().state is VmState.RUNNING
    assert run_unit(host, "ExecStart").stdout == "web1: nothing to do\n"

    stopped = run_unit(host, "ExecStop")
    assert (stopped.returncode, stopped.stdout) == (0, "web1: stop\n")
    assert (host.handle().state, host.handle().stopped_by) == (VmState.STOPPED, "guest")


def test_the_unit_of_a_machine_that_is_gone_fails_and_says_so(host):
    host.vm(state="stopped", autostart=True)
    words = fake_systemd.command(host.text(), "ExecStart")
    shutil.rmtree(host.store.work_dir("web1"))

    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "There is no complete VM 'web1'" in done.stderr


def test_the_archive_holds_the_same_whether_it_is_made_from_files_or_from_an_archive(
    host, tmp_path
):
    """A task's modules lie in an archive; what they pack must be complete, too."""
    write_runner(host.store)
    first = Path(runner_path(host.store)).read_bytes()
    package = _manage.__name__.rpartition(".")[0]
    other = Store(str(tmp_path / "other"))
    code = (
        f"import sys; sys.path.insert(0, {os.path.realpath(runner_path(host.store))!r});"
        f"from {package}._autostart import write_runner, Store; write_runner(Store({other.data_dir!r}))"
    )

    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60)

    assert Path(runner_path(other)).read_bytes() == first
    assert os.stat(os.path.realpath(runner_path(other))).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(runner_path(other))).st_mode & 0o777 == 0o700


def test_an_older_archive_is_replaced_by_the_next_change(host):
    host.vm(autostart=True)
    path = runner_path(host.store)
    current = os.path.realpath(path)
    older = os.path.join(os.path.dirname(path), "0123456789abcdef.pyz")
    shutil.copy(current, older)
    os.utime(older, (0, 0))
    os.unlink(path)
    os.symlink(os.path.basename(older), path)

    host.vm(description="changed")

    assert os.path.realpath(path) == current
    assert not os.path.exists(older)


def test_modules_in_the_archive_are_those_of_this_release(host):
    write_runner(host.store)
    with zipfile.ZipFile(runner_path(host.store)) as archive:
        names = archive.namelist()

    assert "__main__.py" in names
    assert [name for name in names if name.endswith("_qemu/log_keeper.py")] != []


@pytest.mark.parametrize(
    ("data_dir", "expected"),
    [
        ("/home/me/.local/share/vmctl", "cloudnebula-vm@web1.service"),
        ("/srv/vms", "cloudnebula-vm@web1:HASH.service"),
    ],
)
def test_units_have_names_of_their_own(data_dir, expected):
    name = unit_name("web1", data_dir, "/home/me/.local/share/vmctl")

    assert re.sub(r":[0-9a-f]{8}\.", ":HASH.", name) == expected
    assert name != unit_name("web1", "/srv/other", "/home/me/.local/share/vmctl")


def test_a_renamed_machine_has_the_unit_of_its_new_name(host):
    host.vm(state="stopped", autostart=True, stop_timeout=9)
    old = host.unit

    predicted = host.vm(state="stopped", new_name="db1", check=True)
    result = host.vm(state="stopped", new_name="db1")

    assert predicted["actions"] == result["actions"] == ["rename", "autostart"]
    handle = host.handle("db1")
    assert (handle.autostart_unit, handle.autostart_patience) == (old.replace("web1", "db1"), 9)
    units = [path.name for path in (host.root / UNIT_DIR).glob("*.service")]
    assert units == [handle.autostart_unit]
    assert not host.systemd.is_enabled(old)
    assert not host.vm(state="stopped", new_name="db1")["changed"]


def test_the_unit_of_a_machine_whose_renaming_was_cut_off_is_mended(host):
    host.vm(state="stopped", autostart=True)
    host.store.rename(host.handle(), "db1")

    assert host.vm("db1", state="stopped")["actions"] == ["autostart"]

    units = [path.name for path in (host.root / UNIT_DIR).glob("*.service")]
    assert units == [host.handle("db1").autostart_unit]
    assert not host.vm("db1", state="stopped")["changed"]


def test_a_machine_that_a_task_starts_is_put_into_the_group_of_its_unit(host):
    """With the programs that serve it, which work in its folder: they must not end before it."""
    host.vm(autostart=True)
    host.calls()
    handle = host.handle()
    with subprocess.Popen(["sleep", "60"], cwd=handle.work_dir) as companion:
        seen = Vm(handle, VmState.RUNNING, pid=4711)

        assert host.units.adopt(seen) is None
        companion.kill()

    call = "org.freedesktop.systemd1.Manager AttachProcessesToUnit ssau"
    assert f"{call} UNIT  2 4711 {companion.pid}" in host.calls()[-1]


def test_a_machine_that_cannot_be_put_there_is_a_warning(host):
    host.vm(autostart=True)
    (host.root.parent / "bin" / "busctl").write_text("#!/bin/sh\necho no >&2; exit 1\n")

    said = host.units.adopt(Vm(host.handle(), VmState.RUNNING, pid=4711))

    assert "may not be asked to power off" in said


@pytest.mark.parametrize(
    ("path", "as_word", "as_path"),
    [
        ("/a b", '"/a b"', '"/a b"'),
        ("/a%n", '"/a%%n"', '"/a%%n"'),
        ("/a$HOME", '"/a$$HOME"', '"/a$HOME"'),
        ('/a"b', '"/a\\"b"', '"/a\\"b"'),
        ("/a\\b", '"/a\\\\b"', '"/a\\\\b"'),
    ],
)
def test_systemd_reads_paths_as_they_are(path, as_word, as_path):
    """By systemd.syntax(7) and systemd.service(5): only command lines know variables."""
    text = unit_text(minimal_handle(), path, 30, Commands((path,), (path, "9")), False)

    assert f"ExecStart={as_word}\n" in text
    assert f'ExecStop={as_word} "9"\n' in text
    assert f"RequiresMountsFor={as_path}" in text
