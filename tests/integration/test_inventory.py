# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory plugin as Ansible's own programs run it, over machines that only have a record."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml
from ansible_collections.cloudnebula.hypervisor.plugins.inventory import vms
from conftest import ROOT, ansible

GUIDE = (ROOT / "docs" / "inventory.md").read_text()
HOSTILE = "{{ 6 * 7 }}{% raw %}"


@pytest.fixture
def noop(hypervisor):
    """A hypervisor whose machines only have a record."""
    hypervisor.defaults = {"backend": "noop"}
    return hypervisor


@pytest.fixture
def source(noop, tmp_path):
    """Write an inventory file for the machines of ``noop`` and return its path."""

    def write(name="my.hypervisor.yml", **options):
        config = {"plugin": vms.InventoryModule.NAME, "data_dir": str(noop.data_dir), **options}
        (tmp_path / name).write_text(yaml.safe_dump(config))
        return tmp_path / name

    return write


def inventory(path, *arguments, env=None, quiet=True):
    """Return what ``ansible-inventory`` prints; with ``quiet``, expect it to warn of nothing."""
    done = ansible("ansible-inventory", "-i", str(path), *arguments, env=env)
    assert not quiet or "WARN" not in done.stderr, done.stderr
    return done.stdout


def listing(path, *arguments, **options):
    """Return the host variables and the groups with their hosts."""
    data = json.loads(inventory(path, "--list", *arguments, **options))
    variables = data.pop("_meta")["hostvars"]
    return variables, {group: entry["hosts"] for group, entry in data.items() if "hosts" in entry}


def squeezed(text):
    """Return text without blanks: Ansible breaks lines where it likes."""
    return "".join(text.split())


def complaints(path):
    """Return what ``ansible-inventory --list`` says besides the list, squeezed."""
    return squeezed(ansible("ansible-inventory", "-i", str(path), "--list").stderr)


def flush(path):
    """Look at the machines again, as a playbook does with ``--flush-cache``."""
    book = path.parent / "flush.yml"
    book.write_text("- hosts: localhost\n")
    ansible("ansible-playbook", "-i", str(path), "--flush-cache", "--list-hosts", str(book))


def describe(noop, name, text):
    """Change a machine's record behind the back of every cache."""
    record = json.loads(noop.record(name).read_text())
    record["spec"]["description"] = text
    noop.record(name).write_text(json.dumps(record))


def test_hosts_can_be_connected_to(noop, source):
    vm = noop.vm("web1", labels={"tier": "web"})["vm"]

    variables, groups = listing(source())

    assert sorted(groups) == [
        "backend_noop",
        "hypervisor_localhost",
        "label_tier_web",
        "state_running",
        "vms",
    ]
    assert all(hosts == ["web1"] for hosts in groups.values())
    known_hosts = f'UserKnownHostsFile="{noop.folder("web1")}/known_hosts"'
    assert variables["web1"] == {
        "ansible_host": "127.0.0.1",
        "ansible_port": vm["ssh"]["port"],
        "ansible_user": "vm",
        "ansible_ssh_common_args": f"-o '{known_hosts}' -o StrictHostKeyChecking=accept-new"
        " -o ServerAliveInterval=15",
        "vm_hypervisor": "localhost",
        **{f"vm_{field}": value for field, value in vm.items()},
    }


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs ssh")
def test_ssh_understands_the_path_of_any_folder(noop, source):
    noop.data_dir = noop.data_dir / """it's 100% "mine" \\o/"""
    noop.vm("web1")
    variables = listing(source())[0]

    command = ["sh", "-c", f"ssh -F none -G {variables['web1']['ansible_ssh_common_args']} h"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    path = noop.folder("web1") / "known_hosts"
    assert f"\nuserknownhostsfile {path}\n" in shown.replace("%%", "%")


def test_machine_that_does_not_run_has_no_address(noop, source):
    noop.vm("off", state="present")
    noop.vm("was", state="started")
    noop.vm("was", state="stopped")
    noop.vm("on")

    variables, groups = listing(source())

    assert [name for name, found in variables.items() if "ansible_host" in found] == ["on"]
    assert not [name for name in variables["was"] if name.startswith("ansible_")]
    assert groups["vms"] == ["off", "on", "was"]
    assert (groups["state_prepared"], groups["state_stopped"]) == (["off"], ["was"])


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_no_machines_are_no_error(noop, source, folder):
    if folder == "empty":
        noop.data_dir.mkdir()

    assert inventory(source(), "--graph").split() == ["@all:", "|--@ungrouped:"]


def test_bad_record_is_a_warning(noop, source):
    noop.vm("good")
    noop.vm("bad")
    noop.record("bad").write_text("{")
    path = source()

    assert squeezed(f"The record {noop.record('bad')} is damaged") in complaints(path)
    assert listing(path, quiet=False)[1]["vms"] == ["good"]


def test_folder_that_cannot_be_listed_is_an_error(noop, source):
    noop.data_dir.mkdir()
    (noop.data_dir / "vms").write_text("")

    said = complaints(source())

    (noop.data_dir / "vms").unlink()
    assert squeezed(f"list {noop.data_dir}/vms: Not a directory. Check the path") in said


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("hypervisor.yml", True),
        ("hypervisor.yaml", True),
        ("my.hypervisor.yml", True),
        ("a.b.hypervisor.yaml", True),
        ("myhypervisor.yml", False),
        ("hypervisor.json", False),
        ("hypervisor.yml.bak", False),
        ("vms.yml", False),
    ],
)
def test_name_of_the_file(tmp_path, name, ours):
    (tmp_path / name).write_text("")

    assert vms.InventoryModule().verify_file(str(tmp_path / name)) is ours
    assert not vms.InventoryModule().verify_file(str(tmp_path / "absent" / name))


