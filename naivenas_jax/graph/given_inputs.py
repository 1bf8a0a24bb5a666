"""Inputs of a graph that a user gives as one value: a batch, or ``inputs=``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from naivenas_jax.errors import GraphError, NaiveNASError
from naivenas_jax.graph.evaluation.batches import Batch, batches_of, check_array
from naivenas_jax.graph.graph import Graph
from naivenas_jax.typing import PyTree


def sample_inputs(graph: Graph, given: PyTree) -> Batch:
    """The arrays or shapes of what was given as ``inputs=``, one per input vertex.

    Args:
      graph: the graph.
      given: a tuple or list of the arguments of `Graph.apply`, or of their arrays one by one; the argument alone if
        there is one; or arrays by the names of the input vertices.

    Raises:
      GraphError: if they are not what the imported model takes.
    """
    names = [vertex.name for vertex in graph.inputs]
    if isinstance(given, Mapping) and set(given) == set(names):
        return tuple(given[name] for name in names)
    return _arrays(graph, given, tuple(given) if isinstance(given, list) else given, "inputs=", GraphError)


def _arrays(graph: Graph, given: PyTree, several: PyTree, what: str, error: type[NaiveNASError]) -> Batch:
    """The arrays of all inputs together: of a tuple of the arguments of a model, or of its only argument."""
    separate = several if isinstance(several, tuple) else (several,)
    if graph.signature is None:
        return separate
    try:
        return graph.signature.arrays(graph.signature.arguments(given) or separate)
    except GraphError as found:
        raise error(f"{what}: {found}") from found


def checked_arrays(graph: Graph, inputs: tuple[PyTree, ...]) -> Batch:
    """The arrays of what `Graph.apply` takes, one per input vertex.

    Raises:
      GraphError, SizeMismatchError: as ``graph.check_inputs``.
    """
    graph.check_inputs(inputs)
    return inputs if graph.signature is None else graph.signature.arrays(inputs)


def inputs_of(graph: Graph, batches: Iterable[PyTree], error: type[NaiveNASError]) -> Iterator[Batch]:
    """Read batches of inputs: each a tuple of the arguments of `Graph.apply`, or the argument alone if there is one.

    Args:
      graph: the graph.
      batches: what a user gave as ``batches=``.
      error: the class of what is raised.

    Yields:
      The arrays of each batch, one per input of the graph.

    Raises:
      error: as `batches_of`, and if an input is no array, or has more or fewer dimensions than in the first batch; if
        there are more or fewer inputs than the graph has, or they are not what the imported model takes.
    """
    first: Batch | None = None
    for number, batch in enumerate(batches_of(batches, error, inputs=True, words=graph.signature is not None)):
        inputs = _arrays(graph, batch, batch, f"Batch {number}", error)
        if len(inputs) != len(graph.inputs):
            raise error(
                f"Batch {number} holds {len(inputs)} arrays, where the graph has {len(graph.inputs)} input(s): "
                f"{', '.join(vertex.name for vertex in graph.inputs)}. A batch is an array, or a tuple of one for each "
                "input, without labels, and batches= is a list of them: [batch]."
            )
        for position, given in enumerate(inputs):
            check_array(given, f"Batch {number}" + (f", input {position}," if isinstance(batch, tuple) else ""), error)
        first = inputs if first is None else first
        if (found := list(map(np.ndim, inputs))) != (wanted := list(map(np.ndim, first))):
            raise error(
                f"Batch {number} has arrays of {found} dimensions, batch 0 of {wanted}. Each batch holds the inputs of "
                "the graph, without labels: [inputs] is a list of one batch."
            )
        yield inputs
