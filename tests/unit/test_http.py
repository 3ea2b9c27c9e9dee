# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door to HTTP: any answer is one, redirects are bounded and safe, and what breaks says how far it came."""

from __future__ import annotations

import contextlib
import io
import socket
import threading

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import HttpFailed
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host import http
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.http import (
    Request,
    Response,
    send,
    shown,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Wire:
    """A server that says prepared bytes, one answer for each connection, and keeps what it was asked."""

    def __init__(self, *answers):
        self.answers = answers
        self.asked = []
        self.hold = threading.Event()  # connections are closed when this is set
        self.hold.set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self.hold.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _serve(self):
        for answer in self.answers:
            try:
                connection, _peer = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionError):
                self.asked.append(self._read(connection))
                connection.sendall(answer)
                self.hold.wait(10)

    def _read(self, connection):
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _blank, body = data.partition(b"\r\n\r\n")
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            ),
            0,
        )
        while len(body) < length:
            body += connection.recv(65536)
        return head.decode().splitlines(), body


@pytest.fixture
def wire():
    with contextlib.ExitStack() as stack:
        yield lambda *answers: stack.enter_context(Wire(*answers))


def answer(status, *headers, body=b""):
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def to(url, status=302):
    return answer(status, f"Location: {url}")


def headers_of(asked):
    pairs = (line.split(": ", 1) for line in asked[0][1:])
    return {name.lower(): value for name, value in pairs}


def everything(response):
    data = b""
    with response:
        while chunk := response.read(3):
            data += chunk
    return data


@pytest.mark.parametrize("status", [200, 201, 204, 206, 304, 400, 404, 416, 424, 500, 503])
def test_answer_of_any_status_is_an_answer(wire, status):
    body = b"" if status in (204, 304) else b"body"
    server = wire(answer(status, "X-Request-Id: 7", body=body))

    response = send(Request("GET", f"{server.url}/a?b=c"))

    assert (response.status, response.headers["x-request-id"]) == (status, "7")
    assert response.url == f"{server.url}/a?b=c"
    assert everything(response) == body
    assert response.received == len(body)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE", "PATCH"])
def test_method_headers_and_body_are_sent_as_they_are(wire, method):
    server = wire(OK)

    send(Request(method, server.url + "/x", {"api-version": "1.0.0"}, b'{"gen": 1}')).close()

    [(lines, body)] = server.asked
    assert lines[0] == f"{method} /x HTTP/1.1"
    assert headers_of(server.asked[0])["api-version"] == "1.0.0"
    assert body == b'{"gen": 1}'


def test_head_has_a_length_and_no_body(wire):
    server = wire(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    response = send(Request("HEAD", server.url))
    assert (response.length, everything(response)) == (5000, b"")


def test_encoding_is_not_undone(wire):
    server = wire(answer(200, "Content-Encoding: gzip", body=b"\x1f\x8bnot really"))
    assert everything(send(Request("GET", server.url))) == b"\x1f\x8bnot really"


def test_chunks_are_put_together(wire):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = wire(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    response = send(Request("GET", server.url))
    assert (response.length, everything(response)) == (None, b"abcde")


@pytest.mark.parametrize("sent", [b"", b"hel"])
def test_body_that_is_cut_off_is_noticed(wire, sent):
    server = wire(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + sent)
    response = send(Request("GET", server.url))
    with pytest.raises(HttpFailed, match=f"was closed after {len(sent)} of 5 bytes"):
        everything(response)


def test_chunks_that_are_cut_off_are_noticed(wire):
    server = wire(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc")
    with pytest.raises(HttpFailed, match="IncompleteRead"):
        everything(send(Request("GET", server.url)))


def test_body_that_stalls_is_given_up(wire):
    server = wire(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel")
    server.hold.clear()
    response = send(Request("GET", server.url, timeout=1.0))
    with pytest.raises(HttpFailed, match="no answer in time") as caught:
        everything(response)
    assert caught.value.details["timed_out"] is True


def test_silence_is_given_up(wire):
    server = wire(b"")
    server.hold.clear()
    with pytest.raises(HttpFailed, match="no answer in time") as caught:
        send(Request("GET", server.url, timeout=0.2))
    assert caught.value.details["timed_out"] is True


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "the connection was closed"),
        (b"SSH-2.0-OpenSSH\r\n", "this is not HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", "this is not HTTP"),
    ],
)
def test_what_is_no_answer_is_said(wire, said, reason):
    server = wire(said)
    with pytest.raises(HttpFailed, match=reason) as caught:
        send(Request("GET", server.url))
    assert "timed_out" not in caught.value.details


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(HttpFailed, match="Connection refused"):
            send(Request("GET", f"http://127.0.0.1:{free.getsockname()[1]}"))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/x",
        "/etc/passwd",
        "",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:1/a b\r\nX: y",
        "http://[::1",
        "http://",
    ],
)
def test_url_that_cannot_be_asked_is_refused(url):
    with pytest.raises(HttpFailed):
        send(Request("GET", url))


