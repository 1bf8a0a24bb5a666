"""Budgets on the operations of parts: counted again by formulas, on the arrays that come out."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.cost.operations import operations

IMAGE = jnp.ones((2, 8, 8, 3))
TEXT = jnp.ones((2, 5, 8))
HALF = 0.5


def macs_of(part, graph, variables, *inputs):
    return operations(graph, variables, inputs).of(part).macs.at(graph.ties.sizes)


def bytes_of(part, graph, variables, *inputs):
    return operations(graph, variables, inputs).of(part).activation_bytes.at(graph.ties.sizes)


def kernel(variables, *path):
    """The number of entries of a kernel, read off its shape."""
    for name in ("params", *path, "kernel"):
        variables = variables[name]
    return math.prod(variables.shape)


# -- vertices written by hand -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    x = nas.input_vertex("x", 3, shape=(8, 8, 3))
    stem = nas.invariant_vertex("relu", nn.relu, nas.layer("stem", nn.Conv(12, (3, 3)), x))
    depthwise = nas.layer("depthwise", nn.Conv(12, (3, 3), feature_group_count=12), stem)
    grouped = nas.layer("grouped", nn.Conv(16, (3, 3), strides=2, feature_group_count=4), depthwise)
    flat = nas.flatten("flat", nas.layer("inner", nn.Conv(10, (1, 1)), grouped))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(5), nas.layer("hidden", nn.Dense(20), flat)))
    return graph, graph.init(jax.random.key(0), IMAGE)


#: How often every entry of a kernel is multiplied, for two images.
USES = {"stem": 128, "depthwise": 128, "grouped": 32, "inner": 32, "hidden": 2, "out": 2}
PLACES = {"stem": 64, "depthwise": 64, "grouped": 16, "inner": 16, "hidden": 1, "out": 1}


def by_hand(part, variables):
    return USES[part] * kernel(variables, part)


@pytest.mark.parametrize("part", USES)
def test_the_operations_of_a_layer_are_halved_and_no_more_would_fit(network, part):
    graph, variables = network
    bound = by_hand(part, variables) // 2
    mutation = nas.resize(graph, variables, max_macs={part: HALF}, inputs=IMAGE)
    assert macs_of(part, graph, variables, IMAGE) == by_hand(part, variables)
    assert bound / 2 < by_hand(part, mutation.variables) <= bound  # groups go as a whole
    assert mutation.check(IMAGE).compared
    report = nas.report(mutation, IMAGE).to_dict()["handles"]
    shrunk = [name for name in ("grouped", "inner", "hidden") if report[name]["after"] < report[name]["before"]]
    assert all(f"max_macs of {part!r}" in report[name]["bound_by"] for name in shrunk)


@pytest.mark.parametrize("part", ["grouped", "inner", "hidden"])
def test_what_the_contractions_of_a_layer_return(network, part):
    graph, variables = network
    mutation = nas.resize(graph, variables, max_activation_bytes={part: HALF}, inputs=IMAGE)
    assert bytes_of(part, graph, variables, IMAGE) == 4 * 2 * PLACES[part] * graph.nout(part)
    assert mutation.graph.nout(part) == graph.nout(part) // 2


def test_several_parts_and_the_whole_hold_together(network):
    graph, variables = network
    limits = {"inner": 0.5, "hidden": 1000, "": 0.6}
    mutation = nas.resize(graph, variables, max_macs=limits, max_params=0.7, inputs=IMAGE)
    whole = [sum(by_hand(part, own) for part in USES) for own in (variables, mutation.variables)]
    assert whole[0] == nas.costs(graph, variables, IMAGE).macs
    assert whole[1] <= 0.6 * whole[0]
    assert by_hand("inner", mutation.variables) <= 0.5 * by_hand("inner", variables)
    assert by_hand("hidden", mutation.variables) <= 1000
    assert nas.costs(*mutation).params <= 0.7 * nas.costs(graph, variables).params


@pytest.mark.parametrize("seed", range(12))
def test_the_best_of_all_widths(seed):
    rng = np.random.default_rng(seed)
    names, widths = ("a", "b", "c"), rng.integers(3, 8, 3).tolist()
    x = nas.input_vertex("x", 4, shape=(4,))
    vertex = x
    for name, width in zip(names, widths, strict=True):
        vertex = nas.layer(name, nn.Dense(width), vertex)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(3), vertex))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 4)))
    utility = {name: rng.uniform(0.1, 1, width) for name, width in zip(names, widths, strict=True)}

    def macs(sizes):
        a, b, c = sizes
        return {"a": 4 * a, "b": a * b, "c": b * c, "out": 3 * c, "": 4 * a + a * b + b * c + 3 * c}

    limits = {part: float(rng.uniform(0.4, 0.9)) for part in rng.choice(["a", "b", "c", "out", ""], 2, replace=False)}
    now = macs(widths)
    feasible = [
        sizes
        for sizes in itertools.product(*(range(1, width + 1) for width in widths))
        if all(macs(sizes)[part] <= int(share * now[part]) for part, share in limits.items())
    ]
    kept = [sum(np.sort(utility[n])[::-1][:k].sum() for n, k in zip(names, sizes, strict=True)) for sizes in feasible]
    mutation = nas.resize(graph, variables, max_macs=limits, utility=utility)
    assert tuple(mutation.graph.nout(name) for name in names) in feasible
    found = sum(utility[name][mutation.indices(name)].sum() for name in names)
    assert found == pytest.approx(max(kept), rel=1e-9)
    assert mutation.gap <= 1e-9


def test_a_function_of_two_activations_is_a_part_by_itself():
    x = nas.input_vertex("x", 8)
    left, right = (nas.layer(name, nn.Dense(6), x) for name in ("left", "right"))
    scores = nas.immutable_vertex("scores", lambda a, b: a @ jnp.swapaxes(b, -1, -2), left, right, nout=5)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), scores))
    variables = graph.init(jax.random.key(0), TEXT)
    assert macs_of("scores", graph, variables, TEXT) == 2 * 5 * 5 * 6
    assert macs_of("left", graph, variables, TEXT) == 2 * 5 * 8 * 6
    with pytest.raises(nas.InfeasibleError, match="max_macs of 'scores' <= 150"):
        nas.resize(graph, variables, max_macs={"scores": 0.5}, inputs=TEXT)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_attention_as_a_vertex(kind):
    x = nas.input_vertex("x", 8)
    if kind == "linen":
        layer = nn.MultiHeadDotProductAttention(4)
    else:
        layer = nnx.MultiHeadAttention(4, 8, decode=False, rngs=nnx.Rngs(0))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("attention", layer, x)))
    variables = graph.init(jax.random.key(0), TEXT)
    mutation = nas.resize(graph, variables, max_macs={"attention": 0.7}, inputs=TEXT)
    for graph_, own in ((graph, variables), tuple(mutation)):
        assert macs_of("attention", graph_, own, TEXT) == of_attention(own["params"]["attention"])
        assert macs_of("attention/query", graph_, own, TEXT) == 10 * kernel(own, "attention", "query")
    before, after = (of_attention(own["params"]["attention"]) for own in (variables, mutation.variables))
    assert 0.4 * before < after <= 0.7 * before


def of_attention(own, batch=2, length=5):
    """Four projections, and two products of queries, keys and values, by the shapes of kernels."""
    projections = sum(own[name]["kernel"].size for name in ("query", "key", "value", "out"))
    between = sum(math.prod(own[name]["kernel"].shape[1:]) for name in ("query", "value"))
    return batch * length * projections + batch * length * length * between


# -- imported models ----------------------------------------------------------------------------------------------


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(4, name="attention")(nn.LayerNorm(name="norm")(x))
        return x + nn.Dense(x.shape[-1], name="down")(nn.relu(nn.Dense(12, name="up")(x)))


class Encoder(nn.Module):
    kind: type = Block

    @nn.compact
    def __call__(self, x):
        return self.kind(name="block_1")(self.kind(name="block_0")(x))


class Text(nn.Module):
    kind: type = Block

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(Encoder(self.kind, name="encoder")(nn.Dense(16, name="embed")(x)))


class NnxBlock(nnx.Module):
    def __init__(self, width, rngs):
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 12, rngs=rngs), nnx.Linear(12, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.down(nnx.relu(self.up(x)))


class NnxEncoder(nnx.Module):
    def __init__(self, width, rngs):
        self.block_0, self.block_1 = NnxBlock(width, rngs), NnxBlock(width, rngs)

    def __call__(self, x):
        return self.block_1(self.block_0(x))


class NnxText(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.head = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)
        self.encoder = NnxEncoder(16, rngs)

    def __call__(self, x):
        return self.head(self.encoder(self.embed(x)))


def linen(model, x):
    return nas.from_linen(model, model.init(jax.random.key(0), x), x)


MODELS = {
    "linen": lambda: linen(Text(), TEXT),
    "remat": lambda: linen(Text(nn.remat(Block)), TEXT),
    "nnx": lambda: nas.from_nnx(NnxText(nnx.Rngs(0)), TEXT),
}


@pytest.mark.parametrize("name", MODELS)
def test_modules_inside_modules(name):
    graph, variables = MODELS[name]()

    def checked(graph, variables):
        blocks = variables["params"]["encoder"]
        found = {"embed": 10 * kernel(variables, "embed"), "head": 10 * kernel(variables, "head"), "encoder": 0}
        for path in ("block_0", "block_1"):
            own = found[f"encoder/{path}/attention"] = of_attention(blocks[path]["attention"])
            found[f"encoder/{path}"] = own + 10 * sum(blocks[path][end]["kernel"].size for end in ("up", "down"))
            found["encoder"] += found[f"encoder/{path}"]
        assert {part: macs_of(part, graph, variables, TEXT) for part in found} == found
        assert nas.costs(graph, variables, TEXT).macs == found["embed"] + found["head"] + found["encoder"]
        return found

    before = checked(graph, variables)
    limits = {"encoder/block_0/attention": 0.5, "encoder/block_0": 0.6, "encoder": 0.7, "head": 1.0}
    mutation = nas.resize(graph, variables, max_macs=limits, inputs=TEXT)
    after = checked(*mutation)
    assert all(after[part] <= share * before[part] for part, share in limits.items())
    assert after["encoder"] > 0.5 * before["encoder"]
    again = nas.resize(*mutation, max_macs={"encoder/block_1": 0.9}, inputs=TEXT)  # names survive a mutation
    assert checked(*again)["encoder/block_1"] <= 0.9 * after["encoder/block_1"]


@pytest.mark.parametrize("groups", [1, 2])
def test_heads_that_are_split_by_a_reshape(groups):
    """The size of a head is that of no variable's dimension, but a factor of one; with groups, a factor of a factor."""

    class Split(nn.Module):
        @nn.compact
        def __call__(self, x):
            rows = x.shape[:2]
            q = nn.Dense(12, name="query")(x).reshape(*rows, 2, groups, -1)
            k, v = (nn.Dense(12 // groups, name=name)(x).reshape(*rows, 2, -1) for name in ("key", "value"))
            shares = nn.softmax(jnp.einsum("bthgd,bshd->bhgts", q, k))
            return nn.Dense(8, name="out")(jnp.einsum("bhgts,bshd->bthgd", shares, v).reshape(*rows, -1))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="head")(x + Split(name="split")(x))

    def by_hand(variables):
        own = {name: part["kernel"] for name, part in variables["params"]["split"].items()}
        products = own["query"].shape[1] + own["out"].shape[0]
        return 10 * sum(kernel.size for kernel in own.values()) + 2 * 5 * 5 * products

    graph, variables = linen(Model(), TEXT)
    assert macs_of("split", graph, variables, TEXT) == by_hand(variables)
    mutation = nas.resize(graph, variables, max_macs={"split": 0.7}, inputs=TEXT)
    assert macs_of("split", *mutation, TEXT) == by_hand(mutation.variables)
    assert 0.4 * by_hand(variables) < by_hand(mutation.variables) <= 0.7 * by_hand(variables)
    for handle in ("split/query:1", "split/key:1", "split/value:1"):
        if handle in graph.handles():
            narrower = nas.delta_nout(graph, variables, {handle: -1})
            assert macs_of("split", *narrower, TEXT) == by_hand(narrower.variables) < by_hand(variables)


def test_methods_of_nnx_modules_compute_in_them():
    class Table(nnx.Module):
        def __init__(self, rngs):
            self.table = nnx.Param(jax.random.normal(rngs.params(), (20, 8)))

        def encode(self, tokens):
            return self.table[...][tokens]

        def decode(self, x):
            return x @ self.table[...].T

    class Mixer(nnx.Module):
        def __init__(self, rngs):
            self.parts = nnx.Dict(up=nnx.Linear(8, 6, rngs=rngs), down=nnx.List([nnx.Linear(5, 8, rngs=rngs)]))

        def mixed(self, x):
            x = self.parts["up"](x)
            return self.parts["down"][0](x @ jnp.swapaxes(x, -1, -2))

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.table, self.mixer = Table(rngs), Mixer(rngs)

        def __call__(self, tokens):
            return self.table.decode(self.mixer.mixed(self.table.encode(tokens)))

    tokens = jnp.ones((2, 5), int)
    graph, variables = nas.from_nnx(Model(nnx.Rngs(0)), tokens)
    assert macs_of("table", graph, variables, tokens) == 10 * 8 * 20
    assert macs_of("mixer/parts/up", graph, variables, tokens) == 10 * 8 * 6
    assert macs_of("mixer", graph, variables, tokens) == 10 * 8 * 6 + 2 * 25 * 6 + 10 * 5 * 8
    mutation = nas.resize(graph, variables, max_macs={"mixer": 0.5}, inputs=tokens)
    rebuilt = nas.rebuild(Model(nnx.Rngs(0)), mutation)
    assert jnp.allclose(rebuilt(tokens), mutation.graph.apply(mutation.variables, tokens), atol=1e-5)


def test_layers_of_a_scan_count_as_often_as_they_run():
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
            return nn.Dense(2, name="head")(layers(name="layers")(x, None)[0])

    class Step(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.MultiHeadDotProductAttention(2, name="attention")(x), None

    graph, variables = linen(Stack(), TEXT)
    own = variables["params"]["layers"]["attention"]
    single = jax.tree.map(lambda array: array[0], own)
    assert macs_of("layers", graph, variables, TEXT) == 3 * of_attention(single)
    assert macs_of("layers/attention/query", graph, variables, TEXT) == 3 * 10 * 8 * 8
    found = nas.resize(graph, variables, max_macs={"layers": 0.6}, inputs=TEXT)
    assert macs_of("layers", *found, TEXT) <= 0.6 * 3 * of_attention(single)


@pytest.mark.parametrize("how", ["attend", "array"])
def test_weights_that_are_lent_count_each_use(how):
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, x):
            embed = nn.Embed(20, 8, name="embed")
            x = nn.Dense(8, name="dense")(embed(x))
            return embed.attend(x) + (x @ embed.embedding.T if how == "array" else embed.attend(2 * x))

    tokens = jnp.ones((2, 5), jnp.int32)
    graph, variables = linen(Tied(), tokens)
    assert macs_of("embed", graph, variables, tokens) == 2 * 10 * 8 * 20
    found = nas.resize(graph, variables, max_macs={"embed": 0.5}, inputs=tokens)
    assert found.variables["params"]["embed"]["embedding"].shape == (20, 4)


def test_a_part_counts_the_modules_that_it_calls():
    class Caller(nn.Module):
        shared: nn.Module

        @nn.compact
        def __call__(self, x):
            return nn.Dense(8, name="own")(self.shared(x))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            shared = nn.Dense(8, name="shared")
            return Caller(shared, name="second")(Caller(shared, name="first")(x))

    graph, variables = linen(Model(), TEXT)
    once = 10 * 8 * 8
    wanted = {"shared": 2 * once, "first": 2 * once, "second": 2 * once, "first/own": once, "": 4 * once}
    assert {part: macs_of(part, graph, variables, TEXT) for part in wanted} == wanted


def test_of_weights_made_of_several_variables_only_what_all_lie_under():
    def function(variables, x):
        own = variables["params"]
        kernel = own["dense"]["kernel"] + own["dense"]["a"] @ own["dense"]["b"]
        scaled = (kernel * own[place]["s"]).T.reshape(1, 8, 6)[0].T.astype(jnp.float32)
        return x @ scaled @ own["out"]["kernel"]

    x, scale = jnp.ones((4, 6)), {"s": jnp.ones(8)}
    dense = {"kernel": jnp.ones((6, 8)), "a": jnp.ones((6, 2)), "b": jnp.ones((2, 8))}
    plain = {"dense": dense, "out": {"kernel": jnp.ones((8, 3))}}
    place = "dense"
    own = nas.from_function(function, {"params": {**plain, "dense": {**dense, **scale}}}, x)
    assert macs_of("dense", *own, x) == 6 * 2 * 8 + 4 * 6 * 8
    place = "scale"
    of_two = nas.from_function(function, {"params": {**plain, "scale": scale}}, x)
    assert macs_of("dense", *of_two, x) == macs_of("dense/a", *of_two, x) == 6 * 2 * 8
    assert macs_of("out", *of_two, x) == 4 * 8 * 3
    message = "no matrix product or convolution takes weights of 'scale'.*: 'dense', 'out'"
    with pytest.raises(nas.BudgetError, match=message):
        nas.resize(*of_two, max_macs={"scale": 0.5}, inputs=x)


def test_a_jitted_function_belongs_to_each_that_calls_it():
    @jax.jit
    def mixed(x):
        return jnp.einsum("btd,bsd->bts", x, x)

    class Mixer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return mixed(nn.Dense(6, name="dense")(x)) @ x

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="head")(Mixer(name="b")(Mixer(name="a")(x)))

    graph, variables = linen(Two(), TEXT)
    for part in "ab":
        assert macs_of(part, graph, variables, TEXT) == 10 * 8 * 6 + 2 * 25 * 6 + 2 * 25 * 8


