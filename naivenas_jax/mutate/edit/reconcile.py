"""Bring sizes that disagree after an edit back in line: grow the smaller, shrink the larger, or change both."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial

import numpy as np

from naivenas_jax.align.align import align
from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import InfeasibleError, TimeLimitError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.rules.draft import Draft
from naivenas_jax.mutate.rules.size_problem import SizeProblem, Stands
from naivenas_jax.sizes.condition import Condition
from naivenas_jax.typing import Variables
from naivenas_jax.utility.scores.magnitude import magnitude
from naivenas_jax.utility.user_scores import scores


def reconcile(
    graph: Graph, variables: Variables, draft: Draft, staged: Graph, stands: Stands, options: Options
) -> tuple[dict[str, AxisPlan], str]:
    """Find sizes for which every stand-in is as wide as its producer.

    Returns:
      The plan of every axis of ``staged``, and which way of aligning it took.

    Raises:
      InfeasibleError: if no way leads to sizes that satisfy all ties.
      TimeLimitError: if the time limit strikes; its ``best`` makes what this function would have returned.
    """
    sizes, problem = staged.ties.sizes, SizeProblem.of(graph, draft, staged, stands, options)
    utility = _utility(graph, variables, stands, options, sizes, not problem.empty)
    if problem.empty:
        return dict(Plan.identity(staged.ties).axes), "none"
    errors: dict[str, InfeasibleError] = {}
    for way, wanted in problem.attempts():
        told = way if problem.disagree else "none"
        try:
            aligned = align(staged.ties, wanted, utility, problem.restrictions, time_limit=options.deadline.left)
            return aligned.axes, told
        except TimeLimitError as error:
            raise error.then(partial(_with_way, told)) from error
        except InfeasibleError as error:
            errors[way] = error
    reasons = dict.fromkeys(reason for error in errors.values() for reason in error.reasons if "~" not in reason)
    raise InfeasibleError(
        _impossible(stands, sizes, list(reasons), list(errors), problem.restrictions.conditions),
        tuple(_names(stands)),
        reasons=tuple(reasons),
    )


def _utility(
    graph: Graph,
    variables: Variables,
    stands: Stands,
    options: Options,
    sizes: Mapping[str, int],
    needed: bool,
) -> dict[str, np.ndarray]:
    """Scores of the staged graph's axes; a stand-in has those of the producer that it is heir of."""
    given = scores(options.utility, graph.ties.sizes) if options.utility is not None else {}
    if options.utility is None and needed:
        given = magnitude(graph, variables)
    heirs = {name: given[stand.heir_of] for name, (stand, _) in stands.items() if stand.heir_of in given}
    return {axis: value for axis, value in {**given, **heirs}.items() if len(value) == sizes.get(axis)}


def _with_way(way: str, axes: dict[str, AxisPlan], stop: TimeLimitError) -> tuple[dict[str, AxisPlan], str]:
    del stop
    return axes, way


def _names(stands: Stands) -> Iterator[str]:
    for stand, source in stands.values():
        yield from (name for name in (stand.heir_of, source) if name)


def _impossible(
    stands: Stands, sizes: Mapping[str, int], reasons: list[str], tried: list[str], required: Collection[Condition]
) -> str:
    wanted = "; ".join(
        f"{source!r} (now {sizes[source]}) must become as wide as the place it takes (now {stand.width})"
        for stand, source in stands.values()
        if source
    )
    lines = [
        "The edit is impossible, because no sizes satisfy all ties afterwards: "
        f"{wanted or 'a slot cannot be emptied'}. The old graph stands.",
        *(f"Fixed: {reason}." for reason in reasons),
        *(f"Required: {row}." for row in required),
    ]
    if not reasons and "both" in tried:
        lines.append("Nothing is fixed there: some size would depend on itself (a size cycle), or not divide.")
    elif "both" not in tried:
        lines.append(f"Tried: align={', '.join(map(repr, tried)) or 'nothing'}; align='auto' tries all there is.")
    lines.append("What always works is a layer of the right width in between: nas.insert_vertex.")
    return "\n".join(lines)
