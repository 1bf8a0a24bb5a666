"""What a user gives as a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from naivenas_jax.errors import NaiveNASError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.transfer.variables import as_given, plain
from naivenas_jax.typing import PyTree, Variables

#: ``(apply, variables, batch) -> one number``, where ``apply`` is ``graph.apply``.
Loss: TypeAlias = Callable[[Callable[..., PyTree], Variables, PyTree], Float[jax.Array, ""]]


def on_plain(loss_fn: Loss, variables: Variables) -> tuple[Loss, Variables]:
    """A loss of variables as nested dicts, and the variables as such; ``loss_fn`` gets them as they were given."""
    dicts = plain(variables)
    if dicts is variables:
        return loss_fn, variables
    return lambda apply, values, batch: loss_fn(apply, as_given(values, variables), batch), dicts


def loss_of(
    loss_fn: Loss,
    graph: Graph,
    variables: Variables,
    batch: PyTree,
    error: type[NaiveNASError],
    apply: Callable[..., PyTree] | None = None,
) -> Float[jax.Array, ""]:
    """The loss of a network on a batch, if it is one number.

    Args:
      loss_fn: the loss.
      graph: the network.
      variables: its variables.
      batch: what ``loss_fn`` takes.
      error: the kind of error to raise if the loss is not one real number.
      apply: takes the place of ``graph.apply``.
    """
    value = loss_fn(apply or graph.apply, variables, batch)
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise error(
            f"loss_fn(apply, variables, batch) must return one real number; found {jnp.result_type(value)} of shape "
            f"{jnp.shape(value)}. Take the mean over the batch."
        )
    return value
