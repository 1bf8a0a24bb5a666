"""All that can be saved is written in one fresh process, and read in another one that has nothing but the files.

Listed in `MODELS` are the kinds of networks, in `VERBS` of changes, in `trees` of what lies beside.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import core, nnx
from flax.training.train_state import TrainState
from fresh_process import run_in_a_process
from keep_models import Blocks, NnxBlocks, doubled, every_kind_of_vertex, low_rank, mlp

import naivenas_jax as nas

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
MODELS = {"by hand": None, "linen": Blocks(), "nnx": NnxBlocks(nnx.Rngs(9)), "function": mlp}


def started(library: str, seed: int = 0) -> tuple[nas.Graph, dict[str, Any]]:
    """A network to begin with; its hidden layer is called "dense0"."""
    key = jax.random.key(seed)
    if library == "linen":
        return nas.from_linen(Blocks(), Blocks().init(key, X), X)
    if library == "nnx":
        return nas.from_nnx(NnxBlocks(nnx.Rngs(seed)), X)
    if library == "function":
        weights = {"dense0": {"kernel": jax.random.normal(key, (3, 8))}, "out": {"kernel": jnp.ones((8, 2))}}
        return nas.from_function(mlp, weights, X, scale=jnp.float32(3))
    graph = every_kind_of_vertex()
    return graph, graph.init({"params": key, "dropout": key}, X)


nas.register_function("tests.doubled", doubled)
nas.register_function("tests.low_rank", low_rank)


@cache
def changes(library: str) -> tuple[tuple[str, nas.Mutation], ...]:
    """Changes of every kind, each of the network that the one before has made."""
    made, network = [], started(library)
    for name, verb in VERBS[:2] if library == "function" else VERBS:
        made.append((name, verb(*network)))
        network = made[-1][1]
    return tuple(made)


VERBS: list[tuple[str, Callable[..., nas.Mutation]]] = [
    ("narrow", lambda graph, variables: nas.delta_nout(graph, variables, {"dense0": -3})),
    ("wide", lambda graph, variables: nas.delta_nout(graph, variables, {"dense0": 2}, new="split")),
    (
        "deep",
        lambda graph, variables: nas.insert_vertex(
            graph, variables, "dense0", lambda v: nas.layer("new", nn.Dense(v.nout), v), new="identity"
        ),
    ),
    ("both", lambda graph, variables: nas.delta_nout(graph, variables, {"new": -1})),
    ("shallow", lambda graph, variables: nas.remove_vertex(graph, variables, "new")),
]


def history_of(library: str) -> nas.History:
    """The changes as a history that holds what came of edits of the structure."""
    history, parent = nas.History().add("start", started(library)[0]), "start"
    for name, mutation in changes(library):
        history = history.add(name, mutation, parent, values={"loss": 0.5}, keep=name in ("deep", "shallow"))
        parent = name
    return history


def hidden() -> tuple[nas.Graph, dict[str, Any]]:
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("dense0", nn.Dense(8), x)))
    return graph, graph.init(jax.random.key(0), X)


def optimizers() -> dict[str, optax.GradientTransformation]:
    """Chains whose states are of every kind."""
    decay = optax.exponential_decay(0.1, 10, 0.9)
    mask = partial(jax.tree.map, lambda leaf: leaf.ndim > 1)
    return {
        "sgd": optax.sgd(0.1),
        "momentum": optax.sgd(decay, momentum=0.9, accumulator_dtype=jnp.bfloat16),
        "adamw": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(decay, weight_decay=1e-3, mask=mask)),
        "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2),
        "lion": optax.lion(1e-3),
        "by label": optax.multi_transform(
            {"a": optax.adam(0.1), "b": optax.set_to_zero()}, lambda p: jax.tree.map(lambda a: "ab"[a.ndim % 2], p)
        ),
        "several steps": optax.MultiSteps(optax.adam(0.1), 3).gradient_transformation(),
        "hyperparameters": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
        "lookahead of finite": optax.apply_if_finite(optax.rmsprop(0.1, centered=True, momentum=0.9), 3),
        "noise": optax.add_noise(0.1, 0.5, jax.random.key(3)),
    }


def trees() -> dict[str, Any]:
    """Trees of every kind beside a network, as they are given to ``save``."""
    graph, variables = hidden()
    params = variables["params"]
    gradients = jax.tree.map(jnp.ones_like, params)
    states = {name: tx.update(gradients, tx.init(params), params)[1] for name, tx in optimizers().items()}
    model = NnxBlocks(nnx.Rngs(1))
    sizes = [nas.delta_nout(graph, variables, {"dense0": change}) for change in (-5, -1, 2)]
    population = nas.Population.of(sizes)
    return {
        "states": states,
        "train_state": TrainState.create(apply_fn=graph.apply, params=params, tx=optimizers()["adamw"]),
        "frozen": core.freeze(variables),
        "state_of_nnx": nnx.state(model),
        "variables_of_nnx": {"w": nnx.Param(jnp.ones((2, 3))), "s": nnx.BatchStat(jnp.zeros(3))},
        "model": model,
        "optimizer": nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param),
        "population": population,
        "states_of_all": population.init(optax.adam(0.1)),
        "narrow": {
            "bfloat16": jnp.arange(3, dtype=jnp.bfloat16),
            "int8": jnp.arange(-2, 2, dtype=jnp.int8),
            "int4": jnp.arange(-2, 2).astype(jnp.int4),
            "float8": jnp.ones((2, 2)).astype(jnp.float8_e4m3fn),
            "bool": jnp.array([True, False]),
        },
        "complex": {"jax": jnp.array([1 + 2j, 3 - 1j], jnp.complex64), "numpy": np.array([1j]), "python": 1 - 2j},
        "keys": {
            "one": jax.random.key(3),
            "many": jax.random.split(jax.random.key(4), (2, 3)),
            "rbg": jax.random.key(5, impl="rbg"),
            "raw": jax.random.PRNGKey(6),
        },
        "empty": {"rows": jnp.zeros((0, 3)), "columns": np.zeros((2, 0), np.int8), "list": [], "dict": {}, "tuple": ()},
        "scalars": [
            1,
            -2.5,
            True,
            None,
            "text",
            float("inf"),
            float("-inf"),
            jnp.float32(1.5),
            np.int16(3),
            np.bool_(1),
        ],
        "numpy": {"big": np.arange(4, dtype=">f8"), "turned": np.arange(6).reshape(2, 3).T},
        "whole_numbers_as_keys": {0: jnp.ones(2), 1: {"a": 3}},
    }


def write(folder: Path) -> int:
    """Save everything; in the one process."""
    for library in MODELS:
        graph, variables = started(library)
        nas.save(folder / library / "network", graph, variables, y=graph.apply(variables, X))
        for name, mutation in changes(library):
            y = mutation.graph.apply(mutation.variables, X)
            nas.save(folder / library / name, mutation, undo=True, y=y, before=mutation.variables_before)
        if library != "function":
            nas.save(folder / library / "history", mutation, history=history_of(library))
    nas.save(folder / "trees", *hidden(), **trees())
    several = nas.History()
    for library in MODELS:
        several = several.add(library, started(library), keep=True)
    nas.save(folder / "several", *started("function", seed=1), history=several)
    return sum(1 for _ in folder.rglob("manifest.json"))


def read(folder: Path) -> int:
    """Load everything and compare it; in the other process."""
    for library, model in MODELS.items():
        for path in sorted((folder / library).iterdir()):
            saved = nas.load(path, model=model)
            if path.name == "history":
                compare_histories(saved, folder / library, library)
                continue
            equal(saved.graph.apply(saved.variables, X), saved.trees["y"])
            nas.delta_nout(*saved, {"dense0": -1})
            if path.name != "network":
                before, variables = saved.undo()
                equal(before.apply(variables, X), before.apply(saved.trees["before"], X), rtol=1e-5)
    saved = nas.load(folder / "several", model=[mlp, Blocks(), NnxBlocks(nnx.Rngs(9))])
    for library in MODELS:
        equal(
            nas.apply(*saved.history.network(library), X),
            nas.load(folder / library / "network", model=MODELS[library]).trees["y"],
        )
    saved = nas.load(folder / "trees")
    for name, tree in trees().items():
        restored = saved.restore(name, like=tree)
        assert jax.tree.structure(restored) == jax.tree.structure(tree), name
        jax.tree.map(partial(same_bits, name), restored, tree)
    return sum(1 for _ in folder.rglob("manifest.json"))


def equal(found: Any, wanted: Any, rtol: float = 0) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


def same_bits(name: str, found: Any, wanted: Any) -> None:
    """One leaf is another one: of its type, its dtype and its bits."""
    if not isinstance(wanted, jax.Array | np.ndarray | np.generic):
        assert (type(found), found) == (type(wanted), wanted), name
        return
    assert isinstance(found, jax.Array) == isinstance(wanted, jax.Array), name
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), name
    if jnp.issubdtype(wanted.dtype, jax.dtypes.prng_key):
        found, wanted = jax.random.key_data(found), jax.random.key_data(wanted)
    assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes(), name


def compare_histories(saved: nas.Saved, folder: Path, library: str) -> None:
    """A loaded history is the one that was saved, and makes its changes once more, of these weights and of others."""
    assert saved.history is not None
    here = history_of(library)
    assert saved.history == here
    again = nas.replay(*started(library), saved.history, "deep")
    equal(nas.apply(*again, X), nas.load(folder / "deep", model=MODELS[library]).trees["y"], rtol=1e-5)
    other = started(library, seed=7)
    for name in ("narrow", "deep", "shallow"):
        graph, variables = nas.replay(*other, saved.history, name)
        wanted, its_variables = nas.replay(*other, here, name)
        chex.assert_trees_all_equal(variables, its_variables)
        if library == "by hand":  # it has functions made by functions, which are others each time
            equal(graph.apply(variables, X), wanted.apply(variables, X), rtol=1e-6)
        else:
            assert graph == wanted


def test_everything_comes_back(tmp_path):
    code = "import pathlib, sys; from keep import test_everything; print(test_everything.{}(pathlib.Path(sys.argv[1])))"
    assert run_in_a_process(code.format("write"), tmp_path) == "26"
    assert run_in_a_process(code.format("read"), tmp_path) == "26"
