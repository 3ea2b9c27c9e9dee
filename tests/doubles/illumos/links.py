# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""dladm and ipadm: network links and the host's own addresses."""

from __future__ import annotations

from machine import Refused, escaped, options, short_mac

LINK = r"[A-Za-z][A-Za-z0-9_.]*?(0|[1-9][0-9]*)"
MAC = r"[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}"


def dladm(argv, state, dummy_machine):
    verb, rest = (argv[0], argv[1:]) if argv else ("", [])
    if verb not in VERBS:
        raise Refused(f"dladm: unknown subcommand '{verb}'", 1)
    act, flags = VERBS[verb]
    return act(*opened(rest, flags), state["links"]), None


def opened(words, flags):
    known, rest = options(words, flags)
    return dict(known), rest


def table(flags, rows, known):
    """Print chosen fields of rows."""
    if "-p" not in flags or "-o" not in flags:
        raise Refused("dladm: this double prints for programs only: -p -o")
    fields = [field.lower() for field in flags["-o"].split(",")]
    if unknown := [field for field in fields if field not in known]:
        raise Refused(f"dladm: invalid field '{unknown[0].upper()}' for -o")
    return "\n".join(escaped([row[field] for field in fields]) for row in rows)


def named(links, words, kind, classes):
    """Links of some classes, or the one that is named."""
    if words and links.get(words[0], {}).get("class") not in classes:
        raise Refused(f"dladm: invalid {kind} name '{words[0]}': object not found")
    chosen = words or links
    return [(name, links[name]) for name in chosen if links[name]["class"] in classes]


def check_name(name):
    import re

    if len(name) > 31 or not re.fullmatch(LINK, name):
        raise Refused(f"dladm: invalid link name '{name}'")


def create_vnic(flags, words, links):
    import re

    if "-l" not in flags or len(words) != 1:
        raise Refused("dladm: usage: create-vnic [-t] -l <link> ... <vnic-link>")
    name, over = words[0], flags["-l"]
    check_name(name)
    if over not in links:
        raise Refused(f"dladm: invalid link name '{over}'")
    if name in links:
        raise Refused(f"dladm: vnic creation over {over} failed: object already exists")
    mac = flags.get("-m", "2:8:20:1:2:3")
    if not re.fullmatch(MAC, mac) or int(mac.split(":")[0], 16) & 1:
        raise Refused(f"dladm: invalid MAC address '{mac}'")
    mac = ":".join(f"{int(octet, 16):02x}" for octet in mac.split(":"))
    vlan = int(flags.get("-v", "0"))
    for other in links.values():
        if other.get("over") == over and other["mac"] == mac and other["vid"] == vlan:
            problem = "MAC address is already in use"
            raise Refused(f"dladm: vnic creation over {over} failed: {problem}")
    links[name] = {
        "class": "vnic",
        "state": "up",
        "over": over,
        "mac": mac,
        "vid": vlan,
        "mtu": links[over]["mtu"],
        "zone": None,
        "persistent": "-t" not in flags,
    }
    # That create-vnic forgets the MTU it was given is a known defect: it has to be set again.
    return ""


def show_vnic(flags, words, links):
    rows = [
        {
            "link": name,
            "over": link["over"],
            "macaddress": short_mac(link["mac"]),
            "vid": str(link["vid"]),
            "zone": link["zone"] or "--",
        }
        for name, link in named(links, words, "vnic", ("vnic",))
        if "-P" not in flags or link["persistent"]
    ]
    return table(flags, rows, ("link", "over", "macaddress", "vid", "zone"))


def show_phys(flags, words, links):
    phys = named(links, words, "link", ("phys",))
    rows = [{"link": name, "state": link["state"]} for name, link in phys]
    return table(flags, rows, ("link", "state"))


