"""Each contraction of a network timed on this machine, for a grid of sizes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.checks import as_items, as_number, require_function, require_progress, shown
from naivenas_jax.cost.contractions import PlacedContraction, chosen, contractions
from naivenas_jax.cost.latency import LatencyTable, LayerLatency
from naivenas_jax.cost.vector_sizes import VectorSizes, traced
from naivenas_jax.errors import BudgetError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.jaxpr.interpret import Equation
from naivenas_jax.progress import tracked
from naivenas_jax.sizes.count import Count
from naivenas_jax.typing import Array, PyTree, Shape, Variables

#: The largest fraction of the present sizes to time: arrays that are larger would not fit into memory.
_LARGEST = 100.0
#: ``timer(function, arrays) -> seconds`` of one call.
Timer: TypeAlias = Callable[[Callable[..., PyTree], Sequence[jax.Array]], float]
#: The shapes of both operands of a contraction.
OperandShapes: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]


def measure_latency(
    graph: Graph,
    variables: Variables,
    *inputs: Array | Shape,
    fractions: Sequence[float] = (0.125, 0.25, 0.5, 0.75, 1.0),
    timer: Timer | None = None,
    progress: bool | None = None,
) -> LatencyTable:
    """Time the matrix products and convolutions of a network on this machine, for a grid of their sizes.

    The time of a contraction is taken as a function of the sizes of its operands that can change: multi-linear between
    the points of the grid. The time of a grouped convolution is taken as a function of its input size, the output in
    proportion. The latency of the network is taken as the sum. What is no contraction (elementwise operations,
    normalisation, transfers), and what a compiler gains by fusing, is left out: it is a model, for comparing sizes.

    Args:
      graph: the network.
      variables: its variables, or their shapes.
      *inputs: arrays or shapes, with the batch size that matters.
      fractions: which sizes to time, as fractions of the present sizes; the present sizes and 1 are timed in any case.
      timer: ``timer(function, arrays)`` gives the seconds of one call of a jitted function; by default the fastest of
        ten calls, after one for compilation. Contractions of the same shapes are timed once.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.

    Returns:
      A `LatencyTable`, for ``resize(max_latency=, latency=)``.

    Raises:
      BudgetError: if the size of an operand cannot be told from those of the variables, or a fraction is none.
      GraphError, VariablesError: if ``graph`` is no graph, the inputs do not fit, or the variables are not its own.

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
    given = as_items(fractions)
    shares = tuple(number for share in given or () if (number := as_number(share)) is not None)
    if not given or len(shares) < len(given) or not all(0 < share <= _LARGEST for share in shares):
        raise BudgetError(
            f"fractions= must be numbers above 0 and at most {_LARGEST}, fractions of the present sizes, such as "
            f"(0.5, 1.0); found {shown(fractions)}."
        )
    if timer is not None:
        require_function(timer, "timer=", "function, arrays", BudgetError)
    require_progress(progress, BudgetError)
    analysed, sizes = traced(graph, variables, inputs)
    now = graph.ties.sizes
    clock = _Clock(timer or fastest)
    with tracked(list(chosen(contractions(analysed.frame))), "measure_latency, operations", progress) as every:
        return LatencyTable(tuple(_measured(one, sizes, now, shares, clock) for one in every))


def fastest(fn: Callable[..., PyTree], arrays: Sequence[jax.Array], repeats: int = 10) -> float:
    """Seconds of the fastest of some calls, after one that compiles."""
    jax.block_until_ready(fn(*arrays))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn(*arrays))
        best = min(best, time.perf_counter() - start)
    return best


def _seconds(found: object) -> float:
    """What a timer has returned, if that is a time."""
    seconds = as_number(np.asarray(found).item() if np.ndim(found) == 0 else found)  # type: ignore[arg-type]  # anything
    if seconds is None or not 0 <= seconds < math.inf:
        raise BudgetError(f"timer= must return seconds, a number of at least 0; found {found!r:.80}.")
    return float(seconds)


