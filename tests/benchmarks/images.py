# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast an image is fetched and verified, beside what one would type by hand: ``curl URL | sha256sum``.

Both ask the same server on loopback, in turns. Ours writes the file as well and brings it to the disk, and the start of
Python counts; the other one keeps nothing. Shown are the medians, their ratio, and the most memory that a process of ours had.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 1024 * 1024
LEAST_RATIO, MOST_MEMORY = 0.8, 64  # of curl's speed; MiB
OURS = """
import json, resource, sys
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.fetch import fetch
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.transfer import Fetch
fetched = fetch(Fetch(sys.argv[1]), sys.argv[2])
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([memory, fetched.digests["sha256"], fetched.length]))
"""


def serve(listener: socket.socket, size: int) -> None:
    """Answer each request with so many bytes, in a process of its own."""
    with tempfile.TemporaryFile() as block:
        block.write(os.urandom(MIB) * 64)
        block.flush()
        while True:
            client, dummy = listener.accept()
            with client:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += client.recv(65536)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n"
                client.sendall(f'{head}ETag: "1"\r\n\r\n'.encode())
                left = size
                while left:
                    left -= client.sendfile(block, 0, min(left, 64 * MIB))


def by_hand(url: str) -> tuple[float, str]:
    """Return the seconds that curl and sha256sum take, and the digest."""
    began = time.perf_counter()
    command = f"curl -sf {url} | sha256sum"
    done = subprocess.run(
        ["sh", "-c", command], check=True, stdout=subprocess.PIPE, text=True, timeout=600
    )
    return time.perf_counter() - began, done.stdout.split()[0]


def ours(url: str, folder: Path) -> tuple[float, float, str]:
    """Return the seconds and MiB that our code takes in a process of its own, and the digest."""
    part = folder / "part"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", OURS, url, str(part)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    seconds = time.perf_counter() - began
    memory, digest, length = json.loads(done.stdout)
    if part.stat().st_size != length:
        raise SystemExit("the file has another length than was reported")
    for path in folder.iterdir():
        path.unlink()
    return seconds, memory / 1024, digest


def main() -> None:
    """Measure, show the figures, and fail if they are worse than they have to be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    arguments, dummy = parser.parse_known_args()
    if shutil.which("curl") is None:
        raise SystemExit("curl is not installed")
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/disk.raw"
    server = os.fork()
    if server == 0:
        serve(listener, arguments.size * MIB)
    try:
        with tempfile.TemporaryDirectory() as folder:
            times: dict[str, list[float]] = {"by hand": [], "ours": []}
            most = 0.0
            for dummy in range(arguments.rounds):
                seconds, expected = by_hand(url)
                times["by hand"].append(seconds)
                seconds, memory, digest = ours(url, Path(folder))
                times["ours"].append(seconds)
                most = max(most, memory)
                if digest != expected:
                    raise SystemExit("the digests differ")
    finally:
        os.kill(server, 15)
        os.waitpid(server, 0)
    rates = {name: arguments.size / statistics.median(values) for name, values in times.items()}
    ratio = rates["ours"] / rates["by hand"]
    print(f"fetch and verify {arguments.size} MiB over loopback, {arguments.rounds} rounds")
    print(f"  curl | sha256sum   {rates['by hand']:7.0f} MiB/s")
    print(f"  ours, kept on disk {rates['ours']:7.0f} MiB/s   {100 * ratio:.0f} %")
    print(f"  memory             {most:7.1f} MiB")
    if ratio < LEAST_RATIO or most > MOST_MEMORY:
        raise SystemExit(f"expected at least {LEAST_RATIO:.0%} and at most {MOST_MEMORY} MiB")


if __name__ == "__main__":
    main()