def show_link(flags, words, links):
    classes = ("phys", "vnic", "etherstub", "aggr")
    rows = [
        {"link": n, "class": d["class"], "state": d["state"], "over": d.get("over") or "--"}
        for n, d in named(links, words, "link", classes)
    ]
    return table(flags, rows, ("link", "class", "state", "over"))


def delete_vnic(dummy_flags, words, links):
    link = links.get(words[0])
    if link is None or link["class"] != "vnic":
        raise Refused(f"dladm: invalid vnic name '{words[0]}': object not found")
    if link["zone"]:
        raise Refused("dladm: vnic deletion failed: link busy")
    del links[words[0]]
    return ""


def create_etherstub(dummy_flags, words, links):
    check_name(words[0])
    if words[0] in links:
        raise Refused("dladm: etherstub creation failed: object already exists")
    links[words[0]] = {"class": "etherstub", "state": "unknown", "mtu": 9000, "persistent": True}
    links[words[0]] |= {"over": None, "mac": "00:00:00:00:00:00", "vid": 0, "zone": None}
    return ""


def the_link(words, links):
    if not words or words[0] not in links:
        raise Refused(f"dladm: invalid link name '{words[0] if words else ''}'")
    return links[words[0]]


def set_linkprop(flags, words, links):
    link = the_link(words, links)
    key, dummy, value = flags["-p"].partition("=")
    if key != "mtu" or not value.isdigit():
        raise Refused(f"dladm: warning: cannot set link property '{key}': invalid argument")
    over = links.get(link.get("over") or "", {})
    if int(value) > over.get("mtu_max", 9000):
        raise Refused(f"dladm: warning: cannot set link property '{key}': invalid argument")
    link["mtu"] = int(value)
    return ""


def reset_linkprop(dummy_flags, words, links):
    link = the_link(words, links)
    link["mtu"] = links[link["over"]]["mtu"] if link.get("over") else 1500
    return ""


def show_linkprop(flags, words, links):
    link = the_link(words, links)
    if "-c" not in flags or flags.get("-o") != "VALUE" or flags.get("-p") != "mtu":
        raise Refused("dladm: this double prints for programs only: -c -o VALUE -p mtu")
    return str(link["mtu"])


def ipadm(argv, state, dummy_machine):
    verb, rest = (argv[0], argv[1:]) if argv else ("", [])
    if verb == "show-addr":
        flags, dummy_words = opened(rest, "po:")
        rows = [
            {"addrobj": name, "type": a["type"], "state": "ok", "addr": a["addr"]}
            for name, a in state["addresses"].items()
        ]
        return table(flags, rows, ("addrobj", "type", "state", "addr")), None
    if verb == "create-addr":
        flags, words = opened(rest, "tT:a:")
        if words[0] in state["addresses"]:
            raise Refused("ipadm: Could not create address: Address object already exists")
        if words[0].partition("/")[0] not in state["links"]:
            raise Refused("ipadm: Could not create address: Interface does not exist")
        row = {"type": flags["-T"], "addr": flags["-a"], "persistent": "-t" not in flags}
        state["addresses"][words[0]] = row
        return "", None
    if verb == "delete-addr":
        if state["addresses"].pop(rest[0], None) is None:
            raise Refused(f"ipadm: could not delete address: Object not found: {rest[0]}")
        return "", None
    if verb in ("create-if", "show-if"):
        return "", None
    raise Refused(f"ipadm: unrecognized subcommand: '{verb}'")


VERBS = {
    "create-vnic": (create_vnic, "tl:m:v:p:"),
    "show-vnic": (show_vnic, "pPo:"),
    "delete-vnic": (delete_vnic, "t"),
    "create-etherstub": (create_etherstub, "t"),
    "show-phys": (show_phys, "po:"),
    "show-link": (show_link, "po:"),
    "set-linkprop": (set_linkprop, "tp:"),
    "reset-linkprop": (reset_linkprop, "tp:"),
    "show-linkprop": (show_linkprop, "co:p:"),
}
PROGRAMS = {"dladm": dladm, "ipadm": ipadm}
