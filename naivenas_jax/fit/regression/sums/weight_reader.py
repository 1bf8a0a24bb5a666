"""One weight on both networks, batch by batch: what it made before, what it reads now, and what outcomes miss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Float

from naivenas_jax.dataflow.variable_uses import VariableUse
from naivenas_jax.fit.network.network import KEPT, Run, Runs, on_device
from naivenas_jax.fit.regression.generalised_linear_fit import Missed
from naivenas_jax.fit.regression.sums.least_squares import Problem
from naivenas_jax.fit.regression.sums.row_sums import RowSums
from naivenas_jax.fit.regression.use_sums import (
    Taken,
    Taking,
    WithOutcome,
    made,
    made_and_skipped,
    missed,
    outcome,
    rows,
    rows_with_skip,
)
from naivenas_jax.paths import Path
from naivenas_jax.typing import PyTree, Variables

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class WeightReader:
    """Reads one weight.

    Attributes:
      runs: both networks on every batch.
      before: the variables before the mutation.
      old: the weight before the mutation.
      path: the weight now.
      others: variables that are about to change with it.
      later: the weights that will be read of the network before the mutation after this one.
      taken: the rows and columns that are read.
      once: whether the network contracts the weight once.
      aiming: whether outcomes are read; those before the mutation are then kept, by batch, as far as they fit.
    """

    runs: Runs
    before: Variables
    old: Path
    path: Path
    others: Collection[Path]
    later: Collection[Path]
    taken: Taken
    once: bool
    aiming: bool
    _aims: dict[int, PyTree] = field(default_factory=dict)

    def problem(self, variables: Variables, present: Float[np.ndarray, "G K M"], skip: bool, *given: PyTree) -> Problem:
        """The least squares problem of what the weight is to make.

        Args:
          variables: the variables now.
          present: the weights now, of the columns that are read.
          skip: whether the sum with a skip connection is fitted.
          *given: the column before of each column now, its factor, and what columns are reduced to.
        """
        wanted, second = (made_and_skipped, rows_with_skip) if skip else (made, rows)
        first = (WithOutcome if self.aiming else Taking)(self.taken, wanted)
        name = "/".join(self.path)
        both = fitted, held_out = RowSums(), RowSums()
        for number, found in enumerate(self._read(variables, first, Taking(self.taken, second), *given)):
            for own, one in zip(both, found, strict=True):
                own.add(one, f"{name} on batch {number}")
        return Problem.of(fitted, held_out, present)

    def missed(self, variables: Variables, *given: PyTree) -> Missed:
        """By how much the outcomes of the weight are missed.

        Args:
          variables: the variables now.
          *given: the column before of each column now, whether there was one, and what columns are reduced to.
        """
        first, second = (Taking(self.taken, reading) for reading in (outcome, missed))
        return Missed.together(self._read(variables, first, second, *given))

    def _read(
        self,
        variables: Variables,
        first: Callable[[Sequence[VariableUse]], PyTree],
        second: Callable[..., T],
        *given: PyTree,
    ) -> Iterator[T]:
        """For each batch what ``second`` reads of the weight now, given what ``first`` read of it before the mutation.

        What ``first`` read, or the outcome that it read beside, is kept.
        """
        now, numbers = on_device(variables), itertools.count()
        one_in = self.taken.one_in if self.once and self.taken.one_in > 1 else None

        def visit(before: Run, after: Run) -> tuple[tuple[Run, Run], T]:
            number = next(numbers)
            then = self._aims.get(number)
            if then is None:
                before, read = before.read(first, self.old, (), self.before, later=self.later)
                then, aim = read if isinstance(first, WithOutcome) else (read, read)
                self._keep(number, aim)
            after, found = after.read(second, self.path, self.others, now, then, *given, one_in=one_in)
            return (before, after), found

        return self.runs.visited(visit)

    def _keep(self, number: int, aim: PyTree) -> None:
        if self.aiming and sum(array.nbytes for array in jax.tree.leaves((self._aims, aim))) <= KEPT // 4:
            self._aims[number] = aim
