"""How much the loss depends on each neuron, to first order: `taylor`, and `TaylorAverage` for use during training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.checks import as_number, as_whole, is_one_of, require_flag, require_function, require_progress, shown
from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.evaluation.batches import batches_of, examples_of
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.graph.structure import Structure, compiled
from naivenas_jax.paths import Path
from naivenas_jax.transfer.carrying.follow import Followed
from naivenas_jax.transfer.new_neurons.loss import Loss, loss_of, on_plain
from naivenas_jax.transfer.variables import check_network, flat, nested
from naivenas_jax.typing import PyTree, Variables
from naivenas_jax.utility.scores.gates import followed_weights, gate_derivatives, gated, gates
from naivenas_jax.utility.spread import averaged
from naivenas_jax.utility.tied import by_handle, class_count, class_numbers
from naivenas_jax.utility.user_scores import Scores

Each: TypeAlias = Literal["batch", "example"]


@overload
def taylor(
    graph: Graph,
    variables: Variables,
    loss_fn: Loss,
    batches: Iterable[PyTree],
    *,
    each: Each = ...,
    errors: Literal[False] = ...,
    progress: bool | None = ...,
) -> Scores: ...
@overload
def taylor(
    graph: Graph,
    variables: Variables,
    loss_fn: Loss,
    batches: Iterable[PyTree],
    *,
    each: Each = ...,
    errors: Literal[True],
    progress: bool | None = ...,
) -> tuple[Scores, Scores]: ...
def taylor(
    graph: Graph,
    variables: Variables,
    loss_fn: Loss,
    batches: Iterable[PyTree],
    *,
    each: Each = "batch",
    errors: bool = False,
    progress: bool | None = None,
) -> Scores | tuple[Scores, Scores]:
    """How much the loss would change without each neuron, to first order: mean of ``|activation * gradient|``.

    With a gate m_c on all neurons of a class c (the neurons that are tied together), where weights read them,

        score of c = mean over batches of | d loss / d m_c |.

    By this the loss changes, to first order, if the class is dropped. It is computed from the weights that read the
    neurons and their gradients (see `naivenas_jax.utility.scores.gates`); neurons that no weight reads, the outputs of
    the graph for example, are gated where they are made, before the activation function.

    All neurons that are tied have one gate, so that the score is one number per class. It is given at the first handle
    that holds the class, and the sum that the alignment takes over everything tied is exactly this number. Combinations
    of factors (heads and their features) have a gate each.

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
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.

    Returns:
      Scores by handle, each of shape (size,); with ``errors`` a pair of scores and standard errors.

    Raises:
      UtilityError: no batches, a single one with ``errors``, or ``loss_fn`` does not return one number.
      GraphError, VariablesError: ``graph`` is no graph, or the variables are not its own.

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
    require_function(loss_fn, "loss_fn", "apply, variables, batch", UtilityError)
    require_flag(errors, "errors", UtilityError)
    require_progress(progress, UtilityError)
    if not is_one_of(each, ("batch", "example")):
        raise UtilityError(f"each must be 'batch' or 'example', found {each!r}.")
    loss_fn, variables = on_plain(loss_fn, variables)
    step = compiled(partial(_per_batch if each == "batch" else _per_example, graph, loss_fn))
    read = batches_of if each == "batch" else examples_of
    portions = (step(variables, batch) for batch in read(batches, UtilityError, words=graph.signature is not None))
    return averaged(graph, portions, each, errors, "taylor", progress)


def slopes(graph: Graph, loss_fn: Loss, variables: Variables, batch: PyTree) -> Float[jax.Array, " classes"]:
    """The derivative of the loss by the gate of every class."""
    arrays, computed = flat(variables), followed_weights(graph)
    whole = {gate.path for gate in gates(graph) if not jnp.issubdtype(jnp.result_type(arrays[gate.path]), jnp.inexact)}
    computed = (*computed, *(whole - set(computed)))  # quantised weights have no gradients
    weights = {gate.path: arrays[gate.path] for gate in gates(graph) if gate.path not in computed}

    def loss(weights: dict[Path, jax.Array], values: Float[jax.Array, " classes"]) -> Float[jax.Array, ""]:
        apply = gated(graph, computed, values) if computed else None
        value: jax.Array = loss_of(loss_fn, graph, nested({**arrays, **weights}), batch, UtilityError, apply)
        return value

    by_weights, by_gates = jax.grad(loss, (0, 1))(weights, jnp.ones(class_count(graph.ties)))
    found: jax.Array = by_gates + gate_derivatives(graph, nested(weights), nested(by_weights), computed)
    return found


def _per_batch(graph: Graph, loss_fn: Loss, variables: Variables, batch: PyTree) -> Float[jax.Array, "1 classes"]:
    """Absolute derivatives of the loss of a batch."""
    return jnp.abs(slopes(graph, loss_fn, variables, batch))[None]


