"""Evaluate a jaxpr: with arrays, or with whatever else is to be known of every value in it.

A walker says what a constant is (``constant``) and what an equation makes of its operands (``equation``); which values
these are is read from the jaxpr here. A walker looks into a call by interpreting what is `called` in its ``equation``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TypeVar

import jax
from jax.extend import core as jex

from naivenas_jax.typing import Array

#: What is known of one value.
T = TypeVar("T")


def interpret(
    closed: jex.ClosedJaxpr,
    arguments: Sequence[T],
    equation: Callable[[jex.JaxprEqn, list[T]], Sequence[T]],
    constant: Callable[[Array, jax.core.AbstractValue], T],
    values: dict[jex.Var, T] | None = None,
) -> list[T]:
    """What is known of the results of a jaxpr.

    Args:
      closed: the jaxpr with its constants.
      arguments: what is known of each argument.
      equation: ``equation(eqn, operands)`` gives one value per result of the equation.
      constant: ``constant(value, aval)`` is asked for every literal and every constant of the jaxpr. A literal is a
        number of Python or numpy, which primitives take for an array of the type that ``aval`` says.
      values: gets to hold what is known of every variable of the jaxpr.

    >>> traced = jax.make_jaxpr(lambda x, y: (x * 2 + y, y))(1.0, 1.0)
    >>> depth = lambda eqn, operands: [1 + max(operands)] * len(eqn.outvars)
    >>> interpret(traced, [0, 0], depth, lambda value, aval: 0)
    [2, 0]
    """
    jaxpr = closed.jaxpr
    known = {} if values is None else values
    consts = (constant(value, var.aval) for value, var in zip(closed.consts, jaxpr.constvars, strict=True))
    known.update(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(atom: jex.Var | jex.Literal) -> T:
        return constant(atom.val, atom.aval) if isinstance(atom, jex.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, equation(eqn, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def bind(eqn: jex.JaxprEqn, operands: Sequence[Array], **changed: object) -> list[Array]:
    """Evaluate an equation: bind its primitive to operands again, with some of its parameters changed.

    >>> traced = jax.make_jaxpr(lambda x: jax.numpy.broadcast_to(x, (2, 3)))(1.0)
    >>> bind(traced.jaxpr.eqns[0], [jax.numpy.ones(())], shape=(4,))[0].shape
    (4,)
    """
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params({**eqn.params, **changed}))
    return list(results) if eqn.primitive.multiple_results else [results]


def evaluate(
    closed: jex.ClosedJaxpr,
    arguments: Sequence[Array],
    equation: Callable[[jex.JaxprEqn, list[Array]], Sequence[Array]] = bind,
) -> list[Array]:
    """The results of a jaxpr for these arrays; ``equation`` may compute some of the equations in its own way.

    >>> traced = jax.make_jaxpr(lambda x: jax.numpy.sin(x) * 2.0)(1.0)
    >>> double = lambda eqn, operands: bind(eqn, operands) if eqn.primitive.name == "mul" else operands
    >>> [float(result) for result in evaluate(traced, [jax.numpy.ones(())], double)]
    [2.0]
    """
    return interpret(closed, arguments, equation, lambda value, _: value)


#: The shape and dtype of a value of a jaxpr. JAX's annotations say no more of a value than that it is abstract. Values
#: without a shape (tokens that order effects) are neither read nor made by the equations whose operands are looked at.
aval_of: Callable[[jex.Var | jex.Literal], jax.core.ShapedArray] = attrgetter("aval")