def test_a_query_that_is_learned_takes_part_where_it_is_used():
    class Pool(nn.Module):
        @nn.compact
        def __call__(self, x):
            probe = self.param("probe", nn.initializers.normal(), (1, 3, 8))
            return nn.MultiHeadDotProductAttention(2, name="attention")(jnp.tile(probe, (2, 1, 1)), x)

    graph, variables = linen(Pool(), TEXT)
    queries, keys, products = 2 * 3 * 64, 2 * 5 * 64, 2 * 3 * 5 * 8
    assert macs_of("attention", graph, variables, TEXT) == 2 * queries + 2 * keys + 2 * products
    assert macs_of("attention/query", graph, variables, TEXT) == macs_of("probe", graph, variables, TEXT) == queries


def test_of_branches_that_with_the_most_of_the_part():
    def function(variables, x):
        small, large, last = (variables["params"][name]["kernel"] for name in shapes)
        return jax.lax.cond(x.sum() > 0, lambda x: x @ small, lambda x: x @ large @ last, x)

    shapes = {"small": (6, 3), "large": (6, 8), "last": (8, 3)}
    variables = {"params": {name: {"kernel": jnp.ones(shape)} for name, shape in shapes.items()}}
    x = jnp.ones((4, 6))
    graph, variables = nas.from_function(function, variables, x)
    assert {part: macs_of(part, graph, variables, x) for part in ("small", "large", "")} == {
        "small": 4 * 18,
        "large": 4 * 48,
        "": 4 * (48 + 24),
    }


