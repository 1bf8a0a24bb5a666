"""Solutions of the reduced problem: read from a point of the program, checked, and compared with others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Real

from naivenas_jax.align.problem.problem import Group, Problem, Solution
from naivenas_jax.align.program.concave_utility import segments
from naivenas_jax.align.program.formulate import Formulation
from naivenas_jax.align.program.milp import Point


def read(formulation: Formulation, x: Point) -> Solution:
    """The whole numbers of a point of the program, for all groups."""
    kept, new = formulation.fixed_kept.copy(), np.zeros_like(formulation.fixed_kept)
    kept[formulation.free] = x[formulation.kept_columns].round().astype(int)
    new[formulation.free] = x[formulation.new_columns].round().astype(int)
    return Solution(kept, new)


def write_segments(problem: Problem, formulation: Formulation, focus: Sequence[tuple[int, ...]], scale: float) -> Point:
    """Put the segments of the utility of each group into the program.

    Args:
      problem: the problem.
      formulation: its program.
      focus: for each group the numbers of kept neurons at which its segments are exact.
      scale: utilities are divided by it.

    Returns:
      The utility of a neuron in each column, scaled; what is minimised is its negative.
    """
    slopes = np.zeros(formulation.program.size)
    for group, columns in formulation.segment_columns.items():
        lengths, values = segments(problem.groups[group], focus[group], len(columns))
        slopes[columns] = values / scale
        formulation.program.set_upper(columns, lengths)
    columns = formulation.all_segments
    if columns.size:
        formulation.program.set_row(formulation.utility_row, columns, -slopes[columns])
    return slopes


def scale_of(groups: Sequence[Group]) -> float:
    """The largest utility of a class."""
    return max((float(np.abs(group.utility).max(initial=0.0)) for group in groups), default=0.0) or 1.0


def utility_kept(groups: Sequence[Group], kept: Int[np.ndarray, " groups"]) -> float:
    """The utility of the classes that are kept of some groups."""
    return float(sum(group.utility_kept[k] for group, k in zip(groups, kept, strict=True)))


def utility_lost(problem: Problem, solution: Solution) -> float:
    """The utility of the classes that a solution drops."""
    groups = [problem.groups[i] for i in np.flatnonzero(solution.kept != problem.group_sizes)]
    kept = solution.kept[solution.kept != problem.group_sizes]
    pairs = zip(groups, kept.tolist(), strict=True)
    return float(sum(group.utility_of(group.size) - group.utility_of(k) for group, k in pairs))


def violations(problem: Problem, solution: Solution) -> list[str]:
    """Every constraint that a solution breaks, in integers and words. Empty: it may be used."""
    sizes = problem.sizes(solution)
    return [*_of_groups(problem, solution), *_of_rows(problem, solution, sizes), *_of_conditions(problem, sizes)]


def _of_groups(problem: Problem, solution: Solution) -> list[str]:
    """What breaks the bounds of groups."""
    size, fixed, kept, new = problem.group_sizes, problem.group_fixed, solution.kept, solution.new
    outside, changed = (kept < 0) | (kept > size) | (new < 0), fixed & ((kept != size) | (new != 0))
    found = [f"group {i} of {size[i]} keeps {kept[i]} and inserts {new[i]}" for i in np.flatnonzero(outside)]
    return [*found, *(f"group {i} may not change: {problem.groups[i].fixed}" for i in np.flatnonzero(changed))]


def _of_rows(problem: Problem, solution: Solution, sizes: Real[np.ndarray, " rows"]) -> list[str]:
    """What breaks the bounds of sizes, or a request."""
    inserted = problem.rows @ solution.new
    broken = np.flatnonzero((sizes < problem.least) | (inserted > problem.insertable))
    found = [f"{problem.names[row][0]!r} has size {sizes[row]:g}, {inserted[row]:g} inserted" for row in broken]
    for row, target in problem.targets:
        if target.exact and sizes[row] != target.wish:
            found.append(f"{target.axis!r} has size {sizes[row]:g} and not {target.wish}")
        if not target.exact and target.wish != target.present and sizes[row] == target.present:
            found.append(f"{target.axis!r} was to change and keeps its size {target.present}")
    return found


def _of_conditions(problem: Problem, sizes: Real[np.ndarray, " rows"]) -> list[str]:
    """What breaks an equality of sizes, a condition or a budget."""
    found = [
        f"{problem.names[a][0]!r} and {problem.names[b][0]!r} must be equal and are {sizes[a]:g} and {sizes[b]:g}"
        for a, b in problem.equal
        if sizes[a] != sizes[b]
    ]
    found += [f"{problem.names[row][0]!r} must be {size}" for row, size in problem.pinned if sizes[row] != size]
    named = problem.named(sizes)
    found += [
        f"{condition} does not hold for {named}" for condition in problem.conditions if not condition.holds(named)
    ]
    return [*found, *(f"{budget} is exceeded" for budget in problem.budgets if not budget.holds(named))]


def rank(problem: Problem, solution: Solution) -> tuple[float, ...]:
    """How good a solution is; smaller is better: nearer to the requests, smaller objectives, losing less utility."""
    sizes = problem.sizes(solution)
    named = problem.named(sizes) if problem.objectives else {}
    goals = [float(objective.at(named)) for objective in problem.objectives]
    return _distance(problem, sizes), *goals, utility_lost(problem, solution)


def distance(problem: Problem, solution: Solution) -> float:
    """How far sizes are from the requested ones, in all."""
    return _distance(problem, problem.sizes(solution))


def _distance(problem: Problem, sizes: Real[np.ndarray, " rows"]) -> float:
    return float(sum(abs(sizes[row] - target.wish) for row, target in problem.targets))
