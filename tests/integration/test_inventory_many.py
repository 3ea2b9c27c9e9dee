# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One inventory over several hypervisor hosts, asked by SSH through a real sshd."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from ansible_collections.cloudnebula.hypervisor.plugins.inventory import vms
from conftest import ROOT, Hypervisor, ansible, clean_up
from second_host import SshHost, end_masters, free_port, missing, missing_network, network

GUIDE = (ROOT / "docs" / "inventory.md").read_text()
LOCALHOST = ROOT / "tests" / "localhost.yml"

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Where Ansible and the plugin keep what outlives a run, for this module alone."""
    folder = tmp_path_factory.mktemp("home")
    # The path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="cp") as control:
        yield {
            "ANSIBLE_SSH_CONTROL_PATH_DIR": control,
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_DATA_HOME": str(folder / "data"),
        }
        end_masters(Path(control))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An sshd on this machine, by way of which the same machine is several hypervisor hosts."""
    host = SshHost(tmp_path_factory.mktemp("server") / "sshd", port=free_port())
    host.up()
    yield host
    host.down()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Data folders with machines that only have a record: ``near``, ``hv1`` and ``hv2``."""
    top = tmp_path_factory.mktemp("folders")
    for name, machines in {"near": ("web1",), "hv1": ("web2", "db1"), "hv2": ("web3",)}.items():
        subject = Hypervisor(top / name, {"backend": "noop"})
        for machine in machines:
            subject.vm(machine, labels={"tier": machine[:-1]})
    return top


@pytest.fixture
def lab(tmp_path, server, folders, environment):
    """Write inventory files and list what they give."""
    return Lab(tmp_path, server, folders, environment)


class Lab:
    """A folder with inventory files. ``hosts.json`` knows the hosts hv1 and hv2."""

    def __init__(self, folder, server, folders, environment):
        self.folder, self.server, self.folders = folder, server, folders
        self.environment = dict(environment)
        self.hosts = {
            name: {**server.variables, "data_dir": str(folders / name)} for name in ("hv1", "hv2")
        }
        self.sources = ["hosts.json", "all.hypervisor.yml"]

    def write(self, **options):
        """Write the inventory files."""
        group = {"hypervisors": {"hosts": self.hosts}}
        (self.folder / "hosts.json").write_text(json.dumps({"all": {"children": group}}))
        config = {"plugin": vms.InventoryModule.NAME, "data_dir": "{{ data_dir }}", **options}
        (self.folder / "all.hypervisor.yml").write_text(json.dumps(config))

    def run(self, program, *arguments, **options):
        """Run a program of Ansible's with the inventory files."""
        sources = [part for name in self.sources for part in ("-i", str(self.folder / name))]
        return ansible(program, *sources, *arguments, env=self.environment, **options)

    def list(self, *arguments):
        """Return the variables of the guests, the groups, and what was said besides."""
        done = self.run("ansible-inventory", "--list", *arguments)
        data = json.loads(done.stdout)
        variables = {
            name: own for name, own in data.pop("_meta")["hostvars"].items() if "vm_id" in own
        }
        groups = {name: entry["hosts"] for name, entry in data.items() if "hosts" in entry}
        return variables, groups, " ".join(done.stderr.split())

    def inline(self, name="hv1", **more):
        """Return an entry for a hypervisor host that no other source knows."""
        own = self.server.variables
        return {
            "name": name,
            "host": own["ansible_host"],
            "port": own["ansible_port"],
            "key": own["ansible_ssh_private_key_file"],
            "data_dir": str(self.folders / name),
            "vars": {"ansible_ssh_common_args": own["ansible_ssh_common_args"]},
            **more,
        }


