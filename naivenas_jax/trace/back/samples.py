"""Variables and inputs to compare a model and a graph with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, PyTree, Shape, Variables


def as_numbers(array: Array) -> np.ndarray:
    """An array in double precision, on the host."""
    complex_ = jnp.issubdtype(jnp.result_type(array), jnp.complexfloating)
    return np.asarray(array).astype(np.complex128 if complex_ else np.float64)


def disturbed_variables(variables: Variables) -> dict[str, PyTree]:
    """Variables with noise: positive arrays stay positive, and no entry is zero by chance."""
    generator = np.random.default_rng(0)

    def disturb(array: Array | Shape) -> Array:
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            return jnp.zeros(array.shape, array.dtype) if isinstance(array, jax.ShapeDtypeStruct) else array
        noise = generator.normal(size=array.shape)
        if isinstance(array, jax.ShapeDtypeStruct):
            return jnp.asarray(0.5 + 0.1 * noise, array.dtype)
        numbers = as_numbers(array)
        if numbers.size and not np.iscomplexobj(numbers) and numbers.min() > 0:
            return jnp.asarray(numbers * np.exp(0.3 * noise), array.dtype)
        return jnp.asarray(numbers + 0.1 * noise, array.dtype)

    return nested({path: disturb(array) for path, array in flat(variables).items()})


def random_inputs(
    run: Callable[[Variables, Sequence[Array]], list[Array]], variables: Variables, shapes: Sequence[Shape]
) -> list[Array]:
    """Random inputs. Whole numbers may be indices, and come from the largest range for which the outputs are finite."""
    whole = any(not jnp.issubdtype(struct.dtype, jnp.inexact) for struct in shapes)
    arrays: list[Array] = []
    for bound in (64, 8, 2) if whole else (2,):
        generator = np.random.default_rng(1)
        arrays = [_random(generator, struct, bound) for struct in shapes]
        if not whole or all(np.isfinite(as_numbers(out)).all() for out in run(variables, arrays)):
            break
    return arrays


def _random(generator: np.random.Generator, struct: Shape, bound: int) -> Array:
    if jnp.issubdtype(struct.dtype, jnp.inexact):
        return jnp.asarray(generator.normal(size=struct.shape), struct.dtype)
    if jnp.issubdtype(struct.dtype, jax.dtypes.extended):  # keys
        return jax.random.split(jax.random.key(0), struct.shape) if struct.shape else jax.random.key(0)
    bound = 2 if struct.dtype == bool else bound
    return jnp.asarray(generator.integers(0, bound, size=struct.shape), struct.dtype)
