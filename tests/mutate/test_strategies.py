"""What happens when sizes cannot be had or time is up, and who is told of a change."""

from __future__ import annotations

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.align.program.milp import IntegerProgram, StoppedError


def dense(name, size, vertex):
    return nas.layer(name, nn.Dense(size), vertex)


def with_variables(graph):
    return graph, graph.init(jax.random.key(0), *(jnp.ones((1, v.nout)) for v in graph.inputs))


@pytest.fixture(scope="module")
def twice():
    """cat = concat(a, a): even sizes only."""
    a = dense("a", 4, nas.input_vertex("x", 3))
    return with_variables(nas.Graph(a.inputs, dense("out", 2, nas.concat("cat", a, a))))


@pytest.fixture(scope="module")
def crossed():
    """cat = concat(a, b) is added to c: a cycle when a is connected to c as well."""
    x = nas.input_vertex("x", 3)
    cat = nas.concat("cat", dense("a", 4, x), dense("b", 3, x))
    return with_variables(nas.Graph(x, dense("out", 2, (cat + dense("c", 7, x)).named("sum"))))


def unchanged(mutation, graph, variables):
    same = jax.tree.map(np.array_equal, mutation.variables, variables)
    return mutation.graph == graph and all(jax.tree.leaves(same)) and not mutation.plan.changed


