"""An answer of the reduced problem: read from a solution, checked, and compared with others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from naivenas_jax.align.problem.problem import Group, Problem
from naivenas_jax.align.program.concave_utility import segments
from naivenas_jax.align.program.formulate import Formulation


@dataclass(frozen=True, eq=False)
class Answer:
    """How many of each group are kept, and how many are inserted into it; both of shape (groups,).

    Attributes:
      gap: within a budget the utility that an optimum could keep at the most beyond this, as a share of it.
    """

    kept: np.ndarray
    new: np.ndarray
    gap: float = 0.0


def read(formulation: Formulation, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers of a solution, for all groups."""
    kept, new = formulation.fixed_kept.copy(), np.zeros_like(formulation.fixed_kept)
    kept[formulation.free] = x[formulation.kept_columns].round().astype(int)
    new[formulation.free] = x[formulation.new_columns].round().astype(int)
    return kept, new


def write_segments(
    problem: Problem, formulation: Formulation, focus: list[tuple[int, ...]], scale: float
) -> np.ndarray:
    """Put segments of the worth into the program; returns their slopes as a cost vector."""
    slopes = np.zeros(formulation.program.size)
    for group, columns in formulation.segment_columns.items():
        lengths, values = segments(problem.groups[group], focus[group], len(columns))
        slopes[columns] = values / scale
        formulation.program.set_upper(columns, lengths)
    columns = formulation.all_segments
    if columns.size:
        formulation.program.set_row(formulation.worth_row, columns, -slopes[columns])
    return slopes


def scale_of(groups: list[Group]) -> float:
    """The largest utility of a class."""
    return max((float(np.abs(group.utility).max(initial=0.0)) for group in groups), default=0.0) or 1.0


def worth(groups: list[Group], kept: np.ndarray) -> float:
    return float(sum(group.worth[k] for group, k in zip(groups, kept, strict=True)))


def violations(problem: Problem, answer: Answer) -> list[str]:
    """Every constraint that an answer breaks, in integers and words. Empty: it may be used."""
    sizes = problem.sizes(answer.kept, answer.new)
    inserted = problem.rows @ answer.new
    found = []
    for i, (group, kept, new) in enumerate(zip(problem.groups, answer.kept, answer.new, strict=True)):
        if not 0 <= kept <= group.size or new < 0:
            found.append(f"group {i} of {group.size} keeps {kept} and inserts {new}")
        if group.fixed and (kept != group.size or new):
            found.append(f"group {i} may not change: {group.fixed}")
    touched = np.flatnonzero((sizes < problem.least) | (inserted > problem.insertable))
    found += [f"{problem.names[row][0]!r} has size {sizes[row]:g}, {inserted[row]:g} inserted" for row in touched]
    for row, target in problem.targets:
        if target.exact and sizes[row] != target.wish:
            found.append(f"{target.axis!r} has size {sizes[row]:g} and not {target.wish}")
        if not target.exact and target.wish != target.present and sizes[row] == target.present:
            found.append(f"{target.axis!r} was to change and keeps its size {target.present}")
    found += [
        f"{problem.names[a][0]!r} and {problem.names[b][0]!r} must be equal and are {sizes[a]:g} and {sizes[b]:g}"
        for a, b in problem.equal
        if sizes[a] != sizes[b]
    ]
    found += [f"{problem.names[row][0]!r} must be {size}" for row, size in problem.pinned if sizes[row] != size]
    named = problem.named(sizes)
    found += [f"{row} does not hold for {named}" for row in problem.required if not row.holds(named)]
    found += [f"{budget} is exceeded" for budget in problem.budgets if not budget.holds(named)]
    return found


def rank(problem: Problem, answer: Answer) -> tuple[float, ...]:
    """How good an answer is; smaller is better: nearer to the requests, smaller objectives, losing less utility."""
    sizes = problem.sizes(answer.kept, answer.new)
    named = problem.named(sizes)
    goals = [float(objective.at(named)) for objective in problem.objectives]
    lost = sum(group.worth[-1] - group.worth[kept] for group, kept in zip(problem.groups, answer.kept, strict=True))
    return distance(problem, answer), *goals, float(lost)


def distance(problem: Problem, answer: Answer) -> float:
    """How far sizes are from the requested ones, in all."""
    sizes = problem.sizes(answer.kept, answer.new)
    return float(sum(abs(sizes[row] - target.wish) for row, target in problem.targets))
