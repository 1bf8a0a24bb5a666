"""Calls: the jaxpr inside is analysed, and evaluated again as the same kind of call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from naivenas_jax.errors import StructureError
from naivenas_jax.trace.analysis import Analysis, Frame, vectors_of
from naivenas_jax.trace.rebind import Sizes, evaluate
from naivenas_jax.trace.table import binds, ties
from naivenas_jax.trace.value import Value


@ties("jit", "pjit", "closed_call", "core_call")
def call(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """What the inner jaxpr ties."""
    closed = _closed(eqn)
    return analysis.inner(frame, closed.jaxpr, [_constant(c) for c in closed.consts], values)


@ties("checkpoint", "remat", "remat2")
def checkpoint(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """What the inner jaxpr ties."""
    return analysis.inner(frame, eqn.params["jaxpr"], (), values)


@binds("jit", "pjit", "closed_call", "core_call")
def bind_call(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """Inlined: the compiler sees the same operations."""
    closed, (inner,) = _closed(eqn), frame.inner[frame.position]
    return evaluate(closed.jaxpr, inner, sizes, closed.consts, arrays)


@binds("checkpoint", "remat", "remat2")
def bind_checkpoint(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """Rematerialised as before."""
    (inner,), params = frame.inner[frame.position], eqn.params
    function = jax.checkpoint(
        lambda *xs: evaluate(params["jaxpr"], inner, sizes, (), xs),
        prevent_cse=params["prevent_cse"],
        policy=params["policy"],
    )
    return list(function(*arrays))


@ties("custom_jvp_call")
def custom_jvp(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """What the inner jaxpr ties; its rule for derivatives is analysed when somebody differentiates."""
    closed = eqn.params["call_jaxpr"]
    return analysis.inner(frame, closed.jaxpr, [_constant(c) for c in closed.consts], values)


@binds("custom_jvp_call")
def bind_custom_jvp(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """A function with the same rule for derivatives; inlining would lose it (the gradient of relu at 0)."""
    closed, (inner,) = eqn.params["call_jaxpr"], frame.inner[frame.position]
    count = eqn.params["num_consts"]
    values = [frame.read(atom) for atom in eqn.invars[count:]]

    @jax.custom_jvp
    def function(*xs: Any) -> Any:
        return tuple(evaluate(closed.jaxpr, inner, sizes, closed.consts, [*arrays[:count], *xs]))

    @function.defjvp
    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        jaxpr, consts, zero = _jvp(eqn)
        moves = [_differentiable(aval) for aval in _own(eqn)]
        moving = [t for t, m in zip(tangents, moves, strict=True) if m]
        like = [*values, *(v for v, m in zip(values, moves, strict=True) if m)]
        results = _evaluate_apart(jaxpr, like, sizes, consts, [*primals, *moving])
        outputs, rest = results[: len(zero)], iter(results[len(zero) :])
        return tuple(outputs), tuple(
            jnp.zeros_like(out) if z else next(rest) for out, z in zip(outputs, zero, strict=True)
        )

    return list(function(*arrays[count:]))


def _evaluate_apart(
    jaxpr: Any, values: Sequence[Value], sizes: Sizes, consts: Sequence[Any], arrays: Sequence[Any]
) -> list[Any]:
    """Analyse a jaxpr by itself, given what its arguments are outside, and evaluate it with the sizes from there."""
    analysis, frame = Analysis(), Frame()
    outside = {dim: analysis.tying.new(len(dim)) for value in values for dim in value.dims if dim is not None}
    arguments = [Value(tuple(dim and outside[dim] for dim in value.dims)) for value in values]
    analysis.walk(jaxpr, frame, [_constant(c) for c in consts], arguments)
    vectors = [*outside.values(), *vectors_of(frame)]
    ties, rows = analysis.tying.freeze_with(vectors)
    runs = list(ties.run_sizes)
    for dim, row in zip(outside, rows, strict=False):
        if len(row) == 1:
            runs[row[0]] = sizes.length(dim)
        elif sizes.length(dim) != len(dim):
            raise StructureError("A custom derivative rule takes a resized axis apart, which is not understood.")
    return evaluate(jaxpr, frame, Sizes(dict(zip(vectors, rows, strict=True)), runs, ties.products), consts, arrays)


def _own(eqn: Any) -> list[Any]:
    return [atom.aval for atom in eqn.invars[eqn.params["num_consts"] :]]


def _differentiable(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jnp.inexact))


def _jvp(eqn: Any) -> tuple[Any, Any, Any]:
    """The jaxpr of the derivative rule, its constants, and which tangents of results are zero."""
    return eqn.params["jvp_jaxpr_fun"].call_wrapped(*(not _differentiable(aval) for aval in _own(eqn)))


def _closed(eqn: Any) -> Any:
    return eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]


def _constant(array: Any) -> Value:
    """Constants of the model are what they are: their axes are fixed."""
    return Value((None,) * getattr(array, "ndim", 0), weight=True)