def test_names_and_groups_of_the_users_own(noop, source):
    noop.vm("web1", labels={"fqdn": "www.example.org", "tier": "web"}, memory="4GiB")
    noop.vm("db1")
    path = source(
        hostnames=["labels.fqdn", "{{ vm_name }}.lab"],
        hostvars_prefix="vm_",
        group="{{ 'la' ~ 'b' }}",
        group_prefix="lab_",
        compose={"memory_gib": "vm_memory_mb // 1024"},
        groups={"big": "memory_gib | int > 2"},
        keyed_groups=[{"key": "vm_labels.tier", "prefix": "tier"}],
    )

    variables, groups = listing(path)

    hosts = ["db1.lab", "www.example.org"]
    assert groups == {
        "lab": hosts,
        "lab_state_running": hosts,
        "lab_backend_noop": hosts,
        "lab_hypervisor_localhost": hosts,
        "lab_label_fqdn_www_example_org": ["www.example.org"],
        "lab_label_tier_web": ["www.example.org"],
        "big": ["www.example.org"],
        "tier_web": ["www.example.org"],
    }
    assert {name: int(found["memory_gib"]) for name, found in variables.items()} == {
        "db1.lab": 1,
        "www.example.org": 4,
    }


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"hostnames": ["labels.fqdn"]}, "hostnames: 'labels.fqdn' gives the VM 'web1' no name"),
        ({"hostnames": ["labels"]}, "hostnames: 'labels' gives the VM 'web1' no name"),
        ({"compose": {"x": "vm_labels.absent"}}, "Could not set x for host web1"),
        ({"groups": {"x": "vm_labels.absent"}}, "Could not add host web1 to group x"),
    ],
)
def test_undefined_is_skipped_unless_strict(noop, source, options, complaint):
    noop.vm("web1")

    assert listing(source(**options))[1]["vms"] == ["web1"]
    assert squeezed(complaint) in complaints(source(**options, strict=True))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"hostvars_prefix": ""}, "hostvars_prefix: '' must begin with a letter"),
        ({"group": "{{ '' }}"}, "group: the name is empty"),
        ({"data_dir": "{{ absent }}"}, "data_dir: "),
        ({"hostnames": ["{{"]}, "hostnames: '{{' gives the VM 'web1' no name"),
    ],
)
def test_option_that_makes_no_sense_is_an_error_that_names_it(noop, source, options, complaint):
    noop.vm("web1")

    found = complaints(source(**options, strict=True))

    assert squeezed(complaint) in found
    assert "Traceback" not in found


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("datadir", " Did you mean 'data_dir'?"),
        ("sates", " Did you mean 'states'?"),
        ("keyed_group", " Did you mean 'keyed_groups'?"),
        ("cache_time", " Did you mean 'cache_timeout'?"),
        ("qwertz", ""),
    ],
)
def test_unknown_key_is_an_error_that_names_the_nearest_option(noop, source, key, meant):
    noop.vm("web1")

    found = complaints(source(**{key: []}))

    assert squeezed(f"'{key}' is no option of this inventory.{meant}") in found
    assert ("Didyoumean" in found) == bool(meant)


