"""How much the loss depends on each neuron, to second order: the diagonal of the Fisher information."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Float

from naivenas_jax.checks import require_flag, require_function, require_progress
from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.evaluation.batches import examples_of
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.structure import Structure, compiled
from naivenas_jax.transfer.new_neurons.loss import Loss, on_plain
from naivenas_jax.transfer.variables import check_network
from naivenas_jax.typing import PyTree, Variables
from naivenas_jax.utility.scores.taylor import slopes
from naivenas_jax.utility.spread import averaged
from naivenas_jax.utility.user_scores import Scores


@overload
def fisher(
    graph: Graph,
    variables: Variables,
    loss_fn: Loss,
    batches: Iterable[PyTree],
    *,
    errors: Literal[False] = ...,
    progress: bool | None = ...,
) -> Scores: ...
@overload
def fisher(
    graph: Graph,
    variables: Variables,
    loss_fn: Loss,
    batches: Iterable[PyTree],
    *,
    errors: Literal[True],
    progress: bool | None = ...,
) -> tuple[Scores, Scores]: ...
def fisher(
    graph: Graph,
    variables: Variables,
    loss_fn: Loss,
    batches: Iterable[PyTree],
    *,
    errors: bool = False,
    progress: bool | None = None,
) -> Scores | tuple[Scores, Scores]:
    """How much the loss would change without each neuron, to second order: half the mean squared gate derivative.

    With a gate m_c on all neurons of a class c (the neurons that are tied together), where weights read them,

        score of c = 1/2 mean over examples of (d loss / d m_c)^2.

    At a minimum the first derivative is 0 on average, and this is the change of the loss to second order, with the
    Fisher information in the place of the second derivative. Gates are those of `taylor`; each class has its score at
    the first handle that holds it.

    Args:
      graph: the network.
      variables: its variables.
      loss_fn: ``loss_fn(apply, variables, batch) -> scalar``, as for `taylor`; it gets batches of one example, so
        that it has to evaluate without statistics of the batch (``train=False``): over one example they leave nothing.
      batches: trees of arrays, each of which has the examples along its first axis.
      errors: also return the standard error of each score, from the spread over examples.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.

    Returns:
      Scores by handle, each of shape (size,); with ``errors`` a pair of scores and standard errors.

    Raises:
      UtilityError: no examples, fewer than two with ``errors``, or ``loss_fn`` does not return one number.
      GraphError, VariablesError: ``graph`` is no graph, or the variables are not its own.

    Source: LeCun, Denker and Solla, Optimal Brain Damage, 1990; Theis et al., Faster gaze prediction with dense
    networks and Fisher pruning, 2018; gates of coupled channels, Liu et al., Group Fisher Pruning, ICML 2021.

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(4), x)))
    >>> variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> def loss(apply, variables, batch):
    ...     inputs, targets = batch
    ...     return jnp.mean((apply(variables, inputs) - targets) ** 2)
    >>> scores, errors = nas.fisher(graph, variables, loss, [(jnp.ones((8, 3)), jnp.ones((8, 1)))], errors=True)
    >>> scores["hidden"].shape, errors["hidden"].shape
    ((4,), (4,))
    """
    check_network(graph, variables)
    require_function(loss_fn, "loss_fn", "apply, variables, batch", UtilityError)
    require_flag(errors, "errors", UtilityError)
    require_progress(progress, UtilityError)
    loss_fn, variables = on_plain(loss_fn, variables)
    step = compiled(partial(_halves, graph, loss_fn))
    given = examples_of(batches, UtilityError, words=graph.signature is not None)
    portions = (step(variables, batch) for batch in given)
    return averaged(graph, portions, "example", errors, "fisher", progress)


def _halves(graph: Graph, loss_fn: Loss, variables: Variables, batch: PyTree) -> Float[jax.Array, "examples classes"]:
    """Half the squared derivatives."""
    structure, arrays = Structure.split(batch)

    def one(example: list[jax.Array]) -> Float[jax.Array, " classes"]:
        single = structure.join(jnp.asarray(array)[None] for array in example)
        return 0.5 * slopes(graph, loss_fn, variables, single) ** 2

    found: jax.Array = jax.lax.map(one, list(map(jnp.asarray, arrays)))
    return found
