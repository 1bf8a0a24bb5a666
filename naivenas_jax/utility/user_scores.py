"""Read what a user gives as utility."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from naivenas_jax.checks import require_function
from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.dag import unknown_name

#: A mapping from axis to scores, or a function of the axis; scores are an array or one number for all.
Utility: TypeAlias = Mapping[str, ArrayLike] | Callable[[str], ArrayLike | None]

#: One number per neuron, by axis.
Scores: TypeAlias = dict[str, Float[np.ndarray, " _"]]


def scores(utility: Utility, sizes: Mapping[str, int]) -> Scores:
    """Scores of every neuron, by axis.

    Args:
      utility: a mapping {axis: scores} (axes that it does not name count 0), or a function axis -> scores, which is
        asked for every axis; None from it counts 0.
      sizes: the size of every axis.

    Raises:
      UtilityError: names the axis whose scores are not numbers, not finite, or of the wrong length.
    """
    if isinstance(utility, Mapping):
        unknown = [name for name in utility if name not in sizes]
        if unknown:
            raise UtilityError(f"utility: {unknown_name(unknown[0], sizes)}")
        given: dict[str, ArrayLike] = dict(utility)
    elif callable(utility):
        if takes_network(utility):
            name = getattr(utility, "__name__", "function")
            raise UtilityError(
                f"utility must be scores by axis, or a function of the axis; found the function {name} of a network. "
                f"Call it: utility={name}(graph, variables, ...)."
            )
        require_function(utility, "utility", "axis", UtilityError)
        given = {axis: value for axis in sizes if (value := utility(axis)) is not None}
    else:
        raise UtilityError(
            f"utility must be a mapping from axis to scores, or a function of the axis; found {type(utility).__name__}."
        )
    return {axis: _read(axis, value, sizes[axis]) for axis, value in given.items()}


def takes_network(function: Callable[..., object]) -> bool:
    """Whether a function needs a graph and variables, as `magnitude` and its siblings do."""
    try:
        parameters = [*inspect.signature(function).parameters][:2]
    except (TypeError, ValueError):  # some built-in functions have none
        return False
    return parameters in (["graph", "variables"], ["graph", "rng"])


def _read(axis: str, value: ArrayLike, size: int) -> Float[np.ndarray, " _"]:
    try:
        given = np.asarray(value)
        if given.dtype.kind in "cSUmM":  # numpy would drop imaginary parts, and read text
            raise TypeError(f"found dtype {given.dtype}")
        array = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise UtilityError(f"The utility of {axis!r} must be real numbers, found {value!r:.80}.") from error
    if array.shape not in ((), (size,)):
        raise UtilityError(
            f"The utility of {axis!r} has shape {array.shape}; the axis has {size} neurons, so it must be one number "
            f"or an array of shape ({size},)."
        )
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(np.atleast_1d(array)))[0])
        raise UtilityError(
            f"The utility of {axis!r} is not finite: {np.atleast_1d(array)[where]} at neuron {where}. What it is to "
            "count instead, nas.replace_nonfinite(utility, value) says."
        )
    return np.broadcast_to(array, (size,))
