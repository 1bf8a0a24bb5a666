"""Where the boxes of a drawing lie, modules inside modules.

Each module is laid out by itself, and is then one item among the others of the module around it. A line that enters or
leaves a module does so at a port on its edge, one for each box that is read across it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from naivenas_jax.show.drawing.drawing import Box, Drawing, Mark
from naivenas_jax.show.drawing.layers import Item, Link, place

#: The room around what lies in a module, and above it for its name.
PAD, HEAD = 12.0, 20.0
#: The width of a letter of the name of a module.
_LETTER = 7.0


class Rect(NamedTuple):
    """A rectangle: its left, its top, its width and its height."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Line:
    """A line from top to bottom.

    Attributes:
      points: where it bends.
      source: the key of the box that is read.
      begins: whether it begins at that box, and not at the edge of a module.
      ends: whether it ends at a box.
      mark: what a change has done to the edge.
    """

    points: tuple[tuple[float, float], ...]
    source: str
    begins: bool
    ends: bool
    mark: Mark


@dataclass
class Layout:
    """Where all lies.

    Attributes:
      boxes: by key.
      modules: by path, outer ones first.
      lines: in no order.
    """

    boxes: dict[str, Rect] = field(default_factory=dict)
    modules: dict[tuple[str, ...], Rect] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)


class _Port(NamedTuple):
    """Where a line crosses the edge of a module: on its way in or out, and what is read across it."""

    way: Literal["in", "out"]
    source: str


#: A box by its key, a module by its path, or a port.
_Key: TypeAlias = str | tuple[str, ...] | _Port


@dataclass(frozen=True)
class _Group:
    """A module that has been laid out by itself.

    Attributes:
      width: its width.
      height: its height.
      ports: how far to the right of its middle each port is.
      put: puts it into a layout, with its left top corner somewhere.
    """

    width: float
    height: float
    ports: Mapping[_Key, float]
    put: Callable[[Layout, float, float], None]


def lay_out(drawing: Drawing, size: Callable[[Box], tuple[float, float]]) -> tuple[Layout, float, float]:
    """Where everything lies, and the width and height of the whole.

    Args:
      drawing: the drawing.
      size: the width and height of a box.

    >>> from naivenas_jax.show.drawing.drawing import Edge, Row
    >>> boxes = Box("a", (Row("a"),)), Box("b", (Row("b"),), ("m",))
    >>> layout, width, height = lay_out(Drawing("", boxes, (Edge("a", "b"),)), lambda box: (30.0, 20.0))
    >>> layout.boxes["a"], list(layout.modules), len(layout.lines)
    (Rect(x=12.0, y=0.0, width=30.0, height=20.0), [('m',)], 2)
    """
    group, found = _arranged(drawing, size, ()), Layout()
    group.put(found, 0.0, 0.0)
    return found, group.width, group.height


def _arranged(drawing: Drawing, size: Callable[[Box], tuple[float, float]], path: tuple[str, ...]) -> _Group:
    """Lay out a module, or with an empty path the whole; ``drawing`` has what is inside and all edges that touch it."""
    depth = len(path)
    inside = {box.key: box for box in drawing.boxes if box.inside[:depth] == path}
    held: dict[str, _Key] = {
        key: box.inside[: depth + 1] if len(box.inside) > depth else key for key, box in inside.items()
    }
    edges = tuple(edge for edge in drawing.edges if edge.source in inside or edge.target in inside)
    part = Drawing("", tuple(inside.values()), edges)
    groups = {key: _arranged(part, size, key) for key in dict.fromkeys(held.values()) if isinstance(key, tuple)}
    ways: dict[tuple[_Key, _Key, str], Mark] = {}
    for edge in edges:
        source = held.get(edge.source, _Port("in", edge.source))
        target = held.get(edge.target, _Port("out", edge.source))
        if source != target:
            ways[source, target, edge.source] = edge.mark or ways.get((source, target, edge.source), "")
    ports = dict.fromkeys(key for way in ways for key in way[:2] if isinstance(key, _Port))
    keys = [*(p for p in ports if p.way == "in"), *dict.fromkeys(held.values()), *(p for p in ports if p.way == "out")]
    number = {key: i for i, key in enumerate(keys)}
    items = [_item(key, inside, groups, size) for key in keys]
    links = [
        Link(number[a], number[b], _shift(groups, a, _Port("out", source)), _shift(groups, b, _Port("in", source)))
        for a, b, source in ways
    ]
    placed = place(items, links)
    pad, head = (PAD, HEAD) if path else (0.0, 0.0)
    width = max(placed.width, _LETTER * len(path[-1]) if path else 0.0) + 2 * pad
    height, left = placed.height + head + pad, (width - placed.width) / 2

    def put(layout: Layout, x: float, y: float) -> None:
        if path:
            layout.modules[path] = Rect(x, y, width, height)
        for key, item, middle, top in zip(keys, items, placed.x, placed.y, strict=True):
            corner = x + left + middle - item.width / 2, y + head + top
            if key in groups:
                groups[key].put(layout, *corner)
            elif isinstance(key, str):
                layout.boxes[key] = Rect(*corner, item.width, item.height)
        for ((a, b, source), mark), points in zip(ways.items(), placed.lines, strict=True):
            moved = [(px + x + left, py + y + head) for px, py in points]
            if isinstance(a, _Port):
                moved[0] = (moved[0][0], y)
            if isinstance(b, _Port):
                moved[-1] = (moved[-1][0], y + height)
            layout.lines.append(Line(tuple(moved), source, a == source, isinstance(b, str), mark))

    middles: dict[_Key, float] = {port: placed.x[number[port]] + left - width / 2 for port in ports}
    return _Group(width, height, middles, put)


def _item(
    key: _Key,
    boxes: Mapping[str, Box],
    groups: Mapping[tuple[str, ...], _Group],
    size: Callable[[Box], tuple[float, float]],
) -> Item:
    if isinstance(key, _Port):
        return Item(6.0, 0.0, "first" if key.way == "in" else "last")
    if isinstance(key, tuple):
        return Item(groups[key].width, groups[key].height)
    return Item(*size(boxes[key]))


def _shift(groups: Mapping[tuple[str, ...], _Group], key: _Key, port: _Port) -> float:
    """How far from the middle of an item a line meets it."""
    for path, group in groups.items():
        if path == key and port in group.ports:
            return group.ports[port]
    return 0.0