@pytest.mark.parametrize(
    ("entries", "guests"),
    [
        (["hypervisors"], ["db1", "web2", "web3"]),
        (["hv1"], ["db1", "web2"]),
        (["hv*:!hv1"], ["web3"]),
        (["hv1", "hypervisors"], ["db1", "web2", "web3"]),
    ],
    ids=["group", "host", "pattern", "named twice"],
)
def test_hosts_of_earlier_sources(lab, entries, guests):
    lab.write(hypervisors=entries)

    variables, groups, said = lab.list()

    assert sorted(variables) == guests
    assert said == ""
    assert groups["hypervisor_hv2"] == ["web3"] if "web3" in guests else True
    assert {name: found["vm_hypervisor"] for name, found in variables.items()} == {
        name: "hv2" if name == "web3" else "hv1" for name in guests
    }


def test_host_that_no_source_knows(lab):
    lab.sources.remove("hosts.json")
    lab.write(hypervisors=[lab.inline()])

    variables, dummy_groups, said = lab.list()

    assert (sorted(variables), said) == (["db1", "web2"], "")


def test_this_host_and_others(lab):
    lab.write(hypervisors=["localhost", "hv2"], data_dir=str(lab.folders / "near"))
    lab.hosts["hv2"].pop("data_dir")
    lab.write(
        hypervisors=["localhost", "hv2"],
        data_dir=f"{{{{ '{lab.folders}/hv2' if ansible_port is defined else '{lab.folders}/near' }}}}",
    )

    variables, groups, said = lab.list()

    assert (sorted(variables), said) == (["web1", "web3"], "")
    assert groups["hypervisor_localhost"] == ["web1"]
    assert "ProxyCommand" not in variables["web1"]["ansible_ssh_common_args"]
    assert "ProxyCommand" in variables["web3"]["ansible_ssh_common_args"]


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"port": 22}, "hypervisors: an entry has no host"),
        ({"host": "h", "colour": "red"}, "hypervisors: colour is unknown; an entry may have name"),
        (7, "hypervisors: 7 is neither a name nor a mapping"),
        (
            "absent",
            "hypervisors: no host of the inventory sources before this one matches 'absent'",
        ),
    ],
)
def test_entry_that_makes_no_sense(lab, entry, complaint):
    lab.write(hypervisors=[entry], data_dir="/absent")

    said = lab.list()[2]

    assert complaint in said
    assert "Traceback" not in said


def test_two_hosts_of_one_name_are_an_error(lab):
    lab.write(hypervisors=[lab.inline(), lab.inline()])

    assert "there are two of the name 'hv1'" in lab.list()[2]


@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({"ansible_port": 1}, "Connection refused"),
        ({"ansible_python_interpreter": "/absent/python3"}, "there is no Python"),
        ({"ansible_connection": "absent"}, "there is no connection plugin absent"),
        ({"ansible_ssh_private_key_file": "/dev/null"}, "Permission denied (publickey"),
        ({"ansible_ssh_common_args": "-F none -o UserKnownHostsFile=/dev/null"}, "Host key verif"),
        ({"ansible_python_interpreter": "/bin/sleep 60 #"}, "no answer within 8 seconds"),
        ({"data_dir": "vms"}, "'vms' is no absolute path"),
        ({"ansible_user": "{{ absent_name }}"}, "absent_name"),
    ],
    ids=["down", "no Python", "plugin", "no key", "host key", "slow", "relative", "undefined"],
)
def test_host_that_cannot_be_asked_is_one_warning(lab, variables, cause):
    lab.hosts["hv1"].update(variables)
    lab.write(hypervisors=["hypervisors"], timeout=8)

    begun = time.monotonic()
    found, dummy_groups, said = lab.list()

    assert time.monotonic() - begun < 50
    assert list(found) == ["web3"]
    assert said.count("WARNING") == 1
    assert "The hypervisor host 'hv1' cannot be asked: " in said
    assert cause in said
    lab.write(hypervisors=["hypervisors"], timeout=8, strict_hypervisors=True)
    found, dummy_groups, said = lab.list()
    assert not found
    assert cause in said


