"""A network with gates on its neurons where weights read them, whatever a weight is computed of.

A weight may be a function of variables (``softplus(w)``). A factor on the variable is then no factor on the weight, so
gates follow the variables to the contractions, through loops and branches, and multiply the weight there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from naivenas_jax.jaxpr.elementwise_primitives import PASSING
from naivenas_jax.jaxpr.interpret import Equation, bind, called, closed, interpret
from naivenas_jax.jaxpr.weight_expression import contracted_dims, is_elementwise
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array, PyTree

#: Primitives that move the entries of their first operand.
_MOVING = frozenset(
    (
        *["reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "slice", "dynamic_slice"],
        *["gather", "tile", "split"],
    )
)


class _Gated(NamedTuple):
    """An array, and a factor for each of its entries, should it be a weight that reads neurons."""

    array: Array
    gate: Array | None = None


def with_gates(
    fn: Callable[[dict[Path, Array]], PyTree], arrays: Mapping[Path, Array], gates: Mapping[Path, Array]
) -> PyTree:
    """``fn(arrays)``, where each weight that is made of an array is multiplied by the gates of that array.

    Args:
      fn: a network as a function of some of its variables, by path. Works under transformations of jax.
      arrays: these variables.
      gates: for each of them a factor for each entry.

    >>> w, x = {("w",): jnp.zeros((2, 1))}, jnp.ones((1, 2))
    >>> with_gates(lambda given: x @ jnp.exp(given["w",]), w, {("w",): jnp.array([[1.0], [0.5]])})
    Array([[1.5]], dtype=float32)
    """
    paths = list(arrays)
    program, shape = jax.make_jaxpr(lambda values: fn(dict(zip(paths, values, strict=True))), return_shape=True)(
        [arrays[path] for path in paths]
    )
    results = _evaluated(program, [_Gated(arrays[path], gates.get(path)) for path in paths])
    return jax.tree.unflatten(jax.tree.structure(shape), [result.array for result in results])


def _evaluated(program: ClosedJaxpr, arguments: Sequence[_Gated]) -> list[_Gated]:
    return interpret(program, arguments, _equation, lambda value, _: _Gated(value))


def _equation(eqn: Equation, operands: list[_Gated]) -> Sequence[_Gated]:
    arrays, name = [operand.array for operand in operands], eqn.primitive.name
    if all(operand.gate is None for operand in operands):
        return [_Gated(array) for array in bind(eqn, arrays)]
    if is_elementwise(eqn):
        (result,) = bind(eqn, arrays)
        return [_Gated(result, _along(result, operands))]
    if (inner := called(eqn)) is not None:
        return _evaluated(inner, operands)
    if name in _INSIDE:
        return [_Gated(array) for array in _INSIDE[name](eqn, operands)]
    if any(True for _ in contracted_dims(eqn)):
        return [_Gated(array) for array in bind(eqn, [_times(*operand) for operand in operands])]
    if name in PASSING:
        return [_Gated(array, one.gate) for array, one in zip(bind(eqn, arrays), operands, strict=True)]
    if name in ("concatenate", "stack"):
        gates = [jnp.ones(np.shape(array)) if gate is None else gate for array, gate in operands]
        return [_Gated(bind(eqn, arrays)[0], bind(eqn, gates)[0])]
    first = operands[0].gate
    if name in _MOVING and first is not None:
        return list(map(_Gated, bind(eqn, arrays), bind(eqn, [first, *arrays[1:]])))
    return [_Gated(array) for array in bind(eqn, arrays)]


def _along(result: Array, operands: Sequence[_Gated]) -> Array | None:
    """The gates of a result that is computed entry by entry: those of the first operand of its rank that has some."""
    found = (one.gate for one in operands if one.gate is not None and np.ndim(one.gate) == np.ndim(result))
    gate = next(found, None)
    return None if gate is None else jnp.broadcast_to(gate, np.shape(result))


def _times(array: Array, gate: Array | None) -> Array:
    return array if gate is None else array * jnp.asarray(gate, jnp.result_type(array))


def _scan(eqn: Equation, operands: Sequence[_Gated]) -> list[Array]:
    params, first = eqn.params, eqn.params["num_consts"]
    both = first + params["num_carry"]
    consts, stacked = operands[:first], operands[both:]
    carry = [_typed(eqn, i, one.array) for i, one in enumerate(operands[first:both], first)]

    def body(state: list[Array], rows: list[_Gated]) -> tuple[list[Array], list[Array]]:
        results = _evaluated(closed(params["jaxpr"]), [*consts, *map(_Gated, state), *rows])
        arrays = [result.array for result in results]
        return arrays[: len(carry)], arrays[len(carry) :]

    rounds = {key: params[key] for key in ("length", "reverse", "unroll")}
    end, rows = jax.lax.scan(body, carry, list(stacked), **rounds)
    return [*end, *rows]


def _while(eqn: Equation, operands: Sequence[_Gated]) -> list[Array]:
    tests, both = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    test, body = closed(eqn.params["cond_jaxpr"]), closed(eqn.params["body_jaxpr"])

    def arrays(program: ClosedJaxpr, given: Sequence[_Gated], state: Iterable[Array]) -> list[Array]:
        return [result.array for result in _evaluated(program, [*given, *map(_Gated, state)])]

    return list(
        jax.lax.while_loop(
            lambda state: arrays(test, operands[:tests], state)[0],
            lambda state: arrays(body, operands[tests:both], state),
            [_typed(eqn, i, one.array) for i, one in enumerate(operands[both:], both)],
        )
    )


def _cond(eqn: Equation, operands: Sequence[_Gated]) -> list[Array]:
    def branch(program: ClosedJaxpr) -> Callable[[list[_Gated]], list[Array]]:
        return lambda given: [result.array for result in _evaluated(program, given)]

    return list(
        jax.lax.switch(operands[0].array, [branch(closed(each)) for each in eqn.params["branches"]], list(operands[1:]))
    )


def _typed(eqn: Equation, number: int, array: Array) -> Array:
    """What a loop carries, of the dtype that it is carried in."""
    return jnp.asarray(array, eqn.invars[number].aval.dtype)


_INSIDE: Mapping[str, Callable[[Equation, Sequence[_Gated]], list[Array]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
