# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pretended propolis-server that speaks real HTTP and WebSocket and refuses what the real one refuses.

As a program: ``propolis_server.py run [options] BOOTROM IP:PORT [VNC_IP:PORT]``. ``ILLUMOS_DOUBLE`` names its state
folder: ``propolis.json`` there has what tests choose (``Settings``), ``dev/vmm`` the machines of the kernel.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import os
import resource
import socket
import subprocess
import sys
import time
import uuid

from aiohttp import WSMsgType, web

try:
    from . import propolis_model as model
    from .propolis_machine import NO_MIGRATION, Expired, Kernel, Machine, Refused, Settings
except ImportError:  # run as a program
    import propolis_model as model
    from propolis_machine import NO_MIGRATION, Expired, Kernel, Machine, Refused, Settings

MAX_BODY = 1048576
UNINITIALIZED = (424, "NoInstance", "Server not initialized (no instance)")
RFB = b"RFB 003.008\n"
CPUID = {"entries": [{"leaf": 0, "subleaf": None, "eax": 1, "ebx": 2, "ecx": 3, "edx": 4}]}


class Failure(Exception):
    """An answer that says no. ``message`` is what the client sees, ``reason`` what only the log says."""

    def __init__(self, status, error_code, message, reason=None):
        super().__init__(message)
        self.status, self.error_code, self.message, self.reason = (
            status,
            error_code,
            message,
            reason,
        )


