# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records on the disk: private, whole, removed without a trace, and safe from other tasks."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import threading
import time

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import (
    BadRecord,
    Busy,
    HostError,
    VmError,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.handle import dump
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.layout import (
    CONSOLE_LOG,
    OVERLAY,
    RECORD,
    is_ours,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.files import (
    make_private_folder,
    read_tail,
    replacing,
    short_path,
    write_atomically,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import (
    Store,
    default_data_dir,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import minimal_handle

AS_ROOT = os.geteuid() == 0


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "data"))


@pytest.fixture
def vms(tmp_path):
    return tmp_path / "data" / "vms"


@pytest.fixture
def no_umask():
    old = os.umask(0)
    yield
    os.umask(old)


def record_of(store, name):
    return minimal_handle(name, work_dir=store.work_dir(name))


def save(store, *names):
    return [store.save(record_of(store, name)) for name in names]


def test_what_is_saved_is_loaded(store):
    (handle,) = save(store, "web1")

    assert store.load("web1") == handle
    assert store.names() == ["web1"]


def test_a_record_is_replaced_as_a_whole(store, vms):
    (handle,) = save(store, "web1")
    long = handle.evolve(accelerator_reason="x" * 10000)

    store.save(long)
    store.save(handle)

    assert store.load("web1") == handle
    assert [path.name for path in (vms / "web1").iterdir()] == [RECORD]


def test_looking_makes_nothing(store, tmp_path):
    assert store.names() == []
    assert store.load("web1") is None
    assert store.is_settled("web1")
    assert store.sweep("web1") == []
    assert store.forget("web1") == []
    assert [*tmp_path.iterdir()] == []


def test_names_are_sorted(store):
    save(store, "b", "a.2", "Z", "a")

    assert store.names() == ["Z", "a", "a.2", "b"]


def test_everything_is_private_whatever_the_umask(store, vms, no_umask):
    save(store, "web1")
    with store.lock("web1", 1):
        modes = {path.name: mode_of(path) for path in [vms.parent, vms, *vms.rglob("*")]}

    assert modes == {
        "data": 0o700,
        "vms": 0o700,
        "web1": 0o700,
        RECORD: 0o600,
        ".web1.lock": 0o600,
    }


def test_a_folder_that_is_there_is_kept_as_it_is(store, tmp_path):
    (tmp_path / "data").mkdir(mode=0o750)

    save(store, "web1")

    assert mode_of(tmp_path / "data") == 0o750


@pytest.mark.parametrize("place", ["data", "data/vms", "data/vms/web1"])
def test_a_file_where_a_folder_should_be_is_an_error_of_ours(store, tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("in the way")

    with pytest.raises(HostError, match=r"Could not|cannot be looked at: Not a dir") as caught:
        save(store, "web1")

    assert caught.value.code == "vm_manager.io"
    assert str(tmp_path / "data") in caught.value.message
    assert (tmp_path / place).read_text() == "in the way"


def test_a_folder_without_a_record_is_no_machine(store, vms):
    save(store, "web1")
    (vms / "empty").mkdir()

    assert store.names() == ["web1"]
    assert store.load("empty") is None


def odd_entries(vms, outside):
    """Fill the folder with what a machine of ours would never be."""
    record = dump(minimal_handle("web1"))
    for name in ("a b", "web1 (copy)", "-x", "é", "x" * 64, "a\nb"):
        (vms / name).mkdir()
        (vms / name / RECORD).write_bytes(record)
    (vms / ".web9.trash").mkdir()
    (vms / ".web9.trash" / RECORD).write_bytes(record)
    (vms / "file").write_text("x")
    outside.mkdir()
    (outside / RECORD).write_bytes(dump(minimal_handle("link")))
    (vms / "link").symlink_to(outside)
    (vms / "dangling").symlink_to(outside / "nothing")
    (vms / "loop").symlink_to("loop")


def test_odd_entries_are_no_machines(store, vms, tmp_path):
    save(store, "web1")
    odd_entries(vms, tmp_path / "outside")

    assert store.names() == ["web1"]
    assert store.load("file") is None
    with store.reservations() as records:
        assert [record.name for record in records] == ["web1"]


def test_a_folder_that_is_a_link_is_never_followed_out(store, vms, tmp_path):
    save(store, "web1")
    odd_entries(vms, tmp_path / "outside")

    with pytest.raises(VmError, match="link"):
        store.load("link")
    with pytest.raises(VmError):
        store.save(minimal_handle("link"))

    assert (tmp_path / "outside" / RECORD).read_bytes() == dump(minimal_handle("link"))


def test_the_record_of_another_name_is_refused(store, vms):
    save(store, "web1")
    (vms / "web1").rename(vms / "web2")

    with pytest.raises(BadRecord, match="another VM, 'web1'") as caught:
        store.load("web2")

    assert caught.value.details == {"path": str(vms / "web2" / RECORD)}


def test_a_record_that_is_a_folder_is_an_error_of_ours(store, vms):
    (vms / "web1" / RECORD).mkdir(parents=True)

    with pytest.raises(HostError, match="Could not read"):
        store.load("web1")


@pytest.mark.skipif(AS_ROOT, reason="root may read everything")
def test_a_record_that_may_not_be_read_is_an_error_of_ours(store, vms):
    save(store, "web1")
    (vms / "web1" / RECORD).chmod(0)

    with pytest.raises(HostError, match="Permission denied"):
        store.load("web1")


def as_a_link(path, outside):
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)


def as_a_pipe(path, outside):
    path.unlink()
    os.mkfifo(path)


def as_a_folder(path, outside):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("replace", [as_a_link, as_a_pipe, as_a_folder])
def test_a_record_that_is_no_plain_file_is_refused_at_once_and_hinders_no_other(
    store, vms, tmp_path, replace
):
    save(store, "bad", "good")
    replace(vms / "bad" / RECORD, tmp_path / "outside")

    begin = time.monotonic()
    with pytest.raises(HostError, match=r"Could not read .*bad/vm\.json"):
        store.load("bad")
    with store.reservations() as records:
        names = [record.name for record in records]
    save(store, "new")

    assert names == ["good"]
    assert store.load("new").name == "new"
    assert time.monotonic() - begin < 10


def test_a_lock_that_is_a_link_is_not_followed(store, vms, tmp_path):
    save(store, "web1")
    (vms / ".web1.lock").symlink_to(tmp_path / "made through the link")

    with pytest.raises(HostError, match="Could not open the lock"), store.lock("web1", 1):
        pytest.fail("locked")

    assert not (tmp_path / "made through the link").exists()


def test_a_lock_that_is_a_pipe_blocks_nobody(store, vms):
    save(store, "web1")
    os.mkfifo(vms / ".web1.lock")

    assert store.is_settled("web1")
    with store.lock("web1", 1), pytest.raises(Busy), store.lock("web1", 0):
        pytest.fail("locked twice")


def every_access(store):
    """Try all that a task does with the store; return the errors."""
    errors = []
    for act in (
        lambda: store.load("web1"),
        lambda: store.save(record_of(store, "web1")),
        lambda: store.lock("web1", 0).__enter__(),
        lambda: store.reservations(0).__enter__(),
    ):
        try:
            act()
        except HostError as exc:
            errors.append(exc)
    return errors


def everything_below(folder):
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode) for path in folder.rglob("*")
    }


