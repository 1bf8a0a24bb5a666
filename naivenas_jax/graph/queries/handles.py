"""Every axis that can be resized, and what comes with it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from naivenas_jax.checks import nearest_names
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.paths import is_unnamed
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.views.viewable import Viewable

#: So many handles are listed in a message.
_SHOWN = 8


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


def unknown_name(name: object, known: Iterable[str]) -> str:
    """The message about a name that does not exist, with the nearest names that do.

    Args:
      name: the name.
      known: all names that exist; those that start with ``~`` were given by no user, and are not suggested.
    """
    names = [each for each in known if not each.startswith("~")]
    near = nearest_names(str(name), names)
    hint = f"Did you mean: {', '.join(map(repr, near))}?" if near else "There is none at all."
    return f"There is no vertex or axis named {name!r}. {hint}"


def unknown_axis(name: object, known: Handles, ties: Ties, vertices: Iterable[Vertex]) -> str:
    """The message about a name that no axis has: what has its neurons, what lies below it, or the nearest handles.

    Args:
      name: the name.
      known: the handles of the network.
      ties: its ties.
      vertices: its vertices; what lies inside of an imported model may have a name, and no neurons of its own.
    """
    spelled = str(name)
    below = [each for each in known if each.startswith((f"{spelled}/", f"{spelled}:"))]
    if below:
        more = f" and {len(below) - _SHOWN} more" * (len(below) > _SHOWN)
        listed = ", ".join(map(repr, below[:_SHOWN]))
        return f"There is no vertex or axis named {name!r}. Handles below this name: {listed}{more}."
    inside = {run for each in vertices for axis in each.op.axes_inside(spelled) for run in ties.plain(ties.axes[axis])}
    if own := [each for each in known if inside.intersection(ties.plain(ties.axes[each]))]:
        return f"There is no vertex or axis named {name!r}: it makes no neurons of its own, it has those of {own[0]!r}."
    return unknown_name(name, known or ties.axes)


def fixed(ties: Ties) -> dict[str, str]:
    """Why axes, or some of their neurons, may not change: the reasons by axis."""
    found = {}
    for axis, runs in ties.axes.items():
        reasons = dict.fromkeys(ties.fixed[run] for run in sorted(ties.plain(runs)) if run in ties.fixed)
        if reasons and not is_unnamed(axis):
            found[axis] = "; ".join(reasons)
    return found
