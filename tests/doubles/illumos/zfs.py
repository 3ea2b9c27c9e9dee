# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs: volumes are sparse files, snapshots are copies of them."""

from __future__ import annotations

import os

from machine import Refused, options

NAME = r"[A-Za-z][A-Za-z0-9_.:-]*(/[A-Za-z0-9_.:-]+)*(@[A-Za-z0-9_.:-]+)?"
KINDS = ("filesystem", "volume", "snapshot")


def zfs(argv, state, machine):
    verb, rest = (argv[0], argv[1:]) if argv else ("", [])
    if verb not in VERBS:
        raise Refused(f"unrecognized command '{verb}'\nusage: zfs command args ...", 2)
    act, flags = VERBS[verb]
    known, words = options(rest, flags)
    return act(dict(known), known, words, Pool(state, machine)), None


class Pool:
    def __init__(self, state, machine):
        self.datasets = state["datasets"]
        self.machine = machine

    def get(self, name):
        if name not in self.datasets:
            raise Refused(f"cannot open '{name}': dataset does not exist")
        return self.datasets[name]

    def below(self, name):
        """Children and snapshots of a dataset, the deepest first."""
        found = [n for n in self.datasets if n.startswith((f"{name}/", f"{name}@"))]
        return sorted(found, reverse=True)

    def clones(self, names):
        wanted = set(names)
        return [n for n, d in self.datasets.items() if d.get("origin") in wanted]

    def add(self, name, dataset, parents):
        """Register a dataset under its parent, which is made if ``parents`` is set."""
        import re

        if len(name) > 255 or not re.fullmatch(NAME, name):
            raise Refused(f"cannot create '{name}': invalid character or name too long")
        if name in self.datasets:
            if parents:
                return False
            raise Refused(f"cannot create '{name}': dataset already exists")
        parent = name.rpartition("/")[0]
        if parent not in self.datasets:
            if not parents or not parent:
                raise Refused(f"cannot create '{name}': parent does not exist")
            self.add(parent, {"type": "filesystem", "props": {}}, parents)
        elif self.datasets[parent]["type"] != "filesystem":
            raise Refused(f"cannot create '{name}': parent is not a filesystem")
        self.datasets[name] = dataset
        if dataset["type"] == "filesystem":
            os.makedirs(self.machine.device(name), exist_ok=True)
        return True

    def remove(self, name):
        dataset = self.datasets.pop(name)
        if dataset["type"] == "volume":
            os.unlink(self.machine.device(name))
        elif dataset["type"] == "filesystem":
            os.rmdir(self.machine.device(name))
        elif os.path.exists(self.machine.frozen(name)):
            os.unlink(self.machine.frozen(name))


def is_open(path):
    """Tell whether a process has the device open."""
    wanted = os.stat(path)
    for process in filter(str.isdecimal, os.listdir("/proc")):
        folder = f"/proc/{process}/fd"
        try:
            found = [os.stat(f"{folder}/{fd}") for fd in os.listdir(folder)]
        except OSError:  # it has just ended, or is somebody else's
            continue
        if any((each.st_ino, each.st_dev) == (wanted.st_ino, wanted.st_dev) for each in found):
            return True
    return False


def properties(known):
    return dict(value.partition("=")[::2] for flag, value in known if flag == "-o")


def own(props):
    return {key: value for key, value in props.items() if ":" in key}


def size_of(text):
    units = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
    digits = text.upper().rstrip("KMGT")
    unit = text.upper()[len(digits) :]
    if not digits.isdecimal() or unit not in units:
        raise Refused(f"bad volume size '{text}': bad numeric value")
    return int(digits) * units[unit]


def create(flags, known, words, pool):
    props = properties(known)
    if "-V" not in flags:
        pool.add(words[0], {"type": "filesystem", "props": own(props)}, "-p" in flags)
        return ""
    block, size = size_of(props.get("volblocksize", "8k")), size_of(flags["-V"])
    if size == 0 or size % block:
        problem = "volume size must be a multiple of volume block size"
        raise Refused(f"cannot create '{words[0]}': {problem}")
    dataset = {"type": "volume", "volsize": size, "volblocksize": block, "props": own(props)}
    if pool.add(words[0], dataset, "-p" in flags):
        with open(pool.machine.device(words[0]), "wb") as stream:
            stream.truncate(size)
    return ""


def clone(flags, known, words, pool):
    source, target = words
    if "@" not in source:
        raise Refused(f"cannot open '{source}': not a snapshot name")
    snapshot = pool.get(source)
    dataset = {
        "type": "volume",
        "volsize": snapshot["volsize"],
        "volblocksize": snapshot["volblocksize"],
        "origin": source,
        "props": own(properties(known)),
    }
    if pool.add(target, dataset, "-p" in flags):
        copy_sparse(pool.machine.frozen(source), pool.machine.device(target))
    return ""


def snapshot(dummy_flags, dummy_known, words, pool):
    volume = pool.get(words[0].partition("@")[0])
    if words[0] in pool.datasets:
        raise Refused(f"cannot create snapshot '{words[0]}': dataset already exists")
    pool.datasets[words[0]] = {**volume, "type": "snapshot", "props": {}, "origin": None}
    if volume["type"] == "volume":
        name = words[0].partition("@")[0]
        copy_sparse(pool.machine.device(name), pool.machine.frozen(words[0]))
    return ""


