# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doors to an illumos host against programs that keep state: what they make, refuse, and finish after a kill."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    CommandFailed,
    InvalidSpec,
    LinkMissing,
    ServiceFailed,
    VnicFailed,
    VolumeFailed,
    ZoneFailed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis import (
    links,
    services,
    volumes,
    zones,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.arp import (
    read_arp,
    read_ndp,
)
from ansible_collections.cloudnebula.hypervisor.tests.doubles.illumos.machine import started
from ansible_collections.cloudnebula.hypervisor.tests.doubles.illumos.world import IllumosWorld

pytestmark = pytest.mark.real_host

MAC = "02:08:20:0a:bb:0c"
UUID = "7c3c4f8a-63ca-4da2-bb74-dc6f8fc4553a"
VNIC = "web1_7c3c4f8an0"
BASE = "rpool/images/debian@base"
DISK = "rpool/vms/web1/disk0"
MIB = 1 << 20
IMAGE = (b"boot" + bytes(3 * MIB) + b"data" * 2100).ljust(3 * MIB + 8704, b"\1")  # 17 sectors


@pytest.fixture
def world(tmp_path, monkeypatch):
    folder = tmp_path / "world"
    folder.mkdir()
    with IllumosWorld(folder) as world:
        for name, value in world.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(volumes, "ZVOLS", str(folder / "zvol" / "rdsk"))
        (tmp_path / "image.raw").write_bytes(IMAGE)
        (tmp_path / "work").mkdir()
        (tmp_path / "tools.tar.gz").write_bytes(b"")
        world.files = tmp_path
        yield world


def program(world, name, *words):
    subprocess.run([world.folder / "bin" / name, *words], check=True, timeout=10)


def soon(seconds=10.0):
    return time.monotonic() + seconds


def apart(action):
    """Run something in a process of its own; return its process number."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            action()
            os._exit(0)
        os._exit(1)
    return pid


# --- What is made, as functions of the world -------------------------------------------------------------------


def make_vnic(dummy_world, over="net0", mac=MAC, vlan=None, mtu=1400):
    links.ensure_vnic(VNIC, over, mac, vlan, mtu)


def import_image(world, lock="a.lock", image="image.raw"):
    @contextlib.contextmanager
    def raw():
        with open(world.files / "used", "a") as stream:
            stream.write("x")
        yield str(world.files / image)

    return volumes.ensure_image("rpool", "debian", raw, len(IMAGE), str(world.files / lock))


def make_disk(world):
    volumes.clone_disk(import_image(world), DISK)
    volumes.grow(DISK, 8 * MIB)


def destroy_disk(world):
    if "used" not in os.listdir(world.files):
        make_disk(world)
    volumes.destroy("rpool/vms/web1")


def sleeper(world, *command, **options):
    command = command or ("sleep", "1000")
    return services.Service("web1-7c3c4f8a", command, str(world.files / "work"), "log", **options)


def run_service(world, *command):
    path = str(world.files / "work" / "manifest.xml")
    services.ensure_service(sleeper(world, *command), path, soon())


def remove_service(world):
    if not world.calls("svcadm"):
        run_service(world)
    services.remove_service(sleeper(world).fmri, soon())


def zone_of(world, **changes):
    values = {"brand": "omicron1", "path": str(world.zones / "web1"), "owner": UUID}
    values |= {"links": (zones.ZoneLink(VNIC),), "image": str(world.files / "tools.tar.gz")}
    return zones.Zone("vm-web1", **{**values, **changes})


def install_zone(world, **changes):
    config = str(world.files / "work" / "zone.cfg")
    zones.ensure_zone(zone_of(world, **changes), config, soon())


def boot_zone(world):
    make_vnic(world)
    install_zone(world)
    if zones.zone_state("vm-web1") == "installed":
        inside = services.Service("server", ("sleep", "1000"), "/vm", "log", enabled=True)
        zones.put_service(str(world.zones / "web1"), inside)
    zones.boot("vm-web1", soon())


def remove_zone(world):
    if not world.calls("zonecfg"):
        boot_zone(world)
    zones.remove_zone("vm-web1", UUID, soon())


# --- Every step of all that, failing and killed ----------------------------------------------------------------

LOOKS = [
    (make_vnic, "dladm", "show-vnic"),
    (make_vnic, "dladm", "show-linkprop"),
    (make_disk, "zfs", "volblocksize"),
    (run_service, "svcs", "state"),
    (remove_zone, "zonecfg", "info"),
]
STEPS = [
    *LOOKS,
    (make_vnic, "dladm", "create-vnic"),
    (make_disk, "zfs", "create"),
    (make_disk, "zfs", "snapshot"),
    (make_disk, "zfs", "rename"),
    (make_disk, "zfs", "clone"),
    (make_disk, "zfs", "set"),
    (destroy_disk, "zfs", f"destroy {DISK}"),
    (destroy_disk, "zfs", "destroy rpool/vms/web1"),
    (run_service, "svccfg", "import"),
    (run_service, "svcadm", "enable"),
    (remove_service, "svcadm", "disable"),
    (remove_service, "svccfg", "delete"),
    (install_zone, "zonecfg", "-f"),
    (install_zone, "zoneadm", "install"),
    (boot_zone, "zoneadm", "boot"),
    (remove_zone, "zoneadm", "halt"),
    (remove_zone, "zoneadm", "uninstall"),
    (remove_zone, "zonecfg", "delete"),
]
IDS = [f"{act.__name__}: {program} {words}" for act, program, words in STEPS]


@pytest.mark.parametrize(("act", "program", "words"), STEPS, ids=IDS)
def test_failing_step_is_an_error_and_the_next_run_finishes(world, act, program, words):
    world.fail(program, words, f"{program}: the disk is on fire")

    with pytest.raises(CommandFailed, match="the disk is on fire"):
        act(world)

    act(world)
    check_result(world, act)


@pytest.mark.parametrize(("act", "program", "words"), STEPS[len(LOOKS) :], ids=IDS[len(LOOKS) :])
def test_run_that_was_killed_after_a_step_is_finished_by_the_next(world, act, program, words):
    world.kill(program, words, after=True)

    dummy_pid, status = os.waitpid(apart(lambda: act(world)), 0)

    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    act(world)
    check_result(world, act)


def check_result(world, act):
    """What must be there in the end, and nothing that is half made."""
    state = world.state()
    assert [name for name in state["datasets"] if ":part" in name] == []
    if act in (make_vnic, boot_zone):
        made = state["links"][VNIC]
        assert (made["over"], made["mac"], made["mtu"]) == ("net0", MAC, 1400)
        assert made["persistent"]
    if act is make_disk:
        assert state["datasets"][DISK]["origin"] == BASE
        assert content(world, DISK)[: len(IMAGE)] == IMAGE
        assert volumes.volume_size(DISK) == 8 * MIB
    if act is destroy_disk:
        assert [name for name in state["datasets"] if name.startswith("rpool/vms/")] == []
        assert volumes.exists(BASE)
    if act is run_service:
        assert services.service_state(sleeper(world).fmri) == "online"
        assert len(world.servers()) == 1
    if act is remove_service:
        assert state["services"]["global"] == {}
    if act is install_zone:
        assert zones.zone_state("vm-web1") == "installed"
    if act is boot_zone:
        assert zones.zone_state("vm-web1") == "running"
        assert state["links"][VNIC]["zone"] == "vm-web1"
    if act is remove_zone:
        assert state["zones"] == {}
        assert state["links"][VNIC]["zone"] is None
        assert not (world.zones / "web1").exists()


def content(world, dataset):
    return (world.folder / "zvol" / "rdsk" / dataset).read_bytes()


# --- Links -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "there"), [("net1", True), ("net", False), ("net9", False)])
def test_link_is_there_or_not(world, name, there):
    assert links.exists(name) is there


def test_trouble_with_links_is_not_taken_for_absence(world):
    world.fail("dladm", "show-link", "dladm: could not open /dev/dld: Too many open files")

    with pytest.raises(CommandFailed, match="Too many open files"):
        links.exists("net0")


def test_only_link_that_is_up_is_the_default(world):
    assert links.default_link() == "net0"


@pytest.mark.parametrize(
    ("net1", "seen"), [("up", r"2 of .*net0 \(up\), net1 \(up\)"), (None, r"0 of .* none")]
)
def test_default_link_that_is_not_clear_is_an_error_naming_all(world, net1, seen):
    with world.changed() as state:
        if net1:
            state["links"]["net1"]["state"] = net1
        else:
            state["links"] = {}

    with pytest.raises(LinkMissing, match=seen):
        links.default_link()


def test_vnic_is_read_back_as_it_was_made(world):
    make_vnic(world, vlan=77, mtu=None)

    assert links.show_vnics() == {VNIC: links.Vnic("net0", MAC, 77, None)}


def test_second_run_changes_nothing(world):
    make_vnic(world)
    before = len(world.calls())

    make_vnic(world)

    assert [call[1] for call in world.calls()[before:]] == ["show-vnic", "show-linkprop"]


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"mac": "02:08:20:00:00:99"}, "mac", "02:08:20:00:00:99"),
        ({"over": "net1"}, "over", "net1"),
        ({"vlan": 12}, "vid", 12),
        ({"mtu": 1300}, "mtu", 1300),
        ({"mtu": None}, "mtu", 1500),
    ],
)
def test_vnic_takes_up_a_change(world, change, field, value):
    make_vnic(world)

    make_vnic(world, **change)

    assert world.state()["links"][VNIC][field] == value


def test_foreign_vnic_is_refused(world):
    make_vnic(world)

    with pytest.raises(VnicFailed, match=f"{VNIC} already, over net0 with the MAC address {MAC}"):
        make_vnic(world, over="net1", mac="02:08:20:00:00:99")

    assert world.state()["links"][VNIC]["mac"] == MAC


def test_vnic_that_a_zone_uses_is_not_changed_and_not_removed(world):
    boot_zone(world)

    with pytest.raises(VnicFailed, match="in use by the zone vm-web1"):
        make_vnic(world, mac="02:08:20:00:00:99")
    with pytest.raises(CommandFailed, match="link busy"):
        links.remove_vnic(VNIC)


def test_mtu_that_the_link_does_not_allow_is_an_error(world):
    with pytest.raises(CommandFailed, match="invalid argument"):
        make_vnic(world, mtu=9001)


def test_mtu_that_does_not_stick_is_an_error(world, monkeypatch):
    make_vnic(world)
    # The program says that all is well and does nothing.
    (world.folder / "bin" / "dladm").rename(world.folder / "bin" / "real")
    script = '#!/bin/sh\n[ "$1" = set-linkprop ] || exec "${0%dladm}real" "$@"\n'
    (world.folder / "bin" / "dladm").write_text(script)
    (world.folder / "bin" / "dladm").chmod(0o755)

    with pytest.raises(VnicFailed, match="does not take the MTU 1300; it has 1400"):
        make_vnic(world, mtu=1300)


def test_vnic_over_a_link_that_is_not_there_is_an_error(world):
    with pytest.raises(CommandFailed, match="invalid link name 'net9'"):
        make_vnic(world, over="net9")


def test_vnic_is_removed_once(world):
    make_vnic(world)

    assert links.remove_vnic(VNIC) is True
    assert links.remove_vnic(VNIC) is False
    assert VNIC not in world.state()["links"]


def test_neighbours_of_the_host(world):
    with world.changed() as state:
        state["arp"] = [
            ["net0", "192.0.2.50", "", MAC],
            ["net0", "192.0.2.51", "o", "2:8:20:0:0:1"],
        ]
        state["ndp"] = [["net0", "fd00::50", "dynamic", "REACHABLE", MAC]]

    found = [(row.address, row.mac, row.state) for row in (*read_arp(), *read_ndp())]

    assert found == [
        ("192.0.2.50", MAC, "STALE"),
        ("192.0.2.51", "02:08:20:00:00:01", "STALE"),
        ("fd00::50", MAC, "REACHABLE"),
    ]


# --- Volumes ---------------------------------------------------------------------------------------------------


def test_image_is_written_in_whole_blocks_and_only_once(world):
    assert import_image(world) == BASE
    calls = len(world.calls())

    assert import_image(world) == BASE

    assert len(world.calls()) == calls + 1
    assert (world.files / "used").read_text() == "x"
    volume = content(world, "rpool/images/debian")
    assert len(volume) % volumes.BLOCK == 0
    assert volume == IMAGE + bytes(len(volume) - len(IMAGE))
    assert len(volume) - len(IMAGE) < volumes.BLOCK


def test_every_write_to_the_device_is_in_whole_blocks(world, monkeypatch):
    written = []
    real = os.pwrite

    def pwrite(fd, data, offset):
        written.append((offset, len(data)))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)

    import_image(world)

    assert len(written) == 2  # the two chunks that are not empty
    assert [pair for pair in written if pair[0] % 4096 or pair[1] % 4096] == []


def test_blocks_are_on_the_disk_before_the_snapshot(world, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(fd):
        snapshots = [call for call in world.calls("zfs") if call[1] == "snapshot"]
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), len(snapshots)))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    import_image(world)

    ((device, snapshots),) = synced
    assert device.startswith(volumes.device_of("rpool/images/debian:part-"))
    assert snapshots == 0


def test_short_writes_are_continued(world, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:4096], offset))

    import_image(world)

    assert content(world, "rpool/images/debian")[: len(IMAGE)] == IMAGE


@pytest.mark.parametrize("size", [len(IMAGE) - 512, len(IMAGE) + 512])
def test_image_of_another_size_than_announced_leaves_nothing(world, size):
    (world.files / "other.raw").write_bytes(IMAGE[:size] + bytes(size - len(IMAGE[:size])))

    with pytest.raises(VolumeFailed, match=f"does not have the {len(IMAGE)} bytes"):
        import_image(world, image="other.raw")

    assert sorted(world.state()["datasets"]) == ["rpool", "rpool/images"]


def test_tasks_for_one_image_bring_it_in_once(world):
    children = [apart(lambda: import_image(world)) for dummy in range(4)]

    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0, 0]
    assert (world.files / "used").read_text() == "x"


def test_tasks_with_different_locks_do_not_disturb_each_other(world):
    children = [apart(lambda lock=lock: import_image(world, f"{lock}.lock")) for lock in "abc"]

    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert content(world, "rpool/images/debian")[: len(IMAGE)] == IMAGE
    assert sorted(world.state()["datasets"]) == [
        *("rpool", "rpool/images", "rpool/images/debian", BASE),
    ]


def test_volume_in_the_place_of_an_image_is_refused(world):
    program(world, "zfs", "create", "-p", "-V", "8192", "rpool/images/debian")

    with pytest.raises(VolumeFailed, match="without the snapshot base: it was not made here"):
        import_image(world)


def test_disk_of_another_origin_is_refused(world):
    make_disk(world)

    with pytest.raises(VolumeFailed, match=f"made from {BASE} and not from rpool/images/x@base"):
        volumes.clone_disk("rpool/images/x@base", DISK)


def test_clone_of_a_missing_snapshot_is_an_error(world):
    with pytest.raises(CommandFailed, match="dataset does not exist"):
        volumes.clone_disk("rpool/images/x@base", DISK)


def test_disk_grows_and_never_shrinks(world):
    make_disk(world)

    assert volumes.grow(DISK, 9 * MIB + 1) is True
    assert volumes.volume_size(DISK) == 9 * MIB + 4096
    assert volumes.grow(DISK, 9 * MIB + 4096) is False
    with pytest.raises(VolumeFailed, match="cannot become smaller"):
        volumes.grow(DISK, 9 * MIB)
    assert volumes.volume_size(DISK) == 9 * MIB + 4096


def test_size_of_a_missing_volume_is_an_error(world):
    with pytest.raises(VolumeFailed, match="There is no volume rpool/x"):
        volumes.volume_size("rpool/x")


def test_what_others_put_beside_a_disk_is_kept(world):
    make_disk(world)
    program(world, "zfs", "create", "rpool/vms/web1/notes")
    program(world, "zfs", "create", "rpool/vms/web1/disk7")
    program(world, "zfs", "create", "-V", "8192", "rpool/vms/web1/backup")

    kept = volumes.destroy("rpool/vms/web1")

    assert kept == [f"rpool/vms/web1/{name}" for name in ("notes", "disk7", "backup")]
    assert not volumes.exists(DISK)
    assert volumes.exists("rpool/vms/web1/notes")


def test_snapshots_of_a_disk_go_with_it(world):
    make_disk(world)
    program(world, "zfs", "snapshot", f"{DISK}@hourly")
    program(world, "zfs", "snapshot", "rpool/vms/web1@hourly")

    assert volumes.destroy("rpool/vms/web1") == []
    assert not volumes.exists("rpool/vms/web1")


def test_disk_that_another_one_rests_on_is_not_destroyed(world):
    make_disk(world)
    program(world, "zfs", "snapshot", f"{DISK}@copy")
    program(world, "zfs", "clone", "-p", f"{DISK}@copy", "rpool/vms/web2/disk0")

    with pytest.raises(CommandFailed, match="has dependent clones"):
        volumes.destroy("rpool/vms/web1")

    assert volumes.exists(DISK)


def test_disk_in_use_is_not_destroyed(world):
    make_disk(world)

    with open(volumes.device_of(DISK), "rb"), pytest.raises(CommandFailed, match="is busy"):
        volumes.destroy("rpool/vms/web1")

    assert volumes.exists(DISK)


def test_dataset_that_is_not_there_is_destroyed_already(world):
    assert volumes.destroy("rpool/vms/web9") == []


def test_trouble_with_the_pool_is_not_taken_for_absence(world):
    world.fail("zfs", "list", "cannot open 'rpool': I/O error")

    with pytest.raises(CommandFailed, match="I/O error"):
        volumes.exists(DISK)


def test_name_that_zfs_has_no_room_for_is_refused(world):
    with pytest.raises(InvalidSpec, match="more than 255 characters"):
        volumes.clone_disk(BASE, f"{'p' * 200}/vms/{'n' * 63}/disk0")


# --- Services --------------------------------------------------------------------------------------------------


def test_service_runs_in_its_folder_with_its_environment(world):
    script = "pwd; echo $PATH $SMF_FMRI; echo problem >&2; exec sleep 1000"

    run_service(world, "/bin/sh", "-c", script)

    lines = until(lambda: log_of(world).splitlines(), lambda x: x[2:])
    assert lines[0] == str(world.files / "work")
    path, fmri = lines[1].split()
    assert "/usr/sbin" in path.split(":")
    assert fmri == sleeper(world).fmri
    assert lines[2] == "problem"


def until(look, enough, seconds=20.0):
    """Look again and again until it is enough."""
    deadline = soon(seconds)
    while not enough(seen := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert enough(seen), seen
    return seen


def failure(service, path):
    """Return how the service fails. SMF calls it online before its method has begun, so it may be seen so first."""
    with pytest.raises(ServiceFailed) as caught:
        for dummy in range(10):
            services.ensure_service(service, path, soon(30))
            until(
                lambda: services.service_state(service.fmri), lambda state: state == "maintenance"
            )
    return caught.value


def log_of(world):
    """Return what the service said; its shell makes the file a moment after the service is online."""
    log = world.files / "work" / "log"
    return log.read_text() if log.exists() else ""


def test_second_run_leaves_the_service_alone(world):
    run_service(world)
    server, calls = world.servers(), len(world.calls())

    run_service(world)

    assert world.servers() == server
    assert [call[0] for call in world.calls()[calls:]] == ["svcs"]


def test_changed_service_is_started_anew(world):
    run_service(world)
    before = world.servers()

    run_service(world, "sleep", "999")

    after = world.servers()
    assert list(after) == list(before)
    assert after != before
    (pid,) = after.values()
    until(Path(f"/proc/{pid}/cmdline").read_text, lambda line: line == "sleep\x00999\x00")


def test_program_that_dies_is_started_again(world):
    run_service(world)
    (old,) = world.servers().values()

    os.kill(old, signal.SIGKILL)

    new = until(world.servers, lambda found: found and list(found.values()) != [old])
    assert len(new) == 1


def test_service_without_its_folder_is_an_error_with_the_log(world):
    service = services.Service("x-1", ("sleep", "1"), str(world.files / "nowhere"), "log")
    before = time.monotonic()

    failed = failure(service, str(world.files / "m.xml"))

    assert time.monotonic() - before < 25, "the time limit is 30 seconds"
    assert re.search(r"is maintenance instead of online: .*chdir", failed.message)
    assert "Executing start method" in failed.details["log"]
    services.remove_service(service.fmri, soon())
    assert services.service_state(service.fmri) is None


def test_service_in_maintenance_is_mended_by_the_next_run(world):
    (world.files / "work").rename(world.files / "away")
    path = str(world.files / "manifest.xml")
    failure(sleeper(world), path)
    (world.files / "away").rename(world.files / "work")

    services.ensure_service(sleeper(world), path, soon())

    assert services.service_state(sleeper(world).fmri) == "online"


def test_service_that_does_not_come_in_time_is_an_error(world):
    run_service(world)
    services.disable_service(sleeper(world).fmri, soon())
    world.fail("svcs", "-H", "svcs: no answer", times=1, status=2)

    with pytest.raises(CommandFailed, match="no answer"):
        run_service(world)
    with pytest.raises(ServiceFailed, match="is online instead of disabled"):
        deaf = "trap '' TERM; echo deaf now; while :; do sleep 0.1; done"
        run_service(world, "/bin/sh", "-c", deaf)
        until(lambda: log_of(world), lambda text: "deaf now" in text)
        services.disable_service(sleeper(world).fmri, soon(0.5))


def test_disabled_service_keeps_no_process(world):
    run_service(world)

    services.disable_service(sleeper(world).fmri, soon())
    services.disable_service(sleeper(world).fmri, soon())

    assert services.service_state(sleeper(world).fmri) == "disabled"
    assert world.servers() == {}


def test_service_that_is_not_there_is_gone_already(world):
    services.disable_service("svc:/a:b", soon())
    services.remove_service("svc:/a:b", soon())

    assert services.service_state("svc:/a:b") is None


def test_log_of_smf_is_found(world):
    run_service(world)

    with open(services.log_path(sleeper(world).fmri)) as stream:
        assert "Executing start method" in stream.read()


# --- Zones -----------------------------------------------------------------------------------------------------


def test_zone_is_installed_with_its_configuration(world):
    install_zone(world)

    config = world.state()["zones"]["vm-web1"]["config"]
    assert config["ip-type"] == "exclusive"
    assert config["autoboot"] == "false"
    assert (world.zones / "web1").stat().st_mode & 0o777 == 0o700


def test_second_run_leaves_the_zone_alone(world):
    boot_zone(world)
    before = world.state()["zones"]

    boot_zone(world)

    assert world.state()["zones"] == before


def test_zone_runs_the_service_in_its_root(world):
    boot_zone(world)

    fmri = "svc:/application/cloudnebula/vm:server"
    until(lambda: services.service_state(fmri, "vm-web1"), lambda state: state == "online")
    assert services.service_state(fmri) is None
    assert list(world.servers()) == [fmri]
    assert (world.zones / "web1/root/vm/log").exists()
    assert services.log_path(fmri, "vm-web1").startswith(str(world.zones))


def test_halted_zone_keeps_no_process(world):
    boot_zone(world)
    (server,) = until(world.servers, bool).values()

    zones.halt("vm-web1", soon())
    zones.halt("vm-web1", soon())

    assert zones.zone_state("vm-web1") == "installed"
    assert world.servers() == {}
    assert started(server) is None


def test_changed_zone_is_made_anew(world):
    boot_zone(world)

    install_zone(world, links=())

    zone = world.state()["zones"]["vm-web1"]
    assert zone["state"] == "installed"
    assert [each["kind"] for each in zone["config"]["resources"]].count("net") == 0


@pytest.mark.parametrize("state", ["configured", "incomplete", "installed", "ready", "mounted"])
def test_zone_is_removed_from_every_state(world, state):
    install_zone(world)
    with world.changed() as changed:
        changed["zones"]["vm-web1"]["state"] = state

    zones.remove_zone("vm-web1", UUID, soon())
    zones.remove_zone("vm-web1", UUID, soon())

    assert zones.zone_state("vm-web1") is None


def test_states_that_pass_are_waited_for(world):
    boot_zone(world)
    with world.changed() as state:
        state["zones"]["vm-web1"]["slowly"] = ["shutting_down", "shutting_down", "down"]

    zones.remove_zone("vm-web1", UUID, soon())

    assert zones.zone_state("vm-web1") is None


def test_state_that_does_not_pass_is_an_error(world):
    install_zone(world)
    with world.changed() as state:
        state["zones"]["vm-web1"]["state"] = "shutting_down"

    with pytest.raises(ZoneFailed, match="still shutting_down"):
        zones.remove_zone("vm-web1", UUID, soon(0.3))
    with pytest.raises(ZoneFailed, match="still shutting_down"):
        zones.boot("vm-web1", soon(0.3))


def test_unfinished_installation_is_done_again(world):
    install_zone(world)
    program(world, "zoneadm", "-z", "vm-web1", "mark", "incomplete")

    install_zone(world)

    assert zones.zone_state("vm-web1") == "installed"


@pytest.mark.parametrize("other", [None, "8c3c4f8a-63ca-4da2-bb74-dc6f8fc4553a"])
def test_zone_of_somebody_else_is_refused(world, other):
    install_zone(world, owner=other or UUID)
    if other is None:
        with world.changed() as state:
            state["zones"]["vm-web1"]["config"]["resources"] = []

    with pytest.raises(ZoneFailed, match="not this VM's"):
        install_zone(world)
    with pytest.raises(ZoneFailed, match="not this VM's"):
        zones.remove_zone("vm-web1", UUID, soon())
    assert zones.zone_state("vm-web1") == "installed"


def test_folder_of_a_zone_with_something_in_it_is_an_error(world):
    (world.zones / "web1").mkdir(mode=0o700)
    (world.zones / "web1" / "seed.iso").touch()

    with pytest.raises(CommandFailed, match="is not empty"):
        install_zone(world)


def test_zone_that_is_not_there_cannot_be_booted(world):
    with pytest.raises(ZoneFailed, match="is gone and cannot be booted"):
        zones.boot("vm-web9", soon())


def test_trouble_with_zones_is_not_taken_for_absence(world):
    world.fail("zoneadm", "list", "zoneadm: could not read the index", status=1)

    with pytest.raises(CommandFailed, match="could not read the index"):
        zones.zone_state("vm-web1")


def test_link_inside_a_zone_leads_nowhere(world):
    install_zone(world)
    root = world.zones / "web1" / "root"
    (root / "vm").symlink_to(world.files)

    inside = services.Service("server", ("sleep", "1"), "/vm/inside", "log")

    with pytest.raises(ZoneFailed, match="is no folder"):
        zones.put_service(str(world.zones / "web1"), inside)

    assert not (world.files / "inside").exists()


def test_log_in_a_zone_is_read_unless_a_link_leads_to_it(world):
    install_zone(world)
    zone, root = str(world.zones / "web1"), world.zones / "web1" / "root"
    (world.files / "secret").write_text("of the host")
    (root / "vm").mkdir()

    assert zones.path_inside(zone, "/vm/log") is None
    (root / "vm" / "log").symlink_to(world.files / "secret")
    assert zones.path_inside(zone, "/vm/log") is None
    (root / "vm" / "log").unlink()
    (root / "vm" / "log").write_text("of the zone")
    assert zones.path_inside(zone, "/vm/log") == str(root / "vm" / "log")
    (root / "link").symlink_to(world.files)
    assert zones.path_inside(zone, "/link/secret") is None


# --- The host as a whole ---------------------------------------------------------------------------------------


def test_reboot_keeps_what_is_persistent_and_starts_what_is_enabled(world):
    run_service(world)
    boot_zone(world)
    (old, dummy_other) = until(world.servers, lambda found: len(found) == 2).values()

    world.reboot()

    servers = until(world.servers, bool)
    assert list(servers) == [sleeper(world).fmri]
    assert servers[sleeper(world).fmri] != old
    assert zones.zone_state("vm-web1") == "installed"
    assert links.show_vnics()[VNIC].zone is None


def test_closed_world_has_no_processes(world):
    run_service(world)
    boot_zone(world)
    pids = until(world.servers, lambda found: len(found) == 2).values()

    world.close()

    until(lambda: {started(pid) for pid in pids}, lambda found: found == {None})
