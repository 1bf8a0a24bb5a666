"""Points of a search space: how many there are, and that each is as likely as any other."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import naivenas_jax as nas


def maker(vertex: nas.Vertex) -> nas.Vertex:
    return nas.layer("new", nn.Dense(4), vertex)


SPACE = nas.SearchSpace(sizes={"a": [2, 4, 8], "b": [1, 5]}, makers={"a": [maker]})


def test_each_point_is_as_likely():
    assert SPACE.size() == 12
    found = collections.Counter(
        (*point.sizes.values(), point.makers["a"])
        for point in map(SPACE.sample, jax.random.split(jax.random.key(0), 600))
    )
    assert len(found) == 12
    expected = 600 / 12
    assert sum((n - expected) ** 2 / expected for n in found.values()) < 31.3  # 99.9 % of the chi-squared law of 11


def test_a_point_is_a_request():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("b", nn.Dense(3), nas.layer("a", nn.Dense(4), x))))
    point = SPACE.sample(jax.random.key(3))
    mutation = nas.delta_nout(graph, graph.init(jax.random.key(0), jnp.ones((1, 3))), point.request)
    assert {name: mutation.graph.nout(name) for name in "ab"} == point.sizes


@pytest.mark.parametrize(
    ("space", "match"),
    [
        (nas.SearchSpace(), "told by names"),
        (nas.SearchSpace(sizes={"a": 2.0}), "the factor 2.0 says how far"),
        (nas.SearchSpace(sizes={"a*": [1, 2]}), "is a pattern"),
    ],
    ids=["no names", "a factor", "a pattern"],
)
def test_spaces_without_points(space: nas.SearchSpace, match: str):
    with pytest.raises(nas.RequestError, match=match):
        space.sample(jax.random.key(0))
    with pytest.raises(nas.RequestError, match=match):
        space.size()
