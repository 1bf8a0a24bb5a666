"""Batches that weights are fitted to, checked: a number that is none would be in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import VariablesError
from naivenas_jax.graph.evaluation.batches import Batch, inputs_of, name_of


def finite_inputs_of(batches: Iterable[Any]) -> Iterator[Batch]:
    """Batches of inputs.

    Raises:
      VariablesError: if they are none, or have entries that are not finite.
    """
    for number, inputs in enumerate(inputs_of(batches, VariablesError)):
        for position, given in enumerate(inputs):
            if jnp.issubdtype(given.dtype, jnp.inexact) and not bool(jnp.isfinite(given).all()):
                where = name_of(number, position, inputs)
                place = tuple(int(i) for i in np.argwhere(~np.asarray(jnp.isfinite(given)))[0])
                raise VariablesError(f"{where} is not finite: {np.asarray(given)[place]} at {place}. Leave it out.")
        yield inputs
