"""Weights as expressions: what is computed of variables and constants alone, before it meets an activation.

The expression of a weight says how its entries come from the entries of variables: as they are, moved, scaled, or by
any function (``softplus(w)``, ``w - zero_point``, ``sigmoid(w) * z``). Loops and branches are looked into: what a loop
goes over is one row of a variable, and what it carries is an activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from jax.extend.core import ClosedJaxpr, primitives

from naivenas_jax.jaxpr.elementwise_primitives import ELEMENTWISE, PASSING
from naivenas_jax.jaxpr.interpret import Equation, called, closed, flattened, interpret
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array

#: One dimension of a variable: its path, and the number of the dimension.
Origin: TypeAlias = tuple[Path, int]
Origins: TypeAlias = tuple[frozenset[Origin], ...]

#: Functions with derivatives of their own (a relu, a straight-through estimator): inlined, they would lose these.
_DERIVATIVES = (primitives.custom_jvp_call_p.name, primitives.custom_vjp_call_p.name)


@dataclass(frozen=True, eq=False)
class Weight:
    """An array that is computed of variables and constants only. Exactly one of its sources is given.

    Attributes:
      shape: its shape in the trace.
      origins: for each dimension the dimensions of variables that lie on it.
      path: the variable that it is.
      constant: the number or array that it is.
      eqn: the equation that makes it of ``operands``.
      number: which of the results of that equation it is.
      operands: what it is made of; without ``eqn`` it is one row of the only operand, in a loop over these.
      variables: the variables that it is made of.
    """

    shape: tuple[int, ...]
    origins: Origins = field(repr=False)
    path: Path | None = None
    constant: Array | None = None
    eqn: Equation | None = None
    number: int = 0
    operands: tuple[Weight, ...] = ()
    variables: frozenset[Path] = frozenset()


def has_tables(weight: Weight) -> bool:
    """Whether constants of the model with many entries take part, which follow the neurons that they belong to."""
    own = weight.constant is not None and any(n != 1 for n in weight.shape)
    return own or any(map(has_tables, weight.operands))


def is_elementwise(eqn: Equation) -> bool:
    """Whether an equation is computed entry by entry: a primitive, or a function with derivatives of its own."""
    if eqn.primitive.name not in _DERIVATIVES:
        return eqn.primitive.name in ELEMENTWISE
    shapes = {getattr(var.aval, "shape", ()) for var in (*eqn.invars, *eqn.outvars)} - {()}
    inner = called(eqn)
    assert inner is not None
    return len(eqn.outvars) == 1 and len(shapes) <= 1 and all(map(_entry_by_entry, flattened(inner.jaxpr)))


def _entry_by_entry(eqn: Equation) -> bool:
    spread = eqn.primitive.name == "broadcast_in_dim" and getattr(eqn.invars[0].aval, "size", 0) == 1
    return spread or eqn.primitive.name in ELEMENTWISE


class WeightRead(NamedTuple):
    """A weight reads neurons: it is contracted over one of its dimensions.

    Attributes:
      weight: the weight.
      dim: the dimension.
    """

    weight: Weight
    dim: int

    @property
    def origin(self) -> frozenset[Origin]:
        """The dimensions of variables that lie on the dimension."""
        return self.weight.origins[self.dim]


def contracted_dims(eqn: Equation) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The operands of an equation that are contracted, as (number, dimensions); none if it contracts nothing."""
    if eqn.primitive.name == "dot_general":
        yield from enumerate(eqn.params["dimension_numbers"][0])
    elif eqn.primitive.name == "conv_general_dilated":
        yield 1, (eqn.params["dimension_numbers"].rhs_spec[1],)


def weight_reads(program: ClosedJaxpr, paths: Sequence[Path | None]) -> list[WeightRead]:
    """Every contraction of a weight that variables take part in.

    Args:
      program: a traced function.
      paths: for each of its arguments the variable that it is; None: an activation.

    >>> import jax, jax.numpy as jnp
    >>> traced = jax.make_jaxpr(lambda w, x: x @ jax.nn.softplus(w))(jnp.ones((2, 3)), jnp.ones((5, 2)))
    >>> [(sorted(read.weight.variables), read.dim) for read in weight_reads(traced, [("w",), None])]
    [([('w',)], 0)]
    """
    found: list[WeightRead] = []
    shapes = [var.aval.shape for var in program.jaxpr.invars]
    arguments = [None if p is None else _variable(p, tuple(s)) for p, s in zip(paths, shapes, strict=True)]
    _walk(program, arguments, found)
    return found


