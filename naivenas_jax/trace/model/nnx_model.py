"""An nnx model as a function of its variables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

import jax
import numpy as np
from flax import nnx
from flax.core.scope import DenyList, in_filter
from flax.typing import PathParts

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.structure import Structure, arrays_in
from naivenas_jax.layers.ops.nnx_streams import disconnect, reconnect
from naivenas_jax.layers.ops.nnx_value import NnxLayer, collection_of
from naivenas_jax.paths import Path
from naivenas_jax.pickling import reduced_fields
from naivenas_jax.trace.model.call_arguments import CallSignature
from naivenas_jax.trace.model.traced_model import Keys, Keywords, Mutable
from naivenas_jax.trace.program.module_names import nnx_marks
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Shape, Variables

#: Collections that a model may write to in vain, as in linen: nobody asked to see them.
_OPTIONAL = ("params", "intermediates", "perturbations")


@dataclass(frozen=True, eq=False)
class NnxModel:
    """An nnx model taken apart. Its streams of random numbers are no part of it.

    Attributes:
      graphdef: its configuration.
      places: where each variable lies in the model, by path.
      constants: what lies in the model and is no array, by its place in the model.
      signature: the arguments of its ``__call__``.
      identity: what it is equal by: its configuration, unless it holds constants.
    """

    graphdef: nnx.GraphDef[nnx.Module]
    places: Mapping[Path, PathParts]
    constants: Mapping[PathParts, object]
    signature: CallSignature
    identity: NnxLayer | UUID

    @classmethod
    def of(cls, model: nnx.Module) -> tuple[NnxModel, dict[Path, Array | Shape]]:
        """Take a model apart; it is copied first. The second are its arrays, by path."""
        own = nnx.clone(model)
        disconnect(own)
        _switch(own, train=False)
        graphdef, state = nnx.split(own)
        places, constants, arrays = {}, {}, {}
        for place, leaf in nnx.to_flat_state(state):
            value = leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else None
            if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
                path = (collection_of(type(leaf)), *map(str, place))
                places[path], arrays[path] = place, value
            else:
                constants[place] = leaf
        signature = CallSignature.of(type(model).__call__)
        return cls(graphdef, places, constants, signature, uuid4() if constants else NnxLayer(graphdef)), arrays

    def __reduce__(self) -> tuple[object, ...]:
        return reduced_fields(self, NnxModel)

    def __call__(
        self, values: Variables, inputs: tuple[PyTree, ...], rngs: Keys, mutable: Mutable, kwargs: Keywords
    ) -> tuple[PyTree, Variables]:
        """Outputs, and the variables that changed."""
        arrays = {self.places[path]: array for path, array in flat(values).items()}
        module = nnx.merge(self.graphdef, nnx.State(_tree({**self.constants, **arrays})))
        given = dict(kwargs)
        train = given.get("train", False)
        if "train" not in (self.signature.keywords or ()):
            given.pop("train", None)  # it has no such argument, only a mode
        _switch(module, bool(train))
        reconnect(module, rngs)
        if rngs and "rngs" in (self.signature.keywords or ()):
            given.setdefault("rngs", nnx.Rngs(**rngs))
        args, keywords = self.signature.call(inputs, given)
        with nnx_marks(module):
            outputs = module(*args, **keywords)
        return outputs, self._updates(module, arrays, mutable)

    def written(
        self, variables: Mapping[Path, Array | Shape], inputs: tuple[PyTree, ...], rngs: Keys, kwargs: Keywords
    ) -> tuple[str, ...]:
        """The collections that the model updates in evaluation, too, and that nobody may leave out: a cache."""
        structure, data = Structure.split(inputs)
        found: set[str] = set()

        def call(values: Variables, arrays: list[Array]) -> tuple[PyTree, ...]:
            outputs, updates = self(values, structure.join(arrays), rngs, DenyList(_OPTIONAL), kwargs)
            found.update(path[0] for path in flat(updates))
            return arrays_in(outputs)

        try:
            jax.eval_shape(call, nested(variables), data)
        except Exception:  # whatever it says will be told of when the model is traced
            return ()
        return tuple(sorted(found))

    def _updates(self, module: nnx.Module, before: Mapping[PathParts, Array], mutable: Mutable) -> dict[str, PyTree]:
        """The variables of a model that has been called, as far as they are others than before.

        Raises:
          GraphError: if one is in a collection that may not be updated.
        """
        changed: dict[Path, Array] = {}
        for place, leaf in nnx.to_flat_state(nnx.state(module)):
            if not isinstance(leaf, nnx.Variable) or isinstance(leaf, nnx.RngState):
                continue
            collection, value = collection_of(type(leaf)), leaf.get_raw_value()
            if value is before.get(place) or place in self.constants:
                continue
            if in_filter(mutable or False, collection):
                changed[(collection, *map(str, place))] = value
            elif mutable is not None and collection not in _OPTIONAL:
                raise GraphError(
                    f"The model updates {'.'.join(map(str, place))}, which is in the collection {collection!r}: pass "
                    f"graph.apply(..., mutable=[{collection!r}]), and take the updated variables from the result."
                )
        return nested(changed)


def _switch(module: nnx.Module, train: bool) -> None:
    """Put a model into training or evaluation, by its own methods where it has any."""
    name = "train" if train else "eval"
    own = getattr(module, name, None)
    if callable(own):
        own()
    else:  # an attribute of that name is in the way
        getattr(nnx.Module, name)(module)


def _tree(leaves: Mapping[PathParts, object]) -> dict[Hashable, PyTree]:
    """Leaves by path as nested dicts; variables are copied."""
    tree: dict[Hashable, PyTree] = {}
    for place, value in leaves.items():
        node = tree
        for key in place[:-1]:
            node = node.setdefault(key, {})
        node[place[-1]] = copied_leaf(value)
    return tree


def copied_leaf(leaf: object) -> object:
    """A leaf of the state of a model: variables are copied, constants need not be."""
    return leaf.copy() if isinstance(leaf, nnx.Variable) else leaf
