# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The QMP client against servers that behave in every way a socket allows."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    QmpCommandFailed,
    QmpConnectFailed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.json_lines import (
    LINE_LIMIT,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.qmp import (
    EVENTS_KEPT,
    Event,
    Qmp,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.fake_qmp import (
    GREETING,
    FakeQmp,
    event,
)

SHORT = 0.3  # seconds: the time limit where the test expects it to be reached
ENOUGH = 2.0  # seconds: the time limit where another thread does something before that
LONG = 20.0  # seconds: the time limit where the test expects an end long before
SLACK = 8.0  # seconds: what a busy machine may add
RUNNING = {"return": {"status": "running", "running": True}}
STOP = json.dumps(event("STOP")).encode() + b"\r\n"


@contextlib.contextmanager
def takes(seconds):
    """Check that the block takes this long: no shorter, and hardly longer."""
    start = time.monotonic()
    yield
    assert seconds <= time.monotonic() - start < seconds + SLACK


def greeted(after):
    """Return a script that does as ``after`` says once the conversation has begun."""

    def script(session):
        session.greet()
        after(session)

    return script


def answering(text):
    """Return what sends one line after the next request, and then nothing more."""

    def act(session):
        session.hear()
        session.raw(text + b"\r\n")
        session.stay()

    return act


@contextlib.contextmanager
def conversation(path, script):
    """Serve by ``script`` once the conversation has begun, and give the client."""
    with FakeQmp(path, greeted(script)), Qmp.connect(path, LONG) as qmp:
        yield qmp


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "qmp.sock")


# Beginning


def test_connects_and_knows_the_version(path):
    with FakeQmp(path, greeted(lambda s: s.answer(query_status=RUNNING))):
        with Qmp.connect(path, LONG) as qmp:
            assert qmp.version == (7, 2, 11)
            assert qmp.execute("query-status") == {"status": "running", "running": True}
            assert not qmp.closed

        assert qmp.closed


def test_path_may_be_longer_than_an_address(tmp_path):
    folder = tmp_path / ("f" * 200)
    folder.mkdir()
    path = str(folder / "qmp.sock")

    with conversation(path, lambda s: s.answer(query_status=RUNNING)) as qmp:
        assert qmp.execute("query-status")["status"] == "running"


def test_path_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with FakeQmp("qmp.sock", greeted(lambda s: s.stay())), Qmp.connect("qmp.sock", LONG) as qmp:
        assert qmp.version == (7, 2, 11)


def test_over_a_socket_that_is_there_already():
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(json.dumps(GREETING).encode() + b'\r\n{"error": 1')
        theirs.shutdown(socket.SHUT_WR)

        with takes(0), pytest.raises(QmpConnectFailed, match="the connection was closed"):
            Qmp.over(ours, LONG)

        assert ours.fileno() == -1


def test_over_answers_as_connect_does():
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=greet_and_reset, args=(theirs,))
    server.start()

    with takes(0), Qmp.over(ours, LONG) as qmp:
        assert qmp.version == (7, 2, 11)

    server.join()


def test_no_socket(path):
    with takes(0), pytest.raises(QmpConnectFailed) as failed:
        Qmp.connect(path, LONG)

    assert failed.value.message == f"Could not connect to the QMP socket {path}: it does not exist."
    assert failed.value.code == "vm_manager.qemu.qmp_connect_failed"
    assert failed.value.help


