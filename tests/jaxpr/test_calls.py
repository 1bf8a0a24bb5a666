"""Every call of JAX is seen through, and evaluates to what JAX makes of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex

from naivenas_jax.jaxpr.interpret import CALLS, bind, called, closed, evaluate, flattened, interpret

X = jnp.linspace(-1, 1, 6).reshape(2, 3)
KERNEL = jnp.arange(12.0).reshape(3, 4) / 5


def body(x):
    return jnp.sin(x @ KERNEL)


def _custom_jvp():
    function = jax.custom_jvp(body)
    function.defjvp(lambda primals, tangents: (body(*primals), body(*primals)))
    return function


def _custom_vjp(**keywords):
    function = jax.custom_vjp(body)
    function.defvjp(lambda x: (body(x), x), lambda x, cotangent: (cotangent @ KERNEL.T,), **keywords)
    return function


def _custom_vmap():
    function = jax.custom_batching.custom_vmap(body)
    function.def_vmap(lambda size, batched, x: (body(x), True))
    return function


def _bound(primitive, keyword):
    """A call that JAX itself makes only in passing."""
    traced = jax.make_jaxpr(body)(X)
    if keyword == "open":  # without constants
        traced = jax.make_jaxpr(lambda x: jnp.sin(x))(X)
        return lambda x: primitive.bind(x, **primitive.get_bind_params({"call_jaxpr": traced.jaxpr}))[0]
    return lambda x: primitive.bind(x, **primitive.get_bind_params({"call_jaxpr": traced}))[0]


FUNCTIONS = {
    "jit": jax.jit(body),
    "call": _bound(jex.primitives.call_p, "open"),
    "closed_call": _bound(jex.primitives.closed_call_p, "closed"),
    "remat2": jax.checkpoint(body),
    "custom_jvp_call": _custom_jvp(),
    "custom_vjp_call": _custom_vjp(),
    "custom_vmap_call": _custom_vmap(),
    "composite": functools.partial(jax.lax.composite(body, name="tests.body")),
    "remat_opt": lambda x: jax.vjp(_custom_vjp(optimize_remat=True), x)[0],
}


def inlined(eqn, operands):
    inner = called(eqn)
    return bind(eqn, operands) if inner is None else evaluate(inner, operands, inlined)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_call_is_seen_through_and_evaluates_alike(name):
    function = FUNCTIONS[name]
    traced = jax.make_jaxpr(function)(X)
    assert name in {eqn.primitive.name for eqn in traced.jaxpr.eqns}
    inside = [eqn.primitive.name for eqn in flattened(traced.jaxpr)]
    assert "sin" in inside
    assert not CALLS.keys() & set(inside)
    np.testing.assert_array_equal(evaluate(traced, [X], inlined)[0], function(X))
    np.testing.assert_array_equal(evaluate(traced, [X])[0], function(X))


def test_every_call_of_the_table_is_tested():
    assert CALLS.keys() == FUNCTIONS.keys()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jax.lax.scan(lambda c, row: (c + row, row), x[0], x)[0],
        lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
        lambda x: jax.lax.while_loop(lambda c: c.sum() < 0, jnp.exp, x),
    ],
)
def test_loops_and_branches_are_no_calls(function):
    assert all(called(eqn) is None for eqn in jax.make_jaxpr(function)(X).jaxpr.eqns)


def test_an_open_jaxpr_is_closed_without_constants():
    (eqn,) = jax.make_jaxpr(jax.checkpoint(jnp.sin))(X).jaxpr.eqns
    assert isinstance(eqn.params["jaxpr"], jex.Jaxpr)
    assert closed(eqn.params["jaxpr"]).consts == []
    assert closed(eqn.params["jaxpr"]).jaxpr is eqn.params["jaxpr"]


def test_literals_and_constants_are_asked_for_with_their_type():
    traced = jax.make_jaxpr(lambda x: (x * 2 + KERNEL[0, :3], 3.0))(X)
    asked = []
    interpret(traced, [0], lambda eqn, operands: [0] * len(eqn.outvars), lambda v, aval: asked.append((v, str(aval))))
    assert [kind for _, kind in asked if "float32" not in kind] == []
    assert any(np.shape(value) == (3, 4) for value, _ in asked)
    assert any(np.ndim(value) == 0 and float(value) == 3.0 for value, _ in asked)


def test_values_hold_what_is_known_of_every_variable():
    traced = jax.make_jaxpr(lambda x: jnp.sin(jnp.cos(x)))(X)
    values = {}
    interpret(traced, [X], bind, lambda value, _: value, values)
    assert set(values) == {*traced.jaxpr.invars, *(var for eqn in traced.jaxpr.eqns for var in eqn.outvars)}
    np.testing.assert_array_equal(values[traced.jaxpr.eqns[0].outvars[0]], jnp.cos(X))
