# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network of its own: a namespace with a bridge and a DHCP server, machines beside it, and guests on TAP interfaces."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import CloudInit
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.iso import write_iso
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.keys import (
    make_key_pair,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.seed import seed_files

ROOT = Path(__file__).resolve().parents[2]
BRIDGE = "br0"
BRIDGE_MAC = "02:00:00:00:77:01"
HOST = "192.168.77.1"
HOST6 = "fd00:77::1"
PROGRAMS = ("ip", "dnsmasq", "qemu-system-x86_64", "qemu-img", "ssh", "setpriv")

_serials = itertools.count(1)


def why_not() -> str | None:
    """Return why this machine cannot have such a network, or ``None``."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    name = f"cnprobe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode:
        return "cannot make a network namespace here"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


@dataclass
class Guest:
    """A machine started by hand, without a record or anything else of ours."""

    name: str
    mac: str
    process: subprocess.Popen
    folder: Path

    @property
    def agent_socket(self) -> str:
        """The path of the guest agent's socket."""
        return str(self.folder / "agent.sock")


class Lab:
    """The network. A context manager: nothing is left of it afterwards."""

    def __init__(self, folder: Path, image: Path | None = None) -> None:
        self.folder = folder
        self.image = image
        self.name = f"cn{os.getpid()}n{next(_serials)}"
        self.lease_file = folder / "dnsmasq.leases"
        self.key = folder / "id_ed25519"
        self.dhcp: subprocess.Popen | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Lab:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _make(self) -> None:
        self.public_key = make_key_pair(str(self.key), "lab")
        self._add_namespace(self.name)
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", BRIDGE, "type", "bridge")
        self.ip("link", "set", BRIDGE, "address", BRIDGE_MAC)
        self.ip("address", "add", f"{HOST}/24", "dev", BRIDGE)
        self.ip("-6", "address", "add", f"{HOST6}/64", "dev", BRIDGE, "nodad")
        self.ip("link", "set", BRIDGE, "up")

    def _add_namespace(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", name], check=True)
        self._stack.callback(subprocess.run, ["ip", "netns", "del", name], check=True)

    def command(self, *words: str, **options) -> subprocess.CompletedProcess:
        """Run a program in the namespace and expect success."""
        options = {"capture_output": True, "text": True, "timeout": 60, **options}
        check = options.pop("check", True)
        return subprocess.run(["ip", "netns", "exec", self.name, *words], check=check, **options)

    def ip(self, *words: str) -> str:
        """Run ip in the namespace."""
        return self.command("ip", *words).stdout

    def spawn(self, *words: str, **options) -> subprocess.Popen:
        """Start a program in the namespace; it is ended with the lab at the latest."""
        process = subprocess.Popen(["ip", "netns", "exec", self.name, *words], **options)
        self._stack.callback(end, process)
        return process

    def python(self, code: str, *prefix: str) -> subprocess.Popen:
        """Start a Python program in the namespace that prints one JSON value."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT / ".venv" / "collections")}
        command = [*prefix, sys.executable, "-c", code]
        return self.spawn(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )

    def serve_dhcp(self) -> None:
        """Start dnsmasq on the bridge."""
        options = {
            "conf-file": "/dev/null",
            "port": "0",
            "interface": BRIDGE,
            "except-interface": "lo",
            "user": "root",
            "dhcp-range": "192.168.77.50,192.168.77.99,255.255.255.0,1h",
            "dhcp-leasefile": str(self.lease_file),
            "pid-file": "",
        }
        flags = ["--keep-in-foreground", "--bind-interfaces", "--no-ping", "--dhcp-authoritative"]
        words = [f"--{key}={value}" for key, value in options.items()]
        with open(self.folder / "dnsmasq.log", "wb") as log:
            self.dhcp = self.spawn("dnsmasq", *flags, *words, stdout=log, stderr=log)

    def add_machine(self, mac: str, *addresses: str) -> str:
        """Plug a machine with these addresses into the bridge: a namespace with one card. Return its name."""
        serial = next(_serials)
        name = f"cn{os.getpid()}n{serial}"
        self._add_namespace(name)
        card = f"veth{serial}"
        self.ip("link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", name)
        self.ip("link", "set", card, "master", BRIDGE, "up")
        inside = ["ip", "-n", name]
        subprocess.run([*inside, "link", "set", "eth0", "address", mac, "up"], check=True)
        for address in addresses:
            nodad = ["nodad"] if ":" in address else []
            subprocess.run([*inside, "address", "add", address, "dev", "eth0", *nodad], check=True)
        return name

    def start(self, name: str, mac: str, static: str | None = None, hostname: str = "") -> Guest:
        """Start a guest on a TAP interface of its own; with DHCP unless it has a static address."""
        folder = self.folder / name
        folder.mkdir()
        tap = f"tap{next(_serials)}"
        self.ip("tuntap", "add", "dev", tap, "mode", "tap")
        self.ip("link", "set", tap, "master", BRIDGE, "up")
        overlay, seed = folder / "overlay.qcow2", folder / "seed.iso"
        image = ["-b", str(self.image), "-F", "qcow2", str(overlay)]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *image], check=True)
        network = None
        if static:
            card = {"match": {"macaddress": mac}, "addresses": [static]}
            network = {"version": 2, "ethernets": {"net0": card}}
        wish = CloudInit(hostname=hostname or name, user="vm", network_config=network)
        write_iso(str(seed), seed_files(wish, name, f"{name}-{self.name}", self.public_key))
        process = self.spawn(*_qemu(folder, overlay, seed, tap, mac))
        return Guest(name, mac, process, folder)

    def ssh(self, address: str, command: str) -> str:
        """Run a command as root in the guest at this address, which must be up soon."""
        options = ["-F", "none", "-i", str(self.key)]
        for option in (
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "ConnectTimeout=5",
            "LogLevel=ERROR",
        ):
            options += ["-o", option]
        deadline = time.monotonic() + 40
        while True:
            done = self.command("ssh", *options, f"root@{address}", command, check=False)
            if done.returncode != 255 or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def leases(self) -> dict[str, str]:
        """Return the addresses that dnsmasq gave, by MAC."""
        lines = self.lease_file.read_text().splitlines() if self.lease_file.exists() else []
        return {words[1]: words[2] for words in map(str.split, lines) if len(words) == 5}

    def rows(self) -> dict[str, dict]:
        """Return the kernel's neighbours on the bridge, by address."""
        return {
            row["dst"]: row for row in json.loads(self.ip("-j", "neigh", "show", "dev", BRIDGE))
        }


def end(process: subprocess.Popen) -> None:
    """End a program for sure."""
    if process.poll() is None:
        process.kill()
    process.communicate()


def _qemu(folder: Path, overlay: Path, seed: Path, tap: str, mac: str) -> list[str]:
    disk = f"driver=qcow2,node-name=disk,file.driver=file,file.filename={overlay}"
    iso = f"driver=raw,node-name=seed,read-only=on,file.driver=file,file.filename={seed}"
    return [
        "qemu-system-x86_64",
        *("-M", "q35", "-accel", "tcg,tb-size=32", "-m", "192", "-nodefaults", "-no-user-config"),
        *("-display", "none", "-serial", f"file:{folder / 'console.log'}"),
        *("-blockdev", disk, "-device", "virtio-blk-pci,drive=disk,bootindex=1"),
        *("-blockdev", iso, "-device", "virtio-blk-pci,drive=seed"),
        *("-netdev", f"tap,id=net0,ifname={tap},script=no,downscript=no"),
        *("-device", f"virtio-net-pci,netdev=net0,mac={mac},romfile=", "-device", "virtio-rng-pci"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={folder / 'agent.sock'},server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
    ]
