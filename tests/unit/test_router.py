# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backend serves a machine: by platform when it is new, by its record afterwards."""

from __future__ import annotations

import sys

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BackendNotAvailable,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import VmState
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._router import RouterHypervisor
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


@pytest.mark.parametrize(
    ("platform", "wish", "tag"),
    [
        ("linux", None, "qemu"),
        ("linux", "qemu", "qemu"),
        ("linux", "noop", "noop"),
        ("sunos5", None, "propolis"),
        ("sunos5", "noop", "noop"),
        ("darwin", "noop", "noop"),
        ("darwin", "qemu", "qemu"),
    ],
)
def test_a_new_machine_gets_the_backend_of_the_wish_or_the_platform(store, platform, wish, tag):
    assert RouterHypervisor(store, platform=platform).tag_for(wish) == tag


@pytest.mark.parametrize("platform", ["darwin", "freebsd14", "win32", "linux2", ""])
def test_a_platform_without_a_backend_asks_for_a_choice(store, platform):
    with pytest.raises(BackendNotAvailable, match=f"platform {platform}") as caught:
        RouterHypervisor(store, platform=platform).tag_for(None)

    assert caught.value.code == "vm_manager.backend.not_available"
    assert "noop" in caught.value.help


def test_the_platform_is_that_of_this_host(store):
    assert RouterHypervisor(store).tag_for(None) == RouterHypervisor(
        store, platform=sys.platform
    ).tag_for(None)


@pytest.mark.parametrize("platform", ["linux", "sunos5", "darwin"])
@pytest.mark.parametrize("wish", [None, "qemu", "noop"])
def test_noop_only_serves_every_new_machine_with_noop(store, platform, wish):
    router = RouterHypervisor(store, platform=platform, noop_only=True)

    assert router.tag_for(wish) == "noop"
    assert router.pick(wish, None).tag == "noop"


def test_noop_only_leaves_a_machine_with_the_backend_that_made_it(store):
    router = RouterHypervisor(store, noop_only=True)

    assert router.pick(None, minimal_handle(backend="qemu")).tag == "qemu"


@pytest.mark.parametrize("tag", ["qemu", "propolis", "noop"])
def test_a_backend_carries_its_tag(store, tag):
    backend = RouterHypervisor(store).backend(tag)

    assert backend.tag == tag
    assert backend.features.network_types


@pytest.mark.parametrize("tag", ["bhyve", "", "QEMU"])
def test_a_backend_that_there_is_not_is_named(store, tag):
    with pytest.raises(BackendNotAvailable, match=f"no backend {tag}") as caught:
        RouterHypervisor(store).backend(tag)

    assert caught.value.help


@pytest.mark.parametrize("wish", [None, "qemu", "noop"])
@pytest.mark.parametrize("platform", ["linux", "sunos5", "darwin"])
def test_an_existing_machine_stays_with_its_backend(store, wish, platform):
    router = RouterHypervisor(store, platform=platform)

    assert router.pick(wish, minimal_handle(backend="noop")).tag == "noop"
    assert router.pick(wish, minimal_handle(backend="qemu")).tag == "qemu"


def test_a_machine_is_observed_by_its_own_backend(store):
    for name, backend in (("web1", "noop"), ("old", "bhyve")):
        folder = store.work_dir(name)
        store.save(minimal_handle(name, backend, state=VmState.SUSPENDED, work_dir=folder))
    router = RouterHypervisor(store)

    assert router.observe("web1").state is VmState.SUSPENDED
    assert router.observe("nobody") is None
    with pytest.raises(BackendNotAvailable, match="bhyve"):
        router.observe("old")
