"""Loops and branches: what is carried is tied to itself, what branches return is tied among them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import reduce
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

from naivenas_jax.jaxpr.identity import identity_zeros
from naivenas_jax.jaxpr.interpret import Equation, closed
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.analysis import Analysis, Rounds, ties
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rebind import NewSizes, binds, evaluate_resized
from naivenas_jax.trace.program.value import Dim, Origin, Value, together
from naivenas_jax.typing import Array

#: A value of the analysis, or an array.
T = TypeVar("T")
#: Why the layers of a stack are coupled.
NO_IDENTITY = "layers are computed one after the other, and none is the identity when weights of it are zero"


@ties("scan")
def scan(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """What is scanned over are layers, if these are stacked variables; else it is fixed.

    One walk is enough, since tying the carry ties all rounds.
    """
    consts, carry, stacked = _scanned(eqn, values)
    layers = _layers(analysis, stacked)
    if layers is not None:
        frame.notes[eqn] = layers
    arguments = [*consts, *carry, *(_row(value) for value in stacked)]
    body = closed(eqn.params["jaxpr"])
    start = _started(body.jaxpr, arguments, len(consts), len(carry))
    arguments[len(consts) : len(consts) + len(carry)] = start
    results = analysis.inner(frame, eqn, body, arguments)
    kept, rows = _carried(analysis, start, results[: len(carry)], "scan"), results[len(carry) :]
    if layers is not None and not analysis.quiet:
        _note_rounds(analysis, layers, body, stacked, range(len(consts), len(consts) + len(carry)), rows)
    return [*kept, *(Value((layers, *value.dims)) for value in rows)]


def _layers(analysis: Analysis, stacked: Sequence[Value]) -> Dim:
    """The layers that a loop runs along: rows of variables, and of constants and keys beside them."""
    dims = [value.dims[0] for value in stacked]
    known = [dim for dim in dims if dim is not None]
    data = [v for v in stacked if not v.weight and v.dims[0] not in analysis.split]
    if not any(value.weight and value.origin(0) for value in stacked) or data or len(known) < len(dims):
        for dim in known:
            analysis.fix(dim, "scan runs along it")
        return None
    for dim in known[1:]:
        analysis.tie(known[0], dim, "scan runs along it")
    return known[0]


def _note_rounds(
    analysis: Analysis,
    layers: Vector,
    body: ClosedJaxpr,
    stacked: Sequence[Value],
    carried: range,
    rows: Sequence[Value],
) -> None:
    """Note what is known of a stack of layers; where no layer can be the identity, they are coupled."""
    stored = {carried.stop + i: value.origin(0) for i, value in enumerate(stacked) if value.stored}
    trained = [number for number, origin in stored.items() if all(path[0] != "batch_stats" for path, _ in origin)]
    zeros = identity_zeros(body, carried, trained) if all(value.weight for value in rows) else None
    every = frozenset[Origin]().union(*(value.origin(0) for value in stacked))
    if zeros is None:
        analysis.couple(layers, NO_IDENTITY)
    last = None if zeros is None else frozenset[Origin]().union(*(stored[number] for number in zeros))
    analysis.keep_some(layers)
    analysis.rounds.append(Rounds(layers, every, last))


def rounds(frame: Frame, eqn: Equation) -> int | Vector:
    """How often what is inside an equation is evaluated: a number, or once for each of these layers."""
    layers = frame.notes.get(eqn) if eqn.primitive.name == "scan" else None
    return layers if isinstance(layers, Vector) else int(eqn.params.get("length", 1))


def _scanned(eqn: Equation, operands: Sequence[T]) -> tuple[list[T], list[T], list[T]]:
    """The operands of a scan: constants, what is carried, what is scanned over."""
    consts, both = eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"]
    return list(operands[:consts]), list(operands[consts:both]), list(operands[both:])


def _started(body: Jaxpr, arguments: Sequence[Value], first: int, count: int) -> list[Value]:
    """What is known of the carried values when the body of a loop begins a round, whichever round it is.

    A carried weight is taken for an activation, since the body may add activations to it. Counters stay weights: whole
    numbers that are computed from counters and weights only, with which a loop picks the weights of a round.

    Args:
      body: its jaxpr.
      arguments: of the body in the first round.
      first: the number of the first argument that is carried.
      count: how many are carried.
    """
    counters = {i for i in range(count) if arguments[first + i].weight and _whole(body.out_avals[i])}
    while True:
        free = {body.invars[i] for i, value in enumerate(arguments) if value.weight and not 0 <= i - first < count}
        free |= {body.invars[first + i] for i in counters}
        left = {i for i in counters if _comes_from(body, body.outvars[i], free)}
        if left == counters:
            return [Value(arguments[first + i].dims, i in counters) for i in range(count)]
        counters = left


def _whole(aval: jax.core.ShapedArray) -> bool:
    """Whether a value is a single whole number."""
    return bool(aval.ndim == 0 and jnp.issubdtype(aval.dtype, jnp.integer))


def _comes_from(jaxpr: Jaxpr, result: Var | Literal, free: Collection[Var]) -> bool:
    """Whether a result of a jaxpr depends on nothing but these of its arguments."""
    needed = set() if isinstance(result, Literal) else {result}
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(atom for atom in eqn.invars if not isinstance(atom, Literal))
    return needed.isdisjoint(set(jaxpr.invars) - set(free))


def _row(value: Value) -> Value:
    """One round's part of a value that is scanned over."""
    return replace(value, dims=value.dims[1:], origins=value.origins[1:], sums=(), known=None)


