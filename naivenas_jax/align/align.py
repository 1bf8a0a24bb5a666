"""From ties, requests and utility to a plan for every axis: the whole of the alignment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Real

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.explain import explain, too_small
from naivenas_jax.align.layout import layout
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.align.problem.reduction import Reduction
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.align.program.milp import NoSolutionError
from naivenas_jax.align.solve.growth import gained, solve_growth
from naivenas_jax.align.solve.solution import rank, utility_lost
from naivenas_jax.align.solve.solve import UnprovenError, solvable, solve
from naivenas_jax.errors import InfeasibleError, TimeLimitError
from naivenas_jax.sizes.ties import Ties


class Alignment(NamedTuple):
    """What an alignment has decided.

    Attributes:
      axes: the plan of every axis.
      gap: within budgets, how much more utility an optimum could keep, as a share of ``kept``.
      kept: the utility of the neurons that stay, of those that might have been dropped.
      lost: the utility of those that were dropped.
    """

    axes: dict[str, AxisPlan]
    gap: float
    kept: float
    lost: float


@dataclass(frozen=True, eq=False)
class _Solved:
    """A choice of factors that may change, and its solution."""

    problem: Problem
    solution: Solution

    grown: bool

    @cached_property
    def rank(self) -> tuple[float, ...]:
        """How good the solution is; smaller is better. In growth nothing is lost, and what is gained ranks last."""
        found = rank(self.problem, self.solution)
        return (*found[:-1], -self.weighed) if self.grown else found

    @cached_property
    def weighed(self) -> float:
        """The utility that the gap of the solution is a share of: what is gained in growth, else what is kept."""
        return gained(self.problem, self.solution) if self.grown else self.kept

    @property
    def kept(self) -> float:
        """The utility that is kept of the groups that are free to change."""
        groups = zip(self.problem.groups, self.solution.kept.tolist(), strict=True)
        return float(sum(group.utility_of(kept) for group, kept in groups if not group.fixed))

    @property
    def lost(self) -> float:
        """The utility of what is dropped."""
        return utility_lost(self.problem, self.solution)


def align(
    ties: Ties,
    targets: Collection[Target],
    utility: Mapping[str, Real[np.ndarray, " _"]],
    restrictions: Restrictions,
    *,
    time_limit: float | None = None,
    grow: bool = False,
    gap: float | None = None,
) -> Alignment:
    """Choose which neurons stay and where new ones go.

    Args:
      ties: of the graph.
      targets: the requests.
      utility: for some axes the utility of each neuron, shape (size of the axis,).
      restrictions: what else limits the sizes.
      time_limit: for all that is solved here together, in seconds.
      grow: whether what is left of the budgets is spent on new neurons, and nothing is dropped.
      gap: within budgets, how near to the best is near enough; None: see `solve_with_budgets`.

    Raises:
      InfeasibleError: if no sizes satisfy the request; says why and what would.
      TooSmallError: if a request is for less than one neuron.
      TimeLimitError: if the time limit strikes; its ``best`` makes the plan of the best sizes found by then.
    """
    deadline = Deadline.after(time_limit)
    small = [one for one in targets if one.exact and one.wish < restrictions.least.get(one.axis, 1)]
    targets = [replace(target, wish=1) if target in small else target for target in targets]
    problems = Reduction(ties, targets, utility, restrictions).problems()
    if small:
        raise too_small(small[0], problems[0], deadline)
    solved, stops = _solve_all(problems, deadline, grow, gap)
    # of equal solutions that of the earlier choice
    chosen = min(solved, key=lambda each: each.rank, default=None)
    if stops:
        raise _out_of_time(ties, chosen, solved, stops)
    if chosen is None:
        raise explain(problems, deadline)
    plans = layout(ties, chosen.problem, chosen.solution)
    if chosen.problem.pinned:
        _check_combinations(plans, restrictions.insertable)
    return Alignment(plans, _gap(chosen, solved), chosen.kept, chosen.lost)


def alignable(ties: Ties, targets: Collection[Target], restrictions: Restrictions) -> bool:
    """Whether `align` finds sizes, whatever the utility is. Without budgets that is found out much faster.

    Args:
      ties: of the graph.
      targets: the requests.
      restrictions: what else limits the sizes.
    """
    problems = Reduction(ties, targets, {}, restrictions).problems()
    if not any(problem.pinned or problem.budgets for problem in problems):
        return any(solvable(problem) for problem in problems)
    try:
        align(ties, targets, {}, restrictions)
    except InfeasibleError:
        return False
    return True


def _solve_all(
    problems: Sequence[Problem], deadline: Deadline, grow: bool, gap: float | None
) -> tuple[list[_Solved], list[UnprovenError]]:
    """The problems that have solutions, and what was cut short by the time limit, with solutions or without."""
    solved: list[_Solved] = []
    stops: list[UnprovenError] = []
    solver = solve_growth if grow else solve
    for problem in problems:
        try:
            solved.append(_Solved(problem, solver(problem, time_limit=deadline.left, gap=gap), grow))
        except NoSolutionError:
            continue
        except UnprovenError as error:
            stops.append(error)
            if error.solution is not None:
                solved.append(_Solved(problem, error.solution, grow))
    return solved, stops


def _gap(chosen: _Solved, solved: Collection[_Solved]) -> float:
    """How much less utility could be lost, or more gained in growth, as a share of what is kept or gained.

    All choices count that come as near to the requests, and have objectives as small.
    """
    alike = [each for each in solved if each.rank[:-1] == chosen.rank[:-1]]
    least = min(each.rank[-1] - each.solution.gap * abs(each.weighed) for each in alike)
    gap = max(0.0, chosen.rank[-1] - least) / max(abs(chosen.weighed), 1e-12)
    return max(gap, chosen.solution.gap) if gap > 1e-9 else chosen.solution.gap


def _check_combinations(plans: Mapping[str, AxisPlan], insertable: Mapping[str, int]) -> None:
    """Where two factors of a product change, how many combinations are new is no sum of sizes, and is counted after."""
    for axis, most in insertable.items():
        if len(plans[axis].new) > most:
            raise InfeasibleError(
                f"{axis!r} would get {len(plans[axis].new)} new neurons, combinations of those of factors that change "
                f"together; at most {most} may be inserted (max_new=).",
                (axis,),
            )


def _out_of_time(
    ties: Ties, chosen: _Solved | None, solved: Collection[_Solved], stops: Sequence[UnprovenError]
) -> TimeLimitError:
    """The error for a time limit, with the best solution found by then, if there is one."""
    message = "The time limit struck before the best sizes were proven. Allow more, time_limit=."
    if chosen is None:
        return TimeLimitError(f"{message} No feasible sizes had been found.")
    gap = "; ".join(stop.gap for stop in stops if stop.solution is not None)
    open_ = any(stop.solution is None or np.isinf(stop.solution.gap) for stop in stops)
    return TimeLimitError(
        f"{message} Of the best found by then: {gap}.",
        lambda: layout(ties, chosen.problem, chosen.solution),
        gap,
        share=np.inf if open_ else _gap(chosen, solved),
    )
