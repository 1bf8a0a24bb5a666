"""A network or a change as a picture, and as text that other tools draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from naivenas_jax.checks import is_one_of, shown
from naivenas_jax.errors import GraphError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.show.drawing.dot_text import dot_text
from naivenas_jax.show.drawing.drawing import Drawing
from naivenas_jax.show.drawing.drawn_change import drawn_change
from naivenas_jax.show.drawing.drawn_graph import drawn_graph
from naivenas_jax.show.drawing.mermaid_text import mermaid_text
from naivenas_jax.show.drawing.svg_text import svg_text
from naivenas_jax.views.view import Picture, View, Words, view
from naivenas_jax.views.viewable import Viewable

Format = Literal["mermaid", "dot", "svg"]
_WRITERS: Mapping[str, Callable[[Drawing], str]] = {"mermaid": mermaid_text, "dot": dot_text, "svg": svg_text}


class Diagram(str, Viewable):
    """The text of a diagram, which notebooks show as a picture: the result of `diagram`.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> chart = nas.diagram(nas.Graph(x, nas.layer("out", nn.Dense(2), x)))
    >>> chart.splitlines()[0], chart._repr_svg_()[:4]
    ('flowchart TD', '<svg')
    """

    _drawing = Drawing("", (), ())

    def _repr_svg_(self) -> str:
        return svg_text(self._drawing)


@view.register
def diagram_view(diagram: Diagram) -> View:
    """The picture; the text where there are none."""
    return (Picture(diagram._repr_svg_, Words((str(diagram),))),)


def diagram(graph: Graph | Mutation, format: Format = "mermaid") -> Diagram:
    """A network as a diagram; of a change, the networks before and after as one.

    Vertices are boxes with their computation, and edges have numbers of neurons. An imported model is drawn with its
    modules inside one another, and what each of them reads. A graph or a mutation as the last line of a cell shows the
    picture by itself.

    Args:
      graph: the network, or a mutation, in which what is new, gone or of another size is marked.
      format: "mermaid", a flow chart that notebooks, GitHub and most documentation tools draw; "dot", for Graphviz;
        "svg", a picture that needs no other tool, in which tied neurons have one colour and long networks are drawn
        with several vertices in a box.

    Returns:
      A `Diagram`: ``print`` it or write it to a file; notebooks show it as a picture.

    Raises:
      GraphError: if ``graph`` is neither, or there is no such format.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), x))
    >>> print(nas.diagram(graph))
    flowchart TD
        v0(["x: 3"])
        v1["out: Dense(3 -> 2)"]
        v0 -- 3 --> v1
    >>> nas.diagram(graph, format="svg")[:4]
    '<svg'
    """
    if not is_one_of(format, get_args(Format)):
        raise GraphError(f"format= is one of {', '.join(map(repr, get_args(Format)))}; found {shown(format)}.")
    drawing = drawn_change(graph) if isinstance(graph, Mutation) else drawn_graph(require_graph(graph))
    made = Diagram(_WRITERS[format](drawing))
    made._drawing = drawing
    return made
