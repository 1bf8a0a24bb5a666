"""Evaluate a tape, equation by equation, and show every use of a variable.

Loops (``scan``, ``while``, ``cond``) are evaluated as they are; what happens inside them is out of sight. Variables of
whole or complex numbers are not looked at, nor are contractions of complex activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from naivenas_jax.dataflow.contraction import Contraction, contraction_of
from naivenas_jax.dataflow.pointwise_tail import PointwiseTail, tail_of
from naivenas_jax.dataflow.rearranged import Rearranged, rearranged_by
from naivenas_jax.dataflow.tape import Step, Tape, Values
from naivenas_jax.dataflow.variable_uses import AddedVariable, Hook, OtherUse, Outcome, SkipConnection, Standardisation
from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, Variables

#: A branch that is scaled by less than this, relative to its largest scale, makes up for nothing else in a sum.
FAINT = 0.1


@dataclass(frozen=True)
class _Sum:
    """What a contraction made, what was added to it and what that was multiplied with: ``scale * (result + others)``.

    Variables that were added to the result alone are not among the others.

    Attributes:
      contraction: the contraction.
      scale: what does not depend on inputs; None: 1.
      others: activations that do not depend on the contraction; None: none.
    """

    contraction: Contraction
    scale: Array | None = None
    others: Array | None = None

    def times(self, scale: Array) -> _Sum:
        """The same, multiplied."""
        return replace(self, scale=scale if self.scale is None else self.scale * scale)

    def plus(self, other: Array) -> Array:
        """The others, with one more; 0 of it where the result is scaled to next to nothing."""
        other = jnp.broadcast_to(other, self.contraction.result.shape)
        if self.scale is not None:
            loud = jnp.abs(self.scale) > FAINT * jnp.abs(self.scale).max()
            other = jnp.where(loud, other / jnp.where(loud, self.scale, 1), 0)
        return other if self.others is None else self.others + other


@dataclass(frozen=True)
class _Seen:
    """What is known of a value.

    Attributes:
      array: the value.
      weight: whether it depends on variables and constants only.
      variable: the variable that it is, rearranged.
      made: the contraction whose result it is, perhaps cast or reshaped.
      summed: the sum of a contraction's result and others that it is.
      latest: the step of the last contraction that it depends on.
    """

    array: Array
    weight: bool = False
    variable: Rearranged | None = None
    made: Contraction | None = None
    summed: _Sum | None = None
    latest: int = -1


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
    walking = _Walk(hook, tape.readers)
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
    """What these steps read of constants, of variables, and of what is computed from them alone."""
    arrays, needed = flat(variables), tape.needed(start, stop)
    read = {number for step in (*needed, *tape.steps[start:stop]) for number in step.operands} | {*tape.results}
    present = {n: (path, arrays[path]) for path, n in tape.variables.items() if n in read}
    every = rearranged_by(needed, present)
    own = {n: one for n, one in every.items() if not one.scaled and _real(arrays[one.path])}
    known = {number: _Seen(value, True) for number, value in tape.constants.items() if number in read}
    known.update((n, _Seen(array, True, own.get(n))) for n, (_, array) in present.items())
    for step in needed:
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


def _standardises(eqn: Equation, added: _Seen) -> bool:
    """Whether an equation subtracts a running mean."""
    path = () if added.variable is None else added.variable.path
    return eqn.primitive.name == "sub" and path[:1] != ("params",) and path[-1:] == ("mean",)


class _Walk:
    """Evaluates steps, and counts how often each variable has been contracted.

    Args:
      hook: sees each use of a variable.
      readers: how often each value is read.
    """

    def __init__(self, hook: Hook, readers: Mapping[int, int]):
        self.hook, self.readers = hook, readers
        self.counts: dict[Path, int] = {}

    def step(self, step: Step, operands: Sequence[_Seen], position: int) -> list[_Seen]:
        eqn = step.eqn
        arrays = bind(eqn, [o.array for o in operands])
        if (made := self._contraction(eqn, operands, arrays, position)) is not None:
            return [_Seen(made.result, made=made, summed=_Sum(made), latest=position)]
        added = self._added(eqn, operands, position)
        for operand in operands:
            if operand is not added and operand.variable is not None:
                self.hook(OtherUse(operand.variable.path))
        passes = eqn.primitive.name in ("convert_element_type", "reshape") and _real(arrays[0])
        if added and _standardises(eqn, added):
            summed = None  # statistics are estimated again once the weight is fitted, and would undo what makes up
        elif added or passes:
            summed = next((o.summed for o in operands if o is not added), None)
        else:
            summed = self._scaled(step, operands) or self._skip(step, operands, position)
        if summed is not None and np.shape(arrays[0]) != summed.contraction.result.shape:
            summed = None
        made = operands[0].made if passes else None
        latest = max((o.latest for o in operands), default=-1)
        return [_Seen(array, made=made, summed=summed, latest=latest) for array in arrays]

    def _scaled(self, step: Step, operands: Sequence[_Seen]) -> _Sum | None:
        """The sum that is multiplied with what depends on no input, such as a layer scale, and read nowhere else."""
        if step.eqn.primitive.name != "mul" or sum(o.weight for o in operands) != 1:
            return None
        place = int(operands[0].weight)
        summed, once = operands[place].summed, self.readers[step.operands[place]] == 1
        return summed.times(operands[1 - place].array) if summed is not None and once else None

    def _skip(self, step: Step, operands: Sequence[_Seen], position: int) -> _Sum | None:
        """Show that something is added to the result of a contraction: once to each entry of that.

        It depends on contractions before that one alone. So it is what it will be when the weight is fitted.

        Returns:
          The sum.
        """
        if step.eqn.primitive.name != "add" or any(o.weight for o in operands):
            return None
        for place, (own, other) in enumerate((operands, operands[::-1])):
            summed, alike = own.summed, np.shape(own.array) == step.eqn.outvars[0].aval.shape
            if summed is None or not alike or other.latest >= summed.contraction.step:
                continue
            if summed.others is None or self.readers[step.operands[place]] == 1:  # a sum that others read is one to fit
                others = summed.plus(other.array)
                self.hook(SkipConnection(summed.contraction, others, position))
                return replace(summed, others=others)
        return None

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
        if _standardises(eqn, right) and dims is not None:
            self.hook(Standardisation(path, left.array, dims, position))
        return right