def _per_example(
    graph: Graph, loss_fn: Loss, variables: Variables, batch: PyTree
) -> Float[jax.Array, "examples classes"]:
    """Absolute derivatives of the loss of each example."""
    structure, arrays = Structure.split(batch)

    def one(example: list[jax.Array]) -> Float[jax.Array, " classes"]:
        return jnp.abs(slopes(graph, loss_fn, variables, structure.join(array[None] for array in example)))

    found: jax.Array = jax.lax.map(one, arrays)
    return found


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
      decay: the share of the average that remains at each update, from 0 to below 1.
      every: one step in so many is measured.
      total: the decaying sum of the scores of each class; shape (classes,).
      weight: the decaying sum of the weights of these scores; shape (classes,).
      step: how many steps there were; a whole number, shape ().

    Source: as for `taylor`; a moving average over training steps, Molchanov et al., CVPR 2019.

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(4), x)))
    >>> params = graph.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    >>> average = nas.TaylorAverage.init(graph, every=2)
    >>> grads = jax.grad(lambda p: jnp.mean(graph.apply({"params": p}, jnp.ones((8, 3))) ** 2))(params)
    >>> average = average.update(params, grads)
    >>> average.scores()["hidden"].shape
    (4,)

    >>> mutation = nas.delta_nout(graph, {"params": params}, {"hidden": -1}, utility=average.scores())
    >>> average = average.follow(mutation)  # or mutation.carry(average)
    >>> average.scores()["hidden"].shape
    (3,)
    """

    graph: Graph
    decay: float
    every: int
    total: Float[jax.Array, " classes"]
    weight: Float[jax.Array, " classes"]
    step: Int[jax.Array, ""]

    @classmethod
    def init(cls, graph: Graph, *, decay: float = 0.95, every: int = 1) -> TaylorAverage:
        """A state in which nothing is measured yet; see `TaylorAverage`.

        Args:
          graph: the network.
          decay: from 0 (only the last measurement counts) to below 1.
          every: measure one step in so many, the first included.

        Returns:
          A state without measurements, whose scores are 0.

        Raises:
          UtilityError: ``decay`` or ``every`` is out of range.
          GraphError: ``graph`` is no graph.
        """
        share, steps = as_number(decay), as_whole(every)
        if share is None or not 0 <= share < 1:
            raise UtilityError(f"decay must be at least 0 and below 1, found {shown(decay)}.")
        if steps is None or not 1 <= steps < 2**31:
            raise UtilityError(f"every must be a whole number of steps, at least 1; found {shown(every)}.")
        nothing = jnp.zeros(class_count(require_graph(graph).ties))
        return cls(graph, float(share), steps, nothing, nothing, jnp.zeros((), jnp.int32))

    def update(self, params: Variables, grads: Variables) -> TaylorAverage:
        """The state after one step of training. Pure; works under ``jax.jit``; see `TaylorAverage`.

        Args:
          params: ``variables``, or one collection of them (``variables["params"]``), before the step.
          grads: the gradients of the loss by them, of the same structure, before any clipping or scaling.

        Returns:
          The next state, of the same structure.

        Raises:
          VariablesError: a weight or its gradient is missing, or has another shape than in the graph.
          UtilityError: a weight is no function of a variable's entries one by one (a softmax), or makes neurons by the
            entries that read them (a tied embedding); use `taylor`.
        """

        def measured() -> tuple[Float[jax.Array, " classes"], Float[jax.Array, " classes"]]:
            scores = jnp.abs(gate_derivatives(self.graph, params, grads))
            share = 1.0 - self.decay
            return self.decay * self.total + share * scores, self.decay * self.weight + share

        due = self.step % self.every == 0
        total, weight = jax.lax.cond(due, measured, lambda: (self.total, self.weight))
        return replace(self, total=total, weight=weight, step=self.step + 1)

    def scores(self) -> Scores:
        """The average of each neuron, for ``utility=``; see `TaylorAverage`.

        Returns:
          Scores by handle, each of shape (size,); tied neurons have theirs at the first handle that holds them.
        """
        total, weight = np.asarray(self.total, np.float64), np.asarray(self.weight, np.float64)
        return by_handle(self.graph, np.divide(total, weight, out=np.zeros_like(total), where=weight > 0))

    def follow(self, followed: Followed) -> TaylorAverage:
        """The state for the graph after a mutation; ``mutation.carry(state)`` calls this; see `TaylorAverage`.

        Args:
          followed: the graph before and after the mutation, and its plan.

        Returns:
          The state in which neurons that stay keep their average, and new ones have none.

        Raises:
          UtilityError: no mutation is given, or it changed another graph.
        """
        source = class_sources(self.graph, followed)
        kept = source != NEW

        def moved(values: Float[jax.Array, " _"]) -> Float[jax.Array, " _"]:
            return jnp.asarray(np.where(kept, np.asarray(values)[np.maximum(source, 0)], 0.0), values.dtype)

        return replace(self, graph=followed.graph, total=moved(self.total), weight=moved(self.weight))


def class_sources(before: Graph, followed: Followed) -> Int[np.ndarray, " classes"]:
    """For each class after a mutation the class that it was before; NEW for classes that are new."""
    if not all(hasattr(followed, name) for name in ("graph", "before", "plan")):
        raise UtilityError(f"followed must be a mutation; found {type(followed).__name__}: {shown(followed)}.")
    if before != followed.before:
        raise UtilityError("The average is that of another graph than the one that the mutation changed.")
    ties, old = followed.graph.ties, before.ties
    source = np.full(class_count(ties), NEW)
    for axis in ties.axes:
        plan = followed.plan.axes.get(axis)
        if axis.startswith("~") or axis not in old.axes or plan is None or plan.before != old.size(axis):
            continue
        now, then = class_numbers(ties, axis), class_numbers(old, axis)
        fresh = (source[now] == NEW) & (plan.source != NEW)
        source[now[fresh]] = then[plan.source[fresh]]
    return source
