# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zonecfg and zoneadm: zones whose processes are those of the services in their root."""

from __future__ import annotations

import os

from machine import Refused, escaped, kill_group

ZONE = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
RESOURCES = {
    "net": {"physical", "address", "allowed-address", "defrouter"},
    "device": {"match", "allow-partition", "allow-raw-io"},
    "fs": {"dir", "special", "type", "raw"},
    "attr": {"name", "type", "value"},
    "dataset": {"name"},
}
NEEDED = {
    "net": {"physical"},
    "device": {"match"},
    "fs": {"dir", "special", "type"},
    "attr": {"name", "type", "value"},
    "dataset": {"name"},
}
GLOBAL = {"brand", "zonepath", "autoboot", "ip-type", "limitpriv", "bootargs", "pool"}
BRANDS = ("omicron1", "ipkg", "lipkg", "sparse", "pkgsrc", "lx", "bhyve")
INSTALLED = ("installed", "ready", "running", "incomplete", "shutting_down", "down", "mounted")


# --- zonecfg ---------------------------------------------------------------------------------------------------


def zonecfg(argv, state, dummy_machine):
    if argv[:1] != ["-z"] or len(argv) < 3:
        raise Refused("usage: zonecfg -z zone ...", 2)
    name, words, zones = argv[1], argv[2:], state["zones"]
    if not is_name(name):
        raise Refused(f"zonecfg: zone '{name}': Bogus zone name")
    if words[0] == "-f":
        with open(words[1], encoding="utf-8") as stream:
            config = read_config(stream.read(), name, zones)
        zones[name] = {"state": "configured", "uuid": "", "id": None, **zones.get(name, {})}
        zones[name]["config"] = config
        return "", None
    if name not in zones:
        raise Refused(f"{name}: No such zone configured")
    if words[0] == "delete":
        if "-F" not in words:
            raise Refused("zonecfg: input not from a terminal and -F not specified; delete failed")
        if zones[name]["state"] in INSTALLED:
            raise Refused(f"Zone {name} already installed; delete not allowed.")
        del zones[name]
        return "", None
    if words[0] == "info":
        return info(zones[name]["config"], words[1:]), None
    raise Refused(f"zonecfg: syntax error: {' '.join(words)}", 2)


def is_name(name):
    reserved = name == "global" or name.startswith("SUNW")
    return set(name) <= ZONE and name[:1].isalnum() and len(name) < 64 and not reserved


def read_config(text, name, zones):
    """Read a command file: one statement a line. Nothing is kept unless all of it can be."""
    import shlex

    reader = Reader(name in zones)
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line.replace("=", " = ", 1))
            understood = not words or reader.take(words)
        except ValueError:
            understood = False
        if not understood:
            raise Refused(f"zonecfg: {name}: On line {number}: syntax error: {line.strip()}")
    if not reader.committed:
        raise Refused("Configuration not saved.")
    return reader.config


class Reader:
    """What a command file has said so far: about the zone, and about the resource that is being added."""

    def __init__(self, exists):
        self.exists = exists
        self.config = None
        self.resource = None
        self.committed = False

    def take(self, words):
        """Carry out a statement; tell whether it is one, here."""
        if self.config is None:
            return self.create(words)
        if self.resource is not None:
            return self.in_resource(words)
        if words[0] == "set" and len(words) == 4 and words[1] in GLOBAL and words[2] == "=":
            self.config[words[1]] = words[3]
        elif words[0] == "add" and len(words) == 2 and words[1] in RESOURCES:
            self.resource = {"kind": words[1]}
        elif words in (["commit"], ["verify"], ["exit"]):
            verify(self.config)
            self.committed = self.committed or words == ["commit"]
        else:
            return False
        return True

    def create(self, words):
        if words[0] != "create" or set(words[1:]) - {"-b"}:
            return False
        if self.exists:
            raise Refused("Zone already exists; create not allowed.")
        self.config = {"ip-type": "shared", "autoboot": "false", "resources": []}
        return True

    def in_resource(self, words):
        kind = self.resource["kind"]
        if words == ["end"]:
            if missing := sorted(NEEDED[kind] - set(self.resource)):
                raise Refused(f"zonecfg: {missing[0]} not specified")
            self.config["resources"].append(self.resource)
            self.resource = None
        elif words[0] == "set" and len(words) == 4 and words[1] in RESOURCES[kind]:
            self.resource[words[1]] = words[3]
        elif words[:2] == ["add", "options"] and len(words) == 3 and kind == "fs":
            self.resource.setdefault("options", []).append(words[2])
        else:
            return False
        return True


