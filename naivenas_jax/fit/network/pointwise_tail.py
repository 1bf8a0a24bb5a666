"""What becomes of each entry that a contraction makes, until something mixes entries: its outcome.

Of ``relu(norm(x @ w))`` it is what relu returns, and of ``relu(norm(x @ w) + skip)`` too. Two networks whose outcomes
are equal go on alike, whatever was made before a relu that is off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import primitives

from naivenas_jax.fit.network.equations import Program, Step
from naivenas_jax.jaxpr.calls import called
from naivenas_jax.jaxpr.interpret import bind, evaluate
from naivenas_jax.trace.program.primitives import ELEMENTWISE

_LINEAR = frozenset(("add", "add_any", "sub", "neg", "copy", "copy_p", "convert_element_type"))


@dataclass(frozen=True)
class Course:
    """The way from what a contraction makes to its outcome, entry by entry.

    Attributes:
      made: the number of the value that a contraction makes.
      outcome: the number of the outcome.
      steps: positions of the steps in between, in order; the last one returns the outcome.
    """

    made: int
    outcome: int
    steps: tuple[int, ...]

    def slope(self, program: Program, known: Mapping[int, Any]) -> Any:
        """The derivative of each entry of the outcome by the entry that it comes from."""

        def follow(made: Any) -> Any:
            values = {self.made: made}
            for step in (program.steps[i] for i in self.steps):
                operands = [values[n] if n in values else known[n] for n in step.operands]
                (values[step.results[0]],) = _evaluated(step.eqn, operands)
            return values[self.outcome]

        made = known[self.made]
        return jax.jvp(follow, (made,), (jnp.ones_like(made),))[1]


def course_of(program: Program, position: int) -> Course | None:
    """From what a step makes to its outcome; None if that is a shift and a scale of it, or cannot be told.

    Whatever else takes part, a skip connection for one, is made before that step.
    """
    (made,) = program.steps[position].results
    leading: dict[int, frozenset[int]] = {made: frozenset()}
    end = None
    for i, step in enumerate(program.steps[position + 1 :], position + 1):
        own = {number for number in step.operands if number in leading}
        if not own:
            continue
        before = all(n in leading or program.born.get(n, -1) < position for n in step.operands)
        if not (before and _entrywise(step.eqn) and _same_shape(program.steps[position], step)):
            end = own.pop()
            break
        leading[step.results[0]] = frozenset((i,)).union(*(leading[number] for number in own))
    else:
        end = next((number for number in program.results if number in leading), None)
    if end is None or all(_linear(program.steps[i], leading) for i in leading[end]):
        return None
    inner = {made, *(program.steps[i].results[0] for i in leading[end])} - {end}
    escapes = any(not inner.isdisjoint(step.operands) for i, step in enumerate(program.steps) if i not in leading[end])
    return None if escapes or not inner.isdisjoint(program.results) else Course(made, end, tuple(sorted(leading[end])))


def _evaluated(eqn: Any, operands: list[Any]) -> list[Any]:
    """What an equation returns. Calls are inlined: a custom_vjp, a straight-through estimator say, has no jvp."""
    inner = called(eqn)
    if inner is None or eqn.primitive.name == primitives.custom_jvp_call_p.name:
        return bind(eqn, operands)
    return evaluate(inner, operands, _evaluated)


def _same_shape(first: Step, step: Step) -> bool:
    """Every entry of the result comes from the entry at its place."""
    return len(step.results) == 1 and step.eqn.outvars[0].aval.shape == first.eqn.outvars[0].aval.shape


def _entrywise(eqn: Any) -> bool:
    """Whether each entry of the results depends on the entries at its place only."""
    if (inner := called(eqn)) is not None:
        return all(_entrywise(one) for one in inner.jaxpr.eqns)
    if eqn.primitive.name == "broadcast_in_dim":
        return bool(eqn.invars[0].aval.size == 1)
    return eqn.primitive.name in ELEMENTWISE


def _linear(step: Step, leading: Mapping[int, Any]) -> bool:
    own = [number in leading for number in step.operands]
    name = step.eqn.primitive.name
    return name in _LINEAR or (name == "mul" and sum(own) == 1) or (name == "div" and own == [True, False])
