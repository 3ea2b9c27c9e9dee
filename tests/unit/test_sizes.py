# Copyright: (c) 2026, CloudNebula contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Amounts as people write them."""

from __future__ import annotations

import pytest
from ansible_collections.cloudnebula.hypervisor.plugins.module_utils._core.sizes import (
    GIB,
    KIB,
    MIB,
    parse_size,
    show_size,
)

TIB = 1024 * GIB
READ = {
    "7": 7 * MIB,
    7: 7 * MIB,
    "0": 0,
    "007": 7 * MIB,
    "0.5": MIB // 2,
    "5B": 5,
    "1K": KIB,
    "1k": KIB,
    "1kib": KIB,
    "2M": 2 * MIB,
    "2MB": 2 * MIB,
    "2MiB": 2 * MIB,
    " 2 MiB ": 2 * MIB,
    "1.5GiB": 3 * GIB // 2,
    "0.25GiB": GIB // 4,
    "3T": 3 * TIB,
    "9007199254740993B": 2**53 + 1,
    "8388608.0009765625GiB": 8388608 * GIB + MIB,
}
JUNK = [
    "",
    " ",
    "GiB",
    "-5",
    "+5",
    "2 bananas",
    "1,5GiB",
    "1e3",
    "0x10",
    "1.",
    ".5",
    "1..5",
    "1 2",
    "2P",
    "1.0001MiB",
    "0.1B",
    "nan",
    "inf",
    "9" * 400,
    "1\nMiB x",
    "1\u212aiB",
    "\u0661GiB",
    "\u00b2",
]


@pytest.mark.parametrize("text", READ, ids=repr)
def test_a_size_is_read(text):
    assert parse_size(text, bare_unit=MIB) == READ[text]


def test_a_bare_number_counts_in_the_unit_that_the_option_has():
    assert [parse_size("20", unit) for unit in (1, MIB, GIB)] == [20, 20 * MIB, 20 * GIB]


@pytest.mark.parametrize("text", JUNK, ids=lambda text: ascii(text[:20]))
def test_anything_else_is_no_size(text):
    with pytest.raises(ValueError, match="is not a"):
        parse_size(text, bare_unit=MIB)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0B"),
        (1, "1B"),
        (1023, "1023B"),
        (KIB, "1KiB"),
        (MIB + KIB, "1025KiB"),
        (GIB + 1, "1073741825B"),
        (GIB, "1GiB"),
        (3 * GIB // 2, "1536MiB"),
        (5 * TIB, "5TiB"),
    ],
)
def test_a_size_is_shown_in_the_largest_unit_that_divides_it(size, shown):
    assert show_size(size) == shown


@pytest.mark.parametrize("size", [1, 512, MIB, 3 * GIB // 2, 2**53 + 1, 7 * TIB])
def test_what_is_shown_reads_back_the_same(size):
    assert parse_size(show_size(size), bare_unit=GIB) == size
