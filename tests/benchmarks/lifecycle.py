# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What our life cycle code adds to the bare programs: create and start, and stop, of one machine.

The floor is what one would type by hand: the same ``qemu-img create``, the same key and seed, the same QEMU command up
to its first answer. Everything is measured in the same run, in turns, and shown as a ratio: figures of two machines
cannot be compared, ratios can.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.plan import (
    Power,
    make_plan,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import VmSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import Goal
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.iso import write_iso
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.backend import (
    QemuBackend,
)

MODULE = "ansible_collections.cloudnebula.hypervisor.plugins.modules.vm"
MEMORY_MIB = 256


class Clock:
    """Times of named steps, in milliseconds."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def time(self, name: str, act: Callable[[], object]) -> None:
        """Do ``act`` and keep how long it took."""
        begun = time.perf_counter()
        act()
        self.times.setdefault(name, []).append((time.perf_counter() - begun) * 1000)

    def median(self, name: str) -> float:
        """Return the middle one of the times of a step."""
        return statistics.median(self.times[name])


class ByHand:
    """The floor: programs and nothing else."""

    def __init__(self, folder: Path, base: Path, argv: list[str]) -> None:
        self.folder, self.base, self.argv = folder, base, argv
        folder.mkdir()

    def create(self) -> None:
        """Make disk, key and seed."""
        overlay = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            self.base,
            "overlay.qcow2",
        ]
        subprocess.run(overlay, cwd=self.folder, check=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "id_ed25519"],
            cwd=self.folder,
            check=True,
        )
        key = (self.folder / "id_ed25519.pub").read_text()
        write_iso(
            str(self.folder / "seed.iso"),
            {
                "user-data": f"#cloud-config\nssh_authorized_keys: ['{key}']\n".encode(),
                "meta-data": b"{}\n",
            },
        )

    def start(self) -> None:
        """Start QEMU and wait for the answer to its first command."""
        sockets = []
        for name in ("qmp", "debug", "console", "agent"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self.folder / f"{name}.sock"))
            listener.listen(1)
            sockets.append(listener)
        null = os.open(os.devnull, os.O_WRONLY)
        argv = self._argv([listener.fileno() for listener in sockets], null)
        fds = [*(listener.fileno() for listener in sockets), null]
        self.qemu = subprocess.Popen(argv, pass_fds=fds, start_new_session=True)
        os.close(null)
        for listener in sockets:
            listener.close()
        self.monitor = socket.socket(socket.AF_UNIX)
        self.monitor.connect(str(self.folder / "qmp.sock"))
        self.lines = self.monitor.makefile("rw")
        self.lines.readline()
        self._ask("qmp_capabilities")
        self._ask("query-status")

    def stop(self) -> None:
        """End QEMU by its monitor and wait for the process."""
        fd = os.pidfd_open(self.qemu.pid)
        print('{"execute": "quit"}', file=self.lines, flush=True)
        select.select([fd], [], [])
        os.close(fd)
        self.qemu.wait()
        self.lines.close()
        self.monitor.close()

    def _ask(self, command: str) -> None:
        print(json.dumps({"execute": command}), file=self.lines, flush=True)
        while "return" not in json.loads(self.lines.readline()):
            continue

    def _argv(self, fds: list[int], log: int) -> list[str]:
        """Return the command of the machine that was launched by our code, with folder and descriptors of our own."""
        own = iter(fds)

        def translate(word: str) -> str:
            if word.startswith("socket,"):
                parts = (
                    f"fd={next(own)}" if part.startswith("fd=") else part
                    for part in word.split(",")
                )
                return ",".join(parts)
            return (
                f"fd={log},set=1"
                if word.startswith("fd=")
                else word.replace(self.argv_folder, str(self.folder))
            )

        return [translate(word) for word in self.argv]

    argv_folder = ""


def captured_argv(store: Store, spec: VmSpec) -> tuple[list[str], str]:
    """Return the command line that our code gives QEMU, and the folder that it names."""
    backend = QemuBackend(store)
    vm = backend.start(backend.prepare(spec))
    command = Path(f"/proc/{vm.pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    backend.destroy(vm)
    return command, vm.work_dir


def complete(name: str, base: Path) -> VmSpec:
    """Return what the planner makes of the wish for a small machine."""
    wish = VmSpec(name=name, image=str(base), memory_mib=MEMORY_MIB, accelerator="tcg")
    return make_plan(wish, Power(Goal.STARTED), None, "qemu", QemuBackend.features).spec


def measure(rounds: int, folder: Path) -> Clock:
    """Let both ways create, start and stop machines in turns."""
    base = folder / "base.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "2G"], check=True)
    store = Store(str(folder / "data"))
    backend = QemuBackend(store)
    argv, ByHand.argv_folder = captured_argv(store, complete("model", base))
    clock = Clock()
    for number in range(rounds):
        hand = ByHand(folder / f"hand{number}", base, argv)
        clock.time("floor: create", hand.create)
        clock.time("floor: start", hand.start)
        clock.time("floor: stop", hand.stop)
        spec = complete(f"vm{number}", base)
        clock.time(
            "ours: create", lambda spec=spec: (backend.check(spec, None), backend.prepare(spec))
        )
        clock.time(
            "ours: start",
            lambda spec=spec: backend.start(backend.observe(store.load(spec.name)).handle),
        )
        clock.time(
            "ours: stop",
            lambda spec=spec: backend.stop(backend.observe(store.load(spec.name)).handle, 0),
        )
        backend.destroy(store.load(spec.name))
    measure_tasks(clock, base, folder, min(rounds, 5))
    return clock


def measure_tasks(clock: Clock, base: Path, folder: Path, rounds: int) -> None:
    """Measure what a whole task takes: the module as a process, with Ansible's own part in it and without ours."""
    options = {
        "name": "task",
        "image": str(base),
        "memory": MEMORY_MIB,
        "accelerator": "tcg",
        "force": True,
    }
    options["data_dir"] = str(folder / "tasks")
    empty = "import ansible.module_utils.basic"
    for dummy_round in range(rounds):
        clock.time(
            "process: Python and Ansible's module code",
            lambda: subprocess.run([sys.executable, "-c", empty], check=True),
        )
        for name, state in (
            ("create and start", "started"),
            ("second run", "started"),
            ("stop", "stopped"),
        ):
            clock.time(
                f"process: {name}", lambda state=state: run_task({**options, "state": state})
            )
        run_task({**options, "state": "absent"})


def run_task(options: dict[str, object]) -> None:
    """Run the module ``vm`` as a process of its own."""
    task = json.dumps({"ANSIBLE_MODULE_ARGS": options})
    subprocess.run(
        [sys.executable, "-m", MODULE], input=task, text=True, check=True, stdout=subprocess.DEVNULL
    )


def show(clock: Clock) -> None:
    """Print the table."""
    print(f"{'':24}{'floor ms':>10}{'ours ms':>10}{'ratio':>8}")
    totals = [0.0, 0.0]
    for step in ("create", "start", "stop"):
        row = (clock.median(f"floor: {step}"), clock.median(f"ours: {step}"))
        print(f"{step:24}{row[0]:10.1f}{row[1]:10.1f}{row[1] / row[0]:8.2f}")
        if step != "stop":
            totals = [totals[0] + row[0], totals[1] + row[1]]
    print(f"{'create + start':24}{totals[0]:10.1f}{totals[1]:10.1f}{totals[1] / totals[0]:8.2f}")
    print("\nWhole module processes, with Python's and Ansible's own start in them:")
    for name in clock.times:
        if name.startswith("process: "):
            print(f"  {name.removeprefix('process: '):42}{clock.median(name):10.1f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=15, help="machines of each kind (%(default)s)"
    )
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        show(measure(rounds, Path(folder)))
    print(f"\nMedians of {rounds} machines of each kind, made in turns.")


if __name__ == "__main__":
    main()
