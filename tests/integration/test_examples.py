# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every example of the documentation, run as it is written.

A comment before a block says how it is meant; without one, its language and shape say it:

- ``<!-- example: file NAME -->``: a file, which the commands of its page use.
- ``<!-- example: run -->``: commands, typed one after the other in one shell for the whole page, with what they print.
  ``...`` stands for any text in a line or, alone, for any lines.
- ``<!-- example: parsed, because REASON -->``: a playbook, checked for its syntax only.
- ``<!-- example: not run, because REASON -->``.
- Other YAML is a list of plays or of tasks, and runs on the backend noop; other commands must be ones that their
  program understands.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ansible_collections.cloudnebula.hypervisor.plugins.modules import (
    host_info,
    vm,
    vm_fleet,
    vm_image_info,
    vm_info,
)
from conftest import BIN, COLLECTIONS, ENVIRONMENT, LOCALHOST, ROOT, clean_up

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
PAGES += sorted(f"roles/{path.parent.name}/README.md" for path in ROOT.glob("roles/*/README.md"))
# These check that they leave none out.
ELSEWHERE = {
    "docs/images.md": "test_images_guide.py",
    "docs/inventory.md": "test_inventory.py",
}
BLOCK = re.compile(
    r"(?:^<!-- example: ([^\n]*) -->\n+)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
COMMANDS = ("console", "shell")
CLI = {
    "ansible": "ansible.cli.adhoc:AdHocCLI",
    "ansible-galaxy": "ansible.cli.galaxy:GalaxyCLI",
    "ansible-playbook": "ansible.cli.playbook:PlaybookCLI",
}
SHOWN_PORT = "10117"  # web1's, unless it was taken when the machine was created


@dataclass(frozen=True)
class Example:
    """A block of a page: ``kind`` is file, run, parsed, not run, noop, commands or text; ``note`` is what follows it."""

    kind: str
    note: str
    text: str

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """Return each command with the lines that it prints."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
        return found


def examples_of(page: str) -> list[Example]:
    """Return the blocks of a page; a mark that is not understood is an error."""
    text = (ROOT / page).read_text()
    blocks = BLOCK.findall(text)
    assert len(blocks) * 2 == len(re.findall(r"^```", text, re.MULTILINE)), (
        f"{page}: a block is not closed"
    )
    return [Example(*kind_of(mark, language), code) for mark, language, code in blocks]


def kind_of(mark: str, language: str) -> tuple[str, str]:
    if not mark:
        return (
            "noop" if language == "yaml" else "commands" if language in COMMANDS else "text"
        ), ""
    match = re.fullmatch(r"(file) ([\w.-]+)|(run)|(parsed|not run), because (\S.+)", mark)
    assert match, f"this mark is not understood: {mark}"
    file, name, run, other, reason = match.groups()
    return (file or run or other), (name or reason or "")


def pages_with(kind: str) -> list[str]:
    """Return the pages that have such examples."""
    return [
        page
        for page in PAGES
        if page not in ELSEWHERE and any(e.kind == kind for e in examples_of(page))
    ]


@pytest.fixture
def home(hypervisor):
    """A user's home folder, with a path as short as a real one; its machines are removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="home") as path:
        folder = Path(path)
        (folder / ".ssh").mkdir()
        (folder / ".ssh" / "id_ed25519.pub").write_text(
            f"ssh-ed25519 {'AAAA' * 17} me@example.org\n"
        )
        (folder / "no.cfg").touch()
        hypervisor.data_dir = folder / ".local" / "share" / "vmctl"
        yield folder
        clean_up(hypervisor)


@pytest.fixture
def image_there(home, smoke_image):
    """The small guest's image lies where the role would build it."""
    images = home / ".local" / "share" / "vmctl" / "images"
    images.mkdir(parents=True)
    for path in smoke_image.parent.glob(f"{smoke_image.stem}.*"):
        shutil.copy2(path, images)


@pytest.fixture
def shell(home, tmp_path):
    """Run a command in a folder of its own, as a user whose home is ``home`` and who has no settings."""
    (tmp_path / "work").mkdir()
    kept = {
        key: value
        for key, value in ENVIRONMENT.items()
        if key in ("PATH", "PYTHONPYCACHEPREFIX") or key.startswith("LC_")
    }
    own = {
        "HOME": str(home),
        "ANSIBLE_CONFIG": str(home / "no.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "TERM": "dumb",
    }

    def run(*command: str, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            cwd=tmp_path / "work",
            env={**kept, **own, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def on_noop(shell, tmp_path):
    """Run plays, and lists of tasks as plays, on the backend noop; expect that every task begins and none warns."""

    def run(blocks: list[str]) -> None:
        plays = [play for block in blocks for play in as_plays(yaml.safe_load(block))]
        for play in plays:
            play["module_defaults"] = {"cloudnebula.hypervisor.vm": {"backend": "noop"}}
            run_fleets_on_noop(play)
        hosts = {"hypervisors": yaml.safe_load(LOCALHOST.read_text())["all"]}
        (tmp_path / "work" / "hosts.yml").write_text(yaml.safe_dump(hosts))
        (tmp_path / "work" / "site.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
        done = shell(str(BIN / "ansible-playbook"), "-i", "hosts.yml", "site.yml")
        assert done.returncode == 0, done.stdout
        warnings = re.findall(r"^\[(?:WARNING|DEPRECATION).*", done.stdout, re.MULTILINE)
        assert [line for line in warnings if "must be restarted" not in line] == []
        begun = re.findall(r"^TASK \[(.*)\] \*", done.stdout, re.MULTILINE)
        assert set(names_of(plays)) - set(begun) == set()

    return run


def run_fleets_on_noop(item: dict) -> None:
    """Choose the backend noop in all tasks of a play or block that make several machines: defaults of theirs replace ours."""
    if "cloudnebula.hypervisor.vm_fleet" in item:
        item["cloudnebula.hypervisor.vm_fleet"].setdefault("defaults", {})["backend"] = "noop"
    for inner in (*item.get("tasks", ()), *item.get("block", ())):
        run_fleets_on_noop(inner)


def as_plays(content: list[dict]) -> list[dict]:
    """Return a playbook as it is, a list of tasks as a play."""
    assert isinstance(content, list), f"neither plays nor tasks: {content}"
    if "hosts" in content[0]:
        return content
    return [{"name": "Tasks", "hosts": "hypervisors", "gather_facts": False, "tasks": content}]


def names_of(items: list[dict]) -> list[str]:
    """Return the names of the tasks in plays, tasks and blocks; an imported role has tasks of its own instead."""
    names = []
    for item in items:
        inner = item.get("tasks") or item.get("block") or []
        if not inner and "ansible.builtin.import_role" not in item:
            names.append(item["name"])
        names += names_of(inner)
    return names


@pytest.mark.parametrize(
    "module",
    [host_info, vm, vm_fleet, vm_image_info, vm_info],
    ids=["host_info", "vm", "vm_fleet", "vm_image_info", "vm_info"],
)
def test_examples_of_a_module(on_noop, module):
    on_noop([module.EXAMPLES])


@pytest.mark.parametrize("page", pages_with("noop"))
def test_yaml_of_a_page(on_noop, image_there, page):
    on_noop([example.text for example in examples_of(page) if example.kind == "noop"])


@pytest.mark.parametrize("page", pages_with("parsed"))
def test_playbooks_of_a_page_that_are_only_parsed(shell, tmp_path, page):
    for example in examples_of(page):
        if example.kind == "parsed":
            (tmp_path / "work" / "play.yml").write_text(example.text)
            done = shell(
                str(BIN / "ansible-playbook"), "-i", "localhost,", "--syntax-check", "play.yml"
            )
            assert done.returncode == 0, done.stdout


def session_in(page: str) -> list[tuple[str, list[str]]]:
    """Return all commands of a page that are run, in order."""
    return [
        command
        for example in examples_of(page)
        if example.kind == "run"
        for command in example.commands
    ]


def run_session(shell, folder: Path, page: str) -> None:
    """Write the files of a page, then type its commands in one shell and compare what they print."""
    for example in examples_of(page):
        if example.kind == "file":
            (folder / example.note).write_text(example.text)
    session = session_in(page)
    port = "port=$(sed -nE 's/.*ssh_host_port\": ([0-9]+).*/\\1/p' ~/.local/share/vmctl/vms/web1/vm.json)"
    lines = ["exec 2>&1"]
    for command, _printed in session:
        if SHOWN_PORT in command:
            lines.append(port)
        lines.append(command.replace(SHOWN_PORT, "$port"))
        lines.append("printf '\\036%s\\036\\n' $?")
    (folder / "session.sh").write_text("\n".join(lines))

    output = shell("bash", "session.sh").stdout
    parts = output.split("\036")

    assert len(parts) == 2 * len(session) + 1, output
    for number, (command, printed) in enumerate(session):
        shown, status = parts[2 * number], parts[2 * number + 1]
        assert status == "0", f"$ {command}\n{shown}"
        assert fits(printed, shown.splitlines()), (
            f"{page} shows something else:\n$ {command}\n{shown}"
        )


def fits(expected: list[str], shown: list[str]) -> bool:
    """Tell whether the lines are as expected; spaces and empty lines do not count."""
    wanted, lines = (
        [" ".join(line.split()) for line in some if line.strip()] for some in (expected, shown)
    )
    pieces: list[list[re.Pattern[str]]] = [[]]
    for line in wanted:
        if line == "...":
            pieces.append([])
        else:
            # The port may be another one, if that was taken.
            pattern = re.escape(line).replace(re.escape("..."), ".*").replace(SHOWN_PORT, r"\d+")
            pieces[-1].append(re.compile(pattern))
    return fit_pieces(pieces, lines)


def fit_pieces(pieces: list[list[re.Pattern[str]]], lines: list[str]) -> bool:
    """Find the first piece at the start, the last at the end, the others in order between them."""
    at = 0
    for number, piece in enumerate(pieces):
        starts = range(at, len(lines) - len(piece) + 1)
        if number == 0:
            starts = starts[:1]
        if number == len(pieces) - 1:
            starts = [start for start in starts if start + len(piece) == len(lines)]
        found = [s for s in starts if all(p.fullmatch(line) for p, line in zip(piece, lines[s:]))]
        if not found:
            return False
        at = found[0] + len(piece)
    return True


@pytest.mark.parametrize(
    ("expected", "shown", "same"),
    [
        ("", "", True),
        ("", "a", False),
        ("a", "", False),
        ("a\n  b  c", "a\n\nb c", True),
        ("a\n...", "a\nb\nc", True),
        ("a\n...", "b\na", False),
        ("...\nc", "a\nb\nc", True),
        ("...\nb", "a\nb\nc", False),
        ("...\nb\n...", "a\nb\nc", True),
        ("...\nb\n...\nb\n...", "a\nb\nc", False),
        ("x ... z", "x y z", True),
        ("x ... z", "x y", False),
        ("port 10117", "port 10118", True),
    ],
)
def test_output_is_compared(expected, shown, same):
    assert fits(expected.splitlines(), shown.splitlines()) is same


def test_commands_of_the_readme(shell, image_there, tmp_path):
    """From a built archive, in a folder that alone is searched for collections: what the first user does."""
    built = shell(
        str(BIN / "ansible-galaxy"),
        "collection",
        "build",
        str(ROOT),
        "--output-path",
        str(tmp_path / "work"),
    )
    assert built.returncode == 0, built.stdout

    run_session(
        lambda *command: shell(*command, ANSIBLE_COLLECTIONS_PATH="/nowhere"),
        tmp_path / "work",
        "README.md",
    )


@pytest.mark.parametrize(
    "page", [page for page in pages_with("run") if page not in ("README.md", "docs/errors.md")]
)
def test_commands_of_a_page(shell, image_there, tmp_path, page):
    run_session(shell, tmp_path / "work", page)


def test_commands_of_the_catalogue_of_errors(idle, home, shell, tmp_path):
    """They look at a machine that runs; what runs in it does not matter."""
    idle.vm("web1")

    run_session(shell, tmp_path / "work", "docs/errors.md")


@pytest.mark.parametrize("page", pages_with("commands"))
def test_commands_are_understood(page):
    for example in examples_of(page):
        if example.kind == "commands":
            for line in example.text.splitlines():
                understand(shlex.split(line.removeprefix("$ "), comments=True))


def understand(words: list[str]) -> None:
    """Have a command's own parser read it."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        return
    module, name = CLI[words[0]].split(":")
    program = getattr(importlib.import_module(module), name)(words)
    program.init_parser()
    program.parser.parse_args(program.args[1:])


@pytest.mark.parametrize("page", pages_with("file"))
def test_files_of_a_page_are_used(page):
    typed = " ".join(e.text for e in examples_of(page) if e.kind in ("run", "commands"))
    files = {e.note: e.text for e in examples_of(page) if e.kind == "file"}
    assert [
        name for name in files if name not in typed and name not in "".join(files.values())
    ] == []


def test_nothing_is_left_out(record_property):
    counts = Counter()
    for page in PAGES:
        kinds = Counter(example.kind for example in examples_of(page) if example.kind != "text")
        counts += Counter({ELSEWHERE[page]: kinds.total()}) if page in ELSEWHERE else kinds
    commands = sum(len(session_in(page)) for page in PAGES)
    counts["module"] = 6  # that of vm_image in test_images_guide.py

    told = f"{sum(counts.values())} examples ({commands} commands run): {dict(counts)}"
    record_property("note", told)

    assert set(counts) <= {
        "file",
        "run",
        "parsed",
        "not run",
        "noop",
        "commands",
        "module",
        *ELSEWHERE.values(),
    }
    assert counts["not run"] <= 7
    assert min(counts["run"], counts["noop"], counts["file"]) > 5
