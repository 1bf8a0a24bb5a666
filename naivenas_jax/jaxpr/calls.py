"""Which primitives are calls: each evaluates one jaxpr, once, on all of its operands, and returns the results of that.

Everything that looks into traced functions asks this table, so that the same functions are seen through everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from jax.extend import core as jex
from jax.extend.core import primitives

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


def flattened(jaxpr: jex.Jaxpr) -> Iterator[jex.JaxprEqn]:
    """The equations of a jaxpr in the order of evaluation, those inside calls in place of the calls.

    >>> import jax
    >>> traced = jax.make_jaxpr(lambda x: jax.nn.relu(x) + 1)(2.0)
    >>> [eqn.primitive.name for eqn in flattened(traced.jaxpr)]
    ['max', 'add']
    """
    for eqn in jaxpr.eqns:
        inner = called(eqn)
        if inner is None:
            yield eqn
        else:
            yield from flattened(inner.jaxpr)
