# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest sees of changes while it runs, in one boot: the same process, and an uptime that only rises."""

from __future__ import annotations

import time

from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.qmp import Qmp
from conftest import in_guest

MIB = 1024**2


class Story:
    """A guest that must not notice a restart, because there is none."""

    def __init__(self, guests, **options):
        self.guests = guests
        self.vm = guests.vm(wait_for="ssh", **options)["vm"]
        self.uptime = 0.0

    def change(self, **options):
        """Change something; the prediction is what happens, and a second run does nothing."""
        told = self.guests.vm(check=True, **options)
        real = self.guests.vm(**options)
        assert {key: told[key] for key in ("changed", "actions", "diff", "restart_required")} == {
            key: real[key] for key in ("changed", "actions", "diff", "restart_required")
        }
        assert (real["changed"], real["restart_required"]) == (True, False)
        assert self.guests.vm(**options)["changed"] is False
        assert real["vm"]["pid"] == self.vm["pid"]
        self.vm = real["vm"]
        uptime = float(self.ask("cut -d ' ' -f 1 /proc/uptime"))
        assert uptime > self.uptime
        self.uptime = uptime
        return real

    def ask(self, command):
        return in_guest(self.vm, command).strip()

    def sees(self, command, expected, seconds=60):
        deadline = time.monotonic() + seconds
        while (seen := self.ask(command)) != expected:
            assert time.monotonic() < deadline, f"{command}: {seen!r}, not {expected!r}"
            time.sleep(0.2)


FIND = "grep -lsx {} /sys/block/*/serial /sys/block/*/device/serial | cut -d / -f 4"


def test_a_guest_gets_more_and_less_while_it_runs(guests):
    story = Story(guests, vcpus=1, vcpus_max=3, memory_max="1GiB")
    grow_the_disk(story)
    add_and_remove_disks(story)
    add_and_remove_a_card(story)
    add_cpus_and_memory(story)
    repair_what_somebody_took_out(story)


