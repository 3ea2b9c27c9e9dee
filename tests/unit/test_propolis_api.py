# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of propolis-server: every answer becomes a value or an error of ours, and every wait ends."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.server
import json
import socket
import threading
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    PropolisProtocol,
    PropolisRefused,
    PropolisUnreachable,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.api import (
    Change,
    Instance,
    PropolisApi,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.server_log import (
    log_tail,
    readable,
)
from ansible_collections.cloudnebula.hypervisor.tests.doubles.propolis_thread import (
    ServerThread,
    ThreadHost,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.propolis_samples import good_body

UUID = "7c1f0f0e-64fb-4d0f-8f0e-0c6f3f3e9f5b"
MACS = {f"vm7c1f{index}n{index}": f"02:08:20:00:00:0{index}" for index in range(2)}


@pytest.fixture
def make_server(tmp_path):
    with contextlib.ExitStack() as stack:

        def make(**settings):
            host = ThreadHost(tmp_path / "host", **{"step": 0.01, "boot": 0.0, **settings})
            host.vnics = MACS
            return stack.enter_context(ServerThread(host))

        yield make


def client(server, version="1.0.0"):
    return PropolisApi(server.url, version, lambda: server.host.log_path)


def body_for(server, version="1.0.0"):
    return good_body(server.host, version)


def soon(seconds=20.0):
    return time.monotonic() + seconds


def run(server):
    api = client(server)
    api.ensure(body_for(server))
    api.request_state("Run")
    assert api.wait_for(("Running",), soon()) == "Running"
    return api


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers as the test says, and keeps what was asked."""

    def answer(self):
        length = int(self.headers.get("content-length") or 0)
        self.server.asked.append(
            (self.command, self.path, dict(self.headers), self.rfile.read(length))
        )
        status, body = self.server.answers[
            min(len(self.server.asked), len(self.server.answers)) - 1
        ]
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(data)))
        self.end_headers()
        if status != 204:
            self.wfile.write(data)

    do_GET = do_PUT = answer  # noqa: N815

    def log_message(self, *dummy_args):
        pass


@pytest.fixture
def scripted():
    """Return a function that makes a client of a server with these answers, of which the last one is repeated."""
    with contextlib.ExitStack() as stack:

        def make(*answers, log_path=None):
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
            stack.enter_context(server)
            server.answers, server.asked = answers, []
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            api = PropolisApi(f"http://127.0.0.1:{server.server_port}", "1.0.0", lambda: log_path)
            return api, server.asked

        yield make


def error(message, code=None):
    body = {"request_id": "r-1", "message": message}
    return {**body, "error_code": code} if code else body


def instance_in(state, uuid=UUID):
    return {"instance": {"state": state, "properties": {"id": uuid}}}


def test_life_of_a_machine(make_server):
    server = make_server()
    api = client(server)

    assert api.answers(2.0) is True
    assert api.instance() is None
    api.ensure(body_for(server))
    assert api.instance() == Instance("Creating", UUID)
    api.request_state("Run")
    assert api.wait_for(("Running",), soon()) == "Running"
    api.request_state("Reboot")
    api.request_state("Stop")
    assert api.wait_for(("Destroyed",), soon()) == "Destroyed"
    assert api.instance() == Instance("Destroyed", UUID)
    api.request_state("Stop")
    api.ensure(body_for(server))
    assert api.instance() == Instance("Creating", UUID)


@pytest.mark.parametrize("version", ["1.0.0", "3.0.0", "6.0.0"])
def test_every_request_names_the_version(scripted, version):
    base, asked = scripted((424, error("no", "NoInstance")))
    api = PropolisApi(base.url, version)
    with contextlib.suppress(PropolisRefused):
        api.instance()
    api.request_state("Stop")
    api.monitor(3, 2.0)
    api.serial_history(100)

    assert [row[:2] for row in asked] == [
        ("GET", "/instance"),
        ("PUT", "/instance/state"),
        ("GET", "/instance/state-monitor"),
        ("GET", "/instance/serial/history?most_recent=100&max_bytes=100"),
    ]
    headers = [{name.lower(): value for name, value in item[2].items()} for item in asked]
    assert {header["api-version"] for header in headers} == {version}
    assert [item[3] for item in asked] == [b"", b'"Stop"', b'{"gen": 3}', b""]
    assert headers[1]["content-type"] == headers[2]["content-type"] == "application/json"


def test_state_is_a_bare_text(scripted):
    api, asked = scripted((204, b""))
    for wish in ("Run", "Stop", "Reboot"):
        api.request_state(wish)
    assert [item[3] for item in asked] == [b'"Run"', b'"Stop"', b'"Reboot"']


def test_newer_version_than_the_server_has(make_server):
    server = make_server(latest="5.0.0")
    with pytest.raises(PropolisRefused) as caught:
        client(server, "6.0.0").instance()
    assert "server does not support this API version: 6.0.0 (status 400)" in caught.value.message
    assert "propolis.api_version" in caught.value.help
    assert client(server, "6.0.0").answers(2.0) is True


REFUSALS = {
    "400": (400, error("unable to parse JSON body: x"), "unable to parse JSON body: x", None),
    "403": (
        403,
        error("Forbidden", "instance state change not allowed: Instance is preparing to stop"),
        "instance state change not allowed: Instance is preparing to stop",
        "instance state change not allowed: Instance is preparing to stop",
    ),
    "404": (404, error("Not Found"), "Not Found", None),
    "409": (
        409,
        error("instance already initialized", "AlreadyInitialized"),
        "already",
        "AlreadyInitialized",
    ),
    "410": (410, error("gone", "NoInstance"), "gone", "NoInstance"),
    "424": (
        424,
        error("Server not initialized (no instance)", "NoInstance"),
        "no instance",
        "NoInstance",
    ),
    "500": (500, error("Internal Server Error", "Internal"), "Internal Server Error", "Internal"),
    "503": (503, error("Service Unavailable"), "Service Unavailable", None),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal_is_told_with_all_that_the_server_says(scripted, name):
    status, body, words, code = REFUSALS[name]
    api, _asked = scripted((status, body))

    with pytest.raises(PropolisRefused) as caught:
        api.request_state("Run")

    details = caught.value.details
    assert words in caught.value.message
    assert api.url in caught.value.message
    assert (details["status"], details["request_id"]) == (status, "r-1")
    assert details.get("error_code") == code
    assert caught.value.help


def test_server_error_comes_with_the_end_of_its_log(make_server):
    server = make_server(fail_ensure="failed to reserve 2 GiB of memory")

    with pytest.raises(PropolisRefused) as caught:
        client(server).ensure(body_for(server))

    assert caught.value.details["status"] == 500
    assert "failed to reserve 2 GiB of memory" in caught.value.message
    assert "failed to reserve 2 GiB of memory" in caught.value.details["log"]


def test_panic_is_a_lost_connection_with_the_log(make_server):
    server = make_server()
    api = client(server)
    body = body_for(server)
    server.host.bootrom = "/nowhere/OVMF_CODE.fd"

    with pytest.raises(PropolisUnreachable, match="the connection was closed") as caught:
        api.ensure(body)

    assert "Cannot open bootrom" in caught.value.details["log"]


def test_ensure_that_got_through_before_is_fine(make_server):
    server = make_server()
    api = client(server)
    api.ensure(body_for(server))
    api.ensure(body_for(server))
    api.request_state("Run")
    api.wait_for(("Running",), soon())
    api.ensure(body_for(server))

    assert api.instance().state == "Running"
    assert api.monitor(0, 10.0).gen == 3, "neither made anew nor started again"


@pytest.mark.parametrize(
    "there",
    [
        instance_in("Running", "00000000-0000-4000-8000-000000000000"),
        instance_in("Stopping"),
        instance_in("Stopped"),
    ],
)
def test_ensure_over_another_instance_is_refused(scripted, make_server, there):
    api, _asked = scripted(
        (409, error("instance already initialized", "AlreadyInitialized")), (200, there)
    )
    with pytest.raises(PropolisRefused, match="instance already initialized"):
        api.ensure(body_for(make_server()))


@pytest.mark.parametrize("status", [424, 410])
def test_stop_of_what_is_gone_is_fine(scripted, status):
    api, _asked = scripted((status, error("gone", "NoInstance")))
    api.request_state("Stop")
    for wish in ("Run", "Reboot"):
        with pytest.raises(PropolisRefused):
            api.request_state(wish)


def test_power_of_an_instance_that_is_being_made_is_cut_too(make_server):
    server = make_server(step=1.5)
    api = client(server)
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as others:
        made = others.submit(client(server).ensure, body_for(server))
        while api.instance() is None:
            time.sleep(0.01)

        assert api.cut_power(soon()) == "Destroyed"

    assert time.monotonic() - begun > 1.5  # the first request was too early
    made.result()


def test_cutting_the_power_has_a_deadline(scripted):
    api, _asked = scripted((204, b""), (200, {"gen": 4, "state": "Stopping", "migration": {}}))

    assert api.cut_power(time.monotonic() + 0.1) == "Stopping"


def test_uninitialized_for_another_reason_is_no_missing_instance(scripted):
    api, _asked = scripted((424, error("something else", "Other")))
    with pytest.raises(PropolisRefused):
        api.instance()


def test_monitor_returns_at_the_limit(make_server):
    server = make_server()
    api = client(server)
    api.ensure(body_for(server))
    begin = time.monotonic()

    assert api.monitor(0, 10.0) == Change(1, "Creating")
    assert api.monitor(2, 0.2) is None

    assert 0.1 < time.monotonic() - begin < 8.0


@pytest.mark.parametrize("status", [410, 424])
def test_monitor_of_what_is_gone_says_destroyed(scripted, status):
    api, _asked = scripted((status, error("gone", "NoInstance")))
    assert api.monitor(7, 2.0) == Change(7, "Destroyed")
    assert api.wait_for(("Running",), soon()) == "Destroyed"


def test_wait_follows_the_numbers(scripted):
    answers = [(200, {"gen": gen, "state": word, "migration": {}}) for gen, word in CHANGES]
    api, asked = scripted(*answers)

    assert api.wait_for(("Running",), soon()) == "Running"

    assert [json.loads(item[3])["gen"] for item in asked] == [0, 2, 5]


CHANGES = ((1, "Creating"), (4, "Starting"), (5, "Running"))


def test_wait_ends_with_a_state_that_nothing_comes_after(make_server):
    server = make_server(fail_start="no memory")
    api = client(server)
    api.ensure(body_for(server))
    api.request_state("Run")
    assert api.wait_for(("Running",), soon()) == "Failed"


def test_wait_after_a_failed_ensure_ends(make_server):
    server = make_server(fail_ensure="no memory")
    api = client(server)
    with pytest.raises(PropolisRefused):
        api.ensure(body_for(server))
    assert api.wait_for(("Running",), soon()) == "Failed"


def test_wait_ends_at_its_deadline_with_what_was_seen(make_server):
    server = make_server()
    api = run(server)
    begin = time.monotonic()

    assert api.wait_for(("Destroyed",), soon(0.3)) == "Running"

    assert 0.2 < time.monotonic() - begin < 8.0


def test_deadline_in_the_past_still_looks_once(make_server):
    assert run(make_server()).wait_for(("Running",), time.monotonic() - 1) == "Running"


def test_wait_asks_for_the_instance_where_the_monitor_gets_no_body(scripted):
    refused = (400, error("unable to parse JSON body: EOF"))
    api, asked = scripted(
        refused, (200, instance_in("Starting")), refused, (200, instance_in("Running"))
    )
    assert api.wait_for(("Running",), soon()) == "Running"
    assert [item[1] for item in asked][::2] == ["/instance/state-monitor"] * 2


def test_wait_fails_if_the_server_ends(make_server):
    server = make_server()
    api = run(server)
    threading.Timer(0.2, server.stop).start()
    with pytest.raises(PropolisUnreachable):
        api.wait_for(("Destroyed",), soon())


def test_guest_that_powers_off_is_noticed(make_server, tmp_path):
    server = make_server()
    api = run(server)
    (tmp_path / "host" / "guest-poweroff").touch()
    assert api.wait_for(("Destroyed",), soon()) == "Destroyed"


def test_console_is_read_while_there_is_one(make_server):
    server = make_server(has_console=False)
    api = client(server)
    assert api.serial_history(1000) == b""
    run(server)
    server.server.machine.history.add(b"\xff\x00" * 20000 + b"end")

    assert api.serial_history(4) == b"\x00end"[-4:]
    assert len(api.serial_history(30000)) == 30000
    assert api.serial_history(1 << 30).endswith(b"\x00end")

    api.request_state("Stop")
    api.wait_for(("Destroyed",), soon())
    assert api.serial_history(1000) == b""


def test_console_longer_than_what_is_kept_gives_its_last_mib(make_server):
    server = make_server(has_console=False)
    api = run(server)
    for _time in range(4):
        server.server.machine.history.add(b"a" * (1 << 20))
    assert len(api.serial_history(1 << 30)) == 1 << 20


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        api = PropolisApi(
            f"http://127.0.0.1:{free.getsockname()[1]}", "1.0.0", lambda: "/nowhere/log"
        )
        assert api.answers(1.0) is False
        with pytest.raises(PropolisUnreachable) as caught:
            api.instance()
        assert caught.value.details["refused"] is True
        assert (caught.value.message, "log" in caught.value.details) == (
            f"The server at {api.url} does not answer: Connection refused.",
            False,
        )
        begin = time.monotonic()
        with pytest.raises(PropolisUnreachable):
            api.await_answer(time.monotonic() + 0.6)
        assert time.monotonic() - begin < 8.0


def test_await_answer_lasts_until_the_server_is_there():
    address = ("127.0.0.1", 0)
    with http.server.ThreadingHTTPServer(address, Scripted, bind_and_activate=False) as late:
        late.answers, late.asked = [(424, error("nothing yet", "NoInstance"))], []
        late.server_bind()  # nobody listens yet
        api = PropolisApi(f"http://127.0.0.1:{late.server_address[1]}", "1.0.0")
        assert api.answers(1.0) is False

        def begin():
            late.server_activate()
            late.serve_forever(0.01)

        beginning = threading.Timer(0.3, begin)
        beginning.start()
        api.await_answer(soon())
        late.shutdown()
        beginning.join(20)

    assert late.asked


def test_silent_server_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = PropolisApi(f"http://127.0.0.1:{silent.getsockname()[1]}", "1.0.0")
        begin = time.monotonic()
        assert api.answers(0.2) is False
        assert time.monotonic() - begin < 8.0


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>hello</html>"),
        (200, {"unexpected": True}),
        (200, [1, 2]),
        (200, b""),
        (302, b""),
        (200, {"instance": {"state": "Running"}}),
    ],
)
def test_other_servers_make_no_sense(scripted, answer):
    api, _asked = scripted(answer)
    with pytest.raises(PropolisProtocol, match="no propolis-server"):
        api.instance()


def test_refusal_that_is_no_json_is_still_one(scripted):
    api, _asked = scripted((502, b"<html>bad gateway</html>"))
    with pytest.raises(PropolisRefused, match=r"no reason given \(status 502\)"):
        api.instance()


@pytest.mark.parametrize("call", ["monitor", "serial_history"])
def test_nonsense_in_details_is_noticed(scripted, call):
    api, _asked = scripted((200, {"gen": "many", "data": [999], "state": 1}))
    arguments = {"monitor": (0, 2.0), "serial_history": (10,)}[call]
    with pytest.raises(PropolisProtocol):
        getattr(api, call)(*arguments)


def test_endless_answer_is_cut_off(scripted):
    api, _asked = scripted((200, b" " * (17 << 20)))
    with pytest.raises(PropolisProtocol, match="more than 16777216 bytes"):
        api.instance()


def test_something_else_than_http():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def talk():
            connection, _peer = other.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        api = PropolisApi(f"http://127.0.0.1:{other.getsockname()[1]}", "1.0.0")
        with pytest.raises(PropolisUnreachable, match="this is not HTTP"):
            api.instance()
        thread.join()


def test_proxies_of_the_environment_are_not_used(make_server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert client(make_server()).instance() is None


RECORD = {"msg": "request completed", "v": 0, "name": "propolis-server", "level": 30}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (json.dumps(RECORD), "request completed"),
        (
            json.dumps({**RECORD, "error_message_internal": "no memory"}),
            "request completed; error_message_internal: no memory",
        ),
        (
            json.dumps({**RECORD, "level": 50, "msg": "failed", "error": "x"}),
            "error: failed; error: x",
        ),
        (json.dumps({**RECORD, "level": []}), "request completed"),
        ("thread 'main' panicked at x.rs:", "thread 'main' panicked at x.rs:"),
        ("[" * 100000, "[" * 100000),
        ("17", "17"),
        ('{"msg": 17}', '{"msg": 17}'),
    ],
)
def test_log_line_for_people(line, text):
    assert readable(line) == text


def test_end_of_the_log(tmp_path):
    path = tmp_path / "propolis.log"
    assert log_tail(str(path)) == ""
    path.write_text("".join(f"{json.dumps({**RECORD, 'msg': str(n)})}\n" for n in range(2000)))
    assert log_tail(str(path), 2) == "1998\n1999"
