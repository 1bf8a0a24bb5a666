"""The computation graph: an immutable value that computes, and knows which neurons are tied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, partial

import jax
from flax import core
from flax.core import Scope
from flax.core.scope import CollectionFilter
from flax.typing import PRNGKey, RNGSequences

from naivenas_jax.checks import require_function
from naivenas_jax.errors import GraphError, UnknownNameError, VariablesError
from naivenas_jax.graph.dag import Dag
from naivenas_jax.graph.evaluation.evaluate import DOES_NOT_FIT, Intercept, check_inputs, require_values, run
from naivenas_jax.graph.evaluation.modules import AsModules
from naivenas_jax.graph.evaluation.variable_trees import no_variables, plain
from naivenas_jax.graph.queries.edit_queries import EditQueries
from naivenas_jax.graph.queries.graph_summary import Summary, summarise
from naivenas_jax.graph.queries.handles import Handles, fixed, handles, inside_vertex, is_axis, unknown_axis
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import PyTree, Variables
from naivenas_jax.views.viewable import Printable


@jax.tree_util.register_static
class Graph(EditQueries, AsModules, Dag, Printable):
    """A network as a value: input vertices, output vertices and everything between them.

    A graph holds no arrays: variables are passed to `apply`, as in Flax. It is frozen, hashable, compared by value
    (functions inside it by identity), and a pytree without leaves, so that ``jax.jit(nas.apply)`` compiles once for
    equal graphs. ``graph["name"]`` is a vertex, ``len(graph)`` their number, ``"name" in graph`` whether there is one.

    Args:
      inputs: input vertices, in the order in which arrays are passed to `apply`; one vertex or several.
      outputs: output vertices; one vertex, or several, in which case `apply` returns a tuple.

    Attributes:
      inputs: the input vertices, always a tuple.
      outputs: the output vertices, always a tuple.
      signature: for an imported model the structures that it takes and returns; else None.

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
    >>> [vertex.name for vertex in graph.vertices], sorted(graph.keywords)
    (['x', 'dense'], [])
    >>> graph.ties.leaves["params", "dense", "kernel"].axes
    ('x', 'dense')
    """

    def __deepcopy__(self, memo: object) -> Graph:
        return self  # a value

    def init(self, rng: PRNGKey | RNGSequences, *inputs: PyTree, **kwargs: object) -> dict[str, PyTree]:
        """Make initial variables, as ``init`` of a Flax module does.

        Args:
          rng: a key, or a dict of keys by stream, ``{"params": ..., "dropout": ...}``.
          *inputs: one array per input vertex, neurons on the last axis.
          **kwargs: keyword arguments for vertices; each vertex gets those that it understands.

        Returns:
          The variables by collection and vertex, ``{"params": {vertex: {parameter: array}}, "batch_stats": ...}``.

        Raises:
          GraphError: if the inputs do not fit, or the graph is of an imported model, whose variables come with it.

        >>> import jax, flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
        >>> jax.tree.map(jax.numpy.shape, graph.init(jax.random.key(0), jax.numpy.ones((1, 3))))
        {'params': {'dense': {'bias': (2,), 'kernel': (3, 2)}}}
        """
        _, variables = core.init(self.run)(rng, *inputs, **kwargs)
        return core.unfreeze(variables) if isinstance(variables, core.FrozenDict) else dict(variables)

    def apply(
        self,
        variables: Variables,
        *inputs: PyTree,
        mutable: CollectionFilter = False,
        rngs: PRNGKey | RNGSequences | None = None,
        **kwargs: object,
    ) -> PyTree:
        """Compute the outputs. Pure: works under ``jax.jit``, ``jax.grad``, ``jax.vmap``.

        Args:
          variables: the arrays of the network, as `init` or a mutation makes them.
          *inputs: one array per input vertex, neurons on the last axis. For an imported model the arguments that the
            model takes: dicts, tuples, dataclasses, as at the import.
          mutable: collections that may be updated, as in Flax; then ``(outputs, updates)`` is returned.
          rngs: keys by stream, as in Flax, for example ``{"dropout": key}``.
          **kwargs: keyword arguments for vertices; each vertex gets those that it understands. ``train`` is understood
            by all layers whose behaviour differs in training (batch normalisation, dropout); it is False unless given.

        Returns:
          An array if the graph has one output, else a tuple of one array per output vertex. For an imported model what
          the model returns. With ``mutable``, a pair of these and the updated collections.

        Raises:
          VariablesError: if the variables are not those of the graph.
          GraphError: if the inputs do not fit, or no vertex understands a keyword argument.

        >>> import jax, flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> graph = nas.Graph(x, nas.layer("norm", nn.BatchNorm(), x))
        >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
        >>> y, updates = graph.apply(variables, jax.numpy.ones((5, 3)), mutable=["batch_stats"], train=True)
        >>> y.shape, list(updates)
        ((5, 3), ['batch_stats'])
        """
        if self.signature is not None:
            self.signature.check_variables(variables)
            variables = plain(variables)
        if not isinstance(variables, Mapping):
            raise no_variables(variables)
        try:
            return core.apply(self.run, mutable=mutable)(variables, *inputs, rngs=rngs, **kwargs)
        except DOES_NOT_FIT as error:
            raise VariablesError(
                f"The variables do not fit the graph: {error} Make them with graph.init, or take those that "
                "belong to it: a mutation returns a graph together with its variables."
            ) from error

    def run(self, scope: Scope, *inputs: PyTree, intercept: Intercept | None = None, **kwargs: object) -> PyTree:
        """Compute the outputs inside a Flax scope that holds the variables; `apply` makes such a scope.

        Args:
          scope: the scope, with one child for each vertex, named after it.
          *inputs: one array per input vertex, neurons on the last axis.
          intercept: a function ``(path, vertex, port, value) -> value`` that sees, and may replace, every value on its
            way into a vertex.
          **kwargs: keyword arguments for vertices; each vertex gets those that it understands.

        Returns:
          An array if the graph has one output, else a tuple of one array per output vertex.

        Raises:
          GraphError: if the inputs do not fit, or no vertex understands a keyword argument.

        >>> import jax, flax.linen as nn, naivenas_jax as nas
        >>> from flax import core
        >>> x = nas.input_vertex("x", 3)
        >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
        >>> y, variables = core.init(graph.run)(jax.random.key(0), jax.numpy.ones((5, 3)))
        >>> y.shape
        (5, 2)
        """
        self.check_inputs(inputs)
        arrays = self._arrays(inputs)
        require_values(self.inputs, arrays)
        self._check_keywords(kwargs)
        if intercept is not None:
            require_function(intercept, "intercept", "path, vertex, port, value", GraphError)
        fed = dict(zip(self.inputs, arrays, strict=True))
        compute = partial(run, scope=scope, kwargs=kwargs, intercept=intercept)
        if self.signature is None:
            made = compute(self.vertices, self.outputs, fed)
            return made[0] if len(made) == 1 else made
        model = next(i for i, vertex in enumerate(self) if vertex.op.returns() is not None)
        known = self.vertices[: model + 1]
        fed |= dict(zip(known, compute(known, known, fed), strict=True))
        whole, behind = fed[self.vertices[model]], [vertex.inputs != known[model:] for vertex in self.outputs]
        if not self.signature.returned_now(whole, any(behind)):
            return whole
        return self.signature.outputs.join(compute(self.vertices, self.outputs, fed))

    def check_inputs(self, inputs: tuple[PyTree, ...]) -> None:
        """Check that there is one array per input vertex, with its neurons on the last axis.

        Args:
          inputs: what is to be checked, as `apply` takes it.

        Raises:
          GraphError: if there are too few or too many arrays, or one is no array; or, for an imported model, if the
            arguments have another structure or other constants than at the import.
          SizeMismatchError: if an array has another number of neurons than its input vertex.

        >>> import jax, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> nas.Graph(x, -x).check_inputs((jax.numpy.ones((5, 3)),))
        """
        check_inputs(self.inputs, self._arrays(inputs))

    def _arrays(self, inputs: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
        return inputs if self.signature is None else self.signature.arrays(inputs)

    def _check_keywords(self, kwargs: Mapping[str, object]) -> None:
        known = self.keywords
        unknown = [] if known is None else sorted(set(kwargs) - known - {"train"})
        if unknown:
            raise GraphError(
                f"No vertex understands the keyword argument {unknown[0]!r}. Understood: "
                f"{', '.join(sorted((known or frozenset()) | {'train'}))}."
            )

    @cached_property
    def keywords(self) -> frozenset[str] | None:
        """The keyword arguments that some vertex understands; None if a vertex takes any."""
        found: frozenset[str] = frozenset()
        for vertex in self:
            if vertex.op.keywords is None:
                return None
            found |= vertex.op.keywords
        return found

    def reach(self, *names: str) -> tuple[str, ...]:
        """The names of the vertices whose size may change when the sizes of some vertices do.

        Args:
          *names: the names of those vertices.

        Returns:
          Names in topological order, those that were given included.

        Raises:
          UnknownNameError: if there is no vertex of one of the names.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> hidden = nas.layer("hidden", nn.Dense(4), x)
        >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.invariant_vertex("act", nn.relu, hidden)))
        >>> graph.reach("hidden")
        ('hidden', 'act')
        """
        for name in names:
            self.vertex(name)
        reached = self.ties.reach(names)
        return tuple(v.name for v in self if v.name in reached)

    def _on_axis(self, name: str) -> int:
        if not is_axis(self.ties, name):
            raise UnknownNameError(unknown_axis(name, self.handles(), self.ties, self.vertices))
        return self.ties.size(name)

    def _no_vertex(self, name: object) -> UnknownNameError:
        return UnknownNameError(inside_vertex(name)) if is_axis(self.ties, name) else super()._no_vertex(name)

    def handles(self) -> Handles:
        """Every axis that can be resized.

        Returns:
          By name, a `Handle`: the size of the axis, what is tied to it, and whether and why it is coupled. A dict that
          notebooks show as a table.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> graph = nas.Graph(x, nas.invariant_vertex("act", nn.relu, nas.layer("hidden", nn.Dense(4), x)))
        >>> graph.handles()["hidden"]
        Handle(name='hidden', size=4, tied_to=('act',), coupled=None)
        """
        several = {vertex.name for vertex in self if vertex.op.returns() is not None}
        return handles(self.ties, several)

    def summary(self, variables: Variables | None = None) -> Summary:
        """Every handle with what is tied to it, how much of the network is resizable, and what froze the rest.

        Args:
          variables: the variables of this graph (or their shapes); with them, parameters are counted.

        Returns:
          A `Summary`: ``print`` it.

        Raises:
          VariablesError: if the variables lack an array of the graph.

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
        return summarise(self.ties, self.handles(), ends, plain(variables))

    def fixed(self) -> dict[str, str]:
        """Why axes may not change, or some of their neurons.

        Returns:
          The reasons by axis, as a handle would be named.

        >>> import jax.numpy as jnp, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 4)
        >>> nas.Graph(x, nas.immutable_vertex("pairs", lambda x: x[..., ::2], x)).fixed()
        {'x': "'pairs' is immutable", 'pairs': "'pairs' is immutable"}
        """
        return fixed(self.ties)

    @cached_property
    def ties(self) -> Ties:
        """Which neurons live and die together, and on which dimensions of which variables they lie."""
        shared = self._canonical.__dict__  # of equal graphs they are found once, unless layers were registered since
        if shared.get("_rules_known") != Tying.rules_known:
            tying = Tying()
            tie_vertices(self.vertices, tying)
            shared.update(_ties=tying.freeze(), _rules_known=Tying.rules_known)
        found: Ties = shared["_ties"]
        return found


