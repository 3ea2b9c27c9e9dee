# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pretended illumos host, for tests: programs that keep state, devices, a pool, links, services and zones."""

from __future__ import annotations

import ast
import contextlib
import marshal
import os
import subprocess
import sys
from pathlib import Path

from .machine import Machine, kill_group, save

HERE = Path(__file__).resolve().parent
SERVER = HERE.parent / "propolis_server.py"
PROGRAMS = (
    *("zfs", "dladm", "ipadm", "zoneadm", "zonecfg", "svcadm", "svccfg", "svcs"),
    *("arp", "ndp", "rsrvrctl", "bhyvectl"),
)
PYTHON = os.path.realpath(sys.executable)
_LINK = {"state": "up", "over": None, "vid": 0, "mtu": 1500, "zone": None, "persistent": True}
NEW = {
    "closed": False,
    "serial": 0,
    "faults": [],
    "datasets": {"rpool": {"type": "filesystem", "props": {}}},
    "links": {
        "net0": {**_LINK, "class": "phys", "mac": "02:08:20:00:00:01"},
        "net1": {**_LINK, "class": "phys", "mac": "02:08:20:00:00:02", "state": "down"},
    },
    "addresses": {"net0/v4": {"type": "static", "addr": "192.0.2.10/24", "persistent": True}},
    "arp": [],
    "ndp": [],
    "services": {"global": {}},
    "zones": {},
    "reservoir": {"Free": 8192, "Allocated": 0, "Transient Allocated": 0, "Size limit": 32768},
}


class IllumosWorld:
    """The host in ``folder``, which must be empty. A context manager that closes it.

    ``environment`` has its programs on the PATH; a command after ``prefix`` finds its devices and propolis-server,
    which is the program ``server``, a Python script.
    """

    def __init__(self, folder, server=SERVER):
        self.folder = Path(folder)
        self.machine = Machine(str(folder))
        for name in (
            "bin",
            "dev/vmm",
            "stage/dev",
            "stage/opt",
            "snapshots",
            "svc-log",
            "zvol/rdsk/rpool",
        ):
            (self.folder / name).mkdir(parents=True)
        for name in ("vmmctl", "viona"):
            (self.folder / "dev" / name).touch()
        (self.folder / "zones").mkdir(mode=0o755)
        self._write_programs(Path(server))
        save(self.machine.path("state"), marshal.dumps(NEW, 2))

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def _write_programs(self, server):
        for name in PROGRAMS:
            lines = [f"#!{PYTHON} -SE", "import sys", f"sys.path.insert(0, {str(HERE)!r})"]
            lines += ["from dispatch import main", f"sys.exit(main({name!r}, sys.argv[1:]))"]
            _write_program(self.folder / "bin" / name, lines)
        product = self.folder / "oxide" / "propolis-server"
        (product / "blob").mkdir(parents=True)
        (product / "blob" / "OVMF_CODE.fd").write_bytes(bytes(4096))
        (product / "bin").mkdir()
        command = f'exec {sys.executable} {server} "$@"'
        _write_program(product / "bin" / "propolis-server", ["#!/bin/sh", command])

    @property
    def prefix(self):
        """The command that runs another one on this host."""
        return [PYTHON, "-SE", str(HERE / "enter.py"), str(self.folder)]

    @property
    def environment(self):
        """What a command needs in its environment on this host."""
        path = os.environ.get("PATH", os.defpath)
        return {"PATH": f"{self.folder / 'bin'}:{path}", "ILLUMOS_DOUBLE": str(self.folder)}

    @property
    def zones(self):
        """A folder that zones may lie in."""
        return self.folder / "zones"

    def run(self, *command, **options):
        """Run a command on this host; return what it printed."""
        options = {"capture_output": True, "text": True, "timeout": 60, **options}
        check = options.pop("check", True)
        environment = {**os.environ, **self.environment}
        command = [*self.prefix, *command]
        return subprocess.run(command, check=check, env=environment, **options).stdout

    def state(self):
        """Return all that the host knows."""
        with self.machine.locked() as state:
            return state

    @contextlib.contextmanager
    def changed(self):
        """Give the state to change it."""
        with self.machine.locked() as state:
            yield state

    def calls(self, program=None):
        """Return the command lines so far."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(ast.literal_eval, lines) if program in (None, call[0])]

    def fail(self, program, words, message, **options):
        """Have the next call fail that has all these words. Options: status, times, and after, to fail too late."""
        self._add_fault(program, words, message=message, **options)

    def kill(self, program, words, **options):
        """Kill whoever makes the next call that has all these words, before or after it did its work."""
        self._add_fault(program, words, kill=True, **options)

    def _add_fault(self, program, words, **options):
        fault = {"message": "", "status": 1, "times": 1, "after": False, "kill": False, **options}
        with self.changed() as state:
            state["faults"].append({"program": program, "words": words.split(), **fault})

    def servers(self):
        """Return the processes of all services that run, by FMRI."""
        return {
            fmri: service["child"][0]
            for services in self.state()["services"].values()
            for fmri, service in services.items()
            if service["child"]
        }

    def reboot(self):
        """End all processes as a power cut does, then boot: what is persistent is there, what is enabled starts."""
        with self.changed() as state:
            self._kill_all(state)
            for name, zone in list(state["zones"].items()):
                state["services"].pop(name, None)
                if zone["state"] in ("running", "ready", "shutting_down", "down", "mounted"):
                    zone.update(state="installed", coming=[], id=None)
            state["links"] = {n: link for n, link in state["links"].items() if link["persistent"]}
            for link in state["links"].values():
                link["zone"] = None
            for left in (self.folder / "dev" / "vmm").iterdir():
                left.unlink()
            for service in state["services"]["global"].values():
                service["state"] = "offline" if service["enabled"] else "disabled"
        startd = f"import sys; sys.path.insert(0, {str(HERE)!r}); import dispatch; dispatch.main('startd', [])"
        self.run(PYTHON, "-SE", "-c", startd)

    def close(self):
        """End all that was started on this host."""
        with self.changed() as state:
            state["closed"] = True
            self._kill_all(state)

    def _kill_all(self, state):
        for services in state["services"].values():
            for service in services.values():
                kill_group(service["restarter"])
                service.update(restarter=None, child=None)


def _write_program(path, lines):
    path.write_text("\n".join([*lines, ""]))
    path.chmod(0o755)
