"""Sums over the rows of a loop: of what its weights read, in the original and now, and of what they are to make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from naivenas_jax.dataflow.loops.joint_sums import Round
from naivenas_jax.dataflow.tape import Tape, Values
from naivenas_jax.fit.regression.loops.loop_rows import LoopRows, held_out, rows_of
from naivenas_jax.fit.regression.loops.systems import State, System
from naivenas_jax.fit.regression.ridge import Gram, gram
from naivenas_jax.typing import Array, Variables


class Then(NamedTuple):
    """What is read of the network before a mutation.

    Attributes:
      systems: the rows of each problem.
      states: what rounds hand on.
    """

    systems: list[LoopRows]
    states: list[LoopRows]


class LoopSums(NamedTuple):
    """Sums of a loop on a batch.

    Attributes:
      original: for each problem sums over rows that are fitted to and over those held out, with what rounds handed on
        before the mutation.
      present: the same with what they hand on now.
      states: sums of what rounds hand on now, and of what they did before.
    """

    original: list[list[Gram]]
    present: list[list[Gram]]
    states: list[Gram]


@dataclass(frozen=True, eq=False)
class LoopReading:
    """What is read of a loop in one pass.

    Attributes:
      rounds: the rounds of the loop before a mutation and after it.
      systems: the problems.
      states: what rounds hand on.
      every: one in so many rows is taken.
    """

    rounds: tuple[Round, Round]
    systems: tuple[System, ...]
    states: tuple[State, ...]
    every: int


def then(reading: LoopReading, tape: Tape, variables: Variables, live: Values) -> Then:
    """What is read of the network before a mutation, whose tape this is."""
    own = [*(one.then for one in reading.systems), *(one.then for one in reading.states)]
    rows = rows_of(tape, reading.rounds[0], own, reading.every, variables, live)
    return Then(rows[: len(reading.systems)], rows[len(reading.systems) :])


def sums(
    reading: LoopReading,
    tape: Tape,
    variables: Variables,
    live: Values,
    before: Then,
    row: Int[Array, ""] | None,
) -> LoopSums:
    """Sums of what is read now and of what is to be made.

    Args:
      reading: what is read.
      tape: the tape of the network after the mutation.
      variables: the variables now.
      live: the values that are live before the loop.
      before: what was read of the network before the mutation.
      row: the only round whose rows are taken, by its row of stacked arrays; None: all.
    """
    own, number = reading.rounds[1], len(reading.systems)
    readings = [*(one.now for one in reading.systems), *(one.now for one in reading.states)]
    found = rows_of(tape, own, readings, reading.every, variables, live)
    values = own.body.values(tape.operands(own.body.position, variables, live), 0 if row is None else row)
    original, present = list[list[Gram]](), list[list[Gram]]()
    for one, old, now in zip(reading.systems, before.systems, found[:number], strict=True):
        (old_x, old_y), (x, y) = old, now
        if row is not None:
            old_x, old_y, x, y = (array[row][None] for array in (old_x, old_y, x, y))
        made = jnp.matmul(x, values[one.entries], precision=jax.lax.Precision.HIGHEST)
        wanted = old_y - (y - made - (0.0 if one.shift is None else values[one.shift]))  # less what else is added now
        held = held_out(own, one.now, reading.every)
        for each, into in ((jnp.where(one.carried, old_x, x), original), (x, present)):
            into.append([_gram(each[:, held == out], wanted[:, held == out]) for out in (False, True)])
    states = [_gram(now.x, old.x) for old, now in zip(before.states, found[number:], strict=True)]
    return LoopSums(original, present, states)


def _gram(x: Float[Array, "T n K"], y: Float[Array, "T n M"]) -> Gram:
    return gram(x.reshape(1, -1, x.shape[-1]), y.reshape(1, -1, y.shape[-1]))
