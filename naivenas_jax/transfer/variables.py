"""The variables of a network: by path, nested again, and checked against the graph that they belong to."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax
import numpy as np
from flax.core.meta import AxisMetadata

from naivenas_jax.errors import VariablesError
from naivenas_jax.graph.evaluation.variable_trees import (
    as_given as as_given,
    flat as flat,
    flat_branch as flat_branch,
    flat_mappings as flat_mappings,
    nested as nested,
    no_variables,
    plain as plain,
)
from naivenas_jax.graph.graph import require_graph
from naivenas_jax.paths import Path, path_text, subscripts
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.take import shape_of_leaf
from naivenas_jax.typing import PyTree, Variables


def parameters_of(ties: Ties, variables: Variables) -> dict[Path, PyTree]:
    """The parameters among variables, by path (`Ties.parameters`)."""
    return {path: array for path, array in flat(variables).items() if path in ties.parameters}


def parameter_count(ties: Ties, variables: Variables) -> int:
    """How many numbers the parameters are."""
    return sum(int(np.size(array)) for array in parameters_of(ties, variables).values())


def trained_tree(ties: Ties, variables: PyTree) -> PyTree:
    """The tree of variables that an optimizer is given: the collection "params", or all parameters where there is none.

    >>> from naivenas_jax.sizes.ties import Leaf
    >>> own = {("l1", "w"): np.zeros(2)}
    >>> trained_tree(Ties((), {}, {path: Leaf((None,), (None,)) for path in own}, {}, {}), nested(own)).keys()
    dict_keys(['l1'])
    """
    if not isinstance(variables, Mapping):
        return variables
    if ties.in_collections:
        return variables.get("params", {})
    own = {path[0] for path in ties.parameters}
    if own >= set(map(str, variables)):
        return variables
    return as_given(nested(parameters_of(ties, variables)), variables)


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
    check_variables(ties.shapes, variables)


def check_variables(shapes: Mapping[Path, tuple[int | None, ...]], variables: object) -> None:
    """Raise unless the variables belong to a graph whose variables have these shapes.

    Args:
      shapes: of each variable of the graph; None for a dimension of any size.
      variables: what a user gave for variables.

    Raises:
      VariablesError: names the first variable that is missing, unknown, or of another shape.
    """
    if not isinstance(variables, Mapping) and not (shapes and shapes.keys() <= flat(variables).keys()):
        raise no_variables(variables)
    found = flat(variables)
    for path, wanted in shapes.items():
        if path not in found:
            raise VariablesError(
                f"The variables have no {subscripts(path)}, which the graph needs. Found: {_first(found)}. Are they "
                "those of another graph, or is a collection missing?"
            )
        _check_array(path, found[path], wanted)
    unknown = [path for path in found if path not in shapes]
    if unknown:
        raise VariablesError(
            f"The graph has no variable {subscripts(unknown[0])}, so what lies on its axes is unknown. The variables "
            f"belong to another graph, or a registered layer leaves it out of leaves=. The graph has: {_first(shapes)}."
        )


def fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether a shape is the wanted one, where None stands for any size.

    >>> fits((2, 3), (None, 3)), fits((2,), (None, 3))
    (True, False)
    """
    if shape == wanted:
        return True
    return len(shape) == len(wanted) and all(w in (None, n) for n, w in zip(shape, wanted, strict=True))


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
    if isinstance(array, AxisMetadata):
        raise VariablesError(
            f"{subscripts(path)} is {type(array).__name__}, a box with an array in it that says how it is to be spread "
            "over devices. Take the arrays out with flax.core.meta.unbox(variables)."
        )
    shape = shape_of_leaf(array)
    if shape != wanted and (
        len(shape) != len(wanted) or any(w not in (None, n) for n, w in zip(shape, wanted, strict=True))
    ):
        expected = ", ".join("any" if n is None else str(n) for n in wanted)
        raise VariablesError(
            f"{subscripts(path)} has shape {shape}, but in this graph it must have ({expected}). The variables belong "
            "to another graph, or to this one before or after a mutation."
        )


def _first(paths: Collection[Path], most: int = 6) -> str:
    shown = ", ".join(path_text(path) for path in list(paths)[:most])
    return shown + (", ..." if len(paths) > most else "") if paths else "nothing"