@pytest.mark.parametrize("timeout", [-1, 0, float("nan"), float("inf")])
def test_timeout_must_be_a_time(noop, source, timeout):
    found = complaints(source(timeout=timeout))

    assert squeezed("timeout: ") in found
    assert squeezed("Give seconds above 0") in found


@pytest.mark.parametrize("machines", [[], ["web1", "web2"]], ids=len)
@pytest.mark.parametrize("expression", ["vm_name ==", "vm_name = 'a'", "{{ vm_name }}", "(", 5])
def test_filter_that_is_no_expression_is_an_error(noop, source, machines, expression):
    for name in machines:
        noop.vm(name)

    found = complaints(source(filters=[{"include": True}, {"exclude": expression}]))

    assert squeezed(f"filters: exclude: {expression!r} is no expression") in found
    assert "Failedtoparse" in found


def test_filter_that_names_what_nobody_knows_is_an_error(noop, source):
    noop.vm("web1")

    found = complaints(source(filters=[{"exclude": "vm_name | no_such_filter"}]))

    assert squeezed("filters: exclude: 'vm_name | no_such_filter'") in found
    assert "Failedtoparse" in found


def test_filter_that_fails_is_one_warning(noop, source):
    for name in ("a", "b"):
        noop.vm(name)
    path = source(filters=[{"exclude": "vm_memory_mb + 'x'"}, {"exclude": "vm_labels.absent"}])

    said = complaints(path)

    assert list(listing(path, quiet=False)[0]) == ["a", "b"]
    assert said.count("[WARNING]") == 1
    assert squeezed("filters: exclude: \"vm_memory_mb + 'x'\" fails for the VM 'a'") in said


def test_machines_that_want_the_same_name_keep_their_own(noop, source):
    for name in ("a", "b", "c"):
        noop.vm(name, labels={"site": "one" if name == "c" else "two"})
    path = source(hostnames=["labels.site"])

    assert list(listing(path, quiet=False)[0]) == ["a", "b", "one"]
    said = complaints(path)
    assert said.count("[WARNING]") == 1
    assert squeezed("2 VMs would be the host 'two': there will be a, b.") in said


def test_text_of_a_machine_is_never_a_template(noop, source):
    vm = noop.vm("web1", labels={"evil": HOSTILE, HOSTILE: "key"}, description=HOSTILE)["vm"]
    assert vm["description"] == HOSTILE
    path = source(
        hostnames=["labels.evil", "'{{' ~ name", "name"],
        compose={"copied": "vm_description"},
        keyed_groups=[{"key": "vm_labels.evil", "prefix": "keyed"}],
    )
    names = (
        "vm_description",
        "copied",
        "vm_labels.evil",
        "(vm_labels | dict2items | map(attribute='key') | sort)[1]",
    )
    text = "".join(f"<{{{{ {name} }}}}>" for name in names)

    task = ("web1", "-m", "debug", "-a", f'msg="{text}"')
    env = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    shown = ansible("ansible", "-i", str(path), *task, env=env).stdout

    assert shown.count(f"<{HOSTILE}>") == len(names), shown
    assert "42" not in inventory(path, "--graph")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ('10 GiB, on /srv/x; it\'s 100% "mine"', True),
        ("{{ 6 * 7 }}", False),
        ("{% raw %}", False),
        ("lookup('pipe', 'id')", False),
        ("vm_name | upper", False),
        ("[vm_name]", False),
    ],
)
def test_only_text_that_could_compute_something_is_marked(noop, source, text, plain):
    noop.vm("web1", description=text)

    shown = listing(source())[0]["web1"]["vm_description"]

    assert shown == (text if plain else {"__ansible_unsafe": text})


