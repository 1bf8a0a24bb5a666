"""How near to the best is near enough (``gap=``), and gaps and limits of time that hold for a whole call."""

from __future__ import annotations

import itertools
import math
import time
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.align import align as aligning
from naivenas_jax.align.problem import deadline
from naivenas_jax.align.problem.deadline import Deadline
from naivenas_jax.align.solve.budget_search import BudgetSearch
from naivenas_jax.mutate.edit import reconcile

X = jnp.ones((1, 3))


def chain(*widths):
    x = after = nas.input_vertex("x", 3)
    for number, width in enumerate(widths):
        after = nas.layer(f"l{number}", nn.Dense(width), after)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), after))
    draws = (np.random.default_rng(number).exponential(size=width) ** 2 for number, width in enumerate(widths))
    return graph, graph.init(jax.random.key(0), X), {f"l{number}": scores for number, scores in enumerate(draws)}


@pytest.fixture
def boxes(monkeypatch):
    """The numbers of the parts of the space that are looked at."""
    seen, box = [], BudgetSearch.box

    def counted(self, number, *args, **kwargs):
        seen.append(number)
        return box(self, number, *args, **kwargs)

    monkeypatch.setattr(BudgetSearch, "box", counted)
    return seen


class TestNearEnough:
    @pytest.mark.parametrize("gap", [None, 0.0, 1e-4, 0.05, 1.0])
    def test_what_is_kept_is_as_near_to_the_best_as_asked(self, gap):
        """The best of all sizes, counted out."""
        graph, variables, utility = chain(6, 7, 5)
        total = nas.costs(graph, variables).params

        def params(a, b, c):
            return 3 * a + a + a * b + b + b * c + c + 2 * c + 2

        kept = [np.concatenate([[0.0], np.cumsum(np.sort(scores)[::-1])]) for scores in utility.values()]
        every = itertools.product(range(1, 7), range(1, 8), range(1, 6))
        best = max(sum(k[n] for k, n in zip(kept, s, strict=True)) for s in every if params(*s) <= total // 2)
        found = nas.resize(graph, variables, utility=utility, max_params=0.5, gap=gap)
        assert nas.costs(*found).params <= total // 2
        reached = sum(k[found.graph.nout(f"l{i}")] for i, k in enumerate(kept))
        assert reached * (1 + found.gap) >= best - 1e-9
        assert found.gap <= (gap or 0.0) + 1e-9

    def test_the_search_stops_there_and_goes_on_until_then(self, boxes):
        graph, variables, utility = chain(*(4, 5, 6) * 5)
        counts = {}
        for gap in (0.01, None, 1e-4):
            boxes.clear()
            found = nas.resize(graph, variables, utility=utility, max_params=0.5, gap=gap)
            assert found.gap <= (gap or 1e-3)
            counts[gap] = len(boxes)
        assert counts[0.01] <= counts[None] < counts[1e-4]
        again = nas.resize(graph, variables, utility=utility, max_params=0.5, gap=1e-4)
        assert (again.graph, again.gap) == (found.graph, found.gap)

    def test_of_growth_and_of_steps(self):
        graph, variables, utility = chain(6, 7, 5)
        assert nas.resize(graph, variables, utility=utility, max_params=1.5, grow=True, gap=0.1).gap <= 0.1
        schedule = nas.gradual(graph, variables, end=2, max_params=0.5, gap=0.1)
        assert schedule.mutation(2, graph, variables).gap <= 0.1
        data = jax.random.normal(jax.random.key(1), (16, 3))
        assert nas.compress(graph, variables, [data], max_params=0.5, steps=1, refine=0, gap=0.1).gap <= 0.1

    @pytest.mark.parametrize("gap", [-0.1, math.nan, math.inf, "near", True, [0.1], 10**400])
    def test_no_share(self, gap):
        graph, variables, _ = chain(4)
        for call in (nas.resize, lambda *on, **given: nas.gradual(*on, end=2, **given)):
            with pytest.raises(nas.RequestError, match="gap must be a number of at least 0"):
                call(graph, variables, max_params=0.5, gap=gap)

    def test_only_budgets_take_it(self):
        graph, variables, _ = chain(4)
        with pytest.raises(nas.ArgumentError, match=r"nas\.delta_nout: .*'gap'"):
            nas.delta_nout(graph, variables, {"l0": -1}, gap=0.1)


def heads():
    """One matrix makes heads and their features, which cannot both change: each is a choice of its own."""

    def model(variables, x):
        made = (x @ variables["params"]["mix"]["kernel"]).reshape(-1, 2, 3)
        return jnp.einsum("nhd,hdo->no", made, variables["params"]["out"]["kernel"])

    variables = {"params": {"mix": {"kernel": jnp.ones((4, 6))}, "out": {"kernel": jnp.ones((2, 3, 5))}}}
    return nas.from_function(model, variables, jnp.ones((1, 4)))


#: The two factors.
HEADS = ("mix:0", "mix:1")


class TestGrowthWithChoices:
    def gained(self, mutation, utility):
        """The j-th new neuron is worth the mean of its group, divided by 1 + j."""
        axes = {name: mutation.plan.axes[name] for name in utility}
        return sum(
            float(np.mean(utility[name])) * sum(1 / (1 + j) for j in range(1, axis.after - axis.before + 1))
            for name, axis in axes.items()
        )

    @pytest.mark.parametrize("better", HEADS)
    def test_the_better_choice_is_taken(self, better):
        graph, variables = heads()
        utility = {name: np.ones(graph.ties.size(name)) * (10 if name == better else 1) for name in HEADS}

        def grown(**only):
            mutation = nas.resize(graph, variables, utility=utility, max_params=2.0, grow=True, **only)
            return self.gained(mutation, utility)

        other = next(name for name in HEADS if name != better)
        worse, best = grown(max_new={better: 0}), grown(max_new={other: 0})
        assert 0 < worse < best
        assert grown() == pytest.approx(best)

    def test_the_gap_is_that_of_all_choices(self, monkeypatch):
        """Another choice of which less is proven may be better than the one that was taken."""
        solved, gains = aligning.solve_growth, []

        def doubtful(problem, **given):
            solution = solved(problem, **given)
            gains.append(aligning.gained(problem, solution))
            return type(solution)(solution.kept, solution.new, 0.0 if len(gains) == 1 else 3.0)

        monkeypatch.setattr(aligning, "solve_growth", doubtful)
        graph, variables = heads()
        found = nas.resize(graph, variables, max_params=2.0, grow=True)
        assert len(gains) > 1
        most = max([gains[0], *(gain * 4.0 for gain in gains[1:])])
        assert found.gap == pytest.approx(most / max(gains) - 1, rel=1e-6)
        assert found.gap > 0


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""
    made = SimpleNamespace(now=0.0)
    made.monotonic = lambda: made.now
    monkeypatch.setattr(deadline, "time", made)
    return made


class TestOneLimitOfTime:
    """All attempts of a call share its limit."""

    def test_of_a_search_for_a_latency(self, clock):
        graph, variables, utility = chain(6, 7)

        def latency(graph):
            clock.now += 1.0
            return 1e-6 * sum(graph.nout(name) for name in utility)

        with pytest.raises(nas.TimeLimitError, match="before the search within max_latency ended") as caught:
            nas.resize(graph, variables, utility=utility, max_latency=0.5, latency=latency, time_limit=10.0)
        assert 10 <= clock.now <= 13  # a whole search asks for more than twenty
        best = caught.value.best()
        assert latency(best.graph) <= 0.5 * latency(graph)
        assert best.gap == math.inf
        assert any("not proven to be the best: max_latency holds" in note for note in best.notes)

    def test_that_ends_before_anything_was_found(self):
        graph, variables, utility = chain(6, 7)
        with pytest.raises(nas.TimeLimitError, match="No sizes within it had been found") as caught:
            nas.resize(graph, variables, utility=utility, max_latency=0.5, latency=lambda graph: 1.0, time_limit=0)
        assert caught.value.best is None

    def test_of_ways_of_aligning(self, monkeypatch):
        """And of fallbacks."""
        limits = []

        def slow(*args, time_limit, **kwargs):
            limits.append(time_limit)
            time.sleep(0.2)
            raise nas.InfeasibleError("not this way")

        monkeypatch.setattr(reconcile, "align", slow)
        graph, variables, _ = chain(4, 5)
        steps = [lambda graph, variables, request, error: None]
        with pytest.raises(nas.InfeasibleError):
            nas.remove_vertex(graph, variables, "l1", time_limit=100.0, fallback=steps)
        assert len(limits) == 3
        assert limits[0] <= 100
        assert limits[1] <= limits[0] - 0.2
        assert limits[2] <= limits[1] - 0.2

    def test_of_fallbacks(self, monkeypatch):
        limits, after = [], Deadline.after

        def recorded(seconds):
            limits.append(seconds)
            return after(seconds)

        graph, variables, _ = chain(4, 5)
        monkeypatch.setattr(Deadline, "after", recorded)

        def slowly(graph, variables, request, error):
            time.sleep(0.3)
            return {"l0": -9}

        with pytest.raises(nas.TooSmallError):
            nas.delta_nout(graph, variables, {"l0": -8}, time_limit=50.0, fallback=[slowly, slowly])
        assert max(limits) == 50.0
        assert min(limits) <= 50.0 - 0.6

    def test_without_one_there_is_no_deadline(self):
        assert Deadline.after(None).left is None
        assert not Deadline().is_over
        assert Deadline.after(0).is_over
