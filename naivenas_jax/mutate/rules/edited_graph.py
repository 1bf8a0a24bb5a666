"""Whether an edited graph can be computed: neurons to read, positions that fit, outputs as wide as before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import core

from naivenas_jax.errors import NaiveNASError, StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertices.output_shapes import made_of
from naivenas_jax.graph.vertices.stack import Flatten
from naivenas_jax.layers.ops.layer_op import LayerOp
from naivenas_jax.layers.ops.layer_vertex import no_values
from naivenas_jax.layers.ops.linen_op import LinenOp
from naivenas_jax.layers.ops.nnx_op import NnxOp
from naivenas_jax.mutate.request.defaults import freed_outputs
from naivenas_jax.mutate.request.options import FreeOutputs
from naivenas_jax.mutate.rules.answer import granted
from naivenas_jax.mutate.rules.edited_reads import no_reads
from naivenas_jax.mutate.rules.readers import Reader, Readers, readers
from naivenas_jax.typing import PyTree

#: By vertex what arrives at each input, as shapes and dtypes; None where it is not known.
Arriving: TypeAlias = Mapping[str, tuple[PyTree, ...]]


def check_computable(before: Graph, after: Graph) -> None:
    """Raise unless an edited graph can be computed, before anything is: see `computed`.

    Args:
      before: the graph before the edit.
      after: the edited graph, with its final sizes.
    """
    granted(computed(before, readers(after), ()))


def check_outputs(before: Graph, after: Graph, free_outputs: FreeOutputs) -> None:
    """Raise if an output has another width than before the edit, and may not.

    Args:
      before: the graph before the edit.
      after: the edited graph, with its final sizes.
      free_outputs: which outputs may have another width.
    """
    free = freed_outputs(after, free_outputs)
    granted(_as_before(before, readers(after), [v.name for v in after.outputs if v.name not in free]))


def computed(before: Graph, after: Readers, outputs: Iterable[str]) -> Arriving | NaiveNASError:
    """What arrives at the inputs of an edited graph's vertices, or why the graph cannot be computed.

    Args:
      before: the graph before the edit.
      after: the edited graph. Its widths need not fit yet: nothing but them changes when they are made to.
      outputs: the names of the outputs that have to be as wide as before.

    Returns:
      By vertex what arrives at each input, as shapes and dtypes; None where it is not known. Or the error.
    """
    return _as_before(before, after, outputs) or no_reads(before, after) or _arriving(after)


def _as_before(before: Graph, after: Readers, outputs: Iterable[str]) -> StructureError | None:
    for name in outputs:
        if name in before and after[name].nout != before.nout(name):
            return StructureError(
                f"Output {name!r} would have {after[name].nout} neurons in place of {before.nout(name)}. Pass "
                "free_outputs=True if it may."
            )
    return None


def stacks_anew(after: Readers, arriving: Arriving) -> bool:
    """Whether a flatten stacks another number of positions than before.

    Args:
      after: the edited graph.
      arriving: what arrives at each input.
    """
    flattened = ((each.op.positions, arriving[name][0]) for name, each in after.items() if isinstance(each.op, Flatten))
    return any(found is not None and positions != math.prod(found.shape[1:-1]) for positions, found in flattened)


def _arriving(after: Readers) -> Arriving | NaiveNASError:
    """What arrives at each vertex, or why one cannot compute with arrays of these shapes."""
    known: dict[str, PyTree] = {}
    found: dict[str, tuple[PyTree, ...]] = {}
    for name, reader in after.items():
        values = (after[source].op for source in reader.sources)
        if isinstance(reader.op, LinenOp | NnxOp) and (problem := no_values(name, reader.op, values)):
            return problem
        found[name] = arriving = tuple(
            _as_wide(known[source], after[source].op, width)
            for source, width in zip(reader.sources, reader.nin, strict=True)
        )
        known[name], fault = _tried(reader, arriving)
        if fault:
            shapes = [tuple(each.shape) for each in arriving if hasattr(each, "shape")]
            return StructureError(
                f"After the edit vertex {name!r} ({reader.op.describe()}) would read arrays of shapes {shapes}, "
                f"which it cannot: {fault}. The positions have to fit as well as the neurons."
            )
    return found


def _as_wide(value: PyTree, op: Op, width: int) -> PyTree:
    """What arrives at an input, as if the number of neurons that its weights read had been made.

    Args:
      value: what is made, as shape and dtype.
      op: what makes it; numbers of words have no axis of neurons.
      width: how many neurons are read.
    """
    if not isinstance(value, jax.ShapeDtypeStruct) or not value.shape or (isinstance(op, Source) and op.words):
        return value
    return jax.ShapeDtypeStruct((*value.shape[:-1], width), value.dtype)


def _tried(reader: Reader, arriving: tuple[PyTree, ...]) -> tuple[PyTree, str | None]:
    """What a vertex makes, as shape and dtype, and why it cannot."""
    op = reader.op
    if isinstance(op, Flatten):  # what reads it follows if it stacks other positions than before
        known = isinstance(arriving[0], jax.ShapeDtypeStruct)
        return jax.ShapeDtypeStruct((1, reader.nout), arriving[0].dtype) if known else None, None
    if fault := _unequal(reader, arriving):
        return None, fault
    try:
        made = made_of(op, arriving)
        if isinstance(op, LayerOp) and all(isinstance(each, jax.ShapeDtypeStruct) for each in arriving):
            _check_training(op, arriving)
    except Exception as error:  # whatever a layer or function says to shapes that do not fit
        return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return made, None


def _unequal(reader: Reader, arriving: tuple[PyTree, ...]) -> str | None:
    """Why shapes do not fit a computation that JAX would not mind."""
    if not all(isinstance(each, jax.ShapeDtypeStruct) for each in arriving):
        return None
    ranks = [len(each.shape) for each in arriving]
    if any(rank < len(example) for rank, example in zip(ranks, reader.op.example_shapes(reader.nin), strict=True)):
        return "it needs more axes than that"
    if len(set(ranks)) > 1 and not reader.op.absorbs:
        return "one would be broadcast over the batch or the positions of another"
    return None


def _check_training(op: LayerOp, inputs: Sequence[PyTree]) -> None:
    """Raise what a layer says in training to whole numbers: dropout passes them on in evaluation only."""
    if op.rule.indexed or all(jnp.issubdtype(value.dtype, jnp.inexact) for value in inputs):
        return

    def compute(key: jax.Array, *arrays: PyTree) -> PyTree:
        keys = {"params": key, "dropout": key}
        return core.init(lambda scope, *xs: op.call(scope, xs, {"train": True}))(keys, *arrays)[0]

    jax.eval_shape(compute, jax.random.key(0), *inputs)
