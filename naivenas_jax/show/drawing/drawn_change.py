"""A change as one drawing: the networks before and after on top of each other, with what differs marked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.show.drawing.drawing import Box, Drawing, Edge, Neurons, Row
from naivenas_jax.show.drawing.drawn_graph import drawn_graph


def drawn_change(mutation: Mutation) -> Drawing:
    """The network after a change, with what was there before: sizes, and which vertices and edges came and went.

    Args:
      mutation: the change.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> drawing = drawn_change(nas.delta_nout(graph, variables, {"hidden": -3}))
    >>> [(row.name, row.size, row.mark) for row in drawing.rows()]
    [('x', '3', ''), ('hidden', '8 → 5', 'changed'), ('out', '2', '')]
    """
    names = {old: new for new, old in mutation.plan.renamed.items()}
    before, after = _renamed(drawn_graph(mutation.before), names), drawn_graph(mutation.graph)
    was, now = {box.key: box for box in before.boxes}, {box.key: box for box in after.boxes}
    boxes = tuple(_merged(was, now, mutation.plan))
    old, new = set(before.edges), set(after.edges)
    edges = [replace(edge, mark="" if edge in old else "new") for edge in after.edges]
    edges += [replace(edge, mark="gone") for edge in before.edges if edge not in new]
    return Drawing(f"What {mutation.kind or 'a change'} has done to a network", boxes, tuple(edges))


def _renamed(drawing: Drawing, names: Mapping[str, str]) -> Drawing:
    """A drawing whose boxes have other names."""

    def box(each: Box) -> Box:
        rows = tuple(
            replace(row, name=names.get(row.name, row.name), axes=tuple(names.get(axis, axis) for axis in row.axes))
            for row in each.rows
        )
        return replace(each, key=names.get(each.key, each.key), rows=rows)

    edges = tuple(Edge(names.get(e.source, e.source), names.get(e.target, e.target)) for e in drawing.edges)
    return replace(drawing, boxes=tuple(map(box, drawing.boxes)), edges=edges)


def _merged(was: Mapping[str, Box], now: Mapping[str, Box], plan: Plan) -> Iterator[Box]:
    """The boxes of both networks; one that has gone comes before the next one that stays."""
    gone: dict[str, list[Box]] = {}
    waiting: list[Box] = []
    for key, box in was.items():
        if key in now:
            gone[key], waiting = waiting, []
        else:
            waiting.append(replace(box, rows=tuple(replace(row, mark="gone", neurons=_gone(row)) for row in box.rows)))
    for key, box in now.items():
        yield from gone.get(key, ())
        rows = zip(was[key].rows, box.rows, strict=False) if key in was else ((None, row) for row in box.rows)
        yield replace(box, rows=tuple(_changed(old, new, plan) for old, new in rows))
    yield from waiting


def _gone(row: Row) -> tuple[Neurons, ...]:
    """The neurons of a vertex that is no longer there."""
    return (Neurons(1, fate="dropped"),) if row.neurons else ()


def _changed(old: Row | None, new: Row, plan: Plan) -> Row:
    """A vertex with what has become of its neurons."""
    if old is None:
        return replace(new, mark="new", neurons=(Neurons(1, fate="new"),) if new.neurons else ())
    axes = _axes(old, new, plan)
    fates = tuple(each for axis in axes for each in _fates(axis))
    size = new.size if new.size == old.size else f"{old.size} → {new.size}"
    other = re.sub(r"[\d× >-]+", "", old.words) != re.sub(r"[\d× >-]+", "", new.words)
    moved = any(axis.changed for axis in axes)
    return replace(new, size=size, mark="changed" if size != new.size or other or moved else "", neurons=fates)


def _axes(old: Row, new: Row, plan: Plan) -> list[AxisPlan]:
    """What became of the axes of a vertex; after an edit, axes that nobody has named may be others of the same name."""
    for names in (new.axes, (new.name,)):
        found = [plan.axes[axis] for axis in names if axis in plan.axes]
        fits = sum(axis.after for axis in found) == sum(each.size for each in new.neurons)
        if found and fits and sum(axis.before for axis in found) == sum(each.size for each in old.neurons):
            return found
    return []


def _fates(axis: AxisPlan) -> Iterator[Neurons]:
    """The neurons of an axis by what has become of them."""
    if axis.kept.size:
        yield Neurons(int(axis.kept.size), fate="kept")
    if axis.dropped.size:
        yield Neurons(int(axis.dropped.size), fate="dropped")
    if axis.new.size:
        yield Neurons(int(axis.new.size), fate="new")
