# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one task for many machines takes, and what a loop over the module for one takes.

Both are run as playbooks, as users run them. An empty playbook is measured beside them and taken away, since it is the same
for both. The machines boot nothing: what guests take is another matter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MACHINES = 20
HOSTS = str(Path(__file__).resolve().parents[1] / "localhost.yml")
# A disk that halts the processor (hlt; jmp to it).
HALT = (bytes([0xF4, 0xEB, 0xFD]) + bytes(507) + b"\x55\xaa").ljust(1024 * 1024, b"\0")
VM, FLEET = "cloudnebula.hypervisor.vm", "cloudnebula.hypervisor.vm_fleet"


def tasks_for(way: str, options: dict[str, Any], data_dir: str) -> list[dict[str, Any]]:
    """Return the tasks that bring all machines to these options."""
    names = [f"vm{number}" for number in range(MACHINES)]
    if way == "fleet":
        machines = [{"name": name} for name in names]
        return [{FLEET: {"data_dir": data_dir, "vms": machines, "defaults": options}}]
    if way == "loop":
        return [{VM: {"name": "{{ item }}", "data_dir": data_dir, **options}, "loop": names}]
    return []


def run(folder: Path, tasks: list[dict[str, Any]]) -> float:
    """Run the tasks as a playbook; return how many seconds it took."""
    playbook = folder / "play.json"
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    command = [sys.executable, "-m", "ansible", "playbook", "-i", HOSTS, str(playbook)]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def measure(backend: dict[str, Any], rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """Let both ways make, look at and remove the machines in turns; return the medians in seconds, by act and way."""
    acts = {"create and start": backend, "second run": backend}
    acts["remove"] = {"state": "absent", "force": True}
    times: dict[str, dict[str, list[float]]] = {act: {"loop": [], "fleet": []} for act in acts}
    for dummy_round in range(rounds):
        for way in ("loop", "fleet"):
            for act, options in acts.items():
                empty = run(folder, [])
                took = run(folder, tasks_for(way, options, str(folder / way)))
                times[act][way].append(took - empty)
    return {
        act: {way: statistics.median(taken) for way, taken in ways.items()}
        for act, ways in times.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=1, help="of all machines, at most 3 (%(default)s)"
    )
    rounds = min(parser.parse_args().rounds, 3)
    print(f"\n{MACHINES} machines, by a loop and by one task (s)")
    print(f"{'':32}{'loop':>8}{'fleet':>8}{'ratio':>8}")
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name)
        image = folder / "halt.raw"
        image.write_bytes(HALT)
        qemu = {"image": str(image), "memory": "64", "accelerator": "tcg"}
        for backend, options in (("noop", {"backend": "noop"}), ("qemu", qemu)):
            for act, took in measure(options, rounds, folder).items():
                ratio = took["loop"] / took["fleet"]
                row = f"{took['loop']:8.2f}{took['fleet']:8.2f}{ratio:8.1f}"
                print(f"{backend + ': ' + act:32}{row}")
    print(f"\nMedians of {rounds} round(s), without what an empty playbook takes.")


if __name__ == "__main__":
    main()
