# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest is given at its first boot, made once for a machine: keys and the cloud-init seed."""

from __future__ import annotations

import os

from .._core.cloud_init import instance_id
from .._core.errors import KeygenFailed, SeedFailed
from .._core.handle import VmHandle
from .._core.layout import HOST_KEY, PRIVATE_KEY, SEED
from .._core.spec import CloudInit, VmSpec
from .._host.commands import find_program
from .._host.files import read_private
from .iso import available_tool, write_iso
from .keys import make_key_pair
from .seed import HostKey, check_cloud_init, seed_files


def check_material(spec: VmSpec) -> None:
    """Raise what would hinder this host from making a machine's keys and seed. Touches nothing."""
    check_cloud_init(spec.cloud_init or CloudInit())
    if available_tool() is None:
        raise SeedFailed(
            "No tool to write a cloud-init seed is installed: pycdlib, xorriso, genisoimage or mkisofs."
        )
    if _needs_key_pair(spec) and find_program("ssh-keygen") is None:
        raise KeygenFailed("ssh-keygen is not installed, so no key pair can be made.")


def make_material(handle: VmHandle) -> VmHandle:
    """Make the keys and the seed in the machine's folder; return the record that names them. What is there is kept."""
    spec, key = handle.spec, None
    handle = handle.evolve(private_key_path=None, host_key=None)
    if _needs_key_pair(spec):
        path = os.path.join(handle.work_dir, PRIVATE_KEY)
        key = make_key_pair(path, comment=spec.name)
        handle = handle.evolve(private_key_path=path)
    host_key = _host_key(handle)
    if host_key is not None:
        handle = handle.evolve(host_key=" ".join(host_key.public.split()[:2]))
    seed = os.path.join(handle.work_dir, SEED)
    cloud_init = spec.cloud_init or CloudInit()
    write_iso(seed, seed_files(cloud_init, handle.name, instance_id(handle), key, host_key))
    return handle.evolve(seed_iso_path=seed, seed_stale=False)


def _needs_key_pair(spec: VmSpec) -> bool:
    # The user gave no keys, so the machine gets a pair of its own.
    return spec.cloud_init is None or spec.cloud_init.ssh_authorized_keys is None


def _host_key(handle: VmHandle) -> HostKey | None:
    cloud_init = handle.spec.cloud_init
    if cloud_init is None or not cloud_init.ssh_host_key:
        return None
    path = os.path.join(handle.work_dir, HOST_KEY)
    public = make_key_pair(path, comment=handle.name)
    return HostKey(read_private(path).decode(), public)
