# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress of long work, seen on a real terminal: on this host, over SSH, and where nothing of it may be seen."""

from __future__ import annotations

import http.server
import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import second_host
from conftest import BIN, ENVIRONMENT, LOCALHOST, wait_until
from second_host import SshHost, end_masters, free_port

COLLECTION = "ansible_collections.cloudnebula.hypervisor.plugins"
MODULE = f"""\
#!/usr/bin/python
import os
import time
from ansible.module_utils.basic import AnsibleModule
from {COLLECTION}.module_utils._image.progress import VARIABLE, reporting
def main():
    options = dict(seconds=dict(type="float"), notes=dict())
    module = AnsibleModule(options, supports_check_mode=True)
    with open(module.params["notes"], "a") as notes:
        notes.write(os.environ.get(VARIABLE, "none") + chr(10))
    with reporting() as progress:
        for part in range(101):
            progress("download", part << 20, 100 << 20)
            time.sleep(module.params["seconds"] / 100)
    module.exit_json(changed=False)
main()
"""
ACTION = f"""\
from ansible.plugins.action.normal import ActionModule as Normal
from {COLLECTION}.plugin_utils._progress import progress_shown
class ActionModule(Normal):
    def run(self, tmp=None, task_vars=None):
        with progress_shown(self, task_vars):
            return super().run(tmp, task_vars)
"""
# The tests of this project hide the heading of a task until its result is there.
SHOWN = {"ANSIBLE_DISPLAY_SKIPPED_HOSTS": "1"}
ERASED = "\r\x1b[K"
CURSOR = "\x1b["
MIB = 1 << 20


@pytest.fixture
def place(tmp_path):
    """A folder with a module ``slow`` that reports progress, and its action plugin."""
    for folder, text in (("library", MODULE), ("action_plugins", ACTION)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "slow.py").write_text(text)
    yield tmp_path
    files = [Path(line) for line in noted(tmp_path) if line != "none"]
    if (
        tmp_path / "interrupted"
    ).exists():  # a module that is ended with its task may leave its file
        for path in files:
            path.unlink(missing_ok=True)
    wait_until(lambda: not any(path.exists() for path in files))


def noted(place):
    """Return the files that the modules were told to write, each as often as one was."""
    return (place / "notes").read_text().split()


def on_terminal(place, *command, interrupt=None, status=0, **env):
    """Run one of Ansible's programs on a terminal of its own and return all that it wrote there.

    It is interrupted as by Ctrl-C once it has written what matches ``interrupt``.
    """
    near, far = pty.openpty()
    task = subprocess.Popen(
        [BIN / command[0], *command[1:]],
        stdin=far,
        stdout=far,
        stderr=far,
        cwd=place,
        env={**ENVIRONMENT, "TERM": "xterm", "ANSIBLE_NOCOLOR": "1", **SHOWN, **env},
        start_new_session=True,
    )
    os.close(far)
    seen, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            chunk = os.read(near, 65536)
        except OSError:  # Linux says so when the last process has closed the terminal
            break
        if not chunk:
            break
        seen += chunk
        if interrupt is not None and re.search(interrupt, seen.decode(errors="replace")):
            os.killpg(task.pid, signal.SIGINT)
            interrupt = None
    os.close(near)
    text = seen.decode()
    assert task.wait(10) == status, text
    return text


def playbook(place, *tasks, hosts="all", variables=None):
    """Write a playbook whose tasks run the module, each with more keywords; return its command line."""
    plays = [
        {
            "hosts": hosts,
            "gather_facts": False,
            "tasks": [
                {"name": "Work", **task, "slow": {"notes": str(place / "notes"), **seconds(task)}}
                for task in tasks
            ],
        }
    ]
    variables = variables or {"localhost": {"ansible_connection": "local"}}
    for host in variables.values():
        host.setdefault("ansible_python_interpreter", "{{ ansible_playbook_python }}")
    (place / "play.json").write_text(json.dumps(plays))
    (place / "hosts.yml").write_text(json.dumps({"all": {"hosts": variables}}))
    return ("ansible-playbook", "-i", "hosts.yml", "play.json")


def seconds(task):
    """Return how long a task takes."""
    return task.get("slow", {"seconds": 1.5})


def percents(text):
    """Return the numbers that were shown, in order."""
    return [int(number) for number in re.findall(r"download (\d+) % of 100 MiB", text)]


def test_seen_while_the_task_runs(place):
    text = on_terminal(place, *playbook(place, {}))

    shown = percents(text)
    assert len(shown) > 3
    assert shown == sorted(shown)
    assert re.search(
        r"\r\x1b\[Klocalhost: download \d+ % of 100 MiB, [\d.]+ MiB/s, 0:0\d left", text
    )
    assert f"{ERASED}ok: [localhost]" in text, "the line is gone when the result comes"


def test_seen_for_each_item_of_a_loop(place):
    text = on_terminal(place, *playbook(place, {"loop": ["first", "second"]}))

    first, second = text.split("(item=first)")
    assert percents(first)
    assert percents(second)
    assert f"{ERASED}ok: [localhost] => (item=second)" in second


