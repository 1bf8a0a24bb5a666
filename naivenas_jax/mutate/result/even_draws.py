"""Keys with which a draw is one number for the whole array, whatever its shape.

What a key draws depends on the whole shape that is drawn, so that a network of another width draws other numbers for
the neurons that it kept. Two networks can be compared where both draw the same number everywhere: other keys draw
other numbers, and distributions made of them stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl, threefry_2x32

from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import outputs_of
from naivenas_jax.typing import PyTree, Variables

#: A tree with keys in it.
T = TypeVar("T")


def _seed(seed: jax.Array | int) -> jax.Array:
    """A key made of a seed of 32 bits."""
    return jnp.stack([jnp.zeros((), jnp.uint32), jnp.asarray(seed).astype(jnp.uint32)])


def _hashed(key: jax.Array, count: int) -> jax.Array:
    """As many numbers of 32 bits, made of a key."""
    numbers: jax.Array = threefry_2x32(key, jnp.arange(count, dtype=jnp.uint32))
    return numbers


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Further keys."""
    return _hashed(key, 2 * math.prod(shape)).reshape(*shape, 2)


def _fold_in(key: jax.Array, data: jax.Array | int) -> jax.Array:
    """Another key, made of a key and a number."""
    seed = _seed(data)
    numbers: jax.Array = threefry_2x32(key, seed)
    return numbers


def _bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    """The same bits everywhere. The first is 0: uniform numbers are below 1/2, so that dropout drops no whole layer."""
    high, low = _hashed(key, 2)
    if width == 64:
        bits = (high.astype(jnp.uint64) << 32) | low
    else:
        bits = (high >> (32 - width)).astype(getattr(jnp, f"uint{width}"))
    return jnp.broadcast_to(bits >> 1, shape)


_EVEN = define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_bits, fold_in=_fold_in, name="even", tag="even"
)


def even_keys(rngs: T) -> T:
    """The same streams of random numbers with keys that draw one number for each whole array.

    Args:
      rngs: a key, or keys by stream; typed ones, or raw arrays of numbers.
    """
    keys: T = jax.tree.map(lambda key: _even(jnp.asarray(key)) if _is_raw(key) else _even_typed(key), rngs)
    return keys


def with_even_keys(variables: T) -> T:
    """The same variables with such keys in the place of the typed keys among them."""
    changed: T = jax.tree.map(_even_typed, variables)
    return changed


def uneven(graph: Graph, variables: Variables, inputs: Sequence[PyTree], kwargs: Mapping[str, PyTree]) -> str | None:
    """Why the draws of a network are not even, although its keys are; None if they are even.

    Args:
      graph: the network.
      variables: its variables, with keys that draw evenly.
      inputs: its inputs.
      kwargs: for ``apply``, with keys that draw evenly in ``rngs``.
    """
    try:
        traced = jax.make_jaxpr(lambda arrays: outputs_of(graph, variables, arrays, **kwargs))(list(inputs))
    except NotImplementedError:  # Poisson numbers
        return "it draws random numbers in a way that JAX has for its own keys only"
    if "random_gamma" in str(traced):  # it makes a key for each entry
        return "it draws gamma distributed numbers, with a key for each neuron"
    return None


def has_keys(variables: PyTree) -> bool:
    """Whether there are typed keys among variables."""
    return any(_is_typed(leaf) for leaf in jax.tree.leaves(variables))


def _is_raw(leaf: object) -> bool:
    """Whether an array is a key without the type of one."""
    return getattr(leaf, "dtype", None) == jnp.uint32 and jnp.ndim(leaf) == 1  # type: ignore[arg-type]  # an array


def _is_typed(leaf: object) -> TypeGuard[jax.Array]:
    """Whether an array is a key with the type of one."""
    return isinstance(leaf, jax.Array) and bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _even_typed(leaf: object) -> object:
    """A typed key as one that draws evenly; anything else as it is."""
    return _even(jax.random.key_data(leaf)) if _is_typed(leaf) else leaf


def _even(words: jax.Array) -> jax.Array:
    """A key that draws evenly, made of the first numbers of another one."""
    key: jax.Array = jax.random.wrap_key_data(words[..., :2], impl=_EVEN)
    return key
