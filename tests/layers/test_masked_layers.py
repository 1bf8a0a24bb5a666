"""Every layer in a population computes what it does by itself: outputs, gradients and updated statistics.

Hypothesis draws a layer that `nas.layer` knows (normalisations, convolutions, attention, recurrent, ...), whether the
network is written by hand or imported, and the sizes of the members on all axes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_attention
import test_conformance
import test_recurrent
from flax import nnx
from hypothesis import HealthCheck, given, settings, strategies as st

import naivenas_jax as nas

#: A network, its variables and its inputs.
Subject = tuple[nas.Graph, Any, jax.Array]


def of_conformance(name: str, library: str) -> Subject:
    network = test_conformance.network_of(name, library)
    return network.graph, network.variables, network.x


def of_attention(library: str, inputs: int, **options: Any) -> Subject:
    return *test_attention.start(library, inputs=inputs, **options), test_attention.X


def of_recurrence(name: str) -> Subject:
    graph, variables, x = test_recurrent.start(name)
    return graph, variables, x


def imported(name: str, library: str) -> Subject:
    """``x -> pre -> layer -> post`` as a model of the library."""
    case = test_conformance.CASES[name]
    layer = case.linen(6, 6) if library == "linen" else case.nnx(6, 6)
    tokens = isinstance(layer, nn.Embed | nnx.Embed)
    shape = (*case.leading, 3)
    x = jnp.arange(6).reshape(2, 3) if tokens else jax.random.normal(jax.random.key(7), shape)
    if library == "linen":
        model = nn.Sequential([*([] if tokens else [nn.Dense(6)]), layer, nn.Dense(4)])
        variables = test_conformance.random_like(jax.eval_shape(model.init, jax.random.key(0), x), "float32")
        return *nas.from_linen(model, variables, x), x
    rngs = nnx.Rngs(3)
    below = [] if tokens else [nnx.Linear(3, 6, rngs=rngs)]
    width = jax.eval_shape(layer, x if tokens else jax.ShapeDtypeStruct((*case.leading, 6), "float32")).shape[-1]
    model = nnx.Sequential(*below, layer, nnx.Linear(width, 4, rngs=rngs))
    model.eval()
    graph, variables = nas.from_nnx(model, x)
    return graph, test_conformance.random_like(variables, "float32"), x


BOTH = test_conformance.BOTH
SUBJECTS: dict[str, Callable[[], Subject]] = {
    **{f"{name}, {library}": lambda n=name, i=library: of_conformance(n, i) for name, library in BOTH},
    **{
        f"attention of {inputs}, {library}": lambda i=library, n=inputs: of_attention(i, n)
        for inputs in (1, 2, 3)
        for library in ("linen", "nnx")
    },
    "attention with normalised queries": lambda: of_attention("linen", 1, normalize_qk=True),
    **{name: lambda n=name: of_recurrence(n) for name in test_recurrent.CASES},
    **{f"imported {name}, {library}": lambda n=name, i=library: imported(n, i) for name, library in BOTH},
}


@cache
def subject(name: str) -> Subject:
    return SUBJECTS[name]()


pytestmark = pytest.mark.usefixtures("compiled_quickly")


def handles_inside(graph: nas.Graph) -> list[str]:
    ends = [graph.ties.axes.get(vertex.name) for vertex in (*graph.inputs, *graph.outputs)]
    return [name for name in graph.handles() if graph.ties.axes[name] not in ends]


def check_members(name: str, changes: list[dict[str, int]], train: bool = False) -> None:
    """Mutants of a network, together and by themselves."""
    graph, variables, x = subject(name)
    members = []
    for change in changes:
        try:
            members.append(nas.delta_nout(graph, variables, {n: nas.relaxed(by) for n, by in change.items()}))
        except nas.InfeasibleError:
            continue
    if not members:
        return  # no such sizes
    population = nas.Population.of(members)
    own_mode = name.startswith("imported")  # what these models compute in training is theirs to say
    rest = sorted(set(variables) - {"params"}) if train and not own_mode else []
    call = {"mutable": rest, "train": True} if rest else {}

    def loss(network: Any, params: Any, others: Any) -> Any:
        made = network.apply({"params": params, **others}, x, **call)
        outputs, updates = made if rest else (made, {})
        return jnp.sum(jnp.sin(outputs)), (outputs, updates)

    gradient = jax.jit(jax.grad(loss, argnums=1, has_aux=True))

    def computed(network: Any, own: Any) -> Any:
        others = {collection: tree for collection, tree in own.items() if collection != "params"}
        return gradient(network, own.get("params", {}), others)

    with jax.default_matmul_precision("highest"):
        slopes, (outputs, updates) = computed(population, population.variables)
        for number, member in enumerate(members):
            own_slopes, (own_outputs, own_updates) = computed(member.graph, dict(member.variables))
            found = population.member(number, {**population.variables, "params": slopes, **updates})[1]
            close(outputs[number], own_outputs)
            close(dict(found["params"]), dict(own_slopes))
            close({each: found[each] for each in updates}, dict(own_updates))
            chex.assert_trees_all_equal(dict(population.member(number)[1]), dict(member.variables))


def close(found: Any, wanted: Any) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = max(1.0, float(np.abs(other).max(initial=0)))
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4 * scale)


@st.composite
def changed(draw: st.DrawFn) -> tuple[str, list[dict[str, int]], bool]:
    name = draw(st.sampled_from(sorted(SUBJECTS)))
    handles = handles_inside(subject(name)[0])
    change = st.dictionaries(st.sampled_from(handles), st.integers(-4, 3).filter(bool), min_size=1, max_size=3)
    return name, draw(st.lists(change, min_size=2, max_size=3)), draw(st.booleans())


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(changed())
def test_masked_is_hard(drawn: tuple[str, list[dict[str, int]], bool]):
    check_members(*drawn)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_masked_is_hard_whatever_the_layer(name: str):
    rng = np.random.default_rng(len(name))
    handles = handles_inside(subject(name)[0])
    sizes = [{str(each): int(rng.choice([-3, -2, -1, 1, 2])) for each in rng.choice(handles, 2)} for _ in range(3)]
    check_members(name, sizes, train=True)
