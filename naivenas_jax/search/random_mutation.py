"""A random mutation that is always legal: `random_mutation`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import jax

from naivenas_jax.checks import as_items, as_number, is_one_of, require_function, shown
from naivenas_jax.errors import (
    GraphError,
    InfeasibleError,
    NoMutationError,
    RequestError,
    SolverError,
    StructureError,
)
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.around.keywords import shows_keywords
from naivenas_jax.mutate.request.options import Constraints, Inputs, MaxNew, Options, as_conditions
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.mutate.rules.legal_edits import LegalEdits
from naivenas_jax.search.changeable_parts import Part
from naivenas_jax.search.draws import Draws
from naivenas_jax.search.kinds import KINDS
from naivenas_jax.search.output_shapes_kept import moved_output
from naivenas_jax.search.space import SearchSpace
from naivenas_jax.search.within_space import check_names, size_conditions, why_outside
from naivenas_jax.sizes.condition import Condition, Size
from naivenas_jax.transfer.new_neurons.strategy import New
from naivenas_jax.transfer.variables import check_network
from naivenas_jax.typing import Variables
from naivenas_jax.utility.user_scores import Utility

#: What a verb raises where a change cannot be made, which is another draw; anything else is a mistake of an argument.
#: Edges and removals are known to succeed before they are tried; sizes, makers of users and their functions are not.
_REFUSALS = (InfeasibleError, StructureError, GraphError, SolverError)


class DrawKeywords(TypedDict, total=False):
    """Keywords of the verbs that a random mutation passes on; what they mean is said at `delta_nout`."""

    new: New
    utility: Utility | None
    rng: jax.Array | None
    time_limit: float | None
    max_new: MaxNew
    constraints: Constraints
    inputs: Inputs


@shows_keywords()
def random_mutation(
    graph: Graph,
    variables: Variables,
    key: jax.Array,
    kinds: Mapping[str, float] | Iterable[str] | None = None,
    *,
    space: SearchSpace | None = None,
    **keywords: Unpack[DrawKeywords],
) -> Mutation:
    """A mutation that is drawn at random, and always legal.

    First a kind is drawn, by weight, of those that have a possibility here; of it a part of the network, all alike of
    those that can be changed (for edges every pair of vertices is a part); then what the part is changed to, alike. So
    a mutation is found if there is one. The same key gives the same mutation on every machine.

    Args:
      graph: the network.
      variables: its variables.
      key: decides what is drawn, and what new parameters start at.
      kinds: weights by kind, or several kinds that are alike. Default: all of these, alike. "width_up" and "width_down"
        change a size, "insertion" inserts something after a vertex or module, "removal" removes one, "edge_in" lets a
        vertex read another one and "edge_out" no longer, "kernel" changes the window of a convolution, "activation" the
        function of a vertex.
      space: what may be changed, and to what; by default a `SearchSpace` as it is without arguments.
      **keywords: as for `delta_nout`. Without ``new``, each verb's own default. With ``inputs``, arrays or shapes, what
        is drawn is tried on their shapes; needed for insertions where the graph does not know the shapes of its inputs.

    Returns:
      A `Mutation`, whose first note says what was drawn.

    Raises:
      NoMutationError: if nothing at all can be changed; says what was tried.
      GraphError, VariablesError: if ``graph`` is no graph, or the variables are not its own.
      PlanError: if ``key`` is no key.
      RequestError: if there is no such kind, or no weight above 0, or ``space`` is no `SearchSpace`.
      UnknownNameError: if the space protects a name that the graph does not have.
      Others: as `delta_nout`, for bad keywords.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> hidden = nas.invariant_vertex("act", nn.relu, nas.layer("hidden", nn.Dense(8), x))
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.random_mutation(graph, variables, jax.random.key(1), {"width_down": 2, "insertion": 1})
    >>> mutation.notes[0], mutation.graph.nout("hidden")
    ("width_down: 'hidden' shrinks from 8 to 7 neurons", 7)
    """
    check_network(graph, variables)
    draws, weights, within = Draws(key), _weights(kinds), _space(space)
    check_names(within, graph)
    given = {"rng": jax.random.fold_in(key, 1), **keywords}
    given["constraints"] = _with_conditions(keywords.get("constraints"), within, graph)
    limits: dict[str, Any] = {name: given[name] for name in ("constraints", "max_new") if name in given}
    edits, refused = LegalEdits(graph, Options(**limits)), dict[str, str]()

    def attempt(kind: str, name: str, way: object) -> Mutation | str:
        chosen = KINDS[kind]
        if chosen.problem is not None and (problem := chosen.problem(edits, name, way)) is not None:
            return str(problem).splitlines()[0]
        try:
            mutation = _carried_out(kind, graph, variables, name, way, within, given)
            outside = why_outside(within, graph, mutation.graph)
            return outside or (moved_output(mutation, keywords.get("inputs")) if chosen.structural else "") or mutation
        except _REFUSALS as error:
            return str(error).splitlines()[0]

    while weights:
        kind = draws.weighted(weights)
        refused[kind] = "there is nothing of this kind"
        for name, way in _drawn(draws, KINDS[kind].parts(graph, within)):
            answer = attempt(kind, name, way)
            if isinstance(answer, Mutation):
                return replace(answer, kind=kind, notes=(f"{kind}: {_told(kind, name, way, answer)}", *answer.notes))
            refused[kind] = f"{name!r}: {answer}"
        del weights[kind]
    tried = "; ".join(f"{kind}: {problem}" for kind, problem in refused.items())
    raise NoMutationError(f"Nothing can be changed by the kinds that were asked for. {tried}.", refused)


def _carried_out(
    kind: str,
    graph: Graph,
    variables: Variables,
    name: str,
    way: object,
    space: SearchSpace,
    keywords: Mapping[str, Any],
) -> Mutation:
    takes = KINDS[kind].takes
    own = {key: value for key, value in keywords.items() if takes is None or key in takes}
    return KINDS[kind].carry_out(graph, variables, name, way, space, **own)


def _drawn(draws: Draws, parts: list[Part]) -> Iterator[tuple[str, object]]:
    """Parts with ways to change them, in random order: a part, all alike, and its ways, until there are no more.

    So whatever is refused, the first one that is not is each part that has a way with the same probability. Of sizes to
    the nearest that is feasible one is asked for.
    """
    left = list(parts)
    while left:
        part = draws.one_of(left)
        left.remove(part)
        ways = list(part.ways)
        while ways:
            way = draws.one_of(ways)
            yield part.name, way
            ways = [] if isinstance(part.ways, range) else [each for each in ways if each is not way]


def _told(kind: str, name: str, way: object, mutation: Mutation) -> str:
    """What was done, as a sentence."""
    axis, function = mutation.plan.axes.get(name), getattr(way, "__name__", str(way))
    return KINDS[kind].sentence.format(
        name=repr(name),
        way=function if callable(way) else repr(way),
        window=" x ".join(map(str, way)) if isinstance(way, tuple) else way,
        before=axis and axis.before,
        after=axis and axis.after,
    )


def _weights(kinds: object) -> dict[str, float]:
    """The weights by kind, without those that are 0.

    Raises:
      RequestError: if there is no such kind, or nothing has a weight.
    """
    names = KINDS if kinds is None or isinstance(kinds, Mapping) else _names(kinds)
    given = kinds.items() if isinstance(kinds, Mapping) else [(kind, 1.0) for kind in names]
    found = {}
    for kind, weight in given:
        number = as_number(weight)
        if not is_one_of(kind, KINDS) or number is None or not 0 <= number < float("inf"):
            raise RequestError(
                f"kinds must be weights of 0 or more by kind, of {', '.join(KINDS)}; found {shown(kind)}: "
                f"{shown(weight)}."
            )
        if number > 0:
            found[str(kind)] = float(number)
    if not found:
        raise RequestError(f"kinds must have a weight above 0 for one of {', '.join(KINDS)}; found {shown(kinds)}.")
    return found


def _names(kinds: object) -> tuple[object, ...]:
    return (kinds,) if isinstance(kinds, str) else as_items(kinds) or (kinds,)


def _space(space: object) -> SearchSpace:
    if space is None:
        return SearchSpace()
    if not isinstance(space, SearchSpace):
        raise RequestError(f"space must be a nas.SearchSpace, found {type(space).__name__}: {shown(space)}.")
    return space


def _with_conditions(given: Constraints, space: SearchSpace, graph: Graph) -> Constraints:
    """The conditions of a user together with those of the space, for whatever axes there are after an edit."""
    if given is None and next(size_conditions(space, graph, graph.ties.sizes), None) is None:
        return None
    if callable(given):
        require_function(given, "constraints=", "sizes", RequestError)

    def both(sizes: Mapping[str, Size]) -> list[Condition]:
        return [*as_conditions(given(sizes) if callable(given) else given), *size_conditions(space, graph, sizes)]

    return both
