"""What a drawing of a network says, before anybody decides where its boxes lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

#: What a change has done to a vertex or an edge. "" stands for nothing.
Mark: TypeAlias = Literal["", "new", "gone", "changed"]


@dataclass(frozen=True)
class Neurons:
    """Neurons of a vertex that are tied to the same others.

    Attributes:
      size: how many.
      tie: what they are tied to, as a number from 0; the same number at every vertex of a tie. -1: to nothing.
      frozen: why they may not change; empty: they may.
      fate: what a change has done to them; empty: no change is drawn.
    """

    size: int
    tie: int = -1
    frozen: str = ""
    fate: Literal["", "kept", "dropped", "new"] = ""


@dataclass(frozen=True)
class Row:
    """A vertex or module.

    Attributes:
      name: its name.
      words: what it computes.
      size: how many neurons it makes, as text.
      neurons: the same neurons in groups that are tied to the same others.
      axes: the axes that they lie on.
      mark: what a change has done to it.
      remark: what else is to be known.
    """

    name: str
    words: str = ""
    size: str = ""
    neurons: tuple[Neurons, ...] = ()
    axes: tuple[str, ...] = ()
    mark: Mark = ""
    remark: str = ""


@dataclass(frozen=True)
class Box:
    """One or several vertices in a row, each of which reads the one above.

    Attributes:
      key: what edges call it.
      rows: the vertices.
      inside: the modules that it lies in, outermost first.
      kind: an input or output of the network, a vertex or module, an operation that nobody has named.
    """

    key: str
    rows: tuple[Row, ...]
    inside: tuple[str, ...] = ()
    kind: Literal["end", "layer", "operation"] = "layer"


@dataclass(frozen=True)
class Edge:
    """One box reads another.

    Attributes:
      source: the key of the box that is read.
      target: the key of the box that reads.
      mark: what a change has done to it.
    """

    source: str
    target: str
    mark: Mark = ""


@dataclass(frozen=True)
class Drawing:
    """A network to be drawn.

    Attributes:
      title: what it is.
      boxes: each behind those that it reads.
      edges: in the order of the boxes that read.
    """

    title: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]

    def rows(self) -> Iterator[Row]:
        """All vertices, in order."""
        for box in self.boxes:
            yield from box.rows


class Step(NamedTuple):
    """A step through the boxes of a drawing, with those of a module together.

    Attributes:
      inside: the modules around it.
      box: a box; None: a module begins or ends.
      opens: the module that begins; empty: it ends.
    """

    inside: tuple[str, ...]
    box: Box | None = None
    opens: str = ""


def nesting(drawing: Drawing) -> Iterator[Step]:
    """The boxes in order, those of a module together, and where modules begin and end.

    >>> boxes = Box("a", (Row("a"),), ("m",)), Box("b", (Row("b"),)), Box("c", (Row("c"),), ("m",))
    >>> [step.box.key if step.box else step.opens or "end" for step in nesting(Drawing("", boxes, ()))]
    ['m', 'a', 'c', 'end', 'b']
    """
    first: dict[tuple[str, ...], int] = {}
    for number, box in enumerate(drawing.boxes):
        for depth in range(1, len(box.inside) + 1):
            first.setdefault(box.inside[:depth], number)
    place = {
        box.key: (*(first[box.inside[: depth + 1]] for depth in range(len(box.inside))), number)
        for number, box in enumerate(drawing.boxes)
    }
    around: tuple[str, ...] = ()
    every: list[Box | None] = [*sorted(drawing.boxes, key=lambda each: place[each.key]), None]
    for each in every:
        inside = () if each is None else each.inside
        while around != inside[: len(around)]:
            around = around[:-1]
            yield Step(around)
        while around != inside:
            yield Step(around, opens=inside[len(around)])
            around = inside[: len(around) + 1]
        if each is not None:
            yield Step(inside, each)


#: Drawings of more boxes are made smaller: by chains in one box, by modules whose inside is not shown.
_FEW, _MOST = 24, 160


def stacked(drawing: Drawing, few: int = _FEW) -> Drawing:
    """The drawing with each chain of boxes as one box of several rows, unless there are few boxes.

    Args:
      drawing: the drawing.
      few: so many boxes are left as they are.

    >>> boxes = tuple(Box(name, (Row(name),)) for name in "abc")
    >>> [len(box.rows) for box in stacked(Drawing("", boxes, (Edge("a", "b"), Edge("b", "c"))), few=2).boxes]
    [3]
    """
    if len(drawing.boxes) <= few:
        return drawing
    boxes = {box.key: box for box in drawing.boxes}
    readers: dict[str, list[str]] = {key: [] for key in boxes}
    read: dict[str, list[Edge]] = {key: [] for key in boxes}
    for edge in drawing.edges:
        readers[edge.source].append(edge.target)
        read[edge.target].append(edge)
    head: dict[str, str] = {}
    rows: dict[str, list[Row]] = {}
    for key, box in boxes.items():
        own = read[key]
        above = boxes[own[0].source] if len(own) == 1 and not own[0].mark else None
        joins = (
            above is not None
            and len(readers[above.key]) == 1
            and above.inside == box.inside
            and box.kind == above.kind == "layer"
        )
        head[key] = head[above.key] if joins and above is not None else key
        rows.setdefault(head[key], []).extend(box.rows)
    made = tuple(replace(boxes[key], rows=tuple(own)) for key, own in rows.items())
    edges = dict.fromkeys(Edge(head[e.source], head[e.target], e.mark) for e in drawing.edges)
    return Drawing(drawing.title, made, tuple(edge for edge in edges if edge.source != edge.target))


def folded(drawing: Drawing, most: int = _MOST) -> Drawing:
    """The drawing with the insides of its deepest modules left out, until it has few enough boxes.

    Args:
      drawing: the drawing.
      most: how many boxes there may be.

    >>> boxes = tuple(Box(f"m/{i}", (Row(f"m/{i}"),), ("m",)) for i in range(3))
    >>> folded(Drawing("", boxes, (Edge("m/0", "m/1"),)), most=2).boxes[0].rows[0].words
    '3 modules'
    """
    depth = max((len(box.inside) for box in drawing.boxes), default=0)
    while len(drawing.boxes) > most and depth > 0:
        depth -= 1
        drawing = _folded_at(drawing, depth)
    return drawing


def _folded_at(drawing: Drawing, depth: int) -> Drawing:
    """The drawing in which a module that lies in so many others is one box."""
    head = {box.key: "/".join(box.inside[: depth + 1]) if len(box.inside) > depth else "" for box in drawing.boxes}
    inside: dict[str, list[Box]] = {}
    for box in drawing.boxes:
        inside.setdefault((head[box.key] and f"in {head[box.key]}") or box.key, []).append(box)
    boxes = []
    for key, own in inside.items():
        if not head[own[0].key]:
            boxes.append(own[0])
            continue
        count, last = sum(box.kind == "layer" for box in own), own[-1].rows[-1]
        changed = any(row.mark for box in own for row in box.rows)
        words = f"{count} modules"
        row = replace(last, name=head[own[0].key], words=words, mark="changed" if changed else "", remark="")
        boxes.append(Box(key, (row,), own[0].inside[:depth]))
    named = {box.key: f"in {head[box.key]}" if head[box.key] else box.key for box in drawing.boxes}
    edges = dict.fromkeys(Edge(named[e.source], named[e.target], e.mark) for e in drawing.edges)
    return Drawing(drawing.title, tuple(boxes), tuple(edge for edge in edges if edge.source != edge.target))
