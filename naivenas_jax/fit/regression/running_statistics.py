"""Running means and variances of normalisations, estimated again from the values that they normalise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from naivenas_jax.dataflow.variable_uses import Standardisation, VariableUse
from naivenas_jax.errors import VariablesError
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network, Run, means, replaced
from naivenas_jax.fit.regression.ridge import added
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, Variables

#: Of some values of each neuron: their number, mean and variance.
Moments = tuple[Float[Array, ""] | float, Float[Array, "*neurons"], Float[Array, "*neurons"]]


def standardised(network: Network, variables: Variables, data: Data) -> list[Path]:
    """The running means, in the order of evaluation.

    Raises:
      VariablesError: names a running mean that is subtracted from no activation in sight.
    """
    uses = network.uses(variables, data.first)
    found = list(dict.fromkeys(use.path for use in uses if isinstance(use, Standardisation)))
    if lost := [path for path in means(variables) if path not in found]:
        raise VariablesError(
            f"{'/'.join(lost[0])} is a running mean, but no activation is seen from which it is subtracted: the layer "
            "runs inside a loop or on complex numbers, does not run at all for these inputs, or is told to use the "
            "statistics of the batch. Pass the keyword arguments of inference, such as train=False."
        )
    return found


def moments(run: Run, variables: Variables, path: Path) -> tuple[Run, list[Moments]]:
    """The moments of the values that a running mean is subtracted from, once per use, and the run to go on with."""
    return run.read(_moments, path, (_variance_of(path),), variables)


def restandardised(variables: Variables, path: Path, found: Iterable[Sequence[Moments]]) -> dict[str, object]:
    """The variables, with another running mean and variance.

    Args:
      variables: the variables of the network.
      path: the running mean.
      found: for each batch its `moments`.

    Raises:
      VariablesError: if there is a single value per neuron, or the estimate is not finite.
    """
    total, name = None, "/".join(path)
    for number, mean, variance in added(None, [one for batch in found for one in batch], name):
        total = added(total, (number, number * mean, number * (variance + mean**2)), name)
    assert total is not None
    number, first, second = total
    if number < 2:
        raise VariablesError(
            f"{'/'.join(path)} and its variance cannot be told from a single value of each neuron, of one example at "
            "one position. Give more examples, or compensate with statistics=False."
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise VariablesError(
            f"{'/'.join(path)} would not be finite: on these batches an activation overflows, or variables are not "
            "finite."
        )
    mean, arrays = first / number, flat(variables)
    for one, value in ((path, mean), (_variance_of(path), np.maximum(second / number - mean**2, 0.0))):
        if one in arrays:
            arrays[one] = replaced(arrays[one], value)
    return nested(arrays)


def _variance_of(path: Path) -> Path:
    """The running variance beside a running mean."""
    return (*path[:-1], "var")


def _moments(uses: Iterable[VariableUse]) -> list[Moments]:
    return [use.moments for use in uses if isinstance(use, Standardisation)]
