"""`from_function`, `from_linen`, `from_nnx`: an existing model as a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import core, nnx

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.layers.nnx_streams import disconnect
from naivenas_jax.layers.nnx_value import NnxLayer
from naivenas_jax.trace.op import Imported, Model, ModelFunction, Pick, _neurons
from naivenas_jax.transfer.variables import flat, nested

Imports = tuple[Graph, dict[str, Any]]


def from_function(fn: Callable[..., Any], variables: Mapping[str, Any], *inputs: Any) -> Imports:
    """Import a JAX function of (variables, inputs).

    Args:
      fn: ``fn(variables, *inputs) -> outputs``, any pytree of arrays.
      variables: a nested dict of arrays.
      *inputs: example inputs, arrays or their shapes; the first axis is the batch.

    Returns:
      The graph, and the variables in the layout that they had.

    >>> import jax.numpy as jnp, naivenas_jax as nas
    >>> def mlp(variables, x):
    ...     return jnp.maximum(x @ variables["first"]["kernel"], 0) @ variables["second"]["kernel"]
    >>> variables = {"first": {"kernel": jnp.ones((3, 8))}, "second": {"kernel": jnp.ones((8, 2))}}
    >>> graph, variables = nas.from_function(mlp, variables, jnp.ones((1, 3)))
    >>> smaller, its_variables = nas.delta_nout(graph, variables, {"first/kernel": -3})
    >>> smaller.apply(its_variables, jnp.ones((4, 3))).tolist()[0]
    [15.0, 15.0]
    """

    def function(values: Any, arrays: Any, rngs: Any, mutable: Any, kwargs: Any) -> tuple[Any, Any]:
        del rngs, mutable
        return fn(values, *arrays, **kwargs), {}

    names = [name for name in _positional(fn)[1:]]
    return _imported(function, _plain(variables), inputs, {}, names)


def from_linen(module: nn.Module, variables: Mapping[str, Any], *inputs: Any, **kwargs: Any) -> Imports:
    """Import a linen module with its variables.

    Args:
      module: the module.
      variables: as ``module.init`` makes them, or pretrained.
      *inputs: example inputs, arrays or their shapes; the first axis is the batch.
      **kwargs: keyword arguments of the module in evaluation, such as ``train=False``.

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)])
    >>> x = jnp.ones((1, 3))
    >>> graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    >>> mutation = nas.delta_nout(graph, variables, {"layers_0": -3})
    >>> mutation.variables["params"]["layers_2"]["kernel"].shape
    (5, 2)
    """

    def function(values: Any, arrays: Any, rngs: Any, mutable: Any, given: Any) -> tuple[Any, Any]:
        if not mutable:
            return module.apply(values, *arrays, rngs=rngs or None, **given), {}
        outputs, updates = module.apply(values, *arrays, rngs=rngs or None, mutable=list(mutable), **given)
        return outputs, core.unfreeze(updates)

    names = _positional(type(module).__call__)[1:]
    return _imported(function, _plain(variables), inputs, kwargs, names)


def from_nnx(model: nnx.Module, *inputs: Any, **kwargs: Any) -> Imports:
    """Import an nnx model; its variables are grouped by collection, ``{"params": ..., "batch_stats": ...}``.

    Args:
      model: the model; untouched.
      *inputs: example inputs, arrays or their shapes; the first axis is the batch.
      **kwargs: keyword arguments of the model in evaluation.

    >>> import jax.numpy as jnp, flax.nnx as nnx, naivenas_jax as nas
    >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    >>> graph, variables = nas.from_nnx(model, jnp.ones((1, 3)))
    >>> nas.delta_nout(graph, variables, {"layers/0": -3}).variables["params"]["layers"]["2"]["kernel"].shape
    (5, 2)
    """
    own = nnx.clone(model)
    disconnect(own)
    nnx.Module.eval(own)
    value, arrays = NnxLayer.split(own)
    places = {(variable.collection, *map(str, variable.path)): variable for variable in arrays}

    def function(values: Any, xs: Any, rngs: Any, mutable: Any, given: Any) -> tuple[Any, Any]:
        module = value.merge({places[path]: array for path, array in flat(values).items()})
        train = given.pop("train", False) if "train" not in _positional(type(module).__call__) else False
        (nnx.Module.train if train else nnx.Module.eval)(module)
        for stream in rngs:
            del stream
        outputs = module(*xs, **given)
        return outputs, {}

    del connect
    variables = nested({path: arrays[variable] for path, variable in places.items()})
    return _imported(function, variables, inputs, kwargs, _positional(type(model).__call__)[1:])


def _imported(
    function: ModelFunction,
    variables: dict[str, Any],
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    names: list[str],
) -> Imports:
    model = Model.trace(function, variables, inputs, kwargs)
    sources = [
        Vertex(name, Source((leaf.shape[1:] or (1,))[-1], tuple(leaf.shape[1:]), str(leaf.dtype)))
        for name, leaf in _named_leaves(inputs, names)
    ]
    whole = Vertex("model", Imported(model, model.base.ties.run_sizes), tuple(sources))
    stops = [sum(_neurons(model.base)[: i + 1]) for i in range(len(_neurons(model.base)))]
    outputs = [
        Vertex("output" if len(stops) == 1 else f"output{i}", Pick(i, stop - size, stop), (whole,))
        for i, (stop, size) in enumerate(zip(stops, _neurons(model.base), strict=True))
    ]
    return Graph(sources, outputs), variables


def _named_leaves(inputs: tuple[Any, ...], names: list[str]) -> list[tuple[str, Any]]:
    found = []
    for i, value in enumerate(inputs):
        name = names[i] if i < len(names) else f"input{i}"
        leaves = jax.tree.leaves(value)
        found += [(name if len(leaves) == 1 else f"{name}{j}", leaf) for j, leaf in enumerate(leaves)]
    if not found:
        raise GraphError(
            "Give example inputs (arrays or their shapes): they tell the shapes that the model is traced at."
        )
    return found


def _positional(fn: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _plain(variables: Mapping[str, Any]) -> dict[str, Any]:
    """As nested dicts; the keys stay as they are."""
    return nested(flat(variables))
