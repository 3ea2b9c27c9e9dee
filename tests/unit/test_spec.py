# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wish: what each option takes, and how it says no."""

from __future__ import annotations

import random

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    Network,
    PortRange,
    VmSpec,
    check_name,
    spec_from_params,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import GIB, KEY

INVALID = "vm_manager.spec.invalid"
NAME = "vm_manager.spec.invalid_name"
VCPUS = "vm_manager.create.invalid_vcpus"
MEMORY = "vm_manager.create.invalid_memory"

GOOD_NAMES = ["a", "7", "web1", "A.b-c_d", "x" * 63, "a.", "a-", "a..b"]
BAD_NAMES = {
    "empty": "",
    "up and away": "../x",
    "a path": "a/b",
    "64 characters": "x" * 64,
    "300 characters": "x" * 300,
    "newline inside": "a\nb",
    "newline at the end": "web1\n",
    "newline alone": "\n",
    "null byte": "a\0b",
    "leading dash": "-rf",
    "leading dot": ".hidden",
    "two dots": "..",
    "leading underscore": "_a",
    "space": "web 1",
    "letter with accent": "é",
    "full-width letter": "\uff41",
    "Arabic digit": "\u0661",
    "comma": "a,b",
    "emoji": "🐧",
}


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_good_name_is_returned(name):
    assert check_name(name) == name


@pytest.mark.parametrize("case", BAD_NAMES)
def test_a_bad_name_is_refused_in_one_short_line(case):
    with pytest.raises(VmError) as caught:
        check_name(BAD_NAMES[case])

    assert caught.value.code == NAME
    assert caught.value.message.startswith("name: ")
    assert caught.value.details == {"option": "name"}
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()
    assert "63" in caught.value.help


def init(**options):
    return {"cloud_init": options}


def read(options):
    return spec_from_params({"name": "web1", **options})


