"""Chains of ten random mutations, structural ones included.

Every step is checked as a user would find out: shapes, numbers, gradients, training mode, optimizer state, the
comparison with the masked original, the plan as a value, and undo.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from strategies import global_mean, max_pool_1d, positive, random_graph, random_inputs, random_request, random_variables

import naivenas_jax as nas
from naivenas_jax.graph.vertices.output_shapes import shape_of
from naivenas_jax.transfer.carrying.carry import carry

LENGTH = 10
STRUCTURE = ("insert_vertex", "remove_vertex", "create_edge", "remove_edge")
OPTIMIZERS = {"adam": optax.adam(1e-3), "momentum": optax.sgd(1e-3, momentum=0.9)}
#: The programs are run once, so that compiling them well is wasted.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclass
class Chain:
    """A network that is mutated again and again, and what comes along.

    Attributes:
      states: optimizer states by name.
      marks: a tree like the variables at the start with a number of its own in every entry, carried along.
      start: graph, variables and marks of the beginning.
      steps: the mutations so far.
      seen: how often which verb succeeded ("ok"), was refused ("no"), and how many steps were "compared".
    """

    rng: random.Random
    graph: nas.Graph
    variables: Any
    trained: bool
    images: bool
    states: dict[str, Any] = field(default_factory=dict)
    marks: Any = None
    start: tuple[nas.Graph, Any, Any] = ()  # type: ignore[assignment]
    steps: list[nas.Mutation] = field(default_factory=list)
    seen: Counter = field(default_factory=Counter)
    names: int = 0

    @classmethod
    def of(cls, seed: int, images: bool) -> Chain:
        rng = random.Random(seed)
        graph = random_graph(rng, steps=(4, 6) if images else (5, 9), images=images)
        variables = random_variables(graph, seed)
        chain = cls(rng, graph, variables, trained=seed % 2 == 1, images=images)
        chain.states = {
            name: host(jax.eval_shape(tx.init, variables.get("params", {}))) for name, tx in OPTIMIZERS.items()
        }
        chain.marks = numbered(variables)
        chain.start = (graph, variables, chain.marks)
        return chain

    def name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}_{self.names}"


def numbered(variables: Any) -> Any:
    """1, 2, 3, ... through all entries."""
    leaves, treedef = jax.tree.flatten(variables)
    offsets = np.cumsum([0, *(leaf.size for leaf in leaves)])
    return treedef.unflatten(
        [np.arange(1, leaf.size + 1).reshape(leaf.shape) + at for leaf, at in zip(leaves, offsets, strict=False)]
    )


def host(shapes: Any) -> Any:
    """An optimizer's state in the middle of training."""
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(generator.uniform(1, 9, x.shape)).astype(x.dtype), shapes)


def unmarked(variables: Any) -> Any:
    """0 everywhere, which is no number of the start."""
    return jax.tree.map(lambda leaf: np.zeros(np.shape(leaf), int), variables)


# -- proposing mutations ---------------------------------------------------------------------------------------------


def keywords(chain: Chain) -> dict[str, Any]:
    rng = chain.rng
    found: dict[str, Any] = {"free_outputs": rng.random() < 0.3, "rng": jax.random.key(rng.randrange(1000))}
    if rng.random() < 0.5:
        generator = np.random.default_rng(rng.randrange(1000))
        ties = chain.graph.ties
        found["utility"] = {axis: generator.normal(size=ties.size(axis)) for axis in ties.axes if rng.random() < 0.8}
    kind = rng.random()
    if kind < 0.1:
        found["new"] = "init"
    elif kind < 0.5:
        found["new"] = "split" if chain.trained and kind < 0.3 else "zeros"
    return found


def delta_nout(chain: Chain) -> nas.Mutation:
    request = random_request(chain.rng, chain.graph, "eerrrtz")
    return nas.delta_nout(chain.graph, chain.variables, request, **keywords_for(chain, request))


def keywords_for(chain: Chain, names: Any) -> dict[str, Any]:
    """Without "split" where inputs are named: see TestMinimal."""
    given = keywords(chain)
    if given.get("new") == "split" and any(v.name in names for v in chain.graph.inputs):
        del given["new"]
    return given


def delta_nin(chain: Chain) -> nas.Mutation:
    rng, graph = chain.rng, chain.graph
    vertex = rng.choice([v for v in graph.vertices if v.inputs])
    changes = tuple(rng.choice([None, -1, 1, nas.relaxed(-2), nas.relaxed(2)]) for _ in vertex.inputs)
    given = keywords_for(chain, graph.inputs_of(vertex.name))
    return nas.delta_nin(graph, chain.variables, {vertex.name: changes}, **given)