def test_nothing_runs_on_when_the_time_is_over(lab):
    lab.hosts["hv1"]["ansible_python_interpreter"] = "/bin/sleep 77 #"
    lab.write(hypervisors=["hv1"], timeout=1)

    lab.list()

    commands = [
        path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)
    ]
    assert not [command for command in commands if b"ssh" in command and b"sleep 77" in command]


def readable(path):
    """Tell whether the process still exists."""
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def test_waits_overlap(lab):
    python = lab.folder / "slow-python"
    python.write_text('#!/bin/sh\nsleep 3\nexec /usr/bin/env python3 "$@"\n')
    python.chmod(0o755)
    slow = {**lab.server.variables, "ansible_python_interpreter": str(python)}
    lab.hosts = {
        f"hv{n}": {**slow, "data_dir": str(lab.folders / "hv2" / str(n))} for n in range(6)
    }
    lab.write(hypervisors=["hypervisors"], timeout=30)

    begun = time.monotonic()
    said = lab.list()[2]

    assert said == ""
    assert 3 < time.monotonic() - begun < 18, "one after the other would take 18 seconds"


def test_become(lab):
    """The records are readable for root alone, so nobody else can list them."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for su without a password")
    su = {
        "ansible_become_method": "su",
        "ansible_become_user": "nobody",
        "ansible_become_flags": "-s /bin/sh",
    }
    lab.hosts["hv1"] |= {"ansible_become": True, **su}
    lab.hosts["hv2"] |= {"ansible_become": "{{ 1 == 1 }}", "ansible_become_method": "su"}
    lab.write(hypervisors=["hypervisors"])

    found, dummy_groups, said = lab.list()

    assert list(found) == ["web3"]
    assert "'hv1' cannot be asked" in said
    assert "Permission denied" in said


def test_secret_of_a_vault_is_used(lab):
    lab.write(hypervisors=["hv1"])
    word = lab.folder / "word"
    word.write_text("word")
    secret = lab.server.variables["ansible_ssh_private_key_file"]
    encrypt = ("encrypt_string", "--vault-password-file", str(word), secret)
    vaulted = ansible("ansible-vault", *encrypt).stdout
    (lab.folder / "group_vars").mkdir()
    group = lab.folder / "group_vars" / "hypervisors.yml"
    group.write_text(f"ansible_ssh_private_key_file: {vaulted}")
    lab.hosts["hv1"].pop("ansible_ssh_private_key_file")
    lab.write(hypervisors=["hv1"])

    found, dummy_groups, said = lab.list("--vault-password-file", str(word))

    assert (sorted(found), said) == (["db1", "web2"], "")
    assert secret in found["web2"]["ansible_ssh_common_args"]


def test_connection_to_this_host_needs_no_jump(lab):
    lab.hosts["hv1"] = {"ansible_connection": "local", "data_dir": str(lab.folders / "hv1")}
    lab.write(hypervisors=["hv1"])

    found = lab.list()[0]

    assert "ProxyCommand" not in found["web2"]["ansible_ssh_common_args"]
    assert str(lab.folders / "hv1/vms/web2/known_hosts") in found["web2"]["ansible_ssh_common_args"]


@pytest.mark.parametrize(
    "options",
    [["--tags", "absent"], ["--skip-tags", "always"], ["--check"], ["--limit", "web2"]],
    ids=lambda options: options[0],
)
def test_command_line_is_for_the_users_play(lab, options):
    lab.write(hypervisors=["hypervisors"])
    book = lab.folder / "play.yml"
    book.write_text("- hosts: vms\n  gather_facts: false\n  tasks: []\n")

    done = lab.run("ansible-playbook", *options, "--list-hosts", str(book))

    assert "web2" in done.stdout
    assert done.stderr == ""


def test_account_of_the_command_line_is_for_the_guests(lab):
    lab.write(hypervisors=["hypervisors"])

    options = ("--user", "somebody", "--become", "--private-key", "/absent", "--timeout", "1")
    done = lab.run("ansible", "vms", "--list-hosts", *options)

    assert "web2" in done.stdout
    assert done.stderr == ""


def test_machines_of_the_same_name(lab, folders, tmp_path):
    lab.hosts["hv2"]["data_dir"] = lab.hosts["hv1"]["data_dir"]
    lab.write(hypervisors=["hypervisors"])

    found, dummy_groups, said = lab.list()

    assert sorted(found) == ["db1_hv1", "db1_hv2", "web2_hv1", "web2_hv2"]
    assert said.count("WARNING") == 2
    lab.write(hypervisors=["hypervisors"], hostnames=["name ~ '.' ~ hypervisor"])
    found, dummy_groups, said = lab.list()
    assert sorted(found) == ["db1.hv1", "db1.hv2", "web2.hv1", "web2.hv2"]
    assert said == ""


@pytest.mark.parametrize(
    ("options", "guests"),
    [
        ({"names": ["web*"]}, ["web2", "web3"]),
        ({"names": []}, []),
        ({"states": ["stopped", "prepared"]}, []),
        ({"states": ["running"]}, ["db1", "web2", "web3"]),
        ({"filters": [{"exclude": "vm_labels.tier == 'db'"}]}, ["web2", "web3"]),
        ({"filters": [{"include": "name == 'web2'"}, {"exclude": True}]}, ["web2"]),
        ({"filters": [{"exclude": "hypervisor == 'hv1'"}]}, ["web3"]),
        (
            {"filters": [{"include": "absent.thing"}, {"exclude": "name == 'db1'"}]},
            ["web2", "web3"],
        ),
    ],
)
def test_filters(lab, options, guests):
    lab.write(hypervisors=["hypervisors"], **options)

    found, dummy_groups, said = lab.list()

    assert (sorted(found), said) == (guests, "")


@pytest.mark.parametrize(
    ("filters", "complaint"),
    [
        ([{"include": "absent.thing"}], "filters: include: 'absent.thing' fails for the VM"),
        ([{"include": "true", "exclude": "true"}], "must have either include or exclude"),
        ([{"only": "true"}], "must have either include or exclude"),
    ],
)
def test_filter_that_makes_no_sense(lab, filters, complaint):
    lab.write(hypervisors=["hv1"], filters=filters, strict=True)

    found, dummy_groups, said = lab.list()

    assert not found
    assert complaint in said


def test_cache_needs_no_connection(lab, tmp_path):
    server = SshHost(tmp_path / "own", port=free_port())
    server.up()
    try:
        lab.hosts["hv1"] |= server.variables
        cache = {"cache_plugin": "jsonfile", "cache_connection": str(tmp_path / "cache")}
        lab.write(hypervisors=["hypervisors"], cache=True, **cache)
        before = lab.list()
        end_masters(Path(lab.environment["ANSIBLE_SSH_CONTROL_PATH_DIR"]))
    finally:
        server.down()

    assert lab.list() == before
    assert sorted(before[0]) == ["db1", "web2", "web3"]
    book = tmp_path / "flush.yml"
    book.write_text("- hosts: localhost\n")
    done = lab.run("ansible-playbook", "--flush-cache", "--list-hosts", str(book))
    assert "'hv1' cannot be asked" in " ".join(done.stderr.split())


def test_host_that_was_down_is_asked_again_in_spite_of_the_cache(lab, tmp_path):
    port = lab.hosts["hv1"]["ansible_port"]
    lab.hosts["hv1"]["ansible_port"] = 1
    cache = {"cache_plugin": "jsonfile", "cache_connection": str(tmp_path / "cache")}
    lab.write(hypervisors=["hypervisors"], cache=True, **cache)
    assert list(lab.list()[0]) == ["web3"]

    lab.hosts["hv1"]["ansible_port"] = port
    lab.write(hypervisors=["hypervisors"], cache=True, **cache)

    assert sorted(lab.list()[0]) == ["db1", "web2", "web3"]


@pytest.mark.parametrize(
    "change",
    [{"ansible_port": 1}, {"ansible_become": True, "ansible_become_exe": "/nonexistent/sudo"}],
    ids=["another address", "another account"],
)
def test_host_that_is_reached_another_way_is_asked_in_spite_of_the_cache(lab, tmp_path, change):
    cache = {"cache_plugin": "jsonfile", "cache_connection": str(tmp_path / "cache")}
    lab.write(hypervisors=["hypervisors"], cache=True, **cache)
    assert sorted(lab.list()[0]) == ["db1", "web2", "web3"]

    lab.hosts["hv1"] |= change
    lab.write(hypervisors=["hypervisors"], cache=True, **cache)
    found, dummy, said = lab.list()

    assert list(found) == ["web3"]
    assert "The hypervisor host 'hv1' cannot be asked" in said


def test_refresh_in_a_play_asks_again(lab, tmp_path):
    lab.write(hypervisors=["hypervisors"])
    tasks = [{"meta": "refresh_inventory"}, {"debug": {"msg": "<{{ groups.vms | sort }}>"}}]
    book = tmp_path / "play.yml"
    book.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    lab.sources.insert(0, LOCALHOST)

    shown = lab.run("ansible-playbook", "--tags", "all", str(book)).stdout

    assert "<['db1', 'web2', 'web3']>" in shown.replace('\\"', "'").replace("''", "'")


@pytest.mark.parametrize("cache", [False, True])
def test_key_is_fetched_if_the_user_wants_it(lab, tmp_path, cache):
    data_dir = tmp_path / "data"
    subject = Hypervisor(data_dir, {"backend": "noop"})
    subject.vm("web9")
    key = subject.folder("web9") / "id_ed25519"
    key.write_text("the key\n")
    record = json.loads(subject.record("web9").read_text())
    record["private_key_path"] = str(key)
    subject.record("web9").write_text(json.dumps(record))
    lab.hosts["hv1"]["data_dir"] = str(data_dir)

    options = {"cache": cache, "cache_plugin": "jsonfile", "cache_connection": str(tmp_path / "c")}
    lab.write(hypervisors=["hv1"], **options)
    before = lab.list()[0]["web9"]
    lab.write(hypervisors=["hv1"], fetch_private_keys=True, **options)
    after = lab.list()[0]["web9"]

    assert "ansible_ssh_private_key_file" not in before
    assert before["vm_ssh"]["private_key_path"] == str(key)
    copy = Path(after["ansible_ssh_private_key_file"])
    assert copy.read_text() == "the key\n"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    assert str(copy).startswith(lab.environment["XDG_CACHE_HOME"])


def guide_files(folder):
    """Write the files of the guide and return their names."""
    files = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL))
    for name, text in files.items():
        (folder / name).write_text(text)
    return files


@pytest.fixture
def extra(lab):
    """Variables that turn the hosts of the documentation into ones that are there."""
    folder = (
        f"{lab.folders}/{{{{ 'hv2' if inventory_hostname | default('') == 'hv2' else 'hv1' }}}}"
    )
    variables = {**lab.server.variables, "lab_folder": folder}
    return folder, [
        "-e",
        json.dumps({**variables, "ansible_become_method": "su", "ansible_user": "root"}),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for su without a password")
@pytest.mark.parametrize(
    ("name", "guests"),
    [
        ("all", ["db1", "db1", "web2", "web2", "web3"]),
        ("attic", ["db1", "web2"]),
        ("live", ["db1", "web2"]),
    ],
)
def test_inventory_in_the_guide_works(lab, extra, name, guests):
    guide_files(lab.folder)
    lab.sources = ["hosts.yml", f"{name}.hypervisor.yml"]
    folder, options = extra
    config = lab.folder / f"{name}.hypervisor.yml"
    config.write_text(config.read_text().replace("/srv/vms", folder))

    found, dummy_groups, said = lab.list(*options)

    assert sorted(entry["vm_name"] for entry in found.values()) == guests
    assert ("would be the host" in said) == (name == "all")
    assert "cannot be asked" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for su without a password")
def test_examples_of_the_documentation_with_other_hosts_work(lab, extra):
    guide_files(lab.folder)
    options = extra[1]
    examples = [text for text in vms.EXAMPLES.split("\n---\n") if "hypervisors:" in text]
    assert examples
    lab.sources = ["hosts.yml", "all.hypervisor.yml"]
    for example in examples:
        text = example.replace("/srv/vms", str(lab.folders / "hv1")).replace(
            "timeout:", "data_dir: '{{ lab_folder }}'\ntimeout:"
        )
        (lab.folder / "all.hypervisor.yml").write_text(text)

        found, dummy_groups, said = lab.list(*options)

        assert said == ""
        hosts = [entry["vm_hypervisor"] for entry in found.values()]
        assert sorted(set(hosts)) == ["attic", "hv1", "hv2", "localhost"]
        assert said == ""


@pytest.fixture
def two_hosts(tmp_path, environment):
    """Two hypervisor hosts with networks of their own."""
    if missing_network():
        pytest.skip(missing_network())
    suffix = os.getpid() % 100000
    hosts = []
    with (
        network(f"a{suffix}", "10.211.91") as first,
        network(f"b{suffix}", "10.211.92") as second,
    ):
        for name, address in ((f"a{suffix}", first), (f"b{suffix}", second)):
            host = SshHost(tmp_path / name, address, namespace=name)
            host.up()
            hosts.append(host)
        yield hosts
        end_masters(Path(environment["ANSIBLE_SSH_CONTROL_PATH_DIR"]))
        for host in hosts:
            host.down()


def test_guests_of_two_hosts_of_which_one_dies(two_hosts, guests, lab, smoke_image):
    """The guest of the remote host listens on a loopback that this host does not see."""
    here, (up, down) = guests, two_hosts
    here.vm("near1")
    far = Hypervisor(lab.folder / "up", {"backend": "noop"})
    far.vm("far2")
    Hypervisor(lab.folder / "down", {"backend": "noop"}).vm("lost")
    python = {"ansible_python_interpreter": "/usr/bin/python3"}
    lab.hosts = {
        name: {**host.variables, **python, "data_dir": str(lab.folder / name)}
        for name, host in (("up", up), ("down", down))
    }
    folder = f"{{{{ data_dir | default('{here.data_dir}') }}}}"
    lab.write(hypervisors=["localhost", "hypervisors"], data_dir=folder, fetch_private_keys=True)
    wish = {"name": "far1", "image": str(smoke_image), "memory": "192", "wait_for": "ssh"}
    on_up = ("up", "-m", "cloudnebula.hypervisor.vm", "-a")
    lab.run("ansible", *on_up, json.dumps({**wish, "data_dir": str(far.data_dir)}))
    try:
        assert sorted(lab.list()[0]) == ["far1", "far2", "lost", "near1"]
        down.down()
        end_masters(Path(lab.environment["ANSIBLE_SSH_CONTROL_PATH_DIR"]))

        raw = ("backend_qemu:&state_running", "-m", "raw", "-a", "hostname", "--forks", "2")
        done = lab.run("ansible", *raw)

        assert len(re.findall(r"^(near1|far1) \| CHANGED \| rc=0", done.stdout, re.MULTILINE)) == 2
        assert done.stdout.count("hypervisor host 'down'") + done.stderr.count("'down' cannot") == 1
        book = lab.folder / "play.yml"
        task = {"raw": "hostname", "tags": "x", "register": "said"}
        show = {"debug": {"msg": "<{{ said.stdout | trim }}>"}, "tags": "x"}
        play = {
            "hosts": "hypervisor_up:&backend_qemu",
            "gather_facts": False,
            "tasks": [task, show],
        }
        book.write_text(json.dumps([play]))
        assert "<far1>" in lab.run("ansible-playbook", "--tags", "x", str(book)).stdout
    finally:
        gone = {"name": "far1", "state": "absent", "force": True, "data_dir": str(far.data_dir)}
        lab.run("ansible", *on_up, json.dumps(gone))
        clean_up(far)
