# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Amounts of memory and disk as people write them."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024**2
GIB = 1024**3
MAX_DISK = 16 * 1024**4  # more than any disk has that makes sense

_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1024**4}
# No more digits than anyone needs: Python takes time that grows with their square.
_SIZE = re.compile(
    r"([0-9]{1,20})(?:\.([0-9]{1,20}))?\s*([KMGT]?(?:i?B)?)", re.IGNORECASE | re.ASCII
)


def parse_size(text: str | int, bare_unit: int) -> int:
    """Return the number of bytes in ``text``.

    Units are powers of 1024, as in QEMU: ``2GiB``, ``2GB`` and ``2G`` are the same. A number without a unit
    counts in ``bare_unit`` bytes. Raises ``ValueError`` for anything else, and for fractions of a byte.
    """
    match = _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"'{text}' is not a size")
    whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3).upper()
    factor = _FACTORS[unit.rstrip("IB")] if unit else bare_unit
    size, rest = divmod(int(whole + fraction) * factor, int(10 ** len(fraction)))
    if rest:
        raise ValueError(f"'{text}' is not a whole number of bytes")
    return size


def show_size(size: int) -> str:
    """Return ``size`` bytes for people: in the largest unit that divides it."""
    for unit, factor in (("TiB", 1024**4), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"
