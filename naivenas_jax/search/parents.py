"""The two networks of a crossover, as they are given, and the network that both are changes of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import shown
from naivenas_jax.errors import PlanError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.population.members import Member, as_pair, recognised
from naivenas_jax.transfer.variables import check_network
from naivenas_jax.typing import PyTree, Variables

#: A parent as it is given: a mutation, a mutation with trained variables, or a graph with its variables.
Parent: TypeAlias = Mutation | tuple[Mutation, Variables] | tuple[Graph, Variables]


def parents(first: Parent, second: Parent) -> tuple[Member, Member]:
    """Both networks; as mutations of one network, where there is one that both are changes of.

    Raises:
      PlanError: if one is no network.
      VariablesError: if the variables of one are not those of its graph.
    """
    one, two = parent_of(first, "first"), parent_of(second, "second")
    for origin in (*_before(one), *_before(two)):
        if (a := _since(origin, one)) is not None and (b := _since(origin, two)) is not None:
            return a, b
    return one, two


def parent_of(given: object, name: str) -> Member:
    """What a user gave for a parent, as the argument ``name``.

    Raises:
      PlanError: if it is no network.
      VariablesError: if the variables are not those of its graph.
    """
    parent = recognised(given)
    if isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], Mutation):
        parent = replace(given[0], variables=given[1])
    if parent is None:
        raise PlanError(
            f"{name}= takes a mutation, a pair of a mutation and its trained variables, or a pair of a graph and its "
            f"variables; found {shown(given)}."
        )
    check_network(*as_pair(parent))
    return parent


def _before(parent: Member) -> Iterator[Graph]:
    """The networks that a parent may be known as a change of: itself last."""
    if isinstance(parent, Mutation):
        yield parent.before
    yield as_pair(parent)[0]


def _since(origin: Graph, parent: Member) -> Mutation | None:
    """A parent as a change of ``origin``; None if it is not known to be one."""
    if isinstance(parent, Mutation) and parent.before == origin:
        return parent
    graph, variables = as_pair(parent)
    return unchanged(graph, variables) if graph == origin else None


def unchanged(graph: Graph, variables: PyTree) -> Mutation:
    """The mutation that changes nothing."""
    return Mutation(
        graph=graph,
        variables=variables,
        plan=Plan.identity(graph.ties),
        before=graph,
        variables_before=variables,
    )