@pytest.mark.parametrize("before", [False, True])
def test_modules_that_share_a_trace_cannot_be_told_apart(before):
    model = Text(nn.jit(Block))
    variables = model.init(jax.random.key(0), TEXT)
    if before:
        model.apply(variables, TEXT)  # the trace is there already, without names
    graph, variables = nas.from_linen(model, variables, TEXT)
    table = nas.measure_latency(graph, variables, TEXT, timer=clock, fractions=(1.0,))
    for limit in ({"max_macs": {"encoder": 0.5}}, {"max_latency": {"head": 0.5}, "latency": table}):
        with pytest.raises(nas.BudgetError, match=r"Where 'encoder/block_[01]/.*' computes cannot.*without nn\.jit"):
            nas.resize(graph, variables, **limit, inputs=TEXT)
    found = nas.resize(graph, variables, max_macs={"": 0.5}, max_params={"encoder": 0.5}, inputs=TEXT)
    assert nas.costs(*found, TEXT).macs <= 0.5 * nas.costs(graph, variables, TEXT).macs


def test_what_is_inserted_is_a_part():
    graph, variables = linen(Text(), TEXT)
    mutation = nas.insert_vertex(graph, variables, "embed", lambda v: nas.layer("more", nn.Dense(16), v))
    assert macs_of("more", *mutation, TEXT) == 10 * 16 * 16
    own = mutation.variables["params"]["encoder"]["block_0"]["attention"]
    assert macs_of("encoder/block_0/attention", *mutation, TEXT) == of_attention(own)


