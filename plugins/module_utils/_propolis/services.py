# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services of SMF: a manifest for a machine's server, and what makes it run or go."""

from __future__ import annotations

import os
import re
import shlex
import time
from dataclasses import dataclass

from .._core.errors import CommandFailed, InvalidSpec, ServiceFailed
from .._host.commands import run
from .._host.files import doing, read_private, read_tail, write_atomically
from .parsable import service_instance

__all__ = [
    "Service",
    "check_service",
    "disable_service",
    "ensure_service",
    "log_path",
    "manifest",
    "remove_service",
    "service_instance",
    "service_state",
]

SERVICE = "application/cloudnebula/vm"
_PATH = "/usr/sbin:/usr/bin:/sbin"  # the server itself runs dladm
_DOCTYPE = '<!DOCTYPE service_bundle SYSTEM "/usr/share/lib/xml/dtd/service_bundle.dtd.1">'
_NEEDS = "svc:/milestone/multi-user:default"  # file systems and the network are up
_STOP = "60"  # seconds, after which SMF gives up on a method
_PAUSE = 0.05
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Service:
    """A program that SMF keeps running, in a folder of its own, with its words in a log there."""

    instance: str
    command: tuple[str, ...]
    folder: str
    log: str  # a name in the folder
    enabled: bool = False  # whether it starts as soon as the manifest is imported

    @property
    def fmri(self) -> str:
        """The name by which SMF's programs know it."""
        return f"svc:/{SERVICE}:{self.instance}"


def manifest(service: Service) -> bytes:
    """Return the SMF manifest. Raise ``InvalidSpec`` if a path or argument has characters that XML cannot hold.

    The service model is "child": SMF starts the program again whenever it ends, and its end is no fault. The method
    has no "exec" of its own, since svc.startd puts one in front (usr/src/cmd/svc/startd/method.c of illumos-gate).
    """
    from xml.etree.ElementTree import Element, SubElement, tostring

    bundle = Element("service_bundle", type="manifest", name=f"cloudnebula-{service.instance}")
    root = SubElement(bundle, "service", name=SERVICE, type="service", version="1")
    enabled = "true" if service.enabled else "false"
    instance = SubElement(root, "instance", name=service.instance, enabled=enabled)
    facts = {"name": "host", "grouping": "require_all", "restart_on": "none", "type": "service"}
    SubElement(SubElement(instance, "dependency", facts), "service_fmri", value=_NEEDS)
    context = SubElement(instance, "method_context", working_directory=_xml(service.folder))
    environment = SubElement(context, "method_environment")
    SubElement(environment, "envvar", name="PATH", value=_PATH)
    for name, method in (("start", _method(service)), ("stop", ":kill")):
        facts = {"type": "method", "name": name, "exec": method, "timeout_seconds": _STOP}
        SubElement(instance, "exec_method", facts)
    startd = SubElement(instance, "property_group", name="startd", type="framework")
    SubElement(startd, "propval", name="duration", type="astring", value="child")
    body = tostring(bundle, encoding="unicode")
    return f'<?xml version="1.0"?>\n{_DOCTYPE}\n{body}\n'.encode()


def ensure_service(service: Service, path: str, deadline: float) -> None:
    """Have the service run as its manifest says, which is kept at ``path``; return when SMF calls it online.

    One that runs already is restarted if its manifest differs. Online means only that the program was started.
    Raises ``ServiceFailed`` if that is not so by ``deadline``, a time of ``time.monotonic``.
    """
    wanted = manifest(service)
    fmri = service.fmri
    state = service_state(fmri)
    if state == "online" and _read(path) == wanted:
        return
    if state is not None:
        # Anew rather than changed: an import keeps what it takes for the administrator's.
        remove_service(fmri, deadline)
    write_atomically(path, wanted)
    run(["svccfg", "import", path])
    run(["svcadm", "enable", fmri])
    _await(fmri, "online", deadline, os.path.join(service.folder, service.log))


def disable_service(fmri: str, deadline: float) -> None:
    """End the service's program and keep it from being started; a service that is not there is no error."""
    if service_state(fmri) in (None, "disabled"):
        return
    run(["svcadm", "disable", fmri])
    _await(fmri, "disabled", deadline)


def remove_service(fmri: str, deadline: float) -> None:
    """End the service's program and remove the service; one that is not there is no error."""
    disable_service(fmri, deadline)
    if service_state(fmri) is not None:
        run(["svccfg", "delete", fmri])


def service_state(fmri: str, zone: str | None = None) -> str | None:
    """Return the state that SMF has it in, with a ``*`` while that changes; ``None`` if there is no such service."""
    try:
        return run(["svcs", *_in(zone), "-H", "-o", "state", fmri]).stdout.strip()
    except CommandFailed as exc:
        if _is_unknown(exc):
            return None
        raise


def check_service(fmri: str, log: str = "") -> None:
    """Raise ``ServiceFailed`` if SMF has given the service up; ``log`` is the program's own."""
    if service_state(fmri) == "maintenance":
        raise _failed(fmri, "maintenance", "online", log)


def log_path(fmri: str, zone: str | None = None) -> str:
    """Return the path of the log that SMF keeps for the service; it tells of starts that failed."""
    return run(["svcs", *_in(zone), "-L", fmri]).stdout.strip()


def _method(service: Service) -> str:
    """Return what a shell runs, with ``%`` doubled, as SMF expands it (smf_method(7))."""
    words = [shlex.quote(_xml(word)) for word in service.command]
    return f"{' '.join(words)} >> {shlex.quote(_xml(service.log))} 2>&1".replace("%", "%%")


def _xml(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _unfit(text) from None
    if _CONTROL.search(text) or "\ufffe" in text or "\uffff" in text:
        raise _unfit(text)
    return text


def _unfit(text: str) -> InvalidSpec:
    return InvalidSpec(f"{text!r} cannot be part of a service.", "Choose a path of printable text.")


def _await(fmri: str, wanted: str, deadline: float, log: str = "") -> None:
    while True:
        state = service_state(fmri)
        if state == wanted or (state is None and wanted == "disabled"):
            return
        if state == "maintenance" or time.monotonic() >= deadline:
            raise _failed(fmri, state, wanted, log)
        time.sleep(_PAUSE)


def _failed(fmri: str, state: str | None, wanted: str, log: str) -> ServiceFailed:
    said = read_tail(log_path(fmri)) if state is not None else ""
    last = said.strip().splitlines()[-1:]
    return ServiceFailed(
        f"The service {fmri} is {state or 'gone'} instead of {wanted}{''.join(f': {line}' for line in last)}",
        state=state,
        log=said,
        program_log=read_tail(log),
    )


def _read(path: str) -> bytes | None:
    with doing(f"read {path}"):
        try:
            return read_private(path)
        except FileNotFoundError:
            return None


def _in(zone: str | None) -> list[str]:
    return [] if zone is None else ["-z", zone]


def _is_unknown(exc: CommandFailed) -> bool:
    return "doesn't match any instances" in str(exc.details.get("output"))
