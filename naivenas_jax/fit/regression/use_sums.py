"""Sums over rows, read off the uses of one weight: of its matrix products, of skip connections, and of outcomes.

Every function takes the uses of one weight in one evaluation (see `naivenas_jax.dataflow.variable_uses`). N counts rows
(examples and positions), G groups, K and M the columns of X and Y in each group.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.variable_uses import Outcome, SkipConnection, VariableUse
from naivenas_jax.fit.regression.generalised_linear_fit import Missed
from naivenas_jax.fit.regression.ridge import Gram, gram
from naivenas_jax.typing import Array

#: For each use of a weight what it makes, the columns of all groups side by side.
Made = list[Float[Array, "_ columns"]]


def made(uses: Sequence[VariableUse]) -> Made:
    """Y of each use of a weight."""
    return [_side_by_side(use.y) for use in uses if isinstance(use, Contraction)]


def made_and_skipped(uses: Sequence[VariableUse]) -> Made:
    """Y of each use of a weight, plus what a skip connection adds to it."""
    return [own + skipped for own, skipped in zip(made(uses), _skipped(uses), strict=True)]


def grams(
    uses: Sequence[VariableUse], wanted: Made, source: Int[Array, "G M"], scale: Float[Array, "G M"]
) -> list[Gram]:
    """Sums over all rows, and over those held out, of what a weight reads now and is to make.

    Args:
      uses: the uses of the weight now.
      wanted: what it made before, for each use.
      source: the column before of each column now, counted over all groups.
      scale: the factor of each column.
    """
    return _grams(uses, [own[:, source] * scale for own in wanted])


def grams_with_skip(
    uses: Sequence[VariableUse], wanted: Made, source: Int[Array, "G M"], scale: Float[Array, "G M"]
) -> list[Gram]:
    """The same where ``wanted`` is the sum with a skip connection: what the skip connection adds now is taken off."""
    skipped = [array.reshape(-1, *source.shape) for array in _skipped(uses)]
    return _grams(uses, [(own[:, source] - now) * scale for own, now in zip(wanted, skipped, strict=True)])


def outcome(uses: Sequence[VariableUse]) -> Float[Array, "N columns"]:
    """The outcome of a weight that is used once, the columns of all groups side by side."""
    (own,) = (use for use in uses if isinstance(use, Outcome))
    return _side_by_side(own.contraction.columns(jnp.asarray(own.array, jnp.float32)))


def missed(
    uses: Sequence[VariableUse],
    wanted: Float[Array, "N columns"],
    source: Int[Array, "G M"],
    known: Bool[Array, "G M"],
) -> Missed:
    """By how much the outcome of a weight that is used once misses its outcome before, where there was one."""
    (own,) = (use for use in uses if isinstance(use, Outcome))
    reached, slope = (own.contraction.columns(jnp.asarray(array, jnp.float32)) for array in (own.array, own.slope()))
    return Missed.of(own.contraction.x, (wanted[:, source].transpose(1, 0, 2) - reached) * known[:, None], slope)


def _skipped(uses: Sequence[VariableUse]) -> Made:
    """For each use of a weight what a skip connection adds to what it makes."""
    found = {use.contraction.number: use for use in uses if isinstance(use, SkipConnection)}
    skips = [found[number] for number in sorted(found)]
    return [_side_by_side(use.contraction.columns(jnp.asarray(use.activation, jnp.float32))) for use in skips]


def _grams(uses: Sequence[VariableUse], wanted: Sequence[Float[Array, "_ G M"]]) -> list[Gram]:
    own = [use for use in uses if isinstance(use, Contraction)]
    every = [(use.x, y.transpose(1, 0, 2)) for use, y in zip(own, wanted, strict=True)]
    masks = [_held_out(use.x.shape[1], np.shape(use.activation)[0]) for use in own]
    held_out = [tuple(part[:, mask] for part in parts) for parts, mask in zip(every, masks, strict=True)]
    return [gram(*(jnp.concatenate(part, 1) for part in zip(*rows, strict=True))) for rows in (every, held_out)]


def _side_by_side(array: Float[Array, "G N M"]) -> Float[Array, "N columns"]:
    """The columns of all groups, one after the other."""
    return array.transpose(1, 0, 2).reshape(array.shape[1], -1)


def _held_out(number: int, examples: int) -> Bool[np.ndarray, " N"]:
    """Which rows are held out: those of every fourth example, with all of its positions."""
    per_example = number // examples if examples >= 4 and number % examples == 0 else 1
    return np.asarray(np.arange(number) // per_example % 4 == 3)
