# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""svccfg, svcadm and svcs: services that are described by manifests and run by a restarter of their own."""

from __future__ import annotations

import os

from machine import Refused, is_alive, options

NAME = r"[A-Za-z][A-Za-z0-9_.-]*(,[A-Za-z][A-Za-z0-9_-]*)?"
WAKE = 10  # the signal upon which a restarter looks at its service: SIGUSR1
# What the DTD allows in an instance, in this order.
ORDER = (
    *("restarter", "dependency", "dependent", "method_context", "exec_method", "notification"),
    *("property_group", "template"),
)
METHOD_ATTRIBUTES = {"type", "name", "exec", "timeout_seconds"}


def startd(dummy_argv, state, machine):
    """Start what is enabled, as a host does when it boots."""
    known = state["services"]["global"]
    enabled = [fmri for fmri, service in known.items() if service["enabled"]]
    return "", lambda: start_all(machine, "global", enabled)


def start_all(machine, zone, fmris):
    from restarter import start

    for fmri in fmris:
        start(machine, zone, fmri)


# --- svccfg ----------------------------------------------------------------------------------------------------


def svccfg(argv, state, machine):
    known = state["services"]["global"]
    if len(argv) == 2 and argv[0] == "validate":
        read_manifest(argv[1])
        return "", None
    if len(argv) == 2 and argv[0] == "import":
        enabled = take_manifest(argv[1], known, machine.path("svc-log"), "/")
        return "", lambda: start_all(machine, "global", enabled)
    if argv[:1] == ["delete"]:
        forced, fmri = "-f" in argv, argv[-1]
        if fmri not in known:
            raise Refused(f"svccfg: Pattern '{fmri}' doesn't match any instances or services")
        if known[fmri]["state"] in ("online", "degraded") and not forced:
            raise Refused(f"svccfg: Instance {fmri} is online; use -f to delete it.")
        if is_alive(known[fmri]["restarter"]):
            os.kill(known[fmri]["restarter"][0], WAKE)
        del known[fmri]
        return "", None
    raise Refused(f"svccfg: Syntax error: {' '.join(argv)}")


def take_manifest(path, known, log_folder, root):
    """Import a manifest; return what has to be started since it became enabled."""
    started = []
    for fmri, method in read_manifest(path).items():
        old = known.get(fmri)
        service = old or {"enabled": False, "state": "disabled", "restarter": None, "child": None}
        service["method"] = method
        service["root"] = root
        name = fmri.removeprefix("svc:/").replace("/", "-")
        service["log"] = os.path.join(log_folder, f"{name}.log")
        if old is None and method["enabled"]:
            service.update(enabled=True, state="offline")
            started.append(fmri)
        known[fmri] = service
    return started


def read_manifest(path):
    """Return what the instances of a manifest do, by FMRI; refuse what the DTD or the names' rules forbid."""
    import re
    from xml.etree import ElementTree

    try:
        bundle = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as exc:
        raise Refused(f"svccfg: couldn't parse document {path}: {exc}") from exc
    if bundle.tag != "service_bundle" or bundle.get("type") != "manifest" or not bundle.get("name"):
        raise Refused(f"svccfg: document {path} is not a manifest")
    found = {}
    for service in bundle:
        if service.tag != "service" or {"name", "type", "version"} - set(service.attrib):
            raise Refused(f"svccfg: {path}: bad element {service.tag}")
        if not all(re.fullmatch(NAME, part) for part in service.get("name").split("/")):
            raise Refused(f"svccfg: {path}: service name {service.get('name')!r} is invalid")
        for instance in service.iterfind("instance"):
            if not re.fullmatch(NAME, instance.get("name", "")):
                raise Refused(f"svccfg: {path}: instance name {instance.get('name')!r} is invalid")
            fmri = f"svc:/{service.get('name')}:{instance.get('name')}"
            found[fmri] = read_instance(instance, path)
    return found


