"""A function of (variables, inputs) as a tape: a flat list of equations, evaluated from any of them to any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import jax
import numpy as np

from naivenas_jax.jaxpr.interpret import Equation, bind, called, interpret
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Variables

#: The arrays of an evaluation, by the number of the value.
Values = Mapping[int, Array]


class Step(NamedTuple):
    """One equation of a tape.

    Attributes:
      eqn: the equation in its jaxpr.
      operands: the numbers of the values that it takes.
      results: the numbers of the values that it makes.
      paths: the variables that it reads, as they are or computed from variables only.
    """

    eqn: Equation
    operands: tuple[int, ...]
    results: tuple[int, ...]
    paths: frozenset[Path]


@dataclass(frozen=True, eq=False)
class Tape:
    """The equations of a function of (variables, inputs). Every value has a number.

    What depends on variables alone is kept apart: it is computed wherever it is needed, so that values in the middle
    of an evaluation never remember what variables were.

    Attributes:
      steps: the equations that depend on inputs, in the order of evaluation.
      weights: the equations that depend on variables and constants only, in order.
      variables: the number of each variable.
      inputs: the numbers of the arrays among the inputs.
      constants: the arrays that are known beforehand, by number.
      results: the numbers of the arrays among the outputs.
      tree: the structure of the outputs.
    """

    steps: tuple[Step, ...]
    weights: tuple[Step, ...]
    variables: Mapping[Path, int]
    inputs: tuple[int, ...]
    constants: Values
    results: tuple[int, ...]
    tree: jax.tree_util.PyTreeDef

    def start(self, inputs: Sequence[PyTree]) -> dict[int, Array]:
        """The values that are live before the first step."""
        return dict(zip(self.inputs, jax.tree.leaves(list(inputs)), strict=True))

    def known_beforehand(self) -> dict[int, Array]:
        """The values that depend neither on variables nor on inputs."""
        known = dict(self.constants)
        for step in self.weights:
            if not step.paths:
                known.update(zip(step.results, bind(step.eqn, [known[n] for n in step.operands]), strict=True))
        return known

    def evaluated(self, variables: Variables, inputs: Sequence[PyTree]) -> dict[int, Array]:
        """Every value of one evaluation. Works under transformations of jax."""
        arrays = flat(variables)
        known = {**self.constants, **self.start(inputs)}
        known.update((number, arrays[path]) for path, number in self.variables.items())
        for step in (*self.weights, *self.steps):
            known.update(zip(step.results, bind(step.eqn, [known[n] for n in step.operands]), strict=True))
        return known

    def operands(self, position: int, variables: Variables, live: Values) -> list[Array]:
        """The operands of a step, given the values that are live before it."""
        arrays = flat(variables)
        known = {**self.constants, **live, **{number: arrays[path] for path, number in self.variables.items()}}
        for step in self.needed(position, position + 1):
            known.update(zip(step.results, bind(step.eqn, [known[n] for n in step.operands]), strict=True))
        return [known[n] for n in self.steps[position].operands]

    def first_use(self, paths: Collection[Path]) -> int:
        """The first step that reads one of these variables, directly or not."""
        own = frozenset(paths)
        return next((i for i, step in enumerate(self.steps) if step.paths & own), len(self.steps))

    def after_last_use(self, path: Path) -> int:
        """The step after the last one that reads a variable, directly or not."""
        return max((i + 1 for i, step in enumerate(self.steps) if path in step.paths), default=0)

    @cached_property
    def live(self) -> tuple[frozenset[int], ...]:
        """For each step, and the end, the values that are made before it and read from there on."""
        needed = frozenset(self.results)
        found = [needed]
        for step in reversed(self.steps):
            needed = (needed - frozenset(step.results)) | frozenset(step.operands)
            found.append(needed)
        made = frozenset((*self.inputs, *self.born))
        return tuple(values & made for values in reversed(found))

    @cached_property
    def readers(self) -> Counter[int]:
        """How often each value is read, as a result too."""
        return Counter([number for step in self.steps for number in step.operands] + list(self.results))

    @cached_property
    def born(self) -> dict[int, int]:
        """The step that makes each value."""
        return {number: i for i, step in enumerate(self.steps) for number in step.results}

    def needed(self, start: int, stop: int) -> list[Step]:
        """The equations of variables alone whose results these steps read, or the outputs if they are the last."""
        wanted = {number for step in self.steps[start:stop] for number in step.operands}
        wanted.update(self.results if stop == len(self.steps) else ())
        found = []
        for step in reversed(self.weights):
            if not wanted.isdisjoint(step.results):
                wanted.update(step.operands)
                found.append(step)
        return found[::-1]


def record(fn: Callable[..., PyTree], variables: Variables, inputs: Sequence[PyTree]) -> Tape:
    """``fn(variables, *inputs)``, for arrays of these shapes, as a tape.

    >>> tape = record(lambda variables, x: x @ variables["w"].T, {"w": jax.numpy.ones((2, 3))}, [jax.numpy.ones(3)])
    >>> [step.eqn.primitive.name for step in tape.weights], [step.eqn.primitive.name for step in tape.steps]
    (['transpose'], ['dot_general'])
    """
    arrays = flat(variables)
    closed, shape = jax.make_jaxpr(
        lambda values, given: fn(nested(dict(zip(arrays, values, strict=True))), *given), return_shape=True
    )(list(arrays.values()), list(inputs))
    recording = _Recording()
    own = [recording.weight({path}) for path in arrays]
    given = tuple(recording.new() for _ in closed.jaxpr.invars[len(own) :])
    results = interpret(closed, [*own, *given], recording.equation, recording.constant)
    return Tape(
        tuple(recording.steps),
        tuple(recording.weights),
        dict(zip(arrays, own, strict=True)),
        given,
        recording.constants,
        tuple(results),
        jax.tree.structure(shape),
    )


@dataclass
class _Recording:
    """A tape that grows. Calls are inlined where they are given variables."""

    steps: list[Step] = field(default_factory=list)
    weights: list[Step] = field(default_factory=list)
    constants: dict[int, Array] = field(default_factory=dict)
    paths: dict[int, frozenset[Path]] = field(default_factory=dict)  # of what depends on no input
    count: int = 0

    def new(self) -> int:
        self.count += 1
        return self.count - 1

    def weight(self, paths: Iterable[Path]) -> int:
        number = self.new()
        self.paths[number] = frozenset(paths)
        return number

    def constant(self, value: object, aval: jax.core.AbstractValue) -> int:
        number = self.weight(())
        if isinstance(value, jax.Array | np.ndarray):
            self.constants[number] = value
        else:  # a literal is a number of Python
            self.constants[number] = np.asarray(value, getattr(aval, "dtype", None))
        return number

    def equation(self, eqn: Equation, operands: Sequence[int]) -> Sequence[int]:
        paths = frozenset[Path]().union(*(self.paths.get(number, ()) for number in operands))
        if paths and (inner := called(eqn)) is not None:
            return interpret(inner, operands, self.equation, self.constant)
        alone = all(number in self.paths for number in operands)
        results = [self.weight(paths) if alone else self.new() for _ in eqn.outvars]
        (self.weights if alone else self.steps).append(Step(eqn, tuple(operands), tuple(results), paths))
        return results
