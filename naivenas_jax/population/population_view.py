"""What there is to see of a population."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from naivenas_jax.paths import is_unnamed
from naivenas_jax.population.population import Population
from naivenas_jax.views.view import Table, View, Words, view


@view.register
def population_view(population: Population) -> View:
    """For each axis in which members differ, the sizes of all."""
    rows = tuple(
        (name, f"{mask.shape[1]:,}", _listed(np.asarray(mask).sum(1).tolist()))
        for name, mask in population.masks.items()
        if not is_unnamed(name)
    )
    table = Table(("axis", "common size", "sizes of the members"), rows, frozenset((1,)))
    return Words((repr(population),), heading=True), table


def _listed(sizes: Sequence[int], most: int = 16) -> str:
    """Sizes in a row; of many the first ones, the least and the largest."""
    more = f", … from {min(sizes)} to {max(sizes)}" if len(sizes) > most else ""
    return ", ".join(map(str, sizes[:most])) + more
