"""Which entries of variables the entries of an array are, by number: arrays that are cut, joined and moved about.

The entries of all variables are counted through, one variable after the other. What an array is that is made of
variables by moving their entries is told by the array of these numbers which the same equations make.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from naivenas_jax.dataflow.tape import Step
from naivenas_jax.jaxpr.elementwise_primitives import PASSING
from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Variables

#: For each entry of an array the number of the variable's entry that it is.
Origin: TypeAlias = Int[np.ndarray, "..."]

#: Equations that move entries, or leave some out.
_MOVES = frozenset(
    ("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "concatenate", "slice", "split", "rev")
)
#: Equations that leave entries where they are.
_STAYS = (PASSING - {"optimization_barrier"}) | {"copy", "copy_p"}


@dataclass(frozen=True, eq=False)
class Entries:
    """The entries of some variables, counted through.

    Attributes:
      first: the number of the first entry of each variable, in order.
      shapes: the shape of each variable.
      size: how many entries there are.
    """

    first: Mapping[Path, int]
    shapes: Mapping[Path, tuple[int, ...]]
    size: int

    @classmethod
    def of(cls, variables: Variables) -> Entries:
        """The entries of these variables.

        >>> entries = Entries.of({"a": np.ones(2), "b": np.ones((2, 2))})
        >>> entries.size, entries.origin(("b",)).tolist()
        (6, [[2, 3], [4, 5]])
        """
        shapes = {path: tuple(np.shape(array)) for path, array in flat(variables).items()}
        ends = np.cumsum([0, *map(prod, shapes.values())]).tolist()
        return cls(dict(zip(shapes, ends, strict=False)), shapes, ends[-1])

    def origin(self, path: Path) -> Origin:
        """The numbers of the entries of a variable, in its shape."""
        shape = self.shapes[path]
        return self.first[path] + np.arange(prod(shape)).reshape(shape)

    def part_of(self, path: Path, numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " some"]:
        """Which of some numbers are those of entries of a variable."""
        first = self.first[path]
        return np.flatnonzero((numbers >= first) & (numbers < first + prod(self.shapes[path])))


def followed(steps: Iterable[Step], known: Mapping[int, Origin]) -> dict[int, Origin]:
    """What is known of values, and of all that these equations make of them by moving entries."""
    found = dict(known)
    for step in steps:
        results = moved(step.eqn, [found.get(number) for number in step.operands])
        found.update(zip(step.results, results or (), strict=False))
    return found


def moved(eqn: Equation, operands: Sequence[Origin | None]) -> list[Origin] | None:
    """What an equation that moves entries makes of numbers in their place; None: it does something else.

    Args:
      eqn: the equation.
      operands: the numbers; None where an operand has none.

    >>> traced = jax.make_jaxpr(lambda w: w.T)(np.ones((2, 3)))
    >>> moved(traced.jaxpr.eqns[0], [np.arange(6).reshape(2, 3)])[0].tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    arrays = [own for own in operands if own is not None]
    if len(arrays) < len(operands) or not moves(eqn):
        return None
    if eqn.primitive.name not in _MOVES:
        return arrays
    with jax.ensure_compile_time_eval():
        return [np.asarray(array) for array in bind(eqn, [np.asarray(own, np.int32) for own in arrays])]


def moves(eqn: Equation) -> bool:
    """Whether an equation moves entries only, or casts them from real numbers to real numbers."""
    cast = eqn.primitive.name == "convert_element_type" and all(
        jnp.issubdtype(atom.aval.dtype, jnp.floating) for atom in (eqn.invars[0], eqn.outvars[0])
    )
    return cast or eqn.primitive.name in _MOVES or eqn.primitive.name in _STAYS
