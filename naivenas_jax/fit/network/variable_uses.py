"""A function of (variables, inputs) evaluated equation by equation, with an eye on where its variables are used.

Three kinds of use are recognised, whatever layer they are from, hand-written or imported:

* a *contraction*: a variable, cast or rearranged, meets an activation in a matrix product or convolution;
* what is *added* to the result of a contraction or *subtracted* from it: a bias, or the mean of a normalisation;
* a *standardisation*: the running mean of a collection of statistics is subtracted from an activation.

Loops (``scan``, ``while``, ``cond``) are evaluated as they are; what happens inside them is out of sight. Variables of
whole or complex numbers are not looked at, nor are contractions of complex activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from naivenas_jax.fit.network.contraction import Contraction, contraction_of
from naivenas_jax.fit.network.equations import Program
from naivenas_jax.fit.network.pointwise_tail import Course, course_of
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat


@dataclass(frozen=True)
class Rearranged:
    """A variable, reshaped, transposed, cast or broadcast.

    Attributes:
      path: the variable.
      steps: what was done, as functions of an array of the variable's shape; None once it has been broadcast.
      dims: for each dimension of the variable the one that it lies on now; None where that cannot be told.
    """

    path: Path
    steps: tuple[Callable[[Any], Any], ...] | None
    dims: tuple[int, ...] | None

    def forward(self, array: Any) -> Any:
        """The same rearrangement of another array of the variable's shape."""
        for step in self.steps or ():
            array = step(array)
        return array


class Additive(NamedTuple):
    """A variable that is added to the result of a contraction (``sign`` 1) or subtracted from it (-1).

    ``shape`` is that of the result, which may have been reshaped; ``dims``: where the dimensions of the variable lie on
    it, None where that cannot be told.
    """

    contraction: Contraction
    path: Path
    sign: int
    shape: tuple[int, ...]
    dims: tuple[int, ...] | None


class Standardisation(NamedTuple):
    """A running mean is subtracted from an activation; ``dims``: where the dimensions of the mean lie on it."""

    path: Path
    activation: Any
    dims: tuple[int, ...]

    @property
    def moments(self) -> tuple[float, Any, Any]:
        """The number of values of the activation along all other dimensions, their mean and variance."""
        others = tuple(d for d in range(self.activation.ndim) if d not in self.dims)
        values = jax.numpy.asarray(self.activation, jax.numpy.float32)
        mean = values.mean(others)
        kept = tuple(np.argsort(np.argsort(self.dims)))
        spread = ((values - jax.numpy.expand_dims(mean, others)) ** 2).mean(others)
        number = float(np.prod([values.shape[d] for d in others]))
        return number, mean.transpose(kept), spread.transpose(kept)


class Joined(NamedTuple):
    """An activation, made before a contraction, is added to its result (and to what else was added); a skip connection.

    ``step`` is that of the addition.
    """

    contraction: Contraction
    activation: Any
    step: int

    @property
    def path(self) -> Path:
        """The variable that was contracted."""
        return self.contraction.path


class Outcome(NamedTuple):
    """What becomes of each entry that a contraction makes, until something mixes entries.

    ``slope()`` is its derivative by the entry that it comes from, ``step`` the one that returns it; see
    `naivenas_jax.fit.network.pointwise_tail`.
    """

    contraction: Contraction
    array: Any
    slope: Callable[[], Any]
    step: int

    @property
    def path(self) -> Path:
        """The variable that was contracted."""
        return self.contraction.path


class Other(NamedTuple):
    """Any other use of a variable: looked up by index, scaled, inside a loop."""

    path: Path


Event = Contraction | Additive | Standardisation | Joined | Outcome | Other
#: Sees each use of a variable; may return what the result of a contraction shall be instead.
Hook = Callable[[Event], Any]


@dataclass(frozen=True)
class _Seen:
    array: Any
    weight: bool = False
    variable: Rearranged | None = None
    made: Contraction | None = None
    summed: Contraction | None = None  # this, and variables that were added
    step: int = -1


