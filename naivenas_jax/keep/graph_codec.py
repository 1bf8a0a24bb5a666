"""Graphs as JSON: vertices in order, with the fields of their computations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import flax.linen as nn
from flax import nnx

from naivenas_jax.checks import MOST_NEURONS
from naivenas_jax.errors import SaveError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.signature import Signature
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.arithmetic import Elementwise
from naivenas_jax.graph.vertices.custom import Custom
from naivenas_jax.graph.vertices.function import Immutable, Invariant
from naivenas_jax.graph.vertices.stack import Concat, Flatten
from naivenas_jax.graph.vertices.subgraph import Subgraph
from naivenas_jax.keep.model_codec import ModelReader, ModelWriter, read_structure, write_structure
from naivenas_jax.keep.user_models import GivenModels, NumberedModels
from naivenas_jax.keep.value_codec import Decoder, Encoder, Json
from naivenas_jax.layers.ops.attend import Attend
from naivenas_jax.layers.ops.layer_op import LayerOp
from naivenas_jax.layers.ops.linen_op import LinenOp
from naivenas_jax.layers.ops.nnx_op import CreatedArrays, NnxOp
from naivenas_jax.layers.ops.nnx_value import NnxLayer
from naivenas_jax.layers.registry import registered_rule
from naivenas_jax.trace.model.imported_op import ImportedOp, ModelOutput
from naivenas_jax.trace.model.traced_model import TracedModel

#: Computations whose fields are values, by the name that they have in a file.
_PLAIN: dict[str, type[Op]] = {
    "input": Source,
    "elementwise": Elementwise,
    "concat": Concat,
    "flatten": Flatten,
    "invariant": Invariant,
    "immutable": Immutable,
    "custom": Custom,
    "output": ModelOutput,
}
#: Fields that hold numbers of neurons or positions.
_COUNTS = ("size", "positions", "nin", "nout", "sizes", "shape")


@dataclass(frozen=True, eq=False)
class GraphWriter:
    """Writes graphs.

    Attributes:
      encoder: writes values.
      numbered: the models of the user that networks were imported from.
      models: the imported models that have been met, each before the one that it is an edit of.
    """

    encoder: Encoder
    numbered: NumberedModels
    models: list[TracedModel] = field(default_factory=list)

    def graph(self, graph: Graph) -> dict[str, Json]:
        """A graph as JSON.

        Raises:
          SaveError: names the vertex that cannot be written down.
        """
        rows, inputs, outputs, signature = graph._flat()
        written: list[Json] = []
        for name, op, sources in rows:
            self.encoder.where = f"vertex {name!r}"
            written.append([name, self.op(op), list(sources)])
        self.encoder.where = "the signature of the imported model"
        called = None if signature is None else self._signature(signature)
        return {"vertices": written, "inputs": list(inputs), "outputs": list(outputs), "signature": called}

    def _signature(self, signature: Signature) -> Json:
        own = signature.variables
        return {
            "inputs": write_structure(self.encoder, signature.inputs),
            "outputs": write_structure(self.encoder, signature.outputs),
            "names": list(signature.names),
            "variables": None if own is None else write_structure(self.encoder, own),
        }

    def op(self, op: Op) -> Json:
        """A computation as JSON, with its kind."""
        encoder = self.encoder
        for kind, cls in _PLAIN.items():
            if type(op) is cls:
                own = {each.name: getattr(op, each.name) for each in fields(cls)}  # type: ignore[arg-type]  # all are
                return {"op": kind, "fields": {name: encoder.value(value) for name, value in own.items()}}
        if isinstance(op, Subgraph):
            return {"op": "graph", "graph": self.graph(op.graph)}
        if isinstance(op, Attend):
            return {"op": "attend", "table": op.table, "embed": self.op(op.embed)}
        if isinstance(op, ImportedOp):
            return {"op": "model", **ModelWriter(encoder, self.models, self.numbered, self.op, self.graph).op(op)}
        if isinstance(op, LinenOp):
            return {"op": "layer", "layer": encoder.value(op.layer), "nin": list(op.nin)}
        if isinstance(op, NnxOp):
            whole = op.layer.merge(op.created.values)
            return {"op": "layer", "layer": encoder.value(whole, encoder.where), "nin": list(op.nin)}
        raise SaveError(f"{encoder.where} computes a {type(op).__name__}, which cannot be saved.")


@dataclass(frozen=True, eq=False)
class GraphReader:
    """Reads what a `GraphWriter` has written.

    Attributes:
      decoder: reads values.
      given: the models of the user that networks were imported from.
      known: in its place, where it is alive: the models as they were written.
    """

    decoder: Decoder
    given: GivenModels = field(default_factory=GivenModels)
    known: Iterator[TracedModel] | None = None

    def graph(self, data: Mapping[str, Any]) -> Graph:
        """The graph.

        Raises:
          SaveError: if this is none that a `GraphWriter` has written.
        """
        made: list[Vertex] = []
        for name, op, sources in data["vertices"]:
            inputs = tuple(made[_position(i, len(made))] for i in sources)
            made.append(Vertex(name, self.op(op, str(name), inputs), inputs))
        inputs, outputs = (tuple(made[_position(i, len(made))] for i in data[side]) for side in ("inputs", "outputs"))
        signature = None if data["signature"] is None else self._signature(data["signature"])
        return Graph(inputs, outputs, signature=signature)

    def _signature(self, data: Mapping[str, Any]) -> Signature:
        own = data["variables"]
        return Signature(
            inputs=read_structure(self.decoder, data["inputs"]),
            outputs=read_structure(self.decoder, data["outputs"]),
            names=tuple(map(str, data["names"])),
            variables=None if own is None else read_structure(self.decoder, own),
        )

    def op(self, data: Mapping[str, Any], name: str, inputs: tuple[Vertex, ...] = ()) -> Op:
        """A computation.

        Args:
          data: as it was written.
          name: of the vertex, for error messages.
          inputs: what the vertex reads.
        """
        kind = data["op"]
        if kind in _PLAIN:
            return self._plain(_PLAIN[kind], data["fields"], inputs)
        read: dict[str, Callable[[], Op]] = {
            "graph": lambda: Subgraph(self.graph(data["graph"])),
            "attend": lambda: Attend(str(data["table"]), self._embed(data["embed"], name)),
            "model": lambda: ModelReader(self.decoder, self.op, self.graph, self.given, self.known).op(data),
            "layer": lambda: self._layer(data, name, inputs),
        }
        if kind not in read:
            raise SaveError(f"Vertex {name!r:.80} computes {kind!r:.40}, which is unknown.")
        return read[kind]()

    def _plain(self, cls: type[Op], data: Mapping[str, Any], inputs: tuple[Vertex, ...]) -> Op:
        given = {name: self.decoder.value(value) for name, value in data.items()}
        for name in _COUNTS:
            _check_counts(name, given.get(name))
        if cls is Flatten and given["positions"] * inputs[0].nout > MOST_NEURONS:
            raise SaveError(f"A flatten of {given['positions']} positions makes more than {MOST_NEURONS} neurons.")
        return cls(**given)

    def _embed(self, data: Mapping[str, Any], name: str) -> LayerOp:
        op = self.op(data, name)
        if not isinstance(op, LayerOp):
            raise SaveError(f"Vertex {name!r:.80} reads the table of something that is no layer.")
        return op

    def _layer(self, data: Mapping[str, Any], name: str, inputs: tuple[Vertex, ...]) -> LayerOp:
        layer, nin = self.decoder.value(data["layer"]), tuple(data["nin"])
        _check_counts("nin", nin)
        if inputs and nin != tuple(source.nout for source in inputs):
            raise SaveError(f"Vertex {name!r:.80} reads other numbers of neurons than it was made for, {nin!r:.80}.")
        if isinstance(layer, nn.Module):
            return LinenOp(layer, nin, registered_rule(type(layer), name))
        if not isinstance(layer, nnx.Module):
            raise SaveError(f"Vertex {name!r:.80} holds {type(layer).__name__}, which is no layer.")
        value, arrays = NnxLayer.split(layer)
        return NnxOp(value, nin, registered_rule(type(layer), name), created=CreatedArrays(arrays))


def _position(index: Any, count: int) -> int:
    if type(index) is not int or not 0 <= index < count:
        raise SaveError(f"A vertex reads the vertex {index!r:.40}, which does not come before it.")
    return index


def _check_counts(name: str, value: Any) -> None:
    """Raise if numbers of neurons are none, or too large for any network."""
    for each in value if isinstance(value, tuple | list) else (value,):
        if each is not None and (type(each) is not int or not 0 <= each <= MOST_NEURONS):
            raise SaveError(f"{name} is {each!r:.40}, and must be a whole number of at most {MOST_NEURONS}.")
