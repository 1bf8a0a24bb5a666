"""What a summary counts, on hand-written and imported graphs."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import naivenas_jax as nas


class Model(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        h = nn.LayerNorm(name="norm")(nn.Dense(8, name="hidden")(x))
        p = jnp.cumsum(nn.Dense(5, name="ordered")(h), -1)
        return nn.Dense(2, name="head")(p)


X = jnp.ones((1, 3))


def _hand_written() -> tuple[Any, Any]:
    x = nas.input_vertex("x", 3)
    hidden = nas.layer("hidden", nn.Dense(8), x)
    frozen = nas.immutable_vertex("ordered", lambda h: jnp.cumsum(h, -1), nas.layer("dense", nn.Dense(5), hidden))
    graph = nas.Graph(x, nas.layer("head", nn.Dense(2), frozen))
    return graph, graph.init(jax.random.key(0), X)


def test_a_hand_written_graph() -> None:
    graph, variables = _hand_written()
    found = graph.summary(variables)
    rows = {row.handle.name: row for row in found.rows}
    assert rows.keys() == {"x", "hidden", "head"}
    assert rows["hidden"].parameters == 3 * 8 + 8 + 8 * 5
    assert rows["head"].parameters == 5 * 2 + 2
    assert rows["head"].kept == "an output, which changes when a request names it"
    assert rows["hidden"].kept is None
    # hidden: kernel (x, hidden), bias; dense: kernel (hidden, ordered), bias; head: kernel (ordered, head), bias
    assert (found.dimensions, found.resizable_dimensions) == (9, 3)
    assert (found.parameters, found.resizable_parameters) == (24 + 8 + 40 + 5 + 10 + 2, 24 + 8 + 40)
    counts = dict(found.frozen)
    assert counts.pop(rows["x"].kept) == 1
    assert counts.pop(rows["head"].kept) == 2
    assert list(counts.values()) == [3]
    assert "immutable" in next(iter(counts))


def test_an_imported_graph_and_its_table() -> None:
    graph, variables = nas.from_linen(Model(), Model().init(jax.random.key(0), X), X)
    found = graph.summary(variables)
    rows = {row.handle.name: row for row in found.rows}
    assert rows.keys() == {"x", "hidden", "head", "output"}
    assert rows["hidden"].parameters == 3 * 8 + 8 + 8 + 8 + 8 * 5
    assert "reduce_" in rows["hidden"].handle.coupled
    assert rows["head"].kept == "an output, which changes when a request names it"
    assert (found.dimensions, found.resizable_dimensions) == (11, 5)
    counts = dict(found.frozen)
    assert counts["cumsum runs along it"] == 2
    assert counts["it is contracted with an axis of fixed size"] == 1
    assert found.parameters == sum(a.size for a in jax.tree.leaves(variables["params"]))
    assert found.resizable_parameters == 3 * 8 + 8 + 8 + 8 + 8 * 5
    for text in (str(found), str(nas.summary(graph, variables))):
        assert "resizable: 88 of 105 parameters, 5 of 11 dimensions of parameters" in text
        assert "frozen: 2 dimensions: cumsum runs along it" in text
        assert "coupled: reduce_" in text


def test_shapes_are_enough_and_variables_are_not_needed() -> None:
    graph, variables = _hand_written()
    shapes = jax.eval_shape(lambda: variables)
    assert graph.summary(shapes) == graph.summary(variables)
    bare = graph.summary()
    assert bare.parameters is None
    assert bare.resizable_dimensions == 3
    assert "88" not in str(bare)
