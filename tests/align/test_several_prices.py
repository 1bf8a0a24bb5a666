"""Several budgets at once: their prices are found together, also where the budgets count nearly the same."""

from itertools import pairwise

import numpy as np
import pytest

from naivenas_jax.align.bound.price_cuts import Priced, lowest
from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.align.problem.deadline import NEVER
from naivenas_jax.align.problem.reduction import Reduction
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.align.program import milp
from naivenas_jax.align.solve.budget_search import BudgetSearch
from naivenas_jax.align.solve.solve import solve
from naivenas_jax.sizes.count import Count
from naivenas_jax.sizes.tying import Tying


def chain(layers, width, shares, seed=0):
    """Layers of one width with multiplications, parameters (biases too) and sizes as budgets."""
    rng, names, tying = np.random.default_rng(seed), [f"v{i}" for i in range(layers)], Tying()
    for name in names:
        within = tying.within(name)
        within.axis(within.new(width))
    macs = Count.total(Count.axis(a) * Count.axis(b) for a, b in pairwise(names))
    sizes = Count.total(map(Count.axis, names))
    present = dict.fromkeys(names, width)
    counts = (macs, macs + sizes, sizes)
    budgets = [Budget(str(i), c, int(s * c.at(present))) for i, (c, s) in enumerate(zip(counts, shares, strict=False))]
    scores = {name: rng.uniform(size=width) for name in names}
    given = Restrictions(budgets=budgets, insertable=dict.fromkeys(names, 0))
    return Reduction(tying.freeze(), (), scores, given).problems()[0]


@pytest.mark.parametrize("shares", [(0.4, 0.5), (0.5, 0.45), (0.5, 0.5, 0.7), (0.9, 0.5, 0.55)])
def test_the_bound_is_the_least_over_all_prices(shares):
    problem = chain(20, 4, shares)
    search = BudgetSearch(problem, NEVER)
    relaxation = search.lagrangian.relaxed(search.lagrangian.allowed, search.begin())
    upper, _ = relaxation.least(np.zeros(len(shares)))
    rng = np.random.default_rng(1)
    near = upper.prices * rng.uniform(0.8, 1.25, (30, len(shares))) + rng.exponential(0.5, (30, len(shares)))
    others = [relaxation.at(prices).bound for prices in (*near, *rng.exponential(20, (30, len(shares))))]
    assert upper.utility <= min(others) * (1 + 1e-6)
    assert search.value <= upper.utility


@pytest.mark.parametrize("shares", [(0.4, 0.5), (0.5, 0.5, 0.7)])
def test_no_solver_is_asked_where_layers_are_many(shares, monkeypatch):
    monkeypatch.setattr(milp, "asked", None)
    solution = solve(chain(100, 4, shares))
    assert solution.gap <= 1e-3


def test_a_valley_across_both_prices():
    """A bound that falls along a line on which both prices change against each other."""
    slopes = np.array([[9.0, 10.0], [-10.0, -9.0], [-1.0, 0.5], [0.5, -1.0], [0.3, 0.3]])

    def at(prices):
        values = slopes @ (prices - np.array([3.0, 2.0]))
        highest = int(values.argmax())
        return Priced(prices, 5.0 + float(values[highest]), slopes[highest], np.zeros(1, dtype=int))

    found = lowest(at, [at(np.zeros(2)), at(np.array([4.0, 0.0]))], 1e-9)
    best = min(at(np.array([a, b])).bound for a in np.linspace(2.5, 3.5, 101) for b in np.linspace(1.5, 2.5, 101))
    assert found.bound <= best + 1e-6
