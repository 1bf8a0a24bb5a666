"""Why a request cannot be met, and what could be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from naivenas_jax.align.problem.problem import PRODUCT, Group, Problem
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.program.milp import NoSolutionError, StoppedError
from naivenas_jax.align.solve.minimum_cost import smallest
from naivenas_jax.align.solve.solve import UnprovenError, nearest, solve
from naivenas_jax.errors import InfeasibleError, TooSmallError
from naivenas_jax.sizes.condition import Condition, Size

_MOST_REQUESTS = 12


def explain(problems: Sequence[Problem], time_limit: float | None = None) -> InfeasibleError:
    """Find a smallest set of requests and conditions that contradict one another, and the nearest sizes that do not.

    Args:
      problems: the choices of factors that may change, none of which has a solution; the first one is explained.
      time_limit: for the solver, in seconds.
    """
    limited, bare = bool(problems[0].budgets), [replace(problem, budgets=()) for problem in problems]
    if limited and not any(_feasible(problem, time_limit) for problem in bare):
        problems = bare  # it is not the budgets
    problem = problems[0]
    conflict, rows = _conflict(problem, time_limit)
    # what is near within a budget takes a search of its own
    feasible, proven = ({}, True) if limited else _nearest(problem, time_limit)
    involved = [*map(str, conflict), *map(str, rows)]
    involved += [str(budget) for budget in problem.budgets]
    lines = [f"The requested sizes cannot be had: {'; '.join(involved) or 'no request is involved'}."]
    lines += [f"Budget: {text}." for text in _tight(problems, time_limit)]
    reasons = _reasons(problem, conflict, rows)
    lines += [f"Fixed: {reason}." for reason in reasons]
    if feasible:
        found = ", ".join(f"{axis!r}: nas.to({size})" for axis, size in feasible.items())
        relaxable = conflict and all(target.exact for target in conflict)
        relax = " Or wrap the request in nas.relaxed(...)." if relaxable else ""
        lines.append(f"Nearest sizes that can: {{{found}}}.{relax}")
    elif not proven:
        lines.append("The time limit struck before the nearest sizes were found.")
    elif (problem.targets or rows) and not (limited or problem.pinned):
        what = f"ties{' and conditions' if problem.required else ''}"
        lines.append(f"No sizes at all satisfy the {what}{', whatever is requested' if problem.targets else ''}.")
    axes = dict.fromkeys([*(target.axis for target in conflict), *(axis for row in rows for axis in row.axes)])
    return InfeasibleError("\n".join(lines), tuple(axes), feasible, tuple(reasons))


def too_small(target: Target, problem: Problem, time_limit: float | None = None) -> TooSmallError:
    """For a request for less than one neuron; in ``problem`` it is one for a single neuron, which is as near to it."""
    feasible, _ = ({}, True) if problem.budgets else _nearest(problem, time_limit)
    axis, present = target.axis, target.present
    smallest = feasible.get(axis, 1)
    here = "" if smallest == 1 else f", and {smallest} is the nearest that can be had here"
    ask = f"Ask for at most {smallest - present}, for nas.relaxed(...), or remove" if smallest < present else "Remove"
    return TooSmallError(
        f"{axis!r} has {present} neurons and would be left with {target.wish}; the smallest size is 1{here}. "
        f"{ask} the vertex with nas.remove_vertex.",
        (axis,),
        feasible,
    )


def _nearest(problem: Problem, time_limit: float | None) -> tuple[dict[str, int], bool]:
    """The nearest sizes that are feasible, and whether there are no others."""
    try:
        return nearest(problem, time_limit=time_limit), True
    except NoSolutionError:
        return {}, True
    except StoppedError:
        return {}, False


def _tight(problems: Sequence[Problem], time_limit: float | None) -> list[str]:
    """For each budget how small the count can be; each without the others."""
    problem = problems[0]
    alone = "" if len(problem.budgets) == 1 else ", and no other budget,"
    found = []
    for budget in problem.budgets:
        text = f"{budget}; now it is {budget.count.at(problem.named(problem.present))}"
        try:
            least = smallest(problems, budget, time_limit)
        except StoppedError:
            text += "; the time limit struck before the smallest was found"
        else:
            text += f", and with what is fixed and asked{alone} the smallest that was found is {least}"
        found.append(text)
    return found


def _holds(problem: Problem, group: Group) -> bool:
    """Whether a group is fixed for good, and not because another factor of a product was chosen to change."""
    return group.fixed is not None and group.fixed != PRODUCT and group.fixed not in problem.resting.values()


def _conflict(problem: Problem, time_limit: float | None) -> tuple[list[Target], list[Condition]]:
    """Leave out one request or condition after the other, for as long as what remains is infeasible."""
    if len(problem.targets) + len(problem.required) > _MOST_REQUESTS:
        return [target for _, target in problem.targets], list(problem.required)
    for entry in problem.targets:
        if (entry[0], entry[1].wish) not in problem.pinned:  # the sizes of products stand and fall with it
            problem = _without(problem, "targets", entry, time_limit)
    for row in problem.required:
        problem = _without(problem, "required", row, time_limit)
    return [target for _, target in problem.targets], list(problem.required)


def _without(problem: Problem, which: str, entry: object, time_limit: float | None) -> Problem:
    """The problem without one request or condition, if that is infeasible too; else as it is."""
    rest = tuple(other for other in getattr(problem, which) if other is not entry)
    smaller = replace(problem, objectives=(), **{which: rest})  # type: ignore[arg-type]
    return problem if _feasible(smaller, time_limit) else smaller


def _feasible(problem: Problem, time_limit: float | None) -> bool:
    try:
        solve(problem, time_limit=time_limit)
    except NoSolutionError:
        return False
    except UnprovenError:  # not known to be infeasible
        return True
    return True


def _reasons(problem: Problem, conflict: list[Target], rows: list[Condition]) -> list[str]:
    """What is fixed on the rows in conflict, and on rows that share a group with them."""
    asked = {row for row, target in problem.targets if target in conflict}
    asked |= {problem.row_of[axis] for row in rows for axis in row.axes}
    asked |= {row for pair in problem.equal for row in pair if not conflict or asked & set(pair)}
    groups = {int(g) for row in asked for g in problem.rows[[row]].indices}
    if not asked:  # budgets alone: what is fixed weighs on them
        groups = {i for i, group in enumerate(problem.groups) if _holds(problem, group)}
    touching = {int(row) for g in groups for row in problem.rows[:, [g]].tocoo().coords[0]}
    nearby = groups | {int(g) for row in touching for g in problem.rows[[row]].indices}
    named = [*(target.axis for target in conflict), *(axis for row in rows for axis in row.axes)]
    found = [problem.resting.get(axis) for axis in named]
    found += [problem.groups[g].fixed for g in sorted(groups)] + [problem.groups[g].fixed for g in sorted(nearby)]
    return list(dict.fromkeys([*_limits(problem, conflict, rows), *(reason for reason in found if reason)]))[:5]


def _limits(problem: Problem, conflict: list[Target], rows: list[Condition]) -> list[str]:
    """Of what has to grow, where no more may be inserted."""
    found = [
        row
        for row, target in problem.targets
        if target in conflict and target.wish - target.present > problem.insertable[row]
    ]
    for row in rows:
        present = Size(row.terms, row.constant).at(problem.named(problem.present))
        most = sum(count * int(problem.insertable[problem.row_of[axis]]) for axis, count in row.terms if count > 0)
        if row.sense != "<=" and row.bound - present > most:
            found += [problem.row_of[axis] for axis in row.axes]
    return [
        f"at most {problem.insertable[row]} neurons may be inserted into {problem.names[row][0]!r} (max_new=)"
        for row in dict.fromkeys(found)
    ]
