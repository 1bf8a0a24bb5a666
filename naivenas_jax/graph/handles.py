"""Every axis that can be resized, and what comes with it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from naivenas_jax.sizes.ties import Ties


@dataclass(frozen=True)
class Handle:
    """One axis that can be resized.

    Attributes:
      name: by which requests, utilities and plans name it: the vertex, or ``vertex:axis`` for an inner axis.
      size: its number of neurons.
      tied_to: the axes that have neurons in common with it, and change when it does.
      coupled: why a neuron of it that is zero is not the same as one that is not there; None if it is.
    """

    name: str
    size: int
    tied_to: tuple[str, ...]
    coupled: str | None


def handles(ties: Ties, bundles: Collection[str] = ()) -> dict[str, Handle]:
    """The handles of a network, by name. Axes all of whose neurons are fixed are left out, and those in ``bundles``."""
    holders: dict[int, list[str]] = {}
    named = {axis: ties.plain(runs) for axis, runs in ties.axes.items() if axis[0] != "~" and axis not in bundles}
    for axis, runs in named.items():
        for run in sorted(runs):
            holders.setdefault(run, []).append(axis)
    return {
        axis: Handle(
            axis,
            ties.size(axis),
            tuple(dict.fromkeys(other for run in sorted(runs) for other in holders[run] if other != axis)),
            ties.coupled.get(axis),
        )
        for axis, runs in named.items()
        if not all(run in ties.fixed for run in runs)
    }


def fixed(ties: Ties) -> dict[str, str]:
    """Why axes, or some of their neurons, may not change: the reasons by axis."""
    found = {}
    for axis, runs in ties.axes.items():
        reasons = dict.fromkeys(ties.fixed[run] for run in sorted(ties.plain(runs)) if run in ties.fixed)
        if reasons and not axis.startswith("~"):
            found[axis] = "; ".join(reasons)
    return found
