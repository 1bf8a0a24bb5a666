"""The weights of a loop, fitted: of recurrent cells in several passes, of scanned layers one after the other.

What a recurrent cell reads depends on its own weights. Fitted to what the states of the original are, of the neurons
that are left, it is right for states that it will not have: errors add up from step to step. So it is fitted again, to
rows with the states of the original and to as many with those that it now comes to, and always to what the original
makes of the same inputs. Half of the sums of the pass before are added, so that no fit leaps from the last.

Source: sets of states that grow with what the learner comes to, Ross, Gordon and Bagnell, A Reduction of Imitation
Learning and Structured Prediction to No-Regret Online Learning, AISTATS 2011.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from naivenas_jax.dataflow.thinning import ROWS_PER_COLUMN, thinning
from naivenas_jax.fit.network.memory import most_columns
from naivenas_jax.fit.network.network import Run, Runs, on_device, replaced
from naivenas_jax.fit.regression.loops.loop_stages import Loop, Loops
from naivenas_jax.fit.regression.loops.loop_sums import LoopReading, LoopSums, sums, then
from naivenas_jax.fit.regression.loops.systems import System
from naivenas_jax.fit.regression.ridge import Fit, Gram, NormalEquations, added, ridge_fit
from naivenas_jax.fit.regression.ridge_choice import chosen_ridge
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.paths import Path
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Variables

#: At most so many passes.
PASSES = 8
#: Another pass is made as long as one of the last two came nearer by this share.
NEARER = 0.02
#: The part of the sums of a pass that the next one remembers.
REMEMBERED = 0.5
#: The relative ridge with which states of the original are told from those now.
_RIDGE = 1e-6


#: For each problem sums over rows that are fitted to, and over those held out.
Sums: TypeAlias = list[list[Gram]]

#: The numbers of problems that are solved together.
_Turn: TypeAlias = tuple[int, ...]


class _Pass(NamedTuple):
    """Variables, and how far what rounds hand on with them is from what it was."""

    distance: float
    variables: dict[str, PyTree]


@dataclass(frozen=True, eq=False)
class LoopFitting:
    """The fit of one loop.

    Attributes:
      loops: the loops of the network.
      number: which of them it is.
      runs: the networks before and after the mutation on every batch.
      before: the variables before the mutation.
      weights: whether weights are fitted; if not, only what is added to what they make.
      ridge: the relative ridge; None: chosen on rows held out.
      memory: bytes that sums may take.
      notes: what was done for want of memory.
    """

    loops: Loops
    number: int
    runs: Runs
    before: Variables
    weights: bool
    ridge: float | None
    memory: int
    notes: list[str]
    _read: dict[tuple[Loop, _Turn], LoopReading] = field(default_factory=dict)

    @property
    def loop(self) -> Loop:
        """The loop, on the first batch."""
        return self.loops.of(self.runs.data.first)[self.number]

    def refitted(self, variables: Variables) -> dict[str, PyTree]:
        """The variables, with the weights of the loop fitted."""
        found, body = dict(variables), self.loop.body
        same, others = (self._turns(rows) for rows in (False, True))
        if same:
            found = self._recurrent(found, same)
        for row in body.order if others else ():
            for turn in others:
                found = self._solved(found, turn, self._total(found, turn, row).present, row)
        return found

    def _turns(self, rows: bool) -> list[_Turn]:
        """What is fitted together, one after the other: problems that depend on others when these are fitted."""
        own = [(i, one) for i, one in enumerate(self.loop.systems) if one.rows == rows and self._fits(one)]
        levels = groupby(own, key=lambda pair: pair[1].level)  # they come in this order
        return [tuple(i for i, _ in same) for _, same in levels]

    def _systems(self, turn: _Turn) -> tuple[System, ...]:
        return tuple(self.loop.systems[i] for i in turn)

    def _reading(self, inputs: Batch, turn: _Turn) -> LoopReading:
        """The reading of some problems on batches of these shapes, of as many rows as are enough."""
        loop = self.loops.of(inputs)[self.number]
        if (loop, turn) not in self._read:
            systems = tuple(loop.systems[i] for i in turn)
            rows, columns = len(systems[0].now.makes[0].places), max(sum(one.entries.shape) + 1 for one in systems)
            enough = thinning(rows * loop.body.length * self.runs.data.number, columns, ROWS_PER_COLUMN)
            states = () if systems[0].rows else loop.states
            self._read[loop, turn] = LoopReading(loop.rounds, systems, states, min(enough, rows))
        return self._read[loop, turn]

    def _fits(self, own: System) -> bool:
        """Whether the sums of a problem fit into the memory."""
        inputs, outputs = own.entries.shape
        fits = bool(inputs <= most_columns(self.memory, 2, outputs))  # of two kinds of rows
        if not fits:
            self.notes.append(f"{self._name}: a weight reads {inputs} entries and stays, for want of memory")
        return fits

    @property
    def _name(self) -> str:
        return f"the loop with {'/'.join(min(self.loop.paths))}"

    def _recurrent(self, variables: dict[str, PyTree], turns: Sequence[_Turn]) -> dict[str, PyTree]:
        """The best of several passes: the one from whose states those of the original can best be told."""
        passes, remembered = list[_Pass](), dict[_Turn, Sums]()
        while True:
            here = variables
            for turn in turns:
                total = self._total(variables, turn, None)
                if turn is turns[0]:
                    passes.append(_Pass(_distance(total.states), here))
                    if _at_end(passes):
                        return min(passes, key=lambda one: one.distance).variables
                own = total.original
                if turn in remembered:
                    own = _plus(_plus(own, 1.0, total.present), REMEMBERED, remembered[turn])
                remembered[turn] = own
                variables = self._solved(variables, turn, own, None)

    def _total(self, variables: Variables, turn: _Turn, row: int | None) -> LoopSums:
        """Sums over all batches, in float64."""
        now, was, of = on_device(variables), on_device(self.before), None if row is None else jnp.asarray(row)

        def visit(before: Run, after: Run) -> tuple[tuple[Run, Run], LoopSums]:
            reading = self._reading(after.inputs, turn)
            positions = [own.body.position for own in reading.rounds]
            before, after = before.up_to(positions[0], was), after.up_to(positions[1], now)
            old = before.network.compiled(then, reading, before.tape)(was, before.live)
            found = after.network.compiled(sums, reading, after.tape)(now, after.live, old, of)
            return (before, after), found

        total = None
        for number, found in enumerate(self.runs.visited(visit)):
            total = added(total, found, f"{self._name} on batch {number}")
        assert total is not None
        return cast(LoopSums, total)

    def _solved(self, variables: Mapping[str, PyTree], turn: _Turn, own: Sums, row: int | None) -> dict[str, PyTree]:
        """The variables, with some problems solved."""
        numbers, arrays = self.loop.body.numbers(row or 0), flat(variables)
        places, values = list[np.ndarray](), list[np.ndarray]()
        for one, of_rows in zip(self._systems(turn), own, strict=True):
            entries, shift = numbers[one.entries], None if one.shift is None else numbers[one.shift]
            present = self._values(arrays, entries)
            fit = self._fit(present, of_rows, shift is not None)
            places += [entries.ravel()] if shift is None else [entries.ravel(), shift]
            values += [fit.b.ravel()] if shift is None else [fit.b.ravel(), fit.shift.ravel()]
        at, found = np.concatenate(places), np.concatenate(values)
        for path, array in arrays.items():
            if len(some := self.loop.entries.part_of(path, at)):
                changed = to_host(array).astype(np.float64).ravel()
                changed[at[some] - self.loop.entries.first[path]] = found[some]
                arrays[path] = replaced(array, changed)
        return nested(arrays)

    def _fit(self, present: Float[np.ndarray, "K M"], own: Sequence[Gram], shifts: bool) -> Fit:
        """The solution of one problem."""
        fitted, held_out = (NormalEquations.of(jax.tree.map(np.copy, one)) for one in own)  # which are written to
        ridge = self.ridge if self.weights else np.inf
        if ridge is None:
            ridge = chosen_ridge(fitted, held_out, present[None], shifts)
        return ridge_fit(fitted.and_those(held_out), present[None], ridge, shifts)

    def _values(self, arrays: Mapping[Path, Array], numbers: Int[np.ndarray, "K M"]) -> Float[np.ndarray, "K M"]:
        """Some entries of the variables."""
        found, at = np.empty(numbers.size), numbers.ravel()
        for path, array in arrays.items():
            if len(some := self.loop.entries.part_of(path, at)):
                found[some] = to_host(array).astype(np.float64).ravel()[at[some] - self.loop.entries.first[path]]
        return found.reshape(numbers.shape)


def _plus(own: Sums, factor: float, others: Sums) -> Sums:
    """Sums, and so many times others."""
    found: Sums = jax.tree.map(lambda one, other: one + factor * other, own, others)
    return found


def _distance(states: Sequence[Gram]) -> float:
    """What is left of the states of the original when what can be told from those now is taken off."""
    total = 0.0
    for own in map(NormalEquations.of, states):
        present = np.zeros((1, own.inputs, own.squares.shape[1]))
        total += own.centred().error(ridge_fit(own, present, _RIDGE, shifts=True).b)
    return total


def _at_end(passes: Sequence[_Pass]) -> bool:
    """Whether there have been enough passes, or two in a row that came no nearer."""
    best = [min(one.distance for one in passes[: n + 1]) for n in range(len(passes))]
    return len(passes) > PASSES or (len(passes) > 3 and best[-1] >= (1 - NEARER) * best[-3])
