"""Variables that are cast, transposed, reshaped, broadcast or put through functions before a network uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from naivenas_jax.dataflow.tape import Step, Tape
from naivenas_jax.jaxpr.elementwise_primitives import ELEMENTWISE, PASSING
from naivenas_jax.jaxpr.interpret import Equation
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, Variables

Move: TypeAlias = Callable[[Array], Array]


@dataclass(frozen=True)
class Rearranged:
    """A variable whose entries have been moved, and perhaps scaled.

    Attributes:
      path: the variable.
      moves: how the entries were moved: functions of an array of the variable's shape, in the order of application.
      dims: for each dimension of the variable the one that it lies on now; None where that cannot be told.
      spread: whether it has been broadcast, so that an entry of the variable is found more than once.
      scaled: whether entries are functions of those of the variable (scaled, shifted, clipped), perhaps of others too.
    """

    path: Path
    moves: tuple[Move, ...]
    dims: tuple[int, ...] | None
    spread: bool = False
    scaled: bool = False

    @property
    def exact(self) -> bool:
        """Whether every entry of the variable is found once, as it is."""
        return not self.spread and not self.scaled

    def forward(self, array: Array) -> Array:
        """The same moves of another array of the variable's shape."""
        for move in self.moves:
            array = move(array)
        return array

    def lying_on(self, dim: int) -> int | None:
        """The dimension of the variable that lies on a dimension; None: none does, or it cannot be told."""
        return self.dims.index(dim) if self.dims is not None and dim in self.dims else None


def rearrangements(tape: Tape, variables: Variables) -> dict[int, Rearranged]:
    """The values of a tape that are variables, rearranged or as they are, by number."""
    arrays = flat(variables)
    return rearranged_by(tape.weights, {n: (path, arrays[path]) for path, n in tape.variables.items()})


def rearranged_by(steps: Iterable[Step], variables: Mapping[int, tuple[Path, Array]]) -> dict[int, Rearranged]:
    """The values that are variables, rearranged by some steps or as they are, by number.

    Args:
      steps: equations that depend on variables and constants only, in order.
      variables: by number.
    """
    found = {n: Rearranged(path, (), tuple(range(np.ndim(array)))) for n, (path, array) in variables.items()}
    for step in steps:
        moved = _result(step.eqn, [found.get(number) for number in step.operands])
        if moved is not None:
            found[step.results[0]] = moved
    return found


def _result(eqn: Equation, operands: Sequence[Rearranged | None]) -> Rearranged | None:
    """The variable that the result of an equation still is, if it is one."""
    name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
    if name in _MOVES:
        return None if operands[0] is None else _MOVES[name](eqn, operands[0])
    if name not in ELEMENTWISE:
        return None
    own = [was for was, atom in zip(operands, eqn.invars, strict=True) if was and atom.aval.shape == shape]
    whole = [was for was in own if not was.spread]
    return replace(whole[0], scaled=True) if whole else None


def _cast(eqn: Equation, was: Rearranged) -> Rearranged:
    del eqn
    return was


def _transposed(eqn: Equation, was: Rearranged) -> Rearranged:
    order = tuple(eqn.params["permutation"])
    dims = None if was.dims is None else tuple(order.index(d) for d in was.dims)
    return replace(was, moves=(*was.moves, lambda array: array.transpose(order)), dims=dims)


def _reshaped(eqn: Equation, was: Rearranged) -> Rearranged:
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    wide = tuple(d for d, n in enumerate(after) if n != 1)
    dims = None
    if was.dims is not None and [before[d] for d in was.dims] == [after[d] for d in wide]:
        dims = wide
    elif was.dims is not None and len(was.dims) == 1 and before[was.dims[0]] == 1 == after[-1]:
        dims = (len(after) - 1,)  # a single neuron; the last dimension is the one that a statistic lies on
    return replace(was, moves=(*was.moves, _reshape_to(after)), dims=dims)


def _broadcast(eqn: Equation, was: Rearranged) -> Rearranged:
    to = eqn.params["broadcast_dimensions"]
    dims = None if was.dims is None else tuple(to[d] for d in was.dims)
    before, after = eqn.invars[0].aval, eqn.outvars[0].aval
    moves = (*was.moves, _reshape_to(after.shape))
    return replace(was, moves=moves, dims=dims, spread=was.spread or before.size != after.size)


def _reshape_to(shape: Sequence[int]) -> Move:
    return lambda array: array.reshape(tuple(shape))


_MOVES: Mapping[str, Callable[[Equation, Rearranged], Rearranged]] = {
    "convert_element_type": _cast,
    "copy": _cast,
    "copy_p": _cast,
    **dict.fromkeys(PASSING - {"optimization_barrier"}, _cast),
    "transpose": _transposed,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "broadcast_in_dim": _broadcast,
}