def test_hostile_text_causes_no_warning(noop, source):
    noop.vm("web1", labels={"a b": "c/d", "evil": HOSTILE, "ß": "é"})
    keyed = [{"key": "vm_labels", "prefix": "k"}]

    done = ansible("ansible-inventory", "-i", str(source(keyed_groups=keyed)), "--graph", "-vvvv")

    for complaint in ("WARN", "nvalid char", "reserved"):
        assert complaint not in done.stdout + done.stderr
    assert "@label_a_b_c_d:" in done.stdout


def test_folder_may_be_a_template_or_relative(noop, source, monkeypatch, tmp_path):
    noop.vm("web1")
    monkeypatch.chdir("/")
    folders = {
        "relative": noop.data_dir.name,
        "environment": "$LAB/data",
        "template": "{{ lookup('ansible.builtin.env', 'LAB') }}/data",
        "extra variable": "{{ lab }}/data",
        "home": "~/data",
    }
    env = {"LAB": str(tmp_path), "HOME": str(tmp_path)}

    found = {
        kind: list(listing(source(data_dir=folder), "-e", f"lab={tmp_path}", env=env)[0])
        for kind, folder in folders.items()
    }

    assert [kind for kind, hosts in found.items() if hosts == ["web1"]] == list(folders)


def test_default_folder_is_that_of_the_modules(noop, source, tmp_path):
    noop.data_dir = tmp_path / "vmctl"
    noop.vm("web1")

    variables = listing(source(data_dir=""), env={"XDG_DATA_HOME": str(tmp_path)})[0]

    assert list(variables) == ["web1"]


@pytest.fixture
def cached(noop, source, tmp_path):
    """Write an inventory file with a cache that outlives a run, in the folder ``cache`` beside it; return its path."""
    connection = str(tmp_path / "cache")
    return source(cache=True, cache_plugin="ansible.builtin.jsonfile", cache_connection=connection)


def description(path):
    """Return what the inventory says of the machine ``web1``."""
    return listing(path)[0]["web1"]["vm_description"]


def test_cache_answers_until_it_is_flushed(noop, cached):
    noop.vm("web1", description="first")
    before = listing(cached)
    describe(noop, "web1", "second")

    assert listing(cached) == before
    assert description(cached) == "first"
    flush(cached)
    assert description(cached) == "second"


def test_cache_is_renewed_when_it_is_too_old(noop, cached):
    noop.vm("web1", description="first")
    listing(cached)
    describe(noop, "web1", "second")
    (entry,) = (cached.parent / "cache").iterdir()

    os.utime(entry, (1, 1))

    assert description(cached) == "second"


def test_cache_knows_that_there_are_no_machines(noop, cached):
    assert listing(cached)[0] == {}
    noop.vm("web1")

    assert listing(cached)[0] == {}
    flush(cached)
    assert list(listing(cached)[0]) == ["web1"]


def test_cache_of_one_folder_is_not_that_of_another(noop, source, tmp_path):
    noop.vm("web1")
    options = {"cache_plugin": "jsonfile", "cache_connection": str(tmp_path / "cache")}
    path = source(cache=True, data_dir="{{ folder }}", **options)

    assert list(listing(path, "-e", f"folder={noop.data_dir}")[0]) == ["web1"]
    assert listing(path, "-e", f"folder={tmp_path}/other")[0] == {}


def test_cache_needs_no_plugin_that_outlives_a_run(noop, source):
    noop.vm("web1", description="first")
    path = source(cache=True)
    assert description(path) == "first"
    describe(noop, "web1", "second")

    assert description(path) == "second"


def test_hostile_text_stays_text_on_its_way_through_the_cache(noop, cached):
    noop.vm("web1", description=HOSTILE)
    listing(cached)

    shown = ansible("ansible", "-i", str(cached), "web1", "-m", "debug", "-a", "var=vm_description")

    assert HOSTILE in shown.stdout


