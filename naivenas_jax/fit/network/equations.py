"""A function of (variables, inputs) as a flat list of equations, so that it can be evaluated piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax

from naivenas_jax.jaxpr.calls import called
from naivenas_jax.jaxpr.interpret import interpret
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat, nested


def doings(eqn: Any) -> Iterator[str]:
    """The names of the primitives of an equation, those inside of calls too: what it does, at any sizes."""
    yield eqn.primitive.name
    if (inner := called(eqn)) is not None:
        for one in inner.jaxpr.eqns:
            yield from doings(one)


class Step(NamedTuple):
    """One equation. Values have numbers.

    Attributes:
      eqn: of the jaxpr.
      operands, results: numbers of values.
      paths: the variables that it reads, as they are or computed from variables only.
    """

    eqn: Any
    operands: tuple[int, ...]
    results: tuple[int, ...]
    paths: frozenset[Path]


@dataclass(frozen=True, eq=False)
class Program:
    """A function of (variables, inputs).

    What depends on variables alone is kept apart: it is computed wherever it is needed, so that values in the middle
    of an evaluation never remember what variables were.

    Attributes:
      steps: what depends on inputs, in the order of evaluation.
      weights: what depends on variables and constants only, in order.
      variables: the number of each variable.
      inputs: numbers of the inputs' arrays.
      constants: values by number.
      results: numbers of the outputs' arrays.
      tree: the structure of the outputs.
    """

    steps: tuple[Step, ...]
    weights: tuple[Step, ...]
    variables: Mapping[Path, int]
    inputs: tuple[int, ...]
    constants: Mapping[int, Any]
    results: tuple[int, ...]
    tree: Any

    def start(self, inputs: Any) -> dict[int, Any]:
        """The values that are live before the first step."""
        return dict(zip(self.inputs, jax.tree.leaves(list(inputs)), strict=True))

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
        made = self._made
        return tuple(values & made for values in reversed(found))

    @cached_property
    def born(self) -> dict[int, int]:
        """The step that makes each value."""
        return {number: i for i, step in enumerate(self.steps) for number in step.results}

    @cached_property
    def _made(self) -> frozenset[int]:
        return frozenset((*self.inputs, *self.born))

    def needed(self, start: int, stop: int) -> list[Step]:
        """What these steps, and the outputs if they are the last, read of variables alone."""
        wanted = {number for step in self.steps[start:stop] for number in step.operands}
        wanted.update(self.results if stop == len(self.steps) else ())
        found = []
        for step in reversed(self.weights):
            if not wanted.isdisjoint(step.results):
                wanted.update(step.operands)
                found.append(step)
        return found[::-1]


def trace(fn: Callable[..., Any], variables: Mapping[str, Any], inputs: Sequence[Any]) -> Program:
    """``fn(variables, *inputs)`` at these shapes."""
    arrays = flat(variables)
    closed, shape = jax.make_jaxpr(
        lambda values, given: fn(nested(dict(zip(arrays, values, strict=True))), *given), return_shape=True
    )(list(arrays.values()), list(inputs))
    flattening = _Flattening()
    own = [flattening.weight({path}) for path in arrays]
    given = tuple(flattening.new() for _ in closed.jaxpr.invars[len(own) :])
    results = flattening.run(closed, [*own, *given])
    return Program(
        tuple(flattening.steps),
        tuple(flattening.weights),
        dict(zip(arrays, own, strict=True)),
        given,
        flattening.constants,
        tuple(results),
        jax.tree.structure(shape),
    )


@dataclass
class _Flattening:
    """Calls are inlined where they are given variables."""

    steps: list[Step] = field(default_factory=list)
    weights: list[Step] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)
    paths: dict[int, frozenset[Path]] = field(default_factory=dict)  # of what depends on no input
    count: int = 0

    def new(self) -> int:
        self.count += 1
        return self.count - 1

    def weight(self, paths: Iterable[Path]) -> int:
        number = self.new()
        self.paths[number] = frozenset(paths)
        return number

    def constant(self, value: Any) -> int:
        number = self.weight(())
        self.constants[number] = value
        return number

    def run(self, closed: Any, arguments: Sequence[int]) -> list[int]:
        return interpret(closed, arguments, self.equation, lambda value, _: self.constant(value))

    def equation(self, eqn: Any, operands: Sequence[int]) -> list[int]:
        paths = frozenset[Path]().union(*(self.paths.get(number, ()) for number in operands))
        if paths and (inner := called(eqn)) is not None:
            return self.run(inner, operands)
        alone = all(number in self.paths for number in operands)
        results = [self.weight(paths) if alone else self.new() for _ in eqn.outvars]
        (self.weights if alone else self.steps).append(Step(eqn, tuple(operands), tuple(results), paths))
        return results
