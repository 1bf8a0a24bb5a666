"""New neurons that the loss wants most: `gradmax`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import PlanError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import Path
from naivenas_jax.transfer.new_neurons.entries import NewEntries
from naivenas_jax.transfer.new_neurons.fills import keep_function
from naivenas_jax.transfer.new_neurons.loss import Loss, loss_of
from naivenas_jax.transfer.take import placed_like, to_host
from naivenas_jax.transfer.variables import flat, nested

Arrays = Mapping[Path, Any]


def gradmax(
    loss_fn: Loss,
    batch: Any,
    *,
    zero: Literal["outgoing", "incoming"] = "outgoing",
    steps: int = 50,
    starts: int = 32,
) -> GradMax:
    """New neurons with the largest gradient: for ``new=`` of every verb that widens.

    One side of the weights of new neurons is zero, so that the network computes what it did; the other side is chosen
    such that the gradient of the loss by the zero side is as large as can be. With ``U`` the weights that are chosen,
    one row per new neuron, and ``Z`` those that are zero,

        maximise  || d loss / d Z ||^2   over U with orthogonal rows, each as long as the default would make it.

    For linear activations ``d loss / d Z = U M``, with M the mean over examples of (input of the new layer) times
    (gradient by the output of the next), and the best U is that of the singular vectors of M with the largest singular
    values. In general a U is found by the generalised power method, U <- polar factor of the derivative of the
    objective, with shorter steps where that does not go up, from the best of many random starts: never worse than
    these, but perhaps not the best of all.

    Args:
      loss_fn: ``loss_fn(apply, variables, batch) -> scalar``, as for `taylor`.
      batch: what ``loss_fn`` takes.
      zero: "outgoing": the weights that read a new neuron are zero, those that make it are chosen. The function is kept
        whatever the activation. "incoming": the other way round, as in the paper; it needs an activation with f(0) = 0
        and f'(0) not 0, such as tanh, gelu or swish, but not JAX's ReLU, whose derivative at 0 is 0.
      steps: of the power method, at most.
      starts: how many random starts are compared first; the best few of them are improved.

    Returns:
      What to pass as ``new=``. New neurons that no weight reads, and vertices that are inserted, start as by default.

    Raises:
      PlanError: (when used) the gradient is zero for every choice, or the function would not be kept.

    Source: Evci, van Merriënboer, Unterthiner, Vladymyrov and Pedregosa, GradMax: Growing Neural Networks using
    Gradient Information, ICLR 2022. Power method: Journée, Nesterov, Richtárik and Sepulchre, JMLR 2010.

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> hidden = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("hidden", nn.Dense(2), x))
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), hidden))
    >>> inputs = jax.random.normal(jax.random.key(1), (16, 3))
    >>> variables = graph.init(jax.random.key(0), inputs)
    >>> def loss(apply, variables, batch):
    ...     return jnp.mean((apply(variables, batch) - batch[:, :1] * batch[:, 1:2]) ** 2)
    >>> mutation = nas.delta_nout(graph, variables, {"hidden": 2}, new=nas.gradmax(loss, inputs))
    >>> mutation.check(inputs).compared
    True
    """
    if zero not in ("outgoing", "incoming"):
        raise PlanError(f"gradmax: zero must be 'outgoing' or 'incoming', found {zero!r}.")
    if steps < 0 or starts < 1:
        raise PlanError(f"gradmax: steps must be 0 or more and starts 1 or more, found {steps!r} and {starts!r}.")
    return GradMax(loss_fn, batch, zero, int(steps), int(starts))


class Rows(NamedTuple):
    """The weights of new neurons in one variable: a row for each of the positions on a dimension."""

    path: Path
    dim: int
    positions: np.ndarray

    def of(self, array: Any) -> Any:
        """Shape (positions, rest)."""
        return jnp.moveaxis(jnp.asarray(array), self.dim, 0)[self.positions].reshape(len(self.positions), -1)

    def put(self, array: Any, rows: Any) -> Any:
        """The array with these rows."""
        moved = jnp.moveaxis(jnp.asarray(array), self.dim, 0)
        shaped = rows.reshape(len(self.positions), *moved.shape[1:]).astype(moved.dtype)
        return jnp.moveaxis(moved.at[self.positions].set(shaped), 0, self.dim)


@dataclass(frozen=True, eq=False)
class GradMax:
    """See `gradmax`."""

    loss_fn: Loss
    batch: Any
    zero: str
    steps: int
    starts: int

    def __call__(self, entries: NewEntries) -> Any:
        return keep_function(entries)

    def finish(self, graph: Graph, plan: Plan, variables: dict[str, Any]) -> dict[str, Any]:
        """The variables with the best weights of new neurons."""
        incoming, outgoing = _rows(graph, plan, "out"), _rows(graph, plan, "in")
        chosen, zeroed = (incoming, outgoing) if self.zero == "outgoing" else (outgoing, incoming)
        arrays = flat(variables)
        if not incoming or not outgoing or any(isinstance(a, jax.ShapeDtypeStruct) for a in arrays.values()):
            return variables
        start = {path: jnp.asarray(array) for path, array in arrays.items()}
        lengths = [jnp.linalg.norm(rows.of(start[rows.path]), axis=1) for rows in incoming]
        if self.zero == "incoming":
            for rows in incoming:
                start[rows.path] = rows.put(start[rows.path], jnp.zeros_like(rows.of(start[rows.path])))
            lengths = [jnp.full(len(rows.positions), jnp.mean(jnp.concatenate(lengths))) for rows in chosen]
        objective = self._objective(graph, start, chosen, zeroed)
        best, largest = self._maximise(objective, _blocks(chosen, start), lengths)
        if not largest > 0:
            raise PlanError(
                f"gradmax: the gradient by the {self.zero} weights of the new neurons of {_some(plan)} is zero for "
                "every choice of the others. With zero='incoming' the activation needs a derivative at 0, which "
                "JAX's ReLU does not have: use zero='outgoing'. Else the loss does not depend on these neurons."
            )
        final = _with(start, chosen, best)
        if self.zero == "incoming":
            self._check_kept(graph, _with(start, chosen, [jnp.zeros_like(rows) for rows in best]), final)
        touched = {rows.path for rows in (*chosen, *zeroed)}
        changed = {path: placed_like(to_host(final[path]), arrays[path]) for path in touched}
        return nested({**arrays, **changed})

    def _objective(
        self, graph: Graph, start: Arrays, chosen: Sequence[Rows], zeroed: Sequence[Rows]
    ) -> Callable[[Sequence[Any]], Any]:
        """The squared norm of the gradient by the zeroed rows, as a function of the chosen ones."""

        def objective(blocks: Sequence[Any]) -> Any:
            arrays = _with(start, chosen, blocks)

            def loss(rows: Sequence[Any]) -> Any:
                given = nested(_with(arrays, zeroed, rows))
                return loss_of(self.loss_fn, graph, given, self.batch, PlanError)

            slopes = jax.grad(loss)([jnp.asarray(rows.of(arrays[rows.path])) for rows in zeroed])
            return sum(
                jnp.sum(jnp.where(_fixed_side(rows, chosen, arrays), slope, 0.0).astype(jnp.float32) ** 2)
                for rows, slope in zip(zeroed, slopes, strict=True)
            )

        return objective

    def _maximise(
        self, objective: Callable[[Sequence[Any]], Any], shapes: Sequence[Any], lengths: Sequence[Any]
    ) -> tuple[list[Any], float]:
        """The best rows that were met, and their objective."""
        step = jax.jit(jax.value_and_grad(objective))
        draws, found = np.random.default_rng(0), []
        for _ in range(self.starts):
            blocks = [_polar(draws.normal(size=s.shape), length) for s, length in zip(shapes, lengths, strict=True)]
            value, slope = step(blocks)
            found.append(Point(blocks, float(value), slope))
        found.sort(key=lambda point: -point.value)
        climbed = [_climbed(step, point, lengths, self.steps) for point in found[:_CLIMBS]]
        best = max(climbed, key=lambda point: point.value)
        return best.blocks, best.value

    def _check_kept(self, graph: Graph, before: Arrays, after: Arrays) -> None:
        losses = [float(loss_of(self.loss_fn, graph, nested(a), self.batch, PlanError)) for a in (before, after)]
        if not abs(losses[0] - losses[1]) <= 1e-4 * max(1.0, abs(losses[0])):
            raise PlanError(
                f"gradmax with zero='incoming' would not keep the function (the loss goes from {losses[0]:.6g} to "
                f"{losses[1]:.6g}): the new neurons are not 0 where their weights are. Use zero='outgoing'."
            )


def _rows(graph: Graph, plan: Plan, role: str) -> list[Rows]:
    """Where new neurons are made ("out") or read ("in") by weights that were there before."""
    found = []
    for path, leaf in graph.ties.leaves.items():
        if leaf.new is not None or path in plan.created or path not in plan.leaves:
            continue
        for dim, axis in enumerate(plan.leaves[path]):
            if axis is not None and leaf.roles[dim] == role and plan.axes[axis].new.size:
                found.append(Rows(path, dim, plan.axes[axis].new))
    return found


def _fixed_side(rows: Rows, chosen: Sequence[Rows], arrays: Arrays) -> Any:
    """Which entries of zeroed rows belong to no chosen row as well: the others are not zero."""
    mask = jnp.ones(arrays[rows.path].shape, bool)
    for other in chosen:
        if other.path == rows.path:
            mask = other.put(mask, jnp.zeros_like(other.of(mask)))
    return rows.of(mask)


def _blocks(chosen: Sequence[Rows], arrays: Arrays) -> list[Any]:
    return [rows.of(arrays[rows.path]) for rows in chosen]


def _with(arrays: Arrays, where: Sequence[Rows], blocks: Sequence[Any]) -> dict[Path, Any]:
    """The arrays with these rows."""
    result = dict(arrays)
    for rows, block in zip(where, blocks, strict=True):
        result[rows.path] = rows.put(result[rows.path], block)
    return result


def _polar(matrix: Any, lengths: Any) -> jax.Array:
    """The rows of these lengths, orthogonal to each other, that are best aligned with those of a matrix.

    More rows than columns cannot be orthogonal: they are then so in portions.
    """
    scaled = np.asarray(matrix, np.float64) * np.asarray(lengths, np.float64)[:, None]
    parts = []
    for first in range(0, len(scaled), scaled.shape[1]):
        left, _, right = np.linalg.svd(scaled[first : first + scaled.shape[1]], full_matrices=False)
        parts.append(left @ right)
    return jnp.asarray(np.concatenate(parts) * np.asarray(lengths)[:, None], jnp.float32)


class Point(NamedTuple):
    """Chosen rows, their objective, and its derivative."""

    blocks: list[Any]
    value: float
    slope: Sequence[Any]


#: From how many of the starts to climb, the best first.
_CLIMBS = 4
#: How far to go along the derivative at once, the farthest first. Infinite: a step of the power method.
_STRIDES = (np.inf, 4.0, 1.0, 0.25, 0.06, 0.015)


def _climbed(step: Callable[..., Any], point: Point, lengths: Sequence[Any], steps: int) -> Point:
    """Upwards, for as long as there is a step that gains."""
    for _ in range(steps):
        before = point.value
        for stride in _STRIDES:
            blocks = [_moved(*each, stride) for each in zip(point.blocks, point.slope, lengths, strict=True)]
            value, slope = step(blocks)
            if float(value) > before:
                point = Point(blocks, float(value), slope)
                break
        if point.value - before <= 1e-6 * abs(before):
            break
    return point


def _moved(rows: Any, slope: Any, lengths: Any, stride: float) -> jax.Array:
    """Rows moved along a derivative, and made orthogonal again."""
    here, there = (np.asarray(one, np.float64) for one in (rows, slope))
    norm = np.linalg.norm(there)
    if not np.isfinite(stride) or norm == 0:
        return _polar(there, lengths)
    return _polar(here / np.linalg.norm(here) + stride * there / norm, lengths)


def _some(plan: Plan) -> str:
    grown = [axis for axis, one in plan.axes.items() if one.new.size and not axis.startswith("~")]
    return ", ".join(map(repr, grown[:4])) or "the network"
