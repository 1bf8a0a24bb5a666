"""Which rows of a matrix product or convolution sums are taken over: all, or evenly spaced ones where there are many.

Sums over N rows of L columns take N L^2 multiplications. Positions of an image or a sound next to each other say much
the same, so that a wide convolution has far more rows than its fit needs.
"""

from __future__ import annotations

from math import lcm

import numpy as np
from jaxtyping import Bool, Int

#: Multiplications that nobody minds: as long as sums take fewer, all rows are taken.
FREE = 2e10
#: As many rows as this are read for every column that is summed over, if there are as many.
ROWS_PER_COLUMN = 4
#: One in so many examples is held out, where there are as many.
HELD_OUT = 4


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


def held_out_rows(picked: Int[np.ndarray, " picked"], rows: int, examples: int) -> Bool[np.ndarray, " picked"]:
    """Which of some rows are held out: those of every fourth example, with all of its positions.

    Args:
      picked: the numbers of the rows.
      rows: the number of all rows, those of an example one after the other.
      examples: the number of examples, if it divides that of rows.
    """
    per_example = rows // examples if examples >= HELD_OUT and rows % examples == 0 else 1
    return np.asarray(picked // per_example % HELD_OUT == HELD_OUT - 1)
