"""What cannot be imported, and axes that cannot change, each with its message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive

import naivenas_jax as nas

X = jnp.ones((4, 3))

mystery = Primitive("mystery")
mystery.def_impl(lambda h: h)
mystery.def_abstract_eval(lambda h: h)


def _variables() -> dict[str, Any]:
    return {"params": {"a": {"kernel": jnp.ones((3, 6))}, "b": {"kernel": jnp.ones((6, 2))}}}


def _network(rule: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda v, x: rule(x @ v["params"]["a"]["kernel"]) @ v["params"]["b"]["kernel"]


FROZEN = {
    "unknown primitive": (mystery.bind, "it is read by mystery, which is not understood"),
    "callback": (
        lambda h: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(h.shape, h.dtype), h),
        "it is read by pure_callback, a function outside of JAX",
    ),
    "size written into the model": (lambda h: h * jnp.arange(6.0), "mul ties it to an axis of fixed size"),
    "python loop over neurons": (
        lambda h: jnp.stack([h[:, i] * i for i in range(h.shape[1])], 1),
        "squeeze takes a single neuron of it",
    ),
    "position": (lambda h: h + jnp.argmax(h, 1, keepdims=True), "argmax returns a position along it"),
    "order": (lambda h: jnp.cumsum(h, 1), "cumsum runs along it"),
    "index": (
        lambda h: lax.dynamic_update_slice(h, h[:, :2], (0, jnp.int32(h[0, 0]))),
        "dynamic_update_slice writes into it at a position known only when the network runs",
    ),
    "loop condition": (
        lambda h: lax.while_loop(lambda c: c[0, 0] > c[0, 1], lambda c: jnp.sort(c, 1), h),
        "sort permutes it",
    ),
    "convolution with the batch in groups": (
        lambda h: h + lax.conv_general_dilated(h.T[:, None], h.T[:, None], (1,), "SAME", batch_group_count=6)[0].T,
        "it is read by conv_general_dilated, with the batch in groups",
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_axes_that_cannot_change(name: str) -> None:
    """The axis is no handle, and the graph says why."""
    rule, reason = FROZEN[name]
    graph, variables = nas.from_function(_network(rule), _variables(), X)
    assert "a" not in graph.handles()
    assert reason in graph.fixed()["a"]
    with pytest.raises(nas.NaiveNASError, match="a"):
        nas.delta_nout(graph, variables, {"a": -1})


def test_partly_fixed_axis() -> None:
    """Neurons that are used one by one stay; the others may go."""
    graph, variables = nas.from_function(_network(lambda h: h * h[:, 2:3]), _variables(), X)
    assert graph.fixed()["a"] == "mul takes a single neuron of it"
    smaller = nas.delta_nout(graph, variables, {"a": -5})
    assert smaller.indices("a").tolist() == [2]


CANNOT = {
    "data-dependent shape": (lambda v, x: x[x > 0], (X,), jax.errors.NonConcreteBooleanIndexError, "boolean"),
    "data-dependent branch": (
        lambda v, x: x if x.sum() > 0 else -x,
        (X,),
        jax.errors.TracerBoolConversionError,
        "bool",
    ),
    "no inputs": (lambda v: v["params"]["a"]["kernel"], (), nas.GraphError, "Give example inputs"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_models_that_cannot_be_imported(name: str) -> None:
    """JAX says what cannot be traced; what else is wrong we say."""
    fn, inputs, error, message = CANNOT[name]
    with pytest.raises(error, match=message):
        nas.from_function(fn, _variables(), *inputs)
