# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Private to this collection: asks many hosts at the same time, each with its own time limit.

Each host is asked by a process, as Ansible does for tasks: a connection plugin cannot be told to give up, a process
can be killed, with the SSH that it started.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ansible.utils.display import Display

from ._local import Answer
from ._payload import read_answer

_AT_ONCE = 50  # processes; each costs some MiB
_PREAMBLE = re.compile(r".* (over|via) ssh: (?=.)")  # of Ansible, before what SSH said
_NOT_FOUND = 127  # what a shell returns for a program that is not there


@dataclass(frozen=True)
class Question:
    """What to run over a connection of Ansible's; ``data`` goes to the standard input."""

    connection: Any
    command: str
    data: bytes


class Asking:
    """Questions on their way to hosts, by name. Leaving the context ends whatever still runs."""

    def __init__(self, questions: Mapping[str, Question], timeout: float) -> None:
        self._waiting = list(questions.items())
        self._timeout = timeout
        self._running: dict[Connection, tuple[str, Any, float]] = {}
        self._answers: dict[str, Answer] = {}

    def __enter__(self) -> Asking:
        self._fill()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for pipe in list(self._running):
            self._end(pipe, Answer(failure="nobody waits for it any more"))

    def answers(self) -> dict[str, Answer]:
        """Wait until each host has answered or its time is over."""
        while self._running:
            earliest = min(deadline for _name, _process, deadline in self._running.values())
            for pipe in wait(list(self._running), max(0.0, earliest - time.monotonic())):
                self._end(pipe, _receive(pipe))
            for pipe, (_name, _process, deadline) in list(self._running.items()):
                if deadline <= time.monotonic():
                    failure = f"it gave no answer within {self._timeout:g} seconds"
                    self._end(pipe, Answer(failure=failure))
            self._fill()
        return self._answers

    def _fill(self) -> None:
        while self._waiting and len(self._running) < _AT_ONCE:
            name, question = self._waiting.pop(0)
            pipe, far_end = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.get_context("fork").Process(
                target=_ask, args=(question, far_end), daemon=True
            )
            # A lock that another thread of this process holds would be held for ever in the new one.
            with getattr(Display(), "_lock", contextlib.nullcontext()):
                process.start()
            far_end.close()
            self._running[pipe] = (name, process, time.monotonic() + self._timeout)

    def _end(self, pipe: Connection, answer: Answer) -> None:
        name, process, _deadline = self._running.pop(pipe)
        pipe.close()
        if process.is_alive():  # so its number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.join()
        self._answers[name] = answer


def _receive(pipe: Connection) -> Answer:
    try:
        status, output, errors = pipe.recv()
    except (EOFError, OSError):
        return Answer(failure="the process that asked it ended at once")
    if status is None:
        return Answer(failure=_last_line(errors))
    facts = read_answer(output)
    if facts is not None:
        return Answer(facts, facts.get("error"))
    if status == _NOT_FOUND:
        return Answer(
            failure=f"there is no Python ({_last_line(errors)}); set ansible_python_interpreter"
        )
    return Answer(failure=_last_line(errors) or f"the program ended with status {status}")


def _last_line(text: str) -> str:
    """Return the line that names the cause: what comes before it are warnings."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    return _PREAMBLE.sub("", last).rstrip(".")


def _ask(question: Question, pipe: Connection) -> None:
    """Run in a process of its own, whose group is killed at the end. Without a terminal, SSH cannot wait for a word of the user."""
    os.setsid()
    try:
        ended = question.connection.exec_command(question.command, in_data=question.data)
        status, output, errors = ended
        pipe.send((status, output.decode(errors="replace"), errors.decode(errors="replace")))
    except Exception as exc:  # whatever a connection plugin raises is the cause
        pipe.send((None, "", str(exc)))
    finally:
        with contextlib.suppress(Exception):
            question.connection.close()