@pytest.mark.skipif(not AS_ROOT, reason="only root can give a folder away")
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "with a machine"])
@pytest.mark.parametrize("place", ["data", "data/vms"])
def test_a_folder_of_another_user_is_refused_and_nothing_is_written(
    store, vms, tmp_path, place, filled
):
    vms.mkdir(parents=True, mode=0o700)
    if filled:
        save(store, "web1")
    os.chown(tmp_path / place, 65534, 65534)
    before = everything_below(tmp_path)

    errors = every_access(store)

    assert [error.code for error in errors] == ["vm_manager.io"] * 4
    assert all(f"{tmp_path / place} belongs to another user" in str(error) for error in errors)
    assert "become_user" in errors[0].help
    assert everything_below(tmp_path) == before


@pytest.mark.skipif(not AS_ROOT, reason="only root can give a folder away")
def test_a_machine_of_another_user_is_refused(store, vms):
    save(store, "web1")
    os.chown(vms / "web1", 65534, 65534)

    with pytest.raises(HostError, match="web1 belongs to another user"):
        store.load("web1")
    with pytest.raises(HostError, match="web1 belongs to another user"):
        save(store, "web1")


@pytest.mark.parametrize(
    ("place", "mode", "accepted"),
    [
        ("data", 0o755, True),
        ("data", 0o775, True),  # made by a user with the umask 002
        ("data", 0o777, False),
        ("data", 0o1777, False),
        ("data/vms", 0o755, True),
        ("data/vms", 0o770, False),
        ("data/vms", 0o702, False),
    ],
)
def test_a_folder_that_others_may_write_to_is_refused(store, tmp_path, place, mode, accepted):
    save(store, "web1")
    (tmp_path / place).chmod(mode)
    before = everything_below(tmp_path)

    errors = every_access(store)

    assert len(errors) == (0 if accepted else 4)
    if not accepted:
        assert all(f"other users may write to {tmp_path / place}" in str(e) for e in errors)
        assert str(tmp_path / place) in errors[0].help
        assert everything_below(tmp_path) == before