def test_redirects_are_answers_unless_they_are_asked_for(wire):
    server = wire(to("/b"))
    response = send(Request("GET", server.url))
    assert (response.status, response.headers["location"]) == (302, "/b")
    response.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(wire, status):
    server = wire(to("/b/c", status), to("d?e=f", status), OK)

    response = send(Request("GET", f"{server.url}/a", redirects=2))

    assert (response.url, everything(response)) == (f"{server.url}/b/d?e=f", b"hello")


def test_one_redirect_too_many_is_an_answer(wire):
    server = wire(to("/b"), to("/c"), to("/d"))
    response = send(Request("GET", server.url, redirects=2))
    assert (response.status, response.url) == (302, f"{server.url}/c")
    response.close()


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_requests_that_change_something_are_not_sent_on(wire, method):
    server = wire(to("/b", 307))
    response = send(Request(method, server.url, redirects=5))
    assert response.status == 307
    response.close()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/", "gopher://x/"])
def test_redirect_to_another_kind_of_url_is_refused(wire, target):
    server = wire(to(target))
    with pytest.raises(HttpFailed, match="which is less safe"):
        send(Request("GET", server.url, redirects=5))


def test_redirect_out_of_encryption_is_refused(monkeypatch):
    asked = []

    def exchange(request):
        asked.append(request.url)
        return Response(302, {"location": "http://example.org/b"}, request, io.BytesIO())

    monkeypatch.setattr(http, "_exchange", exchange)

    with pytest.raises(HttpFailed, match="which is less safe"):
        send(Request("GET", "https://example.org/a", redirects=5))

    assert asked == ["https://example.org/a"]


@pytest.mark.parametrize(("elsewhere", "sent"), [(False, True), (True, False)])
def test_secrets_stay_with_their_origin(wire, elsewhere, sent):
    other = wire(OK)
    server = wire(to(f"{other.url}/b" if elsewhere else "/b"), OK)
    secrets = {"Authorization": "Bearer x", "Cookie": "y", "Accept": "z"}

    send(Request("GET", server.url, secrets, redirects=1)).close()

    last = headers_of((other if elsewhere else server).asked[-1])
    assert ("authorization" in last, "cookie" in last) == (sent, sent)
    assert last["accept"] == "z"


def test_proxy_is_used_only_if_asked_for(wire, monkeypatch):
    proxy, server = wire(OK), wire(OK)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)

    send(Request("GET", server.url, proxies=False)).close()
    send(Request("GET", server.url)).close()

    assert (len(server.asked), len(proxy.asked)) == (1, 1)
    assert proxy.asked[0][0][0] == f"GET {server.url} HTTP/1.1"


def test_netrc_is_not_read(wire, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login u password p\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    server = wire(OK)

    send(Request("GET", server.url)).close()

    assert "authorization" not in headers_of(server.asked[0])


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://user:secret@example.org/a?token=secret#secret", "https://example.org/a"),
        ("http://127.0.0.1:80/x", "http://127.0.0.1:80/x"),
        ("http://[::1/x", "a URL that cannot be read"),
    ],
)
def test_urls_are_shown_without_secrets(url, text):
    assert shown(url) == text


def test_errors_hold_no_secrets():
    with pytest.raises(HttpFailed) as caught:
        send(Request("GET", "http://user:hunter2@127.0.0.1:1/?key=hunter2", timeout=1.0))
    assert "hunter2" not in f"{caught.value.message}{caught.value.details}"