def test_refresh_in_a_play_renews_hosts_and_cache(noop, cached, tmp_path):
    noop.vm("web1", description="old-text")
    record = noop.record("web1")
    listing(cached)
    book = tmp_path / "play.yml"
    tasks = [
        {"debug": {"msg": "<{{ hostvars['web1'].vm_description }}>"}},
        {"command": {"argv": ["sed", "-i", "s/old-text/new-text/", str(record)]}},
        {"meta": "refresh_inventory"},
        {"debug": {"msg": "<{{ hostvars['web1'].vm_description }}>"}},
    ]
    book.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    localhost = ROOT / "tests" / "localhost.yml"

    shown = ansible("ansible-playbook", "-i", str(localhost), "-i", str(cached), str(book)).stdout

    assert re.findall(r"<([\w-]+)>", shown) == ["old-text", "new-text"]
    assert description(cached) == "new-text"


def test_documentation_can_be_shown():
    shown = ansible("ansible-doc", "-t", "inventory", vms.InventoryModule.NAME)

    assert "WARN" not in shown.stderr
    for option in ("hostnames", "keyed_groups", "cache_timeout"):
        assert option in shown.stdout


OF_THIS_HOST = [
    number
    for number, example in enumerate(yaml.safe_load_all(vms.EXAMPLES))
    if "hypervisors" not in example
]


@pytest.mark.parametrize("number", OF_THIS_HOST)
def test_example_of_the_documentation_works(noop, tmp_path, number):
    noop.data_dir = tmp_path / "vmctl"
    noop.vm("web1")
    path = tmp_path / "hypervisor.yml"
    path.write_text(vms.EXAMPLES.split("\n---\n")[number])
    env = {name: str(tmp_path) for name in ("HOME", "XDG_DATA_HOME")}

    variables = listing(path, env={**env, "LAB_DIR": str(noop.data_dir)})[0]

    assert [found["vm_name"] for found in variables.values()] == ["web1"]


@pytest.fixture
def guide(noop, tmp_path):
    """Write the files of the guide; return the environment in which its machines exist."""
    noop.data_dir = tmp_path / "vmctl"
    for name, labels in (("db1", {}), ("web1", {"tier": "web"}), ("web2", {"tier": "web"})):
        noop.vm(name, labels=labels)
    noop.vm("db1", state="stopped")
    for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL):
        (tmp_path / name).write_text(text)
    return {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "CI_DATA_DIR": "vmctl"}


def test_graph_in_the_guide_is_what_ansible_shows(guide, tmp_path):
    ((name, graph),) = re.findall(
        r"\n\$ ansible-inventory -i (\S+) --graph\n(.*?)```", GUIDE, re.DOTALL
    )

    shown = inventory(tmp_path / name, "--graph", env=guide)

    assert shown == graph.replace("backend_qemu", "backend_noop")


@pytest.mark.parametrize(
    ("name", "hosts", "group"),
    [
        ("my", ["db1", "web1", "web2"], "state_running"),
        ("lab", [f"{name}.lab.example.org" for name in ("db1", "web1", "web2")], "tier_web"),
        ("ci", ["db1", "web1", "web2"], "ci_label_tier_web"),
        ("cached", ["db1", "web1", "web2"], "label_tier_web"),
    ],
)
def test_inventory_in_the_guide_works(guide, tmp_path, name, hosts, group):
    variables, groups = listing(tmp_path / f"{name}.hypervisor.yml", env=guide)

    assert sorted(variables) == hosts
    assert groups[group] == [host for host in hosts if host.startswith("web")]


def test_play_in_the_guide_works(guide, tmp_path):
    sources = [ROOT / "tests" / "localhost.yml", tmp_path / "cached.hypervisor.yml"]
    arguments = [argument for source in sources for argument in ("-i", str(source))]

    shown = ansible("ansible-playbook", *arguments, str(tmp_path / "after.yml"), env=guide).stdout

    assert re.findall(r"- (web\d)", shown) == ["web1", "web2"]


def test_guide_has_no_file_that_is_not_tested():
    names = re.findall(r"```yaml\n# (\S+)\n", GUIDE)

    assert len(names) == GUIDE.count("```yaml")
    assert names == [
        *(f"{name}.hypervisor.yml" for name in ("my", "lab", "ci", "live")),
        "hosts.yml",
        *(f"{name}.hypervisor.yml" for name in ("all", "attic", "cached")),
        "after.yml",
    ]
