"""The sizes of all axes, supposed that some runs had other sizes than they have."""

from __future__ import annotations

import math
from collections.abc import Mapping

from naivenas_jax.sizes.ties import Ties


def supposed(ties: Ties, runs: Mapping[int, int]) -> dict[str, int]:
    """The size of every axis if ``runs`` had these sizes; a product has as many classes as its factors combine to.

    >>> ties = Ties((2, 3), {"a": (0,), "both": (0, 1)}, {}, {}, {})
    >>> supposed(ties, {0: 5})
    {'a': 5, 'both': 8}
    """
    known: dict[int, int] = {}

    def size(run: int) -> int:
        if run not in known:
            factors = ties.products.get(run)
            own = runs.get(run, ties.run_sizes[run])
            known[run] = own if factors is None else math.prod(sum(map(size, row)) for row in factors)
        return known[run]

    return {axis: sum(map(size, row)) for axis, row in ties.axes.items()}
