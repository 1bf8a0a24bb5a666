"""Graphs that compute the same under other names: one graph stands for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import jax

from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.graph.map_ops import map_ops
from naivenas_jax.population.equal_functions import representative
from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class Canonical:
    """A graph whose vertices are named by their places, and trees under its names.

    Attributes:
      graph: computes what the graph that it was made of does.
      names: for each vertex of that graph the name here.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("hidden", nn.Dense(8), x))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> shape = nas.canonical(graph)
    >>> shape.names["hidden"], list(shape.rename(variables)["params"])
    ('v1', ['v1'])
    >>> list(shape.restore(shape.rename(variables))["params"])
    ['hidden']
    """

    graph: Graph
    names: Mapping[str, str]

    def rename(self, tree: PyTree) -> PyTree:
        """Variables, optimizer state, or whatever else is held by vertex, under canonical names; see `Canonical`.

        Args:
          tree: dicts by the names of vertices are renamed wherever they are, and everything else stays.

        Returns:
          A new tree.
        """
        own = {self._first[name]: keys for name, keys in self._own.items()}
        return _renamed(tree, {old: new for new, old in self._first.items()}, own)

    def restore(self, tree: PyTree) -> PyTree:
        """The inverse of `rename`, of anything that was computed from the renamed tree; see `Canonical`.

        Args:
          tree: under the names of the canonical graph.

        Returns:
          A new tree.
        """
        return _renamed(tree, self._first, self._own)

    @cached_property
    def _own(self) -> dict[str, frozenset[str]]:
        """The keys that variables have below each name that they lie under."""
        found: dict[str, set[str]] = {}
        for path in self.graph.ties.leaves:
            if len(path) > 2:
                found.setdefault(str(path[1]), set()).add(str(path[2]))
        return {name: frozenset(keys) for name, keys in found.items()}

    @cached_property
    def _first(self) -> dict[str, str]:
        """The first name of everything that variables lie under; those of an imported model keep theirs."""
        vertices = {new: old for old, new in self.names.items()}
        return {name: vertices.get(name, name) for name in self._own}


def canonical(graph: Graph) -> Canonical:
    """A graph that stands for all graphs which differ in names, or in functions that are equal by value.

    A jitted function is compiled anew for graphs that are not equal, and for variables under other names. Searches make
    many of these: layers that are inserted get names that are free, and a ``lambda`` in a function that makes vertices
    is another object in each call. Given the canonical graph and renamed variables, they share one program.

    Functions are equal by value if they have the same code, default values, closed-over values and values of the
    globals that the code names, as they are now. Whatever may change later (a list, an array of numpy, an object of an
    unknown class) is equal to itself alone. Graphs themselves go on to compare functions by identity.

    Args:
      graph: the graph.

    Returns:
      A `Canonical`: the graph to compute with, and functions that rename trees there and back. Change the graph that
      you have, and not this one. Random numbers are drawn by the names of vertices, so dropout draws others than under
      the old names. Vertices inside of vertices, and the variables of an imported model, keep their names.

    Raises:
      GraphError: if it is no graph.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> def network(name):
    ...     x = nas.input_vertex("x", 3)
    ...     hidden = nas.invariant_vertex("act", lambda h: nn.relu(h) ** 2, nas.layer(name, nn.Dense(8), x))
    ...     graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    ...     return graph, graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> evaluate = jax.jit(lambda graph, variables, x: nas.apply(graph, variables, x))
    >>> for name in ("first", "second"):
    ...     graph, variables = network(name)
    ...     shape = nas.canonical(graph)
    ...     outputs = evaluate(shape.graph, shape.rename(variables), jax.numpy.ones((5, 3)))
    >>> evaluate._cache_size()
    1
    >>> shape.names["second"], list(shape.restore(shape.rename(variables))["params"])
    ('v1', ['second', 'out'])
    """
    vertices = require_graph(graph).vertices
    own = {v.name for v in vertices}
    taken = {str(path[1]) for path in graph.ties.leaves if len(path) > 1} - own
    stem = "v"
    while any(f"{stem}{i}" in taken for i in range(len(vertices))):
        stem += "_"
    names = {vertex.name: f"{stem}{i}" for i, vertex in enumerate(vertices)}
    return Canonical(map_ops(graph, lambda vertex, _: representative(vertex.op.renamed(names)), names), names)


def _renamed(tree: PyTree, names: Mapping[str, str], own: Mapping[str, frozenset[str]]) -> PyTree:
    """A tree in which the dicts by vertex have other names."""

    def by_vertex(node: PyTree) -> bool:
        if not isinstance(node, Mapping) or not node or not node.keys() <= own.keys():
            return False
        filled = [name for name, child in node.items() if jax.tree.leaves(child)]
        return bool(filled) and all(
            isinstance(node[name], Mapping) and node[name].keys() <= own[name] for name in filled
        )

    def renamed(node: PyTree) -> PyTree:
        if not by_vertex(node):
            return node
        return type(node)({names[name]: child for name, child in node.items()})

    return jax.tree.map(renamed, tree, is_leaf=by_vertex)