class TestFallback:
    def test_not_needed(self, twice):
        def never(*_):
            raise AssertionError

        assert nas.delta_nout(*twice, {"cat": -2}, fallback=never).notes == ()

    def test_relax(self, twice):
        mutation = nas.delta_nout(*twice, {"cat": -3}, fallback=nas.fallback.relax)
        relaxed = nas.delta_nout(*twice, {"cat": nas.relaxed(-3)})
        assert mutation.plan == relaxed.plan
        assert "relax" in mutation.notes[0]
        mutation.check(jnp.ones((2, 3)))

    def test_nearest_to_no_neuron_at_all(self, twice):
        """Not 1, since every neuron occurs twice."""
        size = twice[0].nout("cat")
        message = f"left with 0.*2 is the nearest.*Drop {size - 2} at the most"
        with pytest.raises(nas.TooSmallError, match=message) as caught:
            nas.delta_nout(*twice, {"cat": -size})
        assert caught.value.nearest == {"cat": 2}
        mutation = nas.delta_nout(*twice, {"cat": -size}, fallback=nas.fallback.nearest)
        assert mutation.graph.nout("cat") == 2
        assert len(mutation.notes) == 1

    def test_nearest_to_no_neuron_meets_the_other_requests(self, twice):
        """The sizes that an error names are feasible together, and there is one for each request."""
        request = {"a": -50, "cat": nas.to(6)}
        with pytest.raises(nas.TooSmallError) as caught:
            nas.delta_nout(*twice, request)
        found = caught.value.nearest
        assert found.keys() == request.keys()
        assert found["cat"] == 2 * found["a"]
        graph, _ = nas.delta_nout(*twice, request, fallback=nas.fallback.nearest)
        assert {name: graph.nout(name) for name in request} == found

    def test_a_step_is_asked_once(self, twice):
        asked = []

        def less(graph, variables, request, error):
            asked.append(request)
            return {"cat": request["cat"] - 2}

        with pytest.raises(nas.InfeasibleError, match="'cat' = 5"):
            nas.delta_nout(*twice, {"cat": -3}, fallback=less)
        assert asked == [{"cat": -3}]

    def test_nearest(self, twice):
        mutation = nas.delta_nout(*twice, {"cat": -1}, fallback=nas.fallback.nearest)
        assert mutation.graph.nout("cat") in (6, 8)

    def test_keep(self, twice):
        mutation = nas.delta_nout(*twice, {"cat": -3}, fallback=nas.fallback.keep)
        assert unchanged(mutation, *twice)
        assert "cannot be had" in mutation.notes[0]
        assert mutation.undo(mutation.variables)[0] == twice[0]
        assert mutation.check(jnp.ones((2, 3))).compared

    def test_warn_then_keep(self, twice, caplog):
        steps = [nas.fallback.log(logging.INFO), nas.fallback.warn, nas.fallback.keep]
        with caplog.at_level(logging.INFO, "naivenas_jax"):
            mutation = nas.delta_nout(*twice, {"cat": -3}, fallback=steps)
        assert unchanged(mutation, *twice)
        assert [record.levelno for record in caplog.records] == [logging.INFO, logging.WARNING]
        assert all("'cat' = 5" in record.message for record in caplog.records)

    def test_relaxing_is_not_enough(self, twice):
        """a is to change and is held by the condition: the first error is raised, and says what was tried."""
        held = nas.size("a") == 4
        with pytest.raises(nas.InfeasibleError, match="'cat' = 5") as caught:
            nas.delta_nout(*twice, {"cat": -3}, constraints=held, fallback=[nas.fallback.relax, nas.fallback.warn])
        assert "relax" in caught.value.__notes__[0]
        mutation = nas.delta_nout(
            *twice, {"cat": -3}, constraints=held, fallback=[nas.fallback.relax, nas.fallback.keep]
        )
        assert unchanged(mutation, *twice)

    def test_a_step_of_ones_own(self, twice):
        """It gets the request and the error, and asks for something else."""
        seen = []

        def one_more(graph, variables, request, error):
            seen.append((graph is twice[0], request, type(error)))
            return {name: change - 1 for name, change in request.items()}

        mutation = nas.delta_nout(*twice, {"cat": -3}, fallback=one_more)
        assert mutation.graph.nout("cat") == 4
        assert seen == [(True, {"cat": -3}, nas.InfeasibleError)]

    def test_a_step_with_another_utility(self, twice):
        def last_resort(graph, variables, request, error):
            return nas.delta_nout(graph, variables, {"a": -1}, utility={"a": [0, 1, 2, 3]})

        assert nas.delta_nout(*twice, {"cat": -3}, fallback=last_resort).indices("a").tolist() == [1, 2, 3]

    def test_a_step_that_raises(self, twice):
        def refuse(graph, variables, request, error):
            raise KeyError("mine") from error

        with pytest.raises(KeyError, match="mine"):
            nas.delta_nout(*twice, {"cat": -3}, fallback=refuse)

    def test_every_verb(self, crossed, twice):
        keep = nas.fallback.keep
        assert unchanged(nas.delta_nin(*twice, {"out": -3}, fallback=keep), *twice)
        assert unchanged(nas.resize(*twice, request={"cat": -3}, fallback=keep), *twice)
        with pytest.raises(nas.InfeasibleError):
            nas.create_edge(*crossed, "a", "sum")
        assert unchanged(nas.create_edge(*crossed, "a", "sum", fallback=[nas.fallback.relax, keep]), *crossed)
        wide = [nas.fallback.relax, lambda graph, variables, request, error: {"a": 1}]
        with pytest.raises(nas.RequestError, match=r"<lambda>.*Mutation or None"):
            nas.create_edge(*crossed, "a", "sum", fallback=wide)

    def test_less_than_nothing(self, twice):
        mutation = nas.delta_nout(*twice, {"a": -20}, fallback=nas.fallback.relax)
        assert mutation.graph.nout("a") == 1

    def test_bad_arguments_are_not_caught(self, twice):
        with pytest.raises(nas.UnknownNameError):
            nas.delta_nout(*twice, {"nowhere": 1}, fallback=nas.fallback.keep)
        with pytest.raises(nas.StructureError, match="loop"):
            nas.create_edge(*twice, "cat", "cat", fallback=nas.fallback.keep)

    @pytest.mark.parametrize("steps", ["relax", [3], None])
    def test_bad_steps(self, twice, steps):
        with pytest.raises(nas.RequestError, match="fallback="):
            nas.delta_nout(*twice, {"cat": -2}, fallback=steps)

    def test_bad_answer(self, twice):
        with pytest.raises(nas.RequestError, match=r"returned 3.*another request"):
            nas.delta_nout(*twice, {"cat": -3}, fallback=lambda *_: 3)


def wider(v):
    return dense("new", 9, v)


