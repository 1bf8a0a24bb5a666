"""How many operations a network takes, and what its contractions return, as counts of its sizes.

The network is traced as a function, hand-written or imported. What lies on the dimensions of each contraction is known
from the analysis, and that in terms of the dimensions of variables, whose axes the graph knows by name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from flax import core

from naivenas_jax.cost.parts import CONTRACTIONS, Owners, owners, parts, under
from naivenas_jax.errors import BudgetError
from naivenas_jax.graph.evaluation.name_scopes import computed_in
from naivenas_jax.graph.graph import Graph
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.count import Count
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.trace.model.call_arguments import shape_of
from naivenas_jax.trace.program.analyse import Analysed, analyse
from naivenas_jax.trace.program.capture import capture
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.value import Value
from naivenas_jax.transfer.variables import check_network, flat


class Operation(NamedTuple):
    """One contraction: its multiply-accumulates, the bytes that it returns, and what it belongs to."""

    macs: Count
    activation_bytes: Count
    owners: Owners

    def of(self, part: str) -> list[Operation]:
        return [self] if under(part, self.owners) else []

    def largest(self, now: Mapping[str, int]) -> list[Operation]:
        del now
        return [self]


class Branches(NamedTuple):
    """Of several ways to go on one is taken."""

    ways: tuple[Steps, ...]

    def of(self, part: str) -> list[Branches]:
        return [Branches(tuple(_of_part(part, way) for way in self.ways))]

    def largest(self, now: Mapping[str, int]) -> list[Operation]:
        """The operations of the way that takes most of them at present."""
        ways = ([one for step in way for one in step.largest(now)] for way in self.ways)
        return max(ways, key=lambda way: Count.total(one.macs for one in way).at(now))


Steps = tuple[Operation | Branches, ...]


@dataclass(frozen=True, eq=False)
class Operations:
    """The contractions of a network, or of a part of it.

    Attributes:
      steps: in order.
      now: the present sizes.
    """

    steps: Steps
    now: Mapping[str, int]

    @cached_property
    def each(self) -> list[Operation]:
        """Those that count: of branches the largest."""
        return [one for step in self.steps for one in step.largest(self.now)]

    @property
    def macs(self) -> Count:
        """Multiply-accumulates."""
        return Count.total(one.macs for one in self.each)

    @property
    def activation_bytes(self) -> Count:
        """The bytes that contractions return."""
        return Count.total(one.activation_bytes for one in self.each)

    @property
    def parts(self) -> list[str]:
        """All parts that have operations."""
        return parts(path for one in self.each for path in one.owners)

    def of(self, part: str) -> Operations:
        """Those of a part: a vertex, or a path of modules."""
        return Operations(_of_part(part, self.steps), self.now)


def _of_part(part: str, steps: Steps) -> Steps:
    """The steps of a part."""
    return tuple(own for step in steps for own in step.of(part))


def operations(graph: Graph, variables: Mapping[str, Any], inputs: Sequence[Any], **kwargs: Any) -> Operations:
    """Counts for one evaluation on these inputs.

    A multiply-accumulate is one product of an entry of one operand with one of the other, in a matrix product or a
    convolution; what else a network does is not counted. A loop whose length is known counts as often as it runs, one
    of unknown length once, of branches the largest.

    Args:
      graph: the network.
      variables: arrays or shapes.
      inputs: arrays or shapes, one per input of the graph.
      **kwargs: of ``graph.apply``.

    Raises:
      BudgetError: if the sizes of a contraction cannot be told from those of the variables.
    """
    analysed, sizes = traced(graph, variables, inputs, **kwargs)
    return Operations(tuple(_steps(analysed.program.closed.jaxpr, analysed.frame, sizes)), graph.ties.sizes)


def traced(graph: Graph, variables: Mapping[str, Any], inputs: Sequence[Any], **kwargs: Any) -> tuple[Analysed, Sizes]:
    """One evaluation, analysed, and what the sizes in it are in terms of the axes of the graph."""
    check_network(graph, variables)
    graph.check_inputs(tuple(inputs))
    shapes = {path: shape_of(array) for path, array in flat(variables).items()}

    def function(values: Any, data: Any, keys: Any, named: Any) -> tuple[Any, dict[str, Any]]:
        del keys, named
        return core.apply(graph.run, mutable=False)(values, *data, **kwargs), {}

    analysed = analyse(capture(function, shapes, [shape_of(x) for x in inputs], {}, []))
    return analysed, Sizes(graph.ties, analysed)


@dataclass(frozen=True, eq=False)
class Sizes:
    """The size of any vector of an analysis, in terms of the axes of the graph."""

    ties: Ties
    analysed: Analysed

    @cached_property
    def known(self) -> tuple[np.ndarray, tuple[Count, ...]]:
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

    def _runs(self, row: Sequence[int]) -> np.ndarray:
        return np.bincount(np.array(row, dtype=int), minlength=len(self.analysed.ties.run_sizes))

    def of(self, value: Value, dim: int, size: int) -> Count:
        """The size of one dimension."""
        vector: Vector | None = value.dims[dim]
        return Count.constant(size) if vector is None else self.row(self.analysed.rows[vector])

    def row(self, row: tuple[int, ...]) -> Count:
        """The size of some runs: that of a variable's dimension, else a combination of such, else a product."""
        own = self.analysed.ties
        fixed = [run for run in row if run in own.fixed]
        free = tuple(run for run in row if run not in own.fixed)
        constant = Count.constant(own.length(fixed))
        return constant + self._combined(free) if free else constant

    def _combined(self, row: tuple[int, ...]) -> Count:
        matrix, counts = self.known
        wanted = self._runs(row)
        same = np.flatnonzero((matrix == wanted).all(axis=1))
        if same.size:
            return counts[same[0]]
        weights = np.linalg.lstsq(matrix.T.astype(float), wanted.astype(float), rcond=None)[0]
        if np.abs(weights @ matrix - wanted).max() < 1e-9:
            return Count.total(c * float(w) for c, w in zip(counts, weights, strict=True) if abs(w) > 1e-12)
        return Count.total(self._product(run) for run in row)

    def _product(self, run: int) -> Count:
        if run not in self.analysed.ties.products:
            raise BudgetError("the size of an axis on which no variable lies is not known")
        return math.prod((self.row(factor) for factor in self.analysed.ties.products[run]), start=Count.constant(1))


