"""A directed acyclic graph of named vertices: an immutable value, and the questions about its edges."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import ClassVar, Self, TypeAlias, overload
from weakref import WeakValueDictionary

from naivenas_jax.checks import as_items, require_function, shown
from naivenas_jax.errors import DuplicateNameError, GraphError, ImmutableError, UnknownNameError
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.queries.handles import unknown_name as unknown_name
from naivenas_jax.graph.signature import Signature, checked_signature
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.structure import Hashed
from naivenas_jax.graph.vertex import Vertex

#: One vertex without nesting: its name, its computation, and the positions of its inputs among the vertices.
FlatVertex: TypeAlias = tuple[str, Op, tuple[int, ...]]
#: The vertices in topological order, the positions of the inputs and of the outputs among them, and the signature.
Flat: TypeAlias = tuple[tuple[FlatVertex, ...], tuple[int, ...], tuple[int, ...], Signature | None]
#: One vertex or several.
_Ends: TypeAlias = Vertex | Iterable[Vertex]


class Dag:
    """Input vertices, output vertices and all between them: frozen, hashable, compared by value.

    Functions inside the computations of vertices are compared by identity.

    Attributes:
      inputs: the input vertices, in the order in which they were given.
      outputs: the output vertices, in the order in which they were given.
      signature: the structures of what an imported model takes and returns; None: an array for each input and output.
    """

    _interned: ClassVar[WeakValueDictionary[Hashed, Dag]] = WeakValueDictionary()

    inputs: tuple[Vertex, ...]
    outputs: tuple[Vertex, ...]
    signature: Signature | None
    _order: tuple[Vertex, ...]
    _by_name: dict[str, Vertex]
    _canonical: Dag
    _hash: int

    def __init__(self, inputs: _Ends, outputs: _Ends, *, signature: Signature | None = None):
        self.__dict__["inputs"] = _vertices_of("inputs", inputs)
        self.__dict__["outputs"] = _vertices_of("outputs", outputs)
        self.__dict__["signature"] = checked_signature(signature)
        self.__dict__["_order"] = _ordered(self.inputs, self.outputs)
        self.__dict__["_by_name"] = _by_names(self._order)
        key = Hashed(self._flat())
        # Equal graphs share one canonical key, so that hashing and comparing cost nothing from here on.
        self.__dict__["_canonical"] = Dag._interned.setdefault(key, self)
        self.__dict__["_hash"] = key.code

    def _flat(self) -> Flat:
        position = {vertex: i for i, vertex in enumerate(self._order)}
        rows = tuple((v.name, v.op, tuple(position[source] for source in v.inputs)) for v in self._order)
        inputs, outputs = (tuple(position[v] for v in side) for side in (self.inputs, self.outputs))
        return rows, inputs, outputs, self.signature

    @classmethod
    def _of_flat(
        cls,
        rows: tuple[FlatVertex, ...],
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        signature: Signature | None = None,
    ) -> Self:
        made: list[Vertex] = []
        for name, op, sources in rows:
            made.append(Vertex(name, op, tuple(made[i] for i in sources)))
        return cls(tuple(made[i] for i in inputs), tuple(made[i] for i in outputs), signature=signature)

    def __reduce__(self) -> tuple[Callable[..., Self], Flat]:
        return self._of_flat, self._flat()

    def __setattr__(self, name: str, value: object) -> None:
        raise ImmutableError(f"A Graph is immutable; cannot set {name!r}. Every change makes a new graph.")

    def __delattr__(self, name: str) -> None:
        raise ImmutableError(f"A Graph is immutable; cannot delete {name!r}. Every change makes a new graph.")

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Dag) and self._canonical is other._canonical)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(v.name for v in side) for side in (self.inputs, self.outputs))
        return f"{type(self).__name__}(inputs=[{inputs}], outputs=[{outputs}], {len(self)} vertices)"

    @property
    def vertices(self) -> tuple[Vertex, ...]:
        """All vertices in topological order, each after its inputs."""
        return self._order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Vertex]:
        return iter(self._order)

    def __contains__(self, name: object) -> bool:
        if isinstance(name, Vertex):
            return self._by_name.get(name.name) is name
        return isinstance(name, str) and name in self._by_name

    @overload
    def __getitem__(self, key: str | int) -> Vertex: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Vertex, ...]: ...

    def __getitem__(self, key: str | int | slice) -> Vertex | tuple[Vertex, ...]:
        """The vertex of a name, or the vertices at a position or slice of the topological order.

        Raises:
          UnknownNameError: if there is no vertex of that name, or at that position.
        """
        if isinstance(key, slice):
            return self._order[key]
        if isinstance(key, int):
            if not -len(self) <= key < len(self):
                count = f"The graph has {len(self)} vertices"
                raise UnknownNameError(f"{count}, graph[0] to graph[-1]; found graph[{key}].")
            return self._order[key]
        return self.vertex(key)

    def vertex(self, name: str) -> Vertex:
        """The vertex of a name; unlike ``graph[key]``, it takes no positions.

        Args:
          name: the name of the vertex.

        Returns:
          The `Vertex`.

        Raises:
          UnknownNameError: if there is no vertex of that name.

        >>> import naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> nas.Graph(x, x).vertex("x") is x
        True
        """
        if not isinstance(name, str) or name not in self._by_name:
            raise self._no_vertex(name)
        return self._by_name[name]

    def _no_vertex(self, name: object) -> UnknownNameError:
        return UnknownNameError(unknown_name(name, self._by_name))

    def nin(self, name: str) -> tuple[int, ...]:
        """The number of neurons of each input of a vertex.

        Args:
          name: the name of the vertex.

        Returns:
          One number per edge that leads to the vertex, in order; of an input vertex, none.

        Raises:
          UnknownNameError: if there is no vertex of that name.

        >>> import naivenas_jax as nas
        >>> a, b = nas.input_vertex("a", 2), nas.input_vertex("b", 3)
        >>> nas.Graph([a, b], nas.concat("ab", a, b, a)).nin("ab")
        (2, 3, 2)
        """
        return self.vertex(name).nin

    def nout(self, name: str) -> int:
        """The number of neurons that a vertex makes, or that lie on another axis with a name (a handle).

        Args:
          name: the name of the vertex, or of the axis.

        Returns:
          The size of the last axis of the output of a vertex.

        Raises:
          UnknownNameError: if there is no vertex or axis of that name.

        >>> import naivenas_jax as nas
        >>> a, b = nas.input_vertex("a", 2), nas.input_vertex("b", 3)
        >>> nas.Graph([a, b], nas.concat("ab", a, b)).nout("ab")
        5
        """
        vertex = self._by_name.get(name) if isinstance(name, str) else None
        return self._on_axis(name) if vertex is None else vertex.nout

    def _on_axis(self, name: str) -> int:
        return self.vertex(name).nout

    def inputs_of(self, name: str) -> tuple[str, ...]:
        """The names of the vertices that a vertex reads.

        Args:
          name: the name of the vertex.

        Returns:
          One name per edge that leads to the vertex, in order: a vertex that is read twice is named twice.

        Raises:
          UnknownNameError: if there is no vertex of that name.

        >>> import naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> nas.Graph(x, nas.concat("twice", x, x)).inputs_of("twice")
        ('x', 'x')
        """
        return tuple(source.name for source in self.vertex(name).inputs)

    def outputs_of(self, name: str) -> tuple[str, ...]:
        """The names of the vertices that read a vertex.

        Args:
          name: the name of the vertex.

        Returns:
          One name per edge that starts at the vertex, in topological order.

        Raises:
          UnknownNameError: if there is no vertex of that name.

        >>> import naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> nas.Graph(x, [nas.concat("twice", x, x), -x]).outputs_of("x")
        ('twice', 'twice', '-x')
        """
        return self._consumers[self.vertex(name).name]

    def ancestors(self, name: str) -> tuple[str, ...]:
        """The names of all vertices that a vertex depends on, directly or not.

        Args:
          name: the name of the vertex.

        Returns:
          Names in topological order, without the vertex itself.

        Raises:
          UnknownNameError: if there is no vertex of that name.

        >>> import naivenas_jax as nas
        >>> a, b = nas.input_vertex("a", 3), nas.input_vertex("b", 3)
        >>> nas.Graph([a, b], -(a + b)).ancestors("-(a+b)")
        ('a', 'b', 'a+b')
        """
        return tuple(v.name for v in topological((self.vertex(name),)) if v.name != name)

    def descendants(self, name: str) -> tuple[str, ...]:
        """The names of all vertices that depend on a vertex, directly or not.

        Args:
          name: the name of the vertex.

        Returns:
          Names in topological order, without the vertex itself.

        Raises:
          UnknownNameError: if there is no vertex of that name.

        >>> import naivenas_jax as nas
        >>> a, b = nas.input_vertex("a", 3), nas.input_vertex("b", 3)
        >>> nas.Graph([a, b], -(a + b)).descendants("a")
        ('a+b', '-(a+b)')
        """
        reached = {self.vertex(name).name}
        for vertex in self._order:
            if any(source.name in reached for source in vertex.inputs):
                reached.add(vertex.name)
        return tuple(v.name for v in self._order if v.name in reached and v.name != name)

    def find(self, what: str | Callable[[Vertex], bool]) -> tuple[Vertex, ...]:
        """The vertices whose name matches a pattern, or for which a function returns True.

        Args:
          what: a shell pattern of names, such as ``"conv*"``, or a function of a vertex.

        Returns:
          The vertices in topological order; none if nothing matches.

        Raises:
          GraphError: if ``what`` is neither.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> graph = nas.Graph(x, nas.layer("dense2", nn.Dense(2), nas.layer("dense1", nn.Dense(4), x)))
        >>> [vertex.name for vertex in graph.find("dense*")]
        ['dense1', 'dense2']
        >>> [vertex.name for vertex in graph.find(lambda vertex: vertex.nout > 3)]
        ['dense1']
        """
        if callable(what):
            require_function(what, "find: what", "vertex", GraphError)
            return tuple(vertex for vertex in self._order if what(vertex))
        if not isinstance(what, str):
            raise GraphError(
                f"find takes a shell pattern such as 'conv*', or a predicate of a vertex; found {what!r:.80}."
            )
        return tuple(vertex for vertex in self._order if fnmatch.fnmatchcase(vertex.name, what))

    @cached_property
    def _consumers(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {vertex.name: [] for vertex in self._order}
        for vertex in self._order:
            for source in vertex.inputs:
                found[source.name].append(vertex.name)
        return {name: tuple(names) for name, names in found.items()}


def topological(outputs: Iterable[Vertex]) -> tuple[Vertex, ...]:
    """All vertices that ``outputs`` depend on, each after its inputs, depth first. Graphs may be very deep."""
    done: dict[Vertex, None] = {}
    stack = [(vertex, False) for vertex in reversed(tuple(outputs))]
    while stack:
        vertex, ready = stack.pop()
        if vertex in done:
            continue
        if ready:
            done[vertex] = None
        else:
            stack.append((vertex, True))
            stack.extend((source, False) for source in reversed(vertex.inputs) if source not in done)
    return tuple(done)


def _vertices_of(side: str, vertices: Vertex | Iterable[Vertex]) -> tuple[Vertex, ...]:
    """What a user gave as inputs or outputs of a graph, always as a tuple.

    Args:
      side: "inputs" or "outputs".
      vertices: one vertex or several.

    Raises:
      GraphError: if there is none, or something is no vertex.
    """
    given = (vertices,) if isinstance(vertices, Vertex) else as_items(vertices) or ()
    found = tuple(vertex for vertex in given if isinstance(vertex, Vertex))
    if not found or len(found) < len(given):
        raise GraphError(f"Graph {side} must be one vertex or several, found {shown(vertices)}.")
    return found


def _ordered(inputs: tuple[Vertex, ...], outputs: tuple[Vertex, ...]) -> tuple[Vertex, ...]:
    """The vertices between inputs and outputs, each after the vertices that it reads.

    Raises:
      GraphError: if an input is none, is listed twice, or is missing.
    """
    for vertex in inputs:
        if not isinstance(vertex.op, Source):
            raise GraphError(f"Graph inputs must be made by nas.input_vertex, found {vertex!r}.")
    if len(set(inputs)) < len(inputs):
        raise GraphError(f"An input is listed twice: {[v.name for v in inputs]}.")
    order = topological((*inputs, *outputs))
    missing = [v.name for v in order if isinstance(v.op, Source) and v not in inputs]
    if missing:
        raise GraphError(
            f"The outputs depend on input {missing[0]!r}, which is not among the graph's inputs "
            f"{[v.name for v in inputs]}. List every input vertex."
        )
    return order


def _by_names(order: tuple[Vertex, ...]) -> dict[str, Vertex]:
    """The vertices by name.

    Raises:
      DuplicateNameError: if two have the same name.
    """
    by_name: dict[str, Vertex] = {}
    for vertex in order:
        if vertex.name in by_name:
            raise DuplicateNameError(
                f"Two vertices are named {vertex.name!r}: {by_name[vertex.name]!r} and {vertex!r}. Names are unique in "
                "a graph: rename one, vertex.named(...)."
            )
        by_name[vertex.name] = vertex
    return by_name
