"""A finished analysis inside another one says what it said alone."""

import flax.linen as nn

import naivenas_jax as nas
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import is_unnamed, path_text
from naivenas_jax.sizes.condition import multiple_of
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.tying import Tying


def by_appearance(ties: Ties) -> dict:
    """All that ties say, with runs numbered in the order of the names of axes, and axes that nobody named left out."""
    number: dict[int, int] = {}
    named = sorted(axis for axis in ties.axes if not is_unnamed(axis))
    axes = {axis: tuple(number.setdefault(run, len(number)) for run in ties.axes[axis]) for axis in named}
    for row in list(number):
        for factor in ties.products.get(row, ()):
            for run in factor:
                number.setdefault(run, len(number))
    return {
        "axes": axes,
        "sizes": {run: ties.run_sizes[old] for old, run in number.items()},
        "products": {
            number[run]: tuple(tuple(number[part] for part in row) for row in factors)
            for run, factors in ties.products.items()
        },
        "fixed": {number[run] for run in ties.fixed if run in number},
        "coupled": {number[run] for run in ties.coupled_runs},
        "leaves": {
            path: [axis and tuple(number.get(run) for run in ties.axes[axis]) for axis in leaf.axes]
            for path, leaf in ties.leaves.items()
        },
        "roles": {path: leaf.roles for path, leaf in ties.leaves.items()},
        "rows": {str(row.because("")) for row in ties.conditions},
    }


def attention_like() -> Tying:
    """Heads and features, their product, a fixed part, a coupled one, and a place where nothing is yet."""
    tying = Tying()
    heads, features, rest, place = tying.new(2), tying.new(3), tying.new(4), tying.new(0)
    merged = tying.blocks.product([heads, features])
    both = type(merged).concat([merged, place, rest])
    for name, vector in {"heads": heads, "features": features, "merged": merged, "both": both}.items():
        tying.called(vector, name)
    tying.leaf("params", ("kernel",), (both, heads, None), ("in", "out", None), rescaled=1)
    tying.leaf("params", ("bias",), (rest,), ("out",), new=0.0)
    tying.fix(rest, "the user said so")
    tying.couple(features, "a mean is taken")
    tying.require(multiple_of("out", 2), {"out": heads})
    return tying


def test_what_is_included_says_what_it_said_alone():
    ties = attention_like().freeze()
    again = Tying()
    again.include(ties, {axis: axis for axis in ties.axes})
    assert by_appearance(again.freeze()) == by_appearance(ties)
    assert again.freeze().leaves["params", "kernel"] == ties.leaves["params", "kernel"]
    assert list(again.freeze().fixed.values()) == ["the user said so"]
    assert set(again.freeze().coupled_runs.values()) == {"a mean is taken"}


def test_runs_may_have_other_sizes_and_products_follow():
    ties = attention_like().freeze()
    sizes = [8 if run in ties.axes["heads"] else size for run, size in enumerate(ties.run_sizes)]
    again = Tying()
    included = again.include(ties, {}, [0 if run in ties.products else size for run, size in enumerate(sizes)])
    assert {axis: len(vector) for axis, vector in included.axes.items()} == ties.sizes_with({ties.axes["heads"][0]: 8})
    assert len(included.row((*ties.axes["heads"], *ties.axes["features"]))) == 8 + 3


def block() -> Graph:
    x = nas.input_vertex("x", 6)
    a = nas.layer("a", nn.Dense(4), x)
    both = nas.concat("both", a, nas.layer("b", nn.Dense(6), x) + x)
    return nas.Graph(x, nas.layer("norm", nn.LayerNorm(), nas.layer("heads", nn.Dense(3), both)))


def test_a_graph_in_a_vertex_ties_the_same_whether_vertex_by_vertex_or_as_it_was_analysed():
    inner = block()
    image = nas.input_vertex("image", 6)
    graph = nas.Graph(image, nas.layer("out", nn.Dense(2), nas.layer("block", inner, image)))
    tying = Tying()
    port = graph["image"].op.tie((), tying.within("image"))
    tying.within("image").axis(port)
    within = tying.within("block")
    names = {axis: path_text((*within.scope, axis)) for axis in inner.ties.axes if not is_unnamed(axis)}
    vector = within.include(inner.ties, names, given={"x": port}).axes[inner.outputs[0].name]
    within.axis(vector)
    out = tying.within("out")
    out.axis(graph["out"].op.tie((vector,), out))
    assert by_appearance(tying.freeze()) == by_appearance(graph.ties)
