"""Networks with all kinds of ties, hand-written (linen, nnx) and imported, for tests of utilities."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas


class Case(NamedTuple):
    graph: nas.Graph
    variables: dict[str, Any]
    inputs: jax.Array
    targets: jax.Array


@cache
def residual(library: str = "linen", activation: Callable[[Any], Any] = nn.gelu) -> Case:
    """Convolutions with batch normalisation, a residual sum, a concatenation and a flatten."""

    def make(kind: str, size_in: int, size: int = 0) -> Any:
        linen = {"conv": lambda: nn.Conv(size, (3, 3)), "norm": nn.BatchNorm, "dense": lambda: nn.Dense(size)}
        rngs = nnx.Rngs(1)
        other = {
            "conv": lambda: nnx.Conv(size_in, size, (3, 3), rngs=rngs),
            "norm": lambda: nnx.BatchNorm(size_in, rngs=rngs),
            "dense": lambda: nnx.Linear(size_in, size, rngs=rngs),
        }
        return (linen if library == "linen" else other)[kind]()

    x = nas.input_vertex("x", 2, shape=(3, 3, 2))
    a = nas.layer("a", make("conv", 2, 4), x)
    act = nas.invariant_vertex("act", jnp.tanh, nas.layer("norm", make("norm", 4), a))
    b = nas.layer("b", make("conv", 4, 4), act)
    total = (act + b).named("total")
    c = nas.layer("c", make("conv", 4, 3), total)
    both = nas.concat("both", nas.invariant_vertex("act_c", activation, c), total)
    out = nas.layer("out", make("dense", 63, 3), nas.flatten("flat", both))
    return _case(nas.Graph(x, out), (5, 3, 3, 2))


def _case(graph: nas.Graph, shape: tuple[int, ...]) -> Case:
    inputs = jax.random.normal(jax.random.key(1), shape)
    shapes = jax.eval_shape(graph.init, jax.random.key(0), inputs)
    return Case(graph, shaken(shapes), inputs, jax.random.normal(jax.random.key(2), (shape[0], 3)))


def shaken(shapes: Any) -> Any:
    """Random numbers in the place of every variable; variances are positive."""
    rng = np.random.default_rng(0)

    def one(path: Any, leaf: Any) -> jax.Array:
        values = rng.normal(scale=0.4, size=leaf.shape)
        name = path[-1].key
        values = np.abs(values) + 0.5 if name in ("var", "scale") else values
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, shapes)


class Model(nn.Module):
    """The same network as `residual`, as a module of its own."""

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        act = jnp.tanh(nn.BatchNorm(use_running_average=not train, name="norm")(nn.Conv(4, (3, 3), name="a")(x)))
        total = act + nn.Conv(4, (3, 3), name="b")(act)
        c = nn.gelu(nn.Conv(3, (3, 3), name="c")(total))
        both = jnp.concatenate([c, total], -1)
        return nn.Dense(3, name="out")(both.reshape(both.shape[0], -1))


@cache
def imported() -> Case:
    case = residual()
    graph, variables = nas.from_linen(Model(), case.variables, case.inputs)
    return Case(graph, variables, case.inputs, case.targets)


def case_of(kind: str) -> Case:
    return imported() if kind == "imported" else residual(kind)


#: The layers of nnx differ from those of linen in who holds the variables; a few quick tests have them, too.
KINDS = ("linen", pytest.param("nnx", marks=pytest.mark.slow), "imported")


def loss(apply: Any, variables: Any, batch: Any) -> Any:
    inputs, targets = batch
    return jnp.mean((apply(variables, inputs) - targets) ** 2)
