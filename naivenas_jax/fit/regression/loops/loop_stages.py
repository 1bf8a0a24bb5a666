"""Which loops of a network have weights that can be fitted, and the problems of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.dataflow.loops.entry_origins import Entries
from naivenas_jax.dataflow.loops.joint_sums import Round
from naivenas_jax.dataflow.loops.loop_body import LoopBody, loop_body
from naivenas_jax.dataflow.tape import Tape
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.regression.loops.systems import Matching, State, System, sources
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import Path


@dataclass(frozen=True, eq=False)
class Loop:
    """A loop whose weights are to be fitted.

    Attributes:
      rounds: its rounds before a mutation and after it.
      systems: the problems of a round.
      states: what rounds hand on.
      entries: the entries of the variables of the network after the mutation.
    """

    rounds: tuple[Round, Round]
    systems: tuple[System, ...]
    states: tuple[State, ...]
    entries: Entries

    @property
    def body(self) -> LoopBody:
        """The loop after the mutation."""
        return self.rounds[1].body

    @property
    def reads_others(self) -> bool:
        """Whether a weight reads other neurons than before the mutation."""
        products = self.rounds[0].products
        return any(
            not np.array_equal(read.rows, np.arange(products[read.product].weight.shape[1]))
            for own in self.systems
            for read in own.then.reads
        )

    @property
    def paths(self) -> frozenset[Path]:
        """The variables that are fitted."""
        used = np.unique(np.concatenate([own.entries.ravel() for own in self.systems]))
        rows = range(self.body.length) if any(own.rows for own in self.systems) else range(1)
        numbers = np.concatenate([self.body.numbers(row)[used] for row in rows])
        return frozenset(path for path in self.entries.first if len(self.entries.part_of(path, numbers)))


@dataclass(frozen=True, eq=False)
class Loops:
    """The loops of a network for batches of any shapes: each is traced for every shape, and has the same weights.

    Attributes:
      mutation: the mutation.
      networks: the networks before and after it.
    """

    mutation: Mutation
    networks: tuple[Network, Network]
    _found: dict[Tape, list[Loop]] = field(default_factory=dict)

    def of(self, inputs: Batch) -> list[Loop]:
        """The loops that can be fitted, in order, for batches of the shapes of this one."""
        tape = self.networks[1].tape(self.mutation.variables, inputs)
        if tape not in self._found:
            self._found[tape] = loops_of(self.mutation, self.networks, inputs)
        return self._found[tape]


def loops_of(mutation: Mutation, networks: tuple[Network, Network], inputs: Batch) -> list[Loop]:
    """The loops of a network whose weights can be fitted, in order.

    Args:
      mutation: the mutation.
      networks: the networks before and after it.
      inputs: a batch.
    """
    then, now = (
        (network.tape(variables, inputs), Entries.of(variables))
        for network, variables in zip(networks, (mutation.variables_before, mutation.variables), strict=True)
    )
    source, old = sources(mutation.plan, now[1], then[1]), list(_bodies(*then))
    found = []
    for body, free in _bodies(*now):
        own = np.where(free[body.numbers(0)], source[body.numbers(0)], NEW)
        for other, free_then in old:
            at = _places(other, own)
            if (at != NEW).any() and _primitives(body.tape) == _primitives(other.tape):
                numbers = other.numbers(0)
                matching = Matching(Round(body), Round(other), np.where(free_then[numbers[at]], at, NEW))
                if systems := matching.systems():
                    rounds = matching.then, matching.now
                    found.append(Loop(rounds, tuple(systems), matching.states(systems), now[1]))
                break
    return found


def _bodies(tape: Tape, entries: Entries) -> Iterator[tuple[LoopBody, Bool[np.ndarray, " entries"]]]:
    """The loops of a tape, and which entries of variables nothing else reads."""
    for position in range(len(tape.steps)):
        if (body := loop_body(tape, position, entries)) is not None:
            free = np.ones(entries.size, bool)
            for other, step in enumerate(tape.steps):
                for path in step.paths if other != position else ():
                    free[entries.origin(path)] = False
            rows = range(body.length) if body.stacked.any() else range(1)
            every, counts = np.unique(np.concatenate([_of_row(body, row) for row in rows]), return_counts=True)
            free[every[counts > 1]] = False
            yield body, free


def _of_row(body: LoopBody, row: int) -> Int[np.ndarray, " n"]:
    """The numbers of the entries that a round reads, and no other one reads too."""
    return body.numbers(row)[body.stacked | (row == 0)]


def _places(body: LoopBody, numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Where in the weights of a round entries of the network are; NEW: nowhere."""
    own = body.numbers(0)
    order = np.argsort(own)
    at = order[np.minimum(np.searchsorted(own, numbers, sorter=order), len(own) - 1)]
    return np.where((numbers != NEW) & (own[at] == numbers), at, NEW)


def _primitives(tape: Tape) -> list[str]:
    return [step.eqn.primitive.name for step in tape.steps]
