"""Classes for which fields and sizes of modules inside have to change together; and what comes back is a value."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

KEY = jax.random.key(0)
ROWS = jax.random.normal(jax.random.key(2), (3, 6))


def imported(model: nn.Module, x: Any) -> tuple[nas.Graph, Any]:
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, KEY, x)
    return nas.from_linen(model, jax.tree.map(lambda s: jnp.asarray(0.3 * generator.normal(size=s.shape)), shapes), x)


def back(model: nn.Module, request: dict[str, Any], x: Any = ROWS) -> tuple[nn.Module, nas.Mutation]:
    """A model imported, changed and rebuilt; compared with the graph on other numbers than rebuild did."""
    mutation = nas.delta_nout(*imported(model, x), request)
    new = nas.rebuild(model, mutation)
    y = jax.random.normal(jax.random.key(9), x.shape)
    wanted = mutation.graph.apply(mutation.variables, y)
    np.testing.assert_allclose(new.apply(mutation.variables, y), wanted, rtol=1e-5, atol=1e-5)
    return new, mutation


class Block(nn.Module):
    """It has a skip connection if its field is the width of what it reads."""

    out: int

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(self.out, name="down")(nn.relu(nn.Dense(2 * self.out, name="up")(x)))
        return x + y if x.shape[-1] == self.out else y


class Blocks(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(Block(8, name="block")(nn.Dense(8, name="stem")(x)))


def test_a_field_and_a_size_inside_together():
    """`block.out` becomes 6, and `up`, which was twice of it, stays 16; the same as with neurons cut by hand."""
    new, mutation = back(Blocks(), {"stem": -2})
    assert "'block': {'out': 6}, 'block/up': {'features': 16}" in repr(new)
    dropped = np.setdiff1d(np.arange(8), mutation.indices("stem"))
    params = jax.tree.map(np.array, mutation.variables_before["params"])
    for layer in (params["stem"], params["block"]["down"]):
        layer["kernel"][:, dropped], layer["bias"][dropped] = 0, 0
    by_hand = Blocks().apply({"params": params}, ROWS)
    np.testing.assert_allclose(new.apply(mutation.variables, ROWS), by_hand, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Config:
    widths: Sequence[int] = (8, 8)
    options: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"expand": 2})


class Checked(nn.Module):
    """Modules made in setup, of derived sizes, and a check of the width."""

    dim: int
    expand: int

    def setup(self):
        self.up, self.down = nn.Dense(self.dim * self.expand), nn.Dense(self.dim)

    def __call__(self, x):
        assert x.shape[-1] == self.dim
        return x + self.down(nn.tanh(self.up(x)))


class Stack(nn.Module):
    config: Config = Config()

    def setup(self):
        self.stem, self.head = nn.Dense(self.config.widths[0]), nn.Dense(2)
        self.blocks = [Checked(width, self.config.options["expand"]) for width in self.config.widths]

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("request_", "widths", "expand"),
    [
        ({"stem": -2}, (6, 6), 2),
        ({"stem": 2, "blocks_1/up": -3}, (10, 10), 2),
        ({"stem": -2, "blocks_0/up": 2, "blocks_1/up": 2}, (6, 6), 3),
    ],
)
def test_setup_and_configuration(request_, widths, expand):
    new, _ = back(Stack(), request_)
    assert isinstance(new, Stack)
    assert (tuple(new.config.widths), dict(new.config.options)) == (widths, {"expand": expand})


class TwoKinds(nn.Module):
    """The same class twice: once its field has to follow, once it has to stay."""

    @nn.compact
    def __call__(self, x):
        y = Block(8, name="wide")(nn.Dense(8, name="stem")(x))
        return nn.Dense(3, name="head")(Block(5, name="narrow")(y))


def test_modules_of_one_class_are_chosen_one_by_one():
    new, _ = back(TwoKinds(), {"stem": -2, "narrow/up": -1})
    assert "'narrow/up': {'features': 9}" in repr(new)


class NnxBlock(nnx.Module):
    def __init__(self, width, expand, rngs):
        self.width = width
        self.up, self.down = nnx.Linear(width, width * expand, rngs=rngs), nnx.Linear(width * expand, width, rngs=rngs)

    def __call__(self, x):
        y = self.down(nnx.relu(self.up(x)))
        return x + y if x.shape[-1] == self.width else y


class NnxBlocks(nnx.Module):
    def __init__(self, rngs):
        self.stem, self.head = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.blocks = nnx.List([NnxBlock(8, 2, rngs), NnxBlock(8, 3, rngs)])

    def __call__(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_nnx_field_and_size_inside_together():
    model = NnxBlocks(nnx.Rngs(0))
    mutation = nas.delta_nout(*nas.from_nnx(model, ROWS), {"stem": -2, "blocks/1/up": -3})
    new = nas.rebuild(model, mutation)
    assert [(block.width, block.up.out_features) for block in new.blocks] == [(6, 16), (6, 21)]
    np.testing.assert_allclose(new(ROWS), mutation.graph.apply(mutation.variables, ROWS), atol=1e-5)
    again = pickle.loads(pickle.dumps(new))
    np.testing.assert_array_equal(again(ROWS), new(ROWS))
    assert "out_features=21" in repr(again)


@pytest.mark.parametrize("copied", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, copy.copy])
def test_what_comes_back_is_pickled(copied):
    new, mutation = back(Blocks(), {"stem": -2})
    again = copied(new)
    assert again == new
    assert (type(again), repr(again)) == (type(new), repr(new))
    inside = copied(nn.Sequential([new]))
    variables = {"params": {"layers_0": mutation.variables["params"]}}
    np.testing.assert_array_equal(inside.apply(variables, ROWS), new.apply(mutation.variables, ROWS))


def test_a_class_that_has_no_name_is_pickled_by_cloudpickle():
    class Local(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.relu(nn.Dense(9, name="hidden")(x)))

    cloudpickle = pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
    new, mutation = back(Local(), {"hidden": -2})
    again = cloudpickle.loads(cloudpickle.dumps(new))
    assert "{'hidden': {'features': 7}}" in repr(again)
    np.testing.assert_array_equal(again.apply(mutation.variables, ROWS), new.apply(mutation.variables, ROWS))


class Halves(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x):
        a, b = jnp.split(nn.Dense(2 * self.width, name="up")(x), 2, -1)
        return nn.Dense(2)(jnp.concatenate([jnp.tanh(a), nn.Dense(4, name="inner")(b)], -1))


def test_the_message_names_the_natural_try():
    mutation = nas.delta_nout(*imported(Halves(), ROWS), {"up": -3})
    with pytest.raises(nas.RebuildError, match="does not result in an equal division") as error:
        nas.rebuild(Halves(), mutation)
    message = str(error.value)
    assert "up/features = 13" in message
    assert "jnp.split(nn.Dense(2 * self.width" in message
    assert "ways to choose the sizes" in message


def test_a_limit_of_time():
    mutation = nas.delta_nout(*imported(Halves(), ROWS), {"up": -3})
    with pytest.raises(nas.RebuildError, match=r"time_limit=0 was over") as error:
        nas.rebuild(Halves(), mutation, time_limit=0)
    assert "nn.Dense(2 * self.width" in str(error.value)  # the line is named that holds the first size
    with pytest.raises(nas.RebuildError, match="time_limit= takes a number of seconds"):
        nas.rebuild(Halves(), mutation, time_limit="long")


class OneWeight(nn.Module):
    """A weight of three dimensions, of which the class says two as one number."""

    @nn.compact
    def __call__(self, x):
        q = nn.relu(nn.Dense(32, name="q")(x).reshape(-1, 4, 8))
        return jnp.einsum("bhd,hdo->bo", q, self.param("w", nn.initializers.lecun_normal(), (4, 8, 3)))


class Joined(nn.Module):
    """A weight that reads three layers side by side."""

    @nn.compact
    def __call__(self, x):
        parts = [nn.relu(nn.Dense(size, name=name)(x)) for name, size in (("a", 4), ("b", 6), ("c", 8))]
        return jnp.concatenate(parts, -1) @ self.param("w", nn.initializers.lecun_normal(), (18, 3))


class Cut(nn.Module):
    """A weight that makes neurons of three kinds, which have no handles of their own."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.lecun_normal(), (x.shape[-1], 24))
        a, b, c = jnp.split(x @ w, [4, 10], -1)
        return nn.Dense(3)(jnp.tanh(a)) + nn.Dense(3)(nn.relu(b)) + nn.Dense(3)(c)


