"""Every axis that can be resized, and what comes with it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from naivenas_jax.paths import is_unnamed
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.views.viewable import Viewable


@dataclass(frozen=True)
class Handle:
    """One axis that can be resized.

    Attributes:
      name: the name that requests, utilities and plans use: the vertex, or ``vertex:axis`` for an inner axis.
      size: the number of neurons.
      tied_to: the names of the axes that have neurons in common with this one, and change when it does.
      coupled: why a neuron that is zero is not the same as a neuron that is not there; None if it is the same.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> nas.Graph(x, nas.layer("hidden", nn.Dense(8), x)).handles()["hidden"].size
    8
    """

    name: str
    size: int
    tied_to: tuple[str, ...]
    coupled: str | None


class Handles(dict[str, Handle], Viewable):
    """Handles by name: a dict that notebooks and terminals show as a table."""


def handles(ties: Ties, without: Collection[str] = ()) -> Handles:
    """The handles of a network, by name: its named axes, unless all neurons on an axis are fixed.

    Args:
      ties: the ties of the network.
      without: axes that are no handles either.
    """
    holders: dict[int, list[str]] = {}
    named = {axis: ties.plain(runs) for axis, runs in ties.axes.items() if not is_unnamed(axis) and axis not in without}
    for axis, runs in named.items():
        for run in sorted(runs):
            holders.setdefault(run, []).append(axis)
    return Handles(
        (
            axis,
            Handle(
                axis,
                ties.size(axis),
                tuple(dict.fromkeys(other for run in sorted(runs) for other in holders[run] if other != axis)),
                ties.coupled.get(axis),
            ),
        )
        for axis, runs in named.items()
        if not all(run in ties.fixed for run in runs)
    )


def is_axis(ties: Ties, name: object) -> bool:
    """Whether an axis has this name."""
    return isinstance(name, str) and name in ties.axes and not is_unnamed(name)


def inside_vertex(name: object) -> str:
    """The message about an axis in the place of a vertex."""
    return (
        f"{name!r} is an axis inside of a vertex, and no vertex. graph.nout({name!r}) is its size, graph.handles() "
        "tells what is tied to it."
    )


def fixed(ties: Ties) -> dict[str, str]:
    """Why axes, or some of their neurons, may not change: the reasons by axis."""
    found = {}
    for axis, runs in ties.axes.items():
        reasons = dict.fromkeys(ties.fixed[run] for run in sorted(ties.plain(runs)) if run in ties.fixed)
        if reasons and not is_unnamed(axis):
            found[axis] = "; ".join(reasons)
    return found