@pytest.mark.parametrize("how", [shutil.copytree, os.rename], ids=["copied", "moved"])
def test_a_machine_whose_folder_was_copied_or_moved_is_refused(store, tmp_path, how):
    save(store, "web1")
    how(tmp_path / "data", tmp_path / "other")
    other = Store(str(tmp_path / "other"))

    with pytest.raises(BadRecord, match="was made for the folder") as caught:
        other.load("web1")

    assert other.work_dir("web1") in caught.value.message
    assert store.work_dir("web1") in caught.value.message
    assert caught.value.details == {"path": other.work_dir("web1")}
    with other.reservations() as records:
        assert records == []


def test_a_data_folder_that_was_moved_back_is_as_before(store, tmp_path):
    (handle,) = save(store, "web1")
    (tmp_path / "data").rename(tmp_path / "away")
    (tmp_path / "away").rename(tmp_path / "data")

    assert store.load("web1") == handle


def test_another_way_to_the_same_folder_is_no_copy(store, tmp_path):
    (handle,) = save(store, "web1")
    (tmp_path / "alias").symlink_to("data")

    assert Store(str(tmp_path / "alias")).load("web1") == handle


@pytest.mark.parametrize(
    "field",
    ["overlay_path", "seed_iso_path", "private_key_path", "qmp_socket", "console_socket"],
)
def test_a_record_that_names_a_file_of_another_folder_is_refused(store, tmp_path, field):
    handle = record_of(store, "web1")
    store.save(handle.evolve(**{field: str(tmp_path / "elsewhere" / "file")}))

    with pytest.raises(BadRecord, match="was made for the folder"):
        store.load("web1")


def fill(folder, *names):
    for name in names:
        (folder / name).write_text(name)


def test_forgetting_removes_all_that_is_ours(store, vms):
    save(store, "web1", "web2")
    fill(vms / "web1", OVERLAY, CONSOLE_LOG, f"{CONSOLE_LOG}.1", f".{OVERLAY}.part", "qemu.pid")
    (vms / "web1" / ".id_ed25519.part-abc").mkdir()

    assert store.forget("web1") == []

    assert os.listdir(vms) == ["web2"]
    assert store.load("web1") is None


def test_forgetting_keeps_what_others_put_there_and_says_so(store, vms):
    save(store, "web1")
    fill(vms / "web1", OVERLAY, "notes.txt")
    (vms / "web1" / "backup").mkdir()
    fill(vms / "web1" / "backup", OVERLAY)

    kept = store.forget("web1")

    assert kept == [str(vms / "web1" / "backup"), str(vms / "web1" / "notes.txt")]
    assert sorted(os.listdir(vms / "web1")) == ["backup", "notes.txt"]
    assert (vms / "web1" / "backup" / OVERLAY).read_text() == OVERLAY
    assert mode_of(vms / "web1") == 0o700
    assert store.names() == []
    assert store.is_settled("web1")


def test_a_link_in_the_folder_goes_and_its_target_stays(store, vms, tmp_path):
    (tmp_path / "precious").write_text("x")
    save(store, "web1")
    (vms / "web1" / CONSOLE_LOG).symlink_to(tmp_path / "precious")

    store.forget("web1")

    assert (tmp_path / "precious").read_text() == "x"
    assert not (vms / "web1").exists()


def begin_removal(vms, *files):
    """Leave what a run that was killed right after the rename leaves."""
    (vms / ".web1.trash").mkdir(parents=True)
    fill(vms / ".web1.trash", *files)


def test_a_removal_that_was_killed_is_finished_by_a_sweep(store, vms):
    begin_removal(vms, OVERLAY, RECORD, "notes.txt")

    assert (store.is_settled("web1"), store.load("web1")) == (False, None)
    assert store.sweep("web1") == [str(vms / "web1" / "notes.txt")]
    assert store.is_settled("web1")
    assert os.listdir(vms / "web1") == ["notes.txt"]


def test_a_sweep_leaves_the_machine_that_was_made_since_alone(store, vms):
    begin_removal(vms, OVERLAY, "notes.txt")
    (handle,) = save(store, "web1")
    fill(vms / "web1", OVERLAY)

    store.sweep("web1")

    assert store.load("web1") == handle
    assert sorted(os.listdir(vms / "web1")) == ["notes.txt", OVERLAY, RECORD]


