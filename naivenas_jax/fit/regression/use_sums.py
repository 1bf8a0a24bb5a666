"""Sums over rows, read off the uses of one weight: of its matrix products, of skip connections, and of outcomes.

Every function takes the uses of one weight in one evaluation (see `naivenas_jax.dataflow.variable_uses`). N counts rows
(examples and positions), G groups, K and M the columns of X and Y in each group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.variable_uses import Outcome, SkipConnection, VariableUse
from naivenas_jax.fit.regression.generalised_linear_fit import Missed
from naivenas_jax.fit.regression.reduced_columns import ReducedColumns
from naivenas_jax.fit.regression.ridge import Gram, gram
from naivenas_jax.typing import Array, PyTree

#: For each use of a weight what it makes, the columns of all groups side by side.
Made = list[Float[Array, "_ columns"]]


def made(uses: Sequence[VariableUse]) -> Made:
    """Y of each use of a weight."""
    return [_side_by_side(use.y) for use in uses if isinstance(use, Contraction)]


def made_and_skipped(uses: Sequence[VariableUse]) -> Made:
    """Y of each use of a weight, plus what a skip connection adds to it."""
    return [own + skipped for own, skipped in zip(made(uses), _skipped(uses), strict=True)]


@dataclass(frozen=True)
class OneIn:
    """A reading of one in so many rows.

    Attributes:
      every: one in so many; see `naivenas_jax.dataflow.thinning`.
      reading: the reading, to which the number is given by name.
    """

    every: int
    reading: Callable[..., PyTree]

    def __call__(self, uses: Sequence[VariableUse], *given: PyTree) -> PyTree:
        """What is read."""
        return self.reading(uses, *given, every=self.every)


@dataclass(frozen=True)
class WithOutcome:
    """A reading of what a weight makes, and of the outcome in one pass.

    Attributes:
      every: the outcome is taken of one in so many rows.
      reading: the reading of what it makes.
    """

    every: int
    reading: Callable[[Sequence[VariableUse]], Made]

    def __call__(self, uses: Sequence[VariableUse]) -> tuple[Made, Float[Array, "n columns"]]:
        """What is read, and the outcome."""
        return self.reading(uses), outcome(uses, self.every)


def grams(
    uses: Sequence[VariableUse],
    wanted: Made,
    so_far: Sequence[Gram],
    source: Int[Array, "G M"],
    scale: Float[Array, "G M"],
    reduced: ReducedColumns | None,
    every: int,
) -> list[Gram]:
    """Sums over rows that are fitted to, and over those held out, of what a weight reads now and is to make.

    Args:
      uses: the uses of the weight now.
      wanted: what it made before, for each use.
      so_far: the sums of other batches, which these are added to.
      source: the column before of each column now, counted over all groups.
      scale: the factor of each column.
      reduced: fewer columns, to which what the weight does not make now is fitted; None: all, and what it is to make.
      every: one in so many rows is taken.
    """
    return _grams(uses, _rest(uses, [own[:, source] * scale for own in wanted], scale, reduced), so_far, reduced, every)


def grams_with_skip(
    uses: Sequence[VariableUse],
    wanted: Made,
    so_far: Sequence[Gram],
    source: Int[Array, "G M"],
    scale: Float[Array, "G M"],
    reduced: ReducedColumns | None,
    every: int,
) -> list[Gram]:
    """The same where ``wanted`` is the sum with a skip connection: what the skip connection adds now is taken off."""
    skipped = [array.reshape(-1, *source.shape) for array in _skipped(uses)]
    rest = [(own[:, source] - now) * scale for own, now in zip(wanted, skipped, strict=True)]
    return _grams(uses, _rest(uses, rest, scale, reduced), so_far, reduced, every)


def _rest(
    uses: Sequence[VariableUse],
    wanted: Sequence[Float[Array, "_ G M"]],
    scale: Float[Array, "G M"],
    reduced: ReducedColumns | None,
) -> list[Float[Array, "_ G M"]]:
    """What fewer columns are fitted to: what is wanted and not made now; of columns that were not there before, 0."""
    if reduced is None:
        return list(wanted)
    contractions = (use for use in uses if isinstance(use, Contraction))
    pairs = zip(contractions, wanted, strict=True)
    return [(own - use.y.transpose(1, 0, 2)) * (scale != 0) for use, own in pairs]


def outcome(uses: Sequence[VariableUse], every: int) -> Float[Array, "n columns"]:
    """The outcome of a weight that is used once, the columns of all groups side by side; of one in so many rows."""
    (own,) = (use for use in uses if isinstance(use, Outcome))
    picked = own.contraction.picked(every)
    return _side_by_side(own.contraction.columns(jnp.asarray(own.array, jnp.float32)))[picked]


def missed(
    uses: Sequence[VariableUse],
    wanted: Float[Array, "n columns"],
    source: Int[Array, "G M"],
    known: Bool[Array, "G M"],
    reduced: ReducedColumns | None,
    every: int,
) -> Missed:
    """By how much the outcome of a weight that is used once misses its outcome before, where there was one."""
    (own,) = (use for use in uses if isinstance(use, Outcome))
    picked = own.contraction.picked(every)
    reached, slope = (
        own.contraction.columns(jnp.asarray(array, jnp.float32))[:, picked] for array in (own.array, own.slope())
    )
    aim = wanted[:, source].transpose(1, 0, 2)
    return Missed.of(_read(own.contraction, picked, reduced), (aim - reached) * known[:, None], slope)


def _skipped(uses: Sequence[VariableUse]) -> Made:
    """For each use of a weight what a skip connection adds to what it makes."""
    found = {use.contraction.number: use for use in uses if isinstance(use, SkipConnection)}
    skips = [found[number] for number in sorted(found)]
    return [_side_by_side(use.contraction.columns(jnp.asarray(use.activation, jnp.float32))) for use in skips]


def _grams(
    uses: Sequence[VariableUse],
    wanted: Sequence[Float[Array, "_ G M"]],
    so_far: Sequence[Gram],
    reduced: ReducedColumns | None,
    every: int,
) -> list[Gram]:
    contractions = [use for use in uses if isinstance(use, Contraction)]
    picked = [use.picked(every) for use in contractions]
    masks = [_held_out(use, rows) for use, rows in zip(contractions, picked, strict=True)]

    def sums(held_out: bool) -> Gram:
        rows = [some[mask == held_out] for some, mask in zip(picked, masks, strict=True)]
        xs = [_read(use, some, reduced) for use, some in zip(contractions, rows, strict=True)]
        ys = [own[some].transpose(1, 0, 2) for own, some in zip(wanted, rows, strict=True)]
        return gram(jnp.concatenate(xs, 1), jnp.concatenate(ys, 1), so_far[held_out])

    return [sums(held_out=False), sums(held_out=True)]


def _read(use: Contraction, rows: Int[np.ndarray, " n"], reduced: ReducedColumns | None) -> Float[Array, "G n _"]:
    """Some rows of X, or of fewer columns."""
    x = use.x_at(rows)
    return x if reduced is None else reduced.columns(x)


def _side_by_side(array: Float[Array, "G N M"]) -> Float[Array, "N columns"]:
    """The columns of all groups, one after the other."""
    return array.transpose(1, 0, 2).reshape(array.shape[1], -1)


def _held_out(use: Contraction, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which of some rows are held out: those of every fourth example, with all of its positions."""
    number, examples = use.sizes.rows, np.shape(use.activation)[0]
    per_example = number // examples if examples >= 4 and number % examples == 0 else 1
    return np.asarray(rows // per_example % 4 == 3)