# -- what else takes budgets --------------------------------------------------------------------------------------


def test_compress_and_gradual_keep_to_parts(network):
    graph, variables = network
    limits = {"inner": 0.5, "hidden": 0.4}
    data = jax.random.normal(jax.random.key(1), (16, 8, 8, 3))
    found = nas.compress(graph, variables, [data], max_macs=limits, inputs=IMAGE, steps=2, refine=0)
    schedule = nas.gradual(graph, variables, end=2, max_macs=limits, max_activation_bytes={"inner": 0.6}, inputs=IMAGE)
    small, own = graph, variables
    for step in range(3):
        small, own, _ = schedule.prune(step, small, own)
    for after in (found.variables, own):
        for part, share in limits.items():
            assert share * 0.6 < by_hand(part, after) / by_hand(part, variables) <= share
    assert small.nout("inner") <= 6


def test_growth_within_the_operations_of_a_part(network):
    graph, variables = network
    larger = nas.resize(graph, variables, max_macs={"hidden": 2.0}, grow=True, inputs=IMAGE)
    assert 1.9 < by_hand("hidden", larger.variables) / by_hand("hidden", variables) <= 2.0
    assert larger.graph.nout("stem") == graph.nout("stem")  # no budget counts it


def clock(fn, arrays):
    """Shows the multiply-accumulates of a product or a convolution without groups."""
    per_entry = arrays[0].shape[-1] if arrays[1].ndim == 2 else math.prod(arrays[1].shape[:-1])
    return float(math.prod(jax.eval_shape(fn, *arrays).shape) * per_entry)


