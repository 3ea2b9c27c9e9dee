# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What we send, and what the pretended server answers, is what the published documents of the API say.

The documents belong to the Propolis project and are no part of this one. The environment variable
``PROPOLIS_API_DOCUMENTS`` names the folder with them; without it they are looked for near this project's folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from functools import cache
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.tests.doubles.propolis_thread import (
    ServerThread,
    ThreadHost,
    ask,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.propolis_samples import GOLDEN, good_body

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "1.0.0": "propolis-server-1.0.0.openapi.json",
    "5.0.0": "propolis-server.openapi.json",
    "6.0.0": "propolis-server-6.0.0-pr1178.openapi.json",
}
NAMED = os.environ.get("PROPOLIS_API_DOCUMENTS")
FOUND = [path.parent for path in ROOT.parent.glob(f"*/propolis/{FILES['1.0.0']}")]
FOLDER = Path(NAMED) if NAMED else next(iter(FOUND), None)
MACS = {f"vm7c1f{index}n{index}": f"02:08:20:00:00:0{index}" for index in range(2)}
BODIES = sorted(path.stem for path in GOLDEN.iterdir())

pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="the API's documents are not there: set PROPOLIS_API_DOCUMENTS"
)


@cache
def api(version):
    from openapi_core import OpenAPI

    document = json.loads((FOLDER / FILES[version]).read_text(encoding="utf-8"))
    assert document["info"]["version"] == version
    return OpenAPI.from_dict(as_meant(document))


def as_meant(value):
    """Have ``null`` fit where the document says so. It says it beside ``allOf``, where OpenAPI gives it no effect."""
    if isinstance(value, list):
        return [as_meant(item) for item in value]
    if not isinstance(value, dict):
        return value
    value = {key: as_meant(item) for key, item in value.items()}
    if value.get("nullable") is True and "allOf" in value:
        null = {"type": "object", "nullable": True, "enum": [None]}
        return {"anyOf": [{"allOf": value["allOf"]}, null]}
    return value


def faults_of_request(version, method, path, body):
    """Return what the document finds wrong with a request."""
    from openapi_core.exceptions import OpenAPIError
    from openapi_core.testing import MockRequest

    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        api(version).validate_request(MockRequest("http://localhost", method, path, data=data))
    except OpenAPIError as exc:
        return repr(exc.__cause__ or exc)
    return None


def check_answer(version, method, path, status, answer):
    """Raise what the document finds wrong with an answer."""
    from openapi_core.testing import MockRequest, MockResponse

    path, _mark, query = path.partition("?")
    words = dict(word.split("=") for word in query.split("&")) if query else {}
    request = MockRequest("http://localhost", method, path, args=words)
    data = b"" if answer is None else json.dumps(answer).encode()
    response = MockResponse(data, status_code=status, content_type="application/json")
    api(version).validate_response(request, response)


@pytest.mark.parametrize("version", FILES)
@pytest.mark.parametrize("name", BODIES)
def test_body_fits_the_documents_of_its_versions(name, version):
    body = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))

    faults = faults_of_request(version, "put", "/instance", body)

    fits = (version == "6.0.0") == (name == "api_6")
    assert (faults is None) == fits, faults


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (("properties", "id"), "no-uuid"),
        (("init", "value", "spec", "board", "cpus"), "2"),
        (("init", "value", "spec", "components", "disk0", "component", "serial_number"), [0] * 19),
        (("init", "value", "spec", "components", "boot-settings", "component", "order"), ["disk0"]),
        (("init", "method"), "spec"),
    ],
    ids=lambda value: str(value)[-30:],
)
def test_documents_see_a_fault(path, fault):
    body = json.loads((GOLDEN / "plain.json").read_text(encoding="utf-8"))
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = fault
    assert faults_of_request("1.0.0", "put", "/instance", body) is not None


