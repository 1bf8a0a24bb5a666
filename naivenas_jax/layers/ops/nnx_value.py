"""An nnx layer without its arrays, as a value."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from flax import nnx
from flax.nnx import variablelib
from flax.traverse_util import unflatten_dict

from naivenas_jax.errors import GraphError
from naivenas_jax.paths import path_text
from naivenas_jax.pickling import reduced_fields
from naivenas_jax.typing import Array, Shape

#: An array of a layer, or its shape where there is no array.
LayerArray: TypeAlias = Array | Shape


class VariablePlace(NamedTuple):
    """Where a variable of a layer lies: its collection in the variables, and its path in the layer."""

    collection: str
    path: tuple[Hashable, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The path in the variables. Keys of dicts that are paths themselves become one name, as in linen."""
        return self.collection, *(path_text(map(str, key)) if isinstance(key, tuple) else str(key) for key in self.path)


def collection_of(kind: type) -> str:
    """The collection of a type of variable, by nnx's own names; without registering a new one there.

    >>> collection_of(nnx.Param), collection_of(nnx.BatchStat), collection_of(nnx.LoRAParam)
    ('params', 'batch_stats', 'LoRAParam')
    """
    names = (name for name, known in variablelib.VariableTypeCache.items() if known is kind)
    return next(names, kind.__name__)


@dataclass(frozen=True)
class NnxLayer:
    """The configuration of an nnx layer; equal configurations are equal and hash alike.

    Attributes:
      graphdef: what ``nnx.split`` leaves when the arrays are taken out.
    """

    graphdef: nnx.GraphDef[nnx.Module]

    @classmethod
    def split(cls, module: nnx.Module) -> tuple[NnxLayer, dict[VariablePlace, LayerArray]]:
        """A layer taken apart into its configuration and its arrays."""
        graphdef, state = nnx.split(module)
        arrays = {
            VariablePlace(collection_of(type(leaf)), path): _array(module, path, leaf)
            for path, leaf in nnx.to_flat_state(state)
        }
        value = cls(graphdef)
        try:
            hash(value)
        except TypeError as error:
            raise GraphError(
                f"The attributes of {_name(module)} must be hashable, for graphs are: give functions, tuples or frozen "
                f"dataclasses, and keep arrays in an nnx.Variable ({error})."
            ) from error
        return value, arrays

    def merge(self, arrays: Mapping[VariablePlace, LayerArray]) -> nnx.Module:
        """The inverse of `split`; shapes may stand in for arrays."""
        tree = unflatten_dict({place.path: value for place, value in arrays.items()})
        return nnx.merge(self.graphdef, nnx.State(tree))

    @cached_property
    def _hash(self) -> int:
        return hash(_hashable(self.graphdef.attributes))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:
        return reduced_fields(self, NnxLayer)  # and not its hash, which is another one in each process


def _hashable(value: object) -> Hashable:
    """Something hashable, equal where ``value`` is: lists and dicts are welcome as attributes, arrays are not."""
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, set):
        return frozenset(value)
    if hasattr(value, "value"):  # a static attribute in its wrapper
        return _hashable(value.value)
    hash(value)
    assert isinstance(value, Hashable)
    return value


def _array(module: nnx.Module, path: tuple[Hashable, ...], leaf: object) -> LayerArray:
    value = leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else None
    if isinstance(value, jax.core.Tracer):
        raise GraphError(f"{_name(module)} was made while tracing. Make layers outside of jax.jit and its like.")
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct | np.ndarray):
        return value
    where = ".".join(map(str, path))
    raise GraphError(
        f"{_name(module)} holds {type(leaf).__name__} in attribute {where!r}, which is neither a number of its "
        "configuration nor an array in an nnx.Variable (nnx.Param, nnx.BatchStat, ...), so it has no place in the "
        "variables. Wrap it in one, and say in the rule what lies on its dimensions."
    )


def _name(module: nnx.Module) -> str:
    return f"Layer {type(module).__name__}"