def test_seen_with_the_command_ansible(place):
    text = on_terminal(
        place,
        *(
            "ansible",
            "localhost",
            "-M",
            "library",
            "-m",
            "slow",
            "-a",
            f"seconds=1.5 notes={place}/notes",
        ),
        ANSIBLE_ACTION_PLUGINS=str(place / "action_plugins"),
    )

    assert percents(text)
    assert f"{ERASED}localhost | SUCCESS" in text


def test_many_hosts_get_lines_of_their_own(place):
    local = {"ansible_connection": "local"}
    command = playbook(
        place, {"slow": {"seconds": 4}}, variables={"one": dict(local), "two": dict(local)}
    )

    text = on_terminal(place, *command)

    assert ERASED not in text
    for host in ("one", "two"):
        assert re.search(rf"^{host}: download \d+ % of 100 MiB, .* left\r$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("keywords", "arguments"),
    [
        ({"check_mode": True}, []),
        ({"async": 60, "poll": 1}, []),
        ({"no_log": True}, []),
        ({}, ["-vvv"]),
        ({}, ["--check"]),
    ],
    ids=["check_mode", "async", "no_log", "debugging", "command_line_check"],
)
def test_unseen_where_it_does_not_belong(place, keywords, arguments):
    text = on_terminal(place, *playbook(place, {**keywords, "slow": {"seconds": 1}}), *arguments)

    assert percents(text) == []
    assert ERASED not in text
    assert "ok=1" in text
    assert noted(place) == ["none"]


@pytest.mark.parametrize("term", ["dumb", None])
def test_unseen_on_what_is_no_terminal(place, term):
    command = playbook(place, {"slow": {"seconds": 1}})
    if term:
        text = on_terminal(place, *command, TERM=term)
    else:
        program = [BIN / command[0], *command[1:]]
        text = subprocess.run(
            program,
            check=True,
            cwd=place,
            env={**ENVIRONMENT, "TERM": "xterm"},
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    assert percents(text) == []
    assert "\x1b[K" not in text
    assert "ok=1" in text
    assert noted(place) == ["none"]


@pytest.mark.skipif(second_host.missing() is not None, reason=str(second_host.missing()))
def test_seen_from_another_host(place):
    host = SshHost(place / "host", port=free_port())
    host.up()
    try:
        masters = place / "cp"
        command = playbook(
            place, {"slow": {"seconds": 6}}, hosts="far", variables={"far": host.variables}
        )
        text = on_terminal(place, *command, ANSIBLE_SSH_CONTROL_PATH_DIR=str(masters))
    finally:
        end_masters(masters)
        host.down()

    assert len(percents(text)) > 1
    assert f"{ERASED}ok: [far]" in text


@pytest.fixture
def slow_server(tmp_path):
    """A web server that gives an image of 4 MiB in some three seconds; its URL."""
    boot_sector = bytes(510) + b"\x55\xaa"
    content = boot_sector + bytes(4 * MIB - len(boot_sector))

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for start in range(0, len(content), MIB // 8):
                self.wfile.write(content[start : start + MIB // 8])
                time.sleep(0.1)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/slow.raw"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("module", ["vm_image", "vm"])
def test_download_is_seen(hypervisor, slow_server, tmp_path, module):
    options = {"data_dir": str(hypervisor.data_dir), "image": slow_server}
    if module == "vm":
        options |= {"name": "vm1", "state": "present", "memory": "64"}
    arguments = ["localhost", "-m", f"cloudnebula.hypervisor.{module}", "-a", json.dumps(options)]

    text = on_terminal(tmp_path, "ansible", "-i", str(LOCALHOST), *arguments)

    assert re.search(r"\r\x1b\[Klocalhost: download \d+ % of 4 MiB, [\d.]+ MiB/s, 0:0\d left", text)
    assert "localhost | CHANGED" in text
    assert CURSOR not in text.partition("CHANGED")[2]


def test_image_on_this_host_has_no_progress(idle, tmp_path):
    image = idle.defaults["image"]
    options = {"data_dir": str(idle.data_dir), "image": image, "name": "vm1", "state": "present"}
    arguments = ["localhost", "-m", "cloudnebula.hypervisor.vm", "-a", json.dumps(options)]

    text = on_terminal(tmp_path, "ansible", "-i", str(LOCALHOST), *arguments)

    assert CURSOR not in text
    assert "localhost | CHANGED" in text


def test_an_interrupted_task_leaves_the_terminal_as_it_was(place):
    (place / "interrupted").touch()
    text = on_terminal(
        place,
        *playbook(place, {"slow": {"seconds": 12}, "timeout": 6, "ignore_errors": True}),
    )

    assert percents(text)
    assert text.rpartition("% of")[2].count(ERASED) == 1
    assert "ignored=1" in text


def test_what_follows_ctrl_c_does_not_share_the_line(place):
    (place / "interrupted").touch()
    command = playbook(place, {"slow": {"seconds": 12}})

    text = on_terminal(place, *command, interrupt=r"[1-9]\d* % of .* left", status=99)

    assert re.search(r"(\n|\r\x1b\[K)\[ERROR\]: User interrupted", text)
