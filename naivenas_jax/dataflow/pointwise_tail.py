"""The steps that work entry by entry on the result of a contraction, until something mixes entries: its pointwise tail.

What the last of them returns is the *outcome* of the contraction: of ``relu(norm(x @ w))`` what relu returns, and of
``relu(norm(x @ w) + skip)`` too. Two networks whose outcomes are equal go on alike, whatever was made before a relu
that is off.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from naivenas_jax.dataflow.tape import Step, Tape, Values
from naivenas_jax.jaxpr.elementwise_primitives import ELEMENTWISE
from naivenas_jax.jaxpr.interpret import Equation, bind, called, evaluate
from naivenas_jax.typing import Array

#: Primitives that shift their operands, or are linear in each of them.
_LINEAR = frozenset(("add", "add_any", "sub", "neg", "copy", "copy_p", "convert_element_type"))


@dataclass(frozen=True)
class PointwiseTail:
    """The way from the result of a contraction to its outcome, entry by entry.

    Attributes:
      made: the number of the contraction's result on the tape.
      outcome: the number of the outcome.
      steps: the positions of the steps in between, in order; the last one returns the outcome.
    """

    made: int
    outcome: int
    steps: tuple[int, ...]

    def slope(self, tape: Tape, known: Values) -> Array:
        """The derivative of each entry of the outcome by the entry of the result that it comes from."""

        def follow(made: Array) -> Array:
            values = {self.made: made}
            for step in (tape.steps[i] for i in self.steps):
                operands = [values[n] if n in values else known[n] for n in step.operands]
                (values[step.results[0]],) = _differentiable(step.eqn, operands)
            return values[self.outcome]

        made = known[self.made]
        slope: Array = jax.jvp(follow, (made,), (jnp.ones_like(made),))[1]
        return slope


def tail_of(tape: Tape, position: int) -> PointwiseTail | None:
    """The pointwise tail of what a step makes; None where it only shifts and scales, or cannot be told.

    Whatever else takes part, a skip connection for one, must be made before that step.
    """
    (made,) = tape.steps[position].results
    leading = {made: frozenset[int]()}  # for each value that comes entry by entry from `made`, the steps on the way
    end = None
    for i, step in enumerate(tape.steps[position + 1 :], position + 1):
        own = {number for number in step.operands if number in leading}
        if not own:
            continue
        before = all(n in leading or tape.born.get(n, -1) < position for n in step.operands)
        if not (before and _elementwise(step.eqn) and _same_shape(tape.steps[position], step)):
            end = own.pop()
            break
        leading[step.results[0]] = frozenset((i,)).union(*(leading[number] for number in own))
    else:
        end = next((number for number in tape.results if number in leading), None)
    if end is None or all(_linear(tape.steps[i], leading) for i in leading[end]):
        return None
    inner = {made, *(tape.steps[i].results[0] for i in leading[end])} - {end}
    escapes = any(not inner.isdisjoint(step.operands) for i, step in enumerate(tape.steps) if i not in leading[end])
    if escapes or not inner.isdisjoint(tape.results):
        return None
    return PointwiseTail(made, end, tuple(sorted(leading[end])))


def _differentiable(eqn: Equation, operands: Sequence[Array]) -> list[Array]:
    """The results of an equation. Calls are inlined: a ``custom_vjp`` (a straight-through estimator) has no jvp."""
    inner = called(eqn)
    if inner is None or eqn.primitive.name == "custom_jvp_call":
        return bind(eqn, operands)
    return evaluate(inner, operands, _differentiable)


def _same_shape(first: Step, step: Step) -> bool:
    """Whether a step has one result, of the shape of the first step's."""
    return len(step.results) == 1 and step.eqn.outvars[0].aval.shape == first.eqn.outvars[0].aval.shape


def _elementwise(eqn: Equation) -> bool:
    """Whether each entry of the results depends on the entries at its place only."""
    if (inner := called(eqn)) is not None:
        return all(_elementwise(one) for one in inner.jaxpr.eqns)
    if eqn.primitive.name == "broadcast_in_dim":
        return bool(eqn.invars[0].aval.size == 1)
    return eqn.primitive.name in ELEMENTWISE


def _linear(step: Step, leading: Collection[int]) -> bool:
    """Whether a step only shifts and scales the values that lead from the contraction."""
    own = [number in leading for number in step.operands]
    name = step.eqn.primitive.name
    return name in _LINEAR or (name == "mul" and sum(own) == 1) or (name == "div" and own == [True, False])
