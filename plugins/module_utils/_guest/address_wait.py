# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting until a guest's card has an address: woken by the kernel, by changed lease files and by the VM's end."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .._core.errors import NoGuestAddress
from .addresses import PATIENCE, AddressQuery, Agent, Report, look, tell_life
from .leases import DEFAULT_PLACES

_LOOK_ANYWAY = (
    1.0  # seconds; for what no event tells: the agent, and guests that were slow to answer
)
_LOOK_UNTOLD = 0.5  # seconds; where inotify is missing
_SPACING = 0.03  # seconds from an event to the look: events come in crowds
_LEAST_PATIENCE = 0.15  # so much later at most is a new lease noticed while an old one is doubted
_PATIENCE_SHARE = 0.1
_NEIGHBOURS = 4  # RTMGRP_NEIGH, linux/rtnetlink.h
_CHANGED = 0x2 | 0x8 | 0x80 | 0x100  # IN_MODIFY, IN_CLOSE_WRITE, IN_MOVED_TO, IN_CREATE


def wait_for_addresses(
    queries: Sequence[AddressQuery],
    deadline: float,
    process_fd: int | None = None,
    lease_files: Iterable[str] | None = None,
    agent: Agent | None = None,
) -> dict[str, tuple[str, ...]]:
    """Return, as ``find_addresses`` does, as soon as one of the cards has an address.

    ``deadline`` is a time of ``time.monotonic()``; ``process_fd`` becomes readable when the VM's process ends.
    Raises ``NoGuestAddress`` saying for each card what was seen when the time is up, or at once when the process ends.
    """
    places = tuple(DEFAULT_PLACES if lease_files is None else lease_files)
    started = time.monotonic()
    with _watching(places, process_fd) as events:
        asked = started - _LOOK_ANYWAY
        while True:
            now = time.monotonic()
            patience = max(_LEAST_PATIENCE, min((now - started) * _PATIENCE_SHARE, PATIENCE))
            ask = agent if now - asked >= _LOOK_ANYWAY else None
            asked = now if ask is not None else asked
            reports = look(queries, places, ask, min(patience, max(deadline - now, 0.05)))
            found = {report.query.mac: report.addresses for report in reports}
            if any(found.values()):
                return found
            if events.process_ended or time.monotonic() >= deadline:
                raise _nothing(reports, time.monotonic() - started, events.process_ended)
            events.wait(deadline)


@dataclass
class _Events:
    """Descriptors that become readable when there may be news."""

    process_fd: int | None
    interval: float
    sources: list[int] = field(default_factory=list)
    process_ended: bool = False

    def wait(self, deadline: float) -> None:
        """Return at an event, after the interval or at the deadline, whichever comes first."""
        if self._poll(self.sources, self.interval, deadline):
            self._poll([], _SPACING, deadline)
        for fd in self.sources:
            _drain(fd)

    def _poll(self, sources: Sequence[int], seconds: float, deadline: float) -> bool:
        poll = select.poll()
        for fd in (*sources, *(() if self.process_fd is None else (self.process_fd,))):
            poll.register(fd, select.POLLIN)
        left = max(0.0, min(seconds, deadline - time.monotonic()))
        ready = [fd for fd, dummy_event in poll.poll(left * 1000)]
        self.process_ended = self.process_ended or self.process_fd in ready
        return bool(ready)


@contextlib.contextmanager
def _watching(places: Sequence[str], process_fd: int | None) -> Iterator[_Events]:
    with contextlib.ExitStack() as stack:
        notify = _open_inotify(places)
        events = _Events(process_fd, _LOOK_UNTOLD if notify is None else _LOOK_ANYWAY)
        if notify is not None:
            stack.callback(os.close, notify)
            events.sources.append(notify)
        with contextlib.suppress(OSError):
            kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            stack.callback(kernel.close)
            kernel.bind((0, _NEIGHBOURS))
            kernel.setblocking(False)
            events.sources.append(kernel.fileno())
        yield events


def _open_inotify(places: Sequence[str]) -> int | None:
    """Return a descriptor that tells of changes in the folders of the lease files; ``None`` if there is no such."""
    import ctypes

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        fd: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, AttributeError):
        return None
    if fd < 0:
        return None
    for folder in {os.path.dirname(place) or "." for place in places}:
        libc.inotify_add_watch(
            fd, os.fsencode(folder), _CHANGED
        )  # a folder that is missing is no matter
    return fd


def _drain(fd: int) -> None:
    try:
        for dummy_chunk in range(64):
            os.read(fd, 65536)
    except OSError:  # empty, or more events came than the kernel keeps, which is an event as well
        return


def _nothing(reports: Sequence[Report], waited: float, process_ended: bool) -> NoGuestAddress:
    if not process_ended:
        reports = [tell_life(report, _LEAST_PATIENCE) for report in reports]
    seen = {report.query.mac: report.explain() for report in reports}
    what = "the VM's process ended" if process_ended else "nothing more came"
    return NoGuestAddress(
        f"The guest had no address after {waited:.1f} s ({what}). Seen of its network cards: "
        f"{' | '.join(seen.values()) or 'it has none that could get one'}.",
        "Look at the console log: does the guest bring up its network? Check that a DHCP server listens on the bridge,"
        " that ip_version and ip_range let the address pass, or raise wait_timeout.",
        waited_seconds=round(waited, 1),
        seen=seen,
    )
