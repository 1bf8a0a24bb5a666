"""The computation graph: an immutable value."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import jax
from flax import core
from flax.core import Scope

from naivenas_jax.errors import GraphError, ImmutableError, UnknownNameError, VariablesError
from naivenas_jax.graph.construct import by_names, ordered, vertices_of
from naivenas_jax.graph.evaluation.evaluate import DOES_NOT_FIT, Intercept, check_inputs, run
from naivenas_jax.graph.graph_summary import Summary, summarise
from naivenas_jax.graph.handles import Handle, fixed, handles
from naivenas_jax.graph.linen_module import GraphModule
from naivenas_jax.graph.order import topological
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.tying import Tying


@jax.tree_util.register_static
class Graph:
    """A network as a value: input vertices, output vertices and everything between them.

    A graph holds no arrays: variables are passed to `apply`, as in Flax. It is frozen, hashable, compared by value
    (functions inside it by identity), and a pytree without leaves, so that ``jax.jit(nas.apply)`` compiles once for
    equal graphs.

    Args:
      inputs: input vertices, in the order in which arrays are passed to `apply`; one vertex or several.
      outputs: output vertices; one vertex, or several, in which case `apply` returns a tuple.

    Raises:
      DuplicateNameError: if two different vertices have the same name.
      GraphError: if the outputs depend on an input vertex that is not listed, or an input is not an input vertex.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
    >>> graph.nout("dense"), graph.nin("dense"), len(graph)
    (2, (3,), 2)
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> graph.apply(variables, jax.numpy.ones((5, 3))).shape
    (5, 2)
    """

    _interned: ClassVar[WeakValueDictionary[Any, Graph]] = WeakValueDictionary()

    inputs: tuple[Vertex, ...]
    outputs: tuple[Vertex, ...]
    _order: tuple[Vertex, ...]
    _by_name: dict[str, Vertex]
    _canonical: Graph
    _hash: int

    def __init__(self, inputs: Vertex | Iterable[Vertex], outputs: Vertex | Iterable[Vertex]):
        self.__dict__["inputs"] = vertices_of("inputs", inputs)
        self.__dict__["outputs"] = vertices_of("outputs", outputs)
        self.__dict__["_order"] = ordered(self.inputs, self.outputs)
        self.__dict__["_by_name"] = by_names(self._order)
        key = _key(self)
        # Equal graphs share one canonical key, so that hashing and comparing cost nothing from here on.
        self.__dict__["_canonical"] = Graph._interned.setdefault(key, self)
        self.__dict__["_hash"] = hash(key)

    def __setattr__(self, name: str, value: object) -> None:
        raise ImmutableError(f"A Graph is immutable; cannot set {name!r}. Every change makes a new graph.")

    def __delattr__(self, name: str) -> None:
        raise ImmutableError(f"A Graph is immutable; cannot delete {name!r}. Every change makes a new graph.")

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Graph) and self._canonical is other._canonical)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple:
        return _rebuild, _flat(self)

    # -- computing ---------------------------------------------------------------------------------------------

    def init(self, rng: Any, *inputs: Any, **kwargs: Any) -> dict[str, Any]:
        """Initial variables, ``{"params": {vertex: {...}}, "batch_stats": ...}``, as of a Flax module.

        Args:
          rng: a key, or a dict of keys by stream (``{"params": ..., "dropout": ...}``).
          *inputs: one array per input vertex.
          **kwargs: passed on to the vertices that understand them.
        """
        _, variables = core.init(self.run)(rng, *inputs, **kwargs)
        return core.unfreeze(variables) if isinstance(variables, core.FrozenDict) else dict(variables)

    def apply(
        self, variables: Mapping[str, Any], *inputs: Any, mutable: Any = False, rngs: Any = None, **kwargs: Any
    ) -> Any:
        """Compute the outputs. Pure: works under ``jax.jit``, ``jax.grad``, ``jax.vmap``.

        Args:
          variables: as made by `init`, or by a mutation.
          *inputs: one array per input vertex, neurons on the last axis.
          mutable: collections that may be updated, as in Flax; then ``(outputs, updates)`` is returned.
          rngs: keys by stream, as in Flax, for example ``{"dropout": key}``.
          **kwargs: each vertex gets those it understands. ``train`` is understood by all layers whose behaviour
            differs in training (batch normalisation, dropout); it is False unless given.

        Returns:
          An array if the graph has one output, else a tuple. With ``mutable``, a pair with the updated collections.
        """
        if not isinstance(variables, Mapping):
            raise VariablesError(
                "variables must be a dict of collections, {'params': ...}, as graph.init makes it; found "
                f"{type(variables).__name__}."
            )
        try:
            return core.apply(self.run, mutable=mutable)(variables, *inputs, rngs=rngs, **kwargs)
        except DOES_NOT_FIT as error:
            raise VariablesError(
                f"The variables do not fit the graph: {error} Make them with graph.init, or take those that "
                "belong to it: a mutation returns a graph together with its variables."
            ) from error

    def run(self, scope: Scope, *inputs: Any, intercept: Intercept | None = None, **kwargs: Any) -> Any:
        """Compute the outputs inside a Flax scope that holds the variables."""
        self.check_inputs(inputs)
        self._check_keywords(kwargs)
        results = run(self._order, self.outputs, dict(zip(self.inputs, inputs, strict=True)), scope, kwargs, intercept)
        return results[0] if len(results) == 1 else results

    def as_module(self, name: str | None = None) -> Any:
        """The graph as a ``flax.linen`` module, to be used on its own or inside other modules."""
        return GraphModule(self, name=name)

    def check_inputs(self, inputs: tuple[Any, ...]) -> None:
        """Raise unless there is one array per input vertex, with its neurons on the last axis."""
        check_inputs(self.inputs, inputs)

    def _check_keywords(self, kwargs: Mapping[str, Any]) -> None:
        known = self.keywords
        unknown = [] if known is None else sorted(set(kwargs) - known - {"train"})
        if unknown:
            raise GraphError(
                f"No vertex understands the keyword argument {unknown[0]!r}. Understood: "
                f"{', '.join(sorted((known or frozenset()) | {'train'}))}."
            )

    @cached_property
    def keywords(self) -> frozenset[str] | None:
        """The keyword arguments that some vertex understands; None if one takes any."""
        found: frozenset[str] = frozenset()
        for vertex in self._order:
            if vertex.op.keywords is None:
                return None
            found |= vertex.op.keywords
        return found

    # -- asking ------------------------------------------------------------------------------------------------

    @property
    def vertices(self) -> tuple[Vertex, ...]:
        """All vertices in topological order, each after its inputs."""
        return self._order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Vertex]:
        return iter(self._order)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or (isinstance(name, Vertex) and self._by_name.get(name.name) is name)

    def __getitem__(self, key: str | int | slice) -> Any:
        """The vertex of that name; with a number or slice, by topological order."""
        if isinstance(key, slice):
            return self._order[key]
        if isinstance(key, int):
            if not -len(self) <= key < len(self):
                count = f"The graph has {len(self)} vertices"
                raise UnknownNameError(f"{count}, graph[0] to graph[-1]; found graph[{key}].")
            return self._order[key]
        return self.vertex(key)

    def vertex(self, name: str) -> Vertex:
        """The vertex of that name, and nothing but a name will do."""
        if not isinstance(name, str) or name not in self._by_name:
            raise UnknownNameError(unknown_name(name, self._by_name))
        return self._by_name[name]

    def nin(self, name: str) -> tuple[int, ...]:
        """The number of neurons of each input of a vertex."""
        return self.vertex(name).nin

    def nout(self, name: str) -> int:
        """The number of neurons that a vertex makes."""
        return self.vertex(name).nout

    def inputs_of(self, name: str) -> tuple[str, ...]:
        """Names of the vertices that a vertex reads, in order, repeated where it reads one more than once."""
        return tuple(source.name for source in self.vertex(name).inputs)

    def outputs_of(self, name: str) -> tuple[str, ...]:
        """Names of the vertices that read a vertex, in topological order, once per edge."""
        return self._consumers[self.vertex(name).name]

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Names of all vertices that a vertex depends on, in topological order."""
        return tuple(v.name for v in topological((self.vertex(name),)) if v.name != name)

    def descendants(self, name: str) -> tuple[str, ...]:
        """Names of all vertices that depend on a vertex, in topological order."""
        reached = {self.vertex(name).name}
        for vertex in self._order:
            if any(source.name in reached for source in vertex.inputs):
                reached.add(vertex.name)
        return tuple(v.name for v in self._order if v.name in reached and v.name != name)

    def find(self, what: str | Callable[[Vertex], bool]) -> tuple[Vertex, ...]:
        """The vertices whose name matches a shell pattern (``"conv*"``), or that satisfy a predicate."""
        if callable(what):
            return tuple(vertex for vertex in self._order if what(vertex))
        if not isinstance(what, str):
            raise GraphError(
                f"find takes a shell pattern such as 'conv*', or a predicate of a vertex; found {what!r:.80}."
            )
        return tuple(vertex for vertex in self._order if fnmatch.fnmatchcase(vertex.name, what))

    def reach(self, *names: str) -> tuple[str, ...]:
        """Names of the vertices whose size may change when the sizes of ``names`` do, themselves included."""
        for name in names:
            self.vertex(name)
        reached = self.ties.reach(names)
        return tuple(v.name for v in self._order if v.name in reached)

    def handles(self) -> dict[str, Handle]:
        """Every axis that can be resized, by name: its size, what is tied to it, and whether and why it is coupled."""
        return handles(self.ties, {vertex.name for vertex in self._order if vertex.op.returns() is not None})

    def summary(self, variables: Mapping[str, Any] | None = None) -> Summary:
        """Every handle with what is tied to it, how much of the network is resizable, and what froze the rest.

        Args:
          variables: of this graph (or their shapes); with them, parameters are counted.

        Returns:
          A `Summary`: ``print`` it.

        >>> import jax, flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
        >>> print(graph.summary(graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))))
        handle  size  tied to  parameters  remark
        x       3              24          an input, which changes when a request names it
        hidden  8              48
        out     2              18          an output, which changes when a request names it
        resizable: 48 of 50 parameters, 3 of 6 dimensions of parameters
        frozen: 2 dimensions: an output, which changes when a request names it
        frozen: 1 dimensions: an input, which changes when a request names it
        """
        ends = {v.name: "an output, which changes when a request names it" for v in self.outputs}
        ends |= {v.name: "an input, which changes when a request names it" for v in self.inputs}
        return summarise(self.ties, self.handles(), ends, variables)

    def fixed(self) -> dict[str, str]:
        """Why axes may not change, or some of their neurons: the reasons by axis, as a handle would be named."""
        return fixed(self.ties)

    @cached_property
    def ties(self) -> Ties:
        """Which neurons live and die together, and where they lie."""
        tying = Tying()
        tie_vertices(self._order, tying)
        return tying.freeze()

    @cached_property
    def _consumers(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {vertex.name: [] for vertex in self._order}
        for vertex in self._order:
            for source in vertex.inputs:
                found[source.name].append(vertex.name)
        return {name: tuple(names) for name, names in found.items()}

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(v.name for v in side) for side in (self.inputs, self.outputs))
        return f"Graph(inputs=[{inputs}], outputs=[{outputs}], {len(self)} vertices)"