def copy_sparse(source, target):
    with open(source, "rb") as reader, open(target, "wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        writer.truncate(size)
        end = 0
        while True:
            try:
                start = os.lseek(reader.fileno(), end, os.SEEK_DATA)
            except OSError:  # no data beyond
                return
            end = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            while start < end:
                data = os.pread(reader.fileno(), min(1 << 20, end - start), start)
                os.pwrite(writer.fileno(), data, start)
                start += len(data)


def destroy(flags, dummy_known, words, pool):
    name = words[0]
    kind = pool.get(name)["type"]
    below = pool.below(name)
    if below and "-r" not in flags and "-R" not in flags:
        names = "\n".join(sorted(below))
        raise Refused(
            f"cannot destroy '{name}': {kind} has children\n"
            f"use '-r' to destroy the following datasets:\n{names}"
        )
    doomed = [*below, name]
    clones = [clone for clone in pool.clones(doomed) if clone not in doomed]
    if clones and "-R" in flags:
        doomed = [*clones, *doomed]
    elif clones:
        names = "\n".join(sorted(clones))
        raise Refused(
            f"cannot destroy '{name}': {kind} has dependent clones\n"
            f"use '-R' to destroy the following datasets:\n{names}"
        )
    for item in doomed:
        if pool.datasets[item]["type"] == "volume" and is_open(pool.machine.device(item)):
            raise Refused(f"cannot destroy '{item}': dataset is busy")
    for item in doomed:
        pool.remove(item)
    return ""


def rename(flags, dummy_known, words, pool):
    source, target = words
    dataset = pool.get(source)
    if target in pool.datasets:
        raise Refused(f"cannot rename to '{target}': dataset already exists")
    if target.rpartition("/")[0] not in pool.datasets:
        raise Refused(f"cannot rename to '{target}': parent does not exist")
    if dataset["type"] != "volume":
        raise Refused(f"cannot rename '{source}': this double renames volumes only")
    os.rename(pool.machine.device(source), pool.machine.device(target))
    for name in [source, *pool.below(source)]:
        new = target + name[len(source) :]
        pool.datasets[new] = pool.datasets.pop(name)
        if "@" in name:
            os.rename(pool.machine.frozen(name), pool.machine.frozen(new))
        for clone_name in pool.clones([name]):
            pool.datasets[clone_name]["origin"] = new
    return ""


def set_property(dummy_flags, dummy_known, words, pool):
    key, dummy, value = words[0].partition("=")
    dataset = pool.get(words[1])
    if key == "volsize":
        size = size_of(value)
        if dataset["type"] != "volume":
            raise Refused(f"cannot set property for '{words[1]}': 'volsize' does not apply")
        if size == 0 or size % dataset["volblocksize"]:
            problem = (
                f"'volsize' must be a multiple of volume block size ({dataset['volblocksize']})"
            )
            raise Refused(f"cannot set property for '{words[1]}': {problem}")
        dataset["volsize"] = size
        os.truncate(pool.machine.device(words[1]), size)  # the real one shrinks, too
    elif ":" in key:
        dataset["props"][key] = value
    else:
        raise Refused(f"cannot set property for '{words[1]}': invalid property '{key}'")
    return ""


def value_of(pool, name, column):
    dataset = pool.datasets[name]
    if column == "name":
        return name
    if ":" in column:
        # A property of one's own is inherited, as in the real thing.
        while name:
            found = pool.datasets.get(name, {"props": {}})["props"].get(column)
            if found is not None:
                return found
            name = name[: max(name.rfind("/"), name.rfind("@"), 0)]
        return "-"
    if column == "available":
        return "100000000000"
    if column not in ("type", "volsize", "volblocksize", "origin"):
        raise Refused(f"bad property list: invalid property '{column}'", 2)
    value = dataset.get(column)
    return "-" if value is None else str(value)


def list_datasets(flags, dummy_known, words, pool):
    if "-H" not in flags or "-p" not in flags:
        raise Refused("this double prints for programs only: -Hp", 2)
    kinds = flags.get("-t", "filesystem,volume").split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise Refused(f"invalid type '{unknown[0]}'", 2)
    names = []
    for word in words:
        pool.get(word)
        names += [word, *pool.below(word)] if "-r" in flags else [word]
    chosen = sorted(names if words else pool.datasets)
    explicit = bool(words) and "-r" not in flags and "-t" not in flags
    columns = flags.get("-o", "name").split(",")
    rows = [
        "\t".join(value_of(pool, name, column) for column in columns)
        for name in chosen
        if explicit or pool.datasets[name]["type"] in kinds
    ]
    return "\n".join(rows)


def get(flags, dummy_known, words, pool):
    if "-H" not in flags or "-p" not in flags or flags.get("-o") != "value":
        raise Refused("this double prints for programs only: -Hp -o value", 2)
    pool.get(words[1])
    return "\n".join(value_of(pool, words[1], column) for column in words[0].split(","))


VERBS = {
    "list": (list_datasets, "Hpro:t:d:"),
    "get": (get, "Hpo:"),
    "create": (create, "pso:V:"),
    "clone": (clone, "po:"),
    "snapshot": (snapshot, "ro:"),
    "destroy": (destroy, "rRf"),
    "rename": (rename, "pr"),
    "set": (set_property, ""),
}
PROGRAMS = {"zfs": zfs}
