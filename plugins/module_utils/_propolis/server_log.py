# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What propolis-server says in its log: the only place where it tells why it could not make an instance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .._host.files import read_tail

_READ = 65536  # bytes
_WORDS = ("error", "error_message_internal", "err", "reason")  # fields that say why
_LEVELS = {40: "warning", 50: "error", 60: "fatal"}  # of bunyan; the others go without saying


def log_tail(path: str, lines: int = 12) -> str:
    """Return the last lines of the log as text; nothing if there is none.

    The server writes JSON, one record a line, in the manner of bunyan; what it says when it ends itself is plain text.
    """
    return "\n".join(readable(line) for line in read_tail(path, _READ).splitlines()[-lines:])


def readable(line: str) -> str:
    """Return one line of the log as text for people; a line that is no record stays as it is."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(record, dict) or not isinstance(record.get("msg"), str):
        return line
    number = record.get("level")
    level = _LEVELS.get(number) if isinstance(number, int) else None
    return f"{level}: {_sentence(record)}" if level else _sentence(record)


def _sentence(record: Mapping[str, Any]) -> str:
    told = [f"{name}: {record[name]}" for name in _WORDS if record.get(name)]
    return "; ".join([record["msg"], *told])
