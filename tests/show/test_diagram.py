"""Diagrams as text: every vertex is a node, every edge an arrow, whatever names are made of."""

from __future__ import annotations

import copy
import pickle
import re
from xml.etree import ElementTree

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from test_drawings import GRAPHS, change, residual

import naivenas_jax as nas
from naivenas_jax.show.drawing.drawn_graph import drawn_graph

NAMES = ("hidden", 'a "b"', "<script>", "a -> b", "[x]", "100%; #7", "back\\slash", "two\nlines", "umlaut ü")


def named(name: str) -> nas.Graph:
    x = nas.input_vertex("x", 3)
    return nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer(name, nn.Dense(8), x)))


@pytest.mark.parametrize("name", GRAPHS)
def test_mermaid_has_each_box_and_each_edge_once(name):
    graph = GRAPHS[name]()
    drawing, lines = drawn_graph(graph), nas.diagram(graph).splitlines()
    assert lines[0] == "flowchart TD"
    nodes = [found[1] for line in lines if (found := re.match(r" +(v\d+)[\[(]", line))]
    arrows = [(found[1], found[2]) for line in lines if (found := re.match(r" +(v\d+) (?:--.*)?--> (v\d+)$", line))]
    assert sorted(nodes) == sorted(f"v{i}" for i in range(len(drawing.boxes)))
    number = {box.key: f"v{i}" for i, box in enumerate(drawing.boxes)}
    assert arrows == [(number[e.source], number[e.target]) for e in drawing.edges]
    opened = sum(line.strip().startswith("subgraph") for line in lines)
    assert opened == sum(line.strip() == "end" for line in lines)
    assert opened == len({box.inside[:depth] for box in drawing.boxes for depth in range(1, len(box.inside) + 1)})


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_between_quotes(name):
    graph = named(name)
    labels = [line for line in nas.diagram(graph).splitlines() if line.startswith("    v1[")]
    assert len(labels) == 1
    assert re.fullmatch(r'    v1\["[^"\n]*"\]', labels[0])
    dot = nas.diagram(graph, format="dot")
    assert all(re.fullmatch(r'(?:[^"]|"(?:[^"\\\n]|\\.)*")*', line) for line in dot.splitlines())
    root = ElementTree.fromstring(nas.diagram(graph, format="svg"))
    assert any(name.replace("\n", " ")[:5] in (text.text or "").replace("\n", " ") for text in root.iter())


@pytest.mark.parametrize("name", GRAPHS)
def test_dot_opens_and_closes(name):
    text = nas.diagram(GRAPHS[name](), format="dot")
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    assert bare.count("{") == bare.count("}") == 1 + text.count("subgraph ")
    assert bare.count("->") == len(drawn_graph(GRAPHS[name]()).edges)


def test_changes_are_marked_in_text():
    gone = change("a vertex less")
    assert nas.diagram(gone).count("linkStyle") == 3
    assert "stroke-dasharray" in nas.diagram(gone)
    assert "style=dashed" in nas.diagram(gone, format="dot")


def test_notebooks_show_the_picture_and_print_the_text():
    chart = nas.diagram(residual(1))
    assert chart._repr_html_().count("<svg") == 1
    assert chart._repr_svg_().startswith("<svg")
    assert str(chart).startswith("flowchart")
    for other in (pickle.loads(pickle.dumps(chart)), copy.deepcopy(chart)):
        assert other == chart
        assert other._repr_svg_() == chart._repr_svg_()


def test_what_is_no_network_and_no_format():
    for given in (None, 3, "graph", {}, (), nn.Dense(3)):
        with pytest.raises(nas.GraphError, match=rf"must be a nas\.Graph.*found {type(given).__name__}: "):
            nas.diagram(given)
    with pytest.raises(nas.GraphError, match=r"found tuple.*It unpacks to one: graph, variables = "):
        nas.diagram((residual(1), {}))
    with pytest.raises(nas.GraphError, match="format= is one of 'mermaid', 'dot', 'svg'; found 'png'"):
        nas.diagram(residual(1), format="png")


def test_a_model_that_was_edited_is_drawn_as_it_is_now():
    model, x = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)]), jnp.ones((1, 3))
    graph, variables = nas.from_linen(model, jax.eval_shape(model.init, jax.random.key(0), x), x)
    wider = nas.delta_nout(graph, variables, {"layers_0": 2}).graph
    assert "layers_0: kernel 3×6" in nas.diagram(wider)
    assert jax.tree.leaves(wider) == []