def _carried(analysis: Analysis, start: Sequence[Value], end: Sequence[Value], name: str) -> list[Value]:
    """What is carried is tied to itself from round to round."""
    reason = f"{name} carries it in a value of fixed size"
    return [replace(analysis.tie_all(a, b, reason), weight=False) for a, b in zip(start, end, strict=True)]


@binds("scan")
def bind_scan(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A scan over the layers that there are now, or over the same rounds. Layers that do not count are passed by."""
    (inner,), params = frame.inner[eqn], eqn.params
    consts, carry, stacked = _scanned(eqn, _typed(eqn, arrays))

    turns = rounds(frame, eqn)
    alive = sizes.mask(turns) if isinstance(turns, Vector) else None

    def body(state: list[Array], row: tuple[list[Array], Array | None]) -> tuple[list[Array], list[Array]]:
        results = evaluate_resized(closed(params["jaxpr"]), inner, sizes, [*consts, *state, *row[0]])
        after = results[: len(carry)]
        if row[1] is not None:
            after = [jnp.where(row[1], now, was) for now, was in zip(after, state, strict=True)]
        return after, results[len(carry) :]

    length = sizes.length(turns) if isinstance(turns, Vector) else turns
    options = {key: params[key] for key in ("reverse", "unroll")}
    end, rows = jax.lax.scan(body, carry, (stacked, alive), length=length, **options)
    return [*end, *rows]


def _typed(eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Literals as arrays of their dtype, which a loop would otherwise take for weakly typed."""
    return [
        jnp.asarray(array, atom.aval.dtype) if isinstance(array, bool | int | float) else array
        for array, atom in zip(arrays, eqn.invars, strict=True)
    ]


@ties("while")
def while_(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """What is carried is tied to itself."""
    tests, consts, carry = _whiled(eqn, values)
    test, body = closed(eqn.params["cond_jaxpr"]), closed(eqn.params["body_jaxpr"])
    start = _started(body.jaxpr, [*consts, *carry], len(consts), len(carry))
    for value in analysis.inner(frame, eqn, test, [*tests, *start]):
        analysis.fix_all(value, "it decides when a loop ends")
    results = analysis.inner(frame, eqn, body, [*consts, *start])
    return _carried(analysis, start, results, "while")


def _whiled(eqn: Equation, operands: Sequence[T]) -> tuple[list[T], list[T], list[T]]:
    """The operands of a while loop: constants of its condition, constants of its body, what is carried."""
    tests, both = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    return list(operands[:tests]), list(operands[tests:both]), list(operands[both:])


@binds("while")
def bind_while(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A loop with the same condition."""
    of_test, of_body = frame.inner[eqn]
    test, body = closed(eqn.params["cond_jaxpr"]), closed(eqn.params["body_jaxpr"])
    tests, consts, carry = _whiled(eqn, _typed(eqn, arrays))
    return list(
        jax.lax.while_loop(
            lambda state: evaluate_resized(test, of_test, sizes, [*tests, *state])[0],
            lambda state: evaluate_resized(body, of_body, sizes, [*consts, *state]),
            carry,
        )
    )


@ties("cond")
def cond(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """All branches are given the same operands; results of different branches are tied."""
    analysis.fix_all(values[0], "it chooses a branch")
    branches = [analysis.inner(frame, eqn, closed(branch), values[1:]) for branch in eqn.params["branches"]]
    reason = "another branch returns a fixed size"
    return [
        reduce(lambda a, b: analysis.tie_all(a, b, reason), results, together(results[0].dims, results[:1]))
        for results in zip(*branches, strict=True)
    ]


@binds("cond")
def bind_cond(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A choice between the same branches."""
    pairs = zip(eqn.params["branches"], frame.inner[eqn], strict=True)
    branches = [_branch(sizes, closed(branch), inner) for branch, inner in pairs]
    return list(jax.lax.switch(arrays[0], branches, *arrays[1:]))


def _branch(sizes: NewSizes, branch: ClosedJaxpr, frame: Frame) -> Callable[..., list[Array]]:
    return lambda *operands: evaluate_resized(branch, frame, sizes, operands)
