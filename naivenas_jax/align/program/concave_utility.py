"""The utility of a group as a concave function of how many of it are kept, cut into a few linear segments."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from naivenas_jax.align.problem.problem import Group


def segments(
    group: Group, focus: tuple[int, ...], count: int
) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count"]]:
    """Lengths and slopes of ``count`` segments that lie on or above the utility that ``group`` keeps.

    Each is part of the line through two neighbouring points of that function. The lines at the ends, at the points of
    ``focus`` and evenly between are used: there the segments are exact.

    Returns:
      Lengths, which sum to the size of the group, and slopes, which decrease; both of shape (count,).
    """
    utility, size = group.utility, group.size
    if not size:  # an empty place
        return np.zeros(count), np.zeros(count)
    lines = _lines(size, focus, count)
    slopes = utility[lines - 1]
    chosen = np.flatnonzero(np.diff(slopes, prepend=np.inf) < -group.rounding)  # equal slopes are one line
    lines, slopes = lines[chosen], slopes[chosen]
    heights = group.utility_kept[lines] - slopes * lines  # of each line at 0
    crossings = np.diff(heights) / -np.diff(slopes)
    lengths = np.diff(np.concatenate([[0.0], np.clip(crossings, 0, size), [size]]))
    pad = count - len(lengths)
    return np.pad(np.maximum(lengths, 0.0), (0, pad)), np.pad(slopes, (0, pad), mode="edge")


def _lines(size: int, focus: tuple[int, ...], count: int) -> Int[np.ndarray, " lines"]:
    """Which lines to use: line k is the one through the points k - 1 and k."""
    if size <= count:
        return np.arange(1, size + 1)
    wanted = [1, size]
    for point in reversed(focus):  # the latest first; line k and line k + 1 are exact at point k
        wanted += [k for k in (point, point + 1) if 1 <= k <= size]
    unique = list(dict.fromkeys(wanted))[:count]
    even = np.linspace(1, size, max(count - len(unique), 0) + 2).round().astype(int)
    unique += [k for k in even.tolist() if k not in unique][: count - len(unique)]
    return np.array(sorted(unique))
