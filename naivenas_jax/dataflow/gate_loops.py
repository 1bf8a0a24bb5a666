"""Arrays with the neurons on them that have gates (`Labelled`), and loops and branches over these.

What a loop carries has to be of one kind in every round: rounds are traced until what they carry is on neurons, and
computed of inputs, as what they were given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from naivenas_jax.dataflow.gate_labels import Labels
from naivenas_jax.jaxpr.interpret import Equation, closed
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array, PyTree, Shape


@partial(jax.tree_util.register_dataclass, data_fields=["array", "labels"], meta_fields=["active", "lost"])
@dataclass(frozen=True, eq=False)
class Labelled:
    """An array, and the neurons on it that have gates.

    Attributes:
      array: the array.
      labels: which neurons lie where.
      active: whether it is computed of inputs.
      lost: variables with neurons that lie on it, nobody knows where.
    """

    array: Array
    labels: tuple[Labels, ...] = ()
    active: bool = False
    lost: frozenset[Path] = frozenset()


#: Evaluates a jaxpr.
Evaluate: TypeAlias = Callable[[ClosedJaxpr, Sequence[Labelled]], list[Labelled]]


def scan(evaluate: Evaluate, eqn: Equation, operands: Sequence[Labelled]) -> list[Labelled]:
    """A loop over the rows of arrays."""
    params, first = eqn.params, eqn.params["num_consts"]
    both = first + params["num_carry"]
    consts, stacked, program = operands[:first], operands[both:], closed(params["jaxpr"])

    def body(state: Sequence[Labelled], given: Sequence[_Parts]) -> list[Labelled]:
        rows = [_row(one, array, numbers) for one, (array, numbers) in zip(stacked, given, strict=True)]
        return evaluate(program, [*consts, *state, *rows])

    shapes = [(_rows_of(one.array), [_rows_of(each) for each in _changing(one)]) for one in stacked]
    given = [_typed(eqn, i, one) for i, one in enumerate(operands[first:both], first)]
    carry = _kept(given, lambda state, given: body(state, given)[: both - first], shapes)
    made: list[Labelled] = []

    def step(state: list[Labelled], given: list[_Parts]) -> tuple[list[Labelled], list[_Parts]]:
        results = body(state, given)
        made[:] = results[len(carry) :]
        computed = [[one.numbers for one in row.labels if not _is_known(one)] for row in made]
        return _like(carry, results[: len(carry)]), [(row.array, own) for row, own in zip(made, computed, strict=True)]

    rounds = {key: params[key] for key in ("length", "reverse", "unroll")}
    end, rows = jax.lax.scan(step, carry, [(one.array, _changing(one)) for one in stacked], **rounds)
    return [*end, *(_stacked(one, array, numbers) for one, (array, numbers) in zip(made, rows, strict=True))]


def while_loop(evaluate: Evaluate, eqn: Equation, operands: Sequence[Labelled]) -> list[Labelled]:
    """A loop until a test fails."""
    tests, both = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    test, body = closed(eqn.params["cond_jaxpr"]), closed(eqn.params["body_jaxpr"])
    given = [_typed(eqn, i, one) for i, one in enumerate(operands[both:], both)]
    carry = _kept(given, lambda state: evaluate(body, [*operands[tests:both], *state]))
    return list(
        jax.lax.while_loop(
            lambda state: evaluate(test, [*operands[:tests], *state])[0].array,
            lambda state: _like(carry, evaluate(body, [*operands[tests:both], *state])),
            carry,
        )
    )


def cond(evaluate: Evaluate, eqn: Equation, operands: Sequence[Labelled]) -> list[Labelled]:
    """One of several branches."""
    index, *rest = operands
    branches = [partial(evaluate, closed(each), rest) for each in eqn.params["branches"]]
    first, *others = (jax.eval_shape(branch) for branch in branches)
    for other in others:
        first = list(map(_wider, first, other))
    kind = [replace(one, active=one.active or index.active) for one in first]

    def taken(branch: Callable[[], list[Labelled]]) -> Callable[[], list[Labelled]]:
        return lambda: _like(kind, branch())

    return list(jax.lax.switch(index.array, list(map(taken, branches))))


#: An array, and the numbers of those of its labels that are computed.
_Parts: TypeAlias = tuple[Array, list[Array]]


def _is_known(one: Labels) -> bool:
    return isinstance(one.numbers, np.ndarray)


def _changing(one: Labelled) -> list[Array]:
    """The numbers that are others in each row."""
    return [each.numbers for each in one.labels if each.along([0])]


def _rows_of(array: Array) -> Shape:
    return Shape(np.shape(array)[1:], jnp.result_type(array))


def _row(one: Labelled, array: Array, numbers: Sequence[Array]) -> Labelled:
    """One row of an array, given what changes from row to row."""
    rest = iter(numbers)
    labels = (replace(own, numbers=next(rest)) if own.along([0]) else own for own in one.labels)
    return replace(one, array=array, labels=tuple(replace(o, dims=tuple(d - 1 for d in o.dims if d)) for o in labels))


def _stacked(one: Labelled, array: Array, numbers: Sequence[Array]) -> Labelled:
    """The rows of an array beneath one another."""
    rest = iter(numbers)
    labels = [
        replace(own, dims=tuple(d + 1 for d in own.dims))
        if _is_known(own)
        else replace(own, numbers=next(rest), dims=(0, *(d + 1 for d in own.dims)))
        for own in one.labels
    ]
    return replace(one, array=array, labels=tuple(labels))


def _kept(state: list[Labelled], body: Callable[..., list[Labelled]], *rows: object) -> list[Labelled]:
    """What a loop carries, of the kind that it has in every round."""
    while True:
        wider = list(map(_wider, state, jax.eval_shape(body, state, *rows)))
        if _kinds(wider) == _kinds(state):
            return state
        state = wider


def _kinds(state: list[Labelled]) -> PyTree:
    return jax.tree.structure(state)


def _wider(one: Labelled, other: Labelled) -> Labelled:
    """An array, of a kind that another one is of, too."""
    labels = [own if (also := _match(own, other)) is None else _of_both(own, also) for own in one.labels]
    more = [replace(each, numbers=_none(each)) for each in other.labels if _match(each, one) is None]
    return Labelled(one.array, (*labels, *more), one.active or other.active, one.lost | other.lost)


def _of_both(one: Labels, other: Labels) -> Labels:
    return replace(one, runs=one.runs | other.runs, sources=one.sources | other.sources)


def _match(one: Labels, array: Labelled) -> Labels | None:
    """The labels of the same neurons on the same dimensions of another array."""
    return next((each for each in array.labels if each.dims == one.dims and each.same(one)), None)


def _none(one: Labels) -> Array:
    return np.full(one.numbers.shape, -1, np.int32)


def _like(kinds: Sequence[Labelled], arrays: Sequence[Labelled]) -> list[Labelled]:
    """Arrays as of a wider kind."""
    return [
        replace(
            kind,
            array=one.array,
            labels=tuple(
                replace(own, numbers=jnp.asarray(_none(own) if (found := _match(own, one)) is None else found.numbers))
                for own in kind.labels
            ),
        )
        for kind, one in zip(kinds, arrays, strict=True)
    ]


def _typed(eqn: Equation, number: int, one: Labelled) -> Labelled:
    """What a loop carries, of the dtype that it is carried in."""
    return replace(one, array=jnp.asarray(one.array, eqn.invars[number].aval.dtype))
