"""Whether a mutation keeps the shapes of what a network returns, so that the rest of a program goes on as before."""

from __future__ import annotations

import jax

from naivenas_jax.graph.given_inputs import sample_inputs
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import keys_of, outputs_of
from naivenas_jax.graph.vertices.output_shapes import shape_of
from naivenas_jax.mutate.request.options import Inputs
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.trace.model.call_arguments import traced_shape
from naivenas_jax.typing import Shape, Variables


def moved_output(mutation: Mutation, inputs: Inputs) -> str | None:
    """Why an output has other positions after a mutation, which the conditions on sizes do not see; None if none has.

    Args:
      mutation: the mutation.
      inputs: arrays or shapes; without them, outputs are compared whose shape the graph knows.
    """
    if inputs is None:
        before, after = ([shape_of(v) for v in graph.outputs] for graph in (mutation.before, mutation.graph))
    else:
        given = [traced_shape(each) for each in sample_inputs(mutation.before, inputs)]
        before = _shapes(mutation.before, mutation.variables_before, given)
        after = _shapes(mutation.graph, mutation.variables, given)
    for vertex, was, now in zip(mutation.before.outputs, before, after, strict=True):
        if was is not None and now is not None and was[:-1] != now[:-1]:
            return f"output {vertex.name!r} would have the shape {now} in place of {was}"
    return None


def _shapes(graph: Graph, variables: Variables, given: list[Shape]) -> list[tuple[int, ...] | None]:
    made = jax.eval_shape(lambda v, x: outputs_of(graph, v, x, rngs=keys_of(graph) or None), variables, given)
    return [tuple(each.shape) for each in made]
