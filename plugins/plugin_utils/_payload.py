# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: a program of one text that lists the machines of the host on which Python runs it."""

from __future__ import annotations

import base64
import functools
import json
import math
import os
import zlib
from typing import Any

from . import _remote

_PLUGINS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PACKAGE = "cloudnebula_hypervisor"
# Any Python can read this, so that an old one says what is wrong instead of being puzzled by newer syntax.
_FRAME = """\
import base64, sys, zlib
if sys.version_info < (3, 9):
    sys.exit("Python 3.9 or newer is needed, and %%s is %%d.%%d: set ansible_python_interpreter" %% ((sys.executable,) + sys.version_info[:2]))
exec(zlib.decompress(base64.b64decode("%s")).decode())
run(TEXTS, json.loads(%s))
"""


def build_program(data_dir: str | None, with_keys: bool, timeout: float) -> str:
    """Return the program; ``timeout`` is in seconds, after which it gives up by itself."""
    request = {
        "module": f"{_PACKAGE}.plugin_utils._observer",
        "arguments": [data_dir, with_keys],
        "seconds": math.ceil(timeout) + 1,
    }
    return _FRAME % (_sources(), json.dumps(json.dumps(request)))


def read_answer(output: str) -> dict[str, Any] | None:
    """Return what the program printed, or ``None`` if it did not get that far."""
    _noise, mark, answer = output.rpartition(_remote.MARK)
    if not mark:
        return None
    return json.JSONDecoder().raw_decode(answer)[0]


@functools.lru_cache(maxsize=1)
def _sources() -> str:
    """Return the source of the frame and all modules that run inside it, packed: every host gets the same."""
    texts = {f"{_PACKAGE}.plugin_utils._observer": _read("plugin_utils", "_observer.py")}
    for folder, _folders, names in os.walk(os.path.join(_PLUGINS, "module_utils")):
        parts = os.path.relpath(folder, _PLUGINS).split(os.sep)
        for name in names:
            if name.endswith(".py"):
                texts[".".join([_PACKAGE, *parts, name[:-3]])] = _read(*parts, name)
    source = f"{_read('plugin_utils', '_remote.py')}\nTEXTS = {texts!r}\n"
    return base64.b64encode(zlib.compress(source.encode())).decode()


def _read(*parts: str) -> str:
    with open(os.path.join(_PLUGINS, *parts), encoding="utf-8") as stream:
        return stream.read()