def resize(chain: Chain) -> nas.Mutation:
    given = keywords_for(chain, chain.graph)
    scores = nas.magnitude(chain.graph, chain.variables)
    part = chain.rng.choice([0.1, 0.3])
    given["utility"] = {axis: score - np.quantile(score, part) for axis, score in scores.items()}
    if chain.rng.random() < 0.3:
        given["request"] = random_request(chain.rng, chain.graph, "rz", most=1)
    return nas.resize(chain.graph, chain.variables, **given)


def insert_vertex(chain: Chain) -> nas.Mutation:
    rng, graph = chain.rng, chain.graph
    after = rng.choice([v for v in graph.vertices if "tokens" not in v.name])
    readers = sorted(set(graph.outputs_of(after.name)))
    given = {key: value for key, value in keywords(chain).items() if key != "new" or rng.random() < 0.2}
    if len(readers) > 1 and rng.random() < 0.3:
        given["outputs"] = [rng.choice(readers)]
    return nas.insert_vertex(graph, chain.variables, after.name, lambda v: inserted(chain, v), **given)


def inserted(chain: Chain, vertex: nas.Vertex) -> nas.Vertex:
    """One of many kinds of vertices that read the given one."""
    rng, size, name = chain.rng, vertex.nout, chain.name
    shape = shape_of(vertex)
    spatial = len(shape) - 2 if shape is not None else 0
    kind = rng.choice(["dense", "dense", "wide", "batch", "layer", "drop", "act", "conv", "pool", "cat", "sum", "two"])
    if kind == "batch":
        return nas.layer(name("bn"), nn.BatchNorm(), vertex)
    if kind == "layer":
        return nas.layer(name("ln"), nn.LayerNorm(), vertex)
    if kind == "drop":
        return nas.layer(name("drop"), nn.Dropout(0.5), vertex)
    if kind == "act":
        return nas.invariant_vertex(name("act"), nn.relu, vertex)
    if kind == "conv" and spatial:
        return nas.layer(name("conv"), nn.Conv(rng.choice([size, size + 1]), (2,) * spatial), vertex)
    if kind == "pool" and spatial:
        return nas.invariant_vertex(name("pool"), max_pool_1d if spatial == 1 else global_mean, vertex)
    if kind == "cat" and size < 20:
        return nas.concat(name("cat"), vertex, nas.layer(name("beside"), nn.Dense(2), vertex))
    if kind == "sum":
        return (vertex + nas.layer(name("residual"), nn.Dense(size), vertex)).named(name("sum"))
    if kind == "two":
        return nas.layer(name("second"), nn.Dense(size), nas.layer(name("first"), nn.Dense(size + 2), vertex))
    return nas.layer(name("dense"), nn.Dense(size if kind == "dense" else max(1, size + rng.choice([-2, 2]))), vertex)


def options(chain: Chain) -> dict[str, Any]:
    return {**keywords(chain), "align": chain.rng.choice(["auto", "auto", "grow", "shrink", "both"])}


def remove_vertex(chain: Chain) -> nas.Mutation:
    graph = chain.graph
    names = [v.name for v in graph.vertices if v not in graph.inputs and v not in graph.outputs]
    name = chain.rng.choice(names or [graph.outputs[0].name])
    reconnect = chain.rng.choice(["all", "all", "none", graph.inputs_of(name)[:1]])
    return nas.remove_vertex(graph, chain.variables, name, reconnect=reconnect, **options(chain))


def create_edge(chain: Chain) -> nas.Mutation:
    rng, graph = chain.rng, chain.graph
    targets = [v for v in graph.vertices if v.op.variadic] or list(graph.vertices)
    target, source = rng.choice(targets), rng.choice(graph.vertices)
    position = rng.choice([None, 0])
    return nas.create_edge(graph, chain.variables, source.name, target.name, position=position, **options(chain))


def remove_edge(chain: Chain) -> nas.Mutation:
    rng, graph = chain.rng, chain.graph
    targets = [v for v in graph.vertices if v.op.variadic and len(v.inputs) > 1] or list(graph.vertices[-1:])
    target = rng.choice(targets)
    sources = graph.inputs_of(target.name)
    source = rng.choice(sources)
    occurrence = rng.randrange(sources.count(source))
    return nas.remove_edge(graph, chain.variables, source, target.name, occurrence=occurrence, **options(chain))


VERBS: dict[str, Callable[[Chain], nas.Mutation]] = {
    f.__name__: f for f in (delta_nout, delta_nin, resize, insert_vertex, remove_vertex, create_edge, remove_edge)
}


