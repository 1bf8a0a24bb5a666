"""Loops and branches: what is carried is tied to itself, what branches return is tied among them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from naivenas_jax.trace.program.analysis import Analysis, Frame
from naivenas_jax.trace.program.rebind import Sizes, evaluate
from naivenas_jax.trace.program.rules.call import opened
from naivenas_jax.trace.program.table import binds, ties
from naivenas_jax.trace.program.value import Value, constant, together


@ties("scan")
def scan(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """The axis that is scanned over is fixed; one walk is enough, since tying the carry ties all rounds."""
    consts, carry, stacked = _scanned(eqn, values)
    for value in stacked:
        analysis.fix(value.dims[0], "scan runs along it")
    arguments = [*consts, *carry, *(_row(value) for value in stacked)]
    start = _started(opened(eqn.params["jaxpr"])[0], arguments, len(consts), len(carry))
    arguments[len(consts) : len(consts) + len(carry)] = start
    jaxpr, own = opened(eqn.params["jaxpr"])
    results = analysis.inner(frame, jaxpr, [constant(c) for c in own], arguments)
    kept = _carried(analysis, start, results[: len(carry)], "scan")
    return [*kept, *(Value((None, *value.dims)) for value in results[len(carry) :])]


def _scanned(eqn: Any, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    consts, both = eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"]
    return list(operands[:consts]), list(operands[consts:both]), list(operands[both:])


def _started(body: Any, arguments: Sequence[Value], first: int, count: int) -> list[Value]:
    """What is carried, as the body of a loop sees it in any round.

    A weight does not stay one, but for counters: whole numbers that come from counters and weights only. With these,
    a loop picks the weights of its round.

    Args:
      body: its jaxpr.
      arguments: of the body in the first round; ``count`` of them from ``first`` on are carried.
    """
    counters = {i for i in range(count) if arguments[first + i].weight and _whole(body.outvars[i].aval)}
    while True:
        free = {body.invars[i] for i, value in enumerate(arguments) if value.weight and not 0 <= i - first < count}
        free |= {body.invars[first + i] for i in counters}
        left = {i for i in counters if _comes_from(body, body.outvars[i], free)}
        if left == counters:
            return [Value(arguments[first + i].dims, i in counters) for i in range(count)]
        counters = left


def _whole(aval: Any) -> bool:
    return bool(aval.ndim == 0 and jnp.issubdtype(aval.dtype, jnp.integer))


def _comes_from(jaxpr: Any, result: Any, free: Collection[Any]) -> bool:
    """Whether a result of a jaxpr depends on nothing but these of its arguments."""
    needed = set() if isinstance(result, jex.Literal) else {result}
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(atom for atom in eqn.invars if not isinstance(atom, jex.Literal))
    return needed.isdisjoint(set(jaxpr.invars) - set(free))


def _row(value: Value) -> Value:
    return replace(value, dims=value.dims[1:], origins=value.origins[1:], summed=None, known=None)


def _carried(analysis: Analysis, start: Sequence[Value], end: Sequence[Value], name: str) -> list[Value]:
    reason = f"{name} carries it in a value of fixed size"
    return [replace(analysis.tie_all(a, b, reason), weight=False) for a, b in zip(start, end, strict=True)]


@binds("scan")
def bind_scan(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """A scan over the same rounds."""
    (inner,), params = frame.inner[frame.position], eqn.params
    consts, carry, stacked = _scanned(eqn, _typed(eqn, arrays))
    jaxpr, own = opened(params["jaxpr"])

    def body(state: Any, row: Any) -> tuple[Any, Any]:
        results = evaluate(jaxpr, inner, sizes, own, [*consts, *state, *row])
        return results[: len(carry)], results[len(carry) :]

    length, rounds = params["length"], {key: params[key] for key in ("reverse", "unroll")}
    end, rows = jax.lax.scan(body, carry, stacked, length=length, **rounds)
    return [*end, *rows]


def _typed(eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """Literals as arrays, so that what is carried has the type that it had."""
    return [
        jnp.asarray(array, atom.aval.dtype) if isinstance(array, bool | int | float) else array
        for array, atom in zip(arrays, eqn.invars, strict=True)
    ]


@ties("while")
def while_(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """What is carried is tied to itself."""
    tests, consts, carry = _whiled(eqn, values)
    start = _started(opened(eqn.params["body_jaxpr"])[0], [*consts, *carry], len(consts), len(carry))
    jaxpr, own = opened(eqn.params["cond_jaxpr"])
    for value in analysis.inner(frame, jaxpr, [constant(c) for c in own], [*tests, *start]):
        analysis.fix_all(value, "it decides when a loop ends")
    jaxpr, own = opened(eqn.params["body_jaxpr"])
    results = analysis.inner(frame, jaxpr, [constant(c) for c in own], [*consts, *start])
    return _carried(analysis, start, results, "while")


def _whiled(eqn: Any, operands: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    tests, both = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    return list(operands[:tests]), list(operands[tests:both]), list(operands[both:])


@binds("while")
def bind_while(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """A loop with the same condition."""
    test, body = frame.inner[frame.position]
    tests, consts, carry = _whiled(eqn, _typed(eqn, arrays))
    (test_jaxpr, test_own), (jaxpr, own) = opened(eqn.params["cond_jaxpr"]), opened(eqn.params["body_jaxpr"])
    return list(
        jax.lax.while_loop(
            lambda state: evaluate(test_jaxpr, test, sizes, test_own, [*tests, *state])[0],
            lambda state: evaluate(jaxpr, body, sizes, own, [*consts, *state]),
            carry,
        )
    )


@ties("cond")
def cond(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """All branches see the same operands, and return alike."""
    analysis.fix_all(values[0], "it chooses a branch")
    branches = [
        analysis.inner(frame, jaxpr, [constant(c) for c in own], values[1:])
        for jaxpr, own in map(opened, eqn.params["branches"])
    ]
    reason = "another branch returns a fixed size"
    return [
        reduce(lambda a, b: analysis.tie_all(a, b, reason), results, together(results[0].dims, results[:1]))
        for results in zip(*branches, strict=True)
    ]


@binds("cond")
def bind_cond(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """A choice between the same branches."""
    frames = frame.inner[frame.position]
    branches = [_branch(sizes, inner, jaxpr) for inner, jaxpr in zip(frames, eqn.params["branches"], strict=True)]
    return list(jax.lax.switch(arrays[0], branches, *arrays[1:]))


def _branch(sizes: Sizes, frame: Frame, closed: Any) -> Callable[..., list[Any]]:
    jaxpr, own = opened(closed)
    return lambda *operands: evaluate(jaxpr, frame, sizes, own, operands)