def verify(config):
    for key in ("zonepath", "brand"):
        if key not in config:
            raise Refused(f"Required property {key} not specified")
    if config["brand"] not in BRANDS:
        raise Refused(f"zonecfg: brand '{config['brand']}' is invalid")
    if not config["zonepath"].startswith("/"):
        raise Refused(f"{config['zonepath']}: Invalid absolute path")
    for resource in of_kind(config, "net"):
        if config["ip-type"] == "exclusive" and "address" in resource:
            raise Refused("net: address cannot be specified for an exclusive IP type")
        if config["ip-type"] == "shared" and (
            "address" not in resource or "allowed-address" in resource
        ):
            raise Refused("net: address has to be specified for a shared IP type")


def of_kind(config, kind):
    return [resource for resource in config["resources"] if resource["kind"] == kind]


def info(config, words):
    kind = words[0] if words else "attr"
    if kind not in RESOURCES:
        return f"{kind}: {config.get(kind, '')}"
    lines = []
    for resource in of_kind(config, kind):
        lines.append(f"{kind}:")
        for key, value in resource.items():
            if key != "kind":
                lines.append(f"\t{key}: {value if isinstance(value, str) else ','.join(value)}")
    return "\n".join(lines) or f"No such {kind} resource."


# --- zoneadm ---------------------------------------------------------------------------------------------------


def zoneadm(argv, state, machine):
    zones = state["zones"]
    if argv[:1] == ["list"]:
        shown = [
            n for n in zones if {"-c", "-cp", "-cpn"} & set(argv) or zones[n]["state"] == "running"
        ]
        rows = [] if "-cpn" in argv or "-n" in argv else [global_zone()]
        return "\n".join([*rows, *(row(n, zones[n]) for n in shown)]), None
    if argv[:1] != ["-z"] or len(argv) < 3:
        raise Refused("usage: zoneadm -z zonename subcommand", 2)
    name, verb, words = argv[1], argv[2], argv[3:]
    if name not in zones:
        raise Refused(f"zoneadm: {name}: No such zone configured")
    if verb == "list":
        if words != ["-p"]:
            raise Refused("zoneadm: this double prints for programs only: -p", 2)
        zone = zones[name]
        printed = row(name, zone)
        if zone.get("coming"):  # states that pass by themselves
            zone["state"] = zone["coming"].pop(0)
        return printed, None
    if verb not in VERBS:
        raise Refused(f"zoneadm: zone '{name}': unknown subcommand {verb}", 2)
    return VERBS[verb](Zone(name, state, machine), words)


def global_zone():
    return escaped(["0", "global", "running", "/", "", "ipkg", "shared"])


def row(name, zone):
    number = str(zone["id"]) if zone["state"] in ("running", "shutting_down", "down") else "-"
    config = zone["config"]
    ip_type = {"exclusive": "excl", "shared": "shared"}[config["ip-type"]]
    fields = [
        number,
        name,
        zone["state"],
        config["zonepath"],
        zone["uuid"],
        config["brand"],
        ip_type,
    ]
    return escaped([*fields, "D"])  # a field of a later release


class Zone:
    def __init__(self, name, state, machine):
        self.name = name
        self.all = state
        self.machine = machine
        self.zone = state["zones"][name]
        self.config = self.zone["config"]

    def refuse(self, sentence):
        raise Refused(f"zoneadm: zone '{self.name}': {sentence}")

    def expect(self, verb, *states):
        """Refuse a verb in other states, in the words of the real one."""
        state = self.zone["state"]
        if state in states:
            return
        if state in ("running", "ready", "shutting_down", "down", "mounted"):
            self.refuse(f"{verb} operation is invalid for {state} zones.")
        if state == "configured" and verb == "uninstall":
            self.refuse("is already in state 'configured'.")
        if state == "incomplete" and verb == "install":
            self.refuse("zone is incomplete; uninstall required.")
        if state in ("configured", "incomplete"):
            self.refuse(f"must be installed before {verb}.")
        self.refuse("is already installed.")

    def links(self):
        return [net["physical"] for net in of_kind(self.config, "net")]


