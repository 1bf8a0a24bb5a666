"""Which parameters are frozen, as a tree of the parameters' shape."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable

import numpy as np
from jaxtyping import Bool

from naivenas_jax.checks import as_items, require_flag, shown
from naivenas_jax.errors import RequestError, UnknownNameError, VariablesError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.paths import Path, path_text
from naivenas_jax.transfer.variables import as_given, nested, parameters_of, trained_tree
from naivenas_jax.typing import Array, Variables


def freeze_mask(graph: Graph, variables: Variables, names: str | Iterable[str], *, entries: bool = False) -> Variables:
    """A tree like ``variables["params"]`` that is True where a parameter is frozen.

    ``optax.chain(tx, optax.transforms.freeze(mask))`` and ``optax.masked(optax.set_to_zero(), mask)`` take it as it is.
    `Mutation.carry` brings it through any change. A mask of one bool for each parameter stays as it is through a change
    of width: new neurons of a frozen layer are frozen at what they start at. A mask of one bool for each entry
    (``entries=True``) is indexed as the parameters are: entries that stay keep their flag, and entries of new neurons
    are False, so that new neurons of a frozen layer can be trained while the old ones rest.

    Args:
      graph: the network.
      variables: its variables.
      names: what is frozen: names of vertices, paths of modules or parameters of an imported model
        (``"layers_1/up"``, ``"layers_1/up/bias"``), or shell patterns of either (``"stem*"``); one, or several.
      entries: whether leaves are arrays of bools, one for each entry, instead of one bool for each parameter.

    Returns:
      A tree like ``variables["params"]``. A leaf is a bool, or with ``entries`` a bool array of the
      parameter's shape.

    Raises:
      GraphError: if ``graph`` is no graph.
      UnknownNameError: if a name belongs to no parameter.
      VariablesError: if there are no parameters.
      RequestError: if a name is no string.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("stem", nn.Dense(5), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> nas.freeze_mask(graph, variables, "stem")
    {'stem': {'kernel': True, 'bias': True}, 'out': {'kernel': False, 'bias': False}}
    """
    require_graph(graph)
    short = graph.ties.parameters
    params = {short[path]: array for path, array in parameters_of(graph.ties, variables).items()}
    if not params:
        raise VariablesError("There are no parameters to freeze: the variables have no collection 'params'.")
    require_flag(entries, "entries", RequestError)
    given = (names,) if isinstance(names, str) else as_items(names)
    wanted = [name for name in given or () if isinstance(name, str)]
    if given is None or len(wanted) < len(given):
        raise RequestError(f"names= takes names or shell patterns, found {shown(names)}.")
    frozen = {path for name in wanted for path in _named(name, params, graph)}
    flags = {path: _flag(own in frozen, params[own], entries) for path, own in sorted(short.items()) if own in params}
    masks: Variables = trained_tree(graph.ties, as_given(nested(flags), variables))
    return masks


def _named(name: str, params: Collection[Path], graph: Graph) -> list[Path]:
    """The parameters at or below a name."""
    found = [path for path in params if any(fnmatch.fnmatchcase(each, name) for each in _branches(path))]
    if not found and name not in graph:
        raise UnknownNameError(f"freeze_mask: {unknown_name(name, {b: None for p in params for b in _branches(p)})}")
    if not found:
        raise UnknownNameError(f"freeze_mask: vertex {name!r} has no parameters.")
    return found


def _branches(path: Path) -> list[str]:
    """The path, and every path that it lies under, as text."""
    return [path_text(path[:end]) for end in range(1, len(path) + 1)]


def _flag(frozen: bool, array: Array, entries: bool) -> bool | Bool[np.ndarray, "*shape"]:
    return np.full(np.shape(array), frozen) if entries else frozen
