# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ``ansible-test sanity`` on a copy of the collection, as a stranger's checkout would have it.

``ansible-test`` wants a real folder ``.../ansible_collections/NAMESPACE/NAME``, so the files that git knows or would add
are copied to one. It also wants a get-pip script from a server that is not reachable from everywhere; it takes one
from its cache, where a short one that needs nothing but the package index is put. The cache and the virtual environments
of ansible-test are kept in ``.venv``: the user's own ``~/.ansible`` is not touched.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venv" / "sanity-home"
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".ansible", "__pycache__", "*.tar.gz", ".*_cache", "output"
)

GET_PIP = '''\
"""Install pip into an empty virtual environment by ensurepip and the package index."""
import subprocess
import sys

flags = ("--no-setuptools", "--no-wheel")
pip = [sys.executable, "-m", "pip"]
subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"], stdout=subprocess.DEVNULL)
subprocess.check_call(pip + ["install", "-q"] + [arg for arg in sys.argv[1:] if arg not in flags])
if "--no-setuptools" in sys.argv:
    subprocess.call(pip + ["uninstall", "-q", "-y", "setuptools"])
'''


def copy_tree(destination: Path) -> None:
    """Copy what belongs to the project: by git's word, or all but build output where there is no git."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, check=True, capture_output=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(ROOT, destination, symlinks=True, ignore=LEFT_OUT)
        return
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, destination / name
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def seed_get_pip() -> None:
    """Put the get-pip script under every name that the installed ansible-test asks for."""
    spec = importlib.util.find_spec("ansible_test")
    source = Path(next(iter(spec.submodule_search_locations))) / "_internal/python_requirements.py"
    cache = HOME / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in set(re.findall(r"pip='([0-9.]+)'", source.read_text())):
        (cache / f"get_pip_{version.replace('.', '_')}.py").write_text(GET_PIP)


def seed_pip_config() -> None:
    """Hand the user's pip settings over: ansible-test drops the PIP_* variables, and HOME is another one."""
    user = Path.home() / ".config" / "pip" / "pip.conf"
    config = configparser.RawConfigParser()
    config.read([user, os.environ.get("PIP_CONFIG_FILE", user)])
    if not config.has_section("global"):
        config.add_section("global")
    config.set("global", "quiet", "2")
    config.set("global", "cache-dir", str(Path.home() / ".cache" / "pip"))
    for name, value in os.environ.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE":
            config.set("global", name[4:].lower().replace("_", "-"), value)
    target = HOME / ".config" / "pip" / "pip.conf"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w") as stream:
        config.write(stream)


def main() -> int:
    """Return the exit status of ansible-test."""
    seed_get_pip()
    seed_pip_config()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory(prefix="sanity-") as folder:
        tree = Path(folder) / "ansible_collections" / "cloudnebula" / "hypervisor"
        copy_tree(tree)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
        environment.pop("PYTHONPATH", None)
        environment["HOME"] = str(HOME)
        print(f"ansible-test sanity with Python {python}", flush=True)
        command = ["ansible-test", "sanity", "--color", "no", "--python", python, *sys.argv[1:]]
        result = subprocess.run(
            command, cwd=tree, env=environment, stdin=subprocess.DEVNULL, check=False
        )
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
