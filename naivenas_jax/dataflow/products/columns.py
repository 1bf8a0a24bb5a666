"""Which column of a weight's matrix every entry of a value is, as long as columns are moved, scaled and shifted.

A contraction makes columns (see `naivenas_jax.dataflow.contraction`). Behind it, a bias is added, numbers divide it, it
is cut into heads, transposed, repeated, and summed over words with the weights of an attention. All of this may be
followed with the numbers of the columns in the place of entries, until something else is done with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.rearranged import Rearranged
from naivenas_jax.dataflow.tape import Step, Tape
from naivenas_jax.jaxpr.elementwise_primitives import PASSING
from naivenas_jax.jaxpr.interpret import Equation

#: For each entry of a value the number of its column, counted over all groups of the contraction.
Numbers = Int[np.ndarray, "..."]


class Use(NamedTuple):
    """Something else is done with columns.

    Attributes:
      step: the step that does it; as many as there are: they are returned.
      side: which of its operands they are.
      numbers: the columns.
      kin: for each column a number, the same of those that have been mixed along other dimensions in the same way, such
        as the values of one head, which are summed over words.
    """

    step: int
    side: int
    numbers: Numbers
    kin: Int[np.ndarray, " columns"]


class Added(NamedTuple):
    """A variable is added to columns, or subtracted from them, or they are subtracted from it.

    Attributes:
      number: of the value on the tape.
      numbers: the columns.
    """

    number: int
    numbers: Numbers


@dataclass(frozen=True, eq=False)
class Columns:
    """What becomes of the columns that one contraction makes.

    Attributes:
      made: the contraction.
      uses: what else is done with them.
      added: what is added to them on the way.
    """

    made: Contraction
    uses: Sequence[Use]
    added: Sequence[Added]


def columns_of(tape: Tape, made: Contraction) -> Columns:
    """The columns of a contraction, followed to the end."""
    (result,) = tape.steps[made.step].results
    first = _numbers(made)
    known: dict[int, _Held] = {result: _Held(first, np.zeros(int(first.max()) + 1, int))}
    uses, added = list[Use](), list[Added]()
    for position, step in enumerate(tape.steps[made.step + 1 :], made.step + 1):
        own = [side for side, number in enumerate(step.operands) if number in known]
        if not own:
            continue
        follows = own[0] if len(own) == 1 else None
        results = None if follows is None else _followed(tape, step, follows, known[step.operands[follows]])
        if results is None:
            uses += [Use(position, side, *known[step.operands[side]]) for side in own]
            continue
        known.update(zip(step.results, results, strict=True))
        if step.eqn.primitive.name in _SUMS and follows is not None:
            added.append(Added(step.operands[1 - follows], results[0].numbers))
    uses += [Use(len(tape.steps), i, *known[number]) for i, number in enumerate(tape.results) if number in known]
    return Columns(made, uses, added)


class _Held(NamedTuple):
    """What is known of a value; see `Use`."""

    numbers: Numbers
    kin: Int[np.ndarray, " columns"]


def makers_of(tape: Tape, number: int) -> list[int]:
    """The steps that contract a variable and whose columns a value may hold."""
    position = tape.born.get(number)
    if position is None:
        return []
    step = tape.steps[position]
    if step.paths and step.eqn.primitive.name in _CONTRACTIONS:
        return [position]
    sides = [side for side in range(len(step.operands)) if _passes(tape, step, side)]
    return [maker for side in sides for maker in makers_of(tape, step.operands[side])]


def entries_of(variable: Rearranged, added: Added, columns: int, shape: Sequence[int]) -> Numbers | None:
    """For each of so many columns the entry of a variable that is added to it, -1 for none; None: there are several.

    Args:
      variable: how the value that is added was made of the variable.
      added: where it is added.
      columns: the number of columns.
      shape: of the variable.
    """
    every = _entries_in_place(variable, added, shape)
    if every is None:
        return None
    found = np.full(columns, -1)
    found[added.numbers] = every
    return found if (found[added.numbers] == every).all() else None


def _entries_in_place(variable: Rearranged, added: Added, shape: Sequence[int]) -> Numbers | None:
    """The positions in the flattened variable, broadcast as it is where it is added."""
    entries, to = np.arange(int(np.prod(shape))).reshape(shape), added.numbers.shape
    if variable.exact:
        return np.broadcast_to(np.asarray(variable.forward(entries)), to)
    if variable.dims is None or [to[d] for d in variable.dims] != list(shape):
        return None
    others = [d for d in range(len(to)) if d not in variable.dims]
    return np.broadcast_to(np.expand_dims(entries.transpose(np.argsort(variable.dims)), others), to)


def _numbers(made: Contraction) -> Numbers:
    """The column of each entry of the result of a contraction."""
    size = int(np.prod(made.result.shape))
    places = np.asarray(made.columns(np.arange(size, dtype=np.int32).reshape(made.result.shape)))
    groups, _, outputs = places.shape
    found = np.empty(size, np.int32)
    found[places] = np.arange(groups * outputs, dtype=np.int32).reshape(groups, 1, outputs)
    return found.reshape(made.result.shape)


def _followed(tape: Tape, step: Step, side: int, held: _Held) -> list[_Held] | None:
    """The columns in the results of a step that passes them on; None: it does not."""
    if not _passes(tape, step, side):
        return None
    if step.eqn.primitive.name == "dot_general":
        return _mixed(step.eqn, side, held)
    move = _MOVES.get(step.eqn.primitive.name)
    found = [held.numbers] if move is None else move(step.eqn, held.numbers)
    shapes = [result.aval.shape for result in step.eqn.outvars]
    return [_Held(own, held.kin) for own in found] if [own.shape for own in found] == shapes else None


def _mixed(eqn: Equation, side: int, held: _Held) -> list[_Held] | None:
    """The columns of a product with an activation that is contracted over other dimensions; None: over columns."""
    contracted, batch = eqn.params["dimension_numbers"]
    numbers, over, beside = held.numbers, contracted[side], batch[side]
    free = [d for d in range(numbers.ndim) if d not in (*over, *beside)]
    kept = [numbers.shape[d] for d in (*beside, *free)]
    every = numbers.transpose(*beside, *free, *over).reshape(*kept, -1)
    first = every[..., 0]
    if every.shape[-1] == 1 or (every != first[..., None]).any():  # of a single one nothing tells what it is
        return None
    shape = eqn.outvars[0].aval.shape
    others = len(shape) - first.ndim
    places = range(len(beside), len(beside) + others) if side == 1 else range(first.ndim, len(shape))
    column, where = np.unique(first, return_index=True)
    inner = int(np.prod(first.shape[len(beside) :]))
    batches = np.full(len(held.kin), -1)
    batches[column] = where // inner
    kin = np.unique(np.stack([held.kin, batches]), axis=1, return_inverse=True)[1].ravel()
    return [_Held(np.broadcast_to(np.expand_dims(first, tuple(places)), shape), kin)]


def _passes(tape: Tape, step: Step, side: int) -> bool:
    """Whether the results of a step are one of its operands, moved about, times a number, plus a variable."""
    name = step.eqn.primitive.name
    if name in _MOVES:
        return side == 0
    if name in PASSING - {"optimization_barrier"} or name in _ALIKE:
        return True
    if name == "dot_general":
        return not step.paths
    if len(step.operands) != 2:
        return False
    other = step.eqn.invars[1 - side].aval
    if name in _SUMS:
        number = step.operands[1 - side]
        return number not in tape.born and number not in tape.inputs  # it depends on variables alone
    return other.size == 1 and (name == "mul" or (name == "div" and side == 0))


def _reshaped(eqn: Equation, numbers: Numbers) -> list[Numbers]:
    return [numbers.reshape(eqn.outvars[0].aval.shape)]


def _transposed(eqn: Equation, numbers: Numbers) -> list[Numbers]:
    return [numbers.transpose(eqn.params["permutation"])]


def _broadcast(eqn: Equation, numbers: Numbers) -> list[Numbers]:
    shape, to = eqn.outvars[0].aval.shape, eqn.params["broadcast_dimensions"]
    return [np.broadcast_to(np.expand_dims(numbers, [d for d in range(len(shape)) if d not in to]), shape)]


def _sliced(eqn: Equation, numbers: Numbers) -> list[Numbers]:
    strides = eqn.params["strides"] or (None,) * numbers.ndim
    ends = zip(eqn.params["start_indices"], eqn.params["limit_indices"], strides, strict=True)
    return [numbers[tuple(slice(*end) for end in ends)]]


def _split(eqn: Equation, numbers: Numbers) -> list[Numbers]:
    return np.split(numbers, np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"])


_CONTRACTIONS = frozenset(("dot_general", "conv_general_dilated"))
_SUMS = frozenset(("add", "add_any", "sub"))
_ALIKE = frozenset(("neg", "convert_element_type", "copy", "copy_p"))
_MOVES: Mapping[str, Callable[[Equation, Numbers], list[Numbers]]] = {
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "transpose": _transposed,
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "split": _split,
}
