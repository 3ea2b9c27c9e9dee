# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a backend can do beyond the verbs that all of them have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .live import Hotplug
from .networks import MODELS
from .spec import LEFT_OPEN, VmSpec

_NOTHING = VmSpec(name="")
_NO_HOTPLUG = Hotplug()
# An option at this value asks for nothing.
_NEUTRAL: Mapping[str, Any] = {
    **LEFT_OPEN,
    **{"accelerator": "auto", "vnc": False, "secure_boot": False, "tpm": False, "smbios": {}},
    **{
        "kernel": "",
        "initrd": "",
        "kernel_cmdline": "",
        "shared_folders": (),
        "qemu_args": (),
        "autostart": False,
    },
}


@dataclass(frozen=True)
class Features:
    """Capabilities as data, asked by the planner before anything is touched."""

    suspend: bool = False
    network_types: tuple[str, ...] = ()
    cables: bool = True  # network cards may be without a cable
    network_models: tuple[str, ...] = tuple(MODELS)
    accelerators: tuple[str, ...] = ()
    needs_image: bool = True
    hotplug: Hotplug = _NO_HOTPLUG
    rename: bool = False
    rerun_cloud_init: bool = False
    clone: bool = False
    unsupported: tuple[str, ...] = ()  # fields of VmSpec that it has nothing for
    defaults: VmSpec = _NOTHING  # of new machines, where they are not the same everywhere

    def refused(self, wish: VmSpec) -> tuple[str, ...]:
        """Return the fields that the wish sets to something although this backend has nothing for them."""
        return tuple(
            field
            for field in self.unsupported
            if getattr(wish, field) not in (None, _NEUTRAL.get(field))
        )

    def completed(self, wish: VmSpec) -> VmSpec:
        """Return the wish with the defaults of a new machine where it left options open."""
        return self.supported(wish.over(self.defaults).completed())

    def supported(self, spec: VmSpec) -> VmSpec:
        """Return a spec without the options that this backend has nothing for."""
        nothing: dict[str, Any] = dict.fromkeys(self.unsupported)
        return replace(spec, **nothing)
