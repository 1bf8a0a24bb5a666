"""Plans across a change of names: what is called otherwise after the later plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from naivenas_jax.align.plan import Plan

KeyT = TypeVar("KeyT")


def in_names_of(later: Plan, earlier: Plan) -> Plan:
    """``earlier`` with the axes and leaves that it leads to called as ``later`` calls them.

    What ``later`` removes keeps the name that it had. The result says for every axis and leaf what it was called first.
    """
    axis = _forward(earlier.axes, later.renamed)
    leaf = _forward(earlier.leaves, later.moved)
    return replace(
        earlier,
        axes={axis[name]: plan for name, plan in earlier.axes.items() if name in axis},
        leaves={leaf[p]: tuple(d and axis.get(d, d) for d in dims) for p, dims in earlier.leaves.items() if p in leaf},
        created=frozenset(leaf[path] for path in earlier.created if path in leaf),
        moved=_joined(leaf.keys() - earlier.created - later.removed, earlier.moved, leaf),
        renamed=_joined(axis.keys(), earlier.renamed, axis),
    )


def _forward(names: Iterable[KeyT], old_by_new: Mapping[KeyT, KeyT]) -> dict[KeyT, KeyT]:
    """The new name of each old one; without those whose name has been given to another."""
    new_by_old = {old: new for new, old in old_by_new.items()}
    return {name: new_by_old.get(name, name) for name in names if name in new_by_old or name not in old_by_new}


def _joined(present: Iterable[KeyT], first: Mapping[KeyT, KeyT], then: Mapping[KeyT, KeyT]) -> dict[KeyT, KeyT]:
    """The first name of everything that has another one in the end."""
    pairs = ((then[name], first.get(name, name)) for name in present)
    return {new: old for new, old in pairs if new != old}
