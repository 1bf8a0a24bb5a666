"""A limit on latency, which a table or a user's function gives: met by search, as it is no sum of products of sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import SupportsFloat, TypeAlias

from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.align.problem.deadline import NEVER, Deadline
from naivenas_jax.align.problem.request import to
from naivenas_jax.checks import as_number, require_function, shown
from naivenas_jax.cost.latency import PICOSECONDS, LatencyTable
from naivenas_jax.cost.parts import require_placed
from naivenas_jax.errors import BudgetError, InfeasibleError, TimeLimitError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.request.budget_request import Latency, require_fraction
from naivenas_jax.mutate.request.size_request import SizeRequest
from naivenas_jax.mutate.result.mutation import Mutation, unproven
from naivenas_jax.progress import Tell, waiting
from naivenas_jax.sizes.count import Count

#: ``(further sizes asked, further budgets) -> mutation``
Attempt: TypeAlias = Callable[[SizeRequest, Sequence[Budget]], Mutation]
_HALVINGS = 12
_FILLS = 48


@dataclass(frozen=True)
class LatencyLimit:
    """At most so many seconds.

    Attributes:
      latency: the model.
      bound: seconds.
      name: what the limit is on.
    """

    latency: Latency
    bound: float
    name: str = "max_latency"

    @classmethod
    def of(cls, graph: Graph, asked: object, latency: Latency | None, grows: bool) -> LatencyLimit:
        """Read ``max_latency=``: a float is a fraction of the present, a whole number is microseconds; or by part.

        Args:
          graph: the network.
          asked: what a user gave.
          latency: the model.
          grows: whether anything was asked to grow, so that more than the present may be a limit.
        """
        if not callable(latency):
            raise BudgetError(
                "max_latency needs latency=: a table, nas.measure_latency(graph, variables, *inputs), or a function "
                f"that takes a graph and returns seconds; found {type(latency).__name__}."
            )
        require_function(latency, "latency=", "graph", BudgetError)
        if isinstance(asked, Mapping):
            return cls._of_part(graph, asked, latency, grows)
        number = as_number(asked)
        if number is None or not 0 < number < math.inf:
            raise BudgetError(
                "max_latency must be a float as a fraction of the present (0.5: half of it), or a whole number of "
                f"microseconds; found {shown(asked)}."
            )
        if not grows:
            require_fraction("max_latency", number)
        if isinstance(number, int):
            return cls(latency, number * 1e-6)
        return cls(latency, number * cls(latency, math.inf).seconds(graph))

    @classmethod
    def _of_part(cls, graph: Graph, asked: Mapping[str, object], latency: Latency, grows: bool) -> LatencyLimit:
        if not isinstance(latency, LatencyTable):
            raise BudgetError(
                "max_latency of a part needs a table, latency=nas.measure_latency(...), which has figures of its "
                "operations. Of a function limit the whole, or let it return the seconds of the part."
            )
        if len(asked) != 1 or not isinstance(next(iter(asked)), str):
            raise BudgetError(
                "max_latency is one limit, which a search keeps: for the whole model, or for one part by its name; "
                f"found {asked!r:.80}. Limit the others by max_macs=, or let latency= be a function of their seconds."
            )
        ((part, limit),) = asked.items()
        require_placed(graph)
        return replace(cls.of(graph, limit, latency.of(part), grows), name=f"max_latency of {part!r}")

    def seconds(self, graph: Graph) -> float:
        """What a network takes by the model.

        Raises:
          BudgetError: if that is no number of seconds.
        """
        found: SupportsFloat = self.latency(graph)  # a user's function may return something else
        try:
            seconds = float(found)
        except (TypeError, ValueError):
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise BudgetError(f"latency= must return seconds, a number of at least 0; found {found!r:.80}.")
        return seconds

    def holds(self, graph: Graph) -> bool:
        """Whether the latency of the graph is within the limit."""
        return self.seconds(graph) <= self.bound

    def search(
        self, graph: Graph, count: Count, attempt: Attempt, grows: bool, *, gap: float = 0.0, deadline: Deadline = NEVER
    ) -> Mutation:
        """The best that is found within the limit.

        A budget on ``count`` (operations, or parameters) is halved until the latency holds, and brought as near to
        where it does not as 12 halvings go; each time the alignment chooses the sizes. Then single handles are made
        larger while the latency still holds. Of a function of the user's own nothing is known, so nothing is proven.
        A table lies above a sum of products of sizes, which is taken as the count; a budget on it that is as large as
        the limit allows more than the limit does, and what that would keep bounds the gap.

        Args:
          graph: the network.
          count: what to set budgets on.
          attempt: makes a mutation.
          grows: whether sizes may exceed the present ones, of which a table says nothing.
          gap: how near to the best is near enough.
          deadline: when the time for all attempts together is over.

        Raises:
          BudgetError: if the latency held for nothing that was tried.
          TimeLimitError: if the time is over; its ``best`` makes the best that was found within the limit by then.
        """
        with waiting(f"sizes within {self.name}") as tell:
            attempts = _Attempts(self, attempt, deadline, tell)
            try:
                return self._searched(graph, count, attempts, grows, gap)
            except TimeLimitError as stop:
                raise attempts.out_of_time(stop) from stop

    def _searched(self, graph: Graph, count: Count, attempt: Attempt, grows: bool, near: float) -> Mutation:
        best = attempt({}, ())
        if self.holds(best.graph):  # the limit does not bind
            return self.noted(best, best.gap)
        ideal = None
        if isinstance(self.latency, LatencyTable):
            count = self.latency.below()
            ideal = None if grows else self._ideal(count, attempt)
            if ideal is not None and self.holds(ideal.graph):
                return self.noted(ideal, ideal.gap)
        found, tried = self._bisect(graph, count, attempt)
        if found is None:
            raise BudgetError(
                f"No sizes were found with a latency of at most {self.bound:.3g} s; the smallest that was tried "
                f"takes {tried:.3g} s. Allow more, or let more axes change."
            )
        if ideal is None or _gap(found, ideal) > near:
            found = self._fill(graph, found, attempt)
        return self.noted(found, math.inf if ideal is None else _gap(found, ideal))

    def _ideal(self, below: Count, attempt: Attempt) -> Mutation | None:
        """The best where only a count below the latency is within the limit; None if not even that can be."""
        most = math.ceil(self.bound * PICOSECONDS * (1 + 1e-9)) + 1
        try:
            return attempt({}, (Budget(self.name, below, most),))
        except InfeasibleError:
            return None

    def noted(self, mutation: Mutation, gap: float) -> Mutation:
        """A mutation that was found within the limit, with a note of its latency and this gap."""
        what = f"{self.name}: {self.seconds(mutation.graph):.3g} s of {self.bound:.3g} s by the model"
        unproven = "; found by search, nothing is proven" if math.isinf(gap) else ""
        return replace(mutation, gap=gap, notes=(*mutation.notes, what + unproven))

    def _bisect(self, graph: Graph, count: Count, attempt: Attempt) -> tuple[Mutation | None, float]:
        low, high, best, smallest = 0.0, 1.0, None, math.inf
        present = count.at(graph.ties.sizes)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            try:
                found = attempt({}, (Budget(self.name, count, int(middle * present)),))
            except InfeasibleError:
                low = middle  # smaller still is no more feasible
                continue
            smallest = min(smallest, self.seconds(found.graph))
            if self.holds(found.graph):
                low, best = middle, found
            else:
                high = middle
        return best, smallest

    def _fill(self, graph: Graph, found: Mutation, attempt: Attempt) -> Mutation:
        """Single handles larger, those that lost the largest share first, by as much as goes."""
        handles = [name for name in _representatives(graph) if found.plan.axes[name].after < graph.ties.size(name)]
        handles.sort(key=lambda name: found.plan.axes[name].after / graph.ties.size(name))
        left = _FILLS
        for name in handles:
            step = graph.ties.size(name) - found.plan.axes[name].after
            while step >= 1 and left:
                left -= 1
                larger = self._larger(graph, found, name, step, attempt)
                found, step = (larger, step) if larger is not None else (found, step // 2)
                step = min(step, graph.ties.size(name) - found.plan.axes[name].after)
        return found

    def _larger(self, graph: Graph, found: Mutation, name: str, step: int, attempt: Attempt) -> Mutation | None:
        sizes = {each: to(found.plan.axes[each].after) for each in _representatives(graph)}
        try:
            mutation = attempt({**sizes, name: to(found.plan.axes[name].after + step)}, ())
        except InfeasibleError:
            return None
        return mutation if self.holds(mutation.graph) else None


class _Attempts:
    """Attempts of one search, with the best of them that keeps to the limit."""

    def __init__(self, limit: LatencyLimit, attempt: Attempt, deadline: Deadline, tell: Tell):
        self.limit, self.attempt, self.deadline, self.tell = limit, attempt, deadline, tell
        self.best: Mutation | None = None
        self.made = 0

    def __call__(self, sizes: SizeRequest, budgets: Sequence[Budget]) -> Mutation:
        """Make an attempt.

        Raises:
          TimeLimitError: if no time is left, or it ends meanwhile.
        """
        if self.deadline.is_over:
            raise TimeLimitError("")
        self.made += 1
        self.tell(f"attempt {self.made}")
        found = self.attempt(sizes, budgets)
        better = self.best is None or found.request_record.lost < self.best.request_record.lost
        if self.deadline.at is not None and better and self.limit.holds(found.graph):
            self.best = found
        return found

    def out_of_time(self, stop: TimeLimitError) -> TimeLimitError:
        """The error for the whole search, when the time was over in an attempt."""
        best = self.best
        if best is None and stop.best is not None and self.limit.holds((found := stop.best()).graph):
            best = found
        words = f"The time limit struck before the search within {self.limit.name} ended. Allow more, time_limit=."
        if best is None:
            return TimeLimitError(f"{words} No sizes within it had been found.")
        held = best
        later = TimeLimitError(words, gap=f"{self.limit.name} holds, and the search for it did not end")
        later.best = lambda: unproven(self.limit.noted(held, math.inf), later)
        return later


def _gap(found: Mutation, ideal: Mutation) -> float:
    """How much more could be kept at the most, as a share, if not even ``ideal`` loses less than it does."""
    least = ideal.request_record.lost - ideal.gap * ideal.request_record.kept
    return max(0.0, found.request_record.lost - least) / max(found.request_record.kept, 1e-12)


def _representatives(graph: Graph) -> list[str]:
    """One handle for each set of neurons that weights make, but those of inputs and outputs."""
    ties = graph.ties
    seen = {run for v in (*graph.inputs, *graph.outputs) for run in ties.plain(ties.axes[v.name])}
    found, known = list[str](), graph.handles()
    for leaf in ties.leaves.values():
        for axis, role in zip(leaf.axes, leaf.roles, strict=True):
            if axis is None or role != "out" or axis not in known or ties.products.keys() & set(ties.axes[axis]):
                continue
            runs = ties.plain(ties.axes[axis])
            if not runs & seen:
                seen |= runs
                found.append(axis)
    return found
