"""Why a request cannot be met, and what could be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from naivenas_jax.align.problem.deadline import NEVER, Deadline, StoppedError
from naivenas_jax.align.problem.problem import Group, Problem
from naivenas_jax.align.problem.reduction import PRODUCT
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.program.milp import NoSolutionError
from naivenas_jax.align.relations import relations
from naivenas_jax.align.solve.minimum_cost import smallest_count
from naivenas_jax.align.solve.solve import UnprovenError, nearest_sizes, solve
from naivenas_jax.errors import InfeasibleError, TooSmallError
from naivenas_jax.sizes.condition import Condition, Size

#: Of more requests and conditions than this no smallest set in conflict is looked for: all of them are named.
_MOST_REQUESTS = 12


class _Conflict(NamedTuple):
    """Requests and conditions that contradict one another; of few, none can be left out."""

    targets: Sequence[Target]
    conditions: Sequence[Condition]

    @property
    def axes(self) -> list[str]:
        """The axes that they name."""
        return [*(target.axis for target in self.targets), *(axis for one in self.conditions for axis in one.axes)]


def explain(problems: Sequence[Problem], deadline: Deadline = NEVER) -> InfeasibleError:
    """Find a smallest set of requests and conditions that contradict one another, and the nearest sizes that do not.

    Args:
      problems: the choices of factors that may change, none of which has a solution; the first one is explained.
      deadline: when the time of the whole call is over.
    """
    limited, bare = bool(problems[0].budgets), [replace(problem, budgets=()) for problem in problems]
    if limited and not any(_feasible(problem, deadline) for problem in bare):
        problems = bare  # it is not the budgets
    problem = problems[0]
    conflict = _conflict(problem, deadline)
    tied, reasons = relations(problems, conflict.targets, conflict.axes), _reasons(problem, conflict)
    if tied and len(axes := set(conflict.axes)) == 1 and axes <= problem.resting.keys():  # it says which factors change
        reasons = [reason for reason in reasons if reason not in {PRODUCT, *problem.resting.values()}]
    # what is near within a budget takes a search of its own
    feasible, proven = ({}, True) if limited else _nearest(problems, deadline)
    involved = [*map(str, conflict.targets), *map(str, conflict.conditions), *map(str, problem.budgets)]
    lines = [f"The requested sizes cannot be had: {'; '.join(involved) or 'no request is involved'}."]
    lines += [f"Budget: {text}." for text in _tight(problems, deadline)]
    lines += [f"Tied: {reason}." for reason in tied] + [f"Fixed: {reason}." for reason in reasons]
    if feasible:
        lines.append(_instead(feasible, problem, conflict))
    elif not proven:
        lines.append("The time limit struck before the nearest sizes were found.")
    elif (problem.targets or conflict.conditions) and not (limited or problem.pinned):
        what = f"ties{' and conditions' if problem.conditions else ''}"
        lines.append(f"No sizes at all satisfy the {what}{', whatever is requested' if problem.targets else ''}.")
    return InfeasibleError("\n".join(lines), tuple(dict.fromkeys(conflict.axes)), feasible, (*tied, *reasons))


def _instead(feasible: Mapping[str, int], problem: Problem, conflict: _Conflict) -> str:
    """What could be asked instead."""
    found = ", ".join(f"{axis!r}: nas.to({size})" for axis, size in feasible.items())
    if all(feasible[target.axis] == target.present for _, target in problem.targets):
        return f"No other sizes can be had than those that there are: {{{found}}}."
    relaxable = conflict.targets and all(target.exact for target in conflict.targets)
    relax = " Or wrap the request in nas.relaxed(...)." if relaxable else ""
    return f"Nearest sizes that can: {{{found}}}.{relax}"


def too_small(target: Target, problem: Problem, deadline: Deadline = NEVER) -> TooSmallError:
    """The error for a request for less than one neuron.

    Args:
      target: the request.
      problem: the problem in which it asks for one neuron instead, which is as near to it as can be.
      deadline: when the time of the whole call is over.
    """
    feasible, _ = ({}, True) if problem.budgets else _nearest([problem], deadline, change=False)
    axis, present = target.axis, target.present
    nearest = feasible.get(axis, 1)
    here = "" if nearest == 1 else f", and {nearest} is the nearest that can be had here"
    drop = f"Drop {present - nearest} at the most, {{{axis!r}: {nearest - present}}}"
    ask = f"{drop}; ask for nas.relaxed(...); or remove" if nearest < present else "Remove"
    return TooSmallError(
        f"{axis!r} has {present} neurons and would be left with {target.wish}; the smallest size is 1{here}. "
        f"{ask} the vertex with nas.remove_vertex.",
        (axis,),
        feasible,
    )


def _nearest(problems: Sequence[Problem], deadline: Deadline, change: bool = True) -> tuple[dict[str, int], bool]:
    """The nearest sizes that are feasible, and whether there are no others.

    Args:
      problems: the choices of factors that may change, of which any will do.
      deadline: when the time is over.
      change: whether the sizes that are to change have to, as far as they can. The present ones are no answer.
    """
    targets = [target for _, target in problems[0].targets]
    moving = [target for target in targets if change and target.wish != target.present]

    def found(moving: Sequence[Target]) -> dict[str, int]:
        every = [sizes for problem in problems if (sizes := _sizes_near(problem, moving, deadline)) is not None]
        return min(every, key=lambda sizes: sum(abs(sizes[one.axis] - one.wish) for one in targets), default={})

    try:
        if (sizes := found(moving)) or not moving:
            return sizes, True
        able = [one for one in moving if found([one])] if 1 < len(moving) <= _MOST_REQUESTS else []
        return found(able) or found([]), True
    except StoppedError:
        return {}, False


def _sizes_near(problem: Problem, moving: Sequence[Target], deadline: Deadline) -> dict[str, int] | None:
    """The nearest sizes that are feasible for a choice of factors, if there are any."""
    try:
        return nearest_sizes(problem, moving, time_limit=deadline.left)
    except NoSolutionError:
        return None


def _tight(problems: Sequence[Problem], deadline: Deadline) -> list[str]:
    """For each budget, how small its count can be without the other budgets."""
    problem = problems[0]
    alone = "" if len(problem.budgets) == 1 else ", and no other budget,"
    found = []
    for budget in problem.budgets:
        text = f"{budget}; now it is {budget.count.at(problem.named(problem.present))}"
        try:
            least = smallest_count(problems, budget, deadline)
        except StoppedError:
            text += "; the time limit struck before the smallest was found"
        else:
            text += f", and with what is fixed and asked{alone} the smallest that was found is {least}"
        found.append(text)
    return found


def _is_held(problem: Problem, group: Group) -> bool:
    """Whether a group is fixed for good, and not because another factor of a product was chosen to change."""
    return group.fixed is not None and group.fixed != PRODUCT and group.fixed not in problem.resting.values()


def _conflict(problem: Problem, deadline: Deadline) -> _Conflict:
    """Leave out one request or condition after the other, for as long as what remains is infeasible."""
    if len(problem.targets) + len(problem.conditions) <= _MOST_REQUESTS:
        for entry in problem.targets:
            if (entry[0], entry[1].wish) not in problem.pinned:  # the sizes of products stand and fall with it
                smaller = replace(problem, targets=tuple(each for each in problem.targets if each is not entry))
                problem = _if_infeasible(smaller, problem, deadline)
        for condition in problem.conditions:
            others = tuple(each for each in problem.conditions if each is not condition)
            problem = _if_infeasible(replace(problem, conditions=others), problem, deadline)
    return _Conflict([target for _, target in problem.targets], problem.conditions)


def _if_infeasible(smaller: Problem, problem: Problem, deadline: Deadline) -> Problem:
    """The smaller problem if that is infeasible too, else the problem as it is."""
    smaller = replace(smaller, objectives=())
    return problem if _feasible(smaller, deadline) else smaller


def _feasible(problem: Problem, deadline: Deadline) -> bool:
    """Whether a problem has a solution, or may have one: the time limit struck before that was known."""
    try:
        solve(problem, time_limit=deadline.left)
    except NoSolutionError:
        return False
    except UnprovenError:
        return True
    return True


def _reasons(problem: Problem, conflict: _Conflict) -> list[str]:
    """What is fixed on the axes in conflict, and on axes that share a group with them."""
    asked = {row for row, target in problem.targets if target in conflict.targets}
    asked |= {problem.row_of[axis] for condition in conflict.conditions for axis in condition.axes}
    asked |= {row for pair in problem.equal for row in pair if not conflict.targets or asked & set(pair)}
    groups = {int(g) for row in asked for g in problem.rows[[row]].indices}
    if not asked:  # budgets alone: what is fixed weighs on them
        groups = {i for i, group in enumerate(problem.groups) if _is_held(problem, group)}
    touching = {int(row) for g in groups for row in problem.rows[:, [g]].tocoo().coords[0]}
    nearby = groups | {int(g) for row in touching for g in problem.rows[[row]].indices}
    found = [problem.resting.get(axis) for axis in conflict.axes]
    found += [problem.groups[g].fixed for g in sorted(groups)] + [problem.groups[g].fixed for g in sorted(nearby)]
    return list(dict.fromkeys([*_limits(problem, conflict), *(reason for reason in found if reason)]))[:5]


def _limits(problem: Problem, conflict: _Conflict) -> list[str]:
    """The axes that would have to grow by more neurons than may be inserted."""
    found = [
        row
        for row, target in problem.targets
        if target in conflict.targets and target.wish - target.present > problem.insertable[row]
    ]
    for one in conflict.conditions:
        present = Size(one.terms, one.constant).at(problem.named(problem.present))
        most = sum(count * int(problem.insertable[problem.row_of[axis]]) for axis, count in one.terms if count > 0)
        if one.sense != "<=" and one.bound - present > most:
            found += [problem.row_of[axis] for axis in one.axes]
    return [
        f"at most {problem.insertable[row]} neurons may be inserted into {problem.names[row][0]!r} (max_new=)"
        for row in dict.fromkeys(found)
    ]
