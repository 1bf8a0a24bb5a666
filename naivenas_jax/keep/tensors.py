"""Arrays as bytes of the safetensors format, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from naivenas_jax.errors import SaveError

#: The dtypes that the format knows, by its words for them.
_FORMAT = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{f"{sign}{bits}": f"{word}{bits}" for sign, word in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}


def dtype_named(name: object) -> np.dtype:
    """A dtype by its name, those of ml_dtypes included.

    Raises:
      SaveError: if there is none, or its arrays hold no numbers.
    """
    try:
        dtype = np.dtype(name) if isinstance(name, str) else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in "biufcV" or dtype.itemsize == 0 or dtype.name != name:
        raise SaveError(f"There is no dtype {name!r:.40} of numbers.")
    return dtype


def to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as the bytes of a file. What the format has no word for is stored as bytes, one dimension more."""
    return bytes(save({name: _storable(array) for name, array in arrays.items()}))


def _storable(array: np.ndarray) -> np.ndarray:
    whole = np.asarray(array, order="C")
    whole = whole.astype(whole.dtype.newbyteorder("="), copy=False)
    if whole.dtype.name in _FORMAT.values():
        return whole
    return np.frombuffer(whole.tobytes(), np.uint8).reshape(*whole.shape, whole.dtype.itemsize)


def from_bytes(data: bytes, file: str) -> dict[str, np.ndarray]:
    """The inverse of `to_bytes`.

    Raises:
      SaveError: if these are no such bytes.
    """
    try:
        entries = deserialize(data)
        return {name: _array(entry["data"], str(entry["dtype"]), tuple(entry["shape"])) for name, entry in entries}
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise SaveError(f"{file} is no file of arrays in the safetensors format: {error!s:.200}") from error


def _array(data: bytes, word: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(data, dtype_named(_FORMAT[word])).reshape(shape)


def read_as(stored: np.ndarray, name: object, shape: tuple[int, ...]) -> np.ndarray:
    """A stored array with the dtype and shape that it had.

    Raises:
      SaveError: if it is another one.
    """
    dtype = dtype_named(name)
    if dtype.name not in _FORMAT.values() and stored.dtype == np.uint8 and stored.shape == (*shape, dtype.itemsize):
        return np.frombuffer(stored.tobytes(), dtype).reshape(shape)
    if stored.dtype != dtype or stored.shape != shape:
        raise SaveError(f"found an array of {stored.dtype} {stored.shape}, where there was one of {dtype} {shape}.")
    return stored
