"""The variables of a network: by path, nested again, and checked against the graph that they belong to."""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable, Mapping, MutableMapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from naivenas_jax.errors import VariablesError
from naivenas_jax.graph.graph import require_graph
from naivenas_jax.paths import Path, path_text, subscripts
from naivenas_jax.sizes.ties import Leaf
from naivenas_jax.transfer.take import shape_of_leaf
from naivenas_jax.typing import PyTree

ValueT = TypeVar("ValueT")


def flat(variables: Mapping[str, PyTree]) -> dict[Path, Any]:
    """All arrays by path.

    Args:
      variables: nested mappings of any kind; keys that are no strings are spelled as `str` does.

    >>> flat({"params": {"dense": {"bias": 0.5}}})
    {('params', 'dense', 'bias'): 0.5}
    """
    return {tuple(map(str, path)): array for path, array in flatten_dict(_as_dicts(variables)).items()}


def _as_dicts(node: PyTree) -> PyTree:
    if isinstance(node, nnx.Variable):
        return node.get_value()
    return {key: _as_dicts(child) for key, child in node.items()} if isinstance(node, Mapping) else node


def nested(arrays: Mapping[Path, ValueT]) -> dict[str, Any]:
    """The inverse of `flat`.

    >>> nested({("params", "dense", "bias"): 0.5})
    {'params': {'dense': {'bias': 0.5}}}
    """
    tree: dict[str, Any] = unflatten_dict(dict(arrays))
    return tree


def as_given(variables: PyTree, given: PyTree) -> PyTree:
    """The variables in mappings of the kinds that the user gave, from top to bottom.

    So they have the structure that the states of optimizers made for them have. What is new is held as its neighbours
    are. Keys keep their type and order, and what was an ``nnx.Variable`` is one again.

    Args:
      variables: nested mappings.
      given: what the user gave, before the change.

    >>> from collections import OrderedDict
    >>> made = as_given({"params": {"a": 1, "new": {"b": 2}}}, OrderedDict(params={"a": 0}))
    >>> type(made).__name__, dict(made)
    ('OrderedDict', {'params': {'a': 1, 'new': {'b': 2}}})
    """
    if isinstance(given, nnx.Variable) and not isinstance(variables, nnx.Variable):
        return given.replace(variables)
    if not isinstance(variables, Mapping) or not isinstance(given, Mapping):
        return variables
    keys = {str(key): key for key in given}
    left = {str(key): child for key, child in variables.items()}
    names = [*(name for name in keys if name in left), *(name for name in left if name not in keys)]
    held = given.raw_mapping if isinstance(given, nnx.State) else given  # a State wraps what it is asked for
    beside = _of_kind({}, given)
    children = {n: as_given(left[n], held[keys[n]] if n in keys else beside) for n in names}
    return _of_kind({keys.get(name, name): child for name, child in children.items()}, given)


def _of_kind(items: dict[Hashable, PyTree], given: Mapping[Hashable, PyTree]) -> Mapping[Hashable, PyTree]:
    """A mapping of the same kind that holds these items; a dict where such a mapping cannot be made."""
    try:
        made: Mapping[Hashable, PyTree] = type(given)(items)  # type: ignore[call-arg]  # most mappings take items
        return made
    except TypeError:
        if not isinstance(given, MutableMapping):
            return items
    emptied = copy.copy(given)  # a defaultdict: with the same default
    emptied.clear()
    emptied.update(items)
    return emptied


def unshared(tree: PyTree, *others: PyTree) -> PyTree:
    """The tree with copies of those numpy arrays whose memory belongs to arrays of other trees.

    jax arrays, which nobody can write to, are shared.

    >>> old = {"a": np.zeros(2)}
    >>> unshared({"a": old["a"]}, old)["a"] is old["a"]
    False
    """
    held = {id(_root(leaf)) for leaf in jax.tree.leaves(others) if isinstance(leaf, np.ndarray)}

    def apart(leaf: PyTree) -> PyTree:
        return leaf.copy() if isinstance(leaf, np.ndarray) and id(_root(leaf)) in held else leaf

    return jax.tree.map(apart, tree) if held else tree


def _root(array: np.ndarray) -> object:
    """What owns the memory of an array."""
    owner: object = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner


def handed_out(variables: PyTree, given: PyTree) -> PyTree:
    """New variables as a user gets them: in the mappings that were given, and of arrays of their own."""
    return as_given(unshared(variables, given), given)


def check_network(graph: object, variables: object) -> None:
    """Raise if ``graph`` is no graph, or the variables are not its own.

    Raises:
      GraphError, VariablesError: names what was found.
    """
    ties = require_graph(graph).ties
    check_variables(ties.leaves, ties.sizes, variables)


def check_variables(leaves: Mapping[Path, Leaf], sizes: Mapping[str, int], variables: object) -> None:
    """Raise unless the variables belong to a graph with these leaves.

    Args:
      leaves: what lies on the dimensions of each variable of the graph.
      sizes: the size of each axis.
      variables: what a user gave for variables.

    Raises:
      VariablesError: names the first variable that is missing, unknown, or of another shape.
    """
    if not isinstance(variables, Mapping):
        raise VariablesError(
            f"variables must be a dict of collections, {{'params': ...}}, as graph.init makes it; found "
            f"{type(variables).__name__}."
        )
    found = flat(variables)
    for path, leaf in leaves.items():
        if path not in found:
            raise VariablesError(
                f"The variables have no {subscripts(path)}, which the graph needs. Found: {_first(found)}. Are they "
                "those of another graph, or is a collection missing?"
            )
        _check_array(path, found[path], tuple(None if axis is None else sizes[axis] for axis in leaf.axes))
    unknown = [path for path in found if path not in leaves]
    if unknown:
        raise VariablesError(
            f"The graph has no variable {subscripts(unknown[0])}, so what lies on its axes is unknown. The variables "
            f"belong to another graph, or a registered layer leaves it out of leaves=. The graph has: {_first(leaves)}."
        )


def _check_array(path: Path, array: object, wanted: tuple[int | None, ...]) -> None:
    """Raise unless an array has the wanted shape, where None stands for any size."""
    if isinstance(array, jax.core.Tracer):
        raise VariablesError(
            f"{subscripts(path)} is traced. Mutations change shapes and happen outside jax.jit, jax.grad and jax.vmap: "
            "change the graph and its variables first, then call the transformed function with the result."
        )
    if isinstance(array, jax.Array) and array.is_deleted():
        raise VariablesError(
            f"{subscripts(path)} has been deleted: a jitted function that donates its arguments has used it up. Pass "
            "what that function has returned, or a copy that was made before."
        )
    shape = shape_of_leaf(array)
    if len(shape) != len(wanted) or any(w not in (None, n) for n, w in zip(shape, wanted, strict=True)):
        expected = ", ".join("any" if n is None else str(n) for n in wanted)
        raise VariablesError(
            f"{subscripts(path)} has shape {shape}, but in this graph it must have ({expected}). The variables belong "
            "to another graph, or to this one before or after a mutation."
        )


def _first(paths: Collection[Path], most: int = 6) -> str:
    shown = ", ".join(path_text(path) for path in list(paths)[:most])
    return shown + (", ..." if len(paths) > most else "") if paths else "nothing"