def read_instance(instance, path):
    places = [ORDER.index(child.tag) if child.tag in ORDER else -1 for child in instance]
    if -1 in places or places != sorted(places) or instance.get("enabled") not in ("true", "false"):
        raise Refused(f"svccfg: {path}: the content of instance does not follow the DTD")
    methods = {}
    for method in instance.iterfind("exec_method"):
        if set(method.attrib) != METHOD_ATTRIBUTES or not method.get("timeout_seconds").isdigit():
            raise Refused(f"svccfg: {path}: exec_method does not follow the DTD")
        methods[method.get("name")] = method.attrib
    if {"start", "stop"} - set(methods):
        raise Refused(f"svccfg: {path}: the methods start and stop are required")
    context = instance.find("method_context")
    context = instance.makeelement("method_context", {}) if context is None else context
    values = {
        (group.get("name"), value.get("name")): value.get("value")
        for group in instance.iterfind("property_group")
        for value in group.iterfind("propval")
    }
    return {
        "enabled": instance.get("enabled") == "true",
        "exec": methods["start"]["exec"],
        "stop": methods["stop"]["exec"],
        "stop_timeout": int(methods["stop"]["timeout_seconds"]),
        "folder": context.get("working_directory", "/"),
        "environment": {
            variable.get("name"): variable.get("value")
            for variable in context.iterfind("method_environment/envvar")
        },
        "duration": values.get(("startd", "duration"), "contract"),
    }


# --- svcadm ----------------------------------------------------------------------------------------------------


def svcadm(argv, state, machine):
    verb, words = (argv[0], argv[1:]) if argv else ("", [])
    if verb not in ("enable", "disable", "clear", "restart", "refresh"):
        raise Refused("Usage: svcadm [-v] [cmd [args ... ]]", 2)
    flags, fmris = options(words, "st")
    known, fmri = state["services"]["global"], fmris[0]
    if fmri not in known:
        raise Refused(f"svcadm: Pattern '{fmri}' doesn't match any instances")
    wait = any(flag == "-s" for flag, dummy in flags)
    return "", ACTS[verb](machine, known[fmri], fmri, wait)


def enable(machine, service, fmri, wait):
    service["enabled"] = True
    if service["state"] == "disabled":
        service["state"] = "offline"
    if service["state"] != "offline":
        return None
    start = not is_alive(service["restarter"])

    def later():
        if start:
            start_all(machine, "global", [fmri])
        if wait:
            await_state(machine, fmri, ("online", "maintenance"))

    return later


def disable(machine, service, fmri, wait):
    service["enabled"] = False
    if is_alive(service["restarter"]):
        os.kill(service["restarter"][0], WAKE)
    else:
        service["state"] = "disabled"
    return (lambda: await_state(machine, fmri, ("disabled", "maintenance"))) if wait else None


def clear(machine, service, fmri, dummy_wait):
    if service["state"] != "maintenance":
        raise Refused(f'svcadm: Instance "{fmri}" is not in a maintenance or degraded state.')
    service["state"] = "offline" if service["enabled"] else "disabled"
    return (lambda: start_all(machine, "global", [fmri])) if service["enabled"] else None


def restart(dummy_machine, service, dummy_fmri, dummy_wait):
    if service["child"] and is_alive(service["child"]):
        os.kill(service["child"][0], 15)


def await_state(machine, fmri, states):
    import time

    while True:
        with machine.locked() as state:
            found = state["services"]["global"].get(fmri, {"state": "disabled"})["state"]
        if found in states:
            break
        time.sleep(0.01)
    if found == "maintenance":
        raise Refused(f'svcadm: Instance "{fmri}" has entered maintenance state.', 3)


ACTS = {
    "enable": enable,
    "disable": disable,
    "clear": clear,
    "restart": restart,
    "refresh": lambda *dummy: None,
}


# --- svcs ------------------------------------------------------------------------------------------------------


def svcs(argv, state, dummy_machine):
    known, words = options(argv, "Ho:Lz:")
    flags = dict(known)
    services = state["services"].get(flags.get("-z", "global"), {})
    if not words or words[0] not in services:
        raise Refused(f"svcs: Pattern '{words[0] if words else ''}' doesn't match any instances")
    service = services[words[0]]
    if "-L" in flags:
        return service["log"], None
    columns = {"state": service["state"], "fmri": words[0], "nstate": "-", "inst": words[0]}
    return " ".join(f"{columns[c]:<14}" for c in flags.get("-o", "state,fmri").split(",")), None


PROGRAMS = {"svcadm": svcadm, "svccfg": svccfg, "svcs": svcs, "startd": startd}