class Host:
    """What the server has of the computer that it runs on."""

    def __init__(self, bootrom, state_folder=None, folder="."):
        self.bootrom = bootrom
        self.folder = folder
        self.kernel = Kernel(state_folder)
        self.settings = Settings.read(state_folder)

    def mac_of_vnic(self, name):
        """Return a VNIC's MAC address, asked for as the real server does; ``None`` if there is none."""
        try:
            mac = _first_line("dladm", "show-vnic", "-p", "-o", "macaddress", name)
            if mac is not None:
                _first_line("dladm", "show-linkprop", "-c", "-o", "value", "-p", "mtu", name)
            octets = [int(part, 16) for part in (mac or "").split(":")]
        except (OSError, ValueError):
            return None
        return ":".join(f"{octet:02x}" for octet in octets) if len(octets) == 6 else None

    def log(self, msg, level=30, **fields):
        """Write one line in the manner of bunyan."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime())
        head = {"msg": msg, "v": 0, "name": "propolis-server", "level": level, "time": when}
        more = {"hostname": socket.gethostname(), "pid": os.getpid(), **fields}
        sys.stdout.write(json.dumps({**head, **more}) + "\n")
        sys.stdout.flush()

    def abort(self, reason):
        """End as a panic does that was compiled to abort."""
        words = f"thread 'tokio-rt-api' panicked at bin/propolis-server/src/lib/initializer.rs:\n{reason}\n"
        sys.stderr.write(words)
        sys.stderr.flush()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.abort()

    def firmware_log(self):
        """Make the file that the firmware writes to, where the server was started."""
        with open(os.path.join(self.folder, "debug.out"), "w", encoding="ascii") as stream:
            stream.write("SecCoreStartupWithStack(0xFFFCC000, 0x820000)\n")


def _first_line(*command):
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    return lines[0] if done.returncode == 0 and lines else None


class PropolisServer:
    """The server. ``machine`` is the one that it has, or had."""

    def __init__(self, host):
        self.host = host
        self.settings = host.settings
        self.machine = None
        self.tasks = set()
        self.app = web.Application(middlewares=[self._frame], client_max_size=0)
        add = self.app.router.add_route
        add("GET", "/instance", self.get)
        add("PUT", "/instance", self.ensure)
        add("GET", "/instance/spec", self.get_spec)
        add("PUT", "/instance/state", self.put_state)
        add("GET", "/instance/state-monitor", self.monitor)
        add("GET", "/instance/serial/history", self.history)
        add("GET", "/instance/serial", self.serial)
        add("GET", "/instance/vnc", self.vnc)
        add("GET", "/instance/migration-status", self.migration_status)
        add("POST", "/instance/nmi", self.nmi)
        add("POST", "/instance/disk/{id}/snapshot/{snapshot}", self.crucible_only)
        add("PUT", "/instance/disk/{id}/vcr", self.crucible_only)
        add("GET", "/instance/disk/{id}/status", self.crucible_only)

    @web.middleware
    async def _frame(self, request, handler):
        """Check the version of every request, even of unknown routes; put every error into the API's shape."""
        request_id = str(uuid.uuid4())
        internal = None
        try:
            self._version(request)
            response = await handler(request)
        except Failure as exc:
            internal = exc.reason
            body = {"request_id": request_id, "message": exc.message}
            if exc.error_code is not None:
                body["error_code"] = exc.error_code
            response = web.json_response(body, status=exc.status)
        except web.HTTPException as exc:  # an unknown route, or a known one with another method
            body = {"request_id": request_id, "message": exc.reason}
            response = web.json_response(body, status=exc.status)
        if not response.prepared:
            response.headers["x-request-id"] = request_id
        facts = {"req_id": request_id, "method": request.method, "uri": request.path_qs}
        if internal is not None:
            facts.update(
                error_message_internal=internal, error_message_external="Internal Server Error"
            )
        self.host.log("request completed", response_code=str(response.status), **facts)
        return response

    def _version(self, request):
        latest = tuple(int(part) for part in self.settings.latest.split("."))
        try:
            return model.parse_version(request.headers.get("api-version"), latest)
        except model.Unparsable as exc:
            raise Failure(400, None, str(exc)) from None

    async def _body(self, request):
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        data = bytearray()
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
            if size <= MAX_BODY:
                data += chunk
        if size > MAX_BODY:
            words = f"request body exceeded maximum size of {MAX_BODY} bytes"
            raise Failure(400, None, words)
        if kind.lower() != "application/json":
            words = f'expected content type "application/json", got "{kind}"'
            raise Failure(400, None, words)
        return bytes(data)

    def _parsed(self, raw, check):
        try:
            value = model.parse_json(raw)
            check(value, "")
        except model.Unparsable as exc:
            text = str(exc).lstrip(".: ")
            raise Failure(400, None, f"unable to parse JSON body: {text}") from None
        return value

    def _known(self):
        if self.machine is None:
            raise Failure(*UNINITIALIZED)
        return self.machine

    def _active(self):
        if self.machine is None or self.machine.phase != "active":
            raise Failure(*UNINITIALIZED)
        return self.machine

    async def ensure(self, request):
        body = self._parsed(await self._body(request), model.request_of(self._version(request)))
        if body["init"]["method"] == "Spec":
            try:
                model.connect(body["init"]["value"]["spec"])
            except model.Inconsistent as exc:
                words = f"failed to generate internal instance spec: {exc}"
                raise Failure(400, None, words) from None
        if self.machine is not None and self.machine.phase != "over":
            raise Failure(409, "AlreadyInitialized", "instance already initialized")
        if body["init"]["method"] != "Spec":
            raise _internal("migration into this server is not pretended")
        machine = self.machine = Machine(body, self.settings, self.host.log, self.host.folder)
        try:
            macs = await self._initialize(machine)
        except model.InitFailed as exc:
            self.host.kernel.destroy(machine.id)
            await machine.failed()
            raise _internal(f"VM initialization failed: {exc}") from None
        except model.Panic as exc:
            request.transport.abort()
            self.host.abort(str(exc))
            raise asyncio.CancelledError from None
        machine.phase = "active"
        self._spawn(machine.live(self.host.kernel, macs))
        return web.json_response({"migrate": None}, status=201)

    async def _initialize(self, machine):
        if self.host.kernel.create(machine.id):
            self.host.log("a VM of this name existed and was destroyed", level=40, vm=machine.id)
        await asyncio.sleep(self.settings.step)
        if self.settings.fail_ensure:
            raise model.InitFailed(self.settings.fail_ensure)
        spec = machine.spec
        ask = self.host.mac_of_vnic
        judge = asyncio.to_thread(model.judge_devices, spec, self.host.bootrom, ask)
        await judge
        self.host.firmware_log()
        nics = model.of_kind(spec["components"], "virtio_nic").values()
        nics = sorted(nics, key=lambda nic: nic["pci_path"]["device"])
        links = [spec["components"][nic["backend_id"]]["component"]["vnic_name"] for nic in nics]
        return [await asyncio.to_thread(ask, link) for link in links]

    def _spawn(self, work):
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def get(self, dummy_request):
        machine = self._known()
        state = {"properties": machine.request["properties"], "state": machine.published.state}
        return web.json_response({"instance": state})

    async def get_spec(self, request):
        machine = self._known()
        spec = json.loads(json.dumps(machine.spec))
        spec["board"]["cpuid"] = {**CPUID, "vendor": "amd"}
        version = self._version(request)
        for disk in model.of_kind(spec["components"], "nvme_disk").values():
            disk.setdefault("has_write_cache", True)
            if version < (6, 0, 0):
                del disk["has_write_cache"]
        if version < (2, 0, 0):
            spec.pop("smbios", None)
            spec = {"version": "V0", "spec": spec}
        return web.json_response(
            {
                "properties": machine.request["properties"],
                "state": machine.published.state,
                "spec": {"type": "Present", "value": spec},
            }
        )

    async def put_state(self, request):
        wish = self._parsed(await self._body(request), model.one_of("Run", "Stop", "Reboot"))
        machine = self._active()
        try:
            machine.accept(wish)
        except Refused as exc:
            words = f"instance state change not allowed: {exc}"
            raise Failure(403, words, "Forbidden") from None
        return web.Response(status=204)

    async def monitor(self, request):
        check = model.record(strict=False, gen=model.number(64))
        gen = self._parsed(await self._body(request), check)["gen"]
        published = self._known().published
        if not await published.reached(gen):
            words = f"No instance present; will never reach generation {gen}"
            raise Failure(410, "NoInstance", words)
        return web.json_response(published.seen())

    async def history(self, request):
        machine = self._active()
        if self.settings.fail_history:
            raise _internal(self.settings.fail_history)
        numbers = _numbers(request, "from_start", "most_recent", "max_bytes")
        if (numbers["from_start"] is None) == (numbers["most_recent"] is None):
            words = "Exactly one of 'from_start' or 'most_recent' must be specified."
            raise Failure(400, None, words)
        try:
            data, end = machine.history.read(**numbers)
        except Expired as exc:
            raise Failure(400, None, str(exc)) from None
        return web.json_response({"data": list(data), "last_byte_offset": end})

    async def serial(self, request):
        numbers = _numbers(request, "from_start", "most_recent")
        socket_ = web.WebSocketResponse()
        await _upgrade(socket_, request)
        machine = self.machine
        if machine is None or machine.phase != "active":
            request.transport.abort()  # upgraded already, so there is nobody to tell
            return socket_
        if (numbers["from_start"] is None) != (numbers["most_recent"] is None):
            data, dummy_end = machine.history.read(**numbers, max_bytes=machine.history.total)
            if data:
                await socket_.send_bytes(data)
        machine.viewers.add(socket_)
        try:
            async for message in socket_:
                if message.type is WSMsgType.BINARY:
                    await machine.type(message.data)
        finally:
            machine.viewers.discard(socket_)
        return socket_

    async def vnc(self, request):
        socket_ = web.WebSocketResponse()
        await _upgrade(socket_, request)
        await socket_.send_bytes(RFB)
        async for dummy_message in socket_:
            pass
        return socket_

    async def migration_status(self, dummy_request):
        self._known()
        return web.json_response(NO_MIGRATION)

    async def nmi(self, dummy_request):
        self._active()
        return web.json_response(None)

    async def crucible_only(self, request):
        self._active()
        raise Failure(404, None, f"Not Found: {request.match_info['id']} is no Crucible backend")


