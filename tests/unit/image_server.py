# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A web server for images that behaves, or misbehaves in one chosen way after the other: real HTTP over real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

MIB = 1024 * 1024
BOOT_SECTOR = bytes(510) + b"\x55\xaa"


def raw_disk(size=3 * MIB, seed=b"x"):
    """Return a raw disk with a boot sector and bytes that are the same each time."""
    block = b"".join(
        hashlib.sha512(seed + bytes([n % 256, n // 256])).digest() for n in range(1024)
    )
    return (BOOT_SECTOR + block * (size // len(block) + 1))[:size]


def digest(data, algorithm="sha256"):
    """Return a digest as tasks give it."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass
class Asked:
    """A request that the server got; header names are in lower case."""

    path: str
    headers: dict[str, str]

    @property
    def range(self):
        return self.headers.get("range")


@dataclass
class ImageServer:
    """Serves ``files`` by path. ``faults`` are used up, one for each request; then it behaves.

    Without ``etags`` no version has a name, without ``ranges`` a file is always sent from its beginning.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[Callable] = field(default_factory=list)
    etags: bool = True
    ranges: bool = True
    asked: list[Asked] = field(default_factory=list)
    context: ssl.SSLContext | None = None
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self):
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = False
        self._http.world = self
        if self.context:
            self._http.socket = self.context.wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self.released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def url(self, path="/disk.raw"):
        scheme = "https" if self.context else "http"
        return f"{scheme}://127.0.0.1:{self._http.server_port}{path}"

    def serve(self, data, path="/disk.raw"):
        """Serve these bytes and return their URL."""
        self.files[path] = data
        return self.url(path)

    def asked_for(self, path="/disk.raw"):
        return [asked for asked in self.asked if asked.path == path]


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 32

    def handle_error(self, request, client_address):
        """A client that goes away is what the tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def log_message(self, *args):
        """Say nothing."""

    def do_GET(self):
        self.close_connection = True
        world = self.server.world
        path = self.path.partition("?")[0]
        world.asked.append(Asked(self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.body = world.files.get(path)
        fault = world.faults.pop(0) if world.faults else None
        if fault:
            fault(self)
        elif self.body is None:
            self.answer(404, b"there is nothing")
        else:
            self.send_file()

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @property
    def etag(self):
        return f'"{hashlib.md5(self.body).hexdigest()}"' if self.server.world.etags else None

    def send_file(self, length=None):
        """Send what was asked for; ``length`` is how many bytes of it."""
        if self.etag and self.headers.get("If-None-Match") == self.etag:
            self.send_response(304)
            self.end_headers()
            return
        start = self.begin_file()
        self.wfile.write(self.body[start:][:length])
        self.wfile.flush()

    def begin_file(self, announced=None):
        """Send the headers for what was asked for; return where it begins."""
        start = self._start()
        whole = len(self.body)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if self.etag:
            self.send_header("ETag", self.etag)
        self.send_header("Content-Length", str(whole - start if announced is None else announced))
        self.end_headers()
        return start

    def _start(self):
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not match or not self.server.world.ranges:
            return 0
        condition = self.headers.get("If-Range")
        return int(match[1]) if condition in (None, self.etag) else 0


def status(code):
    """Answer with an error."""
    return lambda handler: handler.answer(code, b"no")


def redirect(location, code=302):
    """Send the client elsewhere."""
    return lambda handler: handler.answer(code, Location=location)


def cut(length, *, reset=False):
    """Send so many bytes of what was asked for, then end the connection: in order, or by a reset."""

    def fault(handler):
        handler.send_file(length)
        if reset:
            time.sleep(0.05)  # what was sent should arrive
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()

    return fault


def announce(length):
    """Say that the file has another length than it has."""

    def fault(handler):
        start = handler.begin_file(announced=length)
        handler.wfile.write(handler.body[start:])

    return fault


def chunked(handler):
    """Send the file in chunks, without saying how long it is."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for at in range(0, len(handler.body), 100_000):
        piece = handler.body[at : at + 100_000]
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def of_unknown_length(handler):
    """Send the file until the connection ends, as HTTP/1.0 did."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(handler.body)


def silent_after(length):
    """Send so many bytes, then nothing more until the server ends."""

    def fault(handler):
        handler.send_file(length)
        handler.server.world.released.wait(20)

    return fault


def trickling(handler):
    """Send the file byte by byte."""
    start = handler.begin_file()
    with contextlib.suppress(OSError):
        for at in range(start, len(handler.body)):
            handler.wfile.write(handler.body[at : at + 1])
            if handler.server.world.released.wait(0.02):
                return


def slowly(seconds):
    """Wait before the file is sent."""

    def fault(handler):
        handler.server.world.released.wait(seconds)
        handler.send_file()

    return fault
