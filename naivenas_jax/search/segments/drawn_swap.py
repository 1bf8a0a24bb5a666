"""Segments of two networks, drawn at random, and exchanged."""

from __future__ import annotations

from naivenas_jax.checks import as_number, shown
from naivenas_jax.errors import GraphError, InfeasibleError, NoMutationError, RequestError, SolverError, StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelOp
from naivenas_jax.mutate.around.steps import check_shapes
from naivenas_jax.mutate.request.options import Inputs, Options
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.search.draws import Draws
from naivenas_jax.search.output_shapes_kept import moved_output
from naivenas_jax.search.segments.segment import Segment, segments, why_unfit
from naivenas_jax.search.segments.swap import Side, swap
from naivenas_jax.typing import Variables

#: What says that two segments cannot be exchanged, so that others are drawn.
_REFUSALS = (InfeasibleError, StructureError, GraphError, SolverError)


def drawn_swap(
    first: tuple[Graph, Variables], second: tuple[Graph, Variables], draws: Draws, deviation: object, inputs: Inputs
) -> Mutation:
    """The first network with a segment of the second in the place of one of its own.

    One of the first is drawn, then one of the second that fits: which begins and ends at about the same depth, and of
    which shapes tell no reason why not. What is refused is left out, and drawing goes on.

    Raises:
      NoMutationError: if no segments can be exchanged; says why.
      RequestError: if ``deviation`` is no share.
    """
    most = as_number(deviation)
    if most is None or not 0 <= most <= 1:
        raise RequestError(
            f"deviation must be a number from 0 (cut at the same depth) to 1 (anywhere); found {shown(deviation)}."
        )
    ours, theirs = (list(segments(graph)) for graph, _ in (first, second))
    for name, (graph, _), found in (("first", first, ours), ("second", second, theirs)):
        if not found:
            raise NoMutationError(f"No segments can be exchanged: {_why_none(name, graph)}")
    refused: dict[str, str] = {}
    nearest = min(_deviation(one, two) for one in ours for two in theirs)
    while ours:
        segment = draws.one_of(ours)
        near = [each for each in theirs if _deviation(segment, each) <= most]
        while near:
            other = draws.one_of(near)
            child = _swapped(Side(*first, segment), Side(*second, other), inputs)
            if isinstance(child, Mutation):
                return child
            refused[f"{other} in the place of {segment}"] = child
            near = [each for each in near if each is not other]
        ours = [each for each in ours if each is not segment]
    raise NoMutationError(_why_refused(refused, most, nearest), refused)


def _swapped(ours: Side, theirs: Side, inputs: Inputs) -> Mutation | str:
    """The network with the segment of another; or the reason why it cannot have it."""
    problem = why_unfit(ours.segment, theirs.segment)
    if problem is not None:
        return problem
    try:
        mutation = swap(ours, theirs, Options())
        check_shapes(mutation, inputs)
    except _REFUSALS as error:
        return str(error).splitlines()[0]
    moved = moved_output(mutation, inputs)
    return mutation if moved is None else moved


def _why_refused(refused: dict[str, str], most: float, nearest: float) -> str:
    if not refused:
        return (
            f"No segments can be exchanged: none of both networks lie within deviation={most:g} of one another; the "
            f"nearest deviate by {nearest:.3f}."
        )
    tried = "; ".join(f"{what}: {problem}" for what, problem in list(refused.items())[:3])
    more = f"; and so on, {len(refused)} pairs in all" if len(refused) > 3 else ""
    return f"No segments can be exchanged. {tried}{more}."


def _deviation(ours: Segment, theirs: Segment) -> float:
    """How far apart the cuts of two segments are, as a share of the depth of their networks."""
    return max(abs(ours.start - theirs.start), abs(ours.end - theirs.end))


def _why_none(name: str, graph: Graph) -> str:
    if any(isinstance(vertex.op, ModelOp) for vertex in graph.vertices):
        return (
            f"the {name} network is an imported model, which is one vertex, and cannot be cut inside. Exchange "
            'kind="groups" or "neurons", or build the network of vertices.'
        )
    return (
        f"the {name} network has no part with one vertex in and one vertex out, beside what its outputs are made by. "
        "Insert a vertex first (nas.insert_vertex)."
    )
