# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests with real QEMU share: the module as a process, playbooks, a guest image, and a clean host afterwards."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lan import Lan

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = ROOT / ".venv" / "collections"
LOCALHOST = ROOT / "tests" / "localhost.yml"
CACHE = ROOT / "tests" / "output"
MODULES = "ansible_collections.cloudnebula.hypervisor.plugins.modules"
BIN = Path(sys.executable).parent

# SSH connections that Ansible keeps open are known by host and port, which are different machines for each worker. The
# path of a socket has at most 107 bytes.
CONTROL = tempfile.TemporaryDirectory(prefix="cp")

ENVIRONMENT = {
    **os.environ,
    "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
    "ANSIBLE_CONFIG": str(ROOT / "tests" / "ansible.cfg"),
    "ANSIBLE_SSH_CONTROL_PATH_DIR": CONTROL.name,
    "PYTHONPATH": str(COLLECTIONS),
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
}

# A disk that halts the processor (hlt; jmp to it): a machine with it is ready in a moment.
HALT = (bytes([0xF4, 0xEB, 0xFD]) + bytes(507) + b"\x55\xaa").ljust(1024 * 1024, b"\0")


@dataclass
class Hypervisor:
    """A data folder of its own, and the modules as Ansible would run them, with a little less around them."""

    data_dir: Path
    defaults: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))
    prefix: list[str] = field(default_factory=list)  # a command that runs another, elsewhere
    python: str = sys.executable

    def begin(self, module: str, **options: Any) -> subprocess.Popen:
        """Start a module as a process and return at once."""
        check, diff = options.pop("check", False), options.pop("diff", True)
        arguments = {"data_dir": str(self.data_dir), **options}
        arguments |= {"_ansible_check_mode": check, "_ansible_diff": diff}
        task = subprocess.Popen(
            [*self.prefix, self.python, "-m", f"{MODULES}.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            text=True,
        )
        task.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        task.stdin.close()
        task.stdin = None
        return task

    @staticmethod
    def end(task: subprocess.Popen, timeout: float = 120) -> dict[str, Any]:
        """Return the result of a module that was started."""
        stdout, stderr = task.communicate(timeout=timeout)
        assert stdout, stderr
        result = json.loads(stdout)
        # Newer releases of Ansible wrap a warning in a structure that older ones do not know.
        result["warnings"] = [
            w if isinstance(w, str) else w["event"]["msg"] for w in result.get("warnings", [])
        ]
        return result

    def run(self, module: str, **options: Any) -> dict[str, Any]:
        """Run a module to its end, whatever its result."""
        return self.end(self.begin(module, **options))

    def vm(self, name: str = "vm1", **options: Any) -> dict[str, Any]:
        """Run the module ``vm`` and expect success; the defaults are for a machine that is made."""
        makes_one = options.get("state") != "absent" and not self.record(name).exists()
        defaults = self.defaults if makes_one else {}
        result = self.run("vm", **{**defaults, "name": name, **options})
        assert "failed" not in result, result
        return result

    def refuse(self, name: str = "vm1", **options: Any) -> dict[str, Any]:
        """Run the module ``vm`` and expect it to fail with an error of ours."""
        result = self.run("vm", **{"name": name, **options})
        assert result.get("failed"), result
        assert "Traceback" not in json.dumps(result)
        assert result["error"]["code"].startswith("vm_manager."), result
        return result

    def edit(self, name: str = "vm1", **fields: Any) -> None:
        """Change fields of a machine's record behind the collection's back."""
        record = json.loads(self.record(name).read_text())
        self.record(name).write_text(json.dumps({**record, **fields}))

    def info(self, *names: str) -> list[dict[str, Any]]:
        """Return what ``vm_info`` shows."""
        result = self.run("vm_info", **({"name": list(names)} if names else {}))
        assert "failed" not in result, result
        return result["vms"]

    def state(self, name: str = "vm1") -> str | None:
        """Return a machine's state, or ``None`` if there is no such machine."""
        return next((vm["state"] for vm in self.info(name)), None)

    def folder(self, name: str = "vm1") -> Path:
        """Return a machine's folder."""
        return self.data_dir / "vms" / name

    def record(self, name: str = "vm1") -> Path:
        """Return the path of a machine's record."""
        return self.folder(name) / "vm.json"

    def files(self) -> list[str]:
        """Return all files below the data folder; the empty folders that hold machines do not count."""
        return sorted(
            str(path.relative_to(self.data_dir))
            for path in self.data_dir.rglob("*")
            if not path.is_dir()
        )

    def processes(self) -> dict[int, str]:
        """Return the processes whose command line names the data folder."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                command = command_line(int(entry.name))
                if f"{self.data_dir}/" in command and MODULES not in command:
                    found[int(entry.name)] = command
        return found


def command_line(pid: int) -> str:
    """Return the command line of a process; nothing for one that has ended."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def disk_size(path: str | Path) -> int:
    """Return the size in bytes that a guest sees, as qemu-img tells."""
    told = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", path], check=True, stdout=subprocess.PIPE
    )
    return json.loads(told.stdout)["virtual-size"]


