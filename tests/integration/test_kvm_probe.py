# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of KVM against this host's own device, whatever that is."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._qemu.kvm import (
    check_kvm,
    judge_probe,
    run_in_child,
    run_probe_guest,
)

DEVICE = "/dev/kvm"


def obstacle():
    """Return the system's words if the device does not open, and nothing if it does."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{DEVICE}: {error.strerror.lower()}"
    return ""


@pytest.fixture
def opened_device():
    """Leave out what needs the device; that its absence is reported, another test proves."""
    if obstacle():
        pytest.skip(obstacle())
    if os.uname().machine != "x86_64":
        pytest.skip(f"the probe guest is a program for x86_64, not {os.uname().machine}")


def test_device_that_does_not_open_is_the_reason_given():
    verdict = check_kvm()

    assert verdict.reason.startswith(obstacle())
    assert not (obstacle() and verdict.usable)


def own_children():
    """Return the processes that this one has started and not waited for; other tests may have left some."""
    found = Path("/proc/self/task").glob("*/children")
    return {pid for path in found for pid in path.read_text().split()}


def test_check_leaves_nothing_behind_and_keeps_its_time():
    before, children = os.listdir("/proc/self/fd"), own_children()
    start = time.monotonic()

    check_kvm()

    assert time.monotonic() - start < 6
    assert os.listdir("/proc/self/fd") == before
    assert own_children() <= children


def test_probe_guest_of_one_turn_ends_fast(opened_device):
    probe_ms = run_in_child(partial(run_probe_guest, DEVICE, turns=1))

    assert judge_probe(DEVICE, probe_ms).usable


def test_probe_guest_leaves_nothing_behind(opened_device):
    before = os.listdir("/proc/self/fd")

    run_probe_guest(DEVICE, turns=1)

    assert os.listdir("/proc/self/fd") == before


def test_verdict_agrees_with_the_probe_guest(opened_device):
    probe_ms = run_in_child(partial(run_probe_guest, DEVICE), timeout_s=30)

    verdict = check_kvm()

    assert verdict.usable == judge_probe(DEVICE, probe_ms).usable, (verdict, probe_ms)
