# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seed disk that pycdlib writes, read back; and what happens on a host without any tool."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pycdlib
import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    HostError,
    SeedFailed,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._guest import iso

FILES = {
    "user-data": b"#cloud-config\n" + b"x" * 5000,
    "meta-data": b"instance-id: web1-1\n",
    "network-config": b"",
}
PRIMARY_VOLUME, JOLIET_VOLUME = 16, 17  # the sectors where the descriptors are
NAME_OF_SEED = "seed.iso"


def read_back(path, catalogue):
    """Return the files of the image as the catalogue (rr_path or joliet_path) lists them."""
    disc = pycdlib.PyCdlib()
    disc.open(str(path))
    try:
        top, *below = disc.walk(**{catalogue: "/"})
        assert below == []
        files = {}
        for name in top[2]:
            stream = io.BytesIO()
            disc.get_file_from_iso_fp(stream, **{catalogue: f"/{name}"})
            files[name] = stream.getvalue()
        return files
    finally:
        disc.close()


def volume_name(path, sector):
    field = path.read_bytes()[sector * 2048 :][40:72]
    return field.decode("ascii" if sector == PRIMARY_VOLUME else "utf-16-be").rstrip()


@pytest.fixture
def programs(monkeypatch, tmp_path_factory):
    """Give a function that makes a host on which just these programs are installed; at first there is none."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", str(folder))

    def install(*names):
        for name in names:
            (folder / name).touch(mode=0o755)

    return install


@pytest.fixture
def no_pycdlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycdlib", None)


@pytest.mark.parametrize("catalogue", ["rr_path", "joliet_path"])
def test_files_are_read_back(tmp_path, programs, catalogue):
    tool = iso.write_iso(str(tmp_path / NAME_OF_SEED), FILES)

    assert tool == "pycdlib"
    assert read_back(tmp_path / NAME_OF_SEED, catalogue) == FILES


@pytest.mark.parametrize("sector", [PRIMARY_VOLUME, JOLIET_VOLUME])
def test_label_is_what_cloud_init_looks_for(tmp_path, sector):
    iso.write_iso(str(tmp_path / NAME_OF_SEED), FILES)

    assert volume_name(tmp_path / NAME_OF_SEED, sector) == "cidata"


def test_smallest_image_reaches_past_all_that_guests_probe_for(tmp_path):
    iso.write_iso(str(tmp_path / NAME_OF_SEED), {"meta-data": b""})

    # Busybox's findfs wants 68 KiB before it looks for ISO 9660.
    assert (tmp_path / NAME_OF_SEED).stat().st_size > 128 * 1024
    assert (tmp_path / NAME_OF_SEED).stat().st_size % 2048 == 0


def test_only_the_owner_reads_the_image_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        iso.write_iso(str(tmp_path / NAME_OF_SEED), FILES)
    finally:
        os.umask(old)

    assert (tmp_path / NAME_OF_SEED).stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [NAME_OF_SEED]


def test_image_is_replaced_not_written_over(tmp_path):
    path = tmp_path / NAME_OF_SEED
    iso.write_iso(str(path), {**FILES, "user-data": b"#!old\n"})
    with path.open("rb") as held:
        old = held.read()

        iso.write_iso(str(path), FILES)

        held.seek(0)
        assert held.read() == old
    assert read_back(path, "rr_path") == FILES


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(HostError, match="nowhere"):
        iso.write_iso(str(tmp_path / "nowhere" / NAME_OF_SEED), FILES)


def test_host_without_any_tool_is_told_all_of_them(tmp_path, programs, no_pycdlib):
    with pytest.raises(SeedFailed) as caught:
        iso.write_iso(str(tmp_path / NAME_OF_SEED), FILES)

    for tool in ("pycdlib", "xorriso", "genisoimage", "mkisofs"):
        assert tool in caught.value.message
        assert tool in caught.value.help
    assert iso.available_tool() is None
    assert os.listdir(tmp_path) == []


def test_pycdlib_comes_first():
    assert iso.available_tool() == "pycdlib"


@pytest.mark.parametrize(
    ("installed", "tool"),
    [
        (("xorriso", "genisoimage", "mkisofs"), "xorriso"),
        (("genisoimage", "mkisofs"), "genisoimage"),
        (("mkisofs",), "mkisofs"),
    ],
)
def test_programs_follow_in_order(no_pycdlib, programs, installed, tool):
    programs(*installed)

    assert iso.available_tool() == tool


@pytest.mark.real_host
def test_importing_the_file_does_not_import_pycdlib():
    code = (
        f"import sys, {iso.__name__} as iso; iso.available_tool(); print('pycdlib' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=with_path()
    )

    assert done.stdout == "False\n"


def with_path():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
