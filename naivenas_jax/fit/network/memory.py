"""How much memory sums may take: told before it is spent."""

from __future__ import annotations

import os
from math import isqrt
from pathlib import Path

from naivenas_jax.checks import as_whole, shown
from naivenas_jax.errors import RequestError

#: Bytes for each product of two columns: sums of two kinds of rows and a system in float64, and in float32 as many rows
#: as columns that wait, of two kinds, and those that are multiplied.
BYTES = 36
#: Where a machine does not say how much it has.
_UNKNOWN = 4 * 2**30


def require_memory(memory: object) -> int:
    """``memory=`` in bytes; of None half of what the machine has, or what the process may have.

    Raises:
      RequestError: if it is no whole number above 0.
    """
    if memory is None:
        return _of_machine() // 2
    number = as_whole(memory)
    if number is None or number < 1:
        raise RequestError(
            f"memory= is a number of bytes, at least 1, or None for half of what there is; found {shown(memory)}."
        )
    return number


def most_columns(memory: int, groups: int, outputs: int) -> int:
    """The most inputs K of so many groups whose sums, (K + 1) (K + M + 1) each, fit into half of the memory."""
    products, sides = memory // (2 * BYTES * groups), outputs + 2  # K^2 + (M + 2) K + M + 1 <= products
    return max(0, (isqrt(max(0, sides**2 - 4 * (outputs + 1 - products))) - sides) // 2)


def _of_machine() -> int:
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found = min(found, int(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError):  # no such file, or no limit
            continue
    return found
