# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the inventory plugin adds to an inventory that is empty: many machines here, and many hypervisor hosts.

The whole program is measured, as a user waits for it. Floors are measured in the same run: reading the records with
``json`` and nothing else, the same hosts and variables in an ordinary inventory file, and ``ssh`` to the same hosts at the
same time with a Python that does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (  # noqa: E402
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import (  # noqa: E402
    Store,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._noop.backend import (  # noqa: E402
    NoopBackend,
)
from second_host import SshHost, end_masters, free_port  # noqa: E402

BIN = Path(sys.executable).parent
HOSTS = 10
EACH = 20
LOCAL = 1000


def fill(data_dir: Path, count: int) -> None:
    """Make machines that only have a record."""
    backend = NoopBackend(Store(str(data_dir)))
    for number in range(count):
        labels = {"tier": "web" if number % 2 else "db"}
        spec = VmSpec(name=f"vm{number:04}-{data_dir.name}", labels=labels).completed()
        backend.start(backend.prepare(spec))


class Bench:
    """The folder of a run, with its inventory files."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder, self.rounds = folder, rounds
        self.control = folder / "cp"
        self.host = SshHost(folder / "host", port=free_port())
        self.environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".venv" / "collections"),
            "ANSIBLE_CONFIG": str(ROOT / "tests" / "ansible.cfg"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.control),
            "HOME": str(folder),
        }

    def prepare(self) -> None:
        """Make machines and inventory files."""
        (self.folder / "empty.ini").write_text("[none]\n")
        fill(self.folder / "local", LOCAL)
        self._source("local", hypervisors=["localhost"], data_dir=str(self.folder / "local"))
        for number in range(HOSTS):
            fill(self.folder / f"remote{number}", EACH)
        wrapper = self.folder / "slow-python"
        wrapper.write_text(f'#!/bin/sh\nsleep 1\nexec {shutil.which("python3")} "$@"\n')
        wrapper.chmod(0o755)
        for kind, python in (("fast", None), ("slow", wrapper)):
            self._hosts(kind, python)
            pattern, folder = [f"{kind}*"], "{{ data_dir }}"
            self._source(kind, hypervisors=pattern, data_dir=folder)

    def freeze(self) -> None:
        """Write the local machines as an ordinary inventory file: what such a list costs Ansible without a plugin."""
        source = str(self.folder / "local.hypervisor.yml")
        command = [str(BIN / "ansible-inventory"), "-i", source, "--list"]
        done = subprocess.run(command, check=True, capture_output=True, env=self.environment)
        hosts = {"hosts": json.loads(done.stdout)["_meta"]["hostvars"]}
        groups = {"all": {"children": {"vms": hosts}}}
        (self.folder / "frozen.json").write_text(json.dumps(groups))

    def _hosts(self, kind: str, python: Path | None) -> None:
        hosts = {}
        for number in range(HOSTS):
            own = {**self.host.variables, "data_dir": str(self.folder / f"remote{number}")}
            # As different hosts would, each has a connection of its own.
            own["ansible_control_path"] = f"%(directory)s/{kind}{number}"
            if python:
                own["ansible_python_interpreter"] = str(python)
            hosts[f"{kind}{number}"] = own
        (self.folder / f"{kind}-hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))

    def _source(self, name: str, **options: object) -> None:
        config = {"plugin": "cloudnebula.hypervisor.vms", **options}
        (self.folder / f"{name}.hypervisor.yml").write_text(json.dumps(config))

    def ansible(self, program: str, *sources: str, machines: int = 0) -> Callable[[], None]:
        """Return what runs a program with inventory files; it checks that all machines were found."""
        words = [word for source in sources for word in ("-i", str(self.folder / source))]
        tail = ["--list"] if program == "ansible-inventory" else ["vms", "--list-hosts"]
        command = [str(BIN / program), *words, *tail]

        def run() -> None:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, env=self.environment
            )
            found = done.stdout.count("vm_state" if tail[0] == "--list" else " vm0")
            if found != machines:
                raise RuntimeError(f"{found} machines, not {machines}: {done.stderr}")

        return run

    def read_records(self) -> None:
        """The floor of looking at machines."""
        for path in (self.folder / "local" / "vms").glob("*/vm.json"):
            json.loads(path.read_bytes())

    def log_in(self) -> None:
        """The floor of asking hosts."""
        python = [*self._ssh(), "python3 -IS -c pass"]
        for process in [subprocess.Popen(python) for dummy in range(HOSTS)]:
            process.wait()

    def _ssh(self) -> list[str]:
        host = self.host
        known = ["-F", "none", "-o", f"UserKnownHostsFile={host.known_hosts}"]
        return ["ssh", *known, "-i", str(host.key), "-p", str(host.port), host.address]

    def cold(self) -> None:
        """Close all connections that are kept open."""
        end_masters(self.control)

    def measure(self, act: Callable[[], None], before: Callable[[], None] | None = None) -> float:
        """Return the median of several times, in seconds."""
        times = []
        for dummy in range(self.rounds):
            if before:
                before()
            begun = time.perf_counter()
            act()
            times.append(time.perf_counter() - begun)
        return statistics.median(times)


def run(bench: Bench) -> None:
    """Measure everything and print the table."""
    bench.prepare()
    bench.host.up()
    list_, hosts = "ansible-inventory", "ansible"
    plain = ("fast-hosts.json", "fast.hypervisor.yml")
    slow = ("slow-hosts.json", "slow.hypervisor.yml")
    guests = HOSTS * EACH
    measure = bench.measure
    empty = measure(bench.ansible(list_, "empty.ini"))
    idle = measure(bench.ansible(hosts, "empty.ini"))
    records = measure(bench.read_records)
    logins = measure(bench.log_in)
    local = bench.ansible(hosts, "local.hypervisor.yml", machines=LOCAL)
    printed = bench.ansible(list_, "local.hypervisor.yml", machines=LOCAL)
    bench.freeze()
    frozen = measure(bench.ansible(list_, "frozen.json", machines=LOCAL)) - empty
    rows = [
        (f"{LOCAL} local VMs", measure(local), idle, records, 0.6),
        (f"{LOCAL} local VMs, all variables printed", measure(printed), empty, frozen, None),
        (
            f"{HOSTS} hosts by SSH, {EACH} VMs each",
            measure(bench.ansible(list_, *plain, machines=guests), bench.cold),
            empty,
            logins,
            1.3,
        ),
        (
            "the same, connections still open",
            measure(bench.ansible(list_, *plain, machines=guests)),
            empty,
            logins,
            None,
        ),
        (
            f"{HOSTS} hosts that take 1 s each",
            measure(bench.ansible(list_, *slow, machines=guests), bench.cold),
            empty,
            1.0,
            2.5,
        ),
    ]
    print(
        f"empty inventory: ansible --list-hosts {idle:.2f} s, ansible-inventory --list {empty:.2f} s"
    )
    print(
        f"floors: reading {LOCAL} records {records:.3f} s, {HOSTS} times ssh python3 {logins:.2f} s,"
        f" the same {LOCAL} hosts in an inventory file {frozen:.2f} s"
    )
    print(f"{'':42} {'all':>6} {'over empty':>11} {'floor':>6} {'ratio':>6} {'target':>7}")
    for name, total, base, floor, target in rows:
        over = total - base
        aim = "" if target is None else f"{target:.1f}"
        print(f"{name:42} {total:6.2f} {over:11.2f} {floor:6.2f} {over / floor:6.1f} {aim:>7}")


def main() -> None:
    """Read the options and run in a folder that is removed at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="inv-") as folder:
        bench = Bench(Path(folder), options.rounds)
        try:
            run(bench)
        finally:
            bench.cold()
            bench.host.down()


if __name__ == "__main__":
    main()
