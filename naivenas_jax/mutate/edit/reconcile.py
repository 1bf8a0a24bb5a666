"""Bring sizes that disagree after an edit back in line: grow the smaller, shrink the larger, or change both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from naivenas_jax.align.align import align
from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.errors import InfeasibleError, TimeLimitError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.edit.draft import Draft, StandIn
from naivenas_jax.mutate.request.defaults import kept_ends
from naivenas_jax.mutate.request.options import Options, axes_of, conditions, objectives
from naivenas_jax.sizes.condition import Condition
from naivenas_jax.typing import Variables
from naivenas_jax.utility.scores.magnitude import magnitude
from naivenas_jax.utility.user_scores import scores

#: By name, each stand-in and the producer that it stands for; None: its slot goes away.
Stands = Mapping[str, tuple[StandIn, str | None]]


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
    sizes = staged.ties.sizes
    bounds = _insertable(staged, stands, options, graph.ties.sizes)
    required, sums = conditions(options.constraints, sizes), objectives(options.minimise, sizes)
    aligns = bool(stands or required or sums)
    utility = _utility(graph, variables, stands, options, sizes, aligns)
    if not aligns:
        return dict(Plan.identity(staged.ties).axes), "none"
    edited = Graph(staged.inputs, [staged[name] for name in draft.outputs])
    restrictions = Restrictions(
        frozen=kept_ends(edited, stands, options.free_outputs),
        reached=staged.ties.reach([*stands, *_sources(stands), *axes_of(required, sums)]),
        conditions=required,
        objectives=sums,
        equal=[(name, source) for name, (_, source) in stands.items() if source],
        least=dict.fromkeys(stands, 0),
        insertable=bounds,
    )
    disagree = any(source and sizes[source] != stand.width for stand, source in stands.values())
    errors: dict[str, InfeasibleError] = {}
    for mode in options.ways:
        wanted = _targets(mode, stands, sizes)
        if wanted is None:
            continue
        try:
            aligned = align(staged.ties, wanted, utility, restrictions, time_limit=options.deadline.left)
            return aligned.axes, mode if disagree else "none"
        except TimeLimitError as error:
            raise error.then(partial(_with_way, mode if disagree else "none")) from error
        except InfeasibleError as error:
            errors[mode] = error
    reasons = dict.fromkeys(reason for error in errors.values() for reason in error.reasons if "~" not in reason)
    raise InfeasibleError(
        _impossible(stands, sizes, list(reasons), list(errors), required),
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


def _insertable(staged: Graph, stands: Stands, options: Options, before: Mapping[str, int]) -> dict[str, int]:
    """How many neurons each axis may gain.

    What a wider producer brings along is not counted on the axes that read it: the edit asks for it.
    """
    ties, sizes = staged.ties, staged.ties.sizes
    bounds = options.insertable({axis: size for axis, size in sizes.items() if axis not in stands}, also=before)
    for name, (stand, source) in stands.items():
        brought = sizes[source] - stand.width if source else 0
        for axis in staged.descendants(name) if brought > 0 and name in staged else ():
            bounds[axis] += brought * max((ties.axes[axis].count(run) for run in set(ties.axes[name])), default=0)
    return bounds


def _targets(mode: str, stands: Stands, sizes: Mapping[str, int]) -> tuple[Target, ...] | None:
    """What sizes a mode asks for; None if it asks for the impossible."""
    wanted: dict[str, Target] = {}
    for name, (stand, source) in stands.items():
        if source is None:
            wanted[name] = Target(name, stand.width, 0)
            continue
        if mode == "both":
            continue
        size = (max if mode == "grow" else min)(stand.width, sizes[source])
        if size < 1 or wanted.get(source, Target(source, 0, size)).wish != size:
            return None
        wanted[name] = Target(name, stand.width, size)
        wanted[source] = Target(source, sizes[source], size)
    return tuple(wanted.values())


def _sources(stands: Stands) -> list[str]:
    return [source for _, source in stands.values() if source]


def _with_way(way: str, axes: dict[str, AxisPlan], stop: TimeLimitError) -> tuple[dict[str, AxisPlan], str]:
    del stop
    return axes, way


def _names(stands: Stands) -> Iterator[str]:
    for stand, source in stands.values():
        yield from (name for name in (stand.heir_of, source) if name)


def _impossible(
    stands: Stands, sizes: Mapping[str, int], reasons: list[str], tried: list[str], required: tuple[Condition, ...]
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
