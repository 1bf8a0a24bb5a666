"""Evaluate a traced function with other sizes: every primitive is bound again, with its shape parameters re-derived."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend import core as jex

from naivenas_jax.errors import StructureError
from naivenas_jax.graph.evaluation.name_scopes import computed_in, computing
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.trace.program.table import BINDS
from naivenas_jax.trace.program.value import Value


@dataclass(frozen=True, eq=False)
class Sizes:
    """The new size of every vector.

    Attributes:
      rows: for each vector its runs.
      runs: the size of each run.
      products: for runs that are products, the runs of each factor.
      before: the size of each run in the original.
      watch: gets to see each named value, with the frame that it is in, and returns what it shall be.
    """

    rows: Mapping[Vector, tuple[int, ...]]
    runs: Sequence[int]
    products: Mapping[int, tuple[tuple[int, ...], ...]]
    before: Sequence[int] = ()
    watch: Callable[[str, Any, Any], Any] | None = None

    def length(self, vector: Vector) -> int:
        """How many neurons a vector has now."""
        return self.row(self.rows[vector])

    def row(self, runs: tuple[int, ...]) -> int:
        """How many neurons these runs have now."""
        return sum(
            math.prod(self.row(factor) for factor in self.products[run]) if run in self.products else self.runs[run]
            for run in runs
        )

    def positions(self, source: Vector, picked: Vector, old: np.ndarray) -> np.ndarray:
        """Where the neurons of ``picked`` lie on ``source`` now, if they lay at the positions ``old`` before.

        A run of ``picked`` may occur on ``source`` several times; which one it was taken from, its position tells.
        """
        if all(self.row((run,)) == self.before[run] for run in self.rows[source]):
            return old
        start, now, before = {}, 0, 0
        for run in self.rows[source]:
            start[run, before] = now
            now, before = now + self.row((run,)), before + self.before[run]
        found, at = [np.arange(0)], 0
        for run in self.rows[picked]:
            size = self.before[run]
            first = start.get((run, int(old[at])))
            if first is None or (np.diff(old[at : at + size]) != 1).any():
                raise StructureError("Neurons are picked from a resized axis in an order that cannot be told any more.")
            found.append(np.arange(first, first + self.row((run,))))
            at += size
        return np.concatenate(found)

    def shape(self, value: Value, old: Sequence[int]) -> tuple[int, ...]:
        """The shape of a value now."""
        return tuple(size if dim is None else self.length(dim) for dim, size in zip(value.dims, old, strict=True))

    def result_shape(self, frame: Any, eqn: Any) -> tuple[int, ...]:
        """The shape of the first result of an equation now."""
        return self.shape(frame.values[eqn.outvars[0]], eqn.outvars[0].aval.shape)


def evaluate(jaxpr: Any, frame: Any, sizes: Sizes, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The results of a jaxpr for arguments of the new sizes."""
    known: dict[Any, Any] = {**dict(zip(jaxpr.constvars, consts, strict=True))}
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else known[atom]

    for position, eqn in enumerate(jaxpr.eqns):
        frame.position = position
        arrays = [read(atom) for atom in eqn.invars]
        rule = BINDS.get(eqn.primitive.name)
        with computing(*computed_in(eqn)):
            results = rule(sizes, frame, eqn, arrays) if rule else bind(eqn, arrays)
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def bind(eqn: Any, arrays: Sequence[Any], **changed: Any) -> list[Any]:
    """Bind the primitive of an equation again, some of its parameters changed."""
    results = eqn.primitive.bind(*arrays, **eqn.primitive.get_bind_params({**eqn.params, **changed}))
    return list(results) if eqn.primitive.multiple_results else [results]
