# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of each module says what its argument spec and its results are."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import yaml
from ansible_collections.cloudnebula.hypervisor.plugins import doc_fragments, modules
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils import _arguments
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.errors import VmError
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.state import (
    Goal,
    Verb,
    VmState,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.vm import (
    Vm,
    VncEndpoint,
    show_vm,
)
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._manage_images import (
    SHOWN_KEYS,
)
from ansible_collections.cloudnebula.hypervisor.tests.unit.samples import FULL_HANDLE

ARGUMENTS = {
    "host_info": _arguments.HOST_INFO,
    "vm": _arguments.VM,
    "vm_fleet": _arguments.VM_FLEET,
    "vm_image": _arguments.VM_IMAGE,
    "vm_image_info": _arguments.VM_IMAGE_INFO,
    "vm_info": _arguments.VM_INFO,
}
SHOWN_IN = {"vm": "vm", "vm_info": "vms"}
PACKAGE = modules.__name__
SHOWN = show_vm(Vm(FULL_HANDLE, VmState.RUNNING, vnc=VncEndpoint("127.0.0.1", 5900, "/x")))
TYPES = {"str": str, "int": int, "bool": bool, "dict": dict, "list": list}


def document(module, name):
    return yaml.safe_load(getattr(importlib.import_module(f"{PACKAGE}.{module}"), name))


def documented_options(module):
    """Return the options of a module with those of the fragments that it extends."""
    own = document(module, "DOCUMENTATION")
    options = dict(own["options"])
    for fragment in own.get("extends_documentation_fragment", []):
        file, _dummy, part = fragment.removeprefix("cloudnebula.hypervisor.").partition(".")
        source = importlib.import_module(f"{doc_fragments.__name__}.{file}").ModuleDocFragment
        text = yaml.safe_load(getattr(source, part.upper() or "DOCUMENTATION"))
        options.update(text.get("options", {}))
    return options


def facts(option):
    """Return what documentation and argument spec must agree on."""
    known = ("type", "elements", "choices", "default", "required", "aliases")
    return {key: option[key] for key in known if option.get(key) not in (None, [])}


def compare(documented, spec, place=""):
    assert set(documented) == set(spec), place
    for name, option in spec.items():
        path = f"{place}.{name}"
        assert facts(documented[name]) == facts({"type": "str", **option}), path
        assert documented[name]["description"], path
        compare(documented[name].get("suboptions", {}), option.get("options", {}), path)


def test_every_module_is_compared():
    found = {module.name for module in pkgutil.iter_modules(modules.__path__)}

    assert found == set(ARGUMENTS)


@pytest.mark.parametrize("module", ARGUMENTS)
def test_options_are_documented_as_they_are(module):
    compare(documented_options(module), ARGUMENTS[module])


@pytest.mark.parametrize("module", SHOWN_IN)
def test_returned_machines_are_documented_key_by_key(module):
    contains = document(module, "RETURN")[SHOWN_IN[module]]["contains"]

    assert set(contains) == set(SHOWN)
    for key, value in SHOWN.items():
        if value is not None:
            assert isinstance(value, TYPES[contains[key]["type"]]), key


@pytest.mark.parametrize("module", SHOWN_IN)
def test_what_is_inside_a_returned_dictionary_is_named(module):
    contains = document(module, "RETURN")[SHOWN_IN[module]]["contains"]

    for key, value in SHOWN.items():
        inner = value[0] if isinstance(value, list) else value
        if isinstance(inner, dict) and key != "labels":
            named = [name for name in inner if f"C({name})" not in contains[key]["description"]]
            assert named == [], key


def test_both_modules_describe_a_machine_alike():
    vm, vms = (document(module, "RETURN")[SHOWN_IN[module]]["contains"] for module in SHOWN_IN)

    assert {key: entry["type"] for key, entry in vm.items()} == {
        key: entry["type"] for key, entry in vms.items()
    }


def test_states_and_steps_are_documented():
    returned = document("vm", "RETURN")

    assert _arguments.VM["state"]["choices"] == [goal.value for goal in Goal]
    for state in VmState:
        assert f"C({state.value})" in returned["vm"]["contains"]["state"]["description"]
    for verb in Verb:
        assert f"C({verb.value})" in returned["actions"]["description"]


def test_returned_images_are_documented_key_by_key():
    one, many = (
        document(module, "RETURN")[key]["contains"]
        for module, key in (("vm_image", "image"), ("vm_image_info", "images"))
    )

    assert list(one) == list(many) == list(SHOWN_KEYS)


def family(kind):
    return {kind, *(member for child in kind.__subclasses__() for member in family(child))}


def test_every_error_has_a_code_of_its_own():
    codes = {}
    for kind in family(VmError):
        codes.setdefault(kind.code, []).append(kind.__name__)

    assert all(code.startswith("vm_manager.") for code in codes)
    shared = [names for names in codes.values() if len(names) > 1]
    assert shared == []


@pytest.mark.parametrize("module", ARGUMENTS)
def test_an_error_that_is_documented_has_a_real_code(module):
    sample = document(module, "RETURN")["error"].get("sample")

    if sample:
        assert sample["code"] in {kind.code for kind in family(VmError)}
        assert set(sample) == set(VmError("x").as_dict())
