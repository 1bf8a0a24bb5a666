"""Try a mutated graph on shapes before it is handed out."""

from __future__ import annotations

import jax

from naivenas_jax.errors import GraphError, NaiveNASError, StructureError
from naivenas_jax.mutate.request.options import Inputs
from naivenas_jax.mutate.result.inputs_after import inputs_after
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.trace.model.call_arguments import traced_shape


def check_shapes(mutation: Mutation, inputs: Inputs) -> None:
    """Raise if the new graph cannot be computed on inputs of these shapes.

    Args:
      mutation: what a verb is about to return.
      inputs: arrays or shapes for the graph before the change, one per input; an array if there is one input. None: the
        graph is not tried.

    Raises:
      GraphError: if there are more or fewer than the graph has inputs.
      StructureError: says what the computation said.
    """
    if inputs is None:
        return
    given = inputs if isinstance(inputs, tuple | list) else (inputs,)
    if len(given) != len(mutation.before.inputs):
        names = ", ".join(vertex.name for vertex in mutation.before.inputs)
        raise GraphError(f"inputs= needs one array or shape per input of the graph ({names}), found {len(given)}.")
    shapes = inputs_after(mutation.before, mutation.plan, [traced_shape(each) for each in given])
    try:
        jax.eval_shape(mutation.graph.apply, mutation.variables, *shapes)
    except NaiveNASError:
        raise
    except Exception as error:  # whatever a layer or function says to shapes that do not fit
        where = [note for note in getattr(error, "__notes__", ()) if note.startswith("while computing")]
        raise StructureError(
            f"The changed graph cannot be computed on inputs of shapes {[s.shape for s in shapes]}: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} {', '.join(where)}. "
            "Nothing was changed."
        ) from error
