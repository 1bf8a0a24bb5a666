"""What a user gives as a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from naivenas_jax.errors import NaiveNASError
from naivenas_jax.graph.graph import Graph

#: ``(apply, variables, batch) -> one number``, where ``apply`` is ``graph.apply``.
Loss = Callable[[Callable[..., Any], Mapping[str, Any], Any], Any]


def loss_of(loss_fn: Loss, graph: Graph, variables: Mapping[str, Any], batch: Any, error: type[NaiveNASError]) -> Any:
    """The loss, if it is one number; raises ``error`` if not."""
    value = loss_fn(graph.apply, variables, batch)
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise error(
            f"loss_fn(apply, variables, batch) must return one real number; found {jnp.result_type(value)} of shape "
            f"{jnp.shape(value)}. Take the mean over the batch."
        )
    return value