async def _upgrade(socket_, request):
    try:
        await socket_.prepare(request)
    except web.HTTPBadRequest:
        raise Failure(400, None, "expected connection upgrade") from None


def _numbers(request, *names):
    found = dict.fromkeys(names)
    for name in names:
        text = request.query.get(name)
        if text is not None and not (text.isascii() and text.isdigit()):
            raise Failure(400, None, "unable to parse query string: invalid digit found in string")
        found[name] = None if text is None else int(text)
    return found


def _internal(reason):
    return Failure(500, "Internal", "Internal Server Error", reason)


def parse_arguments(argv):
    """Read the command line as the real program's: the first argument is the bootrom, there is no file of settings."""
    parser = argparse.ArgumentParser("propolis-server", allow_abbrev=False)
    run = parser.add_subparsers(required=True).add_parser("run", allow_abbrev=False)
    run.add_argument("--bootrom-version")
    run.add_argument("--metric-addr", default="disable")
    run.add_argument("--log-level", default="INFO")
    run.add_argument("bootrom")
    run.add_argument("address", type=socket_address)
    run.add_argument("vnc", type=socket_address, nargs="?")
    return parser.parse_args(argv)


def socket_address(text):
    """Read IP:PORT or [IPv6]:PORT; a host name is none."""
    host, _colon, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        if not port.isdigit() or int(port) > 65535 or (address.version == 6) != (host[:1] == "["):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid socket address syntax: {text}") from None
    return str(address), int(port)


async def greet(dummy_reader, writer):
    """Begin to speak RFB."""
    writer.write(RFB)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    writer.close()


async def serve(arguments, host):
    """Serve until killed."""
    server = PropolisServer(host)
    runner = web.AppRunner(server.app, handle_signals=False, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, *arguments.address).start()
    if arguments.vnc:
        await asyncio.start_server(greet, *arguments.vnc)
    host.log("listening", local_addr=":".join(str(part) for part in runner.addresses[0][:2]))
    await asyncio.Event().wait()


def main(argv=None):
    """Run as a program."""
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    host = Host(arguments.bootrom, os.environ.get("ILLUMOS_DOUBLE"))
    if host.settings.check_devices:
        for path in ("/dev/vmmctl", "/dev/viona"):
            if not os.path.exists(path):
                host.log(f"Failed to open {path}", level=50)
                return "Error: API version checks"
    host.log("Starting server...")
    try:
        asyncio.run(serve(arguments, host))
    except OSError as exc:
        return f"Error: Failed to start server: {exc}"
    return None


if __name__ == "__main__":
    sys.exit(main())
