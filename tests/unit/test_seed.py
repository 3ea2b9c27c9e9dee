# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest is told: each row of the table has a folder of golden files with the seed that it must give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import InvalidSpec
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import CloudInit
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest.seed import (
    check_cloud_init,
    hostname_of,
    seed_files,
)

GOLDEN = Path(__file__).parent / "golden" / "seed"
KEY = "ssh-ed25519 AAAAmine me@example.org"
OTHER_KEY = "ssh-ed25519 AAAAother you@example.org"
GENERATED = "ssh-ed25519 AAAAgenerated vm web1"

WISHES = {
    "nothing_given": CloudInit(),
    "own_keys": CloudInit(hostname="www.example.org", user="admin", ssh_authorized_keys=(KEY,)),
    "no_keys": CloudInit(ssh_authorized_keys=()),
    "mapping_over_base": CloudInit(
        ssh_authorized_keys=(KEY,),
        user_data={
            "hostname": "theirs",
            "ssh_pwauth": True,
            "ssh_authorized_keys": [OTHER_KEY, KEY],
            "packages": ["nginx"],
            "runcmd": [["echo", "naïve \u2028 \x7f 🐧 'quoted' \"double\" a: b # c"]],
        },
    ),
    "mapping_with_users": CloudInit(user_data={"users": ["default", {"name": "ops"}]}),
    "text": CloudInit(
        hostname="www",
        user_data="#cloud-config\npackages:   [nginx] # as it is",
        network_config="version: 2\nethernets: {}\n",
    ),
    "meta_data_mapping": CloudInit(
        meta_data={"instance-id": "theirs-1", "rack": 7},
        network_config={"version": 2, "ethernets": {"enp1s0": {"dhcp4": True}}},
    ),
    "meta_data_text": CloudInit(meta_data="instance-id: theirs-2\nrack: 7"),
}


@pytest.mark.parametrize("case", WISHES)
def test_seed_is_as_in_the_golden_files(case):
    check_cloud_init(WISHES[case])

    files = seed_files(WISHES[case], "web1", "web1-0001", GENERATED)

    assert files == {path.name: path.read_bytes() for path in (GOLDEN / case).iterdir()}


def test_every_golden_folder_has_its_row():
    assert sorted(WISHES) == sorted(path.name for path in GOLDEN.iterdir())


@pytest.mark.parametrize("case", [case for case in WISHES if case != "text"])
def test_what_is_generated_means_the_same_as_json_and_as_yaml(case):
    for data in seed_files(WISHES[case], "web1", "web1-0001", GENERATED).values():
        body = data.decode().removeprefix("#cloud-config\n")
        if body.startswith("{"):
            assert yaml.safe_load(data) == json.loads(body)


def test_hostile_texts_survive_as_yaml():
    hostile = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10800), 0x1F427, 0x10FFFF]))

    files = seed_files(CloudInit(user_data={"final_message": hostile}), "web1", "i-1", None)

    assert yaml.safe_load(files["user-data"])["final_message"] == hostile


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("#!/bin/sh\necho ü", "#!/bin/sh\necho ü\n".encode()),
        ("#!/bin/sh\n\n", b"#!/bin/sh\n\n"),
        ("MIME-Version: 1.0\r\n\r\n", b"MIME-Version: 1.0\r\n\r\n"),
    ],
)
def test_text_is_kept_byte_for_byte(text, data):
    assert seed_files(CloudInit(user_data=text), "web1", "i-1", None)["user-data"] == data


def test_an_empty_document_is_none():
    empty = CloudInit(user_data={}, meta_data={}, network_config={})

    assert seed_files(empty, "web1", "i-1", None) == seed_files(CloudInit(), "web1", "i-1", None)


def test_order_of_the_wish_does_not_matter():
    one = CloudInit(user_data={"packages": ["a"], "apt": {"x": 1, "y": 2}})
    two = CloudInit(user_data={"apt": {"y": 2, "x": 1}, "packages": ["a"]})

    assert seed_files(one, "web1", "i-1", None) == seed_files(two, "web1", "i-1", None)


