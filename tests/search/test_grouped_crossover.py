"""Convolutions whose groups have one channel, or of which there is one, are of one kind with those of other widths."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

KEY = jax.random.key(3)
TX = optax.adam(1e-3)
X = jax.random.normal(KEY, (2, 4, 2))
#: Groups, channels that each reads, channels that each makes.
WIDTHS = {"grouped": (2, 2, 3), "plain": (1, 3, 2), "depthwise": (4, 1, 1), "multiplier": (3, 1, 2)}


def network(groups, reads, makes, start, kind="linen"):
    """A convolution between two others, with variables none of whose entries occurs twice."""
    x = nas.input_vertex("x", 2, shape=(4, 2))
    if kind == "linen":
        inner = nn.Conv(groups * makes, (3,), feature_group_count=groups)
    else:
        inner = nnx.Conv(groups * reads, groups * makes, 3, feature_group_count=groups, rngs=nnx.Rngs(0))
    middle = nas.layer("c", inner, nas.layer("a", nn.Conv(groups * reads, (1,)), x))
    graph = nas.Graph(x, nas.layer("o", nn.Conv(2, (1,)), middle))
    leaves, structure = jax.tree.flatten(graph.init(KEY, X))
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
    made = [
        (start + first + np.arange(leaf.size)).reshape(leaf.shape) for first, leaf in zip(ends, leaves, strict=False)
    ]
    return graph, jax.tree.unflatten(structure, [jnp.asarray(each, jnp.float32) for each in made])


def by_group(kernel, groups):
    """Shape (window, channels that a group reads, groups, channels that it makes)."""
    return np.asarray(kernel).reshape(*kernel.shape[:2], groups, -1)


@pytest.mark.parametrize("kinds", list(itertools.permutations(WIDTHS, 2)), ids="-".join)
def test_a_child_has_entries_of_its_parents_group_by_group(kinds):
    one, two = (network(*WIDTHS[kind], start) for kind, start in zip(kinds, (1, 1001), strict=True))
    states = [TX.init(variables["params"]) for _, variables in (one, two)]
    found = set()
    for number in range(4):
        child = nas.crossover(one, two, jax.random.key(number), kind=("groups", "neurons")[number % 2])
        module = child.graph["c"].op.module
        groups = module.feature_group_count
        kernel = by_group(child.variables["params"]["c"]["kernel"], groups)
        found.add((groups, *kernel.shape[1::2]))
        own = [by_group(v["params"]["c"]["kernel"], WIDTHS[k][0]) for k, (_, v) in zip(kinds, (one, two), strict=True)]
        for at in np.ndindex(kernel.shape):
            known = [each[at] for each in own if all(i < n for i, n in zip(at, each.shape, strict=True))]
            assert kernel[at] in known or (kernel[at] == 0 and len(known) < 2)
        by_hand = network(groups, *kernel.shape[1::2], 1)[0]
        assert child.graph == by_hand
        assert child.graph.handles() == by_hand.handles()
        assert jax.tree.map(jnp.shape, child.variables) == jax.tree.map(jnp.shape, child.graph.init(KEY, X))
        before, variables = child.undo(child.variables)
        assert before == one[0]
        jax.tree.map(np.testing.assert_array_equal, variables, one[1])
        moved = child.carry(states[0], second=states[1])
        jax.tree.map(lambda a, b: None if a.shape == b.shape else 1 / 0, moved, TX.init(child.variables["params"]))
        for handle, each in one[0].handles().items():
            assert (child.indices(handle) < each.size).all()
        later = nas.delta_nout(*child, {"a": nas.relaxed(2)})
        assert (later.plan @ child.plan).axes["o"].after == 2
    assert found <= set(itertools.product(*zip(*(WIDTHS[kind] for kind in kinds), strict=True)))


def test_they_are_of_one_kind_in_nnx_too():
    one, two = network(2, 2, 2, 1, "nnx"), network(4, 1, 1, 1001, "nnx")
    for number in range(3):
        child = nas.crossover(one, two, jax.random.key(number))
        assert child.graph.apply(child.variables, X).shape == (2, 4, 2)
        assert child.graph["c"].op.module.kernel.shape[1:] == child.variables["params"]["c"]["kernel"].shape[1:]


def test_a_convolution_alone_has_the_handles_that_it_had():
    handles = {kind: set(network(*widths, 1)[0].handles()) - {"x", "a", "o"} for kind, widths in WIDTHS.items()}
    assert handles["plain"] == handles["depthwise"] == {"c"}
    assert handles["grouped"] == {"c", "c:groups", "c:in_per_group", "c:out_per_group"}
    assert handles["multiplier"] == {"c", "c:multiplier"}


def test_neurons_that_are_cut_in_two_ways_have_no_crossover():
    def chain(groups, start):
        graph, _ = network(2, 2, 2, start)
        other = nas.layer("d", nn.Conv(4, (3,), feature_group_count=groups), graph["c"])
        longer = nas.Graph(graph.inputs[0], nas.layer("o", nn.Conv(2, (1,)), other))
        return longer, longer.init(KEY, X)

    with pytest.raises(nas.StructureError, match=r"no crossover of groups: Member 1 .* cut into other parts"):
        nas.crossover(chain(2, 1), chain(4, 1001), KEY)
