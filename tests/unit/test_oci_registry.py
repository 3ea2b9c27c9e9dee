# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Registries that lie, ask for too much or lead astray: small servers on loopback that say what the table tells them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    HttpFailed,
    InvalidSpec,
    OciAuthFailed,
    OciFailed,
    OciNotFound,
    OciRefused,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.http import (
    Request,
    Response,
    send,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image import oci_registry
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci import (
    push,
    resolve,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci_auth import (
    Access,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci_reference import (
    parse_reference,
)

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
BLOB = "sha256:" + "0a" * 32
PLAIN = Access(plain_http=True)
ME = Access("me", "hunter2", plain_http=True)
BASIC = "Basic " + base64.b64encode(b"me:hunter2").decode()


class Server:
    """Answers from a table of paths; remembers who asked for what, and how."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        subject = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                subject.asked.append((self.command, self.path, dict(self.headers), body))
                found = subject.answers.get((self.command, urlsplit(self.path).path))
                status, headers, data = found(self.headers) if found else (404, {}, b"")
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    for one in value if isinstance(value, list) else [value]:
                        self.send_header(name, one)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

            def log_message(self, *dummy):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.address = f"127.0.0.1:{self._server.server_port}"

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def on(self, method, path, status=200, headers=None, data=b""):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.answers[method, path] = lambda dummy: (status, headers or {}, data)

    def guard(self, method, path, authorization, challenge):
        """Let a path be seen only by who shows this header."""
        behind = self.answers.get((method, path), lambda dummy: (404, {}, b""))
        shut = (401, {"WWW-Authenticate": challenge}, b"")
        self.answers[method, path] = lambda headers: (
            behind(headers) if headers.get("Authorization") == authorization else shut
        )

    def manifest(self, data=None, headers=None):
        content = {"schemaVersion": 2, "layers": [layer()]} if data is None else data
        self.on(
            "GET", "/v2/a/b/manifests/1", headers={"Content-Type": MANIFEST, **(headers or {})},
            data=content,
        )  # fmt: skip

    @property
    def reference(self):
        return parse_reference(f"oci://{self.address}/a/b:1")

    @property
    def shown(self):
        """The Authorization headers that were sent here."""
        return {
            headers["Authorization"]
            for *dummy, headers, dummy_body in self.asked
            if "Authorization" in headers
        }


def layer(**changes):
    return {"mediaType": "application/octet-stream", "digest": BLOB, "size": 5, **changes}


def digest(content):
    return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GITHUB_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    subject = Server()
    yield subject
    subject.close()


@pytest.fixture
def elsewhere():
    subject = Server()
    yield subject
    subject.close()


def test_blob_is_found(server):
    server.manifest({"schemaVersion": 2, "layers": [layer()]})

    blob = resolve(server.reference, PLAIN)

    assert blob.url == f"http://{server.address}/v2/a/b/blobs/{BLOB}"
    assert (blob.digest, blob.size, blob.image_format) == (BLOB, 5, None)
    assert dict(blob.headers) == {}
    assert server.shown == set()


def test_https_is_what_is_spoken_unless_http_is_asked_for(server):
    server.manifest()

    with pytest.raises(HttpFailed) as caught:
        resolve(server.reference, Access(timeout=5))

    assert "plain_http: true" in caught.value.help
    assert server.asked == []


def test_index_leads_to_the_manifest_of_the_architecture(server):
    manifest = {"schemaVersion": 2, "layers": [layer()]}
    entries = [
        {"mediaType": MANIFEST, "digest": found, "size": 1, "platform": {"architecture": name}}
        for name, found in (("s390x", digest(manifest)), ("amd64", BLOB))
    ]
    server.manifest({"schemaVersion": 2, "manifests": entries}, {"Content-Type": INDEX})
    path = f"/v2/a/b/manifests/{digest(manifest)}"
    server.on("GET", path, headers={"Content-Type": MANIFEST}, data=manifest)

    blob = resolve(server.reference, PLAIN, "s390x")

    assert blob.digest == BLOB
    assert server.asked[-1][1] == path


def test_index_that_leads_to_an_index_is_refused(server):
    inner = {"schemaVersion": 2, "manifests": []}
    entry = {"mediaType": MANIFEST, "digest": digest(inner), "size": 1}
    server.manifest({"schemaVersion": 2, "manifests": [entry]}, {"Content-Type": INDEX})
    path = f"/v2/a/b/manifests/{digest(inner)}"
    server.on("GET", path, headers={"Content-Type": INDEX}, data=inner)

    with pytest.raises(OciRefused, match="another index"):
        resolve(server.reference, PLAIN)


@pytest.mark.parametrize("pinned", [True, False], ids=["by reference", "by header"])
def test_manifest_that_does_not_match_its_digest_is_refused(server, pinned):
    reference = server.reference
    if pinned:
        server.manifest()
        server.answers["GET", f"/v2/a/b/manifests/{BLOB}"] = server.answers.popitem()[1]
        reference = parse_reference(f"oci://{server.address}/a/b:1@{BLOB}")
    else:
        server.manifest(headers={"Docker-Content-Digest": BLOB})

    with pytest.raises(OciRefused, match="the manifest is not what it should be"):
        resolve(reference, PLAIN)


def test_manifest_of_absurd_length_is_refused(server):
    server.manifest(b" " * (4 * 1024 * 1024 + 1))

    with pytest.raises(OciRefused, match="more than"):
        resolve(server.reference, PLAIN)


@pytest.mark.parametrize(
    ("status", "data", "error", "words"),
    [
        (404, b"", OciNotFound, "was not found"),
        (404, {"errors": [{"code": "MANIFEST_UNKNOWN"}]}, OciNotFound, "MANIFEST_UNKNOWN"),
        (403, {"errors": [{"message": "denied"}]}, OciAuthFailed, "denied"),
        (429, {"errors": [{"message": "slow\ndown"}]}, OciFailed, "slowdown"),
        (500, b"<html>", OciFailed, "status 500"),
        (500, b"[" * 65536, OciFailed, "status 500"),
        (500, b"x" * 1000000, OciFailed, "status 500"),
        (500, {"errors": [1]}, OciFailed, "status 500"),
        (204, b"", OciFailed, "status 204"),
        (307, b"", OciFailed, "status 307"),
    ],
)
def test_what_a_refusal_means(server, status, data, error, words):
    server.on("GET", "/v2/a/b/manifests/1", status, data=data)

    with pytest.raises(error, match=words) as caught:
        resolve(server.reference, PLAIN)

    assert len(str(caught.value)) < 1000


def test_user_and_password_are_shown_only_when_asked_for(server):
    server.manifest()
    resolve(server.reference, ME)
    assert server.shown == set()

    server.guard("GET", "/v2/a/b/manifests/1", BASIC, 'Basic realm="r"')
    blob = resolve(server.reference, ME)

    assert dict(blob.headers) == {"Authorization": BASIC}
    assert "hunter2" not in repr(blob)
    assert base64.b64encode(b"me:hunter2").decode() not in repr(blob)


@pytest.mark.parametrize(
    ("access", "challenge", "words"),
    [
        (PLAIN, 'Basic realm="r"', "asks for a user and a password"),
        (PLAIN, 'Digest realm="r"', "not known here .digest"),
        (PLAIN, "", "not known here .none"),
        (ME, 'Basic realm="r"', "The user 'me' of the task's options was shown"),
    ],
)
def test_nobody_gets_in(server, access, challenge, words):
    server.guard("GET", "/v2/a/b/manifests/1", "another", challenge)

    with pytest.raises(OciAuthFailed, match=words) as caught:
        resolve(server.reference, access)

    assert "hunter2" not in caught.value.message
    assert len(server.asked) <= 2


@pytest.mark.parametrize("access", [PLAIN, ME], ids=["anonymous", "with a user"])
@pytest.mark.parametrize("name", ["token", "access_token"])
def test_token_is_fetched_and_used(server, elsewhere, access, name):
    challenge = f'Bearer realm="http://{elsewhere.address}/t?x=1",service="s",scope="other:c:pull repository:a/b:pull,delete"'
    server.manifest()
    server.guard("GET", "/v2/a/b/manifests/1", "Bearer 1.2", challenge)
    elsewhere.on("GET", "/t", data={name: "1.2"})

    blob = resolve(server.reference, access)

    assert dict(blob.headers) == {"Authorization": "Bearer 1.2"}
    assert server.shown == {"Bearer 1.2"}
    assert elsewhere.shown == ({BASIC} if access is ME else set())
    query = parse_qs(urlsplit(elsewhere.asked[0][1]).query)
    assert query == {"x": ["1"], "service": ["s"], "scope": ["other:c:pull", "repository:a/b:pull"]}


def test_of_two_challenges_the_token_counts(server, elsewhere):
    server.manifest()
    challenge = ['Basic realm="r"', f'Bearer realm="http://{elsewhere.address}/t"']
    server.guard("GET", "/v2/a/b/manifests/1", "Bearer 1", challenge)
    elsewhere.on("GET", "/t", data={"token": "1"})

    assert resolve(server.reference, PLAIN).digest == BLOB


@pytest.mark.parametrize(
    ("status", "data", "words"),
    [
        (401, {"errors": [{"message": "who?"}]}, "status 401: who"),
        (200, b"", "gave no token"),
        (200, [], "gave no token"),
        (200, {"token": ""}, "gave no token"),
        (200, {"token": 5}, "gave no token"),
        (200, {"token": "a\r\nX-Evil: 1"}, "gave no token"),
    ],
)
def test_token_server_refuses(server, elsewhere, status, data, words):
    challenge = f'Bearer realm="http://{elsewhere.address}/t"'
    server.guard("GET", "/v2/a/b/manifests/1", "Bearer 1", challenge)
    elsewhere.on("GET", "/t", status, data=data)

    with pytest.raises(OciAuthFailed, match=words):
        resolve(server.reference, ME)

    assert len(server.asked) == 1


@pytest.mark.parametrize("realm", ["", "ftp://x/", "http://", "http://[", "file:///etc/passwd"])
def test_token_server_that_cannot_be_asked(server, realm):
    server.guard("GET", "/v2/a/b/manifests/1", "Bearer 1", f'Bearer realm="{realm}"')

    with pytest.raises(OciAuthFailed, match="not safe to ask"):
        resolve(server.reference, ME)


def test_token_server_without_encryption_is_not_asked(monkeypatch):
    asked = []

    def refuse(request):
        asked.append(request.url)
        challenge = {"www-authenticate": 'Bearer realm="http://tokens.example.org/t"'}
        return Response(401, challenge, request, io.BytesIO())

    monkeypatch.setattr(oci_registry, "send", refuse)

    with pytest.raises(OciAuthFailed, match="not safe to ask"):
        resolve(parse_reference("oci://registry.example.org/a/b:1"), Access("me", "pw"))

    assert [urlsplit(url)[:2] for url in asked] == [("https", "registry.example.org")]


def test_redirected_blob_is_asked_for_without_credentials(server, elsewhere):
    server.manifest()
    server.guard("GET", "/v2/a/b/manifests/1", BASIC, 'Basic realm="r"')
    target = f"http://{elsewhere.address}/bucket/x?signature=1"
    server.on("GET", f"/v2/a/b/blobs/{BLOB}", 307, {"Location": target})
    server.guard("GET", f"/v2/a/b/blobs/{BLOB}", BASIC, 'Basic realm="r"')
    elsewhere.on("GET", "/bucket/x", data=b"bytes")

    blob = resolve(server.reference, ME)
    with send(Request("GET", blob.url, blob.headers, redirects=5)) as response:
        data = response.read(10)

    assert data == b"bytes"
    assert elsewhere.shown == set()


def test_redirected_manifest_is_asked_for_without_credentials(server, elsewhere):
    target = f"http://{elsewhere.address}/m"
    server.on("GET", "/v2/a/b/manifests/1", 302, {"Location": target})
    server.guard("GET", "/v2/a/b/manifests/1", BASIC, 'Basic realm="r"')
    content = {"schemaVersion": 2, "layers": [layer()]}
    elsewhere.on("GET", "/m", headers={"Content-Type": MANIFEST}, data=content)

    assert resolve(server.reference, ME).digest == BLOB
    assert len(elsewhere.asked) == 1
    assert elsewhere.shown == set()


def test_server_that_a_redirect_leads_to_cannot_ask_for_credentials(server, elsewhere):
    target = f"http://{elsewhere.address}/m"
    server.on("GET", "/v2/a/b/manifests/1", 302, {"Location": target})
    elsewhere.on("GET", "/t", data={"token": "1"})
    elsewhere.guard("GET", "/m", "Bearer 1", f'Bearer realm="http://{elsewhere.address}/t"')

    with pytest.raises(OciAuthFailed):
        resolve(server.reference, ME)

    assert [url for dummy, url, *dummies in elsewhere.asked] == ["/m"]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"bytes of a disk")
    return str(path)


def accept_uploads(server, location):
    server.on("POST", "/v2/a/b/blobs/uploads/", 202, {"Location": location})
    server.on("PUT", urlsplit(location).path, 201)
    server.on("PUT", "/v2/a/b/manifests/1", 201)


def test_upload_to_another_server_shows_no_credentials(server, elsewhere, image):
    accept_uploads(server, f"http://{elsewhere.address}/up?state=1")
    elsewhere.on("PUT", "/up", 201)
    server.guard("GET", "/v2/a/b/manifests/1", BASIC, 'Basic realm="r"')

    push(image, server.reference, ME, "raw")

    assert server.shown == {BASIC}
    assert elsewhere.shown == set()
    dummy, url, dummy, body = elsewhere.asked[0]
    assert body == b"bytes of a disk"
    assert parse_qs(urlsplit(url).query) == {
        "state": ["1"],
        "digest": [f"sha256:{hashlib.sha256(body).hexdigest()}"],
    }


def test_server_that_an_upload_leads_to_cannot_ask_for_credentials(server, elsewhere, image):
    accept_uploads(server, f"http://{elsewhere.address}/up")
    elsewhere.on("GET", "/t", data={"token": "1"})
    elsewhere.guard("PUT", "/up", "Bearer 1", f'Bearer realm="http://{elsewhere.address}/t"')

    with pytest.raises(OciAuthFailed):
        push(image, server.reference, ME, "raw")

    assert [url.partition("?")[0] for dummy, url, *dummies in elsewhere.asked] == ["/up"]


def test_file_that_grows_meanwhile_is_sent_as_it_was(server, image):
    accept_uploads(server, "/v2/a/b/blobs/uploads/1")
    begin = server.answers["POST", "/v2/a/b/blobs/uploads/"]

    def grow(headers):
        with open(image, "ab") as stream:
            stream.write(b" and more")
        return begin(headers)

    server.answers["POST", "/v2/a/b/blobs/uploads/"] = grow
    seen = []

    push(image, server.reference, PLAIN, "raw", lambda *counts: seen.append(counts))

    bodies = [
        body for method, url, dummy, body in server.asked if method == "PUT" and "uploads" in url
    ]
    assert bodies[0] == b"bytes of a disk"
    assert seen[-1] == ("upload", 15, 15)


def test_upload_is_sent_again_after_the_registry_asked_for_credentials(server, image):
    accept_uploads(server, "/v2/a/b/blobs/uploads/1")
    server.guard("PUT", "/v2/a/b/blobs/uploads/1", BASIC, 'Basic realm="r"')
    seen = []

    push(image, server.reference, ME, "raw", lambda *counts: seen.append(counts))

    bodies = [
        body for method, url, dummy, body in server.asked if method == "PUT" and "uploads" in url
    ]
    assert bodies == [b"bytes of a disk", b"bytes of a disk", b"{}"]
    assert seen[-1] == ("upload", 15, 15)


def test_upload_place_that_is_not_safe_is_refused(server, image):
    accept_uploads(server, "file:///etc/passwd")

    with pytest.raises(OciFailed, match="not safe to use"):
        push(image, server.reference, PLAIN, "raw")


@pytest.mark.parametrize("step", ["POST uploads/", "PUT uploads/1", "PUT manifests/1"])
def test_push_that_is_refused_says_why(server, image, step):
    accept_uploads(server, "/v2/a/b/blobs/uploads/1")
    method, path = step.replace("uploads", "blobs/uploads").split()
    server.on(method, f"/v2/a/b/{path}", 413, data={"errors": [{"message": "too much"}]})

    with pytest.raises(OciFailed, match="too much"):
        push(image, server.reference, PLAIN, "raw")


def test_push_to_a_digest_makes_no_sense(server, image):
    reference = parse_reference(f"oci://{server.address}/a/b@{BLOB}")

    with pytest.raises(InvalidSpec, match="the digest follows"):
        push(image, reference, PLAIN, "raw")

    assert server.asked == []
