"""The same graph with other computations at its vertices."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import AxisChange, ModelOp
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.source import Source, holds_words
from naivenas_jax.graph.vertex import Vertex, in_the_place_of
from naivenas_jax.paths import is_unnamed


def map_ops(
    graph: Graph, op_at: Callable[[Vertex, tuple[Vertex, ...]], Op], names: Mapping[str, str] | None = None
) -> Graph:
    """A graph with the same edges, in which every vertex has the computation that a function gives it.

    A vertex that keeps its name, its computation and its inputs is the same vertex in both graphs.

    Args:
      graph: the graph.
      op_at: gets a vertex of ``graph`` and the inputs of the vertex that is made in its place; returns its computation.
      names: the new name of each vertex that gets another one.
    """
    called = {} if names is None else names
    made: dict[Vertex, Vertex] = {}
    for vertex in graph.vertices:
        inputs = tuple([made[source] for source in vertex.inputs])
        name, op = called.get(vertex.name, vertex.name), op_at(vertex, inputs)
        made[vertex] = in_the_place_of(vertex, op, inputs) if name == vertex.name else Vertex(name, op, inputs)
    ends = ([made[vertex] for vertex in side] for side in (graph.inputs, graph.outputs))
    return Graph(*ends, signature=graph.signature)


def with_ops(graph: Graph, ops: Mapping[str, Op]) -> Graph:
    """The same graph with other computations at the vertices that ``ops`` names."""
    return map_ops(graph, lambda vertex, _: ops.get(vertex.name, vertex.op))


def with_sizes(
    graph: Graph, sizes: Mapping[str, int], keywords: Mapping[str, Mapping[str, object]] | None = None
) -> Graph:
    """The same graph with the given size of every axis, inner axes included.

    Args:
      graph: the graph.
      sizes: of every axis.
      keywords: by vertex, further keyword arguments for ``Op.resized``.

    Raises:
      UnknownNameError, RequestError: if there is no such vertex, or it does not take such keywords.
    """
    given = {} if keywords is None else keywords
    if not isinstance(given, Mapping):
        raise RequestError(
            f"layer_keywords= takes a mapping {{vertex: {{keyword: value}}}}; found {type(given).__name__}: "
            f"{given!r:.80}."
        )
    for name in given:
        _check_keywords(graph, name, given[name])

    before = graph.ties.sizes
    touched = {*given, *_owners(axis for axis, size in sizes.items() if before.get(axis) != size)}

    def resized(vertex: Vertex, inputs: tuple[Vertex, ...]) -> Op:
        ports = tuple([source.nout for source in inputs])
        if ports == vertex.nin and touched.isdisjoint((vertex.name, _ANY)):
            return vertex.op
        if isinstance(vertex.op, Source) and holds_words(graph.ties, vertex.name, vertex.op):
            return replace(vertex.op, size=sizes[vertex.name])
        return vertex.op.resized(ports, AxesOf(vertex.name, sizes), **given.get(vertex.name, {}))

    return map_ops(graph, resized)


def with_axes(
    graph: Graph, axes: Mapping[str, AxisChange], keywords: Mapping[str, Mapping[str, object]] | None = None
) -> Graph:
    """The same graph after a change of its axes: sizes as in `with_sizes`, and models know which neurons stay.

    Args:
      graph: the graph.
      axes: of every axis, where each neuron comes from.
      keywords: by vertex, further keyword arguments for ``Op.resized``.

    Raises:
      UnknownNameError, RequestError: if there is no such vertex, or it does not take such keywords.
    """
    resized = with_sizes(graph, {name: len(axis.source) for name, axis in axes.items()}, keywords)
    models = {v.name: v.op.changed(axes) for v in graph.vertices if isinstance(v.op, ModelOp)}
    return with_ops(resized, models) if models else resized


#: Stands for every vertex among the names of vertices.
_ANY = ""


def _owners(axes: Iterable[str]) -> set[str]:
    """The names of the vertices that may know axes of these names; any vertex may know one that nobody has named.

    >>> sorted(_owners(["block/conv:groups", "relu"])), _owners(["~params/conv/kernel[0]"])
    (['block', 'block/conv', 'block/conv:groups', 'relu'], {''})
    """
    found = set[str]()
    for axis in axes:
        found |= {_ANY} if is_unnamed(axis) else {axis, *(axis[:at] for at, sign in enumerate(axis) if sign in "/:")}
    return found


def _check_keywords(graph: Graph, name: str, keywords: Mapping[str, object]) -> None:
    if name not in graph:
        raise UnknownNameError(f"layer_keywords: {unknown_name(name, [v.name for v in graph.vertices])}")
    op = graph.vertex(name).op
    if not isinstance(keywords, Mapping):
        raise RequestError(f"layer_keywords: {name!r} takes a mapping {{keyword: value}}; found {keywords!r:.80}.")
    try:
        inspect.signature(op.resized).bind((), {}, **keywords)
    except TypeError as error:
        raise RequestError(
            f"layer_keywords: the resize rule of {name!r} ({op.describe()}) does not take them ({error}). They are for "
            "vertices whose Op.resized, or layers whose rule's resize=, has such arguments."
        ) from error


class AxesOf(Mapping[str, int]):
    """Sizes as one vertex sees them: its output as ``"out"``, its inner axes by factor, those inside as ``"/..."``."""

    def __init__(self, name: str, sizes: Mapping[str, int]):
        self._name, self._sizes = name, sizes

    def __getitem__(self, key: str) -> int:
        if key == "out":
            return self._sizes[self._name]
        if key.startswith("~"):  # an axis that nobody has named lies beside those of the vertices
            return self._sizes[key]
        return self._sizes[self._name + (key if key.startswith("/") else f":{key}")]

    def __iter__(self) -> Iterator[str]:
        for name in self._sizes:
            rest = name.removeprefix(self._name)
            if name == self._name:
                yield "out"
            elif rest != name and rest[0] in "/:":
                yield rest if rest[0] == "/" else rest[1:]

    def __len__(self) -> int:
        return sum(1 for _ in self)
