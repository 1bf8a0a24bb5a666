"""Counts of parameters and operations, against those of the shapes that a trace of the changed network shows."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core as jex

import naivenas_jax as nas
from naivenas_jax.cost.operations import operations
from naivenas_jax.cost.parameters import parameters

TEXT = jnp.ones((2, 5, 8))
IMAGE = jnp.ones((2, 8, 8, 3))


def recounted(graph, variables, *inputs):
    """Multiply-accumulates by the shapes in the jaxpr; knows nothing of ties."""
    return walked(jax.make_jaxpr(graph.apply)(variables, *inputs).jaxpr)


def walked(jaxpr):
    total = 0
    for eqn in jaxpr.eqns:
        shapes = [v.aval.shape for v in eqn.invars]
        if eqn.primitive.name == "dot_general":
            over = eqn.params["dimension_numbers"][0][0]
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(shapes[0][d] for d in over)
        elif eqn.primitive.name == "conv_general_dilated":
            outer = shapes[1][eqn.params["dimension_numbers"].rhs_spec[0]]
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(shapes[1]) // outer
        inner = [p for p in jax.tree.leaves(dict(eqn.params), is_leaf=jaxpr_like) if jaxpr_like(p)]
        total += eqn.params.get("length", 1) * sum(walked(getattr(p, "jaxpr", p)) for p in inner)
    return total


def jaxpr_like(value):
    return isinstance(value, jex.Jaxpr | jex.ClosedJaxpr)


def sizes(graph):
    return {axis: graph.ties.size(axis) for axis in graph.ties.axes}


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(16, name="embed")(x)
        x = x + nn.MultiHeadDotProductAttention(4, name="attn")(nn.LayerNorm()(x))
        left, right = jnp.split(nn.Dense(24, name="gate")(x), 2, -1)
        return nn.Dense(3, name="head")(x + nn.Dense(16, name="down")(nn.gelu(left) * right))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(nn.RNN(nn.GRUCell(6, name="cell"))(x))


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x))
        x = jnp.concatenate([x, nn.Conv(4, (3, 3), feature_group_count=4, name="grouped")(x)], -1)
        return nn.Dense(2, name="head")(nn.Conv(6, (1, 1), strides=2, name="last")(x).reshape(x.shape[0], -1))


def imported(model, x):
    graph, variables = nas.from_linen(model, model.init(jax.random.key(0), x), x)
    return graph, variables, x


def handmade():
    x = nas.input_vertex("x", 3, shape=(8, 8, 3))
    stem = nas.layer("stem", nn.Conv(8, (3, 3)), x)
    both = nas.concat("both", stem, nas.layer("side", nn.Conv(5, (1, 1)), x))
    last = nas.layer("last", nn.Conv(6, (3, 3), strides=2), both)
    graph = nas.Graph(x, nas.layer("head", nn.Dense(2), nas.flatten("flat", last)))
    return graph, graph.init(jax.random.key(0), IMAGE), IMAGE


NETWORKS = {
    "attention": lambda: imported(Attention(), TEXT),
    "recurrent": lambda: imported(Recurrent(), TEXT),
    "convolutions": lambda: imported(Convolutions(), IMAGE),
    "handmade": handmade,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_counts_of_a_network_are_those_of_every_size_that_it_is_given(name):
    graph, variables, x = NETWORKS[name]()
    macs, params = operations(graph, variables, [x]).macs, parameters(graph.ties, variables)
    assert macs.at(sizes(graph)) == recounted(graph, variables, x)
    tried = 0
    for handle in graph.handles().values():
        if handle.name in {v.name for v in (*graph.inputs, *graph.outputs)} | {"head", "model"}:
            continue
        for change in (-1, 2):
            try:
                after, own = nas.delta_nout(graph, variables, {handle.name: nas.relaxed(change)})
            except nas.InfeasibleError:
                continue
            tried += 1
            assert macs.at(sizes(after)) == recounted(after, own, x)
            assert params.at(sizes(after)) == sum(map(np.size, jax.tree.leaves(own["params"])))
    assert tried >= 4


def test_the_public_counts():
    graph, variables, x = handmade()
    found = nas.costs(graph, variables, x)
    assert found.params == sum(a.size for a in jax.tree.leaves(variables))
    assert found.bytes == 4 * found.params
    assert found.macs == recounted(graph, variables, x)
    assert found.activation_bytes == 4 * 2 * (64 * (8 + 5) + 16 * 6 + 2)
    assert nas.costs(graph, variables) == nas.Costs(found.params, found.bytes)
    shapes = jax.eval_shape(lambda: variables)
    assert nas.costs(graph, shapes, jax.ShapeDtypeStruct(x.shape, x.dtype)) == found


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (lambda x: (x, x), nas.GraphError, "The graph has 1 input .*found 2 arrays"),
        (lambda x: ([x],), nas.GraphError, "must be an array; found list"),
        (lambda x: (None,), nas.GraphError, "must be an array; found NoneType"),
        (lambda x: (x[..., :-1],), nas.SizeMismatchError, "on the last axis; found an array of shape"),
        (lambda x: (3.0,), nas.SizeMismatchError, "on the last axis; found a single number"),
    ],
)
def test_inputs_are_read_as_those_of_an_evaluation(inputs, error, message):
    graph, variables, x = handmade()
    given = inputs(x)
    for function in (nas.costs, nas.measure_latency, nas.apply):
        with pytest.raises(error, match=message):
            function(graph, variables, *given)


def test_a_number_is_an_input_of_one_number_per_example():
    def scaled(variables, x, factor):
        return x @ variables["params"]["kernel"] * factor

    kernel = {"params": {"kernel": jnp.ones((3, 4))}}
    graph, variables = nas.from_function(scaled, kernel, jnp.ones((2, 3)), jnp.ones(()))
    assert graph.apply(variables, jnp.ones((2, 3)), 2.0).shape == (2, 4)
    assert nas.costs(graph, variables, jnp.ones((2, 3)), 2.0) == nas.Costs(12, 48, 24, 32)


WIDTHS = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "int8": 1, "complex64": 8}


@pytest.mark.parametrize("dtype", WIDTHS)
def test_bytes_of_variables_are_those_of_their_dtypes(dtype):
    graph = nas.Graph(x := nas.input_vertex("x", 3), nas.layer("dense", nn.Dense(5), x))
    own = jax.ShapeDtypeStruct((3, 5), jnp.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))
    variables = {"params": {"dense": {"kernel": own, "bias": np.zeros(5, np.float32)}}}
    found = nas.costs(graph, variables)
    assert (found.params, found.bytes) == (20, 15 * WIDTHS[dtype] + 5 * 4)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_bytes_of_activations_are_those_of_what_contractions_return(dtype):
    with jax.enable_x64(dtype == "float64"):
        variables = {"params": {"w": jnp.ones((3, 5), dtype), "v": jnp.ones((5, 2), dtype)}}
        x = jnp.ones((7, 3), dtype)
        graph, variables = nas.from_function(lambda v, x: x @ v["params"]["w"] @ v["params"]["v"], variables, x)
        found = nas.costs(graph, variables, x)
    assert found.activation_bytes == 7 * (5 + 2) * WIDTHS[dtype]
    assert found.macs == 7 * (3 * 5 + 5 * 2)


def test_a_result_may_be_wider_than_what_is_contracted():
    variables = {"params": {"w": jnp.ones((3, 5), jnp.int8)}}
    x = jnp.ones((7, 3), jnp.int8)

    def wide(variables, x):
        return jax.lax.dot(x, variables["params"]["w"], preferred_element_type=jnp.int32)

    graph, variables = nas.from_function(wide, variables, x)
    assert nas.costs(graph, variables, x).activation_bytes == 7 * 5 * 4


def looped(function, width=8, rows=2):
    """The counts of a function of one square matrix and some rows."""
    variables, x = {"params": {"k": jnp.ones((width, width))}}, jnp.ones((rows, width))
    graph, variables = nas.from_function(function, variables, x)
    return nas.costs(graph, variables, x), graph, variables, x


LOOPS = {
    "scan": lambda v, x: jax.lax.scan(lambda c, _: (c @ v["params"]["k"], None), x, None, length=6)[0],
    "unrolled": lambda v, x: jax.lax.scan(lambda c, _: (c @ v["params"]["k"], None), x, None, length=6, unroll=3)[0],
    "fori_loop": lambda v, x: jax.lax.fori_loop(0, 6, lambda _, c: c @ v["params"]["k"], x),
    "map": lambda v, x: jax.lax.map(lambda one: one @ v["params"]["k"], jnp.stack([x] * 6)).sum(0),
    "one in another": lambda v, x: jax.lax.fori_loop(
        0, 3, lambda _, c: jax.lax.fori_loop(0, 2, lambda _, c: c @ v["params"]["k"], c), x
    ),
    "under remat": lambda v, x: jax.lax.fori_loop(
        0, 6, lambda _, c: jax.checkpoint(jnp.matmul)(c, v["params"]["k"]), x
    ),
}


@pytest.mark.parametrize("function", LOOPS.values(), ids=LOOPS)
def test_a_loop_counts_as_often_as_it_runs(function):
    """As the same written out, and budgets count it so."""
    found, graph, variables, x = looped(function)

    def written_out(v, x):
        for _ in range(6):
            x = x @ v["params"]["k"]
        return x

    assert found == looped(written_out)[0]
    assert found.activation_bytes == 6 * 2 * 8 * 4
    with pytest.raises(nas.NaiveNASError, match="max_activation_bytes"):
        nas.resize(graph, variables, max_activation_bytes=found.activation_bytes - 1, inputs=x)
    assert nas.resize(graph, variables, max_activation_bytes=found.activation_bytes, inputs=x).gap == 0


def test_a_recurrent_layer_counts_every_step():
    x = nas.input_vertex("x", 3, shape=(7, 3))
    graph = nas.Graph(x, nas.layer("rnn", nn.RNN(nn.SimpleCell(5)), x))
    given = jnp.ones((2, 7, 3))
    found = nas.costs(graph, graph.init(jax.random.key(0), given), given)
    assert found.macs == 7 * 2 * (3 * 5 + 5 * 5)
    assert found.activation_bytes == 7 * 2 * (5 + 5) * 4


class TestWhatIsKnown:
    """A network is traced to be counted once for each shape of its inputs, and initialisers are not run for that."""

    def network(self, calls, inits):
        def counted(x):
            calls.append(x.shape)
            return jnp.tanh(x)

        def init(key, shape, dtype=jnp.float32):
            inits.append(shape)
            return jnp.ones(shape, dtype)

        x = nas.input_vertex("x", 3)
        hidden = nas.layer("a", nn.Dense(8, kernel_init=init), x)
        graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.invariant_vertex("act", counted, hidden)))
        return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))

    def test_equal_shapes_are_traced_once(self):
        calls, inits = [], []
        graph, variables = self.network(calls, inits)
        del calls[:], inits[:]
        first = nas.costs(graph, variables, jnp.ones((2, 3)))
        assert (len(calls), inits) == (1, [])
        assert nas.costs(nas.Graph(graph.inputs, graph.outputs), variables, jnp.zeros((2, 3))) == first
        assert len(calls) == 1
        assert nas.costs(graph, variables, jnp.ones((4, 3))).macs == 2 * first.macs
        half = jax.tree.map(lambda array: array.astype(jnp.bfloat16), variables)
        assert nas.costs(graph, half, jnp.ones((2, 3), jnp.bfloat16)).activation_bytes < first.activation_bytes
        assert len(calls) == 3

    def test_a_wrong_input_is_refused_all_the_same(self):
        graph, variables = self.network([], [])
        nas.costs(graph, variables, jnp.ones((2, 3)))
        with pytest.raises(nas.NaiveNASError):
            nas.costs(graph, variables, jnp.ones((2, 3)), jnp.ones((2, 3)))

    def test_what_a_budget_counts_again_is_not_tried_again(self):
        calls = []
        graph, variables = self.network(calls, [])
        nas.costs(graph, variables, jnp.ones((2, 3)))
        del calls[:]
        mutation = nas.resize(graph, variables, max_macs=0.5, inputs=jnp.ones((2, 3)))
        assert [shape for shape in calls if shape[0] == 2] == [(2, mutation.graph.nout("a"))]

    def test_parameters_of_another_shape_are_refused_by_flax(self):
        graph, variables = self.network([], [])
        wrong = {"params": {**variables["params"], "a": {"kernel": jnp.ones((3, 7)), "bias": jnp.ones(8)}}}
        with pytest.raises(Exception, match="shape"):
            graph.apply(wrong, jnp.ones((2, 3)))
