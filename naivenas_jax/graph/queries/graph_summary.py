"""How much of a network can be resized, and what keeps the rest as it is: figures, as a value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from naivenas_jax.errors import VariablesError
from naivenas_jax.graph.queries.handles import Handle
from naivenas_jax.paths import Path, subscripts
from naivenas_jax.sizes.ties import Leaf, Ties
from naivenas_jax.typing import PyTree, Variables
from naivenas_jax.views.viewable import Viewable

_NO_AXIS = "no neurons lie along it"
COLUMNS = ("handle", "size", "tied to", "parameters", "remark")


@dataclass(frozen=True)
class HandleSummary:
    """One handle, as a row of the summary.

    Attributes:
      handle: the handle itself.
      kept: why it keeps its size, if it is tied to an input or output and no request names that.
      parameters: how many parameters lie on it, or on something with the same neurons; None without variables.
    """

    handle: Handle
    kept: str | None
    parameters: int | None

    def cells(self) -> tuple[str, ...]:
        """The row as text, by `COLUMNS`."""
        remarks = (self.handle.coupled and f"coupled: {self.handle.coupled}", self.kept)
        count = "" if self.parameters is None else f"{self.parameters:,}"
        tied = ", ".join(self.handle.tied_to)
        return self.handle.name, str(self.handle.size), tied, count, "; ".join(filter(None, remarks))


@dataclass(frozen=True)
class Summary(Viewable):
    """How much of a network can be resized, made by `Graph.summary`. ``print`` it.

    Attributes:
      rows: one per handle.
      dimensions: the number of dimensions of all parameters.
      resizable_dimensions: the number of dimensions that can change without a request for an input or output.
      frozen: for each reason the number of dimensions that it keeps as they are, most frequent first.
      parameters: the number of all parameters; None without variables.
      resizable_parameters: the number of parameters that lie on a resizable dimension.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> found = graph.summary()
    >>> found.resizable_dimensions, found.dimensions
    (3, 6)
    >>> found.totals()[0]
    'resizable: 3 of 6 dimensions of parameters'
    """

    rows: tuple[HandleSummary, ...]
    dimensions: int
    resizable_dimensions: int
    frozen: tuple[tuple[str, int], ...]
    parameters: int | None = None
    resizable_parameters: int | None = None

    def totals(self) -> tuple[str, ...]:
        """The last lines of the text: how much is resizable, and what froze the rest; see `Summary`.

        Returns:
          One line for the whole, then one for each reason in ``frozen``.
        """
        share = f"{self.resizable_dimensions} of {self.dimensions} dimensions of parameters"
        if self.parameters is not None:
            share = f"{self.resizable_parameters:,} of {self.parameters:,} parameters, {share}"
        return f"resizable: {share}", *(f"frozen: {count} dimensions: {reason}" for reason, count in self.frozen)

    def __str__(self) -> str:
        cells = [COLUMNS, *(row.cells() for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        return "\n".join([*lines, *self.totals()])


def summarise(ties: Ties, found: Mapping[str, Handle], ends: Mapping[str, str], variables: Variables | None) -> Summary:
    """The summary of a network.

    Args:
      ties: the ties of the network.
      found: its handles.
      ends: why each of its inputs and outputs keeps its size.
      variables: its variables or their shapes; None: parameters are not counted.
    """
    kept = {run: why for axis, why in ends.items() for run in ties.plain(ties.axes[axis])}
    leaves = {path: leaf for path, leaf in ties.leaves.items() if leaf.parameter}
    sizes = None if variables is None else {path: _size(variables, path) for path in leaves}
    reasons = {path: [_reason(ties, kept, axis) for axis in leaf.axes] for path, leaf in leaves.items()}
    every = [reason for per_leaf in reasons.values() for reason in per_leaf]
    return Summary(
        rows=tuple(
            HandleSummary(h, _reason(ties, kept, h.name), _tied(ties, leaves, h.name, sizes)) for h in found.values()
        ),
        dimensions=len(every),
        resizable_dimensions=every.count(None),
        frozen=tuple(Counter(reason for reason in every if reason is not None).most_common()),
        parameters=None if sizes is None else sum(sizes.values()),
        resizable_parameters=None if sizes is None else sum(n for path, n in sizes.items() if None in reasons[path]),
    )


def _reason(ties: Ties, kept: Mapping[int, str], axis: str | None) -> str | None:
    """Why an axis keeps its size; None if some of its neurons may change."""
    if axis is None:
        return _NO_AXIS
    runs = sorted(ties.plain(ties.axes[axis]))
    if any(run not in ties.fixed and run not in kept for run in runs):
        return None
    found = dict.fromkeys(ties.fixed.get(run) or kept[run] for run in runs)
    return next(iter(found), _NO_AXIS)


def _tied(ties: Ties, leaves: Mapping[Path, Leaf], handle: str, sizes: Mapping[Path, int] | None) -> int | None:
    if sizes is None:
        return None
    own = ties.plain(ties.axes[handle])
    return sum(sizes[path] for path, leaf in leaves.items() if any(own & runs for runs in _runs(ties, leaf)))


def _runs(ties: Ties, leaf: Leaf) -> Iterator[frozenset[int]]:
    return (ties.plain(ties.axes[axis]) for axis in leaf.axes if axis is not None)


def _size(variables: Variables, path: Path) -> int:
    node: PyTree = variables
    for key in path:
        if not isinstance(node, Mapping) or key not in node:
            raise VariablesError(
                f"The variables have no {subscripts(path)}, which the graph has. Are they those of another graph?"
            )
        node = node[key]
    return math.prod(np.shape(node))
