"""The largest utility within budgets: solutions and bounds by prices, and branch and bound where these do not meet.

A budget is a sum of products of sizes, so the problem is not convex. From above the utility is bounded in two ways:

- by prices of the budgets (`align.bound`), without a solver. Products of the sizes of two layers are kept where they
  form a forest, as they do in a chain of layers, and all others are bounded in the logarithms of sizes, in which counts
  are convex. Where layers are many that is nearly the optimum; in small problems the totals of groups that the bound
  leaves open are counted out (`totals_search`);
- where that is not near enough, in the sizes themselves, for sizes in a box: products are replaced by their McCormick
  envelope, a linear program (`align.program.mccormick`). The box is split where the bounds are loose.

From below it is bounded by solutions: what is best at a price, and in boxes the counts are linearised at some sizes,
the mixed-integer program is solved, and the counts are linearised again at what was found, until nothing moves. Then
whatever still fits is taken back. The difference of the two bounds is the certified gap.

References:
  G. P. McCormick, Computability of global solutions to factorable nonconvex programs, Mathematical Programming, 1976.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from naivenas_jax.align.problem.deadline import Deadline, StoppedError
from naivenas_jax.align.problem.problem import Problem, Solution
from naivenas_jax.align.program.mccormick import Interval
from naivenas_jax.align.program.milp import NoSolutionError
from naivenas_jax.align.solve.budget_search import BudgetSearch, Node
from naivenas_jax.align.solve.price_search import FIRST_MOVES
from naivenas_jax.align.solve.totals_search import totals_bounds
from naivenas_jax.progress import waiting

#: So many boxes are looked at, in small problems and in others, where a few splits tell little. A number and not a
#: time, so that the solution is the same on every machine.
_SMALL_BOXES, _BOXES = 2000, 60
#: Where a user says how near is near enough, so many boxes are looked at before that is given up.
_ASKED_BOXES = 600
#: A box takes longer the more different numbers of classes groups can have: boxes times numbers are no more than this,
#: unless there are fewer boxes than that.
_WORK, _FEWEST_BOXES = 20_000_000, 10


def solve_with_budgets(
    problem: Problem, *, time_limit: float | None = None, gap: float | None = None
) -> tuple[Solution, bool]:
    """The best solution within the budgets that is found, with the gap that is proven; and if the time limit struck.

    Exact requests and conditions hold, as in `solve`; relaxed requests come as near as the search finds solutions.

    Args:
      problem: the problem.
      time_limit: in seconds.
      gap: how near to the best is near enough, as a share of the utility; the search stops there, and goes on for
        longer where it is not reached. None: small problems are solved exactly, others to a thousandth.

    Raises:
      NoSolutionError: if none was found.
      StoppedError: if the time limit, in seconds, strikes before any was found.
    """
    search = BudgetSearch(problem, Deadline.after(time_limit), gap)
    bound, stopped = math.inf, False  # the requests might be met better
    with waiting("sizes within budgets") as tell:
        try:
            search.approach()
            bound = search.most()
            for lower in _bounds(search):
                bound = min(bound, lower)
                tell(f"at most {_gap(search, bound):.2%} more utility could be kept")
                search.require_time()
        except StoppedError:
            if search.best is None:
                raise
            stopped = True
    if search.best is None:
        raise NoSolutionError
    search.offer(search.best)
    left = _gap(search, bound)
    return Solution(search.best.kept, search.best.new, left if left > 1e-9 else 0.0), stopped and left > 1e-9


def _gap(search: BudgetSearch, bound: float) -> float:
    """How much more utility than the best solution has could be kept at the most, as a share."""
    return float(max(0.0, bound - search.value) / max(abs(search.value), 1e-12))  # numpy's compare to numpy's bools


def _bounds(search: BudgetSearch) -> Iterator[float]:
    """Look for solutions; yields upper bounds of the utility of any, of which each holds."""
    if search.lagrangian.able:
        whole = search.bounded(search.lagrangian.allowed, search.begin(), FIRST_MOVES)
        yield whole.upper.utility
        if whole.upper.utility <= search.enough:
            return
        if search.small and all(target.exact for _, target in search.problem.targets):
            proven = whole.upper.utility
            for proven in totals_bounds(search, whole):
                yield proven
            if proven <= search.enough:
                return
    yield from _box_bounds(search)


def _box_bounds(search: BudgetSearch) -> Iterator[float]:
    """Branch and bound over boxes of sizes; yields lower and lower upper bounds."""
    first = _start(search)
    heap, number, points = [first], 0, -math.inf
    most = max(_FEWEST_BOXES, min(_SMALL_BOXES, _WORK // search.lagrangian.numbers)) if search.small else _BOXES
    most = max(most, _ASKED_BOXES if search.asked else 0)
    while heap and number < most:
        yield max([search.value, points, *(-node.bound for node in heap)])
        node = heapq.heappop(heap)
        if -node.bound <= search.enough:
            yield max(-node.bound, search.value, points)
            return
        if number % 10 == 0 or (number < 8 and not search.small):
            search.descend(_sizes(search, node))
        parts = _split(node)
        if not parts:
            points = max(points, min(-node.bound, search.point(node.sizes)))
        for sizes in parts:
            number += 1
            try:
                part = search.box(number, sizes, node.at, -node.bound)
            except NoSolutionError:
                continue
            if -part.bound > search.value:
                heapq.heappush(heap, part)
    yield max([search.value, points, *(-node.bound for node in heap)])


def _start(search: BudgetSearch) -> Node:
    """Solutions by linear programs, and the whole space of sizes."""
    root = search.root
    for start in search.scaled():
        search.descend(start)
    if search.best is None:
        x, _ = search.linear(root)
        search.descend(search.envelope.sizes(x, len(search.problem.present)))
        if search.best is None and not search.whole:  # rounded down, something fell below its bound
            search.whole = True
            search.descend(search.envelope.sizes(x, len(search.problem.present)))
    if search.best is not None:
        search.refine(search.best)
        at = (search.best.kept + search.best.new)[search.free.numbers].astype(float)
    else:
        at = search.totals(x)
    return search.box(0, root, at)


def _sizes(search: BudgetSearch, node: Node) -> Float[np.ndarray, " rows"]:
    """The sizes of all rows at which the bound of a box is reached."""
    sizes: np.ndarray = np.maximum(search.free.sizes(node.at), 1.0)
    return sizes


def _split(node: Node) -> tuple[dict[int, Interval], ...]:
    """Two boxes, split where most is to be gained."""
    open_rows = [row for row, (low, high) in node.sizes.items() if high - low >= 1]
    if not open_rows:
        return ()
    known = {row: node.open.get(row, (0.0, sum(node.sizes[row]) / 2)) for row in open_rows}
    row = max(open_rows, key=lambda r: (known[r][0], abs(known[r][1] - round(known[r][1])), -r))
    (low, high), at = node.sizes[row], known[row][1]
    middle = math.floor(min(max(at, low + 0.2 * (high - low)), high - 0.2 * (high - low)))
    middle = min(max(middle, math.floor(low)), math.ceil(high) - 1)
    return {**node.sizes, row: (low, float(middle))}, {**node.sizes, row: (middle + 1.0, high)}