def grow_the_disk(story):
    story.change(disk_size="300MiB")
    story.sees("cat /sys/block/vda/size", str(300 * MIB // 512))


def add_and_remove_disks(story):
    data = {"name": "data", "size": "64MiB", "serial": "DATA1"}
    fast = {"name": "fast", "size": "32MiB", "bus": "nvme", "serial": "FAST1"}
    scsi = {"name": "scsi", "size": "16MiB", "bus": "virtio-scsi"}
    story.change(disks=[data, fast, scsi])
    story.sees(FIND.format("DATA1"), "vdc")
    story.sees("cat /sys/block/nvme0n1/size /sys/block/sda/size || true", f"{65536}\n{32768}")
    story.ask(
        "sudo mke2fs -q /dev/vdc && sudo mount -t ext4 /dev/vdc /mnt && echo kept | sudo tee /mnt/f"
    )
    story.change(disks=[{"name": "data", "size": "128MiB", "bps": 50000000}])
    story.sees("cat /sys/block/vdc/size; cat /mnt/f", f"{128 * MIB // 512}\nkept")
    story.ask("sudo umount /mnt")

    gone = story.change(disks=[], unlisted_disks="detach")
    story.sees("ls /sys/block | grep -c -e vdc -e nvme -e sda || true", "0")
    assert [disk["attached"] for disk in gone["vm"]["disks"]] == [True, False, False, False]

    story.change(disks=[{"name": "data", "serial": "DATA1"}])  # the size is that of the file
    story.sees(FIND.format("DATA1"), "vdc")
    story.ask("sudo mount -t ext4 /dev/vdc /mnt")
    assert story.ask("cat /mnt/f; sudo umount /mnt") == "kept"
    left = story.change(delete_detached_disks=True)
    assert left["actions"] == ["discard"]
    assert [disk["name"] for disk in left["vm"]["disks"]] == ["disk0", "data"]


def add_and_remove_a_card(story):
    first, second = {"type": "user"}, {"type": "user", "name": "second", "model": "virtio"}
    there = story.change(networks=[first, second])
    mac = there["vm"]["networks"][1]["mac"]
    story.sees("cat /sys/class/net/eth1/address", mac)
    story.ask("sudo ip link set eth1 up")
    story.sees("cat /sys/class/net/eth1/carrier", "1")
    story.change(networks=[first, {**second, "connected": False}])
    story.sees("cat /sys/class/net/eth1/carrier", "0")
    story.change(networks=[first, second])
    story.sees("cat /sys/class/net/eth1/carrier", "1")
    story.change(networks=[first])
    story.sees("ls -d /sys/class/net/eth1 2>/dev/null || echo gone", "gone")


def add_cpus_and_memory(story):
    story.ask("echo online | sudo tee /sys/devices/system/memory/auto_online_blocks")
    before = int(story.ask("sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"))
    story.change(vcpus=3)
    story.sees("ls -d /sys/devices/system/cpu/cpu[0-9] | wc -l", "3")
    story.ask("for cpu in 1 2; do echo 1 | sudo tee /sys/devices/system/cpu/cpu$cpu/online; done")
    assert story.ask("grep -c ^processor /proc/cpuinfo") == "3"
    story.change(memory="448")
    more = "sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"
    deadline = time.monotonic() + 60
    while int(story.ask(more)) < before + 200 * 1024:
        assert time.monotonic() < deadline, story.ask(more)
        time.sleep(0.2)


def repair_what_somebody_took_out(story):
    """Somebody else unplugs a disk and a card over QMP: the next task sees it, in check mode too, and repairs it."""
    networks = [{"type": "user"}, {"type": "user", "name": "second"}]
    story.change(networks=networks)
    with Qmp.connect(str(story.guests.folder() / "qmp-debug.sock"), 5) as qmp:
        for device in ("dev-data", "card-second"):
            qmp.execute("device_del", {"id": device})
            left = set()
            while device not in left:
                event = qmp.wait_event("DEVICE_DELETED", timeout=20)
                assert event is not None
                left.add(event.data.get("device"))
    story.sees(f"ls -d /sys/class/net/eth1 2>/dev/null; {FIND.format('DATA1')}", "")

    done = story.change()

    assert done["actions"] == ["change"]
    before, after = done["diff"]["before"], done["diff"]["after"]
    assert ([d["name"] for d in before["disks"]], [d["name"] for d in after["disks"]]) == (
        [],
        ["data"],
    )
    assert (len(before["networks"]), len(after["networks"])) == (1, 2)
    story.sees(FIND.format("DATA1"), "vdc")
    story.sees("ls -d /sys/class/net/eth1", "/sys/class/net/eth1")
    linux_lets_a_disk_go_that_is_mounted(story)


def linux_lets_a_disk_go_that_is_mounted(story):
    """So the guide says that it must be unmounted first."""
    story.ask("sudo mount -t ext4 /dev/vdc /mnt")
    story.change(disks=[], unlisted_disks="detach")
    story.sees(FIND.format("DATA1"), "")


def test_a_medium_comes_and_goes_and_stays_while_it_is_in_use(guests):
    """On the machine type pc: kernels made for clouds have no driver for the SATA of q35."""
    story = Story(guests, machine="pc", cdrom="")
    iso = str(guests.folder() / "seed.iso")
    label = "dd if=/dev/sr0 bs=1 skip=32808 count=6 2>/dev/null || true"

    story.change(cdrom=iso)
    story.sees(f"sudo {label}", "cidata")
    story.ask("sudo mount -t iso9660 -o ro /dev/sr0 /mnt")
    refused = guests.refuse(cdrom="")
    assert refused["error"]["code"] == "vm_manager.vm.change_failed"
    assert "locked" in refused["msg"]
    assert "user-data" in story.ask("ls /mnt")

    story.ask("sudo umount /mnt")
    assert guests.vm()["actions"] == ["change"], "what was refused is still wanted"
    story.sees(f"sudo {label}", "")

    story.change(disks=[{"name": "data", "size": "16MiB", "serial": "D"}])
    story.sees(FIND.format("D"), "vdc")
