"""States that know by themselves how to follow a mutation."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, runtime_checkable

from naivenas_jax.align.plan import Plan
from naivenas_jax.graph.graph import Graph
from naivenas_jax.typing import PyTree


@runtime_checkable
class Followed(Protocol):
    """What a state gets to know of a mutation."""

    @property
    def graph(self) -> Graph:
        """The graph after the mutation."""

    @property
    def before(self) -> Graph:
        """The graph before."""

    @property
    def plan(self) -> Plan:
        """Where each neuron comes from."""


@runtime_checkable
class Follows(Protocol):
    """A state that is not shaped like the variables, and follows a mutation by a rule of its own."""

    def follow(self, followed: Followed) -> Follows:
        """The state for the graph after the mutation."""


def apart(tree: PyTree) -> tuple[dict[Hashable, Follows], PyTree]:
    """The values of a dict that follow by themselves, and the dict without them; other trees are left as they are."""
    if not isinstance(tree, dict):
        return {}, tree
    own = {key: value for key, value in tree.items() if isinstance(value, Follows)}
    return own, {key: value for key, value in tree.items() if key not in own} if own else tree