class _Clock:
    """Times contractions, each of the same shapes once."""

    def __init__(self, timer: Timer):
        self.timer = timer
        self.known: dict[object, float] = {}

    def seconds(self, eqn: Equation, shapes: OperandShapes) -> float:
        """The time of one call, with operands of these shapes."""
        params = {**eqn.params}
        if eqn.primitive.name == "conv_general_dilated":
            numbers = params["dimension_numbers"]
            groups = shapes[0][numbers.lhs_spec[1]] // shapes[1][numbers.rhs_spec[1]]
            params["feature_group_count"] = groups // params["batch_group_count"]
        types = tuple(atom.aval.dtype for atom in eqn.invars)
        key = (eqn.primitive.name, str(params), shapes, types)
        if key not in self.known:
            arrays = [jnp.full(shape, 0.5, dtype) for shape, dtype in zip(shapes, types, strict=True)]
            self.known[key] = _seconds(self.timer(jax.jit(lambda a, b: eqn.primitive.bind(a, b, **params)), arrays))
        return self.known[key]


def _measured(
    one: PlacedContraction, sizes: VectorSizes, now: Mapping[str, int], fractions: Sequence[float], clock: _Clock
) -> LayerLatency:
    """One contraction, timed for a grid of its sizes."""
    eqn, shapes = one.eqn, [atom.aval.shape for atom in one.eqn.invars]
    values = [one.frame.operand(eqn, number) for number in range(len(eqn.invars))]
    try:
        operands = [
            [sizes.of(own, d, n) for d, n in enumerate(shape)] for own, shape in zip(values, shapes, strict=True)
        ]
    except BudgetError as error:
        raise BudgetError(f"{eqn.primitive.name} of {shapes}: {error}.") from error
    grouped = eqn.params.get("feature_group_count", 1) > 1
    variation = _grouped(eqn, operands, now) if grouped else _plain(operands, now)
    grid = tuple(_points(count.at(now), fractions) for count in variation.sizes)
    seconds = np.array([clock.seconds(eqn, variation.shapes_at(point)) for point in itertools.product(*grid)])
    return LayerLatency(variation.sizes, grid, seconds.reshape([len(g) for g in grid]), one.times, one.owners)


class _Variation(NamedTuple):
    """How the shapes of a contraction's operands are varied.

    Attributes:
      sizes: the sizes that are varied.
      shapes_at: takes a number for each of these to the shapes.
    """

    sizes: tuple[Count, ...]
    shapes_at: Callable[[Sequence[int]], OperandShapes]


def _points(size: int, fractions: Sequence[float]) -> tuple[int, ...]:
    return tuple(sorted({1, size, *(max(1, round(size * f)) for f in fractions)}))


def _plain(operands: Sequence[Sequence[Count]], now: Mapping[str, int]) -> _Variation:
    """Every size that can change is varied by itself."""
    varied = tuple(dict.fromkeys(c for dims in operands for c in dims if c.axes and c.at(now) > 1))

    def shapes_at(point: Sequence[int]) -> OperandShapes:
        at = dict(zip(varied, point, strict=True))
        left, right = (tuple(at.get(c, c.at(now)) for c in dims) for dims in operands)
        return left, right

    return _Variation(varied, shapes_at)


def _grouped(eqn: Equation, operands: Sequence[Sequence[Count]], now: Mapping[str, int]) -> _Variation:
    """The input size is varied. Either groups are of fixed width, or there are as many as now."""
    numbers, (left, right) = eqn.params["dimension_numbers"], operands
    feature, inner, outer = numbers.lhs_spec[1], numbers.rhs_spec[1], numbers.rhs_spec[0]
    shapes = [[c.at(now) for c in dims] for dims in operands]
    width = shapes[1][inner]
    by_width = not right[inner].axes
    unit = width if by_width else eqn.params["feature_group_count"]
    per_group = max(1, shapes[1][outer] // eqn.params["feature_group_count"])

    def shapes_at(point: Sequence[int]) -> OperandShapes:
        size = -(-point[0] // unit) * unit  # up to a multiple
        lhs, rhs = [*shapes[0]], [*shapes[1]]
        lhs[feature] = size
        groups = size // width if by_width else unit
        rhs[inner] = width if by_width else size // unit
        rhs[outer] = groups * (per_group if by_width else max(1, round(per_group * size / shapes[0][feature])))
        return tuple(lhs), tuple(rhs)

    varied = (left[feature],) if left[feature].axes and shapes[0][feature] > 1 else ()
    return _Variation(varied, shapes_at if varied else lambda point: (tuple(shapes[0]), tuple(shapes[1])))
