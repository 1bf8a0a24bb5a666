"""X and Y of the sums of a loop, read in all of its rounds on one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.dataflow.loops.joint_sums import Round
from naivenas_jax.dataflow.tape import Tape, Values
from naivenas_jax.dataflow.thinning import held_out_rows, picked_rows
from naivenas_jax.fit.regression.loops.systems import Reading
from naivenas_jax.typing import Array, Variables


class LoopRows(NamedTuple):
    """Rows of one problem, in all rounds.

    Attributes:
      x: what is read.
      y: what the products come to with all that is added to them.
    """

    x: Float[Array, "T n K"]
    y: Float[Array, "T n M"]


def rows_of(
    tape: Tape, own: Round, readings: Sequence[Reading], every: int, variables: Variables, live: Values
) -> list[LoopRows]:
    """X and Y of some problems.

    Args:
      tape: the tape of the network.
      own: the round of its loop.
      readings: what is read.
      every: one in so many rows is taken.
      variables: the variables.
      live: the values that are live before the loop.
    """

    def reading(known: Values) -> list[LoopRows]:
        return [_rows(own, one, picked(own, one, every), known) for one in readings]

    return own.body.rounds(tape.operands(own.body.position, variables, live), reading)


def picked(own: Round, reading: Reading, every: int) -> Int[np.ndarray, " n"]:
    """The rows of a round that are taken, by number."""
    return picked_rows(len(reading.makes[0].places), _examples(own, reading), every)


def held_out(own: Round, reading: Reading, every: int) -> Bool[np.ndarray, " n"]:
    """Which of these rows are those of every fourth example."""
    return held_out_rows(picked(own, reading, every), len(reading.makes[0].places), _examples(own, reading))


def _examples(own: Round, reading: Reading) -> int:
    return int(own.products[reading.reads[0].product].contraction.activation.shape[0])


def _rows(own: Round, reading: Reading, some: Int[np.ndarray, " n"], known: Values) -> LoopRows:
    x = []
    for product, group, rows in reading.reads:
        one = own.products[product]
        found = one.contraction.rows(jnp.asarray(known[one.activation], jnp.float32), some, False)[group]
        x.append(jnp.where(rows != NEW, found[:, np.maximum(rows, 0)], 0.0))
    y = [jnp.ravel(known[value])[places[some]].astype(jnp.float32) for value, places in reading.makes]
    return LoopRows(jnp.concatenate(x, -1), jnp.concatenate(y, -1))
