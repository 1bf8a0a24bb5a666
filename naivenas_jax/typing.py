"""Types that every folder shares, in the field's words.

Arrays whose shapes matter are annotated with jaxtyping (``Float[np.ndarray, " neurons"]``); the tests check those with
beartype. What is here are the types that have no shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

#: An array on a device or on the host.
Array: TypeAlias = jax.Array | np.ndarray

#: What stands for an array in a dry run: its shape and dtype, without entries.
Shape: TypeAlias = jax.ShapeDtypeStruct

#: A tree of arrays, of any node types: what only ``jax.tree`` knows how to walk. Python cannot say it more exactly.
PyTree: TypeAlias = Any

#: The variables of a network as Flax has them: collection, vertex or module, parameter; or, of an imported function,
#: any pytree whose arrays are its parameters.
Variables: TypeAlias = Mapping[str, PyTree] | PyTree
