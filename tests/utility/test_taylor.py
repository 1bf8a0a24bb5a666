"""Taylor scores against gates put on the activations, finite differences, and networks without the neuron."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import core
from reference.trained import KINDS, case_of, loss, residual

import naivenas_jax as nas
from naivenas_jax.utility.scores.gates import gate_derivatives
from naivenas_jax.utility.tied import class_count, class_numbers, homes


def gated_loss(case, gates):
    """The loss with a gate on every class where weights read it: computed while the vertices run."""
    ties = case.graph.ties

    def intercept(path, vertex, port, value):
        return value * gates[class_numbers(ties, vertex.inputs[port].name)] if vertex.op.absorbs else value

    def apply(variables, inputs):
        return core.apply(case.graph.run, mutable=False)(variables, inputs, intercept=intercept)

    return loss(apply, case.variables, (case.inputs, case.targets))


def read_classes(graph):
    """Numbers of the classes that a vertex with weights reads."""
    ports = [source.name for vertex in graph.vertices if vertex.op.absorbs for source in vertex.inputs]
    return np.unique(np.concatenate([class_numbers(graph.ties, name) for name in ports]))


@pytest.mark.parametrize("library", ["linen", pytest.param("nnx", marks=pytest.mark.slow)])
def test_derivatives_are_those_of_gates_on_activations(library):
    case = residual(library)
    ones = jnp.ones(class_count(case.graph.ties))
    expected = jax.jit(jax.grad(lambda gates: gated_loss(case, gates)))(ones)
    grads = jax.jit(jax.grad(lambda v: loss(case.graph.apply, v, (case.inputs, case.targets))))(case.variables)
    found = gate_derivatives(case.graph, case.variables, grads)
    read = read_classes(case.graph)
    assert len(read) == 2 + 4 + 3
    np.testing.assert_allclose(found[read], expected[read], rtol=1e-4, atol=1e-6)


def test_finite_differences():
    case, step = residual(), 1e-2
    scores = nas.taylor(case.graph, case.variables, loss, [(case.inputs, case.targets)])
    ones, gated = np.ones(class_count(case.graph.ties), np.float32), jax.jit(lambda gates: gated_loss(case, gates))
    for handle in ("x", "a", "c"):
        for position, number in enumerate(homes(case.graph)[handle]):
            move = step * (np.arange(len(ones)) == number)
            slope = (gated(ones + move) - gated(ones - move)) / (2 * step)
            assert scores[handle][position] == pytest.approx(abs(float(slope)), rel=0.02, abs=2e-4)


@pytest.mark.parametrize(("groups", "features"), [(4, 12), (2, 8), (4, 4)])
def test_finite_differences_of_grouped_convolutions(groups, features):
    """One gate on each channel that the convolution reads."""
    x = nas.input_vertex("x", 3)
    y = nas.invariant_vertex("tanh", nn.tanh, nas.layer("first", nn.Conv(8, (1, 1)), x))
    y = nas.layer("grouped", nn.Conv(features, (2, 2), feature_group_count=groups), y)
    graph = nas.Graph(x, nas.layer("out", nn.Conv(2, (1, 1)), nas.invariant_vertex("relu", nn.relu, y)))
    images = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    variables = graph.init(jax.random.key(1), images)

    def squares(apply, variables, batch):
        return jnp.mean(apply(variables, batch) ** 2)

    @jax.jit
    def gated(gates):
        def intercept(path, vertex, port, value):
            return value * gates if vertex.name == "grouped" else value

        return squares(lambda v, b: core.apply(graph.run, mutable=False)(v, b, intercept=intercept), variables, images)

    scores, step = nas.taylor(graph, variables, squares, [images]), 1e-2
    for position in range(8):
        move = step * (np.arange(8) == position)
        slope = (gated(1 + move) - gated(1 - move)) / (2 * step)
        assert scores["first"][position] == pytest.approx(abs(float(slope)), rel=0.02, abs=2e-4)
    assert not scores["grouped:in_per_group"].any()  # its utility is that of the channels that are combined of it


def test_imported_is_as_hand_written():
    data, scores = None, []
    for kind in ("linen", "imported"):
        case = case_of(kind)
        data = data or [(case.inputs, case.targets), (2 * case.inputs, case.targets)]
        scores.append(nas.taylor(case.graph, case.variables, loss, data))
    for handle in ("a", "c"):
        np.testing.assert_allclose(scores[0][handle], scores[1][handle], rtol=1e-4)
    assert "b" not in scores[0]
    assert "b" not in scores[1]


@pytest.mark.parametrize("kind", ["hand-written", "imported"])
def test_exact_where_the_loss_is_linear(kind):
    """Then the first order is all there is: the loss changes by the score when the neuron is dropped."""
    x = jax.random.normal(jax.random.key(1), (6, 3))
    model = nn.Sequential([nn.Dense(5), jnp.tanh, nn.Dense(4), nn.Dense(2)])
    variables = model.init(jax.random.key(0), x)
    if kind == "imported":
        graph, variables = nas.from_linen(model, variables, x)
        first = "layers_0"
    else:
        source = nas.input_vertex("x", 3)
        hidden = nas.invariant_vertex("tanh", jnp.tanh, nas.layer("layers_0", nn.Dense(5), source))
        graph = nas.Graph(source, nas.layer("layers_3", nn.Dense(2), nas.layer("layers_2", nn.Dense(4), hidden)))
        first = "layers_0"

    def linear(apply, variables, batch):
        return jnp.mean(apply(variables, batch) @ jnp.array([1.0, -2.0]))

    scores = nas.taylor(graph, variables, linear, [x])
    whole = linear(graph.apply, variables, x)
    for handle in (first, "layers_2"):
        for position in range(len(scores[handle])):
            wish = {handle: -1.0 * (np.arange(len(scores[handle])) == position)}
            smaller, its_variables = nas.delta_nout(graph, variables, {handle: -1}, utility=wish)
            change = linear(smaller.apply, its_variables, x) - whole
            assert scores[handle][position] == pytest.approx(abs(float(change)), rel=1e-4, abs=1e-6)


def test_neurons_that_no_weight_reads_are_gated_where_they_are_made():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.invariant_vertex("tanh", jnp.tanh, nas.layer("out", nn.Dense(2), x)))
    inputs = jax.random.normal(jax.random.key(1), (4, 3))
    variables = graph.init(jax.random.key(0), inputs)
    variables["params"]["out"]["bias"] = jnp.array([0.3, -0.4])
    made = inputs @ variables["params"]["out"]["kernel"] + variables["params"]["out"]["bias"]
    slopes = jax.grad(lambda made: jnp.mean(jnp.tanh(made) ** 2))(made)
    scores = nas.taylor(graph, variables, lambda apply, v, b: jnp.mean(apply(v, b) ** 2), [inputs])
    np.testing.assert_allclose(scores["out"], np.abs((made * slopes).sum(0)), rtol=1e-5)


def test_per_example():
    case = residual()
    batch = (case.inputs, case.targets)
    singles = [(x[None], y[None]) for x, y in zip(*batch, strict=True)]
    single = nas.taylor(case.graph, case.variables, loss, singles)  # the mean over batches of one
    scores = nas.taylor(case.graph, case.variables, loss, [batch], each="example")
    for handle in scores:
        np.testing.assert_allclose(scores[handle], single[handle], rtol=1e-4, atol=1e-7)
    assert not np.allclose(scores["a"], nas.taylor(case.graph, case.variables, loss, [batch])["a"])


def test_keywords_reach_the_graph():
    case = residual()

    def in_training(apply, variables, batch):
        outputs, _ = apply(variables, batch[0], train=True, mutable=["batch_stats"])
        return jnp.mean((outputs - batch[1]) ** 2)

    batch = (case.inputs, case.targets)
    scores = nas.taylor(case.graph, case.variables, in_training, [batch])
    assert not np.allclose(scores["a"], nas.taylor(case.graph, case.variables, loss, [batch])["a"])


class TestRefusals:
    def test_no_batches(self):
        case = residual()
        with pytest.raises(nas.UtilityError, match="at least one batch"):
            nas.taylor(case.graph, case.variables, loss, iter(()))

    def test_loss_of_several_numbers(self):
        case = residual()
        with pytest.raises(nas.UtilityError, match=r"one real number; found float32 of shape \(5, 3\)"):
            nas.taylor(case.graph, case.variables, lambda apply, v, b: apply(v, b), [case.inputs])

    def test_gradients_of_another_network(self):
        case = residual()
        smaller, its_variables = nas.delta_nout(case.graph, case.variables, {"c": -1})
        with pytest.raises(nas.VariablesError, match="after a mutation take the new graph"):
            nas.TaylorAverage.init(case.graph).update(its_variables, its_variables)
        del smaller

    def test_missing_collection(self):
        case = residual()
        with pytest.raises(nas.VariablesError, match="which reads neurons"):
            nas.TaylorAverage.init(case.graph).update(case.variables["batch_stats"], case.variables["batch_stats"])

    @pytest.mark.parametrize("keywords", [{"decay": 1.0}, {"decay": -0.1}, {"every": 0}, {"every": 1.5}])
    def test_average(self, keywords):
        with pytest.raises(nas.UtilityError, match=next(iter(keywords))):
            nas.TaylorAverage.init(residual().graph, **keywords)


def steps(case, number):
    """Parameters and gradients of some steps of training."""
    tx, params = optax.sgd(0.05), case.variables["params"]
    rest = {key: value for key, value in case.variables.items() if key != "params"}
    state = tx.init(params)
    slope = jax.jit(jax.grad(lambda p: loss(case.graph.apply, {"params": p, **rest}, (case.inputs, case.targets))))
    for _ in range(number):
        grads = slope(params)
        yield params, grads
        updates, state = tx.update(grads, state)
        params = optax.apply_updates(params, updates)


class TestAverage:
    @pytest.mark.parametrize("kind", KINDS)
    def test_moving_average(self, kind):
        case = case_of(kind)
        average = nas.TaylorAverage.init(case.graph, decay=0.7, every=2)
        update = jax.jit(nas.TaylorAverage.update)
        total = weight = 0.0
        for number, (params, grads) in enumerate(steps(case, 5)):
            average = update(average, params, grads)
            if number % 2 == 0:
                score = np.abs(gate_derivatives(case.graph, params, grads))
                total, weight = 0.7 * total + 0.3 * score, 0.7 * weight + 0.3
        assert int(average.step) == 5
        own = homes(case.graph)["a"]
        np.testing.assert_allclose(average.scores()["a"], (total / weight)[own], rtol=1e-5)

    def test_first_update_is_taylor(self):
        case = residual()
        ((params, grads),) = steps(case, 1)
        found = nas.TaylorAverage.init(case.graph).update(params, grads).scores()
        expected = nas.taylor(case.graph, case.variables, loss, [(case.inputs, case.targets)])
        for handle in expected:
            np.testing.assert_allclose(found[handle], expected[handle], rtol=1e-4)

    def test_compiles_once(self):
        case, traces = residual(), []

        @jax.jit
        def update(average, params, grads):
            traces.append(1)
            return average.update(params, grads)

        average = nas.TaylorAverage.init(case.graph)
        for params, grads in steps(case, 3):
            average = update(average, params, grads)
        assert len(traces) == 1

    @pytest.mark.parametrize("kind", ["linen", "imported"])
    def test_follows_a_change_of_width(self, kind):
        case = case_of(kind)
        ((params, grads),) = steps(case, 1)
        average = nas.TaylorAverage.init(case.graph).update(params, grads)
        mutation = nas.delta_nout(case.graph, case.variables, {"a": -2, "c": 2}, utility=average.scores())
        after = mutation.carry(average)
        before = average.scores()
        np.testing.assert_array_equal(after.scores()["a"], before["a"][mutation.indices("a")])
        np.testing.assert_array_equal(after.scores()["c"], [*before["c"], 0, 0])
        assert after.graph == mutation.graph
        assert int(after.step) == 1
        now = jax.jit(jax.grad(lambda v: loss(mutation.graph.apply, v, (case.inputs, case.targets))))
        again = after.update(mutation.variables, now(mutation.variables))  # and goes on
        assert (again.scores()["a"] > 0).all()

    def test_follows_where_another_vertex_comes_first(self):
        """The score of a class is kept at its first handle; that vertex goes, and another takes over."""
        x = nas.input_vertex("x", 3)
        a = nas.layer("a", nn.Dense(4), x)
        graph = nas.Graph(x, nas.layer("out", nn.Dense(2), (a + nas.layer("b", nn.Dense(4), x)).named("sum")))
        inputs = jax.random.normal(jax.random.key(1), (5, 3))
        variables = graph.init(jax.random.key(0), inputs)
        grads = jax.grad(lambda v: jnp.mean(graph.apply(v, inputs) ** 2))(variables)
        average = nas.TaylorAverage.init(graph).update(variables, grads)
        mutation = nas.remove_edge(graph, variables, "a", "sum")
        assert "a" not in mutation.graph
        after = mutation.carry(average).scores()
        np.testing.assert_array_equal(after["b"], average.scores()["a"])

    def test_beside_the_state_of_an_optimizer(self):
        case = residual()
        tx = optax.adam(1e-3)
        tree = {"opt": tx.init(case.variables["params"]), "taylor": nas.TaylorAverage.init(case.graph)}
        mutation = nas.delta_nout(case.graph, case.variables, {"c": -1})
        carried, report = mutation.carry(tree, report=True)
        assert list(carried) == ["opt", "taylor"]
        assert report.carried
        assert jax.tree.map(jnp.shape, carried["opt"]) == jax.tree.map(jnp.shape, tx.init(mutation.variables["params"]))
        assert carried["taylor"].graph == mutation.graph

    def test_of_another_graph(self):
        case = residual()
        average = nas.TaylorAverage.init(case.graph)
        first = nas.delta_nout(case.graph, case.variables, {"c": -1})
        second = nas.delta_nout(*first, {"c": -1})
        with pytest.raises(nas.UtilityError, match="another graph"):
            second.carry(average)
