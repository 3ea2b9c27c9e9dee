# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a registry is asked as: challenges, the order of places where credentials are found, login files of all kinds."""

from __future__ import annotations

import base64
import json
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    InvalidSpec,
    OciAuthFailed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci_auth import (
    Access,
    Challenge,
    find_in_file,
    find_login,
    login_files,
    parse_challenges,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.oci_reference import (
    parse_reference,
)

GITHUB = parse_reference("oci://ghcr.io/a/b/c:1")
HUB = parse_reference("oci://docker.io/me/image")
OTHER = parse_reference("oci://x.org:5000/a/b")


def auth(pair):
    return {"auth": base64.b64encode(pair.encode()).decode()}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("Basic", [Challenge("basic", {})]),
        ('Basic realm="x y"', [Challenge("basic", {"realm": "x y"})]),
        (
            'Bearer realm="https://t/",service="s",scope="repository:a/b:pull,push"',
            [
                Challenge(
                    "bearer",
                    {"realm": "https://t/", "service": "s", "scope": "repository:a/b:pull,push"},
                )
            ],
        ),
        ("bearer REALM = https", [Challenge("bearer", {"realm": "https"})]),
        (r'Bearer realm="a\"b\\c"', [Challenge("bearer", {"realm": 'a"b\\c'})]),
        (
            'Basic realm="r", Bearer realm="t", service=s',
            [
                Challenge("basic", {"realm": "r"}),
                Challenge("bearer", {"realm": "t", "service": "s"}),
            ],
        ),
        (
            'Negotiate, Basic realm="r"',
            [Challenge("negotiate", {}), Challenge("basic", {"realm": "r"})],
        ),
        ('realm="nobody"', []),
        ('Bearer realm="unfinished', [Challenge("bearer", {})]),
    ],
)
def test_challenges_are_read(header, expected):
    assert parse_challenges(header) == expected


@pytest.mark.parametrize("header", ["a" * 65536, 'a b="' * 13000, "a=" * 32768, "," * 65536])
def test_endless_challenge_takes_no_time(header):
    start = time.monotonic()

    parse_challenges(header)

    assert time.monotonic() - start < 5


def test_options_count_before_everything(tmp_path):
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {"ghcr.io": auth("file:f")}}))
    environment = {"GITHUB_TOKEN": "t", "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}

    given = find_login(GITHUB, Access("me", "pw"), environment).credentials
    token = find_login(GITHUB, Access(), environment).credentials
    del environment["GITHUB_TOKEN"]
    filed = find_login(GITHUB, Access(), environment).credentials

    assert (given.username, given.password) == ("me", "pw")
    assert (token.password, token.origin) == ("t", "the variable GITHUB_TOKEN")
    assert (filed.username, filed.origin) == ("file", str(tmp_path / "auth.json"))


def test_github_token_is_for_github_alone(tmp_path):
    environment = {"GITHUB_TOKEN": "t", "HOME": str(tmp_path)}

    assert find_login(OTHER, Access(), environment).credentials is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            {"HOME": "/h"},
            ["/h/.config/containers/auth.json", "/h/.docker/config.json"],
        ),
        (
            {"HOME": "/h", "XDG_RUNTIME_DIR": "/r", "XDG_CONFIG_HOME": "/c", "DOCKER_CONFIG": "/d"},
            ["/r/containers/auth.json", "/c/containers/auth.json", "/d/config.json"],
        ),
        ({"HOME": "/h", "REGISTRY_AUTH_FILE": "/f"}, ["/f"]),
    ],
)
def test_login_files_are_those_of_podman_and_docker(environment, expected):
    assert login_files(environment) == expected


def test_first_file_that_knows_the_registry_counts(tmp_path):
    for folder, pair in (("r/containers/auth.json", None), (".docker/config.json", "docker:d")):
        path = tmp_path / folder
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"auths": {"x.org:5000": auth(pair)} if pair else {}}))
    environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "r")}

    assert find_login(OTHER, Access(), environment).credentials.username == "docker"


@pytest.mark.parametrize(
    ("reference", "logins", "user"),
    [
        (OTHER, {"x.org:5000": "u:p"}, "u"),
        (OTHER, {"X.ORG:5000/": "u:p"}, "u"),
        (OTHER, {"https://x.org:5000/v2/": "u:p"}, "u"),
        (OTHER, {"x.org": "u:p", "x.org:5001": "u:p", "y.org:5000": "u:p"}, None),
        (
            OTHER,
            {"x.org:5000": "all:p", "x.org:5000/a/b": "one:p", "x.org:5000/a": "some:p"},
            "one",
        ),
        (OTHER, {"x.org:5000": "all:p", "x.org:5000/a/bc": "near:p"}, "all"),
        (HUB, {"https://index.docker.io/v1/": "u:p"}, "u"),
        (HUB, {"docker.io": "u:p"}, "u"),
        (HUB, {"docker.io/me": "u:p"}, "u"),
        (OTHER, {"https://index.docker.io/v1/": "u:p"}, None),
        (OTHER, {}, None),
    ],
)
def test_login_file_is_searched(reference, logins, user):
    content = {"auths": {key: auth(pair) for key, pair in logins.items()}}

    found = find_in_file(content, reference, "f").credentials

    assert (found and found.username) == user


@pytest.mark.parametrize(
    ("content", "helper"),
    [
        ({"credHelpers": {"x.org:5000": "ecr"}}, "docker-credential-ecr (f)"),
        ({"credHelpers": {"y.org": "ecr"}}, None),
        ({"auths": {"x.org:5000": {}}, "credsStore": "desktop"}, "docker-credential-desktop (f)"),
        ({"auths": {"x.org:5000": auth("u:p")}, "credsStore": "desktop"}, None),
        ({"auths": [], "credHelpers": 1}, None),
    ],
)
def test_credential_helpers_are_named(content, helper):
    assert find_in_file(content, OTHER, "f").helper == helper


def test_password_may_hold_colons():
    found = find_in_file({"auths": {"x.org:5000": auth("u:p:q")}}, OTHER, "f").credentials

    assert found.password == "p:q"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("[" * 100000, "not a JSON object"),
        (json.dumps({"auths": {"x.org:5000": {"auth": "%%%"}}}), "base64"),
        (json.dumps({"auths": {"x.org:5000": auth("nocolon")}}), "base64"),
        (json.dumps({"auths": {}, "x": "y" * 1024 * 1024}), "not a JSON object"),
    ],
)
def test_broken_login_file_is_named(tmp_path, text, reason):
    path = tmp_path / "auth.json"
    path.write_text(text)

    with pytest.raises(OciAuthFailed, match=reason) as caught:
        find_login(OTHER, Access(), {"REGISTRY_AUTH_FILE": str(path)})

    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"username": "u"}, "username and password"),
        ({"password": "hunter2"}, "username and password"),
        ({"username": "a:b", "password": "hunter2"}, "colon"),
    ],
)
def test_half_of_the_credentials_is_refused(options, option):
    with pytest.raises(InvalidSpec, match=option) as caught:
        Access(**options)

    assert "hunter2" not in caught.value.message


def test_secrets_are_not_printed():
    access = Access("u", "hunter2")
    login = find_login(OTHER, access, {})

    assert "hunter2" not in repr(access) + repr(login)
    assert login.credentials.basic() == "Basic dTpodW50ZXIy"
