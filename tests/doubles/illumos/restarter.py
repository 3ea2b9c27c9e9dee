# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs one service as svc.startd does: starts its method by a shell, and again when it ends, until it is disabled.

The process outlives the program that asked for it. It and all it starts are one process group. What it knows of the
real one is from svc.startd(8), smf_method(7) and usr/src/cmd/svc/startd/{method,wait}.c of illumos-gate.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time

from machine import started

ERR_CONFIG = 96  # SMF_EXIT_ERR_CONFIG
WATCHED = {signal.SIGCHLD, signal.SIGUSR1}
PATH = "/usr/sbin:/usr/bin"
FAST = 5  # ends within a second, after which it is started only once a second


def start(machine, zone, fmri):
    """Start the restarter of a service; return at once."""
    if os.fork():
        return
    try:
        os.setsid()
        if os.fork() == 0:
            detach(machine)
            Restarter(machine, zone, fmri).run()
    except BaseException:
        import traceback

        with open(machine.path("restarter-errors.log"), "a", encoding="utf-8") as stream:
            traceback.print_exc(file=stream)
    finally:
        os._exit(0)


def detach(machine):
    os.setpgid(0, 0)
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, 1024)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    os.environ["ILLUMOS_DOUBLE"] = machine.folder


class Restarter:
    def __init__(self, machine, zone, fmri):
        self.machine = machine
        self.zone = zone
        self.fmri = fmri
        self.me = [os.getpid(), started(os.getpid())]
        self.starts = []

    @contextlib.contextmanager
    def service(self):
        """Give the service if it is still ours to run, or None."""
        with self.machine.locked() as state:
            found = state["services"].get(self.zone, {}).get(self.fmri)
            mine = found is not None and found["restarter"] in (None, self.me)
            yield None if state["closed"] or not mine else found

    def run(self):
        with self.machine.locked() as state:
            found = state["services"].get(self.zone, {}).get(self.fmri)
            if found is None or state["closed"] or not found["enabled"]:
                return
            if found["restarter"] and started(found["restarter"][0]) == found["restarter"][1]:
                return
            found["restarter"] = self.me
        while self.once():
            self.throttle()

    def once(self):
        """Start the method and watch it; tell whether it is to be started again."""
        with self.service() as service:
            if service is None:
                return False
            if not service["enabled"]:
                return self.leave(service, "disabled")
            method, child = service["method"], self.fork(service)
            service.update(state="online", child=[child, started(child)])
        status = self.watch(child, method)
        with self.service() as service:
            if service is None:
                return False
            service["child"] = None
            if status == ERR_CONFIG:
                return self.leave(service, "maintenance")
            if not service["enabled"]:
                return self.leave(service, "disabled")
            service["state"] = "offline"
        return True

    def leave(self, service, state):
        service.update(state=state, restarter=None)
        return False

    def watch(self, child, method):
        """Wait for the end of the method; stop it when the service is disabled or deleted."""
        kill_at = None
        while True:
            left = None if kill_at is None else max(0, kill_at - time.monotonic())
            signal.sigtimedwait(WATCHED, 60 if left is None else left)
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if kill_at is not None and time.monotonic() >= kill_at:
                os.kill(child, signal.SIGKILL)
            elif kill_at is None:
                with self.service() as service:
                    wanted = service is not None and service["enabled"]
                if not wanted:
                    os.kill(child, signal.SIGTERM)  # what :kill does
                    kill_at = time.monotonic() + method["stop_timeout"]

    def throttle(self):
        self.starts = [*self.starts[-FAST:], time.monotonic()]
        if len(self.starts) > FAST and self.starts[-1] - self.starts[0] < FAST:
            signal.sigtimedwait({signal.SIGUSR1}, 1)

    def fork(self, service):
        method, root = service["method"], service["root"]
        os.makedirs(os.path.dirname(service["log"]), exist_ok=True)
        pid = os.fork()
        if pid:
            return pid
        status = 10
        try:
            log = os.open(service["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.closerange(3, 1024)
            command = expand(method["exec"], self.fmri)
            say(f'Executing start method ("{method["exec"]}").')
            if command is None:
                say("Invalid expansion in the method.")
                os._exit(ERR_CONFIG)
            try:
                os.chdir(os.path.join(root, method["folder"].lstrip("/")))
            except OSError as exc:
                say(f"svc.startd could not set context for method: chdir: {exc.strerror}")
                os._exit(ERR_CONFIG)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
            os.execve("/bin/sh", ["sh", "-c", f"exec {command}"], self.environment(method))
        finally:
            os._exit(status)

    def environment(self, method):
        """A clean environment. Only on a path with /usr/sbin are the programs that lie there in the real one."""
        given = {"PATH": PATH, **method["environment"]}
        if "/usr/sbin" in given["PATH"].split(":"):
            given["PATH"] = f"{self.machine.path('bin')}:{given['PATH']}"
        given |= {"SMF_FMRI": self.fmri, "SMF_METHOD": "start", "SMF_ZONENAME": self.zone}
        return {**given, "ILLUMOS_DOUBLE": self.machine.folder}


def say(sentence):
    os.write(2, f"[ {time.strftime('%b %e %H:%M:%S')} {sentence} ]\n".encode())


def expand(text, fmri):
    """Replace the method tokens; None if there is one that does not exist."""
    service, dummy, instance = fmri.removeprefix("svc:/").rpartition(":")
    tokens = {"%%": "%", "%m": "start", "%s": service, "%i": instance, "%f": fmri}
    tokens["%r"] = "svc.startd"
    if set(re.findall("%.?", text)) - set(tokens):
        return None
    return re.sub("%.", lambda found: tokens[found[0]], text)