# option: value, and the field of the wish that it becomes.
GOOD = [
    ({}, "vcpus", None),
    ({"vcpus": 1}, "vcpus", 1),
    ({"vcpus": 1024}, "vcpus", 1024),
    ({"memory": "1"}, "memory_mib", 1),
    ({"memory": "1024"}, "memory_mib", 1024),
    ({"memory": "1.5GiB"}, "memory_mib", 1536),
    ({"memory": "2048 KiB"}, "memory_mib", 2),
    ({"disk_size": "20"}, "disk_size", 20 * GIB),
    ({"disk_size": "20GB"}, "disk_size", 20 * GIB),
    ({"disk_size": "0.5"}, "disk_size", GIB // 2),
    ({"disk_size": "512B"}, "disk_size", 512),
    ({"disk_size": "16TiB"}, "disk_size", 16 * 1024 * GIB),
    ({"networks": []}, "networks", ()),
    ({"networks": [{"type": "user"}]}, "networks", (Network("user"),)),
    ({"networks": [{"type": "none"}]}, "networks", ()),
    ({"ssh_port_range": "1024-65535"}, "ssh_port_range", PortRange(1024, 65535)),
    ({"ssh_port_range": "2222-2222"}, "ssh_port_range", PortRange(2222, 2222)),
    ({"labels": {}}, "labels", {}),
    ({"labels": {"b": 1, "a": "x"}}, "labels", {"a": "x", "b": "1"}),
    ({"cpu": "max,-avx2"}, "cpu", "max,-avx2"),
    ({"cpu": "Nehalem-v1,+vmx,pmu=on"}, "cpu", "Nehalem-v1,+vmx,pmu=on"),
    ({"machine": "pc-q35-7.2"}, "machine", "pc-q35-7.2"),
    ({"vnc": False}, "vnc", False),
    ({"description": ""}, "description", ""),
    ({"cloud_init": {}}, "cloud_init", CloudInit()),
    (init(hostname="a"), "cloud_init", CloudInit(hostname="a")),
    (init(hostname="x" * 63), "cloud_init", CloudInit(hostname="x" * 63)),
    (init(hostname="web-1.Example.org"), "cloud_init", CloudInit(hostname="web-1.Example.org")),
    (init(user="_apt-1"), "cloud_init", CloudInit(user="_apt-1")),
    (init(user="u" * 32), "cloud_init", CloudInit(user="u" * 32)),
    (init(ssh_authorized_keys=[]), "cloud_init", CloudInit(ssh_authorized_keys=())),
    (init(ssh_authorized_keys=[f" {KEY}\n"]), "cloud_init", CloudInit(ssh_authorized_keys=(KEY,))),
    (init(user_data={"a": [1]}), "cloud_init", CloudInit(user_data={"a": [1]})),
    (init(user_data="#cloud-config\n"), "cloud_init", CloudInit(user_data="#cloud-config\n")),
]

GOOD_KEYS = [
    "ssh-rsa AAAAB3NzaC1yc2E=",
    "ecdsa-sha2-nistp256 AAAAE2VjZHNh= two words",
    "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaA== token",
]

BAD = [
    ({"vcpus": 0}, VCPUS, "vcpus"),
    ({"vcpus": -1}, VCPUS, "vcpus"),
    ({"vcpus": 1025}, VCPUS, "vcpus"),
    ({"vcpus_max": -1}, VCPUS, "vcpus_max"),
    ({"memory_max": "-1"}, MEMORY, "memory_max"),
    ({"memory_max": "1KiB"}, MEMORY, "memory_max"),
    *(
        ({"memory": value}, MEMORY, "memory")
        for value in ("", "0", "-5", "2 bananas", "1.0001MiB", "1.5", "1KiB", "1025KiB", "9" * 400)
    ),
    *(
        ({"disk_size": value}, INVALID, "disk_size")
        for value in (
            *("", "0", "-1", "big", "511B", "513B", "0.3", "1e3", "9" * 400),
            *("999999TiB", "17592186044928B"),
        )
    ),
    ({"networks": [{"type": "user"}, {"type": "none"}]}, INVALID, "networks"),
    ({"networks": [{"type": "none"}, {"type": "none"}]}, INVALID, "networks"),
    ({"networks": [{"type": "user"}] * 9}, INVALID, "networks"),
    *(
        ({"ssh_port_range": value}, INVALID, "ssh_port_range")
        for value in (
            *("", "2222", "1023-2000", "2000-65536", "2001-2000", "2000-99999", "-2000", "a-b"),
            *("2000-2001\n", "2000 - 2001", "2000-2001-2002", "0-0", "02000000-2001"),
        )
    ),
    ({"labels": {"a": {"b": 1}}}, INVALID, "labels.a"),
    ({"labels": {"ok": 1, "a": [1]}}, INVALID, "labels.a"),
    ({"labels": {"a": None}}, INVALID, "labels.a"),
    *(({"cpu": value}, INVALID, "cpu") for value in (" ", "a b", "-max", "max\n", "é", "a;b")),
    *(
        ({"machine": value}, INVALID, "machine")
        for value in ("", "q35,accel=kvm", "Q35", "q35\n", "-q35", "a b")
    ),
    *(
        (init(hostname=value), INVALID, "cloud_init.hostname")
        for value in (
            *("", "-a", "a-", "a-.b", "a.", ".a", "a..b", "a_b", "a b", "a\n", "x" * 64, "é"),
            ".".join(["x" * 63] * 4),
        )
    ),
    *(
        (init(user=value), INVALID, "cloud_init.user")
        for value in ("", "Admin", "1a", "-a", "a b", "a:b", "a\n", "u" * 33, "é", "a$")
    ),
    *(
        (init(ssh_authorized_keys=[KEY, value]), INVALID, "cloud_init.ssh_authorized_keys[1]")
        for value in (
            *("", "junk", "ssh-ed25519", "ssh-keygen -t ed25519", "ssh-rsa ../key", "None"),
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n",
            *(f"{KEY}\n{KEY}", f"{KEY}\r{KEY}", f"{KEY}\x00", f"{KEY}\x0b{KEY}", f"# {KEY}"),
        )
    ),
    *(
        (init(**{document: value}), INVALID, f"cloud_init.{document}")
        for document in ("user_data", "meta_data", "network_config")
        for value in ([], ["a"], 1, True, 0.5)
    ),
]


@pytest.mark.parametrize(("options", "field", "value"), GOOD, ids=lambda part: ascii(part)[:60])
def test_a_good_value_becomes_the_wish(options, field, value):
    assert getattr(read(options), field) == value


@pytest.mark.parametrize("key", GOOD_KEYS)
def test_every_kind_of_public_key_is_taken(key):
    assert read(init(ssh_authorized_keys=[key])).cloud_init.ssh_authorized_keys == (key,)


@pytest.mark.parametrize(("options", "code", "option"), BAD, ids=lambda part: ascii(part)[:60])
def test_a_bad_value_is_refused_by_name(options, code, option):
    with pytest.raises(VmError) as caught:
        read(options)

    assert caught.value.code == code
    assert caught.value.details == {"option": option}
    assert caught.value.message.startswith(option.partition("[")[0])
    assert caught.value.message.endswith(".")
    assert caught.value.help


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (init(user="Fred"), "1 to 32"),
        (init(hostname="a_b"), "63"),
        ({"clone_from": "../a"}, "1 to 63"),
        ({"clone_from": "web1"}, "another machine"),
        ({"cpu": "a b"}, "letters, digits"),
        ({"machine": "a b"}, "small letters"),
        ({"shared_folders": [{"name": "a b", "path": "/a"}]}, "1 to 36"),
        ({"propolis": {"pool": "1"}}, "rpool"),
        ({"propolis": {"control_link": "stub"}}, "digit"),
        ({"propolis": {"zone_brand": "-"}}, "1 to 63"),
    ],
)
def test_the_rule_that_was_broken_is_told(options, words):
    with pytest.raises(VmError) as caught:
        read(options)

    assert words in caught.value.help


def test_a_pasted_private_key_is_not_repeated():
    pasted = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n"

    with pytest.raises(VmError) as caught:
        read(init(ssh_authorized_keys=[pasted]))

    assert "private key" in caught.value.message
    assert "b3Blb" not in repr((caught.value.message, caught.value.as_dict()))