def wait_until(condition, seconds=30):
    """Wait for what another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ansible(
    *arguments: str,
    check: bool = True,
    env: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> subprocess.CompletedProcess:
    """Run one of Ansible's programs with the collection of this tree, by way of another command if there is a prefix."""
    program = str(BIN / arguments[0])
    done = subprocess.run(
        [*prefix, program, *arguments[1:]],
        check=False,
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **(env or {})},
        stdin=subprocess.DEVNULL,
        timeout=400,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def in_hosts_network() -> tuple[str, ...]:
    """Return the words before a command that must reach other hosts: tests have a network of their own if they can."""
    way_back = os.environ.get("TESTS_HOST_NETWORK")  # see tests/conftest.py
    return ("nsenter", f"--net={way_back}") if way_back else ()


def play(
    path: Path, *arguments: str, prefix: Sequence[str] = (), **variables: Any
) -> subprocess.CompletedProcess:
    """Run a playbook on this host with extra variables."""
    words = ("-i", str(LOCALHOST), str(path), "-e", json.dumps(variables), *arguments)
    return ansible("ansible-playbook", *words, prefix=prefix)


@pytest.fixture
def hypervisor(tmp_path):
    """A hypervisor with no machines; all that a test leaves is removed, by force if need be."""
    subject = Hypervisor(tmp_path / "data")
    yield subject
    clean_up(subject)


def clean_up(subject: Hypervisor) -> None:
    """Remove all machines; what still runs then is ended, and counts as a failure of the test."""
    results = [
        subject.run("vm", name=vm["name"], state="absent", force=True) for vm in subject.info()
    ]
    left = subject.processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not [result for result in results if result.get("failed")]
    assert not {pid: command for pid, command in left.items() if "qemu-system" in command}


@pytest.fixture
def idle(hypervisor, tmp_path):
    """A hypervisor whose machines boot nothing: a disk that halts the processor, ready in a moment."""
    image = tmp_path / "halt.raw"
    image.write_bytes(HALT)
    before = sha256(image)
    hypervisor.defaults = {"image": str(image), "memory": "64"}
    yield hypervisor
    assert sha256(image) == before


@pytest.fixture(scope="session")
def smoke_image(tmp_path_factory):
    """The small guest that the role guest_image builds; kept between runs of the tests."""
    folder = CACHE / "images"
    folder.mkdir(parents=True, exist_ok=True)
    told = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        told = told.parent  # the workers of this run share it
    with open(told / "smoke_image.path", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the first worker has it built, the others wait and read
        file.seek(0)
        path = Path(file.read() or build_smoke_image(folder))
        file.truncate(0)
        file.write(str(path))
    before = sha256(path)
    yield path
    assert sha256(path) == before, "a test wrote to the base image"


def build_smoke_image(folder: Path) -> str:
    """Run the role, which fetches packages if there is something to build; return the path of the image."""
    story = ROOT / "tests" / "integration" / "stories" / "smoke_image.yml"
    done = play(story, prefix=in_hosts_network(), folder=str(folder))
    return re.search(r"smoke_image=(\S+?)\"?$", done.stdout, re.MULTILINE).group(1)


@pytest.fixture
def guests(hypervisor, smoke_image):
    """A hypervisor whose machines are smoke guests."""
    hypervisor.defaults = {"image": str(smoke_image), "memory": "192"}
    return hypervisor


@pytest.fixture
def lan(tmp_path):
    """A network of its own, for root only."""
    with Lan(tmp_path) as there:
        yield there


@pytest.fixture
def on_lan(lan, tmp_path, smoke_image):
    """A hypervisor in that network, whose machines are smoke guests; none of their interfaces is left."""
    subject = Hypervisor(tmp_path / "data", prefix=lan.prefix)
    subject.defaults = {"image": str(smoke_image), "memory": "192"}
    yield subject
    clean_up(subject)
    assert lan.ports() == []


def in_guest(vm: dict[str, Any], command: str, prefix: Sequence[str] = ()) -> str:
    """Run a command in a guest over SSH and return what it printed."""
    ssh = vm["ssh"]
    known_hosts = f"UserKnownHostsFile={vm['paths']['work_dir']}/known_hosts"
    options = [
        "-o",
        known_hosts,
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-o",
        "BatchMode=yes",
        "-F",
        "none",
    ]
    address = [
        *("-p", str(ssh["port"])),
        *("-i", ssh["private_key_path"]),
        f"{ssh['user']}@{ssh['host']}",
    ]
    done = subprocess.run(
        [*prefix, shutil.which("ssh"), *options, *address, command],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