class TestAlign:
    def test_ways_in_order(self, twice):
        def narrow(v):
            return dense("new", 2, v)

        widths = {
            way: nas.insert_vertex(*twice, "a", narrow, align=way).graph.nin("cat")
            for way in ("grow", "shrink", ("shrink", "grow"), ("grow", "shrink"))
        }
        assert widths == {"grow": (4, 4), "shrink": (2, 2), ("shrink", "grow"): (2, 2), ("grow", "shrink"): (4, 4)}

    def test_the_next_way(self, twice):
        """Nothing may grow: the second way it is."""
        mutation = nas.insert_vertex(
            *twice, "a", lambda v: dense("new", 2, v), align=("grow", "shrink"), constraints=nas.size("new") <= 3
        )
        assert (mutation.aligned, mutation.graph.nin("cat")) == ("shrink", (2, 2))

    @pytest.mark.parametrize("way", [(), ("grow", "sideways"), "sideways", 3])
    def test_refused(self, twice, way):
        with pytest.raises(nas.StructureError, match="align"):
            nas.insert_vertex(*twice, "a", lambda v: dense("new", 2, v), align=way)

    def test_conditions_of_an_edit(self, twice):
        """Named vertices may be inserted ones."""
        mutation = nas.insert_vertex(
            *twice, "a", lambda v: dense("new", 5, v), constraints=lambda size: nas.multiple_of(size["new"], 3)
        )
        assert mutation.graph.nout("new") % 3 == 0
        with pytest.raises(nas.InfeasibleError, match=r"Required.*'new'"):
            nas.insert_vertex(*twice, "a", lambda v: dense("new", 5, v), constraints=[nas.size("new") <= 0])

    def test_conditions_of_an_edit_that_needs_no_alignment(self, crossed):
        """A summand goes; the sum could stay as it is, but for the condition."""
        mutation = nas.remove_edge(*crossed, "c", "sum", constraints=nas.size("sum") <= 5)
        assert mutation.graph.nout("sum") == 5


def fork():
    """cat of a and b; four of its neurons must go, and utility says which."""
    x = nas.input_vertex("x", 3)
    cat = nas.concat("cat", dense("a", 8, x), dense("b", 6, x))
    return with_variables(nas.Graph(x, dense("out", 2, cat)))


UTILITY = {"a": np.array([5.0, 1, 7, 2, 9, 3, 8, 4]), "b": np.array([0.5, 6, 1.5, 2.5, 3.5, 10])}


def kept_utility(mutation):
    return sum(float(UTILITY[name][mutation.plan.axes[name].kept].sum()) for name in "ab")


class TestTimeLimit:
    def test_raises_by_default(self):
        with pytest.raises(nas.TimeLimitError, match="time limit struck"):
            nas.delta_nout(*fork(), {"cat": nas.relaxed(-4)}, time_limit=0)

    def test_nothing_was_found(self):
        """An exact request that only the solver could meet."""
        with pytest.raises(nas.TimeLimitError, match="No feasible sizes") as caught:
            nas.delta_nout(*fork(), {"cat": -4}, time_limit=0)
        assert caught.value.best is None
        with pytest.raises(nas.TimeLimitError):
            nas.delta_nout(*fork(), {"cat": -4}, time_limit=0, fallback=nas.fallback.accept)

    @pytest.mark.parametrize("strikes_at", range(6))
    def test_the_best_so_far_is_sound(self, strike, strikes_at):
        graph, variables = fork()
        request = {"cat": nas.relaxed(-4)}
        best = nas.delta_nout(graph, variables, request, utility=UTILITY)
        strike(strikes_at)
        try:
            mutation = nas.delta_nout(graph, variables, request, utility=UTILITY, fallback=nas.fallback.accept)
        except nas.TimeLimitError as error:
            assert error.best is None  # noqa: PT017  nothing can be accepted
            assert strikes_at == 0
            return
        assert mutation.graph.nout("cat") != 14
        mutation.check(jnp.ones((2, 3)))
        kept, most = kept_utility(mutation), kept_utility(best)
        if mutation.graph.nout("cat") == 10:
            assert kept <= most + 1e-6
        if mutation.plan != best.plan:
            assert "not proven" in mutation.notes[0]

    def test_gap_of_the_requests(self, strike):
        """Nothing was solved; each group at its own best is feasible and misses the wish."""
        strike(0)
        with pytest.raises(nas.TimeLimitError, match="missed by 4 neurons in all, at the least by 0") as caught:
            nas.delta_nout(*fork(), {"a": nas.relaxed(0), "cat": nas.relaxed(nas.to(14)), "b": nas.relaxed(-4)})
        assert "missed" in caught.value.gap

    def test_gap_of_the_utility(self, strike):
        graph, variables = fork()
        strike(1)  # the request has been met, the utility not looked at
        with pytest.raises(nas.TimeLimitError, match="the utility kept is") as caught:
            nas.delta_nout(graph, variables, {"cat": -4}, utility=UTILITY)
        mutation = caught.value.best()
        assert mutation.graph.nout("cat") == 10
        assert f"{kept_utility(mutation):.6g}" in caught.value.gap
        assert "could be 63 at the most" in caught.value.gap  # all of it, for want of a better bound

    def test_of_an_edit(self, strike, crossed):
        strike(0)
        with pytest.raises(nas.TimeLimitError):
            nas.insert_vertex(*crossed, "cat", wider, align="both")
        assert unchanged(nas.insert_vertex(*crossed, "cat", wider, align="both", fallback=nas.fallback.keep), *crossed)

    def test_best_of_an_edit(self, strike, crossed):
        strike(1)
        with pytest.raises(nas.TimeLimitError) as caught:
            nas.insert_vertex(*crossed, "cat", wider, align="both")
        mutation = caught.value.best()
        assert "not proven" in mutation.notes[0]
        assert mutation.graph.nin("sum")[0] == mutation.graph.nout("new")
        assert mutation.graph.apply(mutation.variables, jnp.ones((2, 3))).shape == (2, 2)

    def test_an_incumbent_is_checked(self, monkeypatch):
        """HiGHS may hand out zeros as a solution when it is stopped; they break a bound and are not used."""
        graph, variables = fork()

        def lie(self, cost, integer):
            raise StoppedError(np.zeros(self.size), -1.0)

        monkeypatch.setattr(IntegerProgram, "_run", lie)
        with pytest.raises(nas.TimeLimitError, match="No feasible sizes") as caught:
            nas.delta_nout(graph, variables, {"cat": -4}, utility=UTILITY)
        assert caught.value.best is None


