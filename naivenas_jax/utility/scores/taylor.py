"""How much the loss depends on each neuron, to first order: `taylor`, and `TaylorAverage` for use during training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.evaluation.batches import batches_of
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.transfer.carrying.follow import Followed
from naivenas_jax.transfer.new_neurons.loss import Loss, loss_of
from naivenas_jax.transfer.variables import check_network, flat, nested
from naivenas_jax.utility.scores.gates import gate_derivatives, gates
from naivenas_jax.utility.spread import Scores, averaged
from naivenas_jax.utility.tied import by_handle, count, numbers

Each = Literal["batch", "example"]


@overload
def taylor(
    graph: Graph,
    variables: Mapping[str, Any],
    loss_fn: Loss,
    batches: Iterable[Any],
    *,
    each: Each = ...,
    errors: Literal[False] = ...,
) -> Scores: ...
@overload
def taylor(
    graph: Graph,
    variables: Mapping[str, Any],
    loss_fn: Loss,
    batches: Iterable[Any],
    *,
    each: Each = ...,
    errors: Literal[True],
) -> tuple[Scores, Scores]: ...
def taylor(
    graph: Graph,
    variables: Mapping[str, Any],
    loss_fn: Loss,
    batches: Iterable[Any],
    *,
    each: Each = "batch",
    errors: bool = False,
) -> Scores | tuple[Scores, Scores]:
    """How much the loss would change without each neuron, to first order: mean of ``|activation * gradient|``.

    With a gate m_c on all neurons of a class c (the neurons that are tied together), where weights read them,

        score of c = mean over batches of | d loss / d m_c |.

    This is what the loss changes by, to first order, if the class is dropped. It is computed from the weights that read
    the neurons and their gradients (see `naivenas_jax.utility.scores.gates`); neurons that no weight reads, as those of
    an output of the graph, are gated where they are made, before the activation function.

    All that is tied has one gate, so that the score is one number per class. It is given at the first handle that holds
    the class, and the sum that the alignment takes over everything tied is exactly this number. Combinations of factors
    (heads and their features) have a gate each.

    Args:
      graph: the network.
      variables: its variables.
      loss_fn: ``loss_fn(apply, variables, batch) -> scalar``. ``apply`` is ``graph.apply``: call it with the
        variables, the inputs, and what else it takes (``train=``, ``rngs=``, ``mutable=``).
      batches: an iterable of whatever ``loss_fn`` takes: arrays, tuples, dicts.
      each: where absolute values are taken. "batch": of the derivative of the loss of a batch, at the cost of one
        backward pass. In a network trained to the end these derivatives nearly cancel within a batch; "example" takes
        absolute values per example, and the mean over all examples: every array of a batch is cut along its first
        axis, and ``loss_fn`` gets batches of one: it has to evaluate without statistics of the batch (``train=False``).
      errors: also return the standard error of each score, from the spread over batches, or over examples. Of a few
        batches it is itself no more than a rough figure.

    Returns:
      Scores by handle, each of shape (size,); with ``errors`` a pair of scores and standard errors.

    Raises:
      UtilityError: no batches, a single one with ``errors``, or ``loss_fn`` does not return one number.
      VariablesError: the variables are not those of the graph.

    Source: Molchanov, Tyree, Karras, Aila and Kautz, Pruning Convolutional Neural Networks for Resource Efficient
    Inference, ICLR 2017 (``each="example"``); Molchanov, Mallya, Tyree, Frosio and Kautz, Importance Estimation for
    Neural Network Pruning, CVPR 2019 (gates, and sums over weights).

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(4), x)))
    >>> variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> def loss(apply, variables, batch):
    ...     inputs, targets = batch
    ...     return jnp.mean((apply(variables, inputs) - targets) ** 2)
    >>> scores = nas.taylor(graph, variables, loss, [(jnp.ones((8, 3)), jnp.ones((8, 1)))])
    >>> scores["hidden"].shape
    (4,)
    """
    check_network(graph, variables)
    if each not in ("batch", "example"):
        raise UtilityError(f"each must be 'batch' or 'example', found {each!r}.")
    step = jax.jit(partial(_per_batch if each == "batch" else _per_example, graph, loss_fn))
    portions = (step(variables, batch) for batch in batches_of(batches, UtilityError))
    return averaged(graph, portions, each, errors, "taylor")


def slopes(graph: Graph, loss_fn: Loss, variables: Mapping[str, Any], batch: Any) -> Any:
    """The derivative of the loss by the gate of every class; shape (classes,)."""
    arrays = flat(variables)
    weights = {gate.path: arrays[gate.path] for gate in gates(graph)}

    def loss(weights: Mapping[Any, Any]) -> Any:
        return loss_of(loss_fn, graph, nested({**arrays, **weights}), batch, UtilityError)

    return gate_derivatives(graph, nested(weights), nested(jax.grad(loss)(weights)))


def _per_batch(graph: Graph, loss_fn: Loss, variables: Mapping[str, Any], batch: Any) -> Any:
    """Absolute derivatives, shape (1, classes)."""
    return jnp.abs(slopes(graph, loss_fn, variables, batch))[None]


def _per_example(graph: Graph, loss_fn: Loss, variables: Mapping[str, Any], batch: Any) -> Any:
    """Absolute derivatives, shape (examples, classes)."""

    def one(example: Any) -> Any:
        return jnp.abs(slopes(graph, loss_fn, variables, jax.tree.map(lambda array: array[None], example)))

    return jax.lax.map(one, batch)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["total", "weight", "step"],
    meta_fields=["graph", "decay", "every"],
)
@dataclass(frozen=True)
class TaylorAverage:
    """A moving average of the scores of `taylor`, updated while training, from gradients that training has anyway.

    A frozen pytree: pass it through ``jax.jit``, keep it in a train state, save it. With ``s`` the scores of one
    batch, every n-th update is

        total <- decay * total + (1 - decay) * s,      weight <- decay * weight + (1 - decay),

    and the scores are total / weight, so that the first updates count in full. An update costs one multiplication and
    sum over the weights, and nothing at the steps between. ``mutation.carry(state)`` follows a mutation: neurons that
    stay keep their average, new ones start afresh and have score 0 until they are first measured.

    Attributes:
      graph: the network.
      decay: what remains of the average at each update.
      every: only each such step is measured.
      total: shape (classes,).
      weight: shape (classes,).
      step: how many steps there were.

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(4), x)))
    >>> params = graph.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    >>> average = nas.TaylorAverage.init(graph, every=2)
    >>> grads = jax.grad(lambda p: jnp.mean(graph.apply({"params": p}, jnp.ones((8, 3))) ** 2))(params)
    >>> average = average.update(params, grads)
    >>> average.scores()["hidden"].shape
    (4,)
    """

    graph: Graph
    decay: float
    every: int
    total: jax.Array
    weight: jax.Array
    step: jax.Array

    @classmethod
    def init(cls, graph: Graph, *, decay: float = 0.95, every: int = 1) -> TaylorAverage:
        """Nothing measured yet.

        Args:
          graph: the network.
          decay: from 0 (only the last measurement counts) to below 1.
          every: measure at each such step, the first included.
        """
        if not 0 <= decay < 1:
            raise UtilityError(f"decay must be at least 0 and below 1, found {decay!r}.")
        if isinstance(every, bool) or not hasattr(every, "__index__") or every < 1:
            raise UtilityError(f"every must be a whole number of steps, at least 1; found {every!r}.")
        nothing = jnp.zeros(count(require_graph(graph).ties))
        return cls(graph, float(decay), int(every), nothing, nothing, jnp.zeros((), jnp.int32))

    def update(self, params: Mapping[str, Any], grads: Mapping[str, Any]) -> TaylorAverage:
        """The state after one step of training. Pure; works under ``jax.jit``.

        Args:
          params: ``variables``, or one collection of them (``variables["params"]``), before the step.
          grads: the gradients of the loss by them, of the same structure, before any clipping or scaling.
        """

        def measured() -> tuple[Any, Any]:
            scores = jnp.abs(gate_derivatives(self.graph, params, grads))
            share = 1.0 - self.decay
            return self.decay * self.total + share * scores, self.decay * self.weight + share

        due = self.step % self.every == 0
        total, weight = jax.lax.cond(due, measured, lambda: (self.total, self.weight))
        return replace(self, total=total, weight=weight, step=self.step + 1)

    def scores(self) -> dict[str, np.ndarray]:
        """Scores by handle, for ``utility=``; each class at one handle, as for `taylor`."""
        total, weight = np.asarray(self.total, np.float64), np.asarray(self.weight, np.float64)
        return by_handle(self.graph, np.divide(total, weight, out=np.zeros_like(total), where=weight > 0))

    def follow(self, followed: Followed) -> TaylorAverage:
        """The state for the graph after a mutation; ``mutation.carry(state)`` calls this."""
        source = class_sources(self.graph, followed)
        kept = source != NEW

        def moved(values: jax.Array) -> jax.Array:
            return jnp.asarray(np.where(kept, np.asarray(values)[np.maximum(source, 0)], 0.0), values.dtype)

        return replace(self, graph=followed.graph, total=moved(self.total), weight=moved(self.weight))


def class_sources(before: Graph, followed: Followed) -> np.ndarray:
    """Shape (classes after,): the old class that each new class was, NEW for those without one."""
    if before != followed.before:
        raise UtilityError("The average is that of another graph than the one that the mutation changed.")
    ties, old = followed.graph.ties, before.ties
    source = np.full(count(ties), NEW)
    for axis in ties.axes:
        plan = followed.plan.axes.get(axis)
        if axis.startswith("~") or axis not in old.axes or plan is None or plan.before != old.size(axis):
            continue
        now, then = numbers(ties, axis), numbers(old, axis)
        fresh = (source[now] == NEW) & (plan.source != NEW)
        source[now[fresh]] = then[plan.source[fresh]]
    return source
