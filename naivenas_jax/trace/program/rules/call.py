"""Calls: the jaxpr inside is analysed, and evaluated again."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, primitives

from naivenas_jax.jaxpr.elementwise_primitives import PASSING
from naivenas_jax.jaxpr.interpret import CALLS, Equation, bind, called
from naivenas_jax.trace.program.analysis import Analysis, ties
from naivenas_jax.trace.program.frame import Frame, NamedValue
from naivenas_jax.trace.program.module_names import place_of
from naivenas_jax.trace.program.rebind import NewSizes, binds, evaluate_resized
from naivenas_jax.trace.program.value import Value
from naivenas_jax.typing import Array

_REMAT = primitives.remat_p.name
#: Calls that lose their rules for derivatives when they are inlined; see `derivative`.
_DERIVATIVES = (primitives.custom_jvp_call_p.name, primitives.custom_vjp_call_p.name)
#: Calls whose inside is evaluated as a part of what is around them.
INLINED = tuple(name for name in CALLS if name not in (_REMAT, *_DERIVATIVES))


def jaxpr_of(eqn: Equation) -> ClosedJaxpr:
    """The jaxpr of an equation that is a call."""
    found = called(eqn)
    assert found is not None, eqn
    return found


@ties(*INLINED, _REMAT)
def call(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """What the jaxpr inside ties."""
    return analysis.inner(frame, eqn, jaxpr_of(eqn), values)


@binds(*INLINED)
def bind_call(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Inlined: the compiler sees the same operations."""
    (inner,) = frame.inner[eqn]
    return evaluate_resized(jaxpr_of(eqn), inner, sizes, arrays)


@binds(_REMAT)
def bind_remat(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """Rematerialised as before."""
    (inner,) = frame.inner[eqn]
    function = jax.checkpoint(
        lambda *xs: evaluate_resized(jaxpr_of(eqn), inner, sizes, xs),
        prevent_cse=eqn.params["prevent_cse"],
        policy=eqn.params["policy"],
    )
    return list(function(*arrays))


@ties(*sorted(PASSING - {"name"}))
def passing(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Every operand passes as it is."""
    del analysis, frame, eqn
    return list(values)


@ties("name")
def name(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """The value as it is; its place in the model is kept."""
    aval = eqn.outvars[0].aval
    place = place_of(eqn.params["name"], aval.ndim)
    if place and aval.ndim:
        analysis.places.setdefault(place, []).append(NamedValue(values[0], aval, frame, eqn))
    return list(values)


@binds("name")
def bind_name(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """The model's own names stay, for policies of rematerialisation; ours were for the analysis only."""
    name = eqn.params["name"]
    if sizes.watch:
        return [sizes.watch(name, frame, jnp.asarray(arrays[0]))]
    return list(arrays) if name.startswith("~") else bind(eqn, arrays)


@ties("debug_callback", "debug_print")
def watching(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """A function that looks at values and returns none ties nothing."""
    del analysis, frame, eqn, values
    return []