def test_nobody_listens(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    with takes(0), pytest.raises(QmpConnectFailed, match="nothing listens there"):
        Qmp.connect(path, LONG)


def test_socket_name_too_long_for_the_system(tmp_path):
    with takes(0), pytest.raises(QmpConnectFailed, match="File name too long"):
        Qmp.connect(f"{tmp_path}/{'f' * 300}/qmp.sock", LONG)


def test_folder_in_the_path_is_a_file(tmp_path):
    (tmp_path / "file").touch()

    with takes(0), pytest.raises(QmpConnectFailed, match="Not a directory"):
        Qmp.connect(f"{tmp_path}/file/qmp.sock", LONG)


NO_BEGINNING = {
    "end at once": (lambda s: None, "gave no greeting: the connection was closed."),
    "text": (lambda s: s.raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "this is not QMP: b'SSH-2.0-OpenSSH"),
    "bytes": (lambda s: s.raw(b"\x1b[2J\xff\xfe\x00\n"), r"this is not QMP: b'\x1b[2J\xff"),
    "list": (lambda s: s.raw(b"[1, 2]\n"), "this is not QMP: b'[1, 2]'"),
    "deep nesting": (lambda s: s.raw(b"[" * 100_000 + b"\n"), "this is not QMP: b'[[["),
    "another object": (lambda s: s.say({"hello": 1}), "this is not QMP: {'hello': 1}"),
    "no version": (lambda s: s.say({"QMP": {"version": None}}), "this is not QMP: {'QMP'"),
    "half a line": (lambda s: s.raw(b'{"QMP": {"ver'), "no greeting: the connection was closed."),
    "end after it": (lambda s: s.say(GREETING), "The command qmp_capabilities failed"),
    "no newline": (lambda s: s.flood(b"x" * 65536), f"a line of more than {LINE_LIMIT} bytes"),
}


@pytest.mark.parametrize(("script", "sentence"), NO_BEGINNING.values(), ids=NO_BEGINNING)
def test_no_beginning_is_seen_at_once(path, script, sentence):
    with FakeQmp(path, script), takes(0), pytest.raises(QmpConnectFailed) as failed:
        Qmp.connect(path, LONG)

    assert sentence in failed.value.message
    assert path in failed.value.message
    assert len(failed.value.message) < 400


SILENT_BEGINNING = {
    "silence": (lambda s: s.stay(), "no answer in 0.3 s; another client may hold it"),
    "half a greeting": (lambda s: (s.raw(b'{"QMP": {'), s.stay()), "no answer in 0.3 s; another"),
    "trickle": (lambda s: s.trickle(), "no answer in 0.3 s; another client may hold it"),
}


@pytest.mark.parametrize(("script", "sentence"), SILENT_BEGINNING.values(), ids=SILENT_BEGINNING)
def test_no_beginning_in_time(path, script, sentence):
    with FakeQmp(path, script), takes(SHORT), pytest.raises(QmpConnectFailed) as failed:
        Qmp.connect(path, SHORT)

    assert sentence in failed.value.message


def test_greeting_is_no_beginning(path):
    with FakeQmp(path, lambda s: (s.say(GREETING), s.stay())), takes(ENOUGH):
        with pytest.raises(
            QmpConnectFailed, match="The command qmp_capabilities failed on the QMP"
        ):
            Qmp.connect(path, ENOUGH)


def test_refused_capabilities(path):
    def script(session):
        session.say(GREETING)
        refusal = {"class": "GenericError", "desc": "not today"}
        session.say({"error": refusal, "id": session.hear()["id"]})

    with FakeQmp(path, script), takes(0), pytest.raises(QmpConnectFailed, match="not today"):
        Qmp.connect(path, LONG)


def test_second_client_is_served_when_the_first_has_left(path):
    with FakeQmp(path, greeted(lambda s: s.answer(query_status=RUNNING))):
        first = Qmp.connect(path, LONG)
        with first, takes(SHORT), pytest.raises(QmpConnectFailed, match="serves one at a time"):
            Qmp.connect(path, SHORT)
        with takes(0), Qmp.connect(path, LONG) as second:
            assert second.execute("query-status")["running"]


def test_full_queue_of_clients_is_waited_for_within_the_limit(path):
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as clients:
        listener.bind(path)
        listener.listen(0)
        clients.enter_context(socket.socket(socket.AF_UNIX)).connect(path)

        with takes(SHORT), pytest.raises(QmpConnectFailed, match=r"took no client in 0\.3 s"):
            Qmp.connect(path, SHORT)


# Commands


def test_request_has_arguments_only_if_given(path):
    answers = {"cont": {"return": {}}, "device_del": {"return": {}}}
    with FakeQmp(path, greeted(lambda s: s.answer(**answers))) as server:
        with Qmp.connect(path, LONG) as qmp:
            assert qmp.execute("cont") == {}
            assert qmp.execute("device_del", {"id": "d\u00e9\n"}) == {}

        first, second = server.sessions[0].heard[1:]
        assert set(first) == {"execute", "id"}
        assert second["arguments"] == {"id": "d\u00e9\n"}
        assert first["id"] != second["id"]


def test_large_answer(path):
    big = ["x" * 1000] * 5000
    with takes(0), conversation(path, lambda s: s.answer(big={"return": big})) as qmp:
        assert qmp.execute("big", timeout=LONG) == big


def test_short_line_after_one_that_came_in_pieces(path):
    def act(session):
        request = session.hear()
        session.raw(STOP[:60])
        time.sleep(0.1)
        session.raw(STOP[60:] + json.dumps({"return": 1, "id": request["id"]}).encode() + b"\n")
        session.stay()

    with takes(0), conversation(path, act) as qmp:
        assert qmp.execute("cont", timeout=LONG) == 1


def test_refusal_keeps_qemus_words_and_not_the_arguments(path):
    error = {"class": "DeviceNotFound", "desc": "Device 'disk9' not found"}
    with conversation(path, lambda s: s.answer(set_password={"error": error})) as qmp:
        with takes(0), pytest.raises(QmpCommandFailed) as failed:
            qmp.execute("set-password", {"password": "hunter2"})
        with pytest.raises(QmpCommandFailed) as unknown:
            qmp.execute("no-such")

    assert failed.value.message == (
        "QEMU refused the command set-password: Device 'disk9' not found (DeviceNotFound)."
    )
    assert failed.value.code == "vm_manager.qemu.qmp_command_failed"
    assert failed.value.details == {
        "command": "set-password",
        "error_class": "DeviceNotFound",
        "desc": "Device 'disk9' not found",
    }
    assert unknown.value.details["error_class"] == "CommandNotFound"


def test_refusal_without_id_is_of_a_request_that_qemu_could_not_read(path):
    refusal = b'{"error": {"class": "GenericError", "desc": "Invalid JSON syntax"}}'
    with (
        conversation(path, answering(refusal)) as qmp,
        takes(0),
        pytest.raises(QmpCommandFailed, match="Invalid JSON syntax"),
    ):
        qmp.execute("cont", timeout=LONG)


def test_events_before_the_answer_are_kept(path):
    def act(session):
        request = session.hear()
        session.say(event("RESUME"), event("SHUTDOWN", guest=True, reason="guest-shutdown"))
        session.say({"return": 7, "id": request["id"]})
        session.stay()

    with conversation(path, act) as qmp:
        assert qmp.execute("cont") == 7
        assert [kept.name for kept in qmp.events] == ["RESUME", "SHUTDOWN"]
        assert qmp.wait_event("STOP", "SHUTDOWN", timeout=0) == Event(
            "SHUTDOWN", {"guest": True, "reason": "guest-shutdown"}, 1700000000.25
        )
        assert [kept.name for kept in qmp.events] == ["RESUME"]


def test_late_answer_is_not_taken_for_the_next(path):
    def act(session):
        slow = session.hear()
        quick = session.hear()
        session.say({"return": "slow", "id": slow["id"]}, {"return": "quick", "id": quick["id"]})
        session.stay()

    with conversation(path, act) as qmp:
        with takes(SHORT), pytest.raises(QmpCommandFailed, match=r"no answer in 0\.3 s"):
            qmp.execute("slow", timeout=SHORT)
        with takes(0):
            assert qmp.execute("quick", timeout=LONG) == "quick"


def test_ids_of_two_conversations_differ(path):
    with FakeQmp(path, greeted(lambda s: s.answer())) as server:
        for turn in range(2):
            with Qmp.connect(path, LONG) as qmp, pytest.raises(QmpCommandFailed):
                qmp.execute(f"turn-{turn}")
        ids = [request["id"] for session in server.sessions for request in session.heard]

    assert len(ids) == len(set(ids)) == 4


NO_ANSWER = {
    "silence": lambda s: s.stay(),
    "half a line": lambda s: (s.hear(), s.raw(b'{"return": {'), s.stay()),
    "wrong ids": lambda s: s.flood(b'{"return": {}, "id": "another"}\r\n'),
    "no id": lambda s: (s.hear(), s.say({"return": {}}), s.stay()),
    "flood of events": lambda s: s.flood(STOP * 100),
    "trickle": lambda s: s.trickle(),
}


@pytest.mark.parametrize("script", NO_ANSWER.values(), ids=NO_ANSWER)
def test_no_answer_in_time(path, script):
    with conversation(path, script) as qmp:
        with takes(SHORT), pytest.raises(QmpCommandFailed) as failed:
            qmp.execute("query-status", timeout=SHORT)
        assert not qmp.closed

    assert failed.value.message == (
        f"The command query-status failed on the QMP socket {path}: no answer in 0.3 s."
    )
    assert failed.value.details["command"] == "query-status"


def test_request_that_nobody_reads_keeps_to_the_limit(path):
    ended = threading.Event()
    with conversation(path, lambda s: ended.wait(LONG)) as qmp:
        with takes(SHORT), pytest.raises(QmpCommandFailed, match="no answer"):
            qmp.execute("big", {"data": "x" * 10_000_000}, timeout=SHORT)
        ended.set()
        assert qmp.closed, "half a request has gone out, so nothing can follow it"


BROKEN_ANSWER = {
    "end": (lambda s: s.hear(), "the connection was closed."),
    "half a line": (lambda s: (s.hear(), s.raw(b'{"ret')), "the connection was closed."),
    "garbage": (answering(b"Segmentation fault"), "this is not QMP: b'Segmentation fault"),
    "number": (answering(b"42"), "this is not QMP: b'42"),
    "event without time": (answering(b'{"event": "STOP"}'), "this is not QMP: {'event': 'STOP'}"),
    "no newline": (lambda s: s.flood(b"x" * 65536), f"a line of more than {LINE_LIMIT} bytes"),
}


@pytest.mark.parametrize(("script", "sentence"), BROKEN_ANSWER.values(), ids=BROKEN_ANSWER)
def test_broken_answer_is_seen_at_once_and_ends_the_conversation(path, script, sentence):
    with conversation(path, script) as qmp:
        with takes(0), pytest.raises(QmpCommandFailed) as failed:
            qmp.execute("query-status", {"secret": "hunter2"}, timeout=LONG)
        assert qmp.closed
        with takes(0), pytest.raises(QmpCommandFailed, match="the connection was closed"):
            qmp.execute("query-status", timeout=LONG)

    assert sentence in failed.value.message
    assert "hunter2" not in failed.value.message + str(failed.value.details)


def test_answer_that_neither_returns_nor_refuses(path):
    with (
        conversation(path, lambda s: s.answer(odd={"result": 1})) as qmp,
        takes(0),
        pytest.raises(QmpCommandFailed, match="this is not QMP"),
    ):
        qmp.execute("odd", timeout=LONG)


def test_last_words_are_read_though_the_request_cannot_be_sent(path):
    def act(session):
        session.say(event("SHUTDOWN", reason="host-signal"))

    with FakeQmp(path, greeted(act)) as server, Qmp.connect(path, LONG) as qmp:
        deadline = time.monotonic() + LONG
        while not server.sessions[0].closed:
            assert time.monotonic() < deadline, "the server keeps the connection"
            time.sleep(0.01)
        with takes(0), pytest.raises(QmpCommandFailed) as failed:
            qmp.execute("query-status", timeout=LONG)
        last = qmp.wait_event("SHUTDOWN", timeout=LONG)

    assert failed.value.details["last_events"] == ["SHUTDOWN"]
    assert last.data["reason"] == "host-signal"


# Events


def test_awaited_event_arrives_and_others_are_kept(path):
    def act(session):
        session.say(event("RESUME"))
        time.sleep(SHORT)
        session.say(event("STOP"), event("POWERDOWN"))
        session.stay()

    with conversation(path, act) as qmp:
        with takes(0):
            assert qmp.wait_event("STOP", "SHUTDOWN", timeout=LONG).name == "STOP"
            assert qmp.wait_event("POWERDOWN", timeout=LONG).name == "POWERDOWN"
            assert qmp.wait_event("RESUME", timeout=LONG).name == "RESUME"
        assert not qmp.events


def test_no_time_is_enough_for_what_has_arrived(path):
    begun, said = threading.Event(), threading.Event()

    def act(session):
        begun.wait(LONG)
        session.say(event("RESUME"), event("STOP"))
        said.set()
        session.stay()

    with conversation(path, act) as qmp:
        begun.set()
        assert said.wait(LONG)
        assert qmp.wait_event("STOP", timeout=0).name == "STOP"


NO_EVENT = {
    "silence": lambda s: s.stay(),
    "half a line": lambda s: (s.raw(STOP[:20]), s.stay()),
    "other events": lambda s: s.flood(STOP),
    "trickle": lambda s: s.trickle(),
}


@pytest.mark.parametrize("script", NO_EVENT.values(), ids=NO_EVENT)
def test_no_event_in_time(path, script):
    with conversation(path, script) as qmp:
        with takes(SHORT):
            assert qmp.wait_event("SHUTDOWN", timeout=SHORT) is None
        assert not qmp.closed


def test_only_the_latest_events_are_kept(path):
    def act(session):
        session.say(*(event("N", n=n) for n in range(EVENTS_KEPT + 10)), event("LAST"))
        session.stay()

    with conversation(path, act) as qmp:
        assert qmp.wait_event("LAST", timeout=LONG)
        assert [kept.data["n"] for kept in qmp.events] == list(range(10, EVENTS_KEPT + 10))


@pytest.mark.parametrize("names", [("SHUTDOWN",), ()], ids=["of a name", "of no name"])
def test_wait_ends_with_the_conversation(path, names):
    with conversation(path, lambda s: s.say(event("STOP"))) as qmp:
        with takes(0):
            assert qmp.wait_event(*names, timeout=LONG) is None
        assert qmp.closed
        with takes(0):
            assert qmp.wait_event("SHUTDOWN", timeout=LONG) is None
            assert qmp.wait_event("STOP", timeout=LONG).name == "STOP"


def test_wait_ends_with_a_reset(path):
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=greet_and_reset, args=(theirs,))
    server.start()
    with Qmp.over(ours, LONG) as qmp:
        with takes(0), pytest.raises(QmpCommandFailed, match="the connection was closed"):
            qmp.execute("quit", timeout=LONG)
        assert qmp.wait_event("SHUTDOWN", timeout=LONG) is None
        assert qmp.closed
    server.join()


def greet_and_reset(sock):
    """Close with part of a request unread, which resets a UNIX connection."""
    with sock, sock.makefile("rb", buffering=0) as requests:
        sock.sendall(json.dumps(GREETING).encode() + b"\n")
        request = json.loads(requests.readline())
        sock.sendall(json.dumps({"return": {}, "id": request["id"]}).encode() + b"\n")
        requests.read(1)


def test_garbage_while_waiting(path):
    with conversation(path, lambda s: s.raw(b"oops\n" + STOP)) as qmp:
        with takes(0), pytest.raises(QmpCommandFailed) as failed:
            qmp.wait_event("STOP", "SHUTDOWN", timeout=LONG)
        assert qmp.closed
        assert qmp.wait_event("STOP", timeout=0) is None, "nothing after garbage can be trusted"

    assert failed.value.message == (
        f"The wait for STOP or SHUTDOWN failed on the QMP socket {path}: this is not QMP: b'oops'."
    )
