"""Budgets on the way from what a network costs to what it may cost, for a chain of changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.request.budget_request import BudgetKeywords, Limits
from naivenas_jax.typing import Variables


class Span(NamedTuple):
    """What is counted before the first change, and what it may be after the last."""

    before: int
    after: int


@dataclass(frozen=True)
class BudgetPath:
    """Where budgets start and where they end.

    Attributes:
      spans: by name of the budget; by part of the network besides, where limits were given by part.
    """

    spans: Mapping[str, Span | Mapping[str, Span]]

    @classmethod
    def of(cls, graph: Graph, variables: Variables, limits: Limits) -> BudgetPath:
        """The way from what a network costs to what it may cost.

        Raises:
          Others: as `Limits.budgets`.
        """
        sizes, found = graph.ties.sizes, dict[str, Span | Mapping[str, Span]]()
        for name, parts in limits.by_part(graph, variables).items():
            spans = {part: Span(budget.count.at(sizes), int(budget.bound)) for part, budget in parts.items()}
            found[name] = spans.get("", spans)
        return cls(found)

    def at(self, between: Callable[[Span], float]) -> BudgetKeywords:
        """The budgets at one point of the way, as keywords of `resize`: whole numbers, at least 1.

        Args:
          between: what a count may be there, given its span.
        """

        def bound(span: Span) -> int:
            return max(1, int(between(span)))

        found = {
            name: bound(span) if isinstance(span, Span) else {part: bound(own) for part, own in span.items()}
            for name, span in self.spans.items()
        }
        return cast(BudgetKeywords, found)  # the names are those of `Limits`, which mypy does not see
