"""A network with gates on its neurons where weights read them, whatever a weight is computed of.

A weight may be a function of variables (``softplus(w)``). A factor on the variable is then no factor on the weight, so
gates follow the variables to the contractions, through loops and branches, and multiply the weight there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from naivenas_jax.jaxpr.elementwise_primitives import PASSING
from naivenas_jax.jaxpr.interpret import Equation, bind, called, closed, interpret
from naivenas_jax.jaxpr.weight_expression import contracted_dims, is_elementwise, reshaped_groups
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array, PyTree, Shape

#: Primitives that move the entries of their first operand.
_MOVING = frozenset(
    (
        *["reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "rev", "slice", "dynamic_slice"],
        *["gather", "tile", "split"],
    )
)


#: Primitives that put the entries along some dimensions together.
_REDUCING = frozenset(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"))


#: An array and its gates, as JAX takes them.
_Factored: TypeAlias = tuple[Array, Array | None]
#: The positions on some dimensions.
Beside: TypeAlias = Mapping[int, int | None]


class _Gated(NamedTuple):
    """An array, and a factor for each of its entries, should it be a weight that reads neurons.

    Attributes:
      array: the array.
      gate: the factors; None: nothing of the array has one.
      beside: the dimensions on which no neurons lie that have gates, but arrays beside one another that were stacked
        there for one; and the position on each of one that has gates, which are the gates of all that is made of them
        together. None: any.
      active: whether it is computed of inputs.
    """

    array: Array
    gate: Array | None = None
    beside: Beside = MappingProxyType({})
    active: bool = False


def with_gates(
    fn: Callable[..., PyTree],
    arrays: Mapping[Path, Array],
    gates: Mapping[Path, Array],
    inputs: Sequence[Array | Shape] = (),
    reading: Mapping[Path, Collection[int]] = MappingProxyType({}),
) -> PyTree:
    """``fn(arrays, *inputs)``, where each weight that is made of an array is multiplied by the gates of that array.

    Args:
      fn: a network as a function of some of its variables, by path. Works under transformations of jax.
      arrays: these variables.
      gates: for each of them a factor for each entry.
      inputs: of the network.
      reading: for variables the dimensions along which gates differ, where that is known.

    >>> w, x = {("w",): jnp.zeros((2, 1))}, jnp.ones((1, 2))
    >>> with_gates(lambda given: x @ jnp.exp(given["w",]), w, {("w",): jnp.array([[1.0], [0.5]])})
    Array([[1.5]], dtype=float32)
    """
    paths = list(arrays)
    program, shape = jax.make_jaxpr(
        lambda values, data: fn(dict(zip(paths, values, strict=True)), *data), return_shape=True
    )([arrays[path] for path in paths], list(inputs))
    given = [
        _Gated(arrays[path], gates.get(path), _outside(np.ndim(arrays[path]), reading.get(path))) for path in paths
    ]
    results = _evaluated(
        program, [*given, *(_Gated(array, active=True) for array in inputs if not isinstance(array, Shape))]
    )
    return jax.tree.unflatten(jax.tree.structure(shape), [result.array for result in results])


def _outside(rank: int, reading: Collection[int] | None) -> Beside:
    """The dimensions along which gates are alike."""
    return {} if reading is None else {d: None for d in range(rank) if d not in reading}


def _evaluated(program: ClosedJaxpr, arguments: Sequence[_Gated]) -> list[_Gated]:
    return interpret(program, arguments, _equation, lambda value, _: _Gated(value))


def _equation(eqn: Equation, operands: list[_Gated]) -> Sequence[_Gated]:
    active = any(operand.active for operand in operands)
    return [one._replace(active=one.active or active) for one in _results(eqn, operands, active)]


def _results(eqn: Equation, operands: list[_Gated], active: bool) -> Sequence[_Gated]:
    arrays, name = [operand.array for operand in operands], eqn.primitive.name
    if all(operand.gate is None for operand in operands):
        return [_Gated(array) for array in bind(eqn, arrays)]
    if is_elementwise(eqn):
        (result,) = bind(eqn, arrays)
        return [_along(result, operands)]
    if (inner := called(eqn)) is not None:
        return _evaluated(inner, operands)
    if name in _INSIDE:
        return [_Gated(array, active=True) for array in _INSIDE[name](eqn, operands)]
    if name == "dot_general" and not active and (mixed := _mixed(eqn, operands)) is not None:
        return [mixed]
    if any(True for _ in contracted_dims(eqn)):
        return [_Gated(array) for array in bind(eqn, list(map(_times, operands)))]
    if name in PASSING:
        return [one._replace(array=array) for array, one in zip(bind(eqn, arrays), operands, strict=True)]
    if name in ("concatenate", "stack"):
        gates = [jnp.ones(np.shape(one.array)) if one.gate is None else one.gate for one in operands]
        return [_Gated(bind(eqn, arrays)[0], bind(eqn, gates)[0], _put_beside(eqn, operands))]
    first = operands[0]
    if name in _REDUCING and not active and (gate := _of_all(eqn, first)) is not None:
        return [_Gated(array, gate) for array in bind(eqn, arrays)]
    if name in _MOVING and first.gate is not None:
        moved = bind(eqn, [first.gate, *arrays[1:]])
        return [_Gated(*both, _moved(eqn, first.beside)) for both in zip(bind(eqn, arrays), moved, strict=True)]
    return [_Gated(array) for array in bind(eqn, arrays)]


def _along(result: Array, operands: Sequence[_Gated]) -> _Gated:
    """A result that is computed entry by entry, with the gates of the first operand of its rank that has some."""
    rank = np.ndim(result)
    found = next((one for one in operands if one.gate is not None and np.ndim(one.gate) == rank), None)
    if found is None or found.gate is None:
        return _Gated(result)
    return _Gated(result, jnp.broadcast_to(found.gate, np.shape(result)), found.beside)


def _put_beside(eqn: Equation, operands: Sequence[_Gated]) -> Beside:
    """Where arrays lie beside one another after they were joined."""
    first = next(number for number, one in enumerate(operands) if one.gate is not None)
    own = operands[first].beside
    if eqn.primitive.name == "stack":
        axis = eqn.params["axis"]
        return {axis: first} | {d + (d >= axis): at for d, at in own.items()}
    dim = eqn.params["dimension"]
    offset = sum(np.shape(one.array)[dim] for one in operands[:first])
    return {d: (at or 0) + offset if d == dim else at for d, at in own.items()}


def _moved(eqn: Equation, beside: Beside) -> Beside:
    """Where arrays lie beside one another after entries were moved; new dimensions are places to stack at."""
    before = eqn.invars[0].aval.shape
    match eqn.primitive.name:
        case "broadcast_in_dim":
            to = eqn.params["broadcast_dimensions"]
            new = {d: 0 for d, n in enumerate(eqn.params["shape"]) if d not in to and n == 1}
            return new | {to[d]: at for d, at in beside.items()}
        case "expand_dims":
            new = dict.fromkeys(eqn.params["dimensions"], 0)
            kept = [d for d in range(len(before) + len(new)) if d not in new]
            return new | {kept[d]: at for d, at in beside.items()}
        case "reshape":
            groups = reshaped_groups(before, eqn.outvars[0].aval.shape)
            same = {mine[0]: theirs[0] for mine, theirs in groups if len(mine) == len(theirs) == 1}
            new = {d: 0 for mine, theirs in groups for d in theirs if not mine}
            return new | {same[d]: at for d, at in beside.items() if d in same}
        case "transpose":
            order = list(eqn.params["permutation"])
            return {order.index(d): at for d, at in beside.items()}
        case "slice" | "dynamic_slice" | "rev" | "split":
            return {d: at for d, at in beside.items() if at is None}
        case "squeeze":
            gone = eqn.params["dimensions"]
            return {d - sum(g < d for g in gone): at for d, at in beside.items() if d not in gone}
    return {}


def _of_all(eqn: Equation, one: _Gated) -> Array | None:
    """The gates of what is put together of arrays beside one another; None: neurons are put together."""
    axes = sorted(eqn.params["axes"], reverse=True)
    gate = one.gate
    if gate is None or not all(d in one.beside for d in axes):
        return None
    for d in axes:
        gate = jax.lax.index_in_dim(gate, one.beside[d] or 0, d, keepdims=False)
    return gate


def _mixed(eqn: Equation, operands: Sequence[_Gated]) -> _Gated | None:
    """A weighted sum of arrays beside one another, with the gates of these; None: neurons are read."""
    contracted, batch = eqn.params["dimension_numbers"]
    for number, (one, over, along) in enumerate(zip(operands, contracted, batch, strict=True)):
        other, gate = operands[1 - number], one.gate
        if gate is None or not over or not all(d in one.beside for d in over):
            continue
        free = [d for d in range(gate.ndim) if d not in (*over, *along)]
        gate = jnp.transpose(gate, [*along, *free, *over])
        for d in reversed(over):
            gate = jax.lax.index_in_dim(gate, one.beside[d] or 0, gate.ndim - 1, keepdims=False)
        first = gate.ndim if number == 0 else len(along)  # where the other's dimensions lie in the result
        gate = jnp.expand_dims(gate, range(first, first + np.ndim(other.array) - len(over) - len(along)))
        weights = [_times(other), one.array]
        (result,) = bind(eqn, weights if number else weights[::-1])
        return _Gated(result, jnp.broadcast_to(gate, np.shape(result)))
    return None


def _times(one: _Gated) -> Array:
    return one.array if one.gate is None else one.array * jnp.asarray(one.gate, jnp.result_type(one.array))


def _of_row(one: _Gated) -> Beside:
    """Where arrays lie beside one another on what is left of an array that a loop goes over."""
    return {d - 1: at for d, at in one.beside.items() if d}


def _activation(array: Array) -> _Gated:
    """What a loop carries."""
    return _Gated(array, active=True)


def _scan(eqn: Equation, operands: Sequence[_Gated]) -> list[Array]:
    params, first = eqn.params, eqn.params["num_consts"]
    both = first + params["num_carry"]
    consts, stacked = operands[:first], operands[both:]
    carry = [_typed(eqn, i, one.array) for i, one in enumerate(operands[first:both], first)]

    def body(state: list[Array], given: list[_Factored]) -> tuple[list[Array], list[Array]]:
        rows = [one._replace(array=a, gate=g, beside=_of_row(one)) for one, (a, g) in zip(stacked, given, strict=True)]
        results = _evaluated(closed(params["jaxpr"]), [*consts, *map(_activation, state), *rows])
        arrays = [result.array for result in results]
        return arrays[: len(carry)], arrays[len(carry) :]

    rounds = {key: params[key] for key in ("length", "reverse", "unroll")}
    end, rows = jax.lax.scan(body, carry, [one[:2] for one in stacked], **rounds)
    return [*end, *rows]


def _while(eqn: Equation, operands: Sequence[_Gated]) -> list[Array]:
    tests, both = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    test, body = closed(eqn.params["cond_jaxpr"]), closed(eqn.params["body_jaxpr"])

    def arrays(program: ClosedJaxpr, given: Sequence[_Gated], state: Iterable[Array]) -> list[Array]:
        return [result.array for result in _evaluated(program, [*given, *map(_activation, state)])]

    return list(
        jax.lax.while_loop(
            lambda state: arrays(test, operands[:tests], state)[0],
            lambda state: arrays(body, operands[tests:both], state),
            [_typed(eqn, i, one.array) for i, one in enumerate(operands[both:], both)],
        )
    )


def _cond(eqn: Equation, operands: Sequence[_Gated]) -> list[Array]:
    index, *rest = operands

    def branch(program: ClosedJaxpr) -> Callable[[list[_Factored]], list[Array]]:
        def computed(given: list[_Factored]) -> list[Array]:
            own = [one._replace(array=array, gate=gate) for one, (array, gate) in zip(rest, given, strict=True)]
            return [result.array for result in _evaluated(program, own)]

        return computed

    branches = [branch(closed(each)) for each in eqn.params["branches"]]
    return list(jax.lax.switch(index.array, branches, [one[:2] for one in rest]))


def _typed(eqn: Equation, number: int, array: Array) -> Array:
    """What a loop carries, of the dtype that it is carried in."""
    return jnp.asarray(array, eqn.invars[number].aval.dtype)


_INSIDE: Mapping[str, Callable[[Equation, Sequence[_Gated]], list[Array]]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
