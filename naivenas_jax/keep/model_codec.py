"""Imported models as JSON: what they were imported with, and the edits and sizes since.

The model itself is not saved. Whoever loads the network gives it again, and it is traced again, edit by edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import flax.linen as nn
import jax
from flax import nnx

from naivenas_jax.errors import NaiveNASError, SaveError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import ModelEdit, Place
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.structure import Structure
from naivenas_jax.keep.user_models import GivenModels, NumberedModels
from naivenas_jax.keep.value_codec import Decoder, Encoder, Json
from naivenas_jax.paths import Path
from naivenas_jax.trace.model.edited_model import EditedModel
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.trace.model.nnx_model import NnxModel
from naivenas_jax.trace.model.traced_model import ModelFunction, TracedModel
from naivenas_jax.trace.model.user_model import FunctionModel, LinenModel
from naivenas_jax.typing import Shape


def write_structure(encoder: Encoder, structure: Structure) -> Json:
    """The structure of arguments or results as JSON."""
    return encoder.value(jax.tree.unflatten(structure.tree, structure.leaves))


def read_structure(decoder: Decoder, data: Json) -> Structure:
    """The inverse of `write_structure`."""
    leaves, tree = jax.tree.flatten(decoder.value(data))
    return Structure(tree, tuple(leaves))


@dataclass(frozen=True, eq=False)
class ModelWriter:
    """Writes imported models.

    Attributes:
      encoder: writes values.
      models: takes down the models, each before the one that it is an edit of.
      numbered: the models of the user.
      write_op: writes a computation.
      write_graph: writes a graph.
    """

    encoder: Encoder
    models: list[TracedModel]
    numbered: NumberedModels
    write_op: Callable[[Op], Json]
    write_graph: Callable[[Graph], Json]

    def op(self, op: ImportedOp) -> dict[str, Json]:
        """An imported model with its present sizes."""
        return {
            "model": self._model(op.model),
            "runs": list(op.runs),
            "named": [_place(place) for place in op.named],
            "origins": list(op.origins),
        }

    def _model(self, model: TracedModel) -> Json:
        encoder = self.encoder
        encoder.where = "the imported model"
        self.models.append(model)
        written: dict[str, Json] = {
            "function": self._function(model.function),
            "variables": self._shapes(dict(model.variables)),
            "arguments": write_structure(encoder, model.arguments),
            "inputs": [encoder.value(shape) for shape in model.inputs],
            "kwargs": encoder.value(dict(model.defaults), "arguments"),
            "edits": model.edits,
            "keywords": encoder.value(model.keywords),
            "streams": [[name, encoder.value(shape)] for name, shape in model.streams],
            "writes": list(model.writes),
            "loose": [list(path) for path in sorted(model.loose)],
            "sizes": list(model.base.ties.run_sizes),
        }
        return written

    def _function(self, function: ModelFunction) -> Json:
        if isinstance(function, EditedModel):
            assert isinstance(function.model, ImportedOp)
            edit = function.edit
            before: dict[str, Json] = {
                "model": self.op(function.model),
                "at": _place(edit.at),
                "reads": [_place(place) for place in edit.reads],
                "piece": self.write_graph(edit.piece),
                "before": self._shapes(function.before),
                "keywords": self.encoder.value(function.keywords),
            }
            self.encoder.where = "the imported model"
            return {"kind": "edited", **before}
        number = self.numbered.number(function)
        if isinstance(function, LinenModel):
            kind, name, layout = "linen", _full_name(type(function.module)), self._layout(function.layout)
        elif isinstance(function, FunctionModel):
            kind, name, layout = "function", _full_name(function.fn), self._layout(function.layout)
        else:
            assert isinstance(function, NnxModel)
            kind, name, layout = "nnx", _full_name(_nnx_type(function)), None
        return {"kind": kind, "name": name, "layout": layout, "number": number}

    def _layout(self, layout: object) -> Json:
        self.encoder.where = "the structure of the variables"
        written = self.encoder.value(layout)
        self.encoder.where = "the imported model"
        return written

    def _shapes(self, shapes: Mapping[Path, Shape]) -> Json:
        return [[list(path), self.encoder.value(shape)] for path, shape in shapes.items()]


@dataclass(frozen=True, eq=False)
class ModelReader:
    """Reads what a `ModelWriter` has written.

    Attributes:
      decoder: reads values.
      read_op: reads a computation.
      read_graph: reads a graph.
      given: the models of the user.
      known: in its place, where it is alive: the models as they were written.
    """

    decoder: Decoder
    read_op: Callable[..., Op]
    read_graph: Callable[[Mapping[str, Any]], Graph]
    given: GivenModels
    known: Iterator[TracedModel] | None = None

    def op(self, data: Mapping[str, Any]) -> ImportedOp:
        """The imported model, traced again.

        Raises:
          SaveError: if the model was not given, or is another one.
        """
        model = self._model(data["model"])
        named = tuple(map(_read_place, data["named"]))
        runs, origins = (tuple(map(int, data[name])) for name in ("runs", "origins"))
        if len(runs) != len(model.base.ties.run_sizes):
            raise SaveError(
                f"The imported model has {len(model.base.ties.run_sizes)} runs of neurons, not {len(runs)}."
            )
        return ImportedOp(model, runs, named, origins)

    def _model(self, data: Mapping[str, Any]) -> TracedModel:
        value, variables = self.decoder.value, self._shapes(data["variables"])
        known, kwargs = next(self.known, None) if self.known else None, value(data["kwargs"])
        function = self._function(data["function"], variables, kwargs, known)
        try:
            model = TracedModel.trace(
                function,
                variables,
                read_structure(self.decoder, data["arguments"]),
                [value(shape) for shape in data["inputs"]],
                kwargs,
                edits=int(data["edits"]),
                keywords=value(data["keywords"]),
                streams=tuple((str(name), value(shape)) for name, shape in data["streams"]),
                writes=tuple(map(str, data["writes"])),
                loose=frozenset(tuple(map(str, path)) for path in data["loose"]),
                token=known.identity if known and isinstance(known.identity, UUID) else None,
                again=True,
            )
        except NaiveNASError as error:
            raise SaveError(f"The model that was given cannot be called as the saved one was: {error}") from error
        if list(model.base.ties.run_sizes) != data["sizes"]:
            raise SaveError(
                "The model that was given is not the one that was imported before the network was saved: it has other "
                "sizes that can change, or other ties. Give model= as it was at the import, with the sizes of then."
            )
        return model

    def _function(
        self,
        data: Mapping[str, Any],
        variables: Mapping[Path, Shape],
        kwargs: Mapping[str, object],
        known: TracedModel | None,
    ) -> ModelFunction:
        if data["kind"] == "edited":
            return self._edited(data)
        if known is not None:
            return known.function
        given = self.given.take(data)
        layout: Any = self.decoder.value(data["layout"])
        if isinstance(given, nn.Module):
            return LinenModel.of(given, layout or {}, kwargs.get("method"))
        if isinstance(given, nnx.Module):
            model, arrays = NnxModel.of(given)
            found = {path: tuple(array.shape) for path, array in arrays.items()}
            if found != {path: shape.shape for path, shape in variables.items()}:
                raise SaveError(
                    "The nnx model that was given has other variables, or other sizes, than the one that was imported. "
                    "Give model= as it was at the import, with the sizes of then; its values do not matter."
                )
            return model
        assert callable(given)
        return FunctionModel.of(given, layout)

    def _edited(self, data: Mapping[str, Any]) -> EditedModel:
        reads = tuple(map(_read_place, data["reads"]))
        edit = ModelEdit(_read_place(data["at"]), reads, self.read_graph(data["piece"]))
        keywords = self.decoder.value(data["keywords"])
        return EditedModel(self.op(data["model"]), keywords, edit, self._shapes(data["before"]))

    def _shapes(self, data: Any) -> dict[Path, Shape]:
        return {tuple(map(str, path)): self.decoder.value(shape) for path, shape in data}


def _place(place: Place) -> Json:
    return [place.name, place.end]


def _read_place(data: Any) -> Place:
    name, end = map(str, data)
    return Place(name, end)


def _full_name(thing: object) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', type(thing).__name__)}"


def _nnx_type(model: NnxModel) -> type:
    root = model.graphdef.nodes[0]
    kind = getattr(root, "type", object)
    return kind if isinstance(kind, type) else object
