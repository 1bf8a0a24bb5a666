"""Walk a jaxpr: with arrays, or with whatever else is to be known of every value in it.

A walker says what a constant is (``constant``) and what an equation makes of its operands (``equation``); which values
these are is read from the jaxpr by `interpret`. A walker looks into a call by interpreting what is `called`. One table
says which primitives are calls: each evaluates one jaxpr, once, on all of its operands, and returns its results. Since
every walker asks this table, all see through the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

import jax
from jax.extend import core as jex
from jax.extend.core import primitives

from naivenas_jax.typing import Array

if TYPE_CHECKING:
    # JAX says of a value of a jaxpr only that it is abstract. Values without a shape are tokens that order effects, and
    # these are neither read nor made by the equations whose operands anybody looks at.

    class Variable(jex.Var):
        """A value that is computed in a jaxpr."""

        aval: jax.core.ShapedArray

    class Literal:
        """A number that is written in a jaxpr."""

        val: Array
        aval: jax.core.ShapedArray

    class Equation(jex.JaxprEqn):
        """An equation of a jaxpr, whose operands and results have shapes."""

        invars: list[Variable | Literal]  # type: ignore[assignment]  # a list of other types; nobody appends to it
        outvars: list[Variable]  # type: ignore[assignment]
else:
    Variable, Literal, Equation = jex.Var, jex.Literal, jex.JaxprEqn

#: An operand of an equation.
Atom: TypeAlias = Variable | Literal
#: What a walker knows of one value.
T = TypeVar("T")

#: For each primitive that is a call the parameter that holds its jaxpr. Loops and branches are no calls (``scan``,
#: ``while``, ``cond``), nor are functions that give their jaxpr only some of their operands (``linear_call``).
CALLS: Mapping[str, str] = MappingProxyType(
    {
        primitives.jit_p.name: "jaxpr",
        primitives.call_p.name: "call_jaxpr",
        primitives.closed_call_p.name: "call_jaxpr",
        primitives.remat_p.name: "jaxpr",
        primitives.custom_jvp_call_p.name: "call_jaxpr",
        primitives.custom_vjp_call_p.name: "call_jaxpr",
        "custom_vmap_call": "call",
        "composite": "jaxpr",
        "remat_opt": "fwd_jaxpr",  # the forward function of `custom_vjp.defvjp(..., optimize_remat=True)`
    }
)


def closed(jaxpr: jex.Jaxpr | jex.ClosedJaxpr) -> jex.ClosedJaxpr:
    """A jaxpr with its constants. Some primitives hold one that has none, and leave that out."""
    return jaxpr if isinstance(jaxpr, jex.ClosedJaxpr) else jex.ClosedJaxpr(jaxpr, ())


def called(eqn: jex.JaxprEqn) -> jex.ClosedJaxpr | None:
    """The jaxpr that an equation calls; None: the equation is no call.

    >>> import jax
    >>> traced = jax.make_jaxpr(lambda x: jax.nn.relu(x) + 1)(2.0)
    >>> [None if (inner := called(eqn)) is None else len(inner.jaxpr.eqns) for eqn in traced.jaxpr.eqns]
    [1, None]
    """
    key = CALLS.get(eqn.primitive.name)
    return None if key is None else closed(eqn.params[key])


def equations(jaxpr: jex.Jaxpr) -> list[Equation]:
    """The equations of a jaxpr, in the order of evaluation."""
    return cast(list[Equation], jaxpr.eqns)  # see `Equation`


def flattened(jaxpr: jex.Jaxpr) -> Iterator[Equation]:
    """The equations of a jaxpr in the order of evaluation, those inside calls in place of the calls.

    >>> import jax
    >>> traced = jax.make_jaxpr(lambda x: jax.nn.relu(x) + 1)(2.0)
    >>> [eqn.primitive.name for eqn in flattened(traced.jaxpr)]
    ['max', 'add']
    """
    for eqn in equations(jaxpr):
        inner = called(eqn)
        if inner is None:
            yield eqn
        else:
            yield from flattened(inner.jaxpr)


def interpret(
    closed: jex.ClosedJaxpr,
    arguments: Sequence[T],
    equation: Callable[[Equation, list[T]], Sequence[T]],
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

    def read(atom: Atom | jex.Var | jex.Literal) -> T:
        return known[atom] if isinstance(atom, jex.Var) else constant(atom.val, atom.aval)

    for eqn in equations(jaxpr):
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
    equation: Callable[[Equation, list[Array]], Sequence[Array]] = bind,
) -> list[Array]:
    """The results of a jaxpr for these arrays; ``equation`` may compute some of the equations in its own way.

    >>> traced = jax.make_jaxpr(lambda x: jax.numpy.sin(x) * 2.0)(1.0)
    >>> double = lambda eqn, operands: bind(eqn, operands) if eqn.primitive.name == "mul" else operands
    >>> [float(result) for result in evaluate(traced, [jax.numpy.ones(())], double)]
    [2.0]
    """
    return interpret(closed, arguments, equation, lambda value, _: value)
