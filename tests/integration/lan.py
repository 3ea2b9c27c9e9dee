# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of a hypervisor host, away from the real one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess


class Lan:
    """A network namespace with a bridge and a DHCP server, a context manager."""

    def __init__(self, folder):
        self.name = f"lan{os.getpid()}"
        self.leases = folder / "leases"
        self.pid_file = folder / "dnsmasq.pid"
        self.prefix = ["ip", "netns", "exec", self.name]

    def run(self, *command):
        return subprocess.run(
            [*self.prefix, *command], check=True, capture_output=True, text=True
        ).stdout

    def __enter__(self):
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        for command in (
            "ip link set lo up",
            "ip link add br0 type bridge",
            "ip link set br0 address 02:00:00:00:77:01",
            "ip addr add 192.168.77.1/24 dev br0",
            "ip link set br0 up",
        ):
            self.run(*command.split())
        self.run(
            *(
                "dnsmasq",
                "--conf-file=/dev/null",
                "--port=0",
                "--interface=br0",
                "--bind-interfaces",
            ),
            *("--except-interface=lo", "--no-ping", "--user=root", "--dhcp-authoritative"),
            "--dhcp-range=192.168.77.50,192.168.77.200,255.255.255.0,1h",
            *(f"--dhcp-leasefile={self.leases}", f"--pid-file={self.pid_file}"),
        )
        return self

    def __exit__(self, *exc_info):
        with contextlib.suppress(FileNotFoundError):
            os.kill(int(self.pid_file.read_text()), signal.SIGTERM)
        subprocess.run(["ip", "netns", "del", self.name], check=True)

    def ports(self):
        """Return the interfaces that are on the bridge."""
        return [
            line.split()[1].split(":")[0].split("@")[0]
            for line in self.run("ip", "-o", "link", "show", "master", "br0").splitlines()
        ]
