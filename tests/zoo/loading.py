"""How a model of the zoo is made ready: in a small size and with random weights; nothing is downloaded."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.transfer.variables import flat

os.environ.setdefault("NETKET_ENABLE_X64", "0")  # netket would change the precision of every other model


class Loaded(NamedTuple):
    """A model that is ready.

    Attributes:
      bring: imports it.
      function: the model by itself, of (variables, inputs).
      inputs: to call it with.
      kind: how it is imported.
      context: what it has to be run in.
      model: for `rebuild`: the linen module or nnx model.
    """

    bring: Callable[[], Any]
    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    kind: str
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    model: Any = None


def image(size: int) -> jax.Array:
    return jax.random.normal(jax.random.key(3), (2, size, size, 3))


TOKENS = jax.random.randint(jax.random.key(4), (2, 12), 3, 60)


def linen(module: Any, *inputs: Any, static: tuple[Any, ...] = (), **kwargs: Any) -> Loaded:
    """A linen module."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1), "drop_path": jax.random.key(2)}
    variables = noisy(module.init(rngs, *inputs, *static, **kwargs))
    return Loaded(
        lambda: nas.from_linen(module, variables, *inputs, *static, **kwargs),
        lambda v, *xs: module.apply(v, *xs, *static, **kwargs),
        inputs,
        "linen",
        model=module,
    )


def nnx_model(model: nnx.Module, *inputs: Any, context: Callable[[], Any] = nullcontext) -> Loaded:
    """An nnx model, called through what nnx itself offers."""
    model.eval()
    for kind in (nnx.Param, nnx.BatchStat):
        nnx.update(model, noisy(nnx.state(model, kind)))
    graphdef, state = nnx.split(model)
    leaves = dict(nnx.to_flat_state(state))

    def function(variables: Any, *xs: Any) -> Any:
        given = {path[1:]: array for path, array in flat(variables).items()}
        changed = {path: _held(leaf, given.get(tuple(map(str, path)))) for path, leaf in leaves.items()}
        return nnx.merge(graphdef, nnx.from_flat_state(changed))(*xs)

    return Loaded(lambda: nas.from_nnx(model, *inputs), function, inputs, "nnx", context, model)


def _held(leaf: Any, array: Any) -> Any:
    """A leaf of a model with another array, if there is one; not all leaves are variables of nnx."""
    if isinstance(leaf, nnx.Variable):
        return leaf.replace(leaf[...] if array is None else array)
    return leaf if array is None else array


def noisy(tree: Any) -> Any:
    """Add noise everywhere, so that what starts at zero does not hide anything."""

    def one(path: Any, x: Any) -> Any:
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        noise = 0.02 * jax.random.normal(jax.random.key(len(jax.tree_util.keystr(path))), x.shape, x.dtype)
        return jnp.abs(x + noise) + 0.1 if "var" in jax.tree_util.keystr(path[-1:]) else x + noise

    return jax.tree_util.tree_map_with_path(one, tree)


def of(package: str, name: str, *args: Any, **kwargs: Any) -> Any:
    """An object of a package, called."""
    return getattr(importlib.import_module(package), name)(*args, **kwargs)


def normal(*shape: int) -> jax.Array:
    """An input of this shape."""
    return jax.random.normal(jax.random.key(5), shape)
