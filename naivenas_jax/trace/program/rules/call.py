"""Calls: the jaxpr inside is analysed, and evaluated again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from naivenas_jax.trace.program.analysis import Analysis, Frame, Named
from naivenas_jax.trace.program.module_names import place_of
from naivenas_jax.trace.program.rebind import Sizes, bind, evaluate
from naivenas_jax.trace.program.table import binds, ties
from naivenas_jax.trace.program.value import Value, constant

_CALLS = ("jit", "pjit", "closed_call", "core_call", "call", "composite", "custom_vmap_call")
_REMATS = ("checkpoint", "remat", "remat2")


def opened(closed: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants."""
    return (closed.jaxpr, closed.consts) if hasattr(closed, "consts") else (closed, ())


def inner_of(eqn: Any) -> tuple[Any, Sequence[Any]]:
    """The jaxpr of a call, and its constants."""
    return opened(next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "call") if key in eqn.params))


@ties(*_CALLS, *_REMATS)
def call(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """What the inner jaxpr ties."""
    jaxpr, consts = inner_of(eqn)
    return analysis.inner(frame, jaxpr, [constant(c) for c in consts], values)


@binds(*_CALLS)
def bind_call(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """Inlined: the compiler sees the same operations."""
    (jaxpr, consts), (inner,) = inner_of(eqn), frame.inner[frame.position]
    return evaluate(jaxpr, inner, sizes, consts, arrays)


@binds(*_REMATS)
def bind_remat(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """Rematerialised as before."""
    (jaxpr, consts), (inner,), params = inner_of(eqn), frame.inner[frame.position], eqn.params
    function = jax.checkpoint(
        lambda *xs: evaluate(jaxpr, inner, sizes, consts, xs),
        prevent_cse=params["prevent_cse"],
        policy=params["policy"],
    )
    return list(function(*arrays))


@ties(
    *["device_put", "sharding_constraint", "layout_constraint", "reshard", "pvary", "optimization_barrier"],
    *["with_memory_space_constraint"],
)
def passing(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Every operand passes as it is."""
    del analysis, frame, eqn
    return list(values)


@ties("name")
def name(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """The value as it is; the place is noted down."""
    aval = eqn.outvars[0].aval
    place = place_of(eqn.params["name"], aval.ndim)
    if place and aval.ndim:
        analysis.places.setdefault(place, []).append(Named(values[0], aval, frame, frame.position))
    return list(values)


@binds("name")
def bind_name(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """Names of the model's own stay, for policies of rematerialisation; ours have done their work."""
    name = eqn.params["name"]
    if sizes.watch:
        return [sizes.watch(name, frame, arrays[0])]
    return list(arrays) if name.startswith("~") else bind(eqn, arrays)


@ties("debug_callback", "debug_print")
def watching(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """A look at values changes nothing."""
    del analysis, frame, eqn, values
    return []
