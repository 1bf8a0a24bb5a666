"""Budgets against brute force: the answer is within, as good as the gap says, and nothing dropped still fits."""

import itertools

import numpy as np
import pytest

from naivenas_jax.align.answer import Answer, violations, worth
from naivenas_jax.align.budget import Budget
from naivenas_jax.align.problem import reduce
from naivenas_jax.align.program import NoSolutionError
from naivenas_jax.align.solve import solve
from naivenas_jax.sizes.count import Count
from naivenas_jax.sizes.row import multiple_of
from naivenas_jax.sizes.ties import Tying


def random_problem(seed, multiples=False):
    """A ring of layers, some tied, with a count of degree 2 or 3; and the scores of each axis."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 9, rng.integers(2, 5)).tolist()
    tying, names = Tying(), [f"v{i}" for i in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        within = tying.within(name)
        within.axis(within.new(size))
    count = Count.constant(3)
    for i, name in enumerate(names):
        count += Count.axis(name) * Count.axis(names[(i + 1) % len(names)]) * float(rng.integers(1, 5))
        count += Count.axis(name) * float(rng.integers(1, 9))
    if len(names) > 2 and seed % 2:
        count += Count.axis(names[0]) * Count.axis(names[1]) * Count.axis(names[2])
    scores = {name: np.abs(rng.normal(size=size)) for name, size in zip(names, sizes, strict=True)}
    full, least = count.at(dict(zip(names, sizes, strict=True))), count.at(dict.fromkeys(names, 1))
    bound = max(least, int(full * rng.uniform(0.15, 0.85)))
    rows = [multiple_of(names[0], 2)] if multiples else []
    problem = reduce(
        tying.freeze(),
        [],
        scores,
        budgets=[Budget("max_params", count, bound)],
        insertable=dict.fromkeys(names, 0),
        required=rows,
    )
    return problem, scores, count, bound, rows


def best_by_hand(scores, count, bound, rows):
    found = -np.inf
    for kept in itertools.product(*(range(1, len(s) + 1) for s in scores.values())):
        sizes = dict(zip(scores, kept, strict=True))
        if count.at(sizes) <= bound and all(row.holds(sizes) for row in rows):
            found = max(found, sum(np.sort(s)[::-1][:k].sum() for s, k in zip(scores.values(), kept, strict=True)))
    return found


@pytest.mark.parametrize("multiples", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_the_certified_gap_is_true(seed, multiples):
    problem, *rest = random_problem(seed, multiples)
    best = best_by_hand(*rest)
    if not np.isfinite(best):
        with pytest.raises(NoSolutionError):
            solve(problem)
        return
    answer = solve(problem)
    assert not violations(problem, answer)
    kept = worth(list(problem.groups), answer.kept)
    assert kept <= best + 1e-9
    assert kept * (1 + answer.gap) >= best - 1e-9
    assert answer.gap < 0.02
    for group in range(len(problem.groups)):
        more = answer.kept.copy()
        more[group] += 1
        assert violations(problem, Answer(more, answer.new))


def test_a_budget_that_holds_changes_nothing():
    problem, scores, count, _, _ = random_problem(3)
    whole = Budget("max_params", count, count.at({a: len(s) for a, s in scores.items()}))
    free = reduce_again(problem, scores, whole)
    assert solve(free).kept.tolist() == [group.size for group in free.groups]


def test_a_budget_that_cannot_hold_has_no_solution():
    problem, scores, count, _, _ = random_problem(3)
    least = count.at(dict.fromkeys(scores, 1))
    with pytest.raises(NoSolutionError):
        solve(reduce_again(problem, scores, Budget("max_params", count, least - 1)))


def reduce_again(problem, scores, budget):
    tying = Tying()
    for name, s in scores.items():
        within = tying.within(name)
        within.axis(within.new(len(s)))
    return reduce(tying.freeze(), [], scores, budgets=[budget], insertable=dict.fromkeys(scores, 0))


def test_several_budgets_hold_together():
    _, scores, count, bound, _ = random_problem(5)
    other = Count.total(Count.axis(a) for a in scores)
    budgets = [Budget("max_params", count, bound), Budget("max_macs", other, 9)]
    tying = Tying()
    for name, s in scores.items():
        within = tying.within(name)
        within.axis(within.new(len(s)))
    both = reduce(tying.freeze(), [], scores, budgets=budgets, insertable=dict.fromkeys(scores, 0))
    answer = solve(both)
    sizes = {name: int(k) for name, k in zip(scores, answer.kept, strict=True)}
    assert count.at(sizes) <= bound
    assert other.at(sizes) <= 9
