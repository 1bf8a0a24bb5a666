"""Utilities made of others: normalised, combined, repaired."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from naivenas_jax.checks import as_items, as_number, is_one_of, require_function, require_mapping, shown
from naivenas_jax.errors import UtilityError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.utility.tied import by_handle, class_totals, homes
from naivenas_jax.utility.user_scores import Scores, Utility

Norm: TypeAlias = Literal["mean", "l2", "max", "rank"]


def normalise(graph: Graph, utility: Utility, by: Norm = "mean") -> Scores:
    """The same utility, with the scores of each handle brought to the same scale.

    With u_i the scores of a handle, summed over everything tied,

        score_i = u_i / mean_j |u_j|,      u_i / sqrt(sum_j u_j^2),      u_i / max_j |u_j|,      or rank(u_i) / size.

    The order among the neurons of a handle stays, and layers can be compared with each other.

    Args:
      graph: the network.
      utility: a mapping from handle to scores, arrays of shape (size,) or one number for all neurons; or a function
        of the handle.
      by: "mean", "l2" or "max": divide by the mean absolute score, the root of the sum of squares, the largest absolute
        score (unless that is 0). "rank": the rank among the handle's neurons, from 1/size to 1; equal scores share
        their mean rank.

    Returns:
      Scores by handle, each of shape (size,); tied neurons have theirs at the first handle that holds them.

    Raises:
      GraphError: ``graph`` is no graph.
      UtilityError: ``by`` is none of these, or the scores are no finite numbers, one for each neuron.

    Source: layer-wise l2 normalisation, Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient
    Inference, ICLR 2017.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(3), x))
    >>> nas.normalise(graph, {"dense": [1.0, 2.0, 6.0]}, "max")["dense"].round(2).tolist()
    [0.17, 0.33, 1.0]
    """
    return by_handle(graph, _normalised(graph, utility, by))


def combine(
    graph: Graph,
    parts: Iterable[tuple[Utility, float]],
    *,
    how: Literal["sum", "product"] = "sum",
    normalise: Norm | None = "mean",
) -> Scores:
    """Several utilities as one: ``sum_i weight_i * u_i``, or ``product_i u_i ** weight_i``.

    Here u_i are the scores of the i-th utility, summed over everything tied and normalised per handle.

    Args:
      graph: the network.
      parts: pairs of a utility and its weight.
      how: "sum" or "product".
      normalise: how each utility is normalised before, as for `normalise`; None: not at all.

    Returns:
      Scores by handle, each of shape (size,); tied neurons have theirs at the first handle that holds them.

    Raises:
      GraphError: ``graph`` is no graph.
      UtilityError: no parts, a weight that is no number, or a product of negative scores.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("dense", nn.Dense(2), x))
    >>> nas.combine(graph, [({"dense": [1, 3]}, 0.5), ({"dense": [4, 0]}, 0.5)])["dense"].tolist()
    [1.25, 0.75]
    """
    if not is_one_of(how, ("sum", "product")):
        raise UtilityError(f"how must be 'sum' or 'product', found {how!r}.")
    given = as_items(parts)
    if given is None:
        raise UtilityError(
            "combine takes parts=, pairs of a utility and its weight, [(utility, 0.5), ...]; found "
            f"{type(parts).__name__}: {shown(parts)}."
        )
    pairs = [_pair(number, part) for number, part in enumerate(given)]
    if not pairs:
        raise UtilityError("combine needs at least one pair of a utility and its weight.")
    totals = [
        class_totals(graph, utility) if normalise is None else _normalised(graph, utility, normalise)
        for utility, _ in pairs
    ]
    weights = [weight for _, weight in pairs]
    if how == "sum":
        return by_handle(graph, np.sum([w * t for w, t in zip(weights, totals, strict=True)], axis=0))
    for number, (one, weight) in enumerate(zip(totals, weights, strict=True)):
        if (one < 0).any() or (weight < 0 and (one == 0).any()):
            raise UtilityError(
                f"Utility {number} has scores below zero (or zero with the weight {weight}), which a product cannot "
                "take. Use how='sum', or normalise='rank'."
            )
    return by_handle(graph, np.prod([t**w for w, t in zip(weights, totals, strict=True)], axis=0))


def _pair(number: int, part: Any) -> tuple[Utility, float]:
    """A part with a finite number for its weight; raises UtilityError if it is none."""
    utility, weight = part if isinstance(part, tuple | list) and len(part) == 2 else ({}, None)
    found = as_number(weight)
    if found is None or not math.isfinite(found):
        raise UtilityError(
            f"combine takes pairs of a utility and its weight, [(utility, 0.5), ...]; found {shown(part)} at "
            f"position {number}. A weight is a finite number."
        )
    return utility, float(found)


def _normalised(graph: Graph, utility: Utility, by: Norm) -> Float[np.ndarray, " classes"]:
    """For each class its normalised score."""
    if not is_one_of(by, (*_SCALES, "rank")):
        raise UtilityError(f"by must be one of {(*_SCALES, 'rank')}, found {by!r}.")
    totals = class_totals(graph, utility)
    result = np.zeros_like(totals)
    for own in homes(graph).values():
        places = own[own >= 0]
        values = totals[places]
        if by == "rank":
            result[places] = _ranks(values)
        else:
            scale = _SCALES[by](values)
            result[places] = values / scale if scale > 0 else values
    return result


_SCALES: Mapping[str, Callable[[Float[np.ndarray, " neurons"]], float]] = {
    "mean": lambda values: float(np.abs(values).mean()),
    "l2": lambda values: float(np.sqrt((values**2).sum())),
    "max": lambda values: float(np.abs(values).max()),
}


def _ranks(values: Float[np.ndarray, " neurons"]) -> Float[np.ndarray, " neurons"]:
    """Ranks from 1/n to 1; equal values have their mean rank."""
    ordered = np.sort(values)
    below, upto = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (below + upto + 1) / (2 * len(values))


def replace_nonfinite(utility: Utility, value: float) -> Utility:
    """The same utility, with ``value`` in the place of scores that are not finite.

    The verbs refuse NaN and infinite scores, and name the handle: something went wrong, a division by zero perhaps.
    This function says what to do instead.

    Args:
      utility: a mapping from handle to scores, or a function of the handle.
      value: the finite number that takes the place of NaN and infinite scores.

    Returns:
      A mapping or a function, as ``utility`` is.

    Raises:
      UtilityError: ``value`` is not finite.

    >>> import naivenas_jax as nas
    >>> nas.replace_nonfinite({"a": [1.0, float("nan"), float("inf")]}, -1.0)["a"].tolist()
    [1.0, -1.0, -1.0]
    """
    number = as_number(value)
    if number is None or not np.isfinite(number):
        raise UtilityError(f"replace_nonfinite needs a finite value, found {value!r}.")
    if callable(utility):
        require_function(utility, "utility", "handle", UtilityError)
        return lambda handle: None if (given := utility(handle)) is None else _repaired(given, value)
    require_mapping(utility, "utility", UtilityError)
    return {handle: _repaired(given, value) for handle, given in utility.items()}


def _repaired(given: ArrayLike, value: float) -> ArrayLike:
    """Scores of one handle, with ``value`` in the place of what is not finite."""
    array = np.asarray(given)
    if array.dtype.kind not in "biuf":  # no numbers: the verbs refuse it, and name the handle
        return given
    return np.where(np.isfinite(array), array, value)