def test_latency_of_one_part_by_a_table(network):
    graph, variables = network
    table = nas.measure_latency(graph, variables, IMAGE, timer=clock)
    assert table.of("inner")(graph) == by_hand("inner", variables)
    assert [table.of(part)(graph) for part in USES] == [layer.at(graph.ties.sizes) for layer in table.layers]
    mutation = nas.resize(graph, variables, max_latency={"inner": 0.5}, latency=table)
    assert 0.4 < by_hand("inner", mutation.variables) / by_hand("inner", variables) <= 0.5
    assert mutation.notes[-1].startswith("max_latency of 'inner': ")
    for limit, latency, message in (
        ({"inner": 0.5}, table.at, "max_latency of a part needs a table"),
        ({"inner": 0.5, "stem": 0.5}, table, "max_latency is one limit, which a search keeps"),
        ({}, table, "max_latency is one limit"),
        ({"inner": -1}, table, "max_latency must be a float"),
        ({"flat": 0.5}, table, "the latency of 'flat': no matrix product.*'depthwise', 'grouped'"),
    ):
        with pytest.raises(nas.BudgetError, match=message):
            nas.resize(graph, variables, max_latency=limit, latency=latency)


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        ({"steam": 0.5}, nas.UnknownNameError, "max_macs: .*'steam'.*'stem'"),
        ({"relu": 0.5}, nas.BudgetError, "max_macs of 'relu': no matrix product.*'relu', or is computed in it"),
        ({"flat": 0.5}, nas.BudgetError, "have some: 'depthwise', 'grouped', 'hidden', 'inner', 'out', 'stem'"),
        ({"stem/bias": 0.5}, nas.BudgetError, "takes weights of 'stem/bias'"),
        ({"stem": True}, nas.BudgetError, "max_macs of 'stem' must be a whole number.*found True"),
        ({"stem": "half"}, nas.BudgetError, "found 'half'"),
        ({3: 0.5}, nas.BudgetError, "max_macs of parts maps names to limits; found 3"),
        ({"stem": 1}, nas.InfeasibleError, "max_macs of 'stem' <= 1"),
    ],
)
def test_parts_that_cannot_be_limited(network, limit, error, message):
    with pytest.raises(error, match=message):
        nas.resize(*network, max_macs=limit, inputs=IMAGE)


def test_a_vertex_without_variables_is_known(network):
    with pytest.raises(
        nas.BudgetError, match=r"max_params of 'flat': it has no variables\. Parts that have some: 'dep"
    ):
        nas.resize(*network, max_params={"flat": 0.5})


def test_scopes_of_others_do_not_matter():
    class Named(nn.Module):
        @nn.compact
        def __call__(self, x):
            with jax.named_scope("head"):
                x = nn.Dense(6, name="first")(x) @ jnp.ones((6, 4))
            return nn.Dense(2, name="head")(x)

    graph, variables = linen(Named(), TEXT)
    assert macs_of("head", graph, variables, TEXT) == 10 * 4 * 2
    assert macs_of("first", graph, variables, TEXT) == 10 * 8 * 6
    assert nas.costs(graph, variables, TEXT).macs == 10 * (8 * 6 + 6 * 4 + 4 * 2)


def test_the_compiled_network_shows_where_it_computes():
    graph, variables = linen(Text(), TEXT)
    text = jax.jit(graph.apply).lower(variables, TEXT).compile().as_text()
    assert "~encoder/block_0/attention" in text
