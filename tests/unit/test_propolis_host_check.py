# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host is fit for Propolis. Its programs are scripts of a few lines, its kernel's answers are given."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BackendNotAvailable,
    CommandFailed,
    HostError,
    ImageNotFound,
    InvalidVcpus,
    LinkMissing,
    PoolMissing,
    ProgramMissing,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.networks import Network
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.propolis import (
    PropolisOptions,
    PropolisRecord,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.spec import (
    CloudInit,
    VmSpec,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._image.inspect import Image
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis import host_check
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.host_check import (
    check_host,
    host_problems,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.host_facts import (
    parse_reservoir,
    report_host,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._propolis.interfaces import (
    VIONA,
    VMM,
    ask_version,
    check_version,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import FULL_HANDLE, KEY

pytestmark = pytest.mark.real_host  # the scripts are processes

PAGE = 4096
RESERVOIR = (
    "Free MiB:\t1024\nAllocated MiB:\t2048\nTransient Allocated MiB:\t0\nSize limit MiB:\t8192\n"
)
DLADM = """
case "$*" in
  *show-phys*) echo igb0:up ;;
  'show-link -p -o LINK') printf 'igb0\\nstub0\\n' ;;
  *show-link*LINK,CLASS,STATE) printf 'igb0:phys:up\\nstub0:etherstub:unknown\\n' ;;
  *) echo "dladm: not asked here" >&2; exit 1 ;;
esac
"""
ZFS = """
for dataset; do :; done
case "$4 $dataset" in
  'available tank') echo 12345 ;;
  *' tank' | *' tank/vms/web1/disk0') echo "$dataset" ;;
  *' broken') echo "internal error: out of memory" >&2; exit 1 ;;
  *) echo "cannot open '$dataset': dataset does not exist" >&2; exit 1 ;;
esac
"""


def answers(vmm=18, viona=6):
    """Return a kernel that gives these versions; an error is raised."""

    def ask(interface):
        version = {"vmm": vmm, "viona": viona}[interface.name]
        if isinstance(version, Exception):
            raise version
        return version

    return ask


class FakeHost:
    """The programs and files of a host that is fit, below a folder."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in ("svccfg", "svcadm", "svcs", "bhyvectl", "zoneadm", "zonecfg", "ipadm"):
            self.program(name, "exit 1")
        self.program("dladm", DLADM)
        self.program("zfs", ZFS)
        self.program("rsrvrctl", f"[ \"$*\" = -q ] && printf '{RESERVOIR}'")
        self.server = self.program("propolis-server", "exit 1")
        self.bootrom = folder / "OVMF_CODE.fd"
        self.bootrom.write_bytes(bytes(2 * PAGE))
        self.image = folder / "disk.raw"
        self.image.write_bytes(bytes(510) + b"\x55\xaa")
        self.data_dir = folder / "data"
        monkeypatch.setenv("PATH", str(self.bin))

    def program(self, name, script):
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def options(self, **changes):
        known = PropolisOptions(
            pool="tank", server=str(self.server), bootrom=str(self.bootrom), hosting="global"
        )
        return replace(known, **changes)

    def spec(self, **changes):
        spec = VmSpec(
            name="web1",
            image=str(self.image),
            networks=(Network(type="vnic"),),
            cloud_init=CloudInit(user="vm", ssh_authorized_keys=(KEY,)),
            propolis=self.options(),
        )
        return replace(spec, **changes)

    def check(self, found=None, ask=None, **changes):
        check_host(self.spec(**changes), found, str(self.data_dir), ask or answers())

    def problems(self, ask=None, **changes):
        return list(host_problems(self.options(**changes), ask or answers()))


@pytest.fixture
def host(tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch)


def test_fit_host_has_no_problems_and_is_not_touched(host):
    before = {path: path.stat() for path in host.folder.rglob("*")}

    assert host.problems() == []
    host.check()

    after = {path: path.stat() for path in host.folder.rglob("*")}
    assert {path: (s.st_mtime_ns, s.st_ino) for path, s in before.items()} == {
        path: (s.st_mtime_ns, s.st_ino) for path, s in after.items()
    }


@pytest.mark.parametrize(
    ("hosting", "gone", "named"),
    [
        ("global", ["dladm"], ["dladm"]),
        ("global", ["svcs", "svccfg"], ["svccfg", "svcs"]),
        ("global", ["zoneadm", "zonecfg", "ipadm"], None),
        ("zone", ["zoneadm", "zonecfg", "ipadm"], ["zoneadm", "zonecfg", "ipadm"]),
    ],
)
def test_missing_programs_are_named(host, hosting, gone, named):
    for name in gone:
        (host.bin / name).unlink()

    found = [problem.details.get("programs") for problem in host.problems(hosting=hosting)]

    assert found == ([named] if named else [])


def test_without_zfs_the_pool_is_not_asked_for(host):
    (host.bin / "zfs").unlink()

    assert [problem.details.get("programs") for problem in host.problems(pool="gone")] == [["zfs"]]


@pytest.mark.parametrize(
    ("vmm", "viona", "words"),
    [
        (8, 6, []),
        (18, 7, []),
        (None, None, []),
        (7, 6, ["interface vmm has version 7; propolis-server needs 8"]),
        (8, 5, ["interface viona has version 5; propolis-server needs 6"]),
        (0, 0, ["vmm has version 0", "viona has version 0"]),
        (BackendNotAvailable("There is no /dev/vmmctl"), 6, ["There is no /dev/vmmctl"]),
    ],
)
def test_kernel_must_be_new_enough(host, vmm, viona, words):
    problems = host.problems(answers(vmm, viona))

    assert len(problems) == len(words)
    for problem, part in zip(problems, words):
        assert isinstance(problem, BackendNotAvailable)
        assert part in problem.message


@pytest.mark.parametrize(
    ("size", "fits"),
    [(PAGE, True), (2 << 20, True), (0, False), (PAGE + 1, False), ((2 << 20) + PAGE, False)],
)
def test_bootrom_has_whole_pages_and_a_limit(host, size, fits):
    with open(host.bootrom, "wb") as stream:
        stream.truncate(size)

    assert [problem.details["option"] for problem in host.problems()] == (
        [] if fits else ["propolis.bootrom"]
    )


@pytest.mark.parametrize(
    ("change", "option", "words"),
    [
        ({"bootrom": "/nowhere/rom"}, "propolis.bootrom", "/nowhere/rom does not exist"),
        ({"bootrom": "/"}, "propolis.bootrom", "is not a file"),
        ({"server": "/nowhere/server"}, "propolis.server", "/nowhere/server does not exist"),
        ({"server": "/"}, "propolis.server", "/ is not a file"),
        ({"server": "/etc/passwd"}, "propolis.server", "cannot be run"),
        ({"pool": "gone"}, "propolis.pool", "no ZFS pool or dataset gone"),
    ],
)
def test_what_an_option_names_must_be_there(host, change, option, words):
    (problem,) = host.problems(**change)

    assert problem.details["option"] == option
    assert words in problem.message
    assert problem.help


def test_a_pool_that_cannot_be_asked_for_is_told_apart_from_one_that_is_not_there(host):
    (gone,), (broken,) = host.problems(pool="gone"), host.problems(pool="broken")

    assert isinstance(gone, PoolMissing)
    assert isinstance(broken, CommandFailed)
    assert "out of memory" in broken.message


@pytest.mark.parametrize("name", ["dladm", "ipadm"])
def test_a_program_that_fails_is_a_problem_of_its_own(host, name):
    host.program(name, f'echo "{name}: could not open /dev/dld: Permission denied" >&2; exit 1')
    asked = {"dladm": {"control_link": "stub0"}, "ipadm": {"control_network": "10.0.0.0/24"}}

    (problem,) = host.problems(hosting="zone", **asked[name])

    assert isinstance(problem, CommandFailed)
    assert "could not open /dev/dld: Permission denied" in problem.message


def test_a_link_that_cannot_be_asked_for_is_told_apart_from_one_that_is_not_there(host):
    cards = (Network(type="vnic", link="igb0"),)
    host.program("dladm", 'echo "dladm: could not open /dev/dld: Permission denied" >&2; exit 1')

    with pytest.raises(CommandFailed, match="could not open /dev/dld: Permission denied"):
        host.check(networks=cards)


def test_program_and_bootrom_of_a_zone_are_not_looked_for_outside(host):
    nowhere = {"server": "/nowhere", "bootrom": "/nowhere", "hosting": "zone"}

    assert host.problems(**nowhere) == []
    (problem,) = host.problems(**nowhere, zone_image="/nowhere/zone.tar.gz")
    assert problem.details["option"] == "propolis.zone_image"
    assert host.problems(**nowhere, zone_image=str(host.image)) == []


@pytest.mark.parametrize(("link", "fits"), [("stub0", True), ("stub7", False)])
def test_control_link_of_zones_must_be_there(host, link, fits):
    problems = host.problems(hosting="zone", control_link=link)

    assert [problem.details["option"] for problem in problems] == (
        [] if fits else ["propolis.control_link"]
    )


def test_first_problem_is_raised(host):
    (host.bin / "zfs").unlink()

    with pytest.raises(BackendNotAvailable, match="needs illumos: this host has no zfs"):
        host.check(answers(vmm=1))


def test_server_counts_virtual_cpus_with_8_bits(host):
    host.check(vcpus=255)

    with pytest.raises(InvalidVcpus, match="vcpus: 256 is more than the 255 "):
        host.check(vcpus=256)


@pytest.mark.parametrize("link", ["igb0", "stub0", None])
def test_link_may_be_named_or_left_open(host, link):
    host.check(networks=(Network(type="vnic", link=link),))


def test_missing_link_is_named_by_its_place(host):
    cards = (Network(type="vnic"), Network(type="vnic", name="net1", link="igb7"))

    with pytest.raises(LinkMissing, match=r"networks\[1\]\.link: there is no link igb7"):
        host.check(networks=cards)


def test_recorded_link_must_still_be_there(host):
    record = PropolisRecord(links={"net0": "igb9"}, disk="tank/vms/web1/disk0")
    found = FULL_HANDLE.evolve(state=VmState.STOPPED, propolis=record)

    with pytest.raises(LinkMissing, match="igb9"):
        host.check(found)


def test_new_machine_needs_an_image(host):
    with pytest.raises(ImageNotFound):
        host.check(image="/nowhere/disk.raw")


def test_image_that_is_not_raw_needs_a_program(host, monkeypatch):
    image = Image(str(host.image), "qcow2", 512)
    monkeypatch.setattr(host_check, "foresee_image", lambda *dummy: image)

    with pytest.raises(ProgramMissing, match="takes raw disks only"):
        host.check()
    host.program("qemu-img", "exit 1")
    host.check()


@pytest.mark.parametrize("disk", ["tank/vms/web1/disk0", "tank/vms/web1/gone"])
def test_existing_machine_needs_its_disk_and_no_image(host, disk):
    record = PropolisRecord(links={"net0": "igb0"}, disk=disk)
    found = FULL_HANDLE.evolve(state=VmState.STOPPED, propolis=record)

    if disk.endswith("gone"):
        with pytest.raises(HostError, match="volume tank/vms/web1/gone, is gone"):
            host.check(found, image="/nowhere/disk.raw")
    else:
        host.check(found, image="/nowhere/disk.raw")


def test_requests_are_those_of_the_kernel():
    assert (VMM.request, VIONA.request) == (0x564D04, 0x564303)


@pytest.mark.parametrize("interface", [VMM, VIONA], ids=lambda interface: interface.name)
def test_device_that_does_not_answer_has_an_unknown_version(tmp_path, interface):
    path = tmp_path / "device"
    path.touch()
    plain = replace(interface, device=str(path))

    assert ask_version(plain) is None
    check_version(plain, None)


def test_device_answers_with_its_version(tmp_path, monkeypatch):
    path = tmp_path / "device"
    path.touch()
    monkeypatch.setattr(fcntl, "ioctl", lambda dummy_fd, request, dummy: {VMM.request: 18}[request])

    assert ask_version(replace(VMM, device=str(path))) == 18


def test_control_device_is_opened_as_its_driver_wants(tmp_path, monkeypatch):
    opened, real = [], os.open

    def note(path, flags, *more, **options):
        opened.append(flags)
        return real(path, flags, *more, **options)

    path = tmp_path / "device"
    path.touch()

    monkeypatch.setattr(os, "open", note)
    for interface in (VMM, VIONA):
        ask_version(replace(interface, device=str(path)))
    monkeypatch.undo()

    assert [bool(flags & os.O_EXCL) for flags in opened] == [True, False]
    assert all(flags & os.O_ACCMODE == os.O_RDWR for flags in opened)


def test_missing_device_names_the_package(tmp_path):
    with pytest.raises(BackendNotAvailable, match="the kernel of this host has no vmm") as caught:
        ask_version(replace(VMM, device=str(tmp_path / "gone")))

    assert "system/bhyve" in caught.value.help


def test_device_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(BackendNotAvailable, match="cannot be opened: Is a directory"):
        ask_version(replace(VIONA, device=str(tmp_path)))


def test_facts_of_a_fit_host(host):
    report = report_host(host.options(), answers())

    assert report.as_dict() == {
        "backend": "propolis",
        "available": True,
        "problems": [],
        "facts": {
            "server": str(host.server),
            "bootrom": str(host.bootrom),
            "hosting": "global",
            "vmm_version": 18,
            "viona_version": 6,
            "reservoir": {"free_mib": 1024, "allocated_mib": 2048, "limit_mib": 8192},
            "pool": {"name": "tank", "available_bytes": 12345},
            "links": [
                {"name": "igb0", "class": "phys", "state": "up"},
                {"name": "stub0", "class": "etherstub", "state": "unknown"},
            ],
            "failures": [],
        },
    }


def test_facts_of_a_host_that_has_nothing(host):
    for path in host.bin.iterdir():
        path.unlink()
    gone = BackendNotAvailable("There is no device.")

    report = report_host(host.options(), answers(gone, gone))

    assert len(report.problems) == 4  # programs, two devices, the server
    assert {key: value for key, value in report.facts.items() if value is None} == dict.fromkeys(
        ("vmm_version", "viona_version", "reservoir", "pool", "links")
    )
    assert report.facts["failures"] == []  # all of it is a problem


def test_a_pool_that_is_not_there_is_a_problem_and_no_failure(host):
    report = report_host(host.options(pool="gone"), answers())

    assert [type(problem) for problem in report.problems] == [PoolMissing]
    assert (report.facts["pool"], report.facts["failures"]) == (None, [])


@pytest.mark.parametrize(
    ("name", "script", "fact", "words"),
    [
        ("zfs", 'echo "zfs: internal error" >&2; exit 1', "pool", "zfs: internal error"),
        ("dladm", 'echo "dladm: no /dev/dld" >&2; exit 1', "links", "dladm: no /dev/dld"),
        ("rsrvrctl", 'echo "no vmmctl: Device busy" >&2; exit 1', "reservoir", "Device busy"),
        # As the real one does where it may not ask.
        ("rsrvrctl", 'echo "no query: Not owner" >&2', "reservoir", "no query: Not owner"),
    ],
)
def test_a_fact_whose_program_fails_comes_with_its_words(host, name, script, fact, words):
    host.program(name, script)

    facts = report_host(host.options(), answers()).facts

    (failure,) = facts["failures"]
    assert words in failure
    assert [key for key, value in facts.items() if value is None] == [fact]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RESERVOIR, {"free_mib": 1024, "allocated_mib": 2048, "limit_mib": 8192}),
        (
            RESERVOIR + "Rawmem total MiB:\t9\n",
            {"free_mib": 1024, "allocated_mib": 2048, "limit_mib": 8192},
        ),
        ("Free MiB:\t0\n", {"free_mib": 0}),
        ("", None),
        ("Could not query reservoir info: Not owner\n", None),
    ],
)
def test_reservoir_is_read(text, expected):
    assert parse_reservoir(text) == expected
