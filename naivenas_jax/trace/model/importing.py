"""`from_function`, `from_linen`, `from_nnx`: an existing model as a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.structure import Structure
from naivenas_jax.paths import Path, subscripts
from naivenas_jax.trace.model.call_arguments import traced_shape
from naivenas_jax.trace.model.model_graph import model_graph
from naivenas_jax.trace.model.nnx_model import NnxModel
from naivenas_jax.trace.model.traced_model import Keywords
from naivenas_jax.trace.model.user_model import FunctionModel, LinenModel
from naivenas_jax.transfer.variables import as_given, flat, nested
from naivenas_jax.typing import Array, PyTree, Shape, Variables

#: What an import returns: the graph, and the variables in the layout that they had.
Imports: TypeAlias = tuple[Graph, dict[str, PyTree]]
#: What ``rngs=`` may be: keys by stream, as Flax takes them, one key alone, or streams of nnx.
GivenKeys: TypeAlias = Mapping[str, jax.Array] | jax.Array | nnx.Rngs | None


def from_function(fn: Callable[..., PyTree], variables: Variables, *inputs: PyTree, **kwargs: PyTree) -> Imports:
    """Import a JAX function of (variables, inputs).

    Args:
      fn: ``fn(variables, *inputs, **kwargs) -> outputs``; outputs are any pytree of arrays, neurons on the last axis.
      variables: nested dicts of arrays, a collection (``"params"``) on the first level; or another pytree: lists,
        dataclasses, an Equinox module. Its arrays are parameters, named by the keys on the way; what is no array in a
        class of its own is a constant.
      *inputs: example inputs, batch axis included: arrays, their shapes (``jax.ShapeDtypeStruct``), or pytrees of
        those. A leaf that is no array is a constant of the model.
      **kwargs: keyword arguments of the function, unless ``graph.apply`` is given others.

    Returns:
      The graph, and the variables in the layout that they had. ``graph.apply`` takes and returns the same structures as
      the model; each array in them is an input or output of the graph with a name (``batch/image``).

    Raises:
      GraphError: if ``fn`` cannot be called, the inputs hold no array, the variables are no nested dict of arrays, or
        the function cannot be traced, because its shapes or its Python code depend on values.

    >>> import jax.numpy as jnp, naivenas_jax as nas
    >>> def mlp(variables, x):
    ...     return jnp.maximum(x @ variables["first"]["kernel"], 0) @ variables["second"]["kernel"]
    >>> variables = {"first": {"kernel": jnp.ones((3, 8))}, "second": {"kernel": jnp.ones((8, 2))}}
    >>> graph, variables = nas.from_function(mlp, variables, jnp.ones((1, 3)))
    >>> smaller, its_variables = nas.delta_nout(graph, variables, {"first": -3})
    >>> smaller.apply(its_variables, jnp.ones((4, 3))).tolist()[0]
    [15.0, 15.0]
    """
    if not callable(fn):
        raise GraphError(f"from_function takes a function (variables, *inputs) first; found {_said(fn)}.")
    arrays = _arrays(variables)
    loose = frozenset(() if any(path[0] == "params" for path in arrays) else arrays)
    graph = model_graph(FunctionModel.of(fn, variables), arrays, inputs, kwargs, loose=loose)
    if not isinstance(variables, Mapping) and graph.signature is not None:
        known = replace(graph.signature, variables=Structure.split(variables)[0])
        graph = Graph(graph.inputs, graph.outputs, signature=known)
    return graph, as_given(nested(arrays), variables)


def from_linen(
    module: nn.Module, variables: Variables, *inputs: PyTree, rngs: GivenKeys = None, **kwargs: PyTree
) -> Imports:
    """Import a linen module with its variables.

    ``graph.apply`` understands ``mutable=``, ``rngs=`` and the module's own arguments, as ``module.apply`` does.

    Args:
      module: the module.
      variables: as ``module.init`` makes them, or pretrained.
      *inputs: example inputs, batch axis included: arrays, their shapes (``jax.ShapeDtypeStruct``), or pytrees of
        those. A leaf that is no array is a constant of the model.
      rngs: keys by stream, ``{"noise": key}``, for a module that draws random numbers in evaluation; one alone is that
        of "params". They tell the names of the streams; each ``graph.apply`` draws from its own ``rngs=``.
      **kwargs: keyword arguments of the module, unless ``graph.apply`` is given others: ``train=False``,
        ``method="encode"``.

    Returns:
      The graph, and the variables in the layout that they had. ``graph.apply`` takes and returns the same structures as
      the model; each array in them is an input or output of the graph with a name (``batch/image``).

    Raises:
      GraphError: if ``module`` is no linen module, the inputs hold no array, the variables are no nested dict of
        arrays, or the module cannot be traced, because its shapes or its Python code depend on values.
      VariablesError: if the variables do not fit the module.

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)])
    >>> x = jnp.ones((1, 3))
    >>> graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    >>> mutation = nas.delta_nout(graph, variables, {"layers_0": -3})
    >>> mutation.variables["params"]["layers_2"]["kernel"].shape
    (5, 2)
    """
    if not isinstance(module, nn.Module):
        raise GraphError(
            f"from_linen takes a linen module, then its variables and inputs; found {_said(module)}. For nnx models "
            "there is nas.from_nnx, for functions nas.from_function."
        )
    if not isinstance(variables, Mapping):
        raise GraphError(
            f"variables must be nested dicts of arrays, as module.init makes them; found {_said(variables)}."
        )
    if "params" in (variables.get("params") or ()):
        raise GraphError(
            "variables['params'] has 'params' inside, which Flax takes for a mistake. Pass the variables as init "
            "returns them, {'params': ...}; no module or parameter of the model may be named 'params'."
        )
    model, arrays = LinenModel.of(module, variables, kwargs.get("method")), _arrays(variables)
    graph = _module_graph(model, arrays, inputs, kwargs, (), _streams(rngs))
    return graph, as_given(nested(arrays), variables)


def _module_graph(
    model: LinenModel | NnxModel,
    arrays: Mapping[Path, Array | Shape],
    inputs: tuple[PyTree, ...],
    kwargs: Keywords,
    modes: tuple[str, ...],
    streams: tuple[tuple[str, Shape], ...],
) -> Graph:
    """The graph of a module. Most update nothing in evaluation; only one that does is asked what it updates."""
    try:
        return model_graph(model, arrays, inputs, kwargs, modes, streams)
    except GraphError:
        keys = {name: jax.random.key(0) for name, _ in streams}
        writes = model.written(arrays, inputs, keys, kwargs)
        if not writes:
            raise
    return model_graph(model, arrays, inputs, kwargs, modes, streams, writes)


def from_nnx(model: nnx.Module, *inputs: PyTree, rngs: GivenKeys = None, **kwargs: PyTree) -> Imports:
    """Import an nnx model; its variables are grouped by collection, ``{"params": ..., "batch_stats": ...}``.

    ``graph.apply(..., train=True)`` computes what the model does after ``model.train()``, else after ``model.eval()``.
    In training, statistics come with ``mutable=["batch_stats"]``, and ``rngs={"dropout": key}`` does what
    ``nnx.reseed(model, dropout=key)`` does. A ``train`` argument of the model itself is passed on, too.

    Args:
      model: the model; untouched.
      *inputs: example inputs, batch axis included: arrays, their shapes (``jax.ShapeDtypeStruct``), or pytrees of
        those. A leaf that is no array is a constant of the model.
      rngs: keys by stream, ``{"noise": key}``, or ``nnx.Rngs``, for a model that draws random numbers in evaluation.
        They tell the names of the streams; each ``graph.apply`` draws from its own ``rngs=``.
      **kwargs: keyword arguments of the model, unless ``graph.apply`` is given others.

    Returns:
      The graph, and the variables as nested dicts. ``graph.apply`` takes and returns the same structures as the model;
      each array in them is an input or output of the graph with a name (``batch/image``).

    Raises:
      GraphError: if ``model`` is no nnx model, the inputs hold no array, or the model cannot be traced, because its
        shapes or its Python code depend on values.

    >>> import jax.numpy as jnp, flax.nnx as nnx, naivenas_jax as nas
    >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    >>> graph, variables = nas.from_nnx(model, jnp.ones((1, 3)))
    >>> nas.delta_nout(graph, variables, {"layers/0": -3}).variables["params"]["layers"]["2"]["kernel"].shape
    (5, 2)
    """
    if not isinstance(model, nnx.Module):
        raise GraphError(
            f"from_nnx takes an nnx model, then its inputs; found {_said(model)}. For linen modules there is "
            "nas.from_linen, for functions nas.from_function."
        )
    own, arrays = NnxModel.of(model)
    return _module_graph(own, arrays, inputs, kwargs, ("train",), _streams(rngs)), nested(arrays)


def _streams(rngs: GivenKeys) -> tuple[tuple[str, Shape], ...]:
    """The shapes of the keys that a user gave as ``rngs=``, by stream.

    Raises:
      GraphError: if something is no key.
    """
    if isinstance(rngs, nnx.Rngs):
        rngs = {name: stream.key.get_value() for name, stream in rngs.items()}
    given = {} if rngs is None else rngs if isinstance(rngs, Mapping) else {"params": rngs}
    for name, key in given.items():
        dtype = getattr(key, "dtype", None)
        raw = dtype == jnp.uint32 and getattr(key, "ndim", 0) == 1
        if not isinstance(name, str) or dtype is None or not (raw or jnp.issubdtype(dtype, jax.dtypes.prng_key)):
            raise GraphError(
                f"rngs= takes keys by stream, {{'noise': jax.random.key(0)}}; found {type(key).__name__} for {name!r}."
            )
    return tuple((name, traced_shape(key)) for name, key in sorted(given.items()))


def _said(found: object) -> str:
    """What was given in the place of a model, for an error message."""
    if isinstance(found, type):
        return f"the class {found.__name__}: make one, {found.__name__}(...)"
    return f"{type(found).__name__}: {found!r:.80}"


def _arrays(variables: Variables) -> dict[Path, Array | Shape]:
    """The arrays of the variables, by path.

    Raises:
      GraphError: if the variables are no nested dict of arrays.
    """
    arrays = flat(variables)
    if not arrays or not all(len(path) > 1 or isinstance(variables, Mapping) for path in arrays):
        raise GraphError(f"variables must be nested dicts of arrays, or another pytree; found {_said(variables)}.")
    for path, array in arrays.items():
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise GraphError(
                f"{subscripts(path)} is {type(array).__name__}, and must be an array: jnp.asarray(...); unbox "
                "partitioned parameters with flax.core.meta.unbox."
            )
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            raise GraphError(
                f"{subscripts(path)} is a PRNG key, which has no neurons and cannot be a "
                "variable. Give it as an argument of the function; linen modules take keys with rngs=."
            )
        if len(path) == 1:
            raise GraphError(f"{subscripts(path)} must be in a collection, such as {{'params': variables}}.")
    return arrays
