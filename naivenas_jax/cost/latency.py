"""Latency from a table: the time of each contraction for a grid of sizes, interpolated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from naivenas_jax.checks import as_whole, require_mapping, shown
from naivenas_jax.cost.parts import Owners, parts, under, without_operations
from naivenas_jax.errors import BudgetError, SolverError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.sizes.count import Count

PICOSECONDS = 1e12


@dataclass(frozen=True, eq=False)
class LayerLatency:
    """The latency of one contraction.

    Attributes:
      sizes: the sizes that its time depends on.
      grid: for each of these the sizes that were timed, ascending.
      seconds: the time at each point of the grid; one dimension for each of the sizes.
      times: how often the network runs the contraction.
      owners: the paths of the parts that it belongs to.
    """

    sizes: tuple[Count, ...]
    grid: tuple[tuple[int, ...], ...]
    seconds: Float[np.ndarray, ...]
    times: int
    owners: Owners = frozenset()

    def below(self) -> Count:
        """A sum of products of sizes, in picoseconds, that is nowhere above the table, as near to it as can be.

        Interpolation between the points of a grid reproduces a sum of products of sizes exactly. So a sum that is not
        above the table at the points of the grid is nowhere above it between them.
        """
        from scipy.optimize import linprog  # here: long to import, and needed for tables of latency alone

        products = [c for n in range(len(self.sizes) + 1) for c in itertools.combinations(range(len(self.sizes)), n)]
        points = np.array(list(itertools.product(*self.grid)), dtype=float).reshape(self.seconds.size, len(self.sizes))
        values = np.stack([points[:, list(factors)].prod(1) for factors in products], 1)
        largest, seconds = values.max(0), np.maximum(self.seconds.ravel(), 0.0)
        unit = float(seconds.max()) or 1.0
        fit = linprog(-values.sum(0) / largest, A_ub=values / largest, b_ub=seconds / unit, bounds=(0, None))
        if fit.status != 0:
            raise SolverError(f"HiGHS ended with status {fit.status} when it fitted a table of latency.")
        slopes = fit.x / largest * unit
        slopes[0] -= max(0.0, float((values @ slopes - seconds).max()))  # the solver's tolerance
        terms = [math.prod((self.sizes[i] for i in factors), start=Count.constant(1)) for factors in products]
        scaled = slopes * self.times * PICOSECONDS
        return Count.total(term * float(slope) for term, slope in zip(terms, scaled, strict=True))

    def at(self, sizes: Mapping[str, int]) -> float:
        """Seconds: multi-linear between the points of the grid and beyond the largest, constant below the smallest."""
        from scipy.interpolate import RegularGridInterpolator  # here, as in `below`

        if not self.sizes:
            return self.times * float(self.seconds)
        point = [max(float(size.at(sizes)), float(g[0])) for size, g in zip(self.sizes, self.grid, strict=True)]
        found = RegularGridInterpolator(self.grid, self.seconds, bounds_error=False, fill_value=None)(point)
        return self.times * max(0.0, float(found[0]))


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """A model of latency: the sum of the times of all contractions of a network. Call it with the network in any sizes.

    With t_l the time of contraction l, interpolated on the grid of sizes that were timed, and n_l how often it runs,

        latency(sizes) = sum_l n_l t_l(sizes).

    `measure_latency` makes one.

    Attributes:
      layers: the latency of each contraction.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> graph = nas.Graph(x := nas.input_vertex("x", 3), nas.layer("out", nn.Dense(2), x))
    >>> shapes = jax.eval_shape(graph.init, jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> table = nas.measure_latency(graph, shapes, jax.numpy.ones((1, 3)), timer=lambda fn, arrays: 0.5)
    >>> table(graph), table.at({"x": 3, "out": 2}), table.of("out")(graph)
    (0.5, 0.5, 0.5)
    >>> table.below().at({"x": 3, "out": 2}) <= 0.5e12
    True
    """

    layers: tuple[LayerLatency, ...]

    def at(self, sizes: Mapping[str, int]) -> float:
        """The latency for some sizes; see `LatencyTable`.

        Args:
          sizes: the sizes of all axes of the graph, by name.

        Returns:
          Seconds.

        Raises:
          BudgetError: if the table is of a network with other axes, or a size is no whole number.
        """
        require_mapping(sizes, "sizes", BudgetError)
        unknown = sorted({axis for layer in self.layers for size in layer.sizes for axis in size.axes} - {*sizes})
        if unknown:
            raise BudgetError(
                f"This table of latency is of another network: it depends on the size of {unknown[0]!r}, and there are "
                f"{', '.join(map(repr, [*sizes][:8])) or 'none'}. Measure this one: nas.measure_latency(graph, ...)."
            )
        needed = {axis for layer in self.layers for size in layer.sizes for axis in size.axes}
        for axis in sorted(needed):
            if as_whole(sizes[axis]) is None:
                raise BudgetError(f"sizes: that of {axis!r} must be a whole number; found {shown(sizes[axis])}.")
        return sum(layer.at(sizes) for layer in self.layers)

    def below(self) -> Count:
        """A bound from below, as a sum of products of sizes; see `LatencyTable`.

        Returns:
          A count in picoseconds that is nowhere above the table, for sizes up to the largest that were timed.

        Raises:
          SolverError: if the solver fails when it fits the bound.
        """
        return Count.total(layer.below() for layer in self.layers)

    def __call__(self, graph: Graph) -> float:
        """The seconds of a network: the one that was timed, in any sizes."""
        return self.at(graph.ties.sizes)

    def of(self, part: str) -> LatencyTable:
        """The table of a part of the network; see `LatencyTable`.

        Args:
          part: a vertex, or a path of modules.

        Returns:
          The table of the contractions that belong to the part.

        Raises:
          BudgetError: if it has no contractions.
        """
        named = isinstance(part, str)
        found = tuple(layer for layer in self.layers if named and under(part, layer.owners))
        if not found:
            having = parts(path for layer in self.layers for path in layer.owners)
            raise without_operations("the latency", part, having)
        return LatencyTable(found)
