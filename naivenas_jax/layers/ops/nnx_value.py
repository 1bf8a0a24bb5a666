"""An nnx layer without its arrays, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from flax.nnx import variablelib

from naivenas_jax.errors import GraphError


class Variable(NamedTuple):
    """Where a variable of a layer lies: its collection in the variables, and its path in the layer."""

    collection: str
    path: tuple[Any, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Its path in the variables. Keys of dicts that are paths themselves become one name, as linen has it."""
        return self.collection, *("/".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in self.path)


def collection_of(kind: type) -> str:
    """The collection of a type of variable, by nnx's own names; without registering a new one there.

    >>> collection_of(nnx.Param), collection_of(nnx.BatchStat), collection_of(nnx.LoRAParam)
    ('params', 'batch_stats', 'LoRAParam')
    """
    names = (name for name, known in variablelib.VariableTypeCache.items() if known is kind)
    return next(names, kind.__name__)


@dataclass(frozen=True)
class NnxLayer:
    """The configuration of an nnx layer; equal configurations are equal and hash alike."""

    graphdef: Any

    @classmethod
    def split(cls, module: nnx.Module) -> tuple[NnxLayer, dict[Variable, Any]]:
        """A layer taken apart into its configuration and its arrays."""
        graphdef, state = nnx.split(module)
        arrays = {
            Variable(collection_of(type(leaf)), path): _array(module, path, leaf)
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

    def merge(self, arrays: Mapping[Variable, Any]) -> nnx.Module:
        """The inverse of `split`; shapes may stand in for arrays."""
        tree: dict[Any, Any] = {}
        for variable, value in arrays.items():
            node = tree
            for key in variable.path[:-1]:
                node = node.setdefault(key, {})
            node[variable.path[-1]] = value
        return nnx.merge(self.graphdef, nnx.State(tree))

    @cached_property
    def _hash(self) -> int:
        return hash(_frozen(self.graphdef.attributes))

    def __hash__(self) -> int:
        return self._hash


def _frozen(value: Any) -> Any:
    """Something hashable, equal where ``value`` is: lists and dicts are welcome as attributes, arrays are not."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, Mapping):
        return frozenset((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, set):
        return frozenset(value)
    if hasattr(value, "value"):  # a static attribute in its wrapper
        return _frozen(value.value)
    hash(value)
    return value


def _array(module: nnx.Module, path: tuple[Any, ...], leaf: Any) -> Any:
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
