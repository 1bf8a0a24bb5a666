"""What a changed network computes: nothing but what was dropped may be missing, and what is new may not disturb.

The package's own oracle masks values inside the original network. Beside it, the same is done here in another way: the
rows of the original's own kernels that read dropped neurons are set to zero.
"""

from __future__ import annotations

import random

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from strategies import random_graph, random_inputs, random_request, random_utility, random_variables

import naivenas_jax as nas
from naivenas_jax.graph.source import Source
from naivenas_jax.transfer.variables import flat, nested


def tokens(graph):
    return {v.name for v in graph.inputs if isinstance(v.op, Source) and v.op.whole}


def made(seed, graph_steps=(3, 9)):
    """A network with variables and inputs that it computes something finite of."""
    rng = random.Random(seed)
    graph = random_graph(rng, steps=graph_steps)
    return rng, graph, random_variables(graph, seed), random_inputs(graph, seed)


def changed(rng, graph, variables, kinds, sign):
    """A random change in one direction; None if this one cannot be had."""
    request = {}
    for axis, asked in random_request(rng, graph, kinds="e", most=2).items():
        size = graph.ties.size(axis)
        if axis not in tokens(graph):
            request[axis] = max(1 - size, -abs(asked)) if sign < 0 else abs(asked)
    keywords = {"utility": random_positive(rng, graph), "free_outputs": rng.random() < 0.5}
    if kinds == "prune":
        keywords["utility"] = random_utility(rng, graph)
        return nas.resize(graph, variables, **keywords)
    try:
        return nas.delta_nout(graph, variables, request, **keywords)
    except nas.InfeasibleError as error:
        nearest = {axis: nas.to(size) for axis, size in error.nearest.items()}
        return nas.delta_nout(graph, variables, nearest, **keywords) if nearest else None


def random_positive(rng, graph):
    generator = np.random.default_rng(rng.randrange(2**31))
    return {axis: generator.uniform(0.1, 1.0, graph.ties.size(axis)) for axis in graph.ties.axes}


