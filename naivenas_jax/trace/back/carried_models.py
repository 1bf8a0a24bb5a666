"""Nnx models that were carried: their arrays have new sizes, and now the numbers that they hold besides.

A module of nnx knows its sizes twice, by its arrays and by attributes such as ``in_features``, which no tree has. A
model that was imported is compared with the graph, as `rebuild` does it, so that what comes back can be called. Of
other modules, as the parts of a model, the attributes of layers that can be built again follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
from flax import nnx

from naivenas_jax.errors import CarryError, RebuildError
from naivenas_jax.graph.evaluation.nnx_module import GraphModel
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import Path
from naivenas_jax.trace.back.nnx_rebuild import built_anew, differences, nodes_of, set_numbers, variable_shapes
from naivenas_jax.trace.back.numbers.changed_sizes import ChangedSizes, ModulePath
from naivenas_jax.trace.back.numbers.config_numbers import NewNumbers
from naivenas_jax.trace.back.rebuild import MutatedModel, resized
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.transfer.carrying.graft import GO_ON_IN_NNX
from naivenas_jax.typing import PyTree


def with_fitting_numbers(before: Graph, mutation: MutatedModel, tree: PyTree, carried: PyTree) -> PyTree:
    """What was carried, in which each nnx model can be called.

    Args:
      before: the graph before the mutation.
      mutation: the mutation.
      tree: what was carried, as it was.
      carried: the same with new arrays; its models are changed.

    Raises:
      CarryError: if the class of an imported model cannot compute what the new graph does.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_module)
    old = {keys: node for keys, node in leaves if isinstance(node, nnx.Module)}
    if not old:
        return carried
    step = _Step(before, mutation)
    for keys, node in jax.tree_util.tree_flatten_with_path(carried, is_leaf=_is_module)[0]:
        if keys in old and isinstance(node, nnx.Module):
            step.fit(old[keys], node, jax.tree_util.keystr(keys) or "The tree")
    return carried


def _is_module(node: object) -> bool:
    return isinstance(node, nnx.Module)


@dataclass(frozen=True, eq=False)
class _Step:
    """What models are brought through.

    Attributes:
      before: the graph before a mutation.
      mutation: the mutation.
    """

    before: Graph
    mutation: MutatedModel

    def fit(self, was: nnx.Module, now: nnx.Module, label: str) -> None:
        """Change the numbers of a model that has new arrays.

        Args:
          was: the model with its old arrays.
          now: the same with new arrays; it is changed.
          label: where it lies in the tree.
        """
        changed = ChangedSizes.between(variable_shapes(was), variable_shapes(now))
        old, new = dict(nodes_of(was)), dict(nodes_of(now))
        settled: set[ModulePath] = set()
        for place, node in new.items():
            if any(place[:i] in settled for i in range(len(place))):
                continue
            numbers = self._of_model(old[place], node, changed.before_in(place), label)
            if numbers is None and changed.under(place):
                fits = built_anew(node, place, changed, lambda: None)
                numbers = fits[0] if len(fits) == 1 else None
            if numbers is not None:
                settled.add(place)
                for inner, own in numbers.items():
                    set_numbers(new[(*place, *inner)], (), own)

    def _of_model(
        self, was: nnx.Pytree, now: nnx.Pytree, shapes: Mapping[Path, tuple[int, ...]], label: str
    ) -> Mapping[ModulePath, NewNumbers] | None:
        """The new numbers of a whole model, by the path of the module in it; None: it is no model of the graph.

        Args:
          was: the model with its old arrays.
          now: the same with new arrays.
          shapes: of the old arrays.
          label: where it lies in the tree.
        """
        if isinstance(now, GraphModel):
            if now.graph == self.before:
                now.graph = nnx.static(self.mutation.graph)
            return {}
        op = next((op for op in self._imported if op.shapes == shapes), None)
        if op is None or not isinstance(was, nnx.Module):
            return None
        try:
            return differences(was, resized(was, op, self.mutation), now)
        except RebuildError as error:
            raise CarryError(
                f"{label} is a {type(was).__name__}, whose class cannot compute what the changed graph does. "
                f"{GO_ON_IN_NNX}\n{error}"
            ) from error

    @cached_property
    def _imported(self) -> list[ImportedOp]:
        return [vertex.op for vertex in self.before.vertices if isinstance(vertex.op, ImportedOp)]
