"""Drawings against what can be counted: no box lies on another, every edge is a line, and colours say what is tied."""

from __future__ import annotations

from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas
from naivenas_jax.show.drawing.drawing import Drawing, folded, stacked
from naivenas_jax.show.drawing.drawn_change import drawn_change
from naivenas_jax.show.drawing.drawn_graph import drawn_graph
from naivenas_jax.show.drawing.nested import Rect, lay_out
from naivenas_jax.show.drawing.svg_text import svg_text

EPS = 1e-6
IMAGE = jnp.ones((1, 8, 8, 3))


def mean(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))


def pairs(x: jax.Array) -> jax.Array:
    return x[..., ::2]


def residual(blocks: int) -> nas.Graph:
    x = nas.input_vertex("image", 3, shape=(8, 8, 3))
    y = nas.layer("stem", nn.Conv(8, (3, 3)), x)
    for i in range(blocks):
        h = nas.invariant_vertex(f"relu{i}", nn.relu, nas.layer(f"conv{i}", nn.Conv(8, (3, 3)), y))
        y = (nas.layer(f"back{i}", nn.Conv(8, (3, 3)), h) + y).named(f"sum{i}")
    both = nas.concat("both", y, nas.layer("side", nn.Conv(4, (1, 1)), y))
    return nas.Graph(x, nas.layer("out", nn.Dense(2), nas.invariant_vertex("mean", mean, both)))


def dense_net(layers: int) -> nas.Graph:
    """Every layer reads all before it."""
    x = nas.input_vertex("x", 3)
    found = [x]
    for i in range(layers):
        found.append(nas.layer(f"d{i}", nn.Dense(4), nas.concat(f"c{i}", *found) if i else x))
    return nas.Graph(x, found[-1])


def nested() -> nas.Graph:
    a = nas.input_vertex("a", 4)
    inner = nas.Graph(a, nas.layer("last", nn.Dense(4), nas.layer("first", nn.Dense(5), a)))
    x = nas.input_vertex("x", 3)
    hidden = nas.layer("hidden", nn.Dense(4), x)
    return nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("block", inner, hidden) + hidden))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm(name="norm")(x))
        x = x + h
        return x + nn.Dense(x.shape[-1], name="down")(nn.gelu(nn.Dense(12, name="up")(x)))


class Transformer(nn.Module):
    blocks: int = 2

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="embed")(x)
        for i in range(self.blocks):
            x = Block(name=f"block{i}")(x)
        return nn.Dense(3, name="head")(x.mean(1))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="out")(nn.RNN(nn.SimpleCell(4), name="rnn")(x))


class Shared(nnx.Module):
    """One layer that is called twice."""

    def __init__(self, rngs: nnx.Rngs):
        self.again, self.out = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.again(nnx.relu(self.again(x)))))


def imported(model: nn.Module, x: jax.Array) -> tuple[nas.Graph, Any]:
    return nas.from_linen(model, jax.eval_shape(model.init, jax.random.key(0), x), x)


GRAPHS = {
    "residual": lambda: residual(2),
    "long": lambda: residual(40),
    "dense": lambda: dense_net(12),
    "nested": nested,
    "transformer": lambda: imported(Transformer(), jnp.ones((1, 4, 5)))[0],
    "recurrent": lambda: imported(Recurrent(), jnp.ones((1, 4, 3)))[0],
    "shared": lambda: nas.from_nnx(Shared(nnx.Rngs(0)), jnp.ones((1, 4)))[0],
}


def apart(one: Rect, other: Rect) -> bool:
    across = one.x + one.width <= other.x + EPS or other.x + other.width <= one.x + EPS
    return across or one.y + one.height <= other.y + EPS or other.y + other.height <= one.y + EPS


def within(one: Rect, other: Rect) -> bool:
    across = other.x <= one.x + EPS and one.x + one.width <= other.x + other.width + EPS
    return across and other.y <= one.y + EPS and one.y + one.height <= other.y + other.height + EPS


@pytest.mark.parametrize("name", GRAPHS)
def test_no_box_lies_on_another(name):
    drawing = stacked(folded(drawn_graph(GRAPHS[name]())))
    layout, width, height = lay_out(drawing, lambda box: (20.0 + len(box.rows[0].name), 20.0 * len(box.rows)))
    assert set(layout.boxes) == {box.key for box in drawing.boxes}
    assert all(apart(a, b) for a, b in combinations(layout.boxes.values(), 2))
    assert all(within(rect, Rect(0, 0, width, height)) for rect in layout.boxes.values())
    for box in drawing.boxes:
        for path, module in layout.modules.items():
            inside = box.inside[: len(path)] == path
            assert (within if inside else apart)(layout.boxes[box.key], module)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_edge_is_a_way_along_lines(name):
    """From the bottom of the box that is read, from line to line, to the top of the box that reads."""
    drawing = stacked(folded(drawn_graph(GRAPHS[name]())))
    layout, _, _ = lay_out(drawing, lambda box: (60.0, 20.0))
    for edge in drawing.edges:
        own = [line.points for line in layout.lines if line.source == edge.source]
        start, end = layout.boxes[edge.source], layout.boxes[edge.target]
        reached = [(start.x + start.width / 2, start.y + start.height)]
        for point in reached:
            reached += [line[-1] for line in own if np.allclose(line[0], point) and line[-1] not in reached]
        assert any(np.allclose(point, (end.x + end.width / 2, end.y)) for point in reached), edge


