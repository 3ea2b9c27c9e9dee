# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: the options of the modules, as values that add up."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

HOST: Spec = {"data_dir": {"type": "path"}}

_NETWORK: Spec = {"type": {"type": "str", "choices": ["user", "none"], "default": "user"}}

_CLOUD_INIT: Spec = {
    "hostname": {"type": "str"},
    "user": {"type": "str"},
    "ssh_authorized_keys": {"type": "list", "elements": "str", "no_log": False},
    "user_data": {"type": "raw", "no_log": True},
    "meta_data": {"type": "raw", "no_log": True},
    "network_config": {"type": "raw", "no_log": True},
}

VM: Spec = {
    **HOST,
    "name": {"type": "str", "required": True},
    "state": {
        "type": "str",
        "choices": ["present", "absent", "started", "stopped", "restarted", "suspended"],
        "default": "started",
    },
    "backend": {"type": "str", "choices": ["qemu", "noop"]},
    "image": {"type": "path"},
    "image_format": {"type": "str", "choices": ["qcow2", "raw"]},
    "vcpus": {"type": "int"},
    "memory": {"type": "str"},
    "disk_size": {"type": "str"},
    "networks": {"type": "list", "elements": "dict", "options": _NETWORK},
    "ssh_port_range": {"type": "str"},
    "cloud_init": {"type": "dict", "options": _CLOUD_INIT, "no_log": True},
    "accelerator": {"type": "str", "choices": ["auto", "kvm", "tcg"]},
    "cpu": {"type": "str"},
    "machine": {"type": "str"},
    "vnc": {"type": "bool"},
    "labels": {"type": "dict"},
    "description": {"type": "str"},
    "stop_timeout": {"type": "int", "default": 30},
    "force": {"type": "bool", "default": False},
    "wait_for": {"type": "str", "choices": ["running", "ssh"], "default": "running"},
    "wait_timeout": {"type": "int", "default": 300},
}

VM_INFO: Spec = {**HOST, "name": {"type": "list", "elements": "str"}}