def attempt(chain: Chain, verb: str) -> nas.Mutation | None:
    """A mutation, or None if it was refused, by an exception of ours. The old network stands in either case."""
    graph, variables = chain.graph, chain.variables
    rows = [(v.name, v.nin, v.nout, v.op) for v in graph.vertices]
    copies = jax.tree.map(lambda leaf: np.array(leaf, copy=True), variables)
    try:
        mutation = VERBS[verb](chain)
    except nas.NaiveNASError:
        mutation = None
    assert [(v.name, v.nin, v.nout, v.op) for v in graph.vertices] == rows
    jax.tree.map(np.testing.assert_array_equal, variables, copies)
    chain.seen[verb, "no" if mutation is None else "ok"] += 1
    return mutation


# -- checking a step -------------------------------------------------------------------------------------------------


def positions_fit(chain: Chain, mutation: nas.Mutation, verb: str) -> bool:
    """Whether the other axes than the neurons fit. Edits are not refused for that yet: see TestMinimal."""
    if not chain.images or verb not in STRUCTURE:
        return True
    try:
        jax.eval_shape(lambda *xs: mutation.graph.apply(mutation.variables, *xs), *random_inputs(mutation.graph))
    except (TypeError, ValueError):
        chain.seen["positions do not fit"] += 1
        return False
    return True


def check_shapes(graph: nas.Graph, variables: Any, inputs: list[Any]) -> None:
    """As a fresh start would have them."""
    fresh = jax.eval_shape(lambda *xs: graph.init(jax.random.key(0), *xs), *inputs)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), fresh) == jax.tree.map(lambda x: (x.shape, x.dtype), variables)


def run(graph: nas.Graph, variables: Any, inputs: list[Any]) -> tuple[Any, Any, Any, Any]:
    """Outputs in evaluation; loss, new statistics and gradient in training."""

    def program(variables: Any, *xs: Any) -> Any:
        def loss(params: Any) -> Any:
            outputs, updates = graph.apply(
                {**variables, "params": params},
                *xs,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(1)},
            )
            return sum(jnp.mean(jnp.tanh(y) ** 2) for y in as_tuple(outputs)), updates

        (value, updates), gradient = jax.value_and_grad(loss, has_aux=True)(variables.get("params", {}))
        return as_tuple(graph.apply(variables, *xs)), value, updates, gradient

    return jax.jit(program, compiler_options=QUICK)(variables, *inputs)


def trained(variables: Any, updates: Any, gradient: Any) -> Any:
    """After a small step, in numpy, which compiles nothing."""
    params = variables.get("params", {})
    moved = jax.tree.map(lambda p, g: np.asarray(p) - np.float32(0.01) * np.clip(g, -1, 1), params, gradient)
    return {**variables, **jax.tree.map(np.asarray, updates), "params": moved}


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def check_finite(*trees: Any) -> None:
    for leaf in jax.tree.leaves(trees):
        assert np.isfinite(leaf).all()


def divides_safely(graph: nas.Graph) -> bool:
    """Whether every denominator is still what the generator made it: positive. An edit may put a relu there."""
    return all(
        getattr(v.inputs[1].op, "fn", None) is positive for v in graph.vertices if v.op.describe() == "elementwise /"
    )


def check_plan(mutation: nas.Mutation, old: Any, new: Any) -> None:
    """The plan is a value, and tells where each neuron comes from."""
    plan = mutation.plan
    assert nas.Plan.from_json(plan.to_json()) == plan
    for vertex in mutation.graph.vertices:
        source = mutation.indices(vertex.name)
        assert source.shape == (vertex.nout,)
        kept = source[source >= 0]
        assert len(set(kept.tolist())) == len(kept)
        if vertex.name in mutation.before:
            assert (kept < mutation.before.nout(vertex.name)).all()
    before, after = paths(old), paths(new)
    assert set(after) - set(before) <= plan.created <= set(after)
    assert set(before) - set(after) <= plan.removed <= set(before)


