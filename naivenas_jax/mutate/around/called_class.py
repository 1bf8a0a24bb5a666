"""What the class that holds the variables of an imported function computes when it is called itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.trace.back.compare import Comparison, input_shapes
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.trace.model.user_model import FunctionModel
from naivenas_jax.transfer.variables import plain
from naivenas_jax.typing import Array, PyTree, Variables

#: So many fields are listed.
_MOST = 6


def class_notes(mutation: Mutation) -> Iterator[str]:
    """A note if the class that holds the new variables does not compute what the graph does when it is called.

    Its fields that are no arrays (`num_heads`, `in_features`) stay as they were, and nobody knows which sizes they
    mean; so its method may fail, or cut the neurons in another way. Both are traced, and compared as programs.
    """
    models = [v.op for v in mutation.graph.vertices if isinstance(v.op, ImportedOp)]
    if len(models) != 1 or not isinstance(models[0].model.function, FunctionModel):
        return
    (op,) = models
    model, function = op.model, op.model.function
    comparison = Comparison(
        mutation.graph, op, plain(mutation.variables), input_shapes(mutation.graph, model), model.keys
    )

    def call(variables: Variables, arrays: Sequence[Array]) -> PyTree:
        return function(variables, model.arguments.join(arrays), {}, None, model.defaults)[0]

    try:
        same, what = comparison.is_same(comparison.traced(call)), "computes something else, or in another way,"
    except Exception as error:  # whatever the user's class says to arrays of other sizes
        same, what = False, f"fails ({type(error).__name__})"
    if not same:
        fields = [f"{name}={value}" for name, value in _numbers(mutation.variables)]
        listed = ", ".join(fields[:_MOST]) + ", ..." * (len(fields) > _MOST)
        yield (
            f"the imported function {what} when it is called itself with the new {type(mutation.variables).__name__}: "
            f"what is no array there stays as it was{f' ({listed})' if fields else ''}. Call mutation.graph.apply"
        )


def _numbers(node: PyTree, where: str = "") -> Iterator[tuple[str, int]]:
    """The fields of a dataclass, and of those in it, that are whole numbers."""
    inside: list[tuple[str, PyTree]] = []
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        inside = [(f"{where}.{f.name}", getattr(node, f.name, None)) for f in dataclasses.fields(node)]
    elif isinstance(node, Mapping):
        inside = [(f"{where}.{key}", child) for key, child in node.items()]
    elif isinstance(node, list | tuple):
        inside = [(f"{where}.{i}", child) for i, child in enumerate(node)]
    for name, child in inside:
        if isinstance(child, int) and not isinstance(child, bool):
            yield name[1:], child
        elif not isinstance(child, np.ndarray | jax.Array):
            yield from _numbers(child, name)
