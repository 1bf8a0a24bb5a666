"""What notebooks, terminals and treescope get to see."""

from __future__ import annotations

import copy
import io
import pickle
from html.parser import HTMLParser

import cloudpickle
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
import rich.console
import treescope

import naivenas_jax as nas

X = jnp.ones((1, 3))
EVIL = '<script>alert("&")</script>'


def network(name: str = "hidden") -> tuple[nas.Graph, dict]:
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer(name, nn.Dense(8), x)))
    return graph, graph.init(jax.random.key(0), X)


def values(name: str = "hidden") -> dict[str, object]:
    graph, variables = network(name)
    mutation = nas.delta_nout(graph, variables, {name: -3})
    return {
        "graph": graph,
        "mutation": mutation,
        "plan": mutation.plan,
        "handles": graph.handles(),
        "summary": graph.summary(variables),
        "table": nas.summary(graph, variables),
        "costs": nas.costs(graph, variables, X),
        "report": nas.report(mutation, X),
        "history": nas.History().add(name, (graph, variables)).add("narrow", mutation, name),
        "population": nas.Population.of([mutation, nas.delta_nout(graph, variables, {name: 2})]),
        "saved": nas.Saved(graph, variables, {"state": {}}, mutation.plan),
        "diagram": nas.diagram(mutation),
        "renamed": nas.rename(graph, variables, {name: "other"}),
    }


KINDS = list(values())


class Closed(HTMLParser):
    """Raises if a tag is closed that was not opened last."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("br",):
            self.open.append(tag)
        assert tag != "script"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", KINDS)
def test_html_is_escaped_well_formed_and_the_same_each_time(kind):
    shown = values(EVIL)[kind]._repr_html_()
    parser = Closed()
    parser.feed(shown)
    assert parser.open == []
    assert shown == values(EVIL)[kind]._repr_html_()


@pytest.mark.parametrize("kind", KINDS)
def test_rich_and_treescope_show_the_same(kind):
    value = values("[red]hidden")[kind]  # what looks like markup of rich is a name
    console = rich.console.Console(record=True, width=140, file=io.StringIO())
    console.print(value)
    shown = console.export_text()
    folded = treescope.render_to_text(value)
    if kind != "costs":
        assert "[red]hidden" in shown
    assert treescope.render_to_html(value)
    assert len(folded) > 10


def test_a_graph_in_text():
    graph, _ = network()
    assert "│ hidden │ Dense(3 -> 8) │ x      │    8 │ –    │" in str(graph)
    assert repr(graph) == "Graph(inputs=[x], outputs=[out], 3 vertices)"


def test_a_mutation_in_text():
    graph, variables = network()
    text = str(nas.delta_nout(graph, variables, {"hidden": nas.to(5)}))
    assert text.startswith("delta_nout: hidden 8 → 5")
    assert "│ hidden │ 8 → 5 │    5 │" in text


def test_treescope_shows_graphs_inside_of_trees():
    graph, variables = network()
    shown = treescope.render_to_text({"graph": graph, "change": nas.delta_nout(graph, variables, {"hidden": -3})})
    assert "Graph(inputs=[x], outputs=[out], 3 vertices)" in shown
    assert "Mutation(hidden: 8 -> 5" in shown


def test_an_nnx_model_shows_its_graph():
    graph, variables = network()
    shown = treescope.render_to_text(graph.as_nnx(variables))
    assert "Graph(inputs=[x], outputs=[out], 3 vertices)" in shown
    assert "kernel" in shown


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pickler", [pickle, cloudpickle, None], ids=["pickle", "cloudpickle", "deepcopy"])
def test_copies_show_the_same(kind, pickler):
    value = values()[kind]
    again = copy.deepcopy(value) if pickler is None else pickler.loads(pickler.dumps(value))
    assert type(again) is type(value)
    assert again._repr_html_() == value._repr_html_()
