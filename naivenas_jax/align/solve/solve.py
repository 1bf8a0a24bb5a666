"""Solve the reduced problem, in the promised order.

1. requests: the exact ones hold, the relaxed ones come as near as they can (sum of the distances; of sizes that are
   equally near, those further in the direction of the wish);
2. objectives, where any are given: each as small as can be, one after the other;
3. utility: the largest total that can be kept, where differences below 1e-7 of the largest utility count as equal;
4. change: as few neurons as possible are dropped or inserted beyond that, each counted once per axis that it lies on,
   so that what need not change does not; then the fewest are inserted, the largest change is smallest (it is spread),
   and changes fall on the earlier vertices.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from naivenas_jax.align.problem.deadline import NEVER, Deadline, StoppedError
from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.program.formulate import Formulation, Goal, formulate
from naivenas_jax.align.program.milp import NoSolutionError, Point
from naivenas_jax.align.solve.branch_and_bound import solve_with_budgets
from naivenas_jax.align.solve.one_condition import within_one_condition
from naivenas_jax.align.solve.solution import rank, read, scale_of, utility_kept, violations, write_segments
from naivenas_jax.errors import SolverError
from naivenas_jax.progress import waiting

_SEGMENTS = 16
_ROUNDS = 12
#: How far a later step may fall behind a whole number that an earlier one has found. Above the tolerance of the
#: solver, or it would find a contradiction; far below that of the utility, which grows when sizes are bent by it.
_SLACK = 1e-8


class UnprovenError(Exception):
    """The time limit struck first. Internal: callers turn it into a `TimeLimitError`.

    Attributes:
      solution: the best found by then that breaks no constraint, or None.
      gap: how far it may be from the optimum, in words.
    """

    def __init__(self, solution: Solution | None, gap: str):
        super().__init__(gap)
        self.solution, self.gap = solution, gap


def solve(problem: Problem, *, time_limit: float | None = None, gap: float | None = None) -> Solution:
    """The optimum of the reduced problem.

    Args:
      problem: the problem.
      time_limit: in seconds.
      gap: within budgets, how near to the best is near enough; None: see `solve_with_budgets`.

    Raises:
      NoSolutionError: if there is none.
      UnprovenError: if the time limit, in seconds, strikes first.
    """
    apart = _apart(problem)
    if not violations(problem, apart) and _wishes_met(problem, apart) and not problem.objectives:
        return apart  # every group at its own best: nothing can be better
    if problem.budgets:
        return _within(problem, time_limit, gap)
    deadline = Deadline.after(time_limit)
    if not problem.objectives and (found := within_one_condition(problem, deadline)) is not None:
        return _unless_stopped(found, deadline)
    largest = max(group.size for group in problem.groups)
    with waiting("sizes"):
        solution = _solve(problem, deadline, _SEGMENTS) or _solve(problem, deadline, largest)
    if solution is None:
        raise SolverError(
            "The linear pieces of the utility could not be refined to an exact solution; nothing was changed."
        )
    broken = violations(problem, solution)
    if broken:
        raise SolverError(f"The solver's solution breaks a constraint: {broken[0]}. Nothing was changed.")
    return solution


def _unless_stopped(solution: Solution, deadline: Deadline) -> Solution:
    """A solution, unless the time limit was what left a gap."""
    if solution.gap and deadline.is_over:
        raise UnprovenError(solution, f"at the most {solution.gap:.2%} more utility could be kept")
    return solution


def solvable(problem: Problem) -> bool:
    """Whether a problem without budgets has any solution; which one is the best is not asked."""
    if _evident(problem):
        return True
    program = formulate(problem, NEVER).program
    try:
        program.minimise(np.zeros(program.size))
    except NoSolutionError:
        return False
    return True


def _within(problem: Problem, time_limit: float | None, gap: float | None) -> Solution:
    """The best solution within budgets."""
    try:
        solution, stopped = solve_with_budgets(problem, time_limit=time_limit, gap=gap)
    except StoppedError as stop:
        raise UnprovenError(None, "") from stop
    if broken := violations(problem, solution):
        raise SolverError(f"The solution within the budgets breaks a constraint: {broken[0]}. Nothing was changed.")
    if stopped:
        known = f"at the most {solution.gap:.2%} more utility could be kept" if np.isfinite(solution.gap) else ""
        raise UnprovenError(solution, known or "the requests could perhaps be met better")
    return solution


def _apart(problem: Problem) -> Solution:
    """Every group at its own best, as if there were no other. Those that fill a requested row alone have its size."""
    kept, new = np.array([group.own_best for group in problem.groups], int), np.zeros(len(problem.groups), int)
    total = np.array([group.size for group in problem.groups])
    free = np.array([not group.fixed for group in problem.groups])
    for row, target in problem.targets:
        start, stop = problem.rows.indptr[row : row + 2]
        groups, counts = problem.rows.indices[start:stop], problem.rows.data[start:stop]
        alone = free[groups]
        if np.count_nonzero(alone) == 1:
            rest = target.wish - counts[~alone] @ total[groups[~alone]]
            group, wanted = int(groups[alone][0]), max(0, int(rest // counts[alone][0]))
            kept[group] = min(wanted, problem.groups[group].own_best)
            new[group] = wanted - kept[group]
    return Solution(kept, new)


def _evident(problem: Problem) -> list[Solution]:
    """What is a solution without any search: every group at its own best, or unchanged. Often neither is."""
    unchanged = Solution(np.array([group.size for group in problem.groups]), np.zeros(len(problem.groups), int))
    return [solution for solution in (_apart(problem), unchanged) if not violations(problem, solution)]


def _solve(problem: Problem, deadline: Deadline, segment_count: int) -> Solution | None:
    formulation, step = formulate(problem, deadline, segment_count=segment_count), "requests"
    try:
        x = _nearest_requests(formulation)
        step = "objectives"
        x = _smallest_objectives(formulation, x)
        step = "utility"
        return _most_utility_least_change(problem, formulation)
    except StoppedError as stop:
        raise _unproven(problem, formulation, step, stop.bound) from stop
    except NoSolutionError as error:
        if not (step == "utility" and x is not None) and not _evident(problem):
            raise
        raise SolverError("HiGHS finds no solution where there is one; nothing was changed.") from error


def nearest_sizes(
    problem: Problem, moving: Collection[Target] = (), *, time_limit: float | None = None
) -> dict[str, int]:
    """Sizes that are feasible and as near to all requests as can be, exact or not.

    Args:
      problem: the problem.
      moving: the requests that have to change a size.
      time_limit: in seconds.

    Raises:
      NoSolutionError: if there are none.
      StoppedError: if the time limit strikes.
    """
    formulation = formulate(problem, Deadline.after(time_limit), elastic=True, moving=moving)
    x = _nearest_requests(formulation)
    if x is None:
        x = formulation.program.minimise(np.zeros(formulation.program.size))
    sizes = problem.sizes(read(formulation, x))
    return {target.axis: int(sizes[row]) for row, target in problem.targets}


def _nearest_requests(formulation: Formulation) -> Point | None:
    """Step 1. Fixes the total distance for the later steps."""
    if formulation.distance is None:
        return None
    x = _step(formulation, formulation.distance, None)
    if round(float(formulation.distance.cost @ x)) and formulation.backward is not None:
        x = _step(formulation, formulation.backward, x)
    return x


def _step(formulation: Formulation, goal: Goal, known: Point | None) -> Point:
    """Minimise a goal, which is a whole number, and hold what it has come to for the later steps."""
    x = formulation.program.minimise(goal.cost, known)
    formulation.program.set_bound(goal.row, round(float(goal.cost @ x)) + _SLACK)
    return x


def _smallest_objectives(formulation: Formulation, x: Point | None) -> Point | None:
    """Step 2. Fixes what each objective has come to for the later steps."""
    for objective in formulation.objectives:
        x = _step(formulation, objective, x)
    return x


def _most_utility_least_change(problem: Problem, formulation: Formulation) -> Solution | None:
    """Steps 3 and 4. Segments overestimate the utility where they are not exact; they are refined where it matters.

    None: not exact after many refinements, for want of segments.
    """
    focus: list[tuple[int, ...]] = [() for _ in problem.groups]
    # only what is free: the rest may have so much utility that differences drown in it
    free = [problem.groups[g] for g in formulation.free]
    scale = scale_of(free)
    tolerance, best, program = 1e-7 * scale, -np.inf, formulation.program
    for _ in range(_ROUNDS):
        slopes = write_segments(problem, formulation, focus, scale)
        program.set_bound(formulation.utility_row, np.inf)
        x = program.minimise(-slopes)
        solution = read(formulation, x)
        best = max(best, utility_kept(free, solution.kept[formulation.free]))
        if float(slopes @ x) * scale <= best + tolerance:
            program.set_bound(formulation.utility_row, -(best - tolerance) / scale)
            solution = _least_change(formulation, x)
            if utility_kept(free, solution.kept[formulation.free]) >= best - 2 * tolerance:
                return solution
        focus = [(*points, int(k)) for points, k in zip(focus, solution.kept, strict=True)]
    return None


def _least_change(formulation: Formulation, x: Point) -> Solution:
    """Step 4."""
    x = _step(formulation, formulation.change, x)
    x = formulation.program.minimise(formulation.order, x)
    formulation.program.set_bound(formulation.change.row, np.inf)
    return read(formulation, x)


def _wishes_met(problem: Problem, solution: Solution) -> bool:
    """Whether all requests are met, the relaxed ones too."""
    sizes = problem.sizes(solution)
    return all(sizes[row] == target.wish for row, target in problem.targets)


def _unproven(problem: Problem, formulation: Formulation, step: str, bound: float) -> UnprovenError:
    """The best point found before the time limit struck, checked like any other."""
    found = [read(formulation, x) for x in reversed(formulation.program.found)]
    sound = [*(solution for solution in found if not violations(problem, solution)), *_evident(problem)]
    if not sound:
        return UnprovenError(None, "")
    best = min(sound, key=lambda solution: rank(problem, solution))
    distance, unknown = rank(problem, best)[0], replace(best, gap=np.inf)
    if step == "requests":
        least = max(0, int(np.ceil(bound - 1e-6))) if np.isfinite(bound) else 0
        return UnprovenError(
            unknown, f"the requests are missed by {distance:g} neurons in all, at the least by {least}"
        )
    if step == "objectives":
        return UnprovenError(unknown, "the requests are met as well as can be, the objectives perhaps not")
    free = [problem.groups[g] for g in formulation.free]
    most = sum(float(group.utility_kept[group.own_best]) for group in free)
    most = min(most, -bound * scale_of(free)) if np.isfinite(bound) else most
    kept = utility_kept(free, best.kept[formulation.free])
    gap = max(most - kept, 0.0) / max(abs(kept), 1e-12)  # 0: the utility is proven, the least change is not
    words = f"the utility kept is {kept:.6g}, and could be {max(most, kept):.6g} at the most"
    return UnprovenError(replace(best, gap=gap if gap > 1e-9 else 0.0), words)
