"""What linen modules make of shapes, remembered, since most modules are called as before while numbers are tried.

A model is run on shapes once for each number that is tried, and a number changes few of the modules inside. A module of
the same class with the same fields, called with arguments of the same shapes, makes variables and results of the same
shapes as the last time. They are put in place as zeros, and the module is not run. What is found in this way decides
only what is tried: models are compared with the graph as they are.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core.scope import Scope

from naivenas_jax.trace.back.numbers.config_numbers import held_values
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import PyTree


class _NoKeyError(Exception):
    """A value that cannot be compared with another one."""


class _Called(NamedTuple):
    """What a call made: shapes in place of arrays."""

    result: PyTree
    variables: Mapping[tuple[str, ...], jax.ShapeDtypeStruct]


@dataclass(frozen=True, eq=False)
class ShapeMemo:
    """Calls of linen modules that are remembered; `intercept` is for ``flax.linen.intercept_methods``."""

    known: dict[Hashable, _Called] = field(default_factory=dict)

    def intercept(
        self,
        call: Callable[..., PyTree],
        args: tuple[PyTree, ...],
        kwargs: dict[str, PyTree],
        context: nn.module.InterceptorContext,
    ) -> PyTree:
        """Call a module, or put in place what such a call made before."""
        module, scope = context.module, context.module.scope
        if scope is None or context.method_name != "__call__":
            return call(*args, **kwargs)
        key = call_key(module, args, kwargs)
        if key is None:
            return call(*args, **kwargs)
        if key in self.known:
            return _replayed(self.known[key], scope)
        result = call(*args, **kwargs)
        made = {path: _shape(array) for path, array in _variables(scope).items()}
        leaves = [_shape(leaf) for leaf in jax.tree.leaves(result)]
        if all(leaf is not None for leaf in (*leaves, *made.values())):
            self.known[key] = _Called(
                jax.tree.map(_shape, result), {path: array for path, array in made.items() if array is not None}
            )
        return result


def call_key(module: nn.Module, args: tuple[PyTree, ...], kwargs: Mapping[str, PyTree]) -> Hashable | None:
    """A value that is equal for calls that make the same shapes; None: of this call nothing is known."""
    try:
        return type(module), tuple(_fields(module)), _arguments((args, dict(kwargs)))
    except (_NoKeyError, RecursionError):
        return None


def _replayed(called: _Called, scope: Scope) -> PyTree:
    """The results of a call as zeros, its variables put into the scope of the module."""
    there = _variables(scope)
    for path, array in called.variables.items():
        if path not in there:
            inner = scope
            for name in path[1:-1]:
                inner = inner.push(name, reuse=True)
            inner.put_variable(path[0], path[-1], jnp.zeros(array.shape, array.dtype))
    return jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), called.result)


def _variables(scope: Scope) -> Mapping[tuple[str, ...], object]:
    return flat({name: dict(tree) for name, tree in scope.variables().items()})


def _shape(leaf: object) -> jax.ShapeDtypeStruct | None:
    """The shape of an array of numbers; None: it is none, and the call cannot be remembered."""
    if not isinstance(leaf, jax.Array | np.ndarray) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _fields(module: nn.Module) -> Iterator[tuple[str, Hashable]]:
    for each in dataclasses.fields(module):
        if each.init and each.name not in ("parent", "name"):
            yield each.name, _key(getattr(module, each.name))


def _arguments(given: PyTree) -> Hashable:
    leaves, tree = jax.tree.flatten(given)
    return tree, tuple(_argument(leaf) for leaf in leaves)


def _argument(leaf: object) -> Hashable:
    if isinstance(leaf, bool | int | float | str):
        return type(leaf), leaf
    shape = _shape(leaf)
    if shape is None:
        raise _NoKeyError
    return shape.shape, str(shape.dtype)


def _key(value: object) -> Hashable:
    """A value that is equal for fields that are alike, however often they have been made.

    Raises:
      _NoKeyError: if there is none: of modules, which lie elsewhere, and of arrays.
    """
    if isinstance(value, nn.Module | jax.Array | np.ndarray):
        raise _NoKeyError
    if isinstance(value, types.FunctionType):
        cells = tuple(_key(cell.cell_contents) for cell in value.__closure__ or ())
        return value.__code__, cells, _key(value.__defaults__), _key(value.__kwdefaults__)
    if isinstance(value, partial):
        return partial, _key(value.func), _key(value.args), _key(value.keywords)
    if parts := held_values(value):
        return type(value), tuple((step, _key(part)) for step, part in parts)
    if not isinstance(value, Hashable):
        return type(value), repr(value)
    try:
        hash(value)
    except TypeError:
        raise _NoKeyError from None
    return type(value), value
