# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real registries on loopback: Debian's docker-registry as a process of its own, open, with a password, or with tokens.

It is configured by a file in its own folder, keeps its blobs there, and takes a port that the kernel chooses.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import os
import re
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

USER = "me"
PASSWORD = "correct horse"
# By bcrypt, as the registry wants it: "htpasswd -nbB me 'correct horse'".
_HTPASSWD = f"{USER}:$2b$04$Vk7sjgzDaFrqi4DZWWG2d.w6.SkSKAs9aCV1qSV5ZSqoee6Ubo1fW\n"
_ISSUER = "test-issuer"
_SERVICE = "test-registry"


class Identity:
    """A key and a certificate for 127.0.0.1 that it has signed itself."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.certificate = self._sign()
        self.key_file = folder / "key.pem"
        self.certificate_file = folder / "certificate.pem"
        self.certificate_file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        self.key_file.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def _sign(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
        builder = builder.public_key(self.key.public_key()).serial_number(1)
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


class TokenServer:
    """Signs tokens as the registry's token authentication wants them: everybody may pull, ``USER`` may also push."""

    def __init__(self, identity: Identity):
        self._identity = identity
        self.asked: list[tuple[dict[str, list[str]], bool]] = []
        subject = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status, content = subject._answer(
                    parse_qs(urlsplit(self.path).query), self.headers.get("Authorization")
                )
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *dummy):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, query: dict[str, list[str]], shown: str | None) -> tuple[int, Any]:
        known = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        self.asked.append((query, shown == known))
        if shown not in (None, known):
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]}
        allowed = {"pull", "push"} if shown else {"pull"}
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            granted = sorted(allowed.intersection(actions.split(",")))
            access.append({"type": kind, "name": name, "actions": granted})
        return 200, {"token": self._sign(query["service"][0], access)}

    def _sign(self, service: str, access: list[dict[str, Any]]) -> str:
        der = self._identity.certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        now = int(time.time())
        claims = {
            **{"iss": _ISSUER, "aud": service, "sub": "", "jti": "1", "access": access},
            **{"iat": now, "nbf": now - 60, "exp": now + 300},
        }
        text = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        signature = self._identity.key.sign(text, padding.PKCS1v15(), hashes.SHA256())
        return b".".join([text, _base64(signature)]).decode()


class Registry:
    """A docker-registry. ``password`` makes it want one; ``tokens`` makes it want tokens; ``tls`` makes it speak https."""

    def __init__(
        self,
        folder: Path,
        password: bool = False,
        tokens: TokenServer | None = None,
        tls: Identity | None = None,
    ):
        self.folder = folder
        self._log = folder / "registry.log"
        folder.mkdir(parents=True, exist_ok=True)
        configuration: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
            "http": {"addr": "127.0.0.1:0", "secret": "not one", "relativeurls": not password},
        }
        if password:
            (folder / "htpasswd").write_text(_HTPASSWD)
            path = str(folder / "htpasswd")
            configuration["auth"] = {"htpasswd": {"realm": "test", "path": path}}
        if tokens:
            bundle = str(tokens._identity.certificate_file)
            names = {"realm": tokens.url, "service": _SERVICE, "issuer": _ISSUER}
            configuration["auth"] = {"token": {**names, "rootcertbundle": bundle}}
        if tls:
            files = {"certificate": str(tls.certificate_file), "key": str(tls.key_file)}
            configuration["http"]["tls"] = files
        (folder / "config.json").write_text(json.dumps(configuration))  # JSON is YAML, too
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(folder / "config.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # What begins with REGISTRY_ would change the configuration.
                env={
                    k: v for k, v in os.environ.items() if not k.startswith(("REGISTRY_", "OTEL_"))
                },
            )
        self.address = f"127.0.0.1:{self._wait_for_port()}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def reference(self, name: str = "vms/disk:1") -> str:
        """Return a reference to something in this registry."""
        return f"oci://{self.address}/{name}"

    def blob_file(self, digest: str) -> Path:
        """Return where the registry keeps the bytes of a blob or manifest."""
        algorithm, dummy, digits = digest.partition(":")
        blobs = self.folder / "storage" / "docker" / "registry" / "v2" / "blobs"
        return blobs / algorithm / digits[:2] / digits / "data"

    def _wait_for_port(self) -> str:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            text = self._log.read_text(errors="replace")
            found = re.search(r"listening on 127\.0\.0\.1:(\d+)", text)
            if found:
                return found[1]
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        self.close()
        raise AssertionError(f"docker-registry did not start: {text}")


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
