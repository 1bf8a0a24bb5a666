"""The reduced problem written as columns and rows of a linear program."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.problem.problem import Problem
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.program.builder import Builder
from naivenas_jax.align.program.mccormick import Box, Envelope
from naivenas_jax.align.program.milp import IntegerProgram, Point


class Goal(NamedTuple):
    """What a step minimises.

    Attributes:
      cost: of each column.
      row: the inequality that holds the result for later steps.
    """

    cost: Point
    row: int

    @classmethod
    def of(cls, program: IntegerProgram, terms: Mapping[int, float], row: int) -> Goal:
        """A goal from the columns that have a cost."""
        cost = np.zeros(program.size)
        cost[list(terms)] = list(terms.values())
        return cls(cost, row)


@dataclass(frozen=True, eq=False, kw_only=True)
class Formulation:
    """A program, and where to find things in it.

    Attributes:
      program: the linear program.
      free: groups that may change; only these have columns.
      kept_columns: for each free group the column of how many are kept.
      new_columns: for each free group the column of how many are inserted.
      segment_columns: for each free group the columns of its segments.
      all_segments: all of these; a column that is always 0 if there are none.
      fixed_kept: shape (groups,): what is kept of the groups that may not change, 0 for the others.
      distance: how far sizes are from relaxed requests; None if there are none.
      backward: how far they are on the wrong side of these; None if there are none.
      objectives: the sums of sizes to be minimised.
      utility_row: the inequality that holds the utility for later steps.
      change: how many neurons are dropped and inserted.
      order: the cost by which equal changes are told apart.
      envelope: what stands for the counts of budgets.
      box: the bounds of the sizes in them.
    """

    program: IntegerProgram
    free: Int[np.ndarray, " free"]
    kept_columns: Int[np.ndarray, " free"]
    new_columns: Int[np.ndarray, " free"]
    segment_columns: dict[int, Int[np.ndarray, " _"]]
    all_segments: Int[np.ndarray, " _"]
    fixed_kept: Int[np.ndarray, " groups"]
    distance: Goal | None
    backward: Goal | None
    objectives: tuple[Goal, ...]
    utility_row: int
    change: Goal
    order: Point
    envelope: Envelope
    box: Box


def formulate(
    problem: Problem,
    deadline: Deadline,
    *,
    elastic: bool = False,
    moving: Collection[Target] = (),
    segment_count: int = 16,
) -> Formulation:
    """Write the problem down.

    Args:
      problem: the problem.
      deadline: when the time for all steps together is over.
      elastic: whether exact requests become wishes that need not be met.
      moving: if so, the requests that have to change a size all the same.
      segment_count: the most segments of the utility of a group.
    """
    builder = _constrained(problem, segment_count)
    envelope, box = builder.limit()
    objectives = [builder.sum_terms(objective.terms)[0] for objective in problem.objectives]
    distance, backward = _requests(builder, elastic, moving)
    change, widest = _changes(builder)
    # what a step has come to is held by a row for the later ones
    rows = [builder.below.add(terms, np.inf) if terms else -1 for terms in (distance, backward, *objectives, change)]
    segments = [int(c) for columns in builder.segments.values() for c in columns] or [builder.zero()]
    utility_row = builder.below.add(dict.fromkeys(segments, 1.0), np.inf)
    program = IntegerProgram(builder.columns, builder.equal, builder.below, deadline)
    envelope.within(program, box)
    return Formulation(
        program=program,
        free=builder.free,
        kept_columns=np.array(builder.kept, dtype=int),
        new_columns=np.array(builder.new, dtype=int),
        segment_columns=builder.segments,
        all_segments=np.array(segments, dtype=int),
        fixed_kept=builder.fixed_kept,
        distance=Goal.of(program, distance, rows[0]) if distance else None,
        backward=Goal.of(program, backward, rows[1]) if backward else None,
        objectives=tuple(Goal.of(program, *each) for each in zip(objectives, rows[2:-1], strict=True)),
        utility_row=utility_row,
        change=Goal.of(program, change, rows[-1]),
        order=_order(builder, widest, program.size),
        envelope=envelope,
        box=box,
    )


def _constrained(problem: Problem, segment_count: int) -> Builder:
    """What holds whatever is requested: bounds, ties and conditions."""
    builder = Builder(problem, segment_count)
    builder.bounds()
    builder.agree()
    for number, size in problem.pinned:
        builder.exactly(number, size)
    for condition in problem.conditions:
        builder.require(condition)
    return builder


def _requests(builder: Builder, elastic: bool, moving: Collection[Target]) -> tuple[dict[int, float], dict[int, float]]:
    """Rows of the requests.

    Returns:
      The cost of all distances from relaxed requests, and of those against the direction of the wish.
    """
    distance: list[int] = []
    backward: list[int] = []
    for row, target in builder.problem.targets:
        if target.exact and not elastic:
            builder.exactly(row, target.wish)
            continue
        must_change = target.wish != target.present and (not elastic or target in moving)
        above, below = builder.about(row, target, must_change)
        distance += [above, below]
        if target.wish != target.present:
            backward.append(below if target.wish > target.present else above)
    return dict.fromkeys(distance, 1.0), dict.fromkeys(backward, 1.0)


def _changes(builder: Builder) -> tuple[dict[int, float], int]:
    """What is dropped and inserted, ``(N - y) + w`` for every free group, less the constant N.

    Returns:
      The cost of each y and w, which is the number of axes that the group lies on; and a column above all changes.
    """
    problem = builder.problem
    axes = problem.rows.astype(bool).T @ np.array([len(names) for names in problem.names])
    widest = builder.columns.add(np.inf)
    change = {widest: 0.0}
    for group, kept, new in zip(builder.free, builder.kept, builder.new, strict=True):
        change[kept], change[new] = -float(axes[group]), float(axes[group])
        builder.below.add({kept: -1.0, new: 1.0, widest: -1.0}, -problem.groups[group].size)
    return change, widest


def _order(builder: Builder, widest: int, size: int) -> Point:
    """Few insertions; a small largest change; changes early in the graph, as far as the numbers resolve it."""
    cost = np.zeros(size)
    cost[builder.new] = 1.0
    bound = float(max((g.size for g in builder.problem.groups), default=1)) + 1.0
    cost[widest] = 0.4 / bound
    rank = np.arange(1, len(builder.free) + 1) / (len(builder.free) + 1)
    early = 0.1 / bound * rank / max(len(builder.free), 1)
    cost[builder.new] += early
    cost[builder.kept] -= early
    return cost