def walk(
    program: Program,
    variables: Mapping[str, Any],
    live: Mapping[int, Any],
    hook: Hook,
    start: int = 0,
    stop: int | None = None,
) -> dict[int, Any]:
    """Some of the steps, with every use of a variable shown to the hook, in order. Works under transformations of jax.

    Args:
      program: whose steps they are.
      variables: as they are now.
      live: the values that are read from there on, by number; see `Program.start`.
      hook: sees each use of a variable.
      start, stop: the steps.

    Returns:
      The values that are read from ``stop`` on.
    """
    stop = len(program.steps) if stop is None else stop
    arrays, wanted = flat(variables), program.live[stop]
    known = {number: _Seen(value, True) for number, value in program.constants.items()}
    for path, number in program.variables.items():
        array = arrays[path]
        own = Rearranged(path, (), tuple(range(np.ndim(array)))) if _real(array) else None
        known[number] = _Seen(array, True, own)
    known.update((number, _Seen(array)) for number, array in live.items())
    evaluation, courses = _Walk(hook), dict[int, tuple[Course, Contraction]]()
    weights = ((-1, step) for step in program.needed(start, stop))
    for number, step in (*weights, *enumerate(program.steps[start:stop], start)):
        found = evaluation.equation(step.eqn, [known[operand] for operand in step.operands], number)
        known.update(zip(step.results, found, strict=True))
        if (made := found[0].made) is not None and made.step == number and (course := course_of(program, number)):
            courses[course.steps[-1]] = course, made
        if number in courses:
            hook(_outcome(program, known, *courses[number]))
    if stop == len(program.steps):
        wanted = frozenset(program.results)
    return {number: known[number].array for number in sorted(wanted)}


def _outcome(program: Program, known: Mapping[int, _Seen], course: Course, made: Contraction) -> Outcome:
    def slope() -> Any:
        return course.slope(program, {number: seen.array for number, seen in known.items()})

    return Outcome(made, known[course.outcome].array, slope, course.steps[-1])


def _real(array: Any) -> bool:
    """Only real numbers are fitted; complex and whole ones are left alone."""
    return bool(jax.numpy.issubdtype(jax.numpy.result_type(array), jax.numpy.floating))


