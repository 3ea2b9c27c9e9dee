# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that are reached by SSH: an sshd of our own on this machine, in a network of its own if root runs the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
# Above one, SHLVL keeps bash from reading the start-up files of this machine's user for each command.
CONFIG = """\
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
MaxSessions 100
MaxStartups 100
SetEnv SHLVL=1
"""


def missing() -> str | None:
    """Return why there can be no second host on this machine, or ``None``."""
    if SSHD is None or shutil.which("ssh") is None:
        return "needs sshd and ssh"
    return None


def missing_network() -> str | None:
    """Return why there can be no second host with a network of its own, or ``None``."""
    if os.geteuid() != 0:
        return "needs root, for a network namespace"
    if shutil.which("ip") is None:
        return "needs ip"
    probe = f"probe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True).returncode:
        return "no network namespace can be made here"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return missing()


@dataclass
class SshHost:
    """An sshd with keys of its own. ``namespace`` is the network in which it runs; without one, that of this machine."""

    folder: Path
    address: str = "127.0.0.1"
    port: int = 22
    namespace: str | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        for name in ("host_key", "user_key"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name]
            subprocess.run(make, check=True)
        (self.folder / "sshd_config").write_text(CONFIG.format(folder=self.folder))
        public = (self.folder / "host_key.pub").read_text()
        place = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        self.known_hosts = self.folder / "known_hosts"
        self.known_hosts.write_text(f"{place} {public}")
        self.server: subprocess.Popen | None = None

    @property
    def key(self) -> Path:
        """The private key with which one logs in."""
        return self.folder / "user_key"

    @property
    def variables(self) -> dict[str, object]:
        """Variables with which Ansible reaches the host."""
        return {
            "ansible_host": self.address,
            "ansible_port": self.port,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": f"-F none -o UserKnownHostsFile={self.known_hosts}",
        }

    def up(self) -> None:
        """Start sshd and wait until it listens."""
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)
        inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        listen = ["-o", f"ListenAddress={self.address}:{self.port}"]
        command = [*inside, SSHD, "-D", "-f", str(self.folder / "sshd_config"), *listen]
        with open(self.folder / "log", "ab") as log:
            self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((self.address, self.port), 1).close()
                return
            if time.monotonic() > deadline or self.server.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.02)

    def down(self) -> None:
        """Kill sshd with all its sessions."""
        if self.server is not None:
            for pid in [*children(self.server.pid), self.server.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.server.wait()
            self.server = None


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that these have."""
    tree: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                tree.setdefault(int(parent), []).append(int(entry.name))
    found = list(tree.get(pid, ()))
    for child in found:
        found += tree.get(child, ())
    return found


@contextlib.contextmanager
def network(name: str, subnet: str):
    """A network namespace with the address ``subnet``.2; this machine is ``subnet``.1."""
    near = f"v-{name}"
    commands = (
        f"ip netns add {name}",
        f"ip link add {near} type veth peer name eth0 netns {name}",
        f"ip addr add {subnet}.1/24 dev {near}",
        f"ip link set {near} up",
        f"ip -n {name} link set lo up",
        f"ip -n {name} addr add {subnet}.2/24 dev eth0",
        f"ip -n {name} link set eth0 up",
    )
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)
        yield f"{subnet}.2"
    finally:
        subprocess.run(["ip", "link", "del", near], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def free_port() -> int:
    """Return a TCP port of the loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_masters(folder: Path) -> None:
    """End the connections that SSH keeps open behind the sockets in a folder."""
    for path in folder.glob("*") if folder.exists() else ():
        command = ["ssh", "-F", "none", "-O", "exit", "-o", f"ControlPath={path}", "any"]
        subprocess.run(command, check=False, capture_output=True)