def paths(tree: Any) -> dict[tuple[str, ...], Any]:
    return {tuple(k.key for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def carried(chain: Chain, mutation: nas.Mutation, name: str) -> Any:
    """An optimizer's state for the new parameters. That of no parameters at all does not tell where they belong."""
    if chain.variables.get("params"):
        return mutation.carry(chain.states[name])
    fresh = host(jax.eval_shape(OPTIMIZERS[name].init, mutation.variables.get("params", {})))
    return mutation.carry(chain.states[name], fresh=fresh)


def check_states(states: Mapping[str, Any], params: Any) -> None:
    """As a fresh start would have them."""
    for name, state in states.items():
        fresh = jax.eval_shape(OPTIMIZERS[name].init, params)
        assert jax.tree.structure(state) == jax.tree.structure(fresh), name
        for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
            assert (np.shape(old), old.dtype) == (new.shape, new.dtype), name


# -- the masked original, by other means than the library's ----------------------------------------------------------


def readers(graph: nas.Graph, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int, str]]:
    """Every weight that reads neurons: its path below params, the dimension that reads, and the axis it reads."""
    for vertex in graph.vertices:
        path = (*prefix, vertex.name)
        module = getattr(vertex.op, "module", None)
        nested = getattr(vertex.op, "graph", None)
        if isinstance(nested, nas.Graph):
            yield from readers(nested, path)
        elif isinstance(module, nn.Dense) or (isinstance(module, nn.Conv) and module.feature_group_count == 1):
            yield (*path, "kernel"), -2, "/".join((*prefix, vertex.inputs[0].name))
        elif "lowrank" in vertex.name:
            yield (*path, "down"), 0, "/".join((*prefix, vertex.inputs[0].name))
            yield (*path, "up"), 0, "/".join(path) + ":r"


def silenced(graph: nas.Graph, variables: Any, plan: nas.Plan) -> Any:
    """The old variables, where no weight reads a neuron that is about to go."""
    params = jax.tree.map(np.array, variables["params"])
    for path, dim, axis in readers(graph):
        node = reduce(lambda tree, key: tree[key], path[:-1], params)
        dropped = plan.axes[axis].dropped if axis in plan.axes else []
        node[path[-1]][(slice(None),) * (dim % node[path[-1]].ndim) + (dropped,)] = 0
    return {**variables, "params": params}


def check_function(chain: Chain, mutation: nas.Mutation, inputs: list[Any], verb: str) -> None:
    """What is left computes what it did: by the library's oracle, and by weights of the original that are set to 0."""
    if verb in STRUCTURE[1:] and chain.rng.random() < 0.8:  # these are not comparable
        return
    if not divides_safely(mutation.before):  # near 0 the numbers say nothing
        return
    checked = mutation.check(*inputs)
    if not checked.compared:
        assert checked.reason
        chain.seen["incomparable"] += 1
        return
    chain.seen["compared"] += 1
    before, plan = mutation.before, mutation.plan
    if verb in STRUCTURE or "params" not in mutation.variables:
        return
    seen = [np.where(plan.axis(v.name).source >= 0, np.take(x, plan.axis(v.name).source, -1), 0) if is_changed(plan, v)
            else x for v, x in zip(before.inputs, inputs, strict=True)]  # fmt: skip
    with jax.default_matmul_precision("highest"):
        call = jax.jit(
            lambda a, b, xs, ys: (before.apply(a, *xs), mutation.graph.apply(b, *ys)), compiler_options=QUICK
        )
        wanted, got = call(silenced(before, chain.variables, plan), mutation.variables, inputs, seen)
    for vertex, a, b in zip(before.outputs, as_tuple(wanted), as_tuple(got), strict=True):
        source = plan.axis(vertex.name).source
        a, b = a[..., source[source >= 0]], b[..., source >= 0]
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(a).max(initial=0))))
    chain.seen["compared otherwise"] += 1


def is_changed(plan: nas.Plan, vertex: nas.Vertex) -> bool:
    return plan.axis(vertex.name).changed


# -- the chains ------------------------------------------------------------------------------------------------------


def advance(chain: Chain, verb: str) -> bool:
    """One step, if the verb is possible."""
    mutation = attempt(chain, verb)
    if mutation is None or not positions_fit(chain, mutation, verb):
        return False
    inputs = random_inputs(mutation.before)
    check_plan(mutation, chain.variables, mutation.variables)
    check_function(chain, mutation, inputs, verb)

    graph, variables = mutation
    new_inputs = random_inputs(graph)
    check_shapes(graph, variables, new_inputs)
    outputs, loss, updates, gradient = run(graph, variables, new_inputs)
    if divides_safely(graph):
        check_finite(outputs, loss, updates, gradient)
    assert all(y.shape[-1] == v.nout for v, y in zip(graph.outputs, outputs, strict=True))

    states = {name: carried(chain, mutation, name) for name in chain.states}
    check_states(states, variables.get("params", {}))
    chain.marks = mutation.carry(chain.marks, fresh=unmarked(variables))
    if chain.trained and divides_safely(graph):
        variables = trained(variables, updates, gradient)
    chain.graph, chain.variables, chain.states = graph, variables, states
    chain.steps.append(mutation)
    return True


