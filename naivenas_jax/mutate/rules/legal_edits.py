"""Which edits of a graph would succeed, known without variables: the queries of a graph, answered by the rules."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import jax

from naivenas_jax.align.align import align
from naivenas_jax.errors import InfeasibleError, NaiveNASError, StructureError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.graph.map_ops import with_axes
from naivenas_jax.graph.model_vertex import Place
from naivenas_jax.graph.queries.edit_queries import answered_by
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.output_shapes import value_of
from naivenas_jax.mutate.request.defaults import freed_outputs
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.rules.draft import Draft
from naivenas_jax.mutate.rules.edited_graph import computed, stacks_anew
from naivenas_jax.mutate.rules.kept_widths import held, restacked
from naivenas_jax.mutate.rules.model_places import ModelAt, equal_places, model_at, models_in, not_met
from naivenas_jax.mutate.rules.size_problem import SizeProblem, no_sizes
from naivenas_jax.mutate.rules.structural_edits import edge_added, edge_removed, vertex_removed


@dataclass(frozen=True, eq=False)
class LegalEdits:
    """The edits of a graph that the verbs carry out.

    Attributes:
      graph: the network.
      options: keywords of the verbs; they limit sizes.
    """

    graph: Graph
    options: Options = field(default_factory=Options)
    _known: dict[Hashable, NaiveNASError | None] = field(default_factory=dict)
    #: The graphs that were asked about last: the verb that follows makes an equal one, and equal graphs share ties.
    _last: deque[Graph] = field(default_factory=lambda: deque(maxlen=2))

    def can_read(self, source: str, target: str) -> bool:
        """Whether `create_edge` lets ``target`` read ``source``, behind its other inputs.

        Raises:
          UnknownNameError: if there is no vertex or module of one of the names.
        """
        return self.not_read(source, target) is None

    def not_read(self, source: str, target: str) -> NaiveNASError | None:
        """Why ``target`` cannot read ``source``; None if it can.

        Raises:
          UnknownNameError: if there is no vertex or module of one of the names.
        """
        where = model_at(self.graph, source, target)
        if isinstance(where, NaiveNASError):
            return where
        if where is not None:
            where.check_names(source, target)
            return self._not_met(where, Place(source, "out"), Place(target, "in"))
        read, reader = self.graph.vertex(source), self.graph.vertex(target)
        return self._problem(edge_added(self.graph, read, reader), (target, self._alike(read)))

    def not_removed(self, name: str) -> NaiveNASError | None:
        """Why `remove_vertex` does not remove a vertex or module; None if it does.

        Raises:
          UnknownNameError: if there is none of that name.
        """
        where = model_at(self.graph, name)
        if isinstance(where, ModelAt):
            where.check_names(name)
            return self._not_met(where, Place(name, "in"), Place(name, "out"))
        vertex = self.graph.vertex(name)
        return self._problem(vertex_removed(self.graph, vertex, vertex.inputs), name)

    def edge_not_removed(self, source: str, target: str) -> NaiveNASError | None:
        """Why `remove_edge` does not remove the first edge between two vertices; None if it does.

        Raises:
          UnknownNameError: if there is no vertex of one of the names.
        """
        read, reader = self.graph.vertex(source), self.graph.vertex(target)
        return self._problem(edge_removed(self.graph, read, reader), (source, target, "-"))

    def edges_to_create(self) -> Iterator[tuple[str, str]]:
        """Pairs of a source and a target, by target, for which `can_read`."""
        names = [v.name for v in self.graph.vertices]
        ends = self._modules("out"), self._modules("in")
        pairs = [(s, t) for t in names for s in names] + [(s, t) for t in ends[1] for s in ends[0]]
        return (pair for pair in pairs if self.can_read(*pair))

    def names_that_can_go(self) -> Iterator[str]:
        """Vertices and modules that `remove_vertex` removes."""
        names = [*(v.name for v in self.graph.vertices), *self._modules("out")]
        return (name for name in names if self.not_removed(name) is None)

    def edges_that_can_go(self) -> Iterator[tuple[str, str]]:
        """Pairs of a source and a target, by target, between which `remove_edge` removes an edge."""
        pairs = [(s, v.name) for v in self.graph.vertices for s in dict.fromkeys(self.graph.inputs_of(v.name))]
        return (pair for pair in pairs if self.edge_not_removed(*pair) is None)

    def _modules(self, end: str) -> list[str]:
        return [p.name for model in models_in(self.graph).values() for p in model.places if p.end == end]

    def _alike(self, source: Vertex) -> Hashable:
        """What an answer depends on: the answers for sources of the same neurons and shape are the same."""
        made = value_of(source)
        single = made is None or isinstance(made, jax.ShapeDtypeStruct)
        unlike = None if single and not isinstance(source.op, Source) else source.name
        return self.graph.ties.axes[source.name], made if single else None, unlike

    def _problem(self, draft: Draft | StructureError, key: Hashable) -> NaiveNASError | None:
        """Why an edit does not succeed. What is found out of the whole graph is remembered, by a key."""
        if isinstance(draft, StructureError):
            return draft
        if key not in self._known:
            drawn = held(self.graph, draft)
            staged = drawn.staged()
            self._known[key] = problem_of(self.graph, drawn, staged, self.options)
            self._last.append(staged)
        return self._known[key]

    def _not_met(self, where: ModelAt, read: Place, at: Place) -> NaiveNASError | None:
        if (read, at) not in self._known:
            self._known[read, at] = _not_met(self.graph, where, read, at, self.options)
        return self._known[read, at]


def problem_of(graph: Graph, draft: Draft, staged: Graph, options: Options) -> NaiveNASError | None:
    """Why an edit does not lead to a graph that can be computed, with sizes that satisfy all ties; None if it does.

    Args:
      graph: before the edit.
      draft: the edit, with the widths that it keeps.
      staged: its staged graph.
      options: keywords of the verb.
    """
    freed = freed_outputs(staged, options.free_outputs)
    after = draft.readers(staged)
    arriving = computed(graph, after, [name for name in draft.outputs if name not in freed])
    if isinstance(arriving, NaiveNASError):
        return arriving
    stands, same = draft.stand_ins(after), not stacks_anew(after, arriving)
    if same and not stands and options.constraints is None:
        return None  # every width is as it was, and nothing is asked of any
    problem = SizeProblem.of(graph, draft, staged, stands, options)
    if same:
        return problem.unsolvable()
    final = _final(draft, problem, options)
    if final is None:
        return no_sizes()
    again = restacked(final)
    if again is None:
        return None
    return SizeProblem.of(final, again, again.staged(), again.stand_ins(again.final_order()), options).unsolvable()


def _final(draft: Draft, problem: SizeProblem, options: Options) -> Graph | None:
    """The edited graph with sizes that satisfy all ties; None if there are none."""
    if problem.empty:
        return draft.final(problem.staged)
    for _, wanted in problem.attempts():
        try:
            axes = align(problem.staged.ties, wanted, {}, problem.restrictions).axes
        except InfeasibleError:
            continue
        return draft.final(with_axes(problem.staged, axes, options.layer_keywords))
    return None


def _not_met(graph: Graph, where: ModelAt, read: Place, at: Place, options: Options) -> NaiveNASError | None:
    """Why the value at one place inside a model cannot be read at another one."""
    if problem := not_met(where, read, at):
        return problem
    if where.shape(read).shape == where.shape(at).shape:
        return None
    draft, staged, stands = equal_places(graph, where, (read, at))
    return SizeProblem.of(graph, draft, staged, stands, options).unsolvable()


def _of(graph: object) -> LegalEdits:
    return LegalEdits(require_graph(graph))


answered_by(_of)