def test_an_open_option_is_none_and_no_default():
    spec = spec_from_params({"name": "web1"})

    assert spec == VmSpec(name="web1")


def test_a_wish_goes_over_what_is_there_option_by_option():
    base = VmSpec(
        name="web1", vcpus=4, labels={"a": "1"}, vnc=True, cloud_init=CloudInit("host", "admin")
    )
    wish = VmSpec(name="web1", labels={}, vnc=False, cloud_init=CloudInit(user="ops"))

    spec = wish.over(base)

    assert (spec.vcpus, spec.labels, spec.vnc) == (4, {}, False)
    assert spec.cloud_init == CloudInit("host", "ops")


TAKEN_BACK = {
    "cpu": ({"cpu": "max"}, {"cpu": ""}),
    "vcpus_max": ({"vcpus_max": 4}, {"vcpus_max": 0}),
    "memory_max": ({"memory_max": "4GiB"}, {"memory_max": "0"}),
    "ip_version": ({"ip_version": 4}, {"ip_version": 0}),
}


@pytest.mark.parametrize("option", TAKEN_BACK)
def test_an_option_that_is_taken_back_is_as_if_it_had_never_been_given(option):
    given, back = (read(options) for options in TAKEN_BACK[option])
    new = VmSpec("web1").completed()
    old = given.over(new)
    assert old != new

    assert back.over(old) == new
    assert back.over(new) == new
    assert back.completed() == new


def test_defaults_answer_every_option_that_a_backend_needs():
    spec = VmSpec(name="web1").completed()

    assert (spec.vcpus, spec.memory_mib, spec.networks) == (1, 1024, (Network("user"),))
    assert (spec.ssh_port_range, spec.accelerator, spec.vnc) == (PortRange(), "auto", False)
    assert (spec.labels, spec.description) == ({}, "")
    assert spec.has_user_network
    assert spec.completed() == spec


@pytest.mark.parametrize(
    ("cloud_init", "user"),
    [
        (None, "vm"),
        (CloudInit(), "vm"),
        (CloudInit(user="ops"), "ops"),
        (CloudInit(user_data={"packages": []}), "vm"),
        (CloudInit(user_data="#cloud-config\n"), None),
        (CloudInit(user="ops", user_data="#cloud-config\n"), "ops"),
    ],
)
def test_the_login_user_is_vm_unless_user_data_as_text_may_make_any(cloud_init, user):
    assert VmSpec(name="web1", cloud_init=cloud_init).completed().login_user == user


ALPHABET = "0123456789.-+ eE,=:/\\'\"\n\r\t\0abkKmMgGtTiB\u212a\u0661\u00b2é🐧\ud800"


def junk_text(dice):
    return "".join(dice.choice(ALPHABET) for dummy in range(dice.choice((0, 1, 3, 8, 400))))


def junk_value(dice, depth=0):
    makers = [
        lambda: None,
        lambda: dice.choice((True, False)),
        lambda: dice.choice((0, 1, -1, 2**31, 10**30)),
        lambda: dice.random() * 10,
        lambda: junk_text(dice),
    ]
    if depth < 3:
        makers += [
            lambda: [junk_value(dice, depth + 1) for dummy in range(dice.randrange(3))],
            lambda: {junk_text(dice): junk_value(dice, depth + 1) for dummy in range(3)},
        ]
    return dice.choice(makers)()


def junk_params(dice):
    """Return junk of the types that Ansible lets through."""

    def maybe(value):
        return value if dice.random() < 0.3 else None

    return {
        "name": dice.choice(("web1", junk_text(dice))),
        "vcpus": maybe(dice.choice((0, 1, -1, 2**40))),
        "networks": maybe([{"type": dice.choice(("user", "none"))} for dummy in range(3)]),
        "labels": maybe({junk_text(dice): junk_value(dice) for dummy in range(3)}),
        "vnc": maybe(True),
        **{
            option: maybe(junk_text(dice))
            for option in ("memory", "disk_size", "ssh_port_range", "cpu", "machine", "description")
        },
        "cloud_init": maybe(
            {
                "hostname": maybe(junk_text(dice)),
                "user": maybe(junk_text(dice)),
                "ssh_authorized_keys": maybe([junk_text(dice), f"ssh-{junk_text(dice)}"]),
                **{
                    document: maybe(junk_value(dice))
                    for document in ("user_data", "meta_data", "network_config")
                },
            }
        ),
    }


@pytest.mark.parametrize("seed", range(8))
def test_junk_is_read_or_refused_but_never_breaks_anything(seed):
    dice = random.Random(seed)
    outcomes = set()
    for _dummy in range(500):
        params = junk_params(dice)
        try:
            spec_from_params(params)
        except VmError as exc:
            outcomes.add(exc.details["option"].partition("[")[0].partition(".")[0])
        else:
            outcomes.add("read")

    assert {"read", "name", "memory", "disk_size", "cloud_init", "labels"} <= outcomes