def schedule(rng: random.Random) -> list[str]:
    verbs = [
        "delta_nout",
        "delta_nout",
        "delta_nin",
        "resize",
        *STRUCTURE,
        rng.choice(list(VERBS)),
        rng.choice(STRUCTURE),
    ]
    rng.shuffle(verbs)
    return verbs


def check_composition(chain: Chain) -> None:
    """All plans as one carry a tree as they do one after another."""
    _, variables, marks = chain.start
    plan = reduce(lambda earlier, later: later @ earlier, [step.plan for step in chain.steps])
    assert nas.Plan.from_json(plan.to_json()) == plan
    at_once, _ = carry(plan, marks, variables, chain.variables, fresh=unmarked(chain.variables))
    jax.tree.map(np.testing.assert_array_equal, at_once, chain.marks)


def check_undo(chain: Chain) -> None:
    """Back to the start. Exact where nothing was trained; of trained networks the sizes."""
    start, variables, _ = chain.start
    restored = chain.variables
    for step in reversed(chain.steps):
        graph, restored = step.undo(restored)
        assert graph == step.before
    assert graph == start
    if chain.trained:
        assert jax.tree.map(np.shape, restored) == jax.tree.map(np.shape, variables)
    else:
        jax.tree.map(np.testing.assert_array_equal, restored, variables)


@pytest.mark.parametrize("seed", range(32))
def test_chain(seed: int):
    chain = Chain.of(seed, images=seed % 3 == 2)
    step = "start"
    try:
        for i, verb in enumerate(schedule(chain.rng)):
            step = f"step {i}, {verb}"
            for _ in range(8):
                if advance(chain, verb):
                    break
            else:  # impossible here
                step = f"step {i}, something else after {verb} was refused"
                assert any(advance(chain, other) for _ in range(20) for other in ("delta_nout", "insert_vertex"))
        assert len(chain.steps) == LENGTH
        step = "composition"
        check_composition(chain)
        step = "undo"
        check_undo(chain)
    except BaseException as error:
        error.add_note(f"seed {seed}, {step}; so far {dict(chain.seen)}")
        raise


# -- what chains have found, as small as it gets ---------------------------------------------------------------------


def halved(x: Any) -> Any:
    return nn.max_pool(x, (2,), strides=(2,))


class TestMinimal:
    @pytest.fixture
    def pooled(self) -> tuple[nas.Graph, Any]:
        """Two branches of 4 positions, each pooled to 2, and added."""
        x = nas.input_vertex("x", 2, shape=(4, 2))
        a, b = (nas.layer(name, nn.Conv(3, (2,)), x) for name in "ab")
        total = nas.invariant_vertex("half_a", halved, a) + nas.invariant_vertex("half_b", halved, b)
        graph = nas.Graph(x, nas.layer("out", nn.Dense(2), total.named("sum")))
        return graph, random_variables(graph)

    @pytest.mark.parametrize("verb", ["remove_vertex", "create_edge", "insert_vertex"])
    def test_positions_must_fit(self, pooled: tuple[nas.Graph, Any], verb: str):
        given = {
            "remove_vertex": ("half_a",),
            "create_edge": ("a", "sum"),
            "insert_vertex": ("half_a", lambda v: nas.invariant_vertex("mean", global_mean, v)),
        }
        with pytest.raises(nas.NaiveNASError):
            getattr(nas, verb)(*pooled, *given[verb])

    def test_splitting_an_input(self):
        x = nas.input_vertex("x", 4, shape=(4,))
        graph = nas.Graph(x, nas.layer("out", nn.Dense(2), x))
        mutation = nas.delta_nout(graph, random_variables(graph), {"x": 1}, new="split")
        mutation.check(*random_inputs(graph))

    def test_what_was_broadcast_is_left_alone(self):
        x = nas.input_vertex("x", 4, shape=(4,))
        wide, single = nas.layer("wide", nn.Dense(6), x), nas.layer("single", nn.Dense(1), x)
        graph = nas.Graph(x, nas.layer("out", nn.Dense(2), (wide * single).named("gate")))
        variables = random_variables(graph)
        assert nas.remove_edge(graph, variables, "wide", "gate").graph.nin("out") == (6,)  # the smaller grows
        mutation = nas.remove_edge(graph, variables, "wide", "gate", align="shrink")
        assert mutation.graph.nin("out") == (1,)
        carried = mutation.carry(variables)
        assert jax.tree.map(np.shape, carried) == jax.tree.map(np.shape, mutation.variables)
        jax.tree.map(np.testing.assert_array_equal, mutation.undo(mutation.variables)[1], variables)
