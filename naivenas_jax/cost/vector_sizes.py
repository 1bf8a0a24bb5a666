"""The sizes in a trace of a network, as counts of the sizes of its axes.

The network is traced as a function, hand-written or imported. The analysis knows what lies on the dimensions of each
value in terms of the dimensions of variables, whose axes the graph knows by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from naivenas_jax.errors import BudgetError
from naivenas_jax.graph.given_inputs import checked_arrays
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import keys_of, outputs_of
from naivenas_jax.sizes.count import Count
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.model.call_arguments import traced_shape
from naivenas_jax.trace.program.analyse import Analysed, analyse
from naivenas_jax.trace.program.capture import capture
from naivenas_jax.trace.program.value import Value
from naivenas_jax.transfer.variables import check_network, flat
from naivenas_jax.typing import Array, PyTree, Shape, Variables


def traced(
    graph: Graph, variables: Variables, inputs: Sequence[Array | Shape], **kwargs: PyTree
) -> tuple[Analysed, VectorSizes]:
    """One evaluation, analysed, and the sizes in it as counts of the sizes of the graph's axes.

    Raises:
      GraphError: if there are other inputs than the graph has.
      VariablesError: if the variables are not those of the graph.
    """
    check_network(graph, variables)
    arrays = checked_arrays(graph, tuple(inputs))
    shapes = {path: traced_shape(array) for path, array in flat(variables).items()}

    def function(values: PyTree, data: PyTree, keys: PyTree, named: PyTree) -> tuple[PyTree, dict[str, PyTree]]:
        del keys, named
        given = {"rngs": keys_of(graph) or None, **kwargs}
        return outputs_of(graph, values, data, **given), {}

    # once: models inside a graph are evaluated from their own traces, which have been compared
    analysed = analyse(
        capture(function, shapes, [traced_shape(x) for x in arrays], {}, [], once=True), sizes_alone=True
    )
    return analysed, VectorSizes(graph.ties, analysed)


@dataclass(frozen=True, eq=False)
class VectorSizes:
    """The size of any vector of an analysis, as a count of the sizes of the graph's axes.

    Attributes:
      ties: the ties of the graph, whose axes have names.
      analysed: one evaluation of the graph. Its axes are the dimensions of variables, inputs and outputs.
    """

    ties: Ties
    analysed: Analysed

    @cached_property
    def known(self) -> tuple[Int[np.ndarray, "rows runs"], tuple[Count, ...]]:
        """For each dimension of a variable, and each factor of one, how often it holds each run, and its size."""
        own = self.analysed.ties
        found: dict[tuple[int, ...], Count] = {}
        for path, leaf in own.leaves.items():
            for axis, name in zip(leaf.axes, self.ties.leaves[path].axes, strict=True):
                if axis is not None:
                    count = Count.constant(own.size(axis)) if name is None else Count.axis(name)
                    found.setdefault(own.axes[axis], count)
                    for row, size in self._factors(own.axes[axis], self.ties.axes.get(name or "", ())):
                        found.setdefault(row, size)
        matrix = np.array([self._runs(row) for row in found]).reshape(len(found), len(own.run_sizes))
        return matrix, tuple(found.values())

    def _factors(self, row: tuple[int, ...], axis: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Count]]:
        """The factors of a dimension (heads and features), where the same ones lie on the axis of the graph."""
        if len(row) == len(axis):
            for ours, run in zip(row, axis, strict=True):
                factors = self.analysed.ties.products.get(ours, ()), self.ties.products.get(run, ())
                for own, factor in zip(*factors, strict=True) if len(factors[0]) == len(factors[1]) else ():
                    if factor in self._named:
                        yield own, Count.axis(self._named[factor])
                    yield from self._factors(own, factor)

    @cached_property
    def _named(self) -> dict[tuple[int, ...], str]:
        """The first axis of the graph that holds just these runs."""
        found: dict[tuple[int, ...], str] = {}
        for name, row in self.ties.axes.items():
            found.setdefault(row, name)
        return found

    def _runs(self, row: Sequence[int]) -> Int[np.ndarray, " runs"]:
        """How often a row of runs holds each run."""
        return np.bincount(np.array(row, dtype=int), minlength=len(self.analysed.ties.run_sizes))

    def of(self, value: Value, dim: int, size: int) -> Count:
        """The size of one dimension."""
        vector: Vector | None = value.dims[dim]
        return Count.constant(size) if vector is None else self.row(self.analysed.rows[vector])

    def row(self, row: tuple[int, ...]) -> Count:
        """The size of some runs: the size of a variable's dimension, or a combination of such sizes, or a product."""
        own = self.analysed.ties
        fixed = [run for run in row if run in own.fixed]
        free = tuple(run for run in row if run not in own.fixed)
        constant = Count.constant(own.length(fixed))
        return constant + self._combined(free) if free else constant

    def _combined(self, row: tuple[int, ...]) -> Count:
        """The size of some runs that are not fixed."""
        matrix, counts = self.known
        wanted = self._runs(row)
        same = np.flatnonzero((matrix == wanted).all(axis=1))
        if same.size:
            return counts[int(same[0])]
        weights = np.linalg.lstsq(matrix.T.astype(float), wanted.astype(float), rcond=None)[0]
        if np.abs(weights @ matrix - wanted).max() < 1e-9:
            return Count.total(c * float(w) for c, w in zip(counts, weights, strict=True) if abs(w) > 1e-12)
        return Count.total(self._product(run) for run in row)

    def _product(self, run: int) -> Count:
        """The size of a run that is a product: the product of the sizes of its factors."""
        if run not in self.analysed.ties.products:
            raise BudgetError("the size of an axis on which no variable lies is not known")
        factors = (self.row(factor) for factor in self.analysed.ties.products[run])
        return math.prod(factors, start=Count.constant(1))