def _variable(path: Path, shape: tuple[int, ...]) -> Weight:
    return Weight(
        shape, tuple(frozenset([(path, d)]) for d in range(len(shape))), path=path, variables=frozenset([path])
    )


def _constant(value: Array, aval: object) -> Weight:
    shape = tuple(getattr(aval, "shape", ()))
    return Weight(shape, (frozenset(),) * len(shape), constant=value)


def _row(value: Weight | None) -> Weight | None:
    """One round's part of what a loop goes over."""
    return (
        None
        if value is None
        else Weight(value.shape[1:], value.origins[1:], operands=(value,), variables=value.variables)
    )


def _walk(program: ClosedJaxpr, arguments: Sequence[Weight | None], found: list[WeightRead]) -> list[Weight | None]:
    """The results of a jaxpr as weights; None where they depend on an activation."""

    def equation(eqn: Equation, operands: list[Weight | None]) -> Sequence[Weight | None]:
        whole = [operand for operand in operands if operand is not None]
        if (inner := called(eqn)) is not None and (len(whole) < len(operands) or not is_elementwise(eqn)):
            return _walk(inner, operands, found)
        if eqn.primitive.name in PASSING:
            return operands
        if eqn.primitive.name in _INSIDE:
            for jaxpr, given in _INSIDE[eqn.primitive.name](eqn, operands):
                _walk(jaxpr, given, found)
            return [None] * len(eqn.outvars)
        for number, dims in contracted_dims(eqn):
            weight = operands[number]
            if weight is not None and weight.variables:
                found.extend(WeightRead(weight, d) for d in dims)
        if len(whole) < len(operands):
            return [None] * len(eqn.outvars)
        return [_made(eqn, number, whole) for number in range(len(eqn.outvars))]

    return interpret(program, arguments, equation, _constant)


def _made(eqn: Equation, number: int, operands: Sequence[Weight]) -> Weight:
    shape = tuple(getattr(eqn.outvars[number].aval, "shape", ()))
    variables = frozenset[Path]().union(*(operand.variables for operand in operands))
    return Weight(shape, _origins(eqn, operands, shape), None, None, eqn, number, tuple(operands), variables)


_Inside: TypeAlias = Iterator[tuple[ClosedJaxpr, list[Weight | None]]]


def _scan(eqn: Equation, operands: Sequence[Weight | None]) -> _Inside:
    consts, carry = eqn.params["num_consts"], eqn.params["num_carry"]
    rows = map(_row, operands[consts + carry :])
    yield closed(eqn.params["jaxpr"]), [*operands[:consts], *[None] * carry, *rows]


def _while(eqn: Equation, operands: Sequence[Weight | None]) -> _Inside:
    tests, both = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    yield closed(eqn.params["body_jaxpr"]), [*operands[tests:both], *[None] * (len(operands) - both)]


def _cond(eqn: Equation, operands: Sequence[Weight | None]) -> _Inside:
    for branch in eqn.params["branches"]:
        yield closed(branch), list(operands[1:])


#: For each primitive with jaxprs inside that is no call: these jaxprs, and what their arguments are.
_INSIDE: Mapping[str, Callable[[Equation, Sequence[Weight | None]], _Inside]] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}


# -- what lies on the dimensions ---------------------------------------------------------------------------------------


def _origins(eqn: Equation, operands: Sequence[Weight], shape: tuple[int, ...]) -> Origins:
    """The dimensions of variables on each dimension of a result; all of them where nothing is known of the equation."""
    none = frozenset[Origin]()
    if not any(any(operand.origins) for operand in operands):
        return (none,) * len(shape)
    if (rule := _RULES.get(eqn.primitive.name)) is not None:
        return rule(eqn, operands, shape)
    alike = [operand for operand in operands if len(operand.shape) == len(shape)]
    if is_elementwise(eqn) or all(operand.shape in (shape, ()) for operand in operands):
        wide = [[one.origins[d] for one in alike if one.shape[d] == n] for d, n in enumerate(shape)]
        return tuple(none.union(*own) for own in wide)
    every = none.union(*(origin for operand in operands for origin in operand.origins))
    return (every,) * len(shape)


