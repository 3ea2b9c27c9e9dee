# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: the options of the modules, as values that add up."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

HOST: Spec = {"data_dir": {"type": "path"}}

_PORT_FORWARD: Spec = {
    "host": {"type": "int", "required": True},
    "guest": {"type": "int", "required": True},
    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
    "host_address": {"type": "str", "default": "127.0.0.1"},
}

_NETWORK: Spec = {
    "type": {
        "type": "str",
        "choices": ["user", "bridge", "tap", "vnic", "none"],
        "default": "user",
    },
    "name": {"type": "str"},
    "bridge": {"type": "str"},
    "interface": {"type": "str"},
    "link": {"type": "str"},
    "vlan": {"type": "int"},
    "mac": {"type": "str"},
    "model": {
        "type": "str",
        "choices": ["virtio", "e1000e", "e1000", "rtl8139"],
        "default": "virtio",
    },
    "mtu": {"type": "int"},
    "connected": {"type": "bool", "default": True},
    "port_forwards": {"type": "list", "elements": "dict", "options": _PORT_FORWARD},
}

_PROPOLIS: Spec = {
    "pool": {"type": "str"},
    "server": {"type": "path"},
    "bootrom": {"type": "path"},
    "api_version": {
        "type": "str",
        "choices": ["1.0.0", "2.0.0", "3.0.0", "4.0.0", "5.0.0", "6.0.0"],
    },
    "hosting": {"type": "str", "choices": ["global", "zone"]},
    "zone_brand": {"type": "str"},
    "zone_image": {"type": "path"},
    "zone_dir": {"type": "path"},
    "control_link": {"type": "str"},
    "control_network": {"type": "str"},
}

_DISK: Spec = {
    "name": {"type": "str", "required": True},
    "size": {"type": "str"},
    "image": {"type": "str"},
    "format": {"type": "str", "choices": ["qcow2", "raw"]},
    "bus": {"type": "str", "choices": ["virtio-blk", "virtio-scsi", "nvme", "sata"]},
    "cache": {
        "type": "str",
        "choices": ["none", "writeback", "writethrough", "directsync", "unsafe"],
    },
    "aio": {"type": "str", "choices": ["threads", "native", "io_uring"]},
    "discard": {"type": "bool"},
    "serial": {"type": "str"},
    "readonly": {"type": "bool"},
    "boot_index": {"type": "int"},
    "iops": {"type": "int"},
    "iops_read": {"type": "int"},
    "iops_write": {"type": "int"},
    "bps": {"type": "int"},
    "bps_read": {"type": "int"},
    "bps_write": {"type": "int"},
}

_SMBIOS: Spec = {
    name: {"type": "str"}
    for name in ("manufacturer", "product", "version", "serial", "sku", "family")
}

_SHARED_FOLDER: Spec = {
    "name": {"type": "str", "required": True},
    "path": {"type": "path", "required": True},
    "readonly": {"type": "bool", "default": False},
}

_CLOUD_INIT: Spec = {
    "hostname": {"type": "str"},
    "user": {"type": "str"},
    "ssh_authorized_keys": {"type": "list", "elements": "str", "no_log": False},
    "user_data": {"type": "raw", "no_log": True},
    "meta_data": {"type": "raw", "no_log": True},
    "network_config": {"type": "raw", "no_log": True},
    "ssh_host_key": {"type": "bool", "no_log": False},
    "rerun": {"type": "bool"},
}

VM: Spec = {
    **HOST,
    "name": {"type": "str", "required": True},
    "state": {
        "type": "str",
        "choices": ["present", "absent", "started", "stopped", "restarted", "suspended"],
        "default": "started",
    },
    "backend": {"type": "str", "choices": ["qemu", "propolis", "noop"]},
    "image": {"type": "str"},
    "image_checksum": {"type": "str"},
    "image_format": {"type": "str", "choices": ["qcow2", "raw"]},
    "vcpus": {"type": "int"},
    "memory": {"type": "str"},
    "disk_size": {"type": "str"},
    "networks": {"type": "list", "elements": "dict", "options": _NETWORK},
    "ssh_port_range": {"type": "str"},
    "ip_version": {"type": "int", "choices": [0, 4, 6]},
    "ip_range": {"type": "list", "elements": "str"},
    "lease_files": {"type": "list", "elements": "path"},
    "cloud_init": {"type": "dict", "options": _CLOUD_INIT, "no_log": True},
    "accelerator": {"type": "str", "choices": ["auto", "kvm", "tcg"]},
    "cpu": {"type": "str"},
    "machine": {"type": "str"},
    "disks": {"type": "list", "elements": "dict", "options": _DISK},
    "unlisted_disks": {"type": "str", "choices": ["keep", "detach"], "default": "keep"},
    "delete_detached_disks": {"type": "bool", "default": False},
    "cdrom": {"type": "str"},
    "vcpus_max": {"type": "int"},
    "memory_max": {"type": "str"},
    "apply": {"type": "str", "choices": ["live", "next_start", "restart"], "default": "live"},
    "vnc": {"type": "bool"},
    "firmware": {"type": "str", "choices": ["bios", "uefi"]},
    "secure_boot": {"type": "bool"},
    "tpm": {"type": "bool"},
    "kernel": {"type": "path"},
    "initrd": {"type": "path"},
    "kernel_cmdline": {"type": "str"},
    "smbios": {"type": "dict", "options": _SMBIOS},
    "shared_folders": {"type": "list", "elements": "dict", "options": _SHARED_FOLDER},
    "qemu_args": {"type": "list", "elements": "str"},
    "autostart": {"type": "bool"},
    "new_name": {"type": "str"},
    "clone_from": {"type": "str"},
    "clone_mode": {"type": "str", "choices": ["full", "linked"]},
    "propolis": {"type": "dict", "options": _PROPOLIS},
    "labels": {"type": "dict"},
    "description": {"type": "str"},
    "stop_timeout": {"type": "int", "default": 30},
    "force": {"type": "bool", "default": False},
    "wait_for": {"type": "str", "choices": ["running", "ip", "ssh"], "default": "running"},
    "wait_timeout": {"type": "int", "default": 300},
}

VM_FLEET: Spec = {
    **HOST,
    # Anything that a machine can have may be inside, so nothing of it is written to the system's log.
    "vms": {"type": "list", "elements": "dict", "required": True, "no_log": True},
    "defaults": {"type": "dict", "no_log": True},
}

VM_INFO: Spec = {**HOST, "name": {"type": "list", "elements": "str"}}

VM_IMAGE: Spec = {
    **HOST,
    "image": {"type": "str"},
    "state": {
        "type": "str",
        "choices": ["present", "absent", "pruned", "pushed"],
        "default": "present",
    },
    "checksum": {"type": "str"},
    "image_format": {
        "type": "str",
        "choices": ["qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc"],
    },
    "target_format": {"type": "str", "choices": ["qcow2", "raw"]},
    "passphrase": {"type": "str", "no_log": True},
    "internal_snapshots": {"type": "str", "choices": ["refuse", "drop"], "default": "refuse"},
    "update": {
        "type": "str",
        "choices": ["never", "if_changed", "always"],
        "default": "never",
    },
    "destination": {"type": "str"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "headers": {"type": "dict", "no_log": True},
    "plain_http": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 30},
}

VM_IMAGE_INFO: Spec = {**HOST, "image": {"type": "str"}}

HOST_INFO: Spec = {**HOST, "propolis": VM["propolis"]}
