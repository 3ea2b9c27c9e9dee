# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pretended propolis-server behaves as the real one is known to: states, numbers, console, log, command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import aiohttp
import pytest
from ansible_collections.cloudnebula.hypervisor.tests.doubles import propolis_server
from ansible_collections.cloudnebula.hypervisor.tests.doubles.propolis_machine import (
    Expired,
    History,
)
from ansible_collections.cloudnebula.hypervisor.tests.doubles.propolis_thread import (
    ServerThread,
    ThreadHost,
    ask,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.propolis_samples import good_body

MACS = {f"vm7c1f{index}n{index}": f"02:08:20:00:00:0{index}" for index in range(2)}
NO_INSTANCE = (424, "NoInstance")
SLOW = 0.3  # seconds of each step where a test acts in between
PATIENCE = 20.0  # seconds


@pytest.fixture
def make_server(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(**settings):
            host = ThreadHost(tmp_path / "host", **{"step": 0.01, "boot": 0.0, **settings})
            host.vnics = MACS
            return stack.enter_context(ServerThread(host))

        yield make


def ensure(server, **changes):
    body = good_body(server.host, "1.0.0")
    body["properties"].update(changes)
    return ask(server.url, "PUT", "/instance", body)


def put(server, wish):
    """Ask for a state; return the status and what the error code says."""
    status, answer = ask(server.url, "PUT", "/instance/state", wish)
    return status, answer and answer.get("error_code")


def state(server):
    status, answer = ask(server.url, "GET", "/instance")
    return answer["instance"]["state"] if status == 200 else status


def watch(server, gen):
    return ask(server.url, "GET", "/instance/state-monitor", {"gen": gen})


def reach(server, wanted):
    """Wait until the machine is in this state."""
    deadline = time.monotonic() + PATIENCE
    while (now := state(server)) != wanted:
        assert time.monotonic() < deadline, f"{now} instead of {wanted}"
        time.sleep(0.005)


def until(condition):
    """Wait for what the server does by itself."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def run(server):
    assert ensure(server)[0] == 201
    assert put(server, "Run")[0] == 204
    reach(server, "Running")


def printed(server, **query):
    words = "&".join(f"{name}={value}" for name, value in query.items())
    return ask(server.url, "GET", f"/instance/serial/history?{words}")


def test_server_without_machine_says_so(make_server):
    server = make_server()
    for method, path, body in (
        ("GET", "/instance", None),
        ("GET", "/instance/spec", None),
        ("PUT", "/instance/state", "Run"),
        ("GET", "/instance/state-monitor", {"gen": 0}),
        ("GET", "/instance/serial/history?most_recent=1", None),
        ("GET", "/instance/migration-status", None),
        ("POST", "/instance/nmi", None),
    ):
        status, answer = ask(server.url, method, path, body)
        assert (status, answer["error_code"], path) == (424, "NoInstance", path)
        assert answer["message"] == "Server not initialized (no instance)"


def test_changes_are_numbered_from_1(make_server):
    server = make_server(step=SLOW)
    seen = []

    ensure(server)
    for gen in range(1, 7):
        if gen == 2:
            put(server, "Run")
        if gen == 4:
            put(server, "Stop")
        _status, answer = watch(server, gen)
        seen.append((answer["gen"], answer["state"]))

    words = ("Creating", "Starting", "Running", "Stopping", "Stopped", "Destroyed")
    assert seen == list(enumerate(words, start=1))
    status, answer = watch(server, 7)
    assert (status, answer["error_code"]) == (410, "NoInstance")
    assert answer["message"] == "No instance present; will never reach generation 7"


def test_monitor_waits_for_a_change(make_server):
    server = make_server()
    ensure(server)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(watch(server, 2)))
    waiting.start()
    time.sleep(0.1)
    assert answers == []

    put(server, "Stop")
    waiting.join(PATIENCE)

    assert answers[0][1]["state"] in ("Stopping", "Stopped", "Destroyed")


def test_monitor_wants_a_body(make_server):
    server = make_server()
    ensure(server)
    status, answer = ask(server.url, "GET", "/instance/state-monitor")
    assert (status, "unable to parse JSON body" in answer["message"]) == (400, True)


def test_requests_where_the_machine_has_not_started(make_server):
    server = make_server(step=SLOW)
    ensure(server)

    assert put(server, "Reboot") == (
        403,
        "instance state change not allowed: Operation requires an active instance",
    )
    assert put(server, "Stop") == (204, None)
    assert put(server, "Stop") == (204, None)
    assert put(server, "Run") == (
        403,
        "instance state change not allowed: Instance is preparing to stop",
    )
    reach(server, "Destroyed")


def test_requests_while_the_machine_starts(make_server):
    server = make_server(step=SLOW)
    ensure(server)
    put(server, "Run")
    reach(server, "Starting")

    assert put(server, "Run") == (204, None)
    assert put(server, "Reboot") == (
        403,
        "instance state change not allowed: Instance is currently starting",
    )
    assert put(server, "Stop") == (204, None)
    reach(server, "Destroyed")


def test_requests_while_the_machine_runs(make_server):
    server = make_server(step=SLOW)
    run(server)

    assert put(server, "Run") == (204, None)
    assert put(server, "Reboot") == (204, None)
    assert put(server, "Reboot") == (204, None)
    reach(server, "Rebooting")
    reach(server, "Running")
    assert put(server, "Stop") == (204, None)
    assert put(server, "Stop") == (204, None)
    status, code = put(server, "Reboot")
    assert (status, code.rpartition(": ")[2]) == (403, "Instance is preparing to stop")


def test_requests_while_the_machine_is_cleaned_up_and_after(make_server):
    server = make_server(step=SLOW)
    run(server)
    put(server, "Stop")
    reach(server, "Stopped")
    until(lambda: server.server.machine.phase != "active")

    assert state(server) == "Stopped"
    for _moment in range(2):
        assert {put(server, wish) for wish in ("Run", "Stop", "Reboot")} == {NO_INSTANCE}
        reach(server, "Destroyed")


def test_second_ensure_is_refused_until_the_end(make_server):
    server = make_server(step=SLOW)
    ensure(server)

    for moment in ("Creating", "Running", "Stopped"):
        if moment == "Running":
            put(server, "Run")
        if moment == "Stopped":
            put(server, "Stop")
        reach(server, moment)
        status, answer = ensure(server)
        assert (status, answer["error_code"]) == (409, "AlreadyInitialized")
        assert answer["message"] == "instance already initialized"

    reach(server, "Destroyed")
    assert ensure(server)[0] == 201
    assert watch(server, 0)[1]["gen"] == 1


def test_machine_that_cannot_be_made_has_failed(make_server):
    server = make_server(fail_ensure="failed to reserve memory")

    status, answer = ensure(server)

    assert (status, answer["error_code"], answer["message"]) == (
        500,
        "Internal",
        "Internal Server Error",
    )
    assert "failed to reserve memory" in Path(server.host.log_path).read_text()
    assert state(server) == "Failed"
    assert put(server, "Stop") == NO_INSTANCE
    assert not server.host.kernel.has(good_body(server.host, "1.0.0")["properties"]["id"])
    server.server.settings.fail_ensure = None
    assert ensure(server)[0] == 201


def test_machine_that_does_not_start_has_failed(make_server):
    server = make_server(fail_start="no memory")
    ensure(server)

    put(server, "Run")

    reach(server, "Failed")


@pytest.mark.parametrize("what", ["missing", "read-only"])
def test_disk_is_opened(make_server, what):
    server = make_server()
    disk = Path(server.host.disk)
    if what == "missing":
        disk.unlink()
    else:
        disk.chmod(0o444)

    assert ensure(server)[0] == 500

    said = {"missing": "No such file", "read-only": "file is read-only"}[what]
    assert said in Path(server.host.log_path).read_text()


def test_vnic_is_looked_up(make_server):
    server = make_server()
    server.host.vnics = {}

    assert ensure(server)[0] == 500

    assert "failed to create viona device" in Path(server.host.log_path).read_text()


def test_missing_bootrom_ends_the_server(make_server):
    server = make_server()
    os.unlink(server.host.bootrom)

    with pytest.raises(ConnectionError):
        ensure(server)

    assert server.host.died.wait(20)
    assert "Cannot open bootrom" in server.host.panicked


def test_firmware_log_lies_where_the_server_was_started(make_server):
    server = make_server()
    run(server)
    assert (Path(server.host.folder) / "debug.out").read_text().startswith("SecCore")


def test_specification_comes_back_with_what_the_host_adds(make_server):
    server = make_server()
    ensure(server)

    _status, first = ask(server.url, "GET", "/instance/spec", api_version="1.0.0")
    _status, fifth = ask(server.url, "GET", "/instance/spec", api_version="5.0.0")
    _status, sixth = ask(server.url, "GET", "/instance/spec", api_version="6.0.0")

    assert first["spec"]["value"]["version"] == "V0"
    assert first["spec"]["value"]["spec"] == fifth["spec"]["value"]
    assert fifth["spec"]["value"]["board"]["cpuid"]["vendor"] == "amd"
    disk = sixth["spec"]["value"]["components"]["disk0"]["component"]
    assert disk["has_write_cache"] is True


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/instance/disk/disk0-backend/status", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/instance", 405),
    ],
)
def test_what_is_not_there_is_said_in_the_shape_of_the_api(make_server, method, path, status):
    server = make_server()
    ensure(server)
    found, answer = ask(server.url, method, path)
    assert (found, sorted(answer)) == (status, ["message", "request_id"])


def test_other_content_types_are_refused(make_server):
    server = make_server()
    form = "application/x-www-form-urlencoded"
    status, answer = ask(server.url, "PUT", "/instance", {}, content_type=form)
    assert (status, form in answer["message"]) == (400, True)


def test_cloud_init_prints_addresses_by_card(make_server):
    server = make_server(addresses={"02:08:20:00:00:01": "10.9.0.5/24", "*": None})
    run(server)
    text = ""

    def has_login():
        nonlocal text
        text = bytes(printed(server, most_recent=99999)[1]["data"]).decode()
        return "login:" in text

    until(has_login)

    rows = [line.split("ci-info: ")[1] for line in text.splitlines() if "enp0s" in line]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == ["enp0s8", "False", ".", ".", ".", "02:08:20:00:00:00"]
    assert cells[1][1:] == ["True", "10.9.0.5", "255.255.255.0", "global", "02:08:20:00:00:01"]
    assert cells[2][1:5:3] == ["True", "link"]


def test_disk_that_is_no_raw_image_does_not_boot(make_server):
    server = make_server(addresses={"*": "10.9.0.5"})
    Path(server.host.disk).write_bytes(b"QFI\xfb" + bytes(4092))
    run(server)
    until(lambda: b"No bootable" in server.server.machine.history.rolling)
    assert b"ci-info" not in server.server.machine.history.rolling


def test_console_answers_in_parts(make_server):
    server = make_server(has_console=False)
    run(server)
    server.server.machine.history.add(b"0123456789" * 2000)

    first = printed(server, from_start=0)[1]
    rest = printed(server, from_start=first["last_byte_offset"])[1]

    assert (len(first["data"]), first["last_byte_offset"]) == (16384, 16384)
    assert (len(rest["data"]), rest["last_byte_offset"]) == (3616, 20000)
    assert bytes(printed(server, most_recent=3)[1]["data"]) == b"789"
    assert bytes(printed(server, from_start=5, max_bytes=2)[1]["data"]) == b"56"
    assert printed(server, from_start=99999)[1] == {"data": [], "last_byte_offset": 20000}
    for query in ({}, {"from_start": 0, "most_recent": 1}):
        status, answer = printed(server, **query)
        assert (status, "Exactly one of" in answer["message"]) == (400, True)


def test_console_keeps_its_first_and_its_last_mib():
    history = History()
    for letter in b"abcde":
        history.add(bytes([letter]) * (1 << 19))
    history.add(b"f" * (1 << 20))

    assert history.read(0, None, 2)[0] == b"aa"
    assert history.read(None, 2)[0] == b"ff"
    with pytest.raises(Expired, match="no longer cached"):
        history.read(5 << 18, None)


def websocket(server, work, path="/instance/serial?from_start=0", version="1.0.0"):
    """Run the coroutine ``work`` with a WebSocket to the console."""

    async def talk():
        headers = {} if version is None else {"api-version": version}
        url = server.url + path
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(url, headers=headers) as console:
                return await asyncio.wait_for(work(console), 10)

    return asyncio.run(talk())


async def until_closed(console):
    """Return all that was printed, and with which code the other side closed."""
    text = b""
    async for message in console:
        text += message.data
    return text, console.close_code


def test_console_is_closed_when_the_machine_stops(make_server):
    server = make_server()
    run(server)

    async def work(console):
        first = await console.receive()
        await asyncio.to_thread(put, server, "Stop")
        _text, code = await until_closed(console)
        return first.data, code

    first, code = websocket(server, work)

    assert first.startswith(b"\x1b[2J")
    assert code == 1001


def test_console_without_machine_breaks_off(make_server):
    server = make_server()
    _text, code = websocket(server, until_closed)
    assert code in (None, 1006)


def test_console_wants_the_header(make_server):
    server = make_server()
    run(server)
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        websocket(server, until_closed, version=None)
    assert caught.value.status == 400


def test_guest_powers_off_when_told_on_its_console(make_server):
    server = make_server()
    run(server)

    async def work(console):
        await console.send_bytes(b"power")
        await console.send_bytes(b"off\r")
        return await until_closed(console)

    _text, code = websocket(server, work)

    assert code == 1001
    reach(server, "Destroyed")


def test_guest_reboots_in_place(make_server):
    server = make_server()
    run(server)

    async def work(console):
        await console.send_bytes(b"reboot\n")
        text = b""
        while text.count(b"BdsDxe: loading") < 1:
            text += (await console.receive()).data

    websocket(server, work, path="/instance/serial")

    reach(server, "Running")
    assert watch(server, 0)[1]["gen"] == 5


def test_guest_powers_off_when_told_by_a_file(make_server):
    server = make_server()
    run(server)
    wish = Path(server.host.folder) / "guest-poweroff"

    wish.touch()

    reach(server, "Destroyed")
    assert not wish.exists()


def test_deaf_guest_does_not_power_off(make_server):
    server = make_server(ignores_poweroff=True)
    run(server)
    wish = Path(server.host.folder) / "guest-poweroff"
    wish.touch()
    until(lambda: not wish.exists())

    time.sleep(0.1)

    assert state(server) == "Running"


def test_screen_speaks_rfb(make_server):
    server = make_server()

    async def work(screen):
        return (await screen.receive()).data

    assert websocket(server, work, path="/instance/vnc") == b"RFB 003.008\n"


def test_killed_server_leaves_its_machine_to_the_kernel(make_server):
    first = make_server()
    run(first)
    left = first.host.kernel._folder / good_body(first.host, "1.0.0")["properties"]["id"]
    first.stop()
    assert left.exists()

    second = make_server()
    run(second)

    assert "existed and was destroyed" in Path(second.host.log_path).read_text()
    put(second, "Stop")
    reach(second, "Destroyed")
    assert not left.exists()


def test_machine_that_somebody_destroyed_has_failed(make_server):
    server = make_server()
    run(server)
    next(server.host.kernel._folder.iterdir()).unlink()
    reach(server, "Failed")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["config.toml"],
        ["run"],
        ["run", "config.toml"],
        ["run", "rom", "localhost:12400"],
        ["run", "rom", "127.0.0.1"],
        ["run", "rom", "::1:12400"],
        ["run", "--boot", "x", "rom", "127.0.0.1:1"],
    ],
)
def test_wrong_command_lines_are_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        propolis_server.parse_arguments(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_right_command_lines_are_understood():
    read = propolis_server.parse_arguments
    plain = read(["run", "rom", "127.0.0.1:12400"])
    assert (plain.bootrom, plain.address, plain.vnc) == ("rom", ("127.0.0.1", 12400), None)
    full = read(["run", "--log-level", "debug", "rom", "[::1]:1", "127.0.0.1:5900"])
    assert (full.address, full.vnc) == (("::1", 1), ("127.0.0.1", 5900))


DLADM = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
"show-vnic -p -o macaddress vm7c1f0n0") echo 2:8:20:0:b:cc ;;
"show-vnic -p -o macaddress vm7c1f1n1") echo 2:8:20:0:b:cd ;;
"show-linkprop -c -o value -p mtu "*) echo 1500 ;;
*) exit 1 ;;
esac
"""


class Process:
    """The pretended server as a program of its own, in ``folder``."""

    def __init__(self, folder):
        self.host = ThreadHost(folder, step=0.01, boot=0.0, addresses={"*": "10.9.0.5"})
        self.log = Path(folder) / "out.log"
        (Path(folder) / "dladm").write_text(DLADM)
        (Path(folder) / "dladm").chmod(0o755)
        self.calls = Path(folder) / "calls"
        with socket.socket() as free, socket.socket() as second:
            free.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            self.port, self.vnc = free.getsockname()[1], second.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {"ILLUMOS_DOUBLE": str(folder), "CALLS": str(self.calls)}
        addresses = [f"127.0.0.1:{self.port}", f"127.0.0.1:{self.vnc}"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, propolis_server.__file__, "run", self.host.bootrom, *addresses],
                cwd=folder,
                env={**os.environ, **environment, "PATH": f"{folder}:{os.environ['PATH']}"},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while b"listening" not in self.log.read_bytes():
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.02)


@pytest.fixture
def process(tmp_path):
    started = Process(tmp_path / "host")
    yield started
    started.process.kill()
    started.process.wait(10)


@pytest.mark.real_host
def test_program_serves_and_writes_its_log_as_bunyan_does(process):
    run(process)

    with socket.create_connection(("127.0.0.1", process.vnc), timeout=20) as screen:
        assert screen.recv(12) == b"RFB 003.008\n"
    assert process.calls.read_text().splitlines()[:2] == [
        "show-vnic -p -o macaddress vm7c1f0n0",
        "show-linkprop -c -o value -p mtu vm7c1f0n0",
    ]
    assert (Path(process.host.folder) / "debug.out").exists()
    records = [json.loads(line) for line in process.log.read_text().splitlines()]
    assert {(record["name"], record["v"]) for record in records} == {("propolis-server", 0)}
    assert records[-1]["response_code"] == "200"


@pytest.mark.real_host
def test_panic_ends_the_program(process):
    body = good_body(process.host, "1.0.0")
    del body["init"]["value"]["spec"]["components"]["com1"]

    with pytest.raises(ConnectionError):
        ask(process.url, "PUT", "/instance", body)

    assert process.process.wait(10) == -signal.SIGABRT
    assert "called `Option::unwrap()` on a `None` value" in process.log.read_text()
    assert [path.name for path in process.host.kernel._folder.iterdir()] == [
        body["properties"]["id"]
    ]


@pytest.mark.real_host
def test_address_in_use_ends_the_program(process):
    done = subprocess.run(
        [sys.executable, propolis_server.__file__, "run", "rom", f"127.0.0.1:{process.port}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, "Failed to start server" in done.stderr) == (1, True)
