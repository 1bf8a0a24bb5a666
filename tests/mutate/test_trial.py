"""`inputs=`: a changed graph is tried on shapes before it is handed out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import naivenas_jax as nas

IMAGE = jnp.ones((2, 8, 8, 3))


def network():
    x = nas.input_vertex("x", 3)
    stem = nas.layer("stem", nn.Conv(6, (3, 3)), x)
    mean = nas.invariant_vertex("mean", lambda x: x.mean((1, 2)), stem)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), mean))
    return graph, graph.init(jax.random.key(0), IMAGE)


def test_every_verb_takes_inputs():
    graph, variables = network()
    assert nas.delta_nout(graph, variables, {"stem": -2}, inputs=IMAGE).graph.nout("stem") == 4
    assert nas.delta_nin(graph, variables, {"out": -2}, inputs=(IMAGE,)).graph.nout("stem") == 4
    shape = jax.ShapeDtypeStruct(IMAGE.shape, IMAGE.dtype)
    inserted = nas.insert_vertex(graph, variables, "mean", lambda v: nas.layer("new", nn.Dense(6), v), inputs=shape)
    assert nas.remove_vertex(*inserted, "new", inputs=shape).graph == graph
    fewer = nas.delta_nout(graph, variables, {"x": -1}, inputs=IMAGE)  # the input is narrower afterwards
    assert fewer.graph.nin("stem") == (2,)


def test_what_cannot_be_computed_is_refused():
    graph, variables = network()

    with pytest.raises(nas.StructureError, match=r"cannot be computed on inputs of shapes \[\(2, 3\)\].*'stem'"):
        nas.delta_nout(graph, variables, {"stem": -2}, inputs=jnp.ones((2, 3)))
    with pytest.raises(nas.GraphError, match=r"one array or shape per input of the graph \(x\), found 2"):
        nas.delta_nout(graph, variables, {"stem": -2}, inputs=(IMAGE, IMAGE))
