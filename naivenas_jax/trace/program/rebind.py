"""Evaluate a traced function with other sizes: its equations are bound again, with shape parameters that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from naivenas_jax.errors import StructureError
from naivenas_jax.graph.evaluation.name_scopes import computed_in, computing
from naivenas_jax.jaxpr.interpret import Equation, bind, evaluate
from naivenas_jax.jaxpr.primitive_tables import register
from naivenas_jax.sizes.origins import Origins, old
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.frame import Entries, Frame
from naivenas_jax.trace.program.value import Value
from naivenas_jax.typing import Array

#: ``watch(name, frame, array)`` sees each named value, with the frame that it is in, and returns what it shall be.
Watch: TypeAlias = Callable[[str, Frame, jax.Array], jax.Array]


def mask_of_runs(ties: Ties, alive: Mapping[int, jax.Array], runs: Iterable[int]) -> jax.Array | None:
    """Shape (neurons,), bool: which neurons of some runs, one after the other, count; None if all of them do.

    Args:
      ties: the runs.
      alive: for runs that are no products which neurons count; one that is missing is whole. Of a product all
        combinations of neurons count that count in its factors.
      runs: the runs that are asked for.
    """
    parts = [(_mask_of_run(ties, alive, run), ties.run_sizes[run]) for run in runs]
    if all(mask is None for mask, _ in parts):
        return None
    return jnp.concatenate([_filled(*part) for part in parts])


def _mask_of_run(ties: Ties, alive: Mapping[int, jax.Array], run: int) -> jax.Array | None:
    if run not in ties.products:
        return alive.get(run)
    factors = [(mask_of_runs(ties, alive, row), ties.length(row)) for row in ties.products[run]]
    if all(mask is None for mask, _ in factors):
        return None
    return reduce(lambda whole, part: (whole[:, None] & part[None, :]).ravel(), [_filled(*each) for each in factors])


def _filled(mask: jax.Array | None, size: int) -> jax.Array:
    return jnp.ones(size, bool) if mask is None else mask


@dataclass(frozen=True, eq=False)
class NewSizes:
    """The sizes that a traced function is evaluated with.

    Attributes:
      rows: for each vector of the analysis its runs.
      now: the ties that the analysis found, with the present sizes.
      before: the same ties, with the sizes that the function was traced at.
      origins: which of the neurons that the function was traced with there are now, where constants need to know.
      watch: sees the named values of the evaluation.
      alive: for runs of the analysis that are no products, which neurons count. What is reduced or contracted over the
        others is as if they were not there; see `silent`. A run that is missing is whole.
      looped: whether this is the body of a loop on a CPU; see `convolve_in_loop`.
    """

    rows: Mapping[Vector, tuple[int, ...]]
    now: Ties
    before: Ties
    origins: Origins
    watch: Watch | None = None
    alive: Mapping[int, jax.Array] = field(default_factory=dict)
    looped: bool = False

    def length(self, vector: Vector) -> int:
        """The number of neurons of a vector now."""
        return self.now.length(self.rows[vector])

    def count(self, vector: Vector) -> int | jax.Array:
        """The number of neurons of a vector that count; traced if that depends on ``alive``."""
        mask = self.mask(vector)
        return self.length(vector) if mask is None else jnp.sum(mask)

    def mask(self, vector: Vector | None) -> jax.Array | None:
        """Shape (neurons,), bool: which neurons of a vector count; None if all of them do."""
        return None if vector is None or not self.alive else mask_of_runs(self.now, self.alive, self.rows[vector])

    def positions(self, source: Vector, picked: Vector, old: np.ndarray) -> np.ndarray:
        """Where neurons that were picked from an axis lie on it now.

        Args:
          source: the neurons of the axis.
          picked: those that were picked. A run of theirs may occur on the axis several times.
          old: where they lay before, which tells the occurrences apart.

        Raises:
          StructureError: if only some neurons of a resized run were picked, or in another order.
        """
        if all(self.now.run_sizes[run] == self.before.run_sizes[run] for run in self.rows[source]):
            return old
        start, now, before = {}, 0, 0
        for run in self.rows[source]:
            start[run, before] = now
            now, before = now + self.now.run_sizes[run], before + self.before.run_sizes[run]
        found, at = [np.arange(0)], 0
        for run in self.rows[picked]:
            size = self.before.run_sizes[run]
            first = start.get((run, int(old[at])))
            if first is None or (np.diff(old[at : at + size]) != 1).any():
                raise StructureError("Neurons are picked from a resized axis in an order that cannot be told any more.")
            found.append(np.arange(first, first + self.now.run_sizes[run]))
            at += size
        return np.concatenate(found)

    def cut(self, array: Array, entries: Entries) -> Array:
        """The entries that a constant has for the neurons that there are now.

        Raises:
          StructureError: if it is not known which neurons these are.
        """
        for d, dim in enumerate(entries.dims):
            row = () if dim is None else self.rows[dim]
            if not self.origins.changed(row):
                self._check_unchanged(row)
                continue
            found = self.origins.positions(row)
            array = taken(array, old(found), d)
            if d in entries.reads and (found < 0).any():
                shape = [-1 if axis == d else 1 for axis in range(len(entries.dims))]
                array = jnp.where((found < 0).reshape(shape), jnp.zeros((), array.dtype), array)
        return array

    def _check_unchanged(self, row: Iterable[int]) -> None:
        """Raise if the neurons on some runs are others than at first: which ones is not known."""
        if any(self.now.run_sizes[run] != self.before.run_sizes[run] for run in self.before.plain(row)):
            raise StructureError(
                "A constant has an entry for each neuron of an axis that has been resized, and called like this (other "
                "inputs, keyword arguments or mode than the model was imported with) the neurons that stayed are not "
                "known. Import the model with these arguments."
            )

    def shape(self, value: Value, old: Sequence[int]) -> tuple[int, ...]:
        """The shape of a value now."""
        return tuple(size if dim is None else self.length(dim) for dim, size in zip(value.dims, old, strict=True))

    def result_shape(self, frame: Frame, eqn: Equation) -> tuple[int, ...]:
        """The shape of the first result of an equation now."""
        return self.shape(frame.values[eqn.outvars[0]], eqn.outvars[0].aval.shape)


#: ``rule(sizes, frame, eqn, operands) -> results``
BindRule: TypeAlias = Callable[[NewSizes, Frame, Equation, list[Array]], Sequence[Array]]

#: How each primitive is bound again. One that is not in the table is bound with the parameters that it had.
BINDS: dict[str, BindRule] = {}


def binds(*primitives: str) -> Callable[[BindRule], BindRule]:
    """Register how primitives are bound again."""
    return register(BINDS, primitives)


#: ``rule(sizes, frame, eqn, operands) -> operands`` in which neurons that do not count are as if they were not there.
SilenceRule: TypeAlias = Callable[[NewSizes, Frame, Equation, list[Array]], list[Array]]

#: What is done to the operands of primitives that mix neurons, where some neurons do not count. Primitives that are not
#: in the table compute each neuron by itself, or fix it.
SILENCES: dict[str, SilenceRule] = {}


def silences(*primitives: str) -> Callable[[SilenceRule], SilenceRule]:
    """Register how primitives are kept from noticing neurons that do not count."""
    return register(SILENCES, primitives)


def evaluate_resized(closed: ClosedJaxpr, frame: Frame, sizes: NewSizes, arguments: Sequence[Array]) -> list[Array]:
    """The results of a jaxpr for arguments of the new sizes; ``frame`` is what its analysis found out."""

    def equation(eqn: Equation, operands: list[Array]) -> Sequence[Array]:
        rule, constants = BINDS.get(eqn.primitive.name), frame.constants.get(eqn, {})
        silence = SILENCES.get(eqn.primitive.name) if sizes.alive else None
        operands = [sizes.cut(x, constants[i]) if i in constants else x for i, x in enumerate(operands)]
        if silence:
            operands = silence(sizes, frame, eqn, operands)
        with computing(*computed_in(eqn)):
            return rule(sizes, frame, eqn, operands) if rule else bind(eqn, operands)

    return evaluate(closed, arguments, equation)


def taken(array: Array, positions: np.ndarray, axis: int) -> Array:
    """The entries of an array at some positions of a dimension; of an array of numpy again one."""
    if isinstance(array, np.ndarray):
        return np.take(array, positions, axis=axis)
    return jnp.take(array, positions, axis=axis, mode="clip")
