"""New neurons that the loss wants most: `gradmax`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import as_count, as_whole
from naivenas_jax.errors import PlanError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import Path
from naivenas_jax.transfer.new_neurons.entries import NewEntries
from naivenas_jax.transfer.new_neurons.fills import keep_function
from naivenas_jax.transfer.new_neurons.loss import Loss, loss_of
from naivenas_jax.transfer.new_neurons.orthogonal_rows import Block, Lengths, maximise
from naivenas_jax.transfer.take import placed_like, to_host
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Shape

#: More random starts would not fit into memory, as all are compared at once, and more steps would not end.
_MOST_STARTS, _MOST_STEPS = 10_000, 1_000_000

Arrays: TypeAlias = Mapping[Path, Array]


def gradmax(
    loss_fn: Loss,
    batch: PyTree,
    *,
    zero: Literal["outgoing", "incoming"] = "outgoing",
    steps: int = 50,
    starts: int = 32,
) -> GradMax:
    """New neurons with the largest gradient: for ``new=`` of every verb that widens.

    One side of the weights of new neurons is zero, so that the network computes what it did; the other side is chosen
    such that the gradient of the loss by the zero side is as large as can be. With ``U`` the weights that are chosen,
    one row per new neuron, and ``Z`` the weights that are zero,

        maximise  || d loss / d Z ||^2   over U with orthogonal rows, each as long as the default would make it.

    For linear activations ``d loss / d Z = U M``, where M is the mean over examples of (input of the widened layer)
    times (gradient by the output of the next layer). The best U then consists of the singular vectors of M with the
    largest singular values. In general U is found by the generalised power method: each step replaces U by the polar
    factor of the derivative of the objective, and shorter steps are tried where that does not go up. It is started from
    the best of many random U, so that the result is never worse than these; it need not be the best of all.

    GradMax is by Evci, van Merriënboer, Unterthiner, Vladymyrov and Pedregosa (GradMax: Growing Neural Networks using
    Gradient Information, ICLR 2022), the generalised power method by Journée, Nesterov, Richtárik and Sepulchre
    (JMLR 2010).

    Args:
      loss_fn: ``loss_fn(apply, variables, batch) -> scalar``, as for `taylor`; ``apply`` is ``graph.apply``.
      batch: what ``loss_fn`` takes; any tree of arrays.
      zero: "outgoing": the weights that read a new neuron are zero, and the weights that make it are chosen. The
        function is kept whatever the activation. "incoming": the other way round, as in the paper; it needs an
        activation with f(0) = 0 and f'(0) not 0, such as tanh, gelu or swish, but not JAX's ReLU, whose derivative at 0
        is 0.
      steps: how many steps of the power method to take, at most.
      starts: how many random starts are compared first; the best few of them are improved.

    Returns:
      What to pass as ``new=``. New neurons that no weight reads, and vertices that are inserted, start as by default.

    Raises:
      PlanError: if an argument is out of range; and when a verb uses the result, if the gradient is zero for every
        choice, or if the function would not be kept.

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
    if not isinstance(zero, str) or zero not in ("outgoing", "incoming"):
        raise PlanError(f"gradmax: zero must be 'outgoing' or 'incoming', found {zero!r:.80}.")
    if not callable(loss_fn):
        raise PlanError(
            f"gradmax: loss_fn must be a function (apply, variables, batch) -> loss; found {loss_fn!r:.80}."
        )
    taken, started = as_whole(steps), as_count(starts)
    if taken is None or not 0 <= taken <= _MOST_STEPS:
        raise PlanError(f"gradmax: steps must be a whole number from 0 to {_MOST_STEPS}; found {steps!r:.80}.")
    if started is None or started > _MOST_STARTS:
        raise PlanError(f"gradmax: starts must be a whole number from 1 to {_MOST_STARTS}; found {starts!r:.80}.")
    return GradMax(loss_fn, batch, zero, taken, started)


class NewWeights(NamedTuple):
    """The weights of new neurons in one variable: a row for each new position on a dimension.

    Attributes:
      path: of the variable.
      dim: the dimension that the new neurons lie on.
      positions: shape (new,). Where on that dimension they lie.
    """

    path: Path
    dim: int
    positions: Int[np.ndarray, " _"]

    def of(self, array: Array) -> Shaped[Array, "_ _"]:
        """Shape (new, rest): the rows of a variable."""
        return jnp.moveaxis(jnp.asarray(array), self.dim, 0)[self.positions].reshape(len(self.positions), -1)

    def put(self, array: Array, rows: Shaped[Array, "_ _"]) -> Array:
        """The variable with these rows."""
        moved = jnp.moveaxis(jnp.asarray(array), self.dim, 0)
        shaped = rows.reshape(len(self.positions), *moved.shape[1:]).astype(moved.dtype)
        return jnp.moveaxis(moved.at[self.positions].set(shaped), 0, self.dim)


