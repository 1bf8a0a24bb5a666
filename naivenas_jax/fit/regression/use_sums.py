"""Rows read off the uses of one weight: of its matrix products, of skip connections, and of outcomes.

Every function takes the uses of one weight in one evaluation (see `naivenas_jax.dataflow.variable_uses`). N counts rows
(examples and positions), G groups, K and M the columns of X and Y in each group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.dataflow.contraction import Contraction, some
from naivenas_jax.dataflow.thinning import held_out_rows
from naivenas_jax.dataflow.variable_uses import Outcome, SkipConnection, VariableUse
from naivenas_jax.fit.regression.generalised_linear_fit import Missed
from naivenas_jax.fit.regression.reduced_columns import ReducedColumns
from naivenas_jax.typing import Array, PyTree

#: For each use of a weight what it makes, the columns of all groups side by side.
Made = list[Float[Array, "_ columns"]]


class Taken(NamedTuple):
    """Which rows and columns of X are read.

    Attributes:
      one_in: one in so many rows; see `naivenas_jax.dataflow.thinning`.
      seen: whether columns that only see padding are left out.
    """

    one_in: int
    seen: bool = False


@dataclass(frozen=True)
class Taking:
    """A reading of some rows and columns.

    Attributes:
      taken: which.
      reading: the reading, to which they are given by name.
    """

    taken: Taken
    reading: Callable[..., PyTree]

    def __call__(self, uses: Sequence[VariableUse], *given: PyTree) -> PyTree:
        """What is read."""
        return self.reading(uses, *given, taken=self.taken)


@dataclass(frozen=True)
class WithOutcome:
    """A reading of what a weight makes, and of the outcome in one pass.

    Attributes:
      taken: the outcome is taken of these rows.
      reading: the reading of what it makes.
    """

    taken: Taken
    reading: Callable[..., Made]

    def __call__(self, uses: Sequence[VariableUse]) -> tuple[Made, Float[Array, "n columns"]]:
        """What is read, and the outcome."""
        return self.reading(uses, taken=self.taken), outcome(uses, self.taken)


def made(uses: Sequence[VariableUse], taken: Taken) -> Made:
    """Some rows of Y, of each use of a weight."""
    contractions = [use for use in uses if isinstance(use, Contraction)]
    return [_side_by_side(some(use.y, use.picked(taken.one_in), 1)) for use in contractions]


def made_and_skipped(uses: Sequence[VariableUse], taken: Taken) -> Made:
    """The same, plus what a skip connection adds to it."""
    return [own + skipped for own, skipped in zip(made(uses, taken), _skipped(uses, taken), strict=True)]


class Rows(NamedTuple):
    """Rows of X, and of what is fitted to them."""

    x: Float[Array, "G n K"]
    y: Float[Array, "G n M"]


def rows(
    uses: Sequence[VariableUse],
    wanted: Made,
    source: Int[Array, "G M"],
    scale: Float[Array, "G M"],
    reduced: ReducedColumns | None,
    taken: Taken,
) -> tuple[Rows, Rows]:
    """Rows that are fitted to, and rows held out, of what a weight reads now and is to make.

    Args:
      uses: the uses of the weight now.
      wanted: what it made before, for each use.
      source: the column before of each column now, counted over all groups.
      scale: the factor of each column.
      reduced: fewer columns, to which what the weight does not make now is fitted; None: all, and what it is to make.
      taken: the rows and columns that are read; to some columns the same is fitted as to fewer.
    """
    return _rows(uses, [own[:, source] * scale for own in wanted], scale, reduced, taken)


def rows_with_skip(
    uses: Sequence[VariableUse],
    wanted: Made,
    source: Int[Array, "G M"],
    scale: Float[Array, "G M"],
    reduced: ReducedColumns | None,
    taken: Taken,
) -> tuple[Rows, Rows]:
    """The same where ``wanted`` is the sum with a skip connection: what the skip connection adds now is taken off."""
    skipped = [array.reshape(-1, *source.shape) for array in _skipped(uses, taken)]
    rest = [(own[:, source] - now) * scale for own, now in zip(wanted, skipped, strict=True)]
    return _rows(uses, rest, scale, reduced, taken)


def _rows(
    uses: Sequence[VariableUse],
    wanted: Sequence[Float[Array, "n G M"]],
    scale: Float[Array, "G M"],
    reduced: ReducedColumns | None,
    taken: Taken,
) -> tuple[Rows, Rows]:
    contractions = [use for use in uses if isinstance(use, Contraction)]
    picked = [use.picked(taken.one_in) for use in contractions]
    if reduced is not None or taken.seen:  # of columns that were not there before, 0
        pairs = zip(contractions, picked, wanted, strict=True)
        wanted = [(own - some(use.y, rows, 1).transpose(1, 0, 2)) * (scale != 0) for use, rows, own in pairs]
    parts = [_divided(*own, reduced, taken) for own in zip(contractions, picked, wanted, strict=True)]
    return _together([fitted for fitted, _ in parts]), _together([held_out for _, held_out in parts])


def _divided(
    use: Contraction,
    picked: Int[np.ndarray, " n"],
    wanted: Float[Array, "n G M"],
    reduced: ReducedColumns | None,
    taken: Taken,
) -> tuple[Rows, Rows]:
    """The rows of one use that are fitted to, and those held out. They are read together, the latter last."""
    held_out = held_out_rows(picked, use.sizes.rows, np.shape(use.activation)[0])
    order, first = np.argsort(held_out, kind="stable"), int((~held_out).sum())
    both = _read(use, picked[order], reduced, taken), some(wanted, order, 0).transpose(1, 0, 2)
    return Rows(*(own[:, :first] for own in both)), Rows(*(own[:, first:] for own in both))


def _together(parts: Sequence[Rows]) -> Rows:
    return Rows(*(jnp.concatenate(arrays, 1) for arrays in zip(*parts, strict=True)))


def outcome(uses: Sequence[VariableUse], taken: Taken) -> Float[Array, "n columns"]:
    """The outcome of a weight that is used once, the columns of all groups side by side; of one in so many rows."""
    (own,) = (use for use in uses if isinstance(use, Outcome))
    picked = own.contraction.picked(taken.one_in)
    return _side_by_side(some(own.contraction.columns(jnp.asarray(own.array, jnp.float32)), picked, 1))


def missed(
    uses: Sequence[VariableUse],
    wanted: Float[Array, "n columns"],
    source: Int[Array, "G M"],
    known: Bool[Array, "G M"],
    reduced: ReducedColumns | None,
    taken: Taken,
) -> Missed:
    """By how much the outcome of a weight that is used once misses its outcome before, where there was one."""
    (own,) = (use for use in uses if isinstance(use, Outcome))
    picked = own.contraction.picked(taken.one_in)
    reached, slope = (
        some(own.contraction.columns(jnp.asarray(array, jnp.float32)), picked, 1) for array in (own.array, own.slope())
    )
    aim = wanted[:, source].transpose(1, 0, 2)
    return Missed.of(_read(own.contraction, picked, reduced, taken), (aim - reached) * known[:, None], slope)


def _skipped(uses: Sequence[VariableUse], taken: Taken) -> Made:
    """For each use of a weight what a skip connection adds to some rows of what it makes."""
    found = {use.contraction.number: use for use in uses if isinstance(use, SkipConnection)}
    skips = [(found[number].contraction, found[number].activation) for number in sorted(found)]
    columns = [(own, own.columns(jnp.asarray(array, jnp.float32))) for own, array in skips]
    return [_side_by_side(some(array, own.picked(taken.one_in), 1)) for own, array in columns]


def _read(
    use: Contraction, rows: Int[np.ndarray, " n"], reduced: ReducedColumns | None, taken: Taken
) -> Float[Array, "G n _"]:
    """Some rows of X, or of fewer columns."""
    x = use.x_at(rows, taken.seen)
    return x if reduced is None else reduced.columns(x)


def _side_by_side(array: Float[Array, "G N M"]) -> Float[Array, "N columns"]:
    """The columns of all groups, one after the other."""
    return array.transpose(1, 0, 2).reshape(array.shape[1], -1)
