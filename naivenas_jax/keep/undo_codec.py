"""What a mutation needs to be undone, as JSON and arrays: the network before, and what each step has removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from naivenas_jax.align.plan import Plan
from naivenas_jax.graph.graph import Graph
from naivenas_jax.keep.graph_codec import GraphReader, GraphWriter
from naivenas_jax.keep.value_codec import Decoder, Encoder, Json
from naivenas_jax.paths import Path, path_text
from naivenas_jax.sizes.ties import Leaf
from naivenas_jax.transfer.undo import UndoRecord, undone
from naivenas_jax.transfer.variables import check_network
from naivenas_jax.typing import PyTree, Variables


@dataclass(frozen=True, eq=False)
class Undo:
    """The way back from a change.

    Attributes:
      before: the network before.
      records: for each step of the change, in order, what it has removed.
    """

    before: Graph
    records: tuple[UndoRecord, ...]

    def __call__(self, variables: Variables) -> tuple[Graph, dict[str, PyTree]]:
        """The network before and its variables, as `Mutation.undo` gives them.

        Args:
          variables: of the network after the change, trained further or not.

        Raises:
          VariablesError: if they are not, or what was removed does not make them those of the network before.
        """
        restored = undone(self.records, variables)
        check_network(self.before, restored)
        return self.before, restored


def write_undo(writer: GraphWriter, before: Graph, records: Sequence[UndoRecord]) -> dict[str, Json]:
    """The way back as JSON; its arrays are collected by the writer's encoder."""
    written = writer.graph(before)
    writer.encoder.where = "What the mutation removed"
    return {"before": written, "records": [_record(writer.encoder, record) for record in records]}


def read_undo(reader: GraphReader, data: Mapping[str, Any]) -> Undo:
    """The inverse of `write_undo`."""
    before = reader.graph(data["before"])
    return Undo(before, tuple(_read_record(reader.decoder, record) for record in data["records"]))


def _record(encoder: Encoder, record: UndoRecord) -> Json:
    def arrays(by_path: Mapping[Path, Any], what: str) -> Json:
        return [[list(path), encoder.value(each, f"{what}/{path_text(path)}")] for path, each in by_path.items()]

    return {
        "plan": json.loads(record.plan.to_json()),
        "slices": arrays(record.slices, "slices"),
        "removed": arrays(record.removed, "removed"),
        "kept": arrays(record.kept, "kept"),
        "split": record.split,
        "leaves": [[list(path), list(leaf.axes), _shared_out(leaf)] for path, leaf in record.leaves.items()],
    }


def _shared_out(leaf: Leaf) -> Json:
    """All that going back asks of a leaf besides its axes: where what was read has been divided among copies."""
    return [dim for dim in range(len(leaf.axes)) if leaf.shared_out(dim)]


def _read_record(decoder: Decoder, data: Mapping[str, Any]) -> UndoRecord:
    def arrays(what: str) -> dict[Path, Any]:
        return {tuple(path): decoder.value(each) for path, each in data[what]}

    return UndoRecord(
        plan=Plan.from_json(json.dumps(data["plan"])),
        cut=arrays("slices"),
        removed=arrays("removed"),
        leaves={
            tuple(path): Leaf(tuple(axes), tuple("in" if dim in shared else None for dim in range(len(axes))))
            for path, axes, shared in data["leaves"]
        },
        split=bool(data["split"]),
        kept=arrays("kept"),
    )
