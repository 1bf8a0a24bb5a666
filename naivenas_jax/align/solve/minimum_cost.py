"""The smallest count that sizes can have: what a budget that cannot be had is compared with.

Without its budgets a problem is linear in whole numbers, and a count grows with every size. So it is linearised at
some sizes, minimised, linearised again at what was found, and so on for as long as it falls. That is the smallest count
where sizes can be small independently of each other; where conditions trade one size for another there may be a smaller
one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from naivenas_jax.align.problem.budget import Budget, Polynomial
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.problem.problem import Problem
from naivenas_jax.align.program.formulate import Formulation, formulate
from naivenas_jax.align.program.milp import NoSolutionError, Point
from naivenas_jax.align.solve.solution import read, violations

_ROUNDS = 12


def smallest_count(problems: Iterable[Problem], budget: Budget, deadline: Deadline) -> int | None:
    """The smallest count of a budget that is found, of sizes that satisfy all but the budgets; None if there are none.

    Args:
      problems: the choices of factors that may change, of which any will do.
      budget: whose count is meant.
      deadline: when the time is over.

    Raises:
      StoppedError: if the time limit strikes.
    """
    return min((count for problem in problems for count in _falling(problem, budget, deadline)), default=None)


def _falling(problem: Problem, budget: Budget, deadline: Deadline) -> Iterable[int]:
    """The counts that are found from the present sizes, and from those where all are 1."""
    problem = replace(problem, budgets=(), objectives=())
    polynomial = Polynomial.of(budget, problem.row_of, {})
    formulation = formulate(problem, deadline)
    for sizes in (problem.present.astype(float), np.ones(len(problem.present))):
        last = np.inf
        for _ in range(_ROUNDS):
            try:
                x = formulation.program.minimise(_cost(problem, formulation, polynomial.gradient(sizes)))
            except NoSolutionError:
                return
            solution = read(formulation, x)
            sizes = problem.sizes(solution)
            count = budget.count.at(problem.named(sizes))
            if count >= last or violations(problem, solution):
                break
            yield count
            last = count


def _cost(problem: Problem, formulation: Formulation, gradient: dict[int, float]) -> Point:
    """What one more class of each group adds to the count, as a cost vector whose largest entry is 1."""
    by_row = np.zeros(len(problem.present))
    by_row[list(gradient)] = list(gradient.values())
    by_group = (problem.rows.T @ by_row)[formulation.free]
    cost = np.zeros(formulation.program.size)
    largest = max(np.abs(by_group).max(initial=0.0), 1.0)
    cost[formulation.kept_columns] = cost[formulation.new_columns] = by_group / largest
    return cost