def test_forgetting_again_finishes_the_first_removal_too(store, vms):
    begin_removal(vms, OVERLAY, "old.txt")
    save(store, "web1")
    fill(vms / "web1", "new.txt")

    kept = store.forget("web1")

    assert sorted(os.path.basename(path) for path in kept) == ["new.txt", "old.txt"]
    assert store.is_settled("web1")


def test_files_that_a_killed_run_was_writing_are_swept_away(store, vms):
    (handle,) = save(store, "web1")
    half_made = [f".{RECORD}.part", f".{OVERLAY}.part", ".disk-data.qcow2.part-x1"]
    fill(vms / "web1", OVERLAY, "notes.part", *half_made)
    (vms / "web1" / ".id_ed25519.part-abc").mkdir()

    assert not store.is_settled("web1")
    assert store.sweep("web1") == []
    assert store.is_settled("web1")

    assert store.load("web1") == handle
    assert sorted(os.listdir(vms / "web1")) == ["notes.part", OVERLAY, RECORD]


def test_a_folder_that_a_killed_run_left_before_there_was_a_machine_is_swept_away(store, vms):
    (vms / "web1").mkdir(parents=True, mode=0o700)

    assert not store.is_settled("web1")
    with store.lock("web1", 0):
        store.sweep("web1")

    assert os.listdir(vms) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_sweep_never_overwrites_a_file_of_the_same_name(store, vms, kind):
    begin_removal(vms, "notes.txt")
    save(store, "web1")
    if kind == "file":
        (vms / "web1" / "notes.txt").write_text("newer")
    else:
        (vms / "web1" / "notes.txt").mkdir()

    with contextlib.suppress(HostError):
        store.sweep("web1")

    texts = [path.read_text() for path in vms.rglob("notes.txt*") if path.is_file()]
    assert sorted(texts) == sorted(["notes.txt", *(["newer"] if kind == "file" else [])])


def test_what_is_ours_is_told_by_name():
    ours = [RECORD, OVERLAY, "seed.iso", "qemu.log.1", f".{RECORD}.part", ".id_ed25519.part-x1"]
    foreign = ["notes", ".vimrc", "vm.json.bak", "overlay.qcow2.old", ".part", "id_ed25519.pub.1"]

    assert [is_ours(name) for name in ours] == [True] * len(ours)
    assert [is_ours(name) for name in foreign] == [False] * len(foreign)


def test_a_second_task_is_told_that_the_machine_is_busy(store):
    with store.lock("web1", 0):
        begin = time.monotonic()
        with pytest.raises(Busy, match="'web1'") as caught, store.lock("web1", 0.1):
            pytest.fail("two tasks hold the lock")
        waited = time.monotonic() - begin
        with store.lock("web2", 0):
            pass

    assert caught.value.code == "vm_manager.vm.busy"
    assert 0.1 <= waited < 10


def test_a_machine_is_settled_when_no_task_works_on_it(store, vms):
    save(store, "web1")
    never = store.is_settled("web1")

    with store.lock("web1", 0):
        during, other = store.is_settled("web1"), store.is_settled("web2")
    after = store.is_settled("web1")

    assert (never, during, other, after) == (True, False, True, True)
    assert sorted(os.listdir(vms)) == [".web1.lock", "web1"]


def test_the_lock_file_goes_with_the_machine(store, vms):
    save(store, "web1")

    with store.lock("web1", 0):
        pass
    stays = os.path.exists(vms / ".web1.lock")
    with store.lock("web1", 0):
        store.forget("web1")

    assert stays
    assert os.listdir(vms) == []


def test_the_lock_is_released_by_an_error(store):
    with pytest.raises(ZeroDivisionError), store.lock("web1", 0):
        raise ZeroDivisionError

    with store.lock("web1", 0):
        pass


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a\n"])
def test_no_lock_is_made_outside_of_the_folder(store, tmp_path, name):
    with pytest.raises(VmError) as caught, store.lock(name, 0):
        pytest.fail("locked")

    assert caught.value.code == "vm_manager.spec.invalid_name"
    assert not [*tmp_path.rglob("*.lock")]


def test_a_lock_file_that_vanishes_while_waiting_locks_nobody_in_with_another(store, vms):
    inside, most = [], []

    def work():
        for _dummy in range(20):
            with store.lock("web1", 10):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for dummy in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(most) == 80
    assert max(most) == 1
    assert os.listdir(vms) == []


