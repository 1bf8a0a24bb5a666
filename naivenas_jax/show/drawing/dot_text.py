"""A drawing in DOT, the language of Graphviz, for those who have it."""

from __future__ import annotations

from collections.abc import Iterator

from naivenas_jax.show.drawing.drawing import Box, Drawing, Mark, nesting

_COLOURS: dict[Mark, str] = {
    "": "",
    "new": ', color="#0072B2", penwidth=2',
    "gone": ', color="#D55E00", style=dashed',
    "changed": ', color="#7b4ea3", penwidth=2',
}


def dot_text(drawing: Drawing) -> str:
    """The text of the graph: a node for each vertex, a cluster for each module, an edge with its number of neurons.

    Args:
      drawing: the drawing.

    >>> from naivenas_jax.show.drawing.drawing import Edge, Row
    >>> boxes = Box("a", (Row("a", "input", "3"),)), Box("m/b", (Row("b", "Dense", "2"),), ("m",))
    >>> print(dot_text(Drawing("a to b", boxes, (Edge("a", "m/b"),))))
    digraph "a to b" {
      node [shape=box, style=rounded, fontname=Helvetica]
      "a" [label="a: input"]
      subgraph "cluster_0" {
        label="m"
        "m/b" [label="b: Dense"]
      }
      "a" -> "m/b" [label="3"]
    }
    """
    sizes = {box.key: box.rows[-1].size for box in drawing.boxes}
    edges = (
        f"  {_quoted(e.source)} -> {_quoted(e.target)} [label={_quoted(sizes[e.source])}{_COLOURS[e.mark]}]"
        for e in drawing.edges
    )
    head = (f"digraph {_quoted(drawing.title)} {{", "  node [shape=box, style=rounded, fontname=Helvetica]")
    return "\n".join((*head, *_boxes(drawing), *edges, "}"))


def _quoted(text: str) -> str:
    r"""A string of DOT.

    >>> print(_quoted('a "b"'))
    "a \"b\""
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _boxes(drawing: Drawing) -> Iterator[str]:
    modules = 0
    for step in nesting(drawing):
        indent = "  " * (len(step.inside) + 1)
        if step.box is not None:
            yield f"{indent}{_quoted(step.box.key)} [{_node(step.box)}]"
        elif step.opens:
            yield f'{indent}subgraph "cluster_{modules}" {{'
            yield f"{indent}  label={_quoted(step.opens)}"
            modules += 1
        else:
            yield f"{indent}}}"


def _node(box: Box) -> str:
    row = box.rows[-1]
    shape = ", shape=circle" if box.kind == "operation" else ", shape=oval" if box.kind == "end" else ""
    return f"label={_quoted(f'{row.name}: {row.words}' if row.words else row.name)}{shape}{_COLOURS[row.mark]}"
