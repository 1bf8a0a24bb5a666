"""What cannot be imported, and axes that cannot change, each with its message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import freeze
from jax import lax
from jax.experimental import io_callback
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


def _zeros_rule() -> Callable[[Any], Any]:
    rule = jax.custom_vjp(jnp.sin)
    rule.defvjp(lambda h: (jnp.sin(h.value), h.value), lambda r, g: (g * jnp.cos(r),), symbolic_zeros=True)
    return rule


FROZEN = {
    "unknown primitive": (mystery.bind, "it is read by mystery, which is not understood"),
    "callback": (
        lambda h: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(h.shape, h.dtype), h),
        "it is read by pure_callback, a function outside of JAX",
    ),
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
    "derivative rule with symbolic zeros": (
        _zeros_rule(),
        "it is read by custom_vjp_call, whose rule for derivatives sees symbolic zeros",
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


VALUE = "it needs a value while it is traced, at .*test_refusals.py:"
CANNOT = {
    "data-dependent shape": (lambda v, x: x[x > 0], (X,), VALUE + r".*boolean indices must be concrete.*size= for"),
    "nonzero without size": (lambda v, x: x[jnp.nonzero(x[:, 0])[0]], (X,), VALUE + ".*size= for jnp.nonzero"),
    "python branch on a value": (lambda v, x: x if x.sum() > 0 else -x, (X,), VALUE + ".*boolean conv.*jax.lax.cond"),
    "python loop over a value": (lambda v, x: [x for _ in range(x.sum().astype(int))], (X,), VALUE + ".*__index__"),
    "python number of a value": (lambda v, x: x * float(x.sum()), (X,), VALUE + ".*must not depend on them"),
    "function of numpy": (lambda v, x: np.sin(x), (X,), VALUE + ".*numpy.ndarray conversion.*functions of jax.numpy"),
    "no inputs": (lambda v: v["params"]["a"]["kernel"], (), "Give example inputs .* Found: none"),
    "text": (lambda v, x: x, ("words",), "Give example inputs .* Found: 'words'.* are constants of the model"),
    "array of text": (lambda v, x: x, (np.array(["words"]),), r"dtype <U5 and shape \(1,\).* numbers \(tokens\)"),
    "no arrays returned": (lambda v, x: None, (X,), "The model returns no arrays"),
}


@pytest.mark.parametrize("name", CANNOT)
def test_models_that_cannot_be_imported(name: str) -> None:
    """What was found, in which line of the model, and what would work."""
    fn, inputs, message = CANNOT[name]
    with pytest.raises(nas.GraphError, match=message):
        nas.from_function(fn, _variables(), *inputs)


def test_python_that_branches_on_a_size_keeps_the_branch_that_was_traced() -> None:
    """Sizes are known while a model is traced, so what they decide is decided for good, as the graph computes it."""
    fn = _network(lambda h: h if h.shape[-1] == 6 else -h)
    graph, variables = nas.from_function(fn, _variables(), X)
    smaller = nas.delta_nout(graph, variables, {"a": -2})
    assert smaller.check(X).compared
    np.testing.assert_array_equal(smaller.graph.apply(smaller.variables, X), -fn(smaller.variables, X))


CALLBACKS = {
    "pure_callback": lambda seen, h: jax.pure_callback(seen, jax.ShapeDtypeStruct(h.shape, h.dtype), h),
    "io_callback": lambda seen, h: io_callback(seen, jax.ShapeDtypeStruct(h.shape, h.dtype), h),
    "ordered io_callback": lambda seen, h: io_callback(seen, jax.ShapeDtypeStruct(h.shape, h.dtype), h, ordered=True),
    "debug.callback": lambda seen, h: (jax.debug.callback(seen, h), h * 2)[1],
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_run_when_the_graph_does(name: str) -> None:
    """Not while it is imported. What they compute from is fixed, what they only look at is free."""
    shapes = []

    def seen(h: Any) -> Any:
        shapes.append(np.shape(h))
        return np.asarray(h) * 2

    variables = _variables()
    variables["params"]["c"] = {"kernel": jnp.ones((2, 3))}
    fn = _network(lambda h: CALLBACKS[name](seen, h))
    graph, variables = nas.from_function(lambda v, x: fn(v, x) @ v["params"]["c"]["kernel"], variables, X)
    assert shapes == []
    smaller = nas.delta_nout(graph, variables, {"a": -2} if name == "debug.callback" else {"b": -1})
    wanted = 2.0 * 3 * (4 * 2 if name == "debug.callback" else 6)
    for apply in (nas.apply, jax.jit(nas.apply)):
        assert apply(smaller.graph, smaller.variables, jnp.ones((7, 3))).tolist() == [[wanted] * 3] * 7
    jax.effects_barrier()
    assert shapes == [(7, 4 if name == "debug.callback" else 6)] * 2


WRONG_VARIABLES = {
    "missing": ({"a": {"kernel": jnp.ones((3, 6))}}, r"no variables\['params'\]\['b'\]\['kernel'\]"),
    "another shape": (
        {"a": {"kernel": jnp.ones((3, 5))}, "b": {"kernel": jnp.ones((5, 2))}},
        r"variables\['params'\]\['a'\]\['kernel'\] has shape \(3, 5\), but in this graph it must have \(3, 6\)",
    ),
}


@pytest.mark.parametrize("name", WRONG_VARIABLES)
def test_wrong_variables(name: str) -> None:
    """Even those that would fit one another are refused, when the graph is computed and by every verb."""
    params, message = WRONG_VARIABLES[name]
    graph, _ = nas.from_function(_network(jnp.tanh), _variables(), X)
    for use in (lambda v: graph.apply(v, X), lambda v: nas.delta_nout(graph, v, {"a": -1})):
        with pytest.raises(nas.VariablesError, match=message):
            use({"params": params})


def test_variables_that_do_not_fit_a_linen_module() -> None:
    module = nn.Dense(4)
    with pytest.raises(nas.VariablesError, match=r"do not fit the module: .*\(3, 4\).*module.init"):
        nas.from_linen(module, {"params": {"kernel": jnp.ones((2, 4)), "bias": jnp.ones(4)}}, X)
    with pytest.raises(nas.VariablesError, match=r"do not fit the module: .*bias"):
        nas.from_linen(module, {"params": {"kernel": jnp.ones((3, 4))}}, X)


def test_variables_of_another_dtype_or_frozen_are_fine() -> None:
    fn = _network(jnp.tanh)
    graph, variables = nas.from_function(fn, _variables(), X)
    half = jax.tree.map(lambda array: array.astype(jnp.bfloat16), variables)
    np.testing.assert_allclose(graph.apply(half, X), fn(half, X), rtol=1e-2)
    smaller = nas.delta_nout(graph, half, {"a": -2})
    assert smaller.variables["params"]["a"]["kernel"].dtype == jnp.bfloat16
    assert nas.delta_nout(graph, freeze(variables), {"a": -2}).check(X).compared


def test_an_imported_model_inside_a_vertex_and_what_works_instead() -> None:
    """Vertices behind the model, whose constants follow the neurons that stay."""

    def scaled(variables: Any, x: jax.Array) -> jax.Array:
        hidden = x @ variables["params"]["a"]["kernel"] * jnp.arange(1.0, 7)
        return hidden @ variables["params"]["b"]["kernel"]

    graph, variables = nas.from_function(scaled, _variables(), X)
    with pytest.raises(
        nas.GraphError, match=r"'block' cannot wrap .* imported model, here 'model'.* Put layers behind"
    ):
        nas.layer("block", graph, nas.input_vertex("image", 3))
    longer = nas.Graph(graph.inputs, nas.layer("last", nn.Dense(2), graph.outputs[0]))
    last = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    params = {**variables["params"], "last": last}
    cut = nas.delta_nout(longer, {"params": params}, {"a": -3}, utility={"a": np.arange(6.0)})
    np.testing.assert_allclose(cut.graph.apply(cut.variables, X), jnp.full((4, 2), 3 * (4 + 5 + 6.0)))
