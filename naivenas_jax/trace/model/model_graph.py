"""A traced model as a graph: a vertex for the model, and one for each array that goes in or comes out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.signature import Signature
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.structure import Structure
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.paths import Path, path_text
from naivenas_jax.trace.model.call_arguments import traced_shape
from naivenas_jax.trace.model.imported_op import ImportedOp, ModelOutput
from naivenas_jax.trace.model.traced_model import Importable, Keywords, TracedModel, neurons_of
from naivenas_jax.typing import Array, PyTree, Shape


def model_graph(
    function: Importable,
    variables: Mapping[Path, Array | Shape],
    inputs: tuple[PyTree, ...],
    kwargs: Keywords,
    modes: tuple[str, ...] = (),
    streams: tuple[tuple[str, Shape], ...] = (),
    writes: tuple[str, ...] = (),
    loose: frozenset[Path] = frozenset(),
) -> Graph:
    """A model as a graph of an input vertex for each array, a vertex for the model, and one for each array returned.

    Args:
      function: the model.
      variables: by path.
      inputs: example inputs.
      kwargs: keyword arguments, unless ``graph.apply`` is given others.
      modes: keyword arguments besides those of the model's signature.
      streams: the shapes of the keys that the model draws from, by stream.
      writes: the collections that the model updates in evaluation, too.
      loose: the parameters that are in no collection.
    """
    arguments, leaves = Structure.split(inputs)
    if not leaves:
        found = ", ".join(f"{value!r:.40}" for value in inputs) or "none"
        raise GraphError(
            "Give example inputs (arrays or their shapes): they tell what shapes to trace the model at. Found: "
            f"{found}. Numbers, text and other values of Python are constants of the model."
        )
    shapes, signature = [traced_shape(leaf) for leaf in leaves], function.signature
    keywords = frozenset((*signature.positional, *(signature.keywords or ()), *modes))
    model = TracedModel.trace(
        function,
        variables,
        arguments,
        shapes,
        kwargs,
        keywords=keywords,
        streams=streams,
        writes=writes,
        loose=loose,
    )
    called = tuple(signature.name(i) for i in range(len(inputs)))
    takes = Signature(arguments, model.base.program.outputs, called)
    names = _free_names((*takes.input_names, "model", *takes.output_names), _names_in(model))
    sources = [
        Vertex(next(names), Source((leaf.shape[1:] or (1,))[-1], tuple(leaf.shape[1:]), str(leaf.dtype)))
        for leaf in shapes
    ]
    whole = Vertex(next(names), ImportedOp(model, model.base.ties.run_sizes), tuple(sources))
    sizes = tuple(neurons_of(model.base.program))
    outputs = [Vertex(name, ModelOutput(i, sizes), (whole,)) for i, name in enumerate(names)]
    return Graph(sources, outputs, signature=takes)


def _names_in(model: TracedModel) -> frozenset[str]:
    """Names that mean something in the model: its handles, its variables, and the paths of its modules."""
    paths = {path[1:end] for path, _ in model.variables for end in range(2, len(path) + 1)}
    modules = [place.name for place in model.base.places]
    return frozenset([*model.base.ties.axes, *map(path_text, paths), *modules])


def _free_names(names: Iterable[str], taken: Collection[str]) -> Iterator[str]:
    """Names for inputs, outputs or the whole, which must not be others that the model uses itself."""
    used = set(taken)
    for name in names:
        while name in used:
            name += "_"
        used.add(name)
        yield name