@pytest.mark.parametrize("name", GRAPHS)
def test_pictures_are_well_formed_and_the_same_each_time(name):
    graph = GRAPHS[name]()
    text = svg_text(drawn_graph(graph))
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert root.attrib["role"] == "img"
    described = "".join(child.text or "" for child in root if child.tag.endswith(("title", "desc")))
    assert "reads" in described
    assert text == svg_text(drawn_graph(graph))


def letters(drawing: Drawing) -> dict[str, set[int]]:
    return {box.key: {each.tie for each in box.rows[0].neurons if each.tie >= 0} for box in drawing.boxes}


def test_one_colour_is_one_tie():
    graph = residual(2)
    found, handles = letters(drawn_graph(graph)), graph.handles()
    for a, b in combinations(handles, 2):
        if found[a] and found[b]:
            assert bool(found[a] & found[b]) == (b in handles[a].tied_to), (a, b)


def test_what_is_frozen_is_drawn_so():
    x = nas.input_vertex("x", 4)
    drawing = drawn_graph(nas.Graph(x, nas.layer("out", nn.Dense(2), nas.immutable_vertex("pairs", pairs, x))))
    frozen = {row.name: [each.frozen for each in row.neurons] for row in drawing.rows()}
    assert frozen == {"x": ["'pairs' is immutable"], "pairs": ["'pairs' is immutable"], "out": [""]}


def test_residual_streams_of_a_transformer():
    drawing = drawn_graph(GRAPHS["transformer"]())
    keys = {edge.target: set() for edge in drawing.edges}
    for edge in drawing.edges:
        keys[edge.target].add(edge.source)
    assert keys["block0/norm"] == {"embed"}
    assert keys["block0/attention/query"] == {"block0/norm"}
    sums = {key for key in keys if key.startswith("~add")}
    assert {"embed", "block0/attention/out"} in [keys[key] for key in sums]
    (first,) = [key for key in sums if keys[key] == {"embed", "block0/attention/out"}]
    assert keys["block0/up"] == {first}
    assert {first, "block0/down"} in [keys[key] for key in sums]
    assert {box.key: box.inside for box in drawing.boxes}["block0/attention/query"] == ("block0", "attention")
    rows = {row.remark.removeprefix("module "): row for row in drawing.rows() if row.remark}
    assert rows["block0/attention/query"].size == "2×4"
    assert rows["block0/up"].words == "kernel 8×12"
    assert rows["embed"].neurons[0].tie == rows["block1/down"].neurons[0].tie  # the stream


def test_a_shared_layer_is_drawn_where_it_is_called():
    drawing = drawn_graph(GRAPHS["shared"]())
    assert {(edge.source, edge.target) for edge in drawing.edges} == {
        ("x", "again"),
        ("again", "again (2)"),
        ("again (2)", "out"),
        ("out", "output"),
    }


def change(name: str) -> nas.Mutation:
    graph = residual(1)
    variables = jax.eval_shape(graph.init, jax.random.key(0), IMAGE)
    return {
        "narrower": lambda: nas.delta_nout(graph, variables, {"conv0": -3, "side": +2}),
        "a vertex less": lambda: nas.remove_vertex(graph, variables, "relu0"),
        "an edge more": lambda: nas.create_edge(graph, variables, "stem", "both"),
        "renamed": lambda: nas.rename(graph, variables, {"conv0": "narrow"}),
    }[name]()


def test_a_change_of_width_shows_both_sizes_and_what_became_of_neurons():
    rows = {row.name: row for row in drawn_change(change("narrower")).rows()}
    assert rows["conv0"].size == "8 → 5"
    assert rows["conv0"].mark == "changed"
    assert [(each.size, each.fate) for each in rows["conv0"].neurons] == [(5, "kept"), (3, "dropped")]
    assert [(each.size, each.fate) for each in rows["side"].neurons] == [(4, "kept"), (2, "new")]
    assert rows["stem"].size == "8"
    assert rows["stem"].mark == ""


def test_structural_edits_are_marked():
    gone = drawn_change(change("a vertex less"))
    assert [row.name for row in gone.rows() if row.mark == "gone"] == ["relu0"]
    assert {(e.source, e.target, e.mark) for e in gone.edges if e.mark} == {
        ("conv0", "relu0", "gone"),
        ("relu0", "back0", "gone"),
        ("conv0", "back0", "new"),
    }
    more = drawn_change(change("an edge more"))
    assert [(e.source, e.target) for e in more.edges if e.mark] == [("stem", "both")]
    renamed = drawn_change(change("renamed"))
    assert not any(row.mark for row in renamed.rows())
    assert not any(edge.mark for edge in renamed.edges)


def test_edits_inside_a_model():
    graph, variables = imported(Transformer(1), jnp.ones((1, 4, 5)))
    drawing = drawn_change(nas.remove_vertex(graph, variables, "block0/up"))
    assert [row.remark for row in drawing.rows() if row.mark == "gone"] == ["module block0/up"]
    for row in drawing.rows():
        if row.mark == "changed" and row.neurons:
            before, after = row.size.split(" → ") if "→" in row.size else (row.size, row.size)
            kept = sum(each.size for each in row.neurons if each.fate != "new")
            assert (kept, sum(each.size for each in row.neurons if each.fate != "dropped")) == (int(before), int(after))


def test_long_networks_are_drawn_in_fewer_boxes():
    drawing = drawn_graph(residual(40))
    assert len(stacked(drawing).boxes) < 0.7 * len(drawing.boxes)
    assert [row.name for row in stacked(drawing).rows()] == [row.name for row in drawing.rows()]
    deep = drawn_graph(imported(Transformer(3), jnp.ones((1, 4, 5)))[0])
    few = folded(deep, most=12)
    assert len(few.boxes) <= 12
    assert "block1" in {row.name for row in few.rows()}