HOLD = """
import sys
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._host.store import Store
with Store(sys.argv[1]).lock("web1", 0):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.real_host
def test_two_processes_do_not_work_on_one_machine(store):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, store.data_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(Busy), store.lock("web1", 0.05):
            pytest.fail("two processes hold the lock")
        other.kill()
        other.wait()
        with store.lock("web1", 1):
            pass


def test_reservations_give_all_records_that_can_be_read(store, vms):
    save(store, "a", "b", "c")
    (vms / "b" / RECORD).write_text("damaged")

    with store.reservations() as records:
        names = [record.name for record in records]

    assert names == ["a", "c"]


def test_only_one_task_reserves_at_a_time(store):
    save(store, "a")

    with store.reservations(), pytest.raises(Busy, match="port reservations"):
        with store.reservations(timeout=0.05):
            pytest.fail("two tasks reserve")


@pytest.mark.parametrize("there", [False, True], ids=["no data folder", "an empty data folder"])
def test_the_very_first_machine_can_reserve(store, vms, there):
    if there:
        vms.parent.mkdir()

    with store.reservations() as records:
        assert records == []
        save(store, "web1")

    assert vms.is_dir()
    assert mode_of(vms) == 0o700


@pytest.mark.parametrize(
    ("xdg", "home", "folder"),
    [
        ("/srv/data", "/home/me", "/srv/data/vmctl"),
        ("", "/home/me", "/home/me/.local/share/vmctl"),
        ("relative", "/home/me", "/home/me/.local/share/vmctl"),
        (None, "/home/me", "/home/me/.local/share/vmctl"),
    ],
)
def test_where_machines_are_kept(monkeypatch, xdg, home, folder):
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_DATA_HOME", xdg)

    assert default_data_dir() == folder


def test_a_relative_data_folder_means_the_same_after_a_change_of_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("data")
    monkeypatch.chdir("/")

    save(store, "web1")

    assert store.work_dir("web1") == str(tmp_path / "data" / "vms" / "web1")
    assert (tmp_path / "data" / "vms" / "web1" / RECORD).exists()


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    with pytest.raises(ZeroDivisionError), replacing(str(path)) as part:
        with open(part, "w") as stream:
            stream.write("half")
        raise ZeroDivisionError

    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_half_made_file_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".file.part").symlink_to(tmp_path / "precious")

    write_atomically(str(tmp_path / "file"), b"new")

    assert (tmp_path / "precious").read_text() == "x"
    assert (tmp_path / "file").read_bytes() == b"new"
    assert mode_of(tmp_path / "file") == 0o600


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    path = str(tmp_path / "missing" / "file")

    with pytest.raises(HostError, match=f"Could not write {path}: No such file") as caught:
        write_atomically(path, b"")

    assert caught.value.details["errno"] == 2


def test_folders_are_made_private_all_the_way_down(tmp_path, no_umask):
    make_private_folder(str(tmp_path / "a" / "b"))
    make_private_folder(str(tmp_path / "a" / "b"))

    assert [mode_of(tmp_path / "a"), mode_of(tmp_path / "a" / "b")] == [0o700, 0o700]


@pytest.mark.parametrize(
    ("data", "limit", "text"),
    [
        (b"", 10, ""),
        (b"abc", 10, "abc"),
        (b"abcdef", 3, "def"),
        (b"a\x1b[31mb\r\n\tc\x00", 100, "ab\n\tc"),
        ("äö".encode(), 3, "\ufffdö"),
    ],
)
def test_the_tail_of_a_log_is_printable(tmp_path, data, limit, text):
    (tmp_path / "log").write_bytes(data)

    assert read_tail(str(tmp_path / "log"), limit) == text


def test_a_log_that_is_not_there_has_no_tail(tmp_path):
    assert read_tail(str(tmp_path / "log")) == ""
    assert read_tail(str(tmp_path)) == ""


def test_a_short_path_leads_to_the_same_file(tmp_path):
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    (folder / "file").write_text("here")

    with short_path(str(folder / "file")) as path:
        assert len(path) < 40
        with open(path) as stream:
            assert stream.read() == "here"


def test_a_lock_that_a_killed_removal_left_is_not_settled(store):
    with store.lock("web1", 1.0):
        pass
    assert store.is_settled("web1")

    left = os.path.join(store.folder, ".web1.lock")
    os.close(os.open(left, os.O_CREAT, 0o600))

    assert not store.is_settled("web1")
    with store.lock("web1", 1.0):
        pass
    assert not os.path.exists(left)
