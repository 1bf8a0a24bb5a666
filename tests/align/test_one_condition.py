"""One linear condition on many sizes: the knapsack against counting out, and against the integer program."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from naivenas_jax.align.problem.deadline import NEVER, Deadline
from naivenas_jax.align.problem.problem import Problem
from naivenas_jax.align.problem.reduction import Reduction
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.align.program.milp import NoSolutionError
from naivenas_jax.align.solve import solve as solving
from naivenas_jax.align.solve.knapsack import packed
from naivenas_jax.align.solve.one_condition import within_one_condition
from naivenas_jax.align.solve.solution import utility_kept, violations
from naivenas_jax.sizes.condition import Size, multiple_of, one_of, size
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector

seeds = st.integers(0, 2**32 - 1)


def most_value(values, weights, capacity):
    """By dynamic programming over the capacity."""
    best = np.zeros(capacity + 1)
    fits = weights <= capacity
    for value, weight in zip(values[fits], weights[fits], strict=True):
        best[weight:] = np.maximum(best[weight:], best[: capacity + 1 - weight] + value)
    return best[-1]


@given(seeds)
@settings(max_examples=300)
def test_the_most_value_is_packed(seed):
    rng = np.random.default_rng(seed)
    count, heaviest = rng.integers(0, 40), rng.choice([1, 2, 5, 30, 200])
    weights = rng.integers(1, heaviest + 1, count) * rng.choice([1, 3])
    values = rng.choice([rng.uniform(0.1, 1, count), weights + 1.0, rng.integers(1, 4, count), np.ones(count)])
    capacity = int(rng.uniform(0, 1.1) * weights.sum())
    found = packed(values.astype(float), weights, capacity, NEVER)
    assert weights[found.taken].sum() <= capacity
    assert found.above == 0
    assert values[found.taken].sum() == pytest.approx(most_value(values, weights, capacity), rel=1e-12)


def test_of_many_equal_items_few_are_looked_at():
    """A million items of weight 2, of which none fits into what is left; what would fit is worth least."""
    weights = np.append(np.full(10**6, 2), 3)
    values = np.append(np.ones(10**6), 0.5)
    found = packed(values, weights, 10**6 + 1, NEVER)
    assert found.above == 0
    assert weights[found.taken].sum() == 10**6


def test_without_time_the_bound_says_what_is_open():
    values, weights = np.array([3.0, 2.0, 2.0]), np.array([3, 2, 2])
    found = packed(values, weights, 4, Deadline(0.0))
    assert values[found.taken].sum() == 3
    assert found.above == pytest.approx(1)


KINDS = (
    "plain",
    "coefficients",
    "multiple",
    "ladder",
    "bounds",
    "concatenation",
    "optional",
    "two",
    "asked",
    "useless",
)


def case(seed, kind) -> tuple[dict, Problem]:
    """Two to four layers with scores, one condition on a sum of their sizes, and what else there may be."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    sizes = rng.integers(2, 9, rng.integers(2, 5)).tolist()
    scores = {f"v{i}": rng.choice([np.abs(rng.normal(size=n)), rng.integers(1, 3, n)]) for i, n in enumerate(sizes)}
    summed, targets, rows, bounds = sum((size(name) for name in scores), Size(())), [], [], {}
    match kind:
        case "coefficients":
            summed = sum((int(rng.integers(0, 40)) * size(name) for name in scores), size("v0"))
        case "multiple":
            rows = [multiple_of(name, int(rng.integers(1, 4))) for name in scores]
        case "ladder":
            rows = [one_of("v0", (1, 3, 5)), one_of("v1", (1, 2, 4, 8))]
        case "bounds":
            rows = [size("v0") >= min(3, sizes[0]), size("v1") <= max(1, sizes[1] - 1)]
        case "concatenation":
            summed += 2 * size("both")
        case "optional":  # layers that may go, but not both
            bounds = {"least": {"v0": 0, "v1": 0}}
            scores |= {"v0": scores["v0"] / 20, "v1": scores["v1"] / 20}
        case "two":
            rows = [2 * size("v0") + size("v1") <= int(rng.integers(4, 20))]
        case "asked":
            targets = [Target("v0", sizes[0], int(rng.integers(1, sizes[0] + 1)))]
        case "useless":
            scores = {name: own - 0.7 for name, own in scores.items()}
    full = dict(zip(scores, sizes, strict=True)) | {"both": 2 * sizes[0] + sizes[1]}
    rows = [*rows, summed <= max(1, int(summed.at(full) * rng.uniform(0.3, 0.95)))]
    tying, vectors = Tying(), []
    for name, own in scores.items():
        within = tying.within(name)
        vectors.append(within.new(len(own)))
        within.axis(vectors[-1])
    tying.within("both").axis(Vector.concat([vectors[0], vectors[1], vectors[0]]))
    held = {"insertable": dict.fromkeys(scores, 0), **bounds}
    return scores, Reduction(tying.freeze(), targets, scores, Restrictions(conditions=rows, **held)).problems()[0]


def most_utility(scores, problem):
    """The most utility of all sizes."""
    least = {names[0]: problem.least[row] for row, names in enumerate(problem.names)}
    grid = np.meshgrid(*(range(int(least[name]), len(own) + 1) for name, own in scores.items()), indexing="ij")
    sizes = dict(zip(scores, (axis.ravel() for axis in grid), strict=True))
    sizes["both"] = 2 * sizes["v0"] + sizes["v1"]
    feasible = sizes["both"] >= 1
    for _, target in problem.targets:
        feasible &= sizes[target.axis] == target.wish
    for row in problem.conditions:
        feasible &= [row.holds({axis: int(sizes[axis][i]) for axis in row.axes}) for i in range(len(feasible))]
    kept = sum(np.append(0.0, np.cumsum(np.sort(own)[::-1]))[sizes[name]] for name, own in scores.items())
    return kept[feasible].max(initial=-np.inf)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_of_all_sizes_is_found(kind):
    taken = 0
    for seed in range(15):
        scores, problem = case(seed, kind)
        best = most_utility(scores, problem)
        if not np.isfinite(best):
            with pytest.raises(NoSolutionError):
                solving.solve(problem)
            continue
        solution = solving.solve(problem)
        assert not violations(problem, solution)
        assert solution.gap == 0
        assert utility_kept(problem.groups, solution.kept) == pytest.approx(best, rel=1e-7, abs=1e-7)
        apart = solving._apart(problem)
        found = within_one_condition(problem, NEVER) if violations(problem, apart) else None
        taken += found is not None
        if found is not None and kind not in ("multiple", "ladder"):  # there sizes need not be the same
            assert change(problem, found) <= change(problem, solving._solve(problem, NEVER, 16))
    assert taken or kind == "ladder"


def change(problem, solution):
    """How many neurons are dropped, each counted once per axis that it lies on."""
    axes = problem.rows.astype(bool).T @ np.array([len(names) for names in problem.names])
    return int(axes @ (problem.group_sizes - solution.kept + solution.new))