@dataclass(frozen=True, eq=False)
class GradMax:
    """The strategy that `gradmax` makes, with its arguments.

    Attributes:
      loss_fn: the loss, ``(apply, variables, batch) -> scalar``.
      batch: what the loss takes.
      zero: which side of the new weights is zero.
      steps: how many steps of the power method to take, at most.
      starts: how many random starts are compared.
    """

    loss_fn: Loss
    batch: PyTree
    zero: Literal["outgoing", "incoming"]
    steps: int
    starts: int

    def __call__(self, entries: NewEntries) -> object:
        """The default for new entries, which decides how long the rows are that `finish` chooses."""
        return keep_function(entries)

    def finish(self, graph: Graph, plan: Plan, variables: dict[str, PyTree]) -> dict[str, PyTree]:
        """The variables with the best weights of new neurons.

        Raises:
          PlanError: if the gradient is zero for every choice, or if the function would not be kept.
        """
        incoming, outgoing = _new_weights(graph, plan, "out"), _new_weights(graph, plan, "in")
        arrays = flat(variables)
        if not incoming or not outgoing or any(isinstance(array, Shape) for array in arrays.values()):
            return variables
        chosen, zeroed = (incoming, outgoing) if self.zero == "outgoing" else (outgoing, incoming)
        start: Arrays = {path: jnp.asarray(array) for path, array in arrays.items()}
        lengths = [jnp.linalg.norm(new.of(start[new.path]), axis=1) for new in incoming]
        if self.zero == "incoming":
            start = _with(start, incoming, [jnp.zeros_like(rows) for rows in _rows_of(incoming, start)])
            lengths = [jnp.full(len(new.positions), jnp.mean(jnp.concatenate(lengths))) for new in chosen]
        best = self._best(graph, plan, start, chosen, zeroed, lengths)
        final = _with(start, chosen, best)
        if self.zero == "incoming":
            self._check_kept(graph, _with(start, chosen, [jnp.zeros_like(rows) for rows in best]), final)
        touched = {new.path for new in (*chosen, *zeroed)}
        return nested({**arrays, **{path: placed_like(to_host(final[path]), arrays[path]) for path in touched}})

    def _best(
        self,
        graph: Graph,
        plan: Plan,
        start: Arrays,
        chosen: Sequence[NewWeights],
        zeroed: Sequence[NewWeights],
        lengths: Sequence[Lengths],
    ) -> list[Block]:
        """The best rows for the chosen side."""
        objective = jax.jit(jax.value_and_grad(self._objective(graph, start, chosen, zeroed)))
        shapes = [rows.shape for rows in _rows_of(chosen, start)]
        best, largest = maximise(objective, shapes, lengths, steps=self.steps, starts=self.starts)
        if not largest > 0:
            raise PlanError(
                f"gradmax: the gradient by the {self.zero} weights of the new neurons of {_grown(plan)} is zero for "
                "every choice of the others. With zero='incoming' the activation needs a derivative at 0, which "
                "JAX's ReLU does not have: use zero='outgoing'. Else the loss does not depend on these neurons."
            )
        return best

    def _objective(
        self, graph: Graph, start: Arrays, chosen: Sequence[NewWeights], zeroed: Sequence[NewWeights]
    ) -> Callable[[Sequence[Block]], Float[jax.Array, ""]]:
        """The squared norm of the gradient by the zeroed rows, as a function of the chosen ones."""

        def objective(blocks: Sequence[Block]) -> Float[jax.Array, ""]:
            arrays = _with(start, chosen, blocks)

            def loss(rows: Sequence[Block]) -> Float[jax.Array, ""]:
                given = nested(_with(arrays, zeroed, rows))
                return loss_of(self.loss_fn, graph, given, self.batch, PlanError)

            slopes = jax.grad(loss)(_rows_of(zeroed, arrays))
            squares = [
                jnp.sum(jnp.where(_zero_side(new, chosen, arrays), slope, 0.0).astype(jnp.float32) ** 2)
                for new, slope in zip(zeroed, slopes, strict=True)
            ]
            return reduce(operator.add, squares)

        return objective

    def _check_kept(self, graph: Graph, before: Arrays, after: Arrays) -> None:
        """Raise unless the loss is the same with both arrays."""
        losses = [float(loss_of(self.loss_fn, graph, nested(a), self.batch, PlanError)) for a in (before, after)]
        if not abs(losses[0] - losses[1]) <= 1e-4 * max(1.0, abs(losses[0])):
            raise PlanError(
                f"gradmax with zero='incoming' would not keep the function (the loss goes from {losses[0]:.6g} to "
                f"{losses[1]:.6g}): the new neurons are not 0 where their weights are. Use zero='outgoing'."
            )


def _new_weights(graph: Graph, plan: Plan, role: Literal["in", "out"]) -> list[NewWeights]:
    """Where new neurons are made ("out") or read ("in") by weights that were there before."""
    found = []
    for path, leaf in graph.ties.leaves.items():
        if leaf.new is not None or path in plan.created or path not in plan.leaves:
            continue
        for dim, axis in enumerate(plan.leaves[path]):
            if axis is not None and leaf.roles[dim] == role and plan.axes[axis].new.size:
                found.append(NewWeights(path, dim, plan.axes[axis].new))
    return found


def _zero_side(zeroed: NewWeights, chosen: Sequence[NewWeights], arrays: Arrays) -> Bool[Array, "_ _"]:
    """Which entries of zeroed rows are zero: those that belong to no chosen row as well."""
    mask: Array = jnp.ones(arrays[zeroed.path].shape, bool)
    for other in chosen:
        if other.path == zeroed.path:
            mask = other.put(mask, jnp.zeros_like(other.of(mask)))
    return zeroed.of(mask)


def _rows_of(where: Sequence[NewWeights], arrays: Arrays) -> list[Block]:
    return [new.of(arrays[new.path]) for new in where]


def _with(arrays: Arrays, where: Sequence[NewWeights], blocks: Sequence[Block]) -> dict[Path, Array]:
    """The arrays with these rows."""
    result = dict(arrays)
    for new, block in zip(where, blocks, strict=True):
        result[new.path] = new.put(result[new.path], block)
    return result


def _grown(plan: Plan) -> str:
    """The axes with new neurons, for messages."""
    grown = [axis for axis, one in plan.axes.items() if one.new.size and not axis.startswith("~")]
    return ", ".join(map(repr, grown[:4])) or "the network"
