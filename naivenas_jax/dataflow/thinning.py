"""Which rows of a matrix product or convolution sums are taken over: all, or evenly spaced ones where there are many.

Sums over N rows of L columns take N L^2 multiplications. Positions of an image or a sound next to each other say much
the same, so that a wide convolution has far more rows than its fit needs.
"""

from __future__ import annotations

from math import lcm

import numpy as np
from jaxtyping import Int

#: Multiplications that nobody minds: as long as sums take fewer, all rows are taken.
FREE = 2e10


def thinning(rows: int, columns: int, per_column: int) -> int:
    """One in so many rows is enough: 1, or as many as leave this many rows for each column.

    Args:
      rows: the number of rows.
      columns: the number of columns that products are summed of.
      per_column: the rows that are left for each column, at least.
    """
    return max(1, int(min(rows / (per_column * columns), rows * columns**2 / FREE)))


def picked_rows(rows: int, examples: int, every: int) -> Int[np.ndarray, " picked"]:
    """One in so many rows, at other positions in other examples.

    Args:
      rows: the number of rows, those of an example one after the other.
      examples: the number of examples, if it divides that of rows.
      every: one in so many.
    """
    row = np.arange(rows)
    positions = rows // examples if examples and rows % examples == 0 else rows
    turn = row // lcm(positions, every)  # after so many rows the same positions would have their turn again
    return np.flatnonzero((row + turn) % every == 0)
