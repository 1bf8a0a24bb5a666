"""Latency from a table: each contraction of a network timed on this machine for a grid of sizes, and interpolated."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.optimize import linprog

from naivenas_jax.cost.operations import Sizes, traced
from naivenas_jax.cost.parts import CONTRACTIONS, Owners, owners, parts, under, without_operations
from naivenas_jax.errors import BudgetError, SolverError
from naivenas_jax.graph.evaluation.name_scopes import computed_in
from naivenas_jax.graph.graph import Graph
from naivenas_jax.sizes.count import Count
from naivenas_jax.trace.program.frame import Frame

PICOSECONDS = 1e12
#: ``timer(function, arrays) -> seconds`` of one call.
Timer = Callable[[Callable[..., Any], Sequence[Any]], float]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class LayerLatency:
    """One contraction.

    Attributes:
      sizes: what its time depends on.
      grid: for each of these the sizes that were timed, ascending.
      seconds: shape (timed sizes of the first, of the second, ...).
      times: how often the network runs it.
      owners: the paths of the parts that it belongs to.
    """

    sizes: tuple[Count, ...]
    grid: tuple[tuple[int, ...], ...]
    seconds: np.ndarray
    times: int
    owners: Owners = frozenset()

    def below(self) -> Count:
        """A sum of products of sizes, in picoseconds, that is nowhere above the table, as near to it as can be.

        What is multi-linear is reproduced by interpolation between the points of a grid. So what is not above the
        table at its points is nowhere above it between them.
        """
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
        """Multi-linear between the points of the grid, and beyond the largest; as at the smallest below it."""
        if not self.sizes:
            return self.times * float(self.seconds)
        point = [max(float(size.at(sizes)), float(g[0])) for size, g in zip(self.sizes, self.grid, strict=True)]
        found = RegularGridInterpolator(self.grid, self.seconds, bounds_error=False, fill_value=None)(point)
        return self.times * max(0.0, float(found[0]))


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """A model of latency: the sum over all contractions of a network. Call it with the network in any sizes.

    Attributes:
      layers: the contractions.
    """

    layers: tuple[LayerLatency, ...]

    def at(self, sizes: Mapping[str, int]) -> float:
        """Seconds, for the sizes of all axes."""
        return sum(layer.at(sizes) for layer in self.layers)

    def below(self) -> Count:
        """A sum of products of sizes, in picoseconds, that is nowhere above the table for sizes up to the largest."""
        return Count.total(layer.below() for layer in self.layers)

    def __call__(self, graph: Graph) -> float:
        return self.at(graph.ties.sizes)

    def of(self, part: str) -> LatencyTable:
        """That of a part: a vertex, or a path of modules.

        Raises:
          BudgetError: if it has no contractions.
        """
        found = tuple(layer for layer in self.layers if under(part, layer.owners))
        if not found:
            having = parts(path for layer in self.layers for path in layer.owners)
            raise without_operations("the latency", part, having)
        return LatencyTable(found)


def measure_latency(
    graph: Graph,
    variables: Mapping[str, Any],
    *inputs: Any,
    fractions: Sequence[float] = (0.125, 0.25, 0.5, 0.75, 1.0),
    timer: Timer | None = None,
) -> LatencyTable:
    """Time the matrix products and convolutions of a network on this machine, for a grid of their sizes.

    The time of a contraction is taken as a function of the sizes of its operands that can change: multi-linear between
    the points of the grid. That of a grouped convolution is taken as a function of its input size, the output in
    proportion. The latency of the network is taken as the sum. What is no contraction (elementwise operations,
    normalisation, transfers), and what a compiler gains by fusing, is left out: it is a model, for comparing sizes.

    Args:
      graph, variables: the network; variables may be shapes.
      *inputs: arrays or shapes, with the batch size that matters.
      fractions: which sizes to time, as fractions of the present.
      timer: ``timer(function, arrays)`` gives the seconds of one call of a jitted function; by default the fastest of
        ten calls, after one for compilation. Contractions of the same shapes are timed once.

    Returns:
      A `LatencyTable`, for ``resize(max_latency=, latency=)``.

    Raises:
      BudgetError: if the size of an operand cannot be told from those of the variables, or a fraction is none.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> shapes = jax.eval_shape(graph.init, jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> table = nas.measure_latency(graph, shapes, jax.numpy.ones((1, 3)), timer=lambda fn, arrays: arrays[1].size)
    >>> table(graph)
    40.0
    >>> table(nas.delta_nout(graph, shapes, {"hidden": -3}).graph)
    25.0
    """
    shares = tuple(fractions) if isinstance(fractions, Iterable) else ()
    if not shares or not all(isinstance(share, Real) and 0 < share < math.inf for share in shares):
        raise BudgetError(
            "fractions= must be numbers above 0, fractions of the present sizes, such as (0.5, 1.0); found "
            f"{fractions!r:.80}."
        )
    analysed, sizes = traced(graph, variables, inputs)
    now = graph.ties.sizes
    clock = _Clock(timer or fastest)
    walk = _contractions(analysed.program.closed.jaxpr, analysed.frame)
    return LatencyTable(tuple(_measured(*one, sizes, now, shares, clock) for one in walk))


def fastest(fn: Callable[..., Any], arrays: Sequence[Any], repeats: int = 10) -> float:
    """Seconds of the fastest of some calls, after one that compiles."""
    jax.block_until_ready(fn(*arrays))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn(*arrays))
        best = min(best, time.perf_counter() - start)
    return best


class _Clock:
    """Times contractions, each of the same shapes once."""

    def __init__(self, timer: Timer):
        self.timer = timer
        self.known: dict[Any, float] = {}

    def seconds(self, eqn: Any, shapes: Shapes) -> float:
        params = {**eqn.params}
        if eqn.primitive.name == "conv_general_dilated":
            numbers = params["dimension_numbers"]
            groups = shapes[0][numbers.lhs_spec[1]] // shapes[1][numbers.rhs_spec[1]]
            params["feature_group_count"] = groups // params["batch_group_count"]
        types = tuple(atom.aval.dtype for atom in eqn.invars)
        key = (eqn.primitive.name, str(params), shapes, types)
        if key not in self.known:
            arrays = [jnp.full(shape, 0.5, dtype) for shape, dtype in zip(shapes, types, strict=True)]
            self.known[key] = self.timer(jax.jit(lambda a, b: eqn.primitive.bind(a, b, **params)), arrays)
        return self.known[key]


def _contractions(
    jaxpr: Any, frame: Frame, times: int = 1, around: Owners = frozenset()
) -> Iterator[tuple[Any, Frame, int, Owners]]:
    """Every contraction with how often it runs, and what it belongs to; of branches all."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in CONTRACTIONS:
            yield eqn, frame, times, owners(eqn, frame, around)
        inside = times * eqn.params.get("length", 1), around.union(computed_in(eqn))
        for child in frame.inner.get(eqn, ()):
            yield from _contractions(child.jaxpr, child, *inside)


def _measured(
    eqn: Any,
    frame: Frame,
    times: int,
    belongs: Owners,
    sizes: Sizes,
    now: Mapping[str, int],
    fractions: Sequence[float],
    clock: _Clock,
) -> LayerLatency:
    try:
        operands = [[sizes.of(frame.read(atom), d, n) for d, n in enumerate(atom.aval.shape)] for atom in eqn.invars]
    except BudgetError as error:
        raise BudgetError(f"{eqn.primitive.name} of {[a.aval.shape for a in eqn.invars]}: {error}.") from error
    grouped = eqn.params.get("feature_group_count", 1) > 1
    made = _grouped(eqn, operands, now) if grouped else _plain(operands, now)
    varied, shapes_at = made
    grid = tuple(_points(count.at(now), fractions) for count in varied)
    seconds = np.array([clock.seconds(eqn, shapes_at(point)) for point in itertools.product(*grid)])
    return LayerLatency(varied, grid, seconds.reshape([len(g) for g in grid]), times, belongs)


def _points(size: int, fractions: Sequence[float]) -> tuple[int, ...]:
    return tuple(sorted({1, size, *(max(1, round(size * f)) for f in fractions)}))


def _plain(operands: Sequence[Sequence[Count]], now: Mapping[str, int]) -> tuple[tuple[Count, ...], Any]:
    """Every size that can change is varied by itself."""
    varied = tuple(dict.fromkeys(c for dims in operands for c in dims if c.axes and c.at(now) > 1))

    def shapes_at(point: Sequence[int]) -> Any:
        at = dict(zip(varied, point, strict=True))
        return tuple(tuple(at.get(c, c.at(now)) for c in dims) for dims in operands)

    return varied, shapes_at


def _grouped(eqn: Any, operands: Sequence[Sequence[Count]], now: Mapping[str, int]) -> tuple[tuple[Count, ...], Any]:
    """The input size is varied. Either groups are of fixed width, or there are as many as now."""
    numbers, (left, right) = eqn.params["dimension_numbers"], operands
    feature, inner, outer = numbers.lhs_spec[1], numbers.rhs_spec[1], numbers.rhs_spec[0]
    shapes = [[c.at(now) for c in dims] for dims in operands]
    width = shapes[1][inner]
    by_width = not right[inner].axes
    unit = width if by_width else eqn.params["feature_group_count"]
    per_group = max(1, shapes[1][outer] // eqn.params["feature_group_count"])

    def shapes_at(point: Sequence[int]) -> Any:
        size = -(-point[0] // unit) * unit  # up to a multiple
        lhs, rhs = [*shapes[0]], [*shapes[1]]
        lhs[feature] = size
        groups = size // width if by_width else unit
        rhs[inner] = width if by_width else size // unit
        rhs[outer] = groups * (per_group if by_width else max(1, round(per_group * size / shapes[0][feature])))
        return tuple(lhs), tuple(rhs)

    varied = (left[feature],) if left[feature].axes and shapes[0][feature] > 1 else ()
    return varied, shapes_at if varied else lambda point: (tuple(shapes[0]), tuple(shapes[1]))
