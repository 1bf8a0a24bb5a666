"""One round of a scan as a tape of its own, and what its values are in all rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.dataflow.loops.entry_origins import Entries, Origin, followed
from naivenas_jax.dataflow.tape import Tape, Values, record
from naivenas_jax.jaxpr.interpret import Equation, closed, evaluate
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import nested
from naivenas_jax.typing import Array, PyTree

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class LoopBody:
    """One round of a scan.

    Attributes:
      position: the step of the network that is the scan.
      eqn: its equation.
      tape: the round. Its variables are the operands of the scan that are weights, its inputs all others.
      weights: which operand each variable is.
      entries: the entries of the variables of one round.
      origins: for each of these operands the entries of the variables of the network that its own are.
    """

    position: int
    eqn: Equation
    tape: Tape
    weights: Mapping[Path, int]
    entries: Entries
    origins: Mapping[Path, Origin]

    @property
    def consts(self) -> int:
        """So many operands are the same in every round."""
        return int(self.eqn.params["num_consts"])

    @property
    def both(self) -> int:
        """So many operands are the same in every round, or are carried from one to the next."""
        return self.consts + int(self.eqn.params["num_carry"])

    @property
    def length(self) -> int:
        """How many rounds there are."""
        return int(self.eqn.params["length"])

    @property
    def order(self) -> range:
        """The rows of stacked arrays in the order in which rounds read them."""
        rows = range(self.length)
        return rows[::-1] if self.eqn.params["reverse"] else rows

    @cached_property
    def carry(self) -> tuple[int, ...]:
        """The numbers of the values that a round is handed by the one before."""
        others = [i for i in range(len(self.eqn.invars)) if i not in self.weights.values()]
        return tuple(n for n, i in zip(self.tape.inputs, others, strict=True) if self.consts <= i < self.both)

    @cached_property
    def stacked(self) -> Bool[np.ndarray, " entries"]:
        """Which entries of the weights are others in every round: those of a row of a stacked array."""
        found = np.zeros(self.entries.size, bool)
        for path, i in self.weights.items():
            found[self.entries.origin(path)] = i >= self.both
        return found

    def numbers(self, row: int) -> Int[np.ndarray, " entries"]:
        """For each entry of the weights of one round the number of the network's entry that it is."""
        own = [self.origins[p][row] if self.weights[p] >= self.both else self.origins[p] for p in self.entries.first]
        return np.concatenate([array.ravel() for array in own])

    def values(self, operands: Sequence[Array], row: int | Int[Array, ""]) -> Float[Array, " entries"]:
        """The entries of the weights of one round, as they are among the operands of the scan."""
        own = [(operands[i], i >= self.both) for i in (self.weights[path] for path in self.entries.first)]
        return jnp.concatenate([jnp.ravel(array[row] if rows else array).astype(jnp.float32) for array, rows in own])

    def rounds(self, operands: Sequence[Array], reading: Callable[[Values], T]) -> T:
        """What is read of the values of a round, in all rounds beneath one another. Works under transformations of jax.

        Args:
          operands: the operands of the scan.
          reading: takes all values of a round, by number, to arrays.
        """
        named, carried = {i: path for path, i in self.weights.items()}, self.both - self.consts

        def body(state: list[jax.Array], rows: list[Array]) -> tuple[list[jax.Array], T]:
            given = [*operands[: self.consts], *state, *rows]
            weights = nested({path: given[i] for i, path in named.items()})
            known = self.tape.evaluated(weights, [array for i, array in enumerate(given) if i not in named])
            return [jnp.asarray(known[n]) for n in self.tape.results[:carried]], reading(known)

        types = [var.aval.dtype for var in self.eqn.invars[self.consts : self.both]]
        start = [jnp.asarray(a, dtype) for a, dtype in zip(operands[self.consts : self.both], types, strict=True)]
        how = {key: self.eqn.params[key] for key in ("length", "reverse")}
        found: T
        _, found = jax.lax.scan(body, start, list(operands[self.both :]), **how)
        return found


def loop_body(tape: Tape, position: int, entries: Entries) -> LoopBody | None:
    """A round of the scan at a step of a tape; None: the step is no scan, or none of its operands is a weight.

    Args:
      tape: the tape of a network.
      position: the step.
      entries: of the variables of the network.
    """
    step = tape.steps[position]
    if step.eqn.primitive.name != "scan" or not step.paths:
        return None
    own = {n: entries.origin(path) for path, n in tape.variables.items()}
    known = followed(tape.needed(position, position + 1), own)
    program, consts = closed(step.eqn.params["jaxpr"]), step.eqn.params["num_consts"]
    carry = range(consts, consts + step.eqn.params["num_carry"])
    shapes = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in program.jaxpr.invars]
    named: dict[int, Path] = {
        i: ("weights", f"{i:06}")
        for i, n in enumerate(step.operands)
        if n in known and i not in carry and jnp.issubdtype(shapes[i].dtype, jnp.floating)
    }
    if not named:
        return None

    def one_round(variables: PyTree, *inputs: Array) -> list[Array]:
        rest = iter(inputs)
        given = [variables[named[i][0]][named[i][1]] if i in named else next(rest) for i in range(len(shapes))]
        return evaluate(program, given)

    weights = nested({path: shapes[i] for i, path in named.items()})
    return LoopBody(
        position,
        step.eqn,
        record(one_round, weights, [shape for i, shape in enumerate(shapes) if i not in named]),
        {path: i for i, path in named.items()},
        Entries.of(weights),
        {path: known[step.operands[i]] for i, path in named.items()},
    )