def _steps(jaxpr: Any, frame: Frame, sizes: Sizes, times: int = 1, around: Owners = frozenset()) -> Iterator[Any]:
    """The contractions, each as often as it runs."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in CONTRACTIONS:
            yield _contraction(eqn, frame, sizes, times, around)
        inside = sizes, times * eqn.params.get("length", 1), around.union(computed_in(eqn))
        inner = [tuple(_steps(child.jaxpr, child, *inside)) for child in frame.inner.get(eqn, ())]
        if eqn.primitive.name == "cond":
            yield Branches(tuple(inner))
        else:
            yield from itertools.chain(*inner)


def _contraction(eqn: Any, frame: Frame, sizes: Sizes, times: int, around: Owners) -> Operation:
    made, (left, right) = eqn.outvars[0], eqn.invars

    def over(atom: Any, dims: Sequence[int]) -> Count:
        value, shape = frame.read(atom), atom.aval.shape
        try:
            return math.prod((sizes.of(value, d, shape[d]) for d in dims), start=Count.constant(1))
        except BudgetError as error:
            raise BudgetError(
                f"The operations of {eqn.primitive.name} of shapes {left.aval.shape} and {right.aval.shape} cannot be "
                f"counted: {error}. Set the budget on another count (max_params=), or fix that axis."
            ) from error

    returned = over(made, range(len(made.aval.shape)))
    if eqn.primitive.name == "dot_general":
        contracted = over(left, eqn.params["dimension_numbers"][0][0])
    else:
        outer = eqn.params["dimension_numbers"].rhs_spec[0]
        contracted = over(right, [d for d in range(len(right.aval.shape)) if d != outer])
    itemsize = np.dtype(made.aval.dtype).itemsize
    return Operation(returned * contracted * times, returned * itemsize, owners(eqn, frame, around))
