"""A graph as a picture."""

from __future__ import annotations

from naivenas_jax.graph.graph import Graph, require_graph


def diagram(graph: Graph) -> str:
    """The graph as a Mermaid flow chart, which notebooks, GitHub and most documentation tools draw.

    Args:
      graph: the network.

    Returns:
      The text of the chart: a box for each vertex with its computation and sizes, an arrow for each edge with its
      number of neurons.

    Raises:
      GraphError: if ``graph`` is no graph.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> print(diagram(nas.Graph(x, nas.layer("out", nn.Dense(2), x))))
    flowchart TD
        v0(["x: 3"])
        v1["out: Dense(3 -> 2)"]
        v0 -- 3 --> v1
    """
    number = {vertex: f"v{i}" for i, vertex in enumerate(require_graph(graph).vertices)}
    lines = ["flowchart TD"]
    for vertex in graph.vertices:
        if vertex.inputs:
            lines.append(f'    {number[vertex]}["{vertex.name}: {vertex.op.describe()}"]')
        else:
            lines.append(f'    {number[vertex]}(["{vertex.name}: {vertex.nout}"])')
    for vertex in graph.vertices:
        lines += [f"    {number[source]} -- {source.nout} --> {number[vertex]}" for source in vertex.inputs]
    return "\n".join(lines)
