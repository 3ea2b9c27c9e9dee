# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pretended propolis-server in a thread of the test: quick to start, and its insides can be looked at."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from .propolis_server import Host, PropolisServer


class ThreadHost(Host):
    """A host of its own in a folder: a bootrom, a disk, and the VNICs in ``vnics`` by name."""

    def __init__(self, folder, **settings):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "propolis.json").write_text(json.dumps(settings))
        (folder / "OVMF_CODE.fd").write_bytes(bytes(4096))
        (folder / "disk").write_bytes(bytes(4096))
        super().__init__(str(folder / "OVMF_CODE.fd"), str(folder), str(folder))
        self.log_path = str(folder / "propolis.log")
        self.disk = str(folder / "disk")
        self.vnics = {}
        self.panicked = None
        self.died = threading.Event()

    def mac_of_vnic(self, name):
        return self.vnics.get(name)

    def log(self, msg, level=30, **fields):
        with open(self.log_path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"msg": msg, "level": level, **fields}) + "\n")

    def abort(self, reason):
        with open(self.log_path, "a", encoding="utf-8") as stream:
            stream.write(f"thread 'tokio-rt-api' panicked:\n{reason}\n")
        self.panicked = reason
        self.died.set()


class ServerThread:
    """A context manager: the server listens on a free port of 127.0.0.1 until the block ends or it panics."""

    def __init__(self, host):
        self.host = host
        self.server = None
        self.port = None
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = None
        self._thread = threading.Thread(target=self._run)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the server did not start")
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def stop(self):
        """End the server as a kill does: nobody is told, and the kernel's machine stays."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)

    def _run(self):
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self):
        self._stop = asyncio.Event()
        self.server = PropolisServer(self.host)
        runner = web.AppRunner(self.server.app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._ready.set()
        while not self._stop.is_set() and not self.host.died.is_set():
            await asyncio.sleep(0.005)
        others = asyncio.all_tasks() - {asyncio.current_task()}  # requests that wait, too
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await runner.cleanup()
        await self._loop.shutdown_default_executor()


def ask(url, method, path, body=None, **headers):
    """Send one request with plain means; return its status and what the answer's JSON says.

    ``body`` is bytes or what JSON is made of. Headers have underscores for dashes; ``None`` leaves a usual one out.
    """
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    usual = {"api_version": "1.0.0", "content_type": "application/json", **headers}
    sent = {name.replace("_", "-"): value for name, value in usual.items() if value is not None}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        data = response.read()
        return response.status, json.loads(data) if data else None
    finally:
        connection.close()