def install(zone, words):
    zone.expect("install", "configured")
    path = zone.config["zonepath"]
    check_zonepath(zone, path)
    for image in words:
        if not os.path.isfile(image):
            zone.refuse(f"could not open image {image}")
    if zone.config["brand"] == "omicron1" and not words:
        zone.refuse("brand-specific installation failed: no image given")
    os.makedirs(path, mode=0o700, exist_ok=True)
    for folder in ("var/svc/manifest/site", "var/svc/log", "opt"):
        os.makedirs(os.path.join(path, "root", folder))
    zone.zone.update(state="installed", uuid=new_uuid())
    return "", None


def new_uuid():
    digits = os.urandom(16).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def check_zonepath(zone, path):
    import stat

    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        zone.refuse(f"could not verify zonepath {path} because of the above errors: no {parent}")
    if os.stat(parent).st_mode & 0o022:
        zone.refuse(
            f"{parent} must not be group or world writable. could not verify zonepath {path}"
        )
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(found.st_mode):
        zone.refuse(f"{path} is not a directory. could not verify zonepath {path}")
    if stat.S_IMODE(found.st_mode) != 0o700:
        zone.refuse(f"{path} must not be group or world readable. could not verify zonepath {path}")
    if os.listdir(path):
        zone.refuse(f"{path} is not empty. could not verify zonepath {path}")


def boot(zone, dummy_words):
    zone.expect("boot", "installed", "ready")
    links = zone.all["links"]
    for name in zone.links():
        if name not in links:
            zone.refuse(f"network interface '{name}' does not exist: call to zoneadmd failed")
        if links[name]["zone"]:
            zone.refuse(f"datalink '{name}' is in use by zone '{links[name]['zone']}'")
    for device in of_kind(zone.config, "device"):
        dataset = device["match"].removeprefix("/dev/zvol/rdsk/")
        if device["match"] != dataset and dataset not in zone.all["datasets"]:
            zone.refuse(f"device {device['match']} does not exist")
    for name in zone.links():
        links[name]["zone"] = zone.name
    zone.all["serial"] += 1
    zone.zone.update(state="running", id=zone.all["serial"])
    return "", services_of(zone)


def services_of(zone):
    """Import the manifests in the zone's root, as its first boot does, and start what they enable."""
    from services import start_all, take_manifest

    root = os.path.join(zone.config["zonepath"], "root")
    site = os.path.join(root, "var/svc/manifest/site")
    known = zone.all["services"].setdefault(zone.name, {})
    for name in sorted(os.listdir(site)):
        take_manifest(os.path.join(site, name), known, os.path.join(root, "var/svc/log"), root)
    enabled = [fmri for fmri, service in known.items() if service["enabled"]]
    for fmri in enabled:
        known[fmri]["state"] = "offline"
    return lambda: start_all(zone.machine, zone.name, enabled)


def halt(zone, dummy_words):
    zone.expect("halt", "running", "ready", "mounted")
    for service in zone.all["services"].pop(zone.name, {}).values():
        kill_group(service["restarter"])
    release(zone)
    passing = zone.zone.pop("slowly", [])
    zone.zone["state"] = passing[0] if passing else "installed"
    zone.zone["coming"] = [*passing[1:], "installed"] if passing else []
    return "", None


def release(zone):
    for name in zone.links():
        if zone.all["links"].get(name, {}).get("zone") == zone.name:
            zone.all["links"][name]["zone"] = None


def uninstall(zone, words):
    import shutil

    if "-F" not in words:
        zone.refuse("input not from a terminal and -F not specified; uninstall failed")
    zone.expect("uninstall", "installed", "incomplete", "mounted")
    shutil.rmtree(zone.config["zonepath"], ignore_errors=True)
    zone.zone.update(state="configured", uuid="")
    return "", None


def mark(zone, words):
    if words != ["incomplete"]:
        zone.refuse("usage: mark incomplete")
    zone.zone["state"] = "incomplete"
    return "", None


VERBS = {"install": install, "boot": boot, "halt": halt, "uninstall": uninstall, "mark": mark}
PROGRAMS = {"zoneadm": zoneadm, "zonecfg": zonecfg}