@pytest.mark.parametrize(
    ("model", "name", "sizes"),
    [
        (OneWeight(), "q:heads", [("q:heads", 4, 3), ("q", 32, 24)]),
        (OneWeight(), "q:features", [("q:features", 8, 7), ("q:features * w", 24, 21), ("q", 32, 28)]),
        (Joined(), "a", [("a", 4, 3), ("a + b", 10, 9), ("a + b + c", 18, 17), ("(a + b + c) * w", 54, 51)]),
        (Joined(), "c", [("c", 8, 7), ("a + b + c", 18, 17), ("params/c/kernel[0] * c", 48, 42)]),
    ],
)
def test_the_message_names_parts_and_products_of_dimensions(model, name, sizes):
    graph, variables = imported(model, ROWS)
    assert {f"{what}: {old} -> {new}" for what, old, new in sizes} <= changed(
        model, nas.delta_nout(graph, variables, {name: -1})
    )


def test_the_message_names_parts_without_handles():
    graph, variables = imported(Cut(), ROWS)
    mutation = nas.delta_nout(graph, variables, {"w": -1}, utility={"w": [1] * 4 + [0] * 6 + [1] * 14})
    found = changed(Cut(), mutation)
    assert {"w: 24 -> 23", "the first 2 of 3 parts of w: 10 -> 9"} <= found
    assert "params/Dense_1/kernel[0] * Dense_1: 18 -> 15" in found  # as the layer is called, and no layer tied to it


def changed(model: nn.Module, mutation: nas.Mutation) -> set[str]:
    """What the message lists as changed."""
    with pytest.raises(nas.RebuildError) as error:
        nas.rebuild(model, mutation)
    line = next(line for line in str(error.value).splitlines() if "What changed" in line)
    return set(line.removeprefix("  What changed: ").split(", "))
