"""Evaluate a tape, equation by equation, and show every use of a variable.

Loops (``scan``, ``while``, ``cond``) are evaluated as they are; what happens inside them is out of sight. Variables of
whole or complex numbers are not looked at, nor are contractions of complex activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from naivenas_jax.dataflow.contraction import Contraction, contraction_of
from naivenas_jax.dataflow.pointwise_tail import PointwiseTail, tail_of
from naivenas_jax.dataflow.rearranged import Rearranged, rearrangements
from naivenas_jax.dataflow.tape import Step, Tape, Values
from naivenas_jax.dataflow.variable_uses import AddedVariable, Hook, OtherUse, Outcome, SkipConnection, Standardisation
from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, Variables


@dataclass(frozen=True)
class _Seen:
    """What is known of a value.

    Attributes:
      array: the value.
      weight: whether it depends on variables and constants only.
      variable: the variable that it is, rearranged.
      made: the contraction whose result it is, perhaps cast or reshaped.
      summed: the contraction whose result it is, and variables that were added.
      step: the step that made it.
    """

    array: Array
    weight: bool = False
    variable: Rearranged | None = None
    made: Contraction | None = None
    summed: Contraction | None = None
    step: int = -1


def walk_tape(
    tape: Tape, variables: Variables, live: Values, hook: Hook, start: int = 0, stop: int | None = None
) -> dict[int, Array]:
    """Evaluate some of the steps, and show the hook every use of a variable. Works under transformations of jax.

    Args:
      tape: the tape whose steps are evaluated.
      variables: the variables as they are now.
      live: the values that are read from ``start`` on, by number; see `Tape.start`.
      hook: sees each use of a variable, in the order of evaluation.
      start: the first step.
      stop: the step after the last; None: the end.

    Returns:
      The values that are read from ``stop`` on.
    """
    stop = len(tape.steps) if stop is None else stop
    walking = _Walk(hook)
    known = {**_weights(tape, variables, start, stop, hook), **{n: _Seen(array) for n, array in live.items()}}
    tails = dict[int, tuple[PointwiseTail, Contraction]]()
    for position, step in enumerate(tape.steps[start:stop], start):
        found = walking.step(step, [known[operand] for operand in step.operands], position)
        known.update(zip(step.results, found, strict=True))
        made = found[0].made if found else None
        if made is not None and made.step == position and (tail := tail_of(tape, position)):
            tails[tail.steps[-1]] = tail, made
        if position in tails:
            hook(_outcome(tape, {n: seen.array for n, seen in known.items()}, *tails[position]))
    wanted = frozenset(tape.results) if stop == len(tape.steps) else tape.live[stop]
    return {number: known[number].array for number in sorted(wanted)}


def _weights(tape: Tape, variables: Variables, start: int, stop: int, hook: Hook) -> dict[int, _Seen]:
    """The constants, the variables, and what these steps read that is computed from them alone."""
    arrays = flat(variables)
    every = rearrangements(tape, variables)
    own = {n: one for n, one in every.items() if not one.scaled and _real(arrays[one.path])}
    known = {number: _Seen(value, True) for number, value in tape.constants.items()}
    known.update((n, _Seen(arrays[path], True, own.get(n))) for path, n in tape.variables.items())
    for step in tape.needed(start, stop):
        results = bind(step.eqn, [known[n].array for n in step.operands])
        found = [_Seen(array, True, own.get(n)) for n, array in zip(step.results, results, strict=True)]
        if all(seen.variable is None for seen in found):
            for number in step.operands:
                if (used := known[number].variable) is not None:
                    hook(OtherUse(used.path))
        known.update(zip(step.results, found, strict=True))
    return known


def _outcome(tape: Tape, known: Values, tail: PointwiseTail, made: Contraction) -> Outcome:
    return Outcome(made, known[tail.outcome], lambda: tail.slope(tape, known), tail.steps[-1])


def _real(array: Array) -> bool:
    """Only real numbers are fitted; complex and whole ones are left alone."""
    return bool(jnp.issubdtype(jnp.result_type(array), jnp.floating))


class _Walk:
    """Evaluates steps, and counts how often each variable has been contracted."""

    def __init__(self, hook: Hook):
        self.hook = hook
        self.counts: dict[Path, int] = {}

    def step(self, step: Step, operands: Sequence[_Seen], position: int) -> list[_Seen]:
        eqn = step.eqn
        arrays = bind(eqn, [o.array for o in operands])
        if (made := self._contraction(eqn, operands, arrays, position)) is not None:
            return [_Seen(made.result, made=made, summed=made, step=position)]
        added = self._added(eqn, operands, position)
        for operand in operands:
            if operand is not added and operand.variable is not None:
                self.hook(OtherUse(operand.variable.path))
        self._skip(eqn, operands, arrays[0], position)
        passes = eqn.primitive.name in ("convert_element_type", "reshape") and _real(arrays[0])
        summed = next((o.summed for o in operands if o is not added), None) if added or passes else None
        if summed is not None and np.shape(arrays[0]) != summed.result.shape:
            summed = None
        made = operands[0].made if passes else None
        return [_Seen(array, made=made, summed=summed, step=position) for array in arrays]

    def _skip(self, eqn: Equation, operands: Sequence[_Seen], result: Array, position: int) -> None:
        """Show an addition of what was made before a contraction to its result: once to each entry of that."""
        if eqn.primitive.name != "add" or any(o.weight for o in operands):
            return
        for own, other in (operands, operands[::-1]):
            if own.summed is not None and other.step < own.summed.step and own.array.shape == np.shape(result):
                self.hook(SkipConnection(own.summed, jnp.broadcast_to(other.array, np.shape(result)), position))

    def _contraction(
        self, eqn: Equation, operands: Sequence[_Seen], results: Sequence[Array], position: int
    ) -> Contraction | None:
        """The equation as a contraction, with the result that the hook wants it to have."""
        if eqn.primitive.name not in ("dot_general", "conv_general_dilated") or not _real(results[0]):
            return None
        sides = [(i, o.variable) for i, o in enumerate(operands) if o.variable is not None and o.variable.exact]
        if len(sides) != 1:
            return None
        ((side, own),) = sides
        found = contraction_of(eqn, side, own, operands[1 - side].array, results[0])
        if found is None:
            return None
        number = self.counts[own.path] = self.counts.get(own.path, -1) + 1
        found = replace(found, number=number, step=position)
        changed = self.hook(found)
        return found if changed is None else replace(found, result=changed)

    def _added(self, eqn: Equation, operands: Sequence[_Seen], position: int) -> _Seen | None:
        """The operand that is a variable added to or subtracted from something, if there is one."""
        if eqn.primitive.name not in ("add", "sub", "add_any"):
            return None
        left, right = operands
        if eqn.primitive.name != "sub" and left.variable is not None:
            left, right = right, left
        if right.variable is None or not _real(left.array):
            return None
        sign = -1 if eqn.primitive.name == "sub" else 1
        path, dims = right.variable.path, right.variable.dims
        if left.made is not None:
            self.hook(AddedVariable(left.made, path, sign, np.shape(left.array), dims))
        if sign == -1 and path[0] != "params" and path[-1] == "mean" and dims is not None:
            self.hook(Standardisation(path, left.array, dims, position))
        return right