@pytest.mark.parametrize("version", FILES)
@pytest.mark.parametrize(
    ("method", "path", "body", "fits"),
    [
        *(("put", "/instance/state", word, True) for word in ("Run", "Stop", "Reboot")),
        ("put", "/instance/state", "Start", False),
        ("put", "/instance/state", {"state": "Run"}, False),
        ("get", "/instance/state-monitor", {"gen": 0}, True),
        ("get", "/instance/state-monitor", {"gen": "0"}, False),
    ],
)
def test_other_requests_fit_the_documents(version, method, path, body, fits):
    assert (faults_of_request(version, method, path, body) is None) == fits


@pytest.fixture(params=FILES)
def talk(request, tmp_path):
    """Return a function that asks the pretended server and checks its answer with the document of that version."""
    version = request.param
    with contextlib.ExitStack() as stack:
        host = ThreadHost(tmp_path, step=0.01, boot=0.0)
        host.vnics = MACS
        server = stack.enter_context(ServerThread(host))

        def talk(method, path, body=None, status=None):
            found, answer = ask(server.url, method, path, body, api_version=version)
            check_answer(version, method.lower(), path, found, answer)
            assert status in (None, found), answer
            return answer

        talk.body = good_body(host, version)
        talk.server = server
        yield talk


READ = ("/instance", "/instance/spec", "/instance/migration-status")
HISTORY = "/instance/serial/history?most_recent=4000"
MONITOR = "/instance/state-monitor"


def reach(talk, state):
    deadline = time.monotonic() + 20
    while talk("GET", "/instance", status=200)["instance"]["state"] != state:
        assert time.monotonic() < deadline


def test_answers_of_a_whole_life_fit_the_document(talk):
    for path in (*READ, HISTORY):
        talk("GET", path, status=424)
    talk("PUT", "/instance/state", "Run", 424)
    talk("GET", MONITOR, {"gen": 0}, 424)
    talk("PUT", "/instance", talk.body, 201)
    talk("PUT", "/instance", talk.body, 409)
    talk("PUT", "/instance/state", "Reboot", 403)
    for path in (*READ, HISTORY):
        talk("GET", path, status=200)
    talk("PUT", "/instance/state", "Run", 204)
    reach(talk, "Running")
    talk("GET", HISTORY, status=200)
    talk("GET", MONITOR, {"gen": 3}, 200)
    talk("PUT", "/instance/state", "Reboot", 204)
    reach(talk, "Running")
    talk("PUT", "/instance/state", "Stop", 204)
    reach(talk, "Destroyed")
    talk("GET", MONITOR, {"gen": 99}, 410)
    talk("PUT", "/instance/state", "Stop", 424)
    for path in READ:
        talk("GET", path, status=200)


def test_refusals_fit_the_document(talk):
    talk("PUT", "/instance", {}, 400)
    talk("PUT", "/instance", {**talk.body, "init": {"method": "Spec", "value": {}}}, 400)
    talk("PUT", "/instance/state", "Start", 400)
    talk("GET", MONITOR, {}, 400)
    talk.server.server.settings.fail_ensure = "no memory"
    talk("PUT", "/instance", talk.body, 500)
    talk("GET", "/instance", status=200)
    talk.server.server.settings.fail_ensure = None
    talk("PUT", "/instance", talk.body, 201)
    talk("GET", "/instance/serial/history?max_bytes=5", status=400)
    talk("GET", "/instance/disk/disk0-backend/status", status=404)


def test_all_states_are_those_of_the_document():
    from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis import run_state

    document = json.loads((FOLDER / FILES["6.0.0"]).read_text(encoding="utf-8"))
    states = document["components"]["schemas"]["InstanceState"]["enum"]
    assert sorted(run_state.STATES) == sorted(states)


def test_answer_that_does_not_fit_is_seen():
    with pytest.raises(Exception, match="InvalidData"):
        check_answer("1.0.0", "get", "/instance", 424, {"message": "no request_id"})
