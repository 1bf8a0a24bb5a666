"""The kinds of mutations: which parts each may change, and how a verb does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from naivenas_jax.align.problem.request import To, relaxed
from naivenas_jax.errors import NaiveNASError, StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.function import invariant_vertex
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.mutate.rules.legal_edits import LegalEdits
from naivenas_jax.mutate.verbs.edge_edits import create_edge, remove_edge
from naivenas_jax.mutate.verbs.kernel import change_kernel
from naivenas_jax.mutate.verbs.replace import replace_layer
from naivenas_jax.mutate.verbs.resize import delta_nout
from naivenas_jax.mutate.verbs.vertex_edits import insert_vertex, remove_vertex
from naivenas_jax.search import changeable_parts as parts
from naivenas_jax.search.changeable_parts import Part
from naivenas_jax.search.makers import with_free_names
from naivenas_jax.search.space import Activation, Maker, SearchSpace
from naivenas_jax.search.within_space import sizes_of
from naivenas_jax.typing import Variables

#: Keywords of the verb that carries a mutation out.
Keywords = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of mutation.

    Attributes:
      parts: the parts of a network that it may change, each with the ways to do it.
      carry_out: does it in one way.
      sentence: what was done, in words: with the name of the part, the way, the size before and after.
      problem: why a way would not succeed, known beforehand; None: only doing it tells.
      takes: the keywords that its verb has; None: those of every verb that changes the structure.
      structural: whether it changes which vertices read which.
    """

    parts: Callable[[Graph, SearchSpace], list[Part]]
    carry_out: Callable[..., Mutation]
    sentence: str
    problem: Callable[[LegalEdits, str, Any], NaiveNASError | None] | None = None
    takes: frozenset[str] | None = None
    structural: bool = False


def _resized(graph: Graph, variables: Variables, name: str, size: int, space: SearchSpace, **keywords: Any) -> Mutation:
    present, asked = graph.ties.size(name), To(size)
    factor = isinstance(sizes_of(space, name), float)
    mutation = delta_nout(graph, variables, {name: relaxed(asked) if factor else asked}, **keywords)
    now = mutation.plan.axes[name].after  # a convolution whose groups have become single channels has other handles
    if now == present or (now > present) != (size > present):
        raise StructureError(f"{name!r} has {present} neurons, and the nearest to {size} that it can have is {now}.")
    return mutation


def _inserted(
    graph: Graph, variables: Variables, name: str, make: Maker, space: SearchSpace, **keywords: Any
) -> Mutation:
    del space
    if name in graph and graph[name] in graph.outputs:
        keywords["outputs"] = tuple(dict.fromkeys(graph.outputs_of(name)))
    return insert_vertex(graph, variables, name, with_free_names(make, parts.taken_names(graph, variables)), **keywords)


def _removed(graph: Graph, variables: Variables, name: str, way: None, space: SearchSpace, **keywords: Any) -> Mutation:
    del way, space
    return remove_vertex(graph, variables, name, **keywords)


def _connected(
    graph: Graph, variables: Variables, name: str, source: str, space: SearchSpace, **keywords: Any
) -> Mutation:
    del space
    return create_edge(graph, variables, source, name, **keywords)


def _disconnected(
    graph: Graph, variables: Variables, name: str, source: str, space: SearchSpace, **keywords: Any
) -> Mutation:
    del space
    return remove_edge(graph, variables, source, name, **keywords)


def _other_kernel(
    graph: Graph, variables: Variables, name: str, size: tuple[int, ...], space: SearchSpace, **keywords: Any
) -> Mutation:
    del space
    return change_kernel(graph, variables, {name: size}, **keywords)


def _other_function(
    graph: Graph, variables: Variables, name: str, fn: Activation, space: SearchSpace, **keywords: Any
) -> Mutation:
    del space

    def make(*inputs: Vertex) -> Vertex:
        return invariant_vertex(name, fn, *inputs)

    return replace_layer(graph, variables, name, make, **keywords)


def _not_removed(edits: LegalEdits, name: str, way: None) -> NaiveNASError | None:
    del way
    return edits.not_removed(name)


def _not_connected(edits: LegalEdits, name: str, source: str) -> NaiveNASError | None:
    return edits.not_read(source, name)


def _not_disconnected(edits: LegalEdits, name: str, source: str) -> NaiveNASError | None:
    return edits.edge_not_removed(source, name)


#: By the name that ``kinds=`` has for it.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "width_up": Kind(parts.wider, _resized, "{name} grows from {before} to {after} neurons"),
        "width_down": Kind(parts.narrower, _resized, "{name} shrinks from {before} to {after} neurons"),
        "insertion": Kind(parts.insertion, _inserted, "{way} is inserted after {name}", structural=True),
        "removal": Kind(parts.removal, _removed, "{name} is removed", _not_removed, structural=True),
        "edge_in": Kind(parts.edge_in, _connected, "{name} reads {way} as well", _not_connected, structural=True),
        "edge_out": Kind(
            parts.edge_out, _disconnected, "{name} reads {way} no longer", _not_disconnected, structural=True
        ),
        "kernel": Kind(
            parts.kernel,
            _other_kernel,
            "{name} gets a window of {window}",
            takes=frozenset({"new", "rng", "inputs"}),
        ),
        "activation": Kind(parts.activation, _other_function, "{name} computes {way}"),
    }
)