def reshaped_groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Dimensions of a reshaped array that become one another, as pairs (of those before, of those after).

    >>> reshaped_groups((2, 3, 4), (6, 1, 4))
    [([0, 1], [0, 1]), ([2], [2])]
    """
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        mine, theirs = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(mine), j + len(theirs)
        while (a := math.prod(before[d] for d in mine)) != (b := math.prod(after[d] for d in theirs)):
            if a < b:
                mine.append(i)
                i += 1
            else:
                theirs.append(j)
                j += 1
        while j < len(after) and after[j] == 1 and (i >= len(before) or before[i] != 1):
            theirs.append(j)
            j += 1
        found.append((mine, theirs))
    return found


def _reshape(eqn: Equation, operands: Sequence[Weight], shape: tuple[int, ...]) -> Origins:
    del eqn
    found = [frozenset[Origin]()] * len(shape)
    for mine, theirs in reshaped_groups(operands[0].shape, shape):
        own = frozenset[Origin]().union(*(operands[0].origins[d] for d in mine if operands[0].shape[d] != 1))
        for d in theirs:
            found[d] = own if shape[d] != 1 else frozenset()
    return tuple(found)


def _broadcast(eqn: Equation, operands: Sequence[Weight], shape: tuple[int, ...]) -> Origins:
    found = [frozenset[Origin]()] * len(shape)
    for d, to in enumerate(eqn.params["broadcast_dimensions"]):
        if operands[0].shape[d] == shape[to]:
            found[to] = operands[0].origins[d]
    return tuple(found)


def _tile(eqn: Equation, operands: Sequence[Weight], shape: tuple[int, ...]) -> Origins:
    """Along a dimension of size one all entries are one and the same, as if it were broadcast."""
    del eqn
    (one,) = operands
    return tuple(
        own if one.shape[d] == n or one.shape[d] != 1 else frozenset()
        for d, (own, n) in enumerate(zip(one.origins, shape, strict=True))
    )


def _stack(eqn: Equation, operands: Sequence[Weight], shape: tuple[int, ...]) -> Origins:
    """Arrays beside one another, on a new dimension."""
    del shape
    found = list(_by_rank(eqn, operands, operands[0].shape))
    found.insert(eqn.params["axis"], frozenset())
    return tuple(found)


def _transpose(eqn: Equation, operands: Sequence[Weight], shape: tuple[int, ...]) -> Origins:
    del shape
    return tuple(operands[0].origins[d] for d in eqn.params["permutation"])


def _without(eqn: Equation, operands: Sequence[Weight], shape: tuple[int, ...]) -> Origins:
    del shape
    gone = eqn.params["dimensions" if eqn.primitive.name == "squeeze" else "axes"]
    return tuple(origin for d, origin in enumerate(operands[0].origins) if d not in gone)


def _dot(eqn: Equation, operands: Sequence[Weight], shape: tuple[int, ...]) -> Origins:
    del shape
    contracted, batch = eqn.params["dimension_numbers"]
    both = [
        frozenset().union(*(o.origins[d] for o, d in zip(operands, ds, strict=True))) for ds in zip(*batch, strict=True)
    ]
    rest = [
        origin
        for operand, over, along in zip(operands, contracted, batch, strict=True)
        for d, origin in enumerate(operand.origins)
        if d not in (*over, *along)
    ]
    return (*both, *rest)


def _by_rank(eqn: Equation, operands: Sequence[Weight], shape: tuple[int, ...]) -> Origins:
    """Of operands of the same rank each dimension stays what it is: parts, and joined parts, of arrays."""
    del eqn
    alike = [operand for operand in operands if len(operand.shape) == len(shape)]
    return tuple(frozenset[Origin]().union(*(one.origins[d] for one in alike)) for d in range(len(shape)))


def _written(eqn: Equation, operands: Sequence[Weight], shape: tuple[int, ...]) -> Origins:
    """What is written into a part of an array may lie anywhere on it."""
    del eqn, shape
    put = frozenset[Origin]().union(*(origin for operand in operands[1:] for origin in operand.origins))
    return tuple(origin | put for origin in operands[0].origins)


_RULES: Mapping[str, Callable[[Equation, Sequence[Weight], tuple[int, ...]], Origins]] = {
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "tile": _tile,
    "stack": _stack,
    "transpose": _transpose,
    "squeeze": _without,
    "dot_general": _dot,
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin"), _without),
    **dict.fromkeys(("scatter", "scatter-add", "scatter-sub"), _written),
    **dict.fromkeys(("concatenate", "slice", "dynamic_slice", "dynamic_update_slice", "pad", "rev", "split"), _by_rank),
}