def tie_vertices(order: Iterable[Vertex], tying: Tying, fed: Mapping[Vertex, Any] | None = None) -> dict[Vertex, Any]:
    """Let every vertex say what it ties; returns the neurons of each. ``fed``: neurons that come from outside."""
    vectors = dict(fed or {})
    for vertex in order:
        within = tying.within(vertex.name)
        if vertex not in vectors:
            vectors[vertex] = vertex.op.tie(tuple(vectors[source] for source in vertex.inputs), within)
        within.axis(vectors[vertex])
    return vectors


def unknown_name(name: object, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with the nearest that do."""
    names = [name for name in known if not name.startswith("~")]  # the others are not for users
    near = difflib.get_close_matches(str(name), names, n=3) or names[:8]
    return f"There is no vertex or axis named {name!r}. Did you mean: {', '.join(map(repr, near))}?"


def _key(graph: Graph) -> tuple:
    return _flat(graph)


def _flat(graph: Graph) -> tuple:
    """The graph without nesting: vertices as (name, op, positions of inputs), then positions of inputs and outputs."""
    position = {vertex: i for i, vertex in enumerate(graph.vertices)}
    rows = tuple((v.name, v.op, tuple(position[source] for source in v.inputs)) for v in graph.vertices)
    return rows, tuple(position[v] for v in graph.inputs), tuple(position[v] for v in graph.outputs)


def _rebuild(rows: tuple, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Graph:
    made: list[Vertex] = []
    for name, op, sources in rows:
        made.append(Vertex(name, op, tuple(made[i] for i in sources)))
    return Graph(tuple(made[i] for i in inputs), tuple(made[i] for i in outputs))


def require_graph(graph: Any) -> Graph:
    """``graph``, if it is one.

    Raises:
      GraphError: if not.
    """
    if isinstance(graph, Graph):
        return graph
    held = next(iter(graph), None) if isinstance(graph, tuple) else getattr(graph, "graph", None)
    hint = " It unpacks to one: graph, variables = ..." if isinstance(held, Graph) else ""
    raise GraphError(
        "The first argument must be a nas.Graph, followed by its variables where these matter; found "
        f"{type(graph).__name__}: {graph!r:.80}.{hint}"
    )


def apply(graph: Graph, variables: Mapping[str, Any], *inputs: Any, **kwargs: Any) -> Any:
    """``graph.apply(variables, *inputs, **kwargs)`` with the graph as an argument.

    ``jax.jit(nas.apply)`` compiles once per architecture: equal graphs, however they were made, share the compiled
    program. Keyword arguments that are not arrays must be named in ``static_argnames``, such as ``train``.
    """
    return require_graph(graph).apply(variables, *inputs, **kwargs)
