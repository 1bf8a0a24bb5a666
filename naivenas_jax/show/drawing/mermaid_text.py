"""A drawing as a Mermaid flow chart, which notebooks, GitHub and most documentation tools draw."""

from __future__ import annotations

from collections.abc import Iterator

from naivenas_jax.show.drawing.drawing import Box, Drawing, Mark, nesting

_COLOURS: dict[Mark, str] = {
    "new": "stroke:#0072B2,stroke-width:3px",
    "gone": "stroke:#D55E00,stroke-width:2px,stroke-dasharray:5 3",
    "changed": "stroke:#7b4ea3,stroke-width:3px",
}


def mermaid_text(drawing: Drawing) -> str:
    """The text of the chart: a box for each vertex, an arrow for each edge with its number of neurons.

    Args:
      drawing: the drawing.

    >>> from naivenas_jax.show.drawing.drawing import Edge, Row
    >>> boxes = Box("a", (Row("a", "input", "3"),), kind="end"), Box("m/b", (Row("b", "Dense", "2"),), ("m",))
    >>> print(mermaid_text(Drawing("", boxes, (Edge("a", "m/b"),))))
    flowchart TD
        v0(["a: 3"])
        subgraph m0["m"]
            v1["b: Dense"]
        end
        v0 -- 3 --> v1
    """
    number = {box.key: f"v{i}" for i, box in enumerate(drawing.boxes)}
    lines = ["flowchart TD", *_boxes(drawing, number)]
    sizes = {box.key: box.rows[-1].size for box in drawing.boxes}
    for edge in drawing.edges:
        size = f"-- {_words(sizes[edge.source])} -->" if sizes[edge.source] else "-->"
        lines.append(f"    {number[edge.source]} {size} {number[edge.target]}")
    for i, edge in enumerate(drawing.edges):
        if edge.mark:
            lines.append(f"    linkStyle {i} {_COLOURS[edge.mark]}")
    marked = [(number[box.key], box.rows[-1].mark) for box in drawing.boxes]
    return "\n".join([*lines, *(f"    style {key} {_COLOURS[mark]}" for key, mark in marked if mark)])


def quoted(text: str) -> str:
    """Text between double quotes of Mermaid.

    >>> quoted('a "b" <i>')
    'a #quot;b#quot; &lt;i>'
    """
    escaped = text.replace("#", "#35;").replace("&", "&amp;").replace("<", "&lt;")
    return escaped.replace('"', "#quot;").replace("\n", " ")


def _words(size: str) -> str:
    """A size as the text of an arrow, which may have to be quoted."""
    return size if size.isdigit() else f'"{quoted(size)}"'


def _boxes(drawing: Drawing, number: dict[str, str]) -> Iterator[str]:
    """The boxes in order, those of a module together."""
    modules = 0
    for step in nesting(drawing):
        indent = "    " * (len(step.inside) + 1)
        if step.box is not None:
            yield f"{indent}{number[step.box.key]}{_shape(step.box)}"
        elif step.opens:
            yield f'{indent}subgraph m{modules}["{quoted(step.opens)}"]'
            modules += 1
        else:
            yield f"{indent}end"


def _shape(box: Box) -> str:
    row = box.rows[-1]
    if box.kind == "operation":
        return f'(("{quoted(row.name)}"))'
    if box.kind == "end":
        return f'(["{quoted(row.name)}: {quoted(row.size)}"])'
    return f'["{quoted(row.name)}{": " if row.words else ""}{quoted(row.words)}"]'
