"""Growth to a budget: what is left of it is spent on new neurons where these have the most utility.

The utility of a neuron that does not exist yet has to be defined. Here the j-th new class of a group of N classes with
utilities ``u_1 ... u_N`` has the utility

    (u_1 + ... + u_N) / N / (1 + j),

the mean of its group, less the more have been added before it: half of the mean for the first, a third for the second.
So groups that are useful grow, none takes all, and the sum is concave as that of the neurons that are kept is.

Nothing is dropped, and what no budget counts stays as it is. The problem is that of shrinking a larger network whose
surplus is these imagined classes, with all that exists held fast, so that it is solved by the same branch and bound,
with the same certified gap.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from naivenas_jax.align.problem.problem import Group, Problem, Solution
from naivenas_jax.align.solve.solve import UnprovenError, solve
from naivenas_jax.errors import BudgetError

#: More new classes than this, of all groups, would take long and say little.
_MOST = 2_000_000
_HELD = "growth to a budget drops nothing"


def solve_growth(problem: Problem, *, time_limit: float | None = None, gap: float | None = None) -> Solution:
    """The solution that keeps everything and inserts what has the most utility within the budgets.

    Args:
      problem: the problem.
      time_limit: in seconds.
      gap: how near to the best is near enough, as for `solve`.

    Raises:
      NoSolutionError, UnprovenError: as `solve`.
      BudgetError: if there is room for more new neurons than can be weighed up.
    """
    reached = set(problem.rows[_rows(problem)].indices.tolist())
    growing = [i for i, group in enumerate(problem.groups) if not group.fixed and group.size and i in reached]

    def smaller(solution: Solution) -> Solution:
        new = np.zeros(len(problem.groups), dtype=int)
        new[growing] = solution.kept[len(problem.groups) :]
        return Solution(solution.kept[: len(problem.groups)], new, solution.gap)

    try:
        return smaller(solve(_enlarged(problem, growing), time_limit=time_limit, gap=gap))
    except UnprovenError as stop:
        raise UnprovenError(stop.solution and smaller(stop.solution), stop.gap) from stop


def gained(problem: Problem, solution: Solution) -> float:
    """The utility of the classes that a solution inserts."""
    groups = zip(problem.groups, solution.new, strict=True)
    return float(sum(_imagined(group, int(new)).utility_kept[-1] for group, new in groups if new))


def _rows(problem: Problem) -> list[int]:
    """The rows that may grow: what a budget counts, or is requested. Nothing would stop others."""
    counted = {problem.row_of[axis] for budget in problem.budgets for axis in budget.count.axes}
    return sorted(counted | {row for row, _ in problem.targets})


def _enlarged(problem: Problem, growing: list[int]) -> Problem:
    """The same network with as many imagined classes beside each group as could be inserted there."""
    rooms = [_room(problem, g) for g in growing]
    if sum(rooms) > _MOST:
        raise BudgetError(
            f"The budgets leave room for {max(rooms)} new neurons in one group of tied ones; growth weighs up {_MOST} "
            "at the most, of all groups. Set lower budgets, or max_new=, how many may be inserted into an axis."
        )
    surplus = [_imagined(problem.groups[g], room) for g, room in zip(growing, rooms, strict=True)]
    rows = sp.csr_array(sp.hstack([problem.rows, problem.rows[:, growing]]))
    groups = (*(replace(group, fixed=group.fixed or _HELD) for group in problem.groups), *surplus)
    present = (rows @ np.array([group.size for group in groups])).astype(np.int64)
    return replace(problem, groups=groups, rows=rows, present=present, insertable=np.zeros_like(problem.insertable))


def _imagined(group: Group, count: int) -> Group:
    """The classes that do not exist yet beside a group."""
    mean = float(group.utility_kept[-1]) / group.size
    return Group(classes=np.arange(count), scores=mean / (1.0 + np.arange(1, count + 1)), fixed=None)


def _room(problem: Problem, group: int) -> int:
    """How many classes may be inserted into a group if none are into the others: no solution has more."""
    column = problem.rows[:, [group]].tocoo()
    high = int(min(problem.insertable[column.coords[0]] // column.data, default=0))
    low, kept = 0, np.array([each.size for each in problem.groups])

    def fits(count: int) -> bool:
        new = np.zeros_like(kept)
        new[group] = count
        named = problem.named(problem.sizes(Solution(kept, new)))
        return all(budget.holds(named) for budget in problem.budgets)

    if fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
