"""Random mutations are legal, stay within their space, and follow from the key."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

X = jnp.ones((4, 8))


def network():
    x = nas.input_vertex("x", 8)
    h = nas.invariant_vertex("act", nn.relu, nas.layer("hidden", nn.Dense(16), x))
    h2 = nas.invariant_vertex("act2", nn.gelu, nas.layer("hidden2", nn.Dense(16), h))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), nas.concat("cat", (h + h2).named("sum"), h)))
    return graph, graph.init(jax.random.key(0), X)


def test_the_key_decides():
    graph, variables = network()
    first, again = (nas.random_mutation(graph, variables, jax.random.key(3)) for _ in range(2))
    assert first.graph == again.graph
    assert first.notes == again.notes
    jax.tree.map(np.testing.assert_array_equal, first.variables, again.variables)
    others = {nas.random_mutation(graph, variables, jax.random.key(i)).notes[0] for i in range(8)}
    assert len(others) > 4


def test_protected_parts_stay():
    graph, variables = network()
    space = nas.SearchSpace(protected=("hidden", "act*"))
    for number in range(10):
        mutation = nas.random_mutation(graph, variables, jax.random.key(number), space=space)
        assert mutation.graph.nout("hidden") == 16
        assert {"act", "act2"} <= {v.name for v in mutation.graph}
        assert mutation.graph["act2"].op == graph["act2"].op


def test_sizes_are_on_the_ladder():
    graph, variables = network()
    space = nas.SearchSpace(sizes={"hidden": [4, 12, 16, 40]})
    kinds = {"width_up": 1, "width_down": 1}
    seen = set()
    for number in range(12):
        mutation = nas.random_mutation(graph, variables, jax.random.key(number), kinds, space=space)
        seen.add(mutation.graph.nout("hidden"))
    assert seen == {4, 12, 40}


def test_nothing_to_change_says_what_was_tried():
    graph, variables = network()
    with pytest.raises(nas.NoMutationError, match="kernel: there is nothing of this kind") as caught:
        nas.random_mutation(graph, variables, jax.random.key(0), {"kernel": 1, "width_up": 0})
    assert set(caught.value.tried) == {"kernel"}


def test_an_output_keeps_its_shape():
    x = nas.input_vertex("x", 3, shape=(4, 4, 3))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.flatten("flat", nas.layer("conv", nn.Conv(4, (3, 3)), x))))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    for number in range(4):
        mutation = nas.random_mutation(graph, variables, jax.random.key(number), {"removal": 1})
        assert "flat" in mutation.graph


def test_edges_are_drawn_among_those_that_may_be_created():
    """The sum has a fixed width: what may be read by it is one vertex, and by the concatenation three."""
    x = nas.input_vertex("x", 4)
    a, b = nas.layer("a", nn.Dense(5), x), nas.layer("b", nn.Dense(6), x)
    total = nas.immutable_vertex("frozen", jnp.flip, (x + x).named("sum"), nout=4)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", total, nas.layer("c", nn.Dense(4), a), b)))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 4)))
    new = {(s, t) for s, t in graph.legal_edges() if s not in graph.inputs_of(t)}
    assert len(new) > 2
    seen = set()
    for number in range(30):
        mutation = nas.random_mutation(graph, variables, jax.random.key(number), "edge_in")
        target, source = mutation.notes[0].removeprefix("edge_in: ").removesuffix(" as well").split(" reads ")
        seen.add((source.strip("'"), target.strip("'")))
    assert seen == new


def test_a_kind_without_a_possibility_is_not_drawn():
    x = nas.input_vertex("x", 3)
    hidden = nas.layer("hidden", nn.Dense(8), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    kinds = {"edge_in": 100, "edge_out": 100, "kernel": 100, "width_up": 1}
    drawn = {nas.random_mutation(graph, variables, jax.random.key(n), kinds).kind for n in range(5)}
    assert drawn == {"width_up"}