def test_wish_is_left_as_it_was():
    theirs = {"ssh_authorized_keys": [OTHER_KEY]}

    seed_files(CloudInit(user_data=theirs, ssh_authorized_keys=(KEY,)), "web1", "i-1", None)

    assert theirs == {"ssh_authorized_keys": [OTHER_KEY]}


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        ("web1", "web1"),
        ("Web-1", "Web-1"),
        ("web_1", "web-1"),
        ("web1.example.org", "web1.example.org"),
        ("db.1", "db-1"),
        ("web.v1.2", "web-v1-2"),
        ("a..b", "a.b"),
        ("web_", "web"),
        ("web-.example_.org.", "web.example.org"),
        ("7", "7"),
        ("a" * 63, "a" * 63),
    ],
)
def test_name_becomes_a_host_name(name, hostname):
    assert hostname_of(name) == hostname


@pytest.mark.parametrize(
    "user_data",
    [
        "#cloud-config\npackages: [nginx]\n",
        "\n #Cloud-Config\n{}",
        "#cloud-config-archive\n[]\n",
        "#!/usr/bin/env python3\n",
        "#include\nhttps://example.org/user-data\n",
        "#include-once\nhttps://example.org/user-data\n",
        "#cloud-boothook\n#!/bin/sh\n",
        "#part-handler\n",
        "## template: jinja\n#cloud-config\nhostname: {{ v1.local_hostname }}\n",
        "Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n\n--x--\n",
        {},
        {"packages": ["nginx"], "retries": 3, "ratio": 0.5, "nothing": None},
        None,
    ],
)
def test_user_data_that_cloud_init_knows_passes(user_data):
    check_cloud_init(CloudInit(user_data=user_data))


@pytest.mark.parametrize(
    "meta_data",
    [
        "instance-id: i-1",
        "local-hostname: web1\n'instance-id' : i-1\n",
        '{"local-hostname": "web1", "instance-id": "i-1"}',
        {"local-hostname": "web1"},
        None,
    ],
)
def test_meta_data_with_an_instance_id_passes(meta_data):
    check_cloud_init(CloudInit(meta_data=meta_data))


@pytest.mark.parametrize(
    ("wish", "option", "sentence"),
    [
        ({"user_data": "packages: [nginx]\n"}, "user_data", "first line does not say"),
        ({"user_data": ""}, "user_data", "first line does not say"),
        ({"user_data": "# a comment\n#cloud-config\n"}, "user_data", "first line does not say"),
        ({"user_data": " " * 4096 + "#cloud-config"}, "user_data", "first line does not say"),
        ({"user_data": {"when": object()}}, "user_data", "cannot be written"),
        ({"user_data": {"x": float("nan")}}, "user_data", "cannot be written"),
        ({"user_data": {"x": "\udc80"}}, "user_data", "cannot be written"),
        ({"user_data": "#!/bin/sh\n\udc80"}, "user_data", "cannot be written"),
        ({"user_data": {1: "x", "a": "y"}}, "user_data", "cannot be written"),
        ({"network_config": {"x": b"bytes"}}, "network_config", "cannot be written"),
        ({"meta_data": {"x": {1, 2}}}, "meta_data", "cannot be written"),
        ({"meta_data": "local-hostname: web1\n"}, "meta_data", "without an instance-id"),
        ({"meta_data": "instance-id:\n"}, "meta_data", "without an instance-id"),
        ({"meta_data": "# instance-id: x\n"}, "meta_data", "without an instance-id"),
        ({"meta_data": "my-instance-id: x\n"}, "meta_data", "without an instance-id"),
        ({"meta_data": {"instance-id": ""}}, "meta_data", "without an instance-id"),
        (
            {
                "user_data": "#!/bin/sh",
                "meta_data": "instance-id: x",
                "ssh_authorized_keys": (KEY,),
            },
            "ssh_authorized_keys",
            "no place",
        ),
        (
            {
                "user_data": {"users": []},
                "meta_data": "instance-id: x",
                "ssh_authorized_keys": (KEY,),
            },
            "ssh_authorized_keys",
            "no place",
        ),
        (
            {"user_data": "#!/bin/sh", "meta_data": "instance-id: x", "hostname": "www"},
            "hostname",
            "no place",
        ),
    ],
)
def test_what_the_guest_could_not_use_is_refused(wish, option, sentence):
    with pytest.raises(InvalidSpec) as caught:
        check_cloud_init(CloudInit(**wish))

    assert caught.value.message.startswith(f"cloud_init.{option}: ")
    assert sentence in caught.value.message
    assert caught.value.details == {"option": f"cloud_init.{option}"}
    assert caught.value.help


def test_refusal_does_not_show_the_document():
    with pytest.raises(InvalidSpec) as caught:
        check_cloud_init(CloudInit(user_data="password: hunter2\n"))

    assert "hunter2" not in f"{caught.value.message}{caught.value.help}{caught.value.details}"