class Scaled(nn.Module):
    """Divides by a number that is set when it is resized."""

    features: int
    divisor: float = 1.0

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features)(x) / self.divisor


def rescale(layer, sizes, divisor=None):
    return layer if divisor is None else layer.clone(divisor=divisor)


class TestLayerKeywords:
    @pytest.fixture(autouse=True)
    def _registered(self):
        nas.register_layer(
            Scaled,
            leaves={"params/Dense_0/kernel": "in out", "params/Dense_0/bias": "out"},
            sizes={"features": "out"},
            resize=rescale,
        )

    def net(self):
        x = nas.input_vertex("x", 3)
        return with_variables(nas.Graph(x, dense("out", 2, nas.layer("scaled", Scaled(5), x))))

    def test_reach_the_rule_of_the_layer(self):
        keywords = {"scaled": {"divisor": 2.0}}
        plain = nas.delta_nout(*self.net(), {"scaled": -1})
        asked = nas.delta_nout(*self.net(), {"scaled": -1}, layer_keywords=keywords)
        assert (plain.graph["scaled"].op.module.divisor, asked.graph["scaled"].op.module.divisor) == (1.0, 2.0)
        assert asked.graph["scaled"].op.module.features == 4
        edited = nas.insert_vertex(*self.net(), "scaled", lambda v: dense("n", 5, v), layer_keywords=keywords)
        assert edited.graph["scaled"].op.module.divisor == 2.0

    @pytest.mark.parametrize(
        ("keywords", "error", "message"),
        [
            ({"nowhere": {"divisor": 2.0}}, nas.UnknownNameError, r"layer_keywords.*nowhere"),
            ({"out": {"divisor": 2.0}}, nas.RequestError, r"rule for Dense has no resize="),
            ({"scaled": {"factor": 2.0}}, nas.RequestError, r"rule for Scaled has no resize=.*factor"),
            ({"x": {"divisor": 2.0}}, nas.RequestError, r"'x'.*divisor"),
        ],
    )
    def test_refused(self, keywords, error, message):
        with pytest.raises(error, match=message):
            nas.delta_nout(*self.net(), {"scaled": -1}, layer_keywords=keywords)