class _Walk:
    def __init__(self, hook: Hook):
        self.hook = hook
        self.counts: dict[Path, int] = {}

    def equation(self, eqn: Any, operands: Sequence[_Seen], step: int) -> list[_Seen]:
        bound = eqn.primitive.bind(*(o.array for o in operands), **eqn.primitive.get_bind_params(eqn.params))
        arrays = list(bound) if eqn.primitive.multiple_results else [bound]
        if all(o.weight for o in operands):
            moved = _rearranged(eqn, operands[0].variable) if operands else None
            self._others([] if moved else operands)
            return [_Seen(array, True, moved) for array in arrays]
        if (made := self._contraction(eqn, operands, arrays[0], step)) is not None:
            return [_Seen(made.result, made=made, summed=made, step=step)]
        added = self._additive(eqn, operands)
        self._others([o for o in operands if o is not added])
        self._joined(eqn, operands, step)
        first, real = operands[0], _real(arrays[0])
        passes = eqn.primitive.name in ("convert_element_type", "reshape") and real
        summed = next((o.summed for o in operands if o is not added), None) if added or passes else None
        if summed is not None and np.shape(arrays[0]) != summed.result.shape:
            summed = None
        return [_Seen(array, made=first.made if passes else None, summed=summed, step=step) for array in arrays]

    def _joined(self, eqn: Any, operands: Sequence[_Seen], step: int) -> None:
        if eqn.primitive.name != "add" or any(o.weight for o in operands):
            return
        for own, other in (operands, operands[::-1]):
            if own.summed is not None and other.step < own.summed.step:
                self.hook(Joined(own.summed, other.array, step))

    def _contraction(self, eqn: Any, operands: Sequence[_Seen], result: Any, step: int) -> Contraction | None:
        if eqn.primitive.name not in ("dot_general", "conv_general_dilated"):
            return None
        sides = [i for i, o in enumerate(operands) if o.variable is not None and o.variable.steps is not None]
        if len(sides) != 1 or not _real(result):
            return None
        own = operands[sides[0]].variable
        assert own is not None
        found = contraction_of(eqn, sides[0], own.path, own.forward, operands[1 - sides[0]].array, result)
        if found is None:
            return None
        number = self.counts[own.path] = self.counts.get(own.path, -1) + 1
        found = replace(found, number=number, step=step)
        changed = self.hook(found)
        return found if changed is None else replace(found, result=changed)

    def _others(self, operands: Sequence[_Seen]) -> None:
        for operand in operands:
            if operand.variable is not None:
                self.hook(Other(operand.variable.path))

    def _additive(self, eqn: Any, operands: Sequence[_Seen]) -> _Seen | None:
        """The operand that is a variable added to or subtracted from something, if there is one."""
        if eqn.primitive.name not in ("add", "sub", "add_any"):
            return None
        left, right = operands
        if eqn.primitive.name != "sub" and left.variable is not None:
            left, right = right, left
        if right.variable is None or not _real(left.array):
            return None
        sign = -1 if eqn.primitive.name == "sub" else 1
        path = right.variable.path
        if left.made is not None:
            self.hook(Additive(left.made, path, sign, np.shape(left.array), right.variable.dims))
        if sign == -1 and path[0] != "params" and path[-1] == "mean" and right.variable.dims is not None:
            self.hook(Standardisation(path, left.array, right.variable.dims))
        return right


def _rearranged(eqn: Any, was: Rearranged | None) -> Rearranged | None:
    """The variable, after an equation that only moves its entries."""
    if was is None or (rule := _MOVES.get(eqn.primitive.name)) is None:
        return None
    return rule(eqn, was)


def _cast(eqn: Any, was: Rearranged) -> Rearranged:
    del eqn
    return was


def _transposed(eqn: Any, was: Rearranged) -> Rearranged:
    order = tuple(eqn.params["permutation"])
    dims = None if was.dims is None else tuple(order.index(d) for d in was.dims)
    steps = None if was.steps is None else (*was.steps, lambda array: array.transpose(order))
    return Rearranged(was.path, steps, dims)


def _reshaped(eqn: Any, was: Rearranged) -> Rearranged:
    before, after = eqn.invars[0].aval.shape, tuple(eqn.outvars[0].aval.shape)
    steps = None if was.steps is None else (*was.steps, lambda array: array.reshape(after))
    places = [d for d, n in enumerate(after) if n != 1]
    dims = None
    if was.dims is not None and [before[d] for d in was.dims] == [after[d] for d in places]:
        dims = tuple(places)
    elif was.dims is not None and len(was.dims) == 1 and before[was.dims[0]] == 1 == after[-1]:
        dims = (len(after) - 1,)  # a single neuron; the last dimension is the one that a statistic lies on
    return Rearranged(was.path, steps, dims)


def _broadcast(eqn: Any, was: Rearranged) -> Rearranged:
    to = eqn.params["broadcast_dimensions"]
    dims = None if was.dims is None else tuple(to[d] for d in was.dims)
    same = eqn.invars[0].aval.size == eqn.outvars[0].aval.size
    after = tuple(eqn.outvars[0].aval.shape)
    steps = (*was.steps, lambda array: array.reshape(after)) if same and was.steps is not None else None
    return Rearranged(was.path, steps, dims)


_MOVES: dict[str, Callable[[Any, Rearranged], Rearranged]] = {
    "convert_element_type": _cast,
    "copy": _cast,
    "copy_p": _cast,
    "transpose": _transposed,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "broadcast_in_dim": _broadcast,
}