def tie_vertices(
    order: Iterable[Vertex], tying: Tying, fed: Mapping[Vertex, Vector] | None = None
) -> dict[Vertex, Vector]:
    """Let every vertex say what it ties.

    Args:
      order: the vertices, each after its inputs.
      tying: collects what they say.
      fed: the neurons of vertices that get them from outside.

    Returns:
      The neurons of each vertex.
    """
    vectors = dict(fed or {})
    for vertex in order:
        within = tying.within(vertex.name)
        if vertex not in vectors:
            vectors[vertex] = vertex.op.tie(tuple(vectors[source] for source in vertex.inputs), within)
        within.axis(vectors[vertex])
    return vectors


def require_graph(graph: object) -> Graph:
    """``graph``, if it is one.

    Raises:
      GraphError: if it is none.
    """
    if isinstance(graph, Graph):
        return graph
    held = next(iter(graph), None) if isinstance(graph, tuple) else getattr(graph, "graph", None)
    hint = " It unpacks to one: graph, variables = ..., or put a star before it in the call."
    raise GraphError(
        "The first argument must be a nas.Graph, followed by its variables where these matter; found "
        f"{type(graph).__name__}: {graph!r:.80}.{hint if isinstance(held, Graph) else ''}"
    )


def apply(
    graph: Graph,
    variables: Variables,
    *inputs: PyTree,
    mutable: CollectionFilter = False,
    rngs: PRNGKey | RNGSequences | None = None,
    **kwargs: object,
) -> PyTree:
    """``graph.apply(variables, *inputs, **kwargs)`` with the graph as an argument.

    ``jax.jit(nas.apply)`` compiles once per architecture: equal graphs, however they were made, share the compiled
    program.

    Args:
      graph: the network.
      variables: its variables.
      *inputs: one array per input vertex, neurons on the last axis.
      mutable: collections that may be updated, as for `Graph.apply`.
      rngs: keys by stream, as for `Graph.apply`.
      **kwargs: keyword arguments for vertices, as for `Graph.apply`. Under ``jax.jit``, name the keywords whose values
        are no arrays, such as ``train`` and ``mutable``, in ``static_argnames``.

    Returns:
      As `Graph.apply`.

    Raises:
      GraphError: if ``graph`` is no graph, or the inputs do not fit.
      VariablesError: if the variables are not those of the graph.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> jax.jit(nas.apply)(graph, variables, jax.numpy.ones((5, 3))).shape
    (5, 2)
    """
    return require_graph(graph).apply(variables, *inputs, mutable=mutable, rngs=rngs, **kwargs)