class TestOnChange:
    def test_of_the_network(self, twice):
        seen = []
        mutation = nas.delta_nout(*twice, {"a": -1}, on_change=seen.append)
        assert seen == [mutation]

    def test_of_vertices(self, twice):
        seen = []
        callbacks = dict.fromkeys(("a", "cat", "out", "x"), seen.append)
        mutation = nas.delta_nout(*twice, {"a": -1}, on_change=callbacks)
        assert [change.name for change in seen] == ["a", "cat", "out"]
        change = seen[1]
        assert (change.out.before, change.out.after, change.inputs["a"].after) == (8, 6, 3)
        assert change.mutation is mutation
        assert str(seen[2]).startswith("out: 2 -> 2; reads cat: 8 -> 6, drops")

    def test_other_neurons_are_a_change_too(self, twice):
        """Widths stay, but the neurons of the inserted layer are others."""
        seen = []
        nas.insert_vertex(*twice, "a", lambda v: dense("new", 4, v), on_change={"a": seen.append, "new": seen.append})
        assert [change.name for change in seen] == ["new"]

    def test_removed_vertex(self, crossed):
        seen = []
        nas.remove_vertex(*crossed, "c", reconnect="none", on_change={"c": seen.append})
        assert (seen[0].name, seen[0].out.after) == ("c", 0)

    def test_inner_axis(self):
        def low_rank(params, x):
            return x @ params["down"] @ params["up"]

        x = nas.input_vertex("x", 6)
        y = nas.absorb_vertex("y", low_rank, x, nout=5, params={"down": "in r", "up": "r out"}, inner={"r": 2})
        seen = []
        nas.delta_nout(*with_variables(nas.Graph(x, y)), {"y:r": 1}, on_change={"y:r": seen.append, "y": seen.append})
        assert [change.name for change in seen] == ["y:r"]

    def test_a_validation_that_fails(self, twice):
        graph, variables = twice

        def too_small(change):
            if change.out.after < 4:
                raise ValueError(f"{change.name} is too small")

        with pytest.raises(ValueError, match="a is too small"):
            nas.delta_nout(graph, variables, {"a": -1}, on_change={"a": too_small})
        assert graph.nout("a") == 4
        assert variables["params"]["a"]["kernel"].shape == (3, 4)
        assert nas.delta_nout(graph, variables, {"a": 1}, on_change={"a": too_small}).graph.nout("a") == 5

    def test_log(self, twice, caplog):
        with caplog.at_level(logging.DEBUG, "naivenas_jax"):
            nas.delta_nout(*twice, {"a": -1}, on_change=nas.watch.log(logging.DEBUG))
        assert [record.message.split(":")[0] for record in caplog.records] == ["a", "cat"]
        caplog.clear()
        with caplog.at_level(logging.INFO, "naivenas_jax"):
            nas.delta_nout(*twice, {"a": -1}, on_change={"out": nas.watch.log()})
        assert [record.message.split(":")[0] for record in caplog.records] == ["out"]

    def test_check(self, twice):
        """Finds a layer that mixes its neurons though it was registered as one that does not."""
        graph, variables = twice
        nas.delta_nout(graph, variables, {"a": -1}, on_change=[nas.watch.check(), nas.watch.check(jnp.ones((2, 3)))])

        class Liar(nn.Module):
            @nn.compact
            def __call__(self, x):
                return x * self.param("scale", nn.initializers.ones, (x.shape[-1],)) - x.mean(-1, keepdims=True)

        nas.register_layer(Liar, leaves={"params/scale": "in"}, new={"params/scale": 1.0})
        x = nas.input_vertex("x", 3)
        lying = with_variables(nas.Graph(x, dense("out", 2, nas.layer("liar", Liar(), dense("a", 5, x)))))
        with pytest.raises(nas.OracleError):
            nas.delta_nout(*lying, {"a": -1}, on_change=nas.watch.check(jnp.arange(6.0).reshape(2, 3)))

    def test_every_verb(self, twice):
        seen = []
        nas.delta_nin(*twice, {"out": -2}, on_change=seen.append)
        nas.resize(*twice, on_change=seen.append)
        nas.insert_vertex(*twice, "a", lambda v: dense("new", 4, v), on_change=seen.append)
        nas.replace_layer(*twice, "out", nn.Dense(3), on_change=seen.append)
        nas.rename(*twice, {"a": "b"}, on_change=seen.append)
        nas.map_vertices(*twice, lambda v: None, on_change=seen.append)
        assert len(seen) == 6

    def test_after_a_fallback(self, twice):
        seen = []
        mutation = nas.delta_nout(*twice, {"cat": -3}, fallback=nas.fallback.relax, on_change=seen.append)
        assert seen == [mutation]

    def test_bad_callbacks(self, twice):
        with pytest.raises(nas.UnknownNameError, match=r"on_change.*nowhere"):
            nas.delta_nout(*twice, {"a": -1}, on_change={"nowhere": print})
        with pytest.raises(nas.RequestError, match="on_change"):
            nas.delta_nout(*twice, {"a": -1}, on_change=3)


@pytest.mark.parametrize(
    "made", [nas.watch.check, nas.watch.log, {"a": nas.watch.log}], ids=["check", "log", "by name"]
)
def test_a_maker_of_callbacks_is_no_callback(twice, made):
    with pytest.raises(nas.RequestError, match=r"returned a function .* call it where it is passed"):
        nas.delta_nout(*twice, {"a": -1}, on_change=made)


@pytest.mark.parametrize("step", [nas.fallback.log, lambda error: None], ids=["log", "one argument"])
def test_a_step_takes_four_arguments(twice, step):
    with pytest.raises(
        nas.RequestError, match=r"A step of fallback= must be a function of \(graph, variables, request"
    ):
        nas.delta_nout(*twice, {"a": -1}, fallback=step)