def tuple_of(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def starved(mutation, variables):
    """The original variables; weights that read a dropped neuron are zero, so that it might as well not be there."""
    arrays = dict(flat(variables))
    for path, leaf in mutation.before.ties.leaves.items():
        for dim, (axis, role) in enumerate(zip(leaf.axes, leaf.roles, strict=True)):
            if role != "in" or axis is None:
                continue
            kept = mutation.indices(axis)
            dead = np.setdiff1d(np.arange(mutation.before.ties.size(axis)), kept)
            array = np.array(arrays[path])
            array[(slice(None),) * dim + (dead,)] = 0
            arrays[path] = array
    return nested(arrays)


def agree(got, wanted, tolerance=2e-3):
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    np.testing.assert_allclose(np.asarray(got) / scale, np.asarray(wanted) / scale, atol=tolerance)


def compare_with_starved(mutation, variables, inputs):
    """Whether the changed network computes what the starved original does, wherever that is promised."""
    graph = mutation.before
    coupled = [axis for axis in mutation.plan.changed if axis in graph.ties.coupled]
    moved = [vertex.name for vertex in graph.inputs if vertex.name in mutation.plan.changed]
    if coupled or moved:
        return False
    wanted = tuple_of(graph.apply(starved(mutation, variables), *inputs))
    found = tuple_of(mutation.graph.apply(mutation.variables, *inputs))
    for vertex, got, old in zip(graph.outputs, found, wanted, strict=True):
        source = mutation.indices(vertex.name)
        agree(np.asarray(got)[..., source >= 0], np.asarray(old)[..., source[source >= 0]])
    return True


def same_arrays(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", ["shrink", "prune"])
@pytest.mark.parametrize("block", range(8))
def test_shrink(kind, block):
    """Random networks, random neurons dropped."""
    compared = 0
    for seed in range(10 * block, 10 * block + 10):
        rng, graph, variables, inputs = made(seed)
        mutation = changed(rng, graph, variables, kind, -1)
        if mutation is None or not mutation.plan.changed:
            continue
        found = mutation.check(*inputs)
        independent = compare_with_starved(mutation, variables, inputs)
        assert found.compared or not independent
        compared += independent
        before, restored = mutation.undo(mutation.variables)
        assert before == graph
        same_arrays(restored, variables)
        shapes = [
            np.shape(x) for x in tuple_of(mutation.graph.apply(mutation.variables, *inputs_after(mutation, inputs)))
        ]
        assert [shape[-1] for shape in shapes] == [mutation.graph.nout(v.name) for v in mutation.graph.outputs]
    assert compared, "every one of these changes was coupled or impossible"


def inputs_after(mutation, inputs):
    arrays = []
    for vertex, array in zip(mutation.before.inputs, inputs, strict=True):
        source = mutation.indices(vertex.name)
        arrays.append(array if vertex.op.whole else np.where(source < 0, 0, array[..., source]))
    return arrays


@pytest.mark.parametrize("block", range(5))
def test_growth_keeps_the_function(block):
    """New neurons are there and are not zero, but nobody listens to them yet; they can learn."""
    compared = 0
    for seed in range(1000 + 10 * block, 1010 + 10 * block):
        rng, graph, variables, inputs = made(seed)
        mutation = changed(rng, graph, variables, "grow", +1)
        if mutation is None or not any(axis.new.size for axis in mutation.plan.axes.values()):
            continue
        assert all(not axis.dropped.size for axis in mutation.plan.axes.values())
        mutation.check(*inputs)
        compared += compare_with_starved(mutation, variables, inputs)
        new_weights_are_random(mutation)
        before, restored = mutation.undo(mutation.variables)
        assert before == graph
        same_arrays(restored, variables)
        if block % 4 == 0:
            gradient_is_finite(mutation, inputs)
    assert compared


def new_weights_are_random(mutation):
    """Weights that make a new neuron from old ones are not zero; those by which old ones read it are."""
    arrays = flat(mutation.variables)
    for path, leaf in mutation.before.ties.leaves.items():
        if "in" not in leaf.roles:
            continue
        axes = [None if axis is None else mutation.plan.axes[axis] for axis in leaf.axes]
        made, array = leaf.roles.index("out"), np.asarray(arrays[path])
        if axes[made] is not None and axes[made].new.size:
            assert (np.abs(np.take(array, axes[made].new, axis=made)) > 0).mean() > 0.9
        for dim, axis in enumerate(axes):
            if leaf.roles[dim] == "in" and axis is not None and axis.new.size:
                by_old = array if axes[made] is None else np.take(array, np.flatnonzero(axes[made].source >= 0), made)
                assert not np.take(by_old, axis.new, axis=dim).any()


def gradient_is_finite(mutation, inputs):
    arrays = inputs_after(mutation, inputs)
    rest = {key: value for key, value in mutation.variables.items() if key != "params"}

    def loss(params):
        outputs = mutation.graph.apply({**rest, "params": params}, *arrays)
        return sum(jnp.sum(jnp.tanh(x)) for x in tuple_of(outputs))

    if "params" in mutation.variables:
        gradient = jax.grad(loss)(mutation.variables["params"])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_new_neurons_learn():
    """The zero weights that read a new neuron have a gradient, as the neuron itself is not zero."""
    x = nas.input_vertex("x", 4, shape=(4,))
    hidden = nas.invariant_vertex("act", jnp.tanh, nas.layer("hidden", nn.Dense(5), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    variables, (array,) = random_variables(graph), random_inputs(graph)
    grown, new = nas.delta_nout(graph, variables, {"hidden": 3})
    gradient = jax.grad(lambda v: jnp.sum(grown.apply(v, array) ** 2))(new)
    assert (np.abs(gradient["params"]["out"]["kernel"][5:]) > 0).all()


@pytest.mark.parametrize("seed", range(12))
def test_a_chain_of_changes_composes(seed):
    """Shrink, shrink again: the composed plan is the plan of both, and undoing both gives what there was."""
    rng, graph, variables, inputs = made(2000 + seed)
    first = changed(rng, graph, variables, "shrink", -1)
    if first is None:
        return
    second = changed(rng, first.graph, first.variables, "shrink", -1)
    if second is None:
        return
    both = second.plan @ first.plan
    for axis, plan in both.axes.items():
        np.testing.assert_array_equal(plan.source, first.indices(axis)[second.indices(axis)])
    assert second.graph.apply(second.variables, *inputs_after(second, inputs_after(first, inputs))) is not None
    same_arrays(first.undo(second.undo(second.variables)[1])[1], variables)
