"""Budgets of `resize`, read and counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypedDict

import jax

from naivenas_jax.align.problem.budget import Budget
from naivenas_jax.checks import MOST_NEURONS, as_count, as_number, shown
from naivenas_jax.cost.operations import Operations, operations
from naivenas_jax.cost.parameters import parameters, variable_bytes
from naivenas_jax.cost.parts import parts, require_placed, under, without_operations
from naivenas_jax.errors import BudgetError, RequestError, SolverError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.graph.given_inputs import sample_inputs
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.queries.handles import unknown_axis
from naivenas_jax.mutate.request.bounds import free_handles
from naivenas_jax.mutate.request.options import Inputs
from naivenas_jax.sizes.condition import Condition, multiple_of
from naivenas_jax.sizes.count import Count
from naivenas_jax.transfer.variables import check_variables, flat, nested
from naivenas_jax.typing import PyTree, Variables

#: At most this much: a whole number, or a float as a fraction of the present; or that for parts of the model.
Limit: TypeAlias = int | float | Mapping[str, int | float] | None
#: The seconds that a network takes.
Latency: TypeAlias = Callable[[Graph], float]


class BudgetKeywords(TypedDict, total=False):
    """Keywords of verbs that keep to budgets. What they mean is said at `resize`."""

    max_params: Limit
    max_bytes: Limit
    max_macs: Limit
    max_activation_bytes: Limit


#: The names of the budgets.
BUDGETS = tuple(BudgetKeywords.__annotations__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a network may cost, as `resize` was asked.

    Attributes:
      max_params, max_bytes, max_macs, max_activation_bytes: the limits.
      inputs: shapes to count operations at.
      grows: whether anything was asked to grow, so that more than the present may be a limit.
    """

    max_params: Limit = None
    max_bytes: Limit = None
    max_macs: Limit = None
    max_activation_bytes: Limit = None
    inputs: Inputs = None
    grows: bool = True

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in BUDGETS)

    def budgets(self, graph: Graph, variables: Variables) -> tuple[Budget, ...]:
        """The budgets, with what they count; see `by_part`."""
        return tuple(budget for parts in self.by_part(graph, variables).values() for budget in parts.values())

    def by_part(self, graph: Graph, variables: Variables) -> dict[str, dict[str, Budget]]:
        """The budgets by name, and by part of the network (``""``: the whole).

        Raises:
          BudgetError: if a limit is no number that it can be, or a part has no operations.
          UnknownNameError: if there is no such part.
          VariablesError: if the variables are not those of the graph.
        """
        check_variables(graph.ties.shapes, variables)
        counts = _Counts(graph, variables, self.inputs)
        limits = {name: limit for name in BUDGETS if (limit := getattr(self, name)) is not None}
        return {
            name: {
                part: self._budget(f"{name} of {part!r}" if part else name, counts.of(name, part), bound, graph)
                for part, bound in _parts(name, limit).items()
            }
            for name, limit in limits.items()
        }

    def _budget(self, name: str, count: Count, limit: object, graph: Graph) -> Budget:
        number, present = as_number(limit), count.at(graph.ties.sizes)
        if number is None or not 0 < number < math.inf:  # not NaN either
            raise BudgetError(
                f"{name} must be a whole number, at least 1, or a float above 0, a fraction of the present (0.5: half "
                f"of it); found {shown(limit)}."
            )
        if not self.grows:
            require_fraction(name, number)
        if present == 0:
            raise BudgetError(
                f"{name} limits what there is nothing of: its count is 0 for this network and these inputs."
            )
        return Budget(name, count, number if isinstance(number, int) else int(number * present))

    def effort(self, graph: Graph, variables: Variables) -> Count:
        """Operations, where the shapes of the inputs are known; else parameters."""
        if self.inputs is None and any(getattr(vertex.op, "shape", None) is None for vertex in graph.inputs):
            return parameters(graph.ties, variables)
        return operations(graph, variables, _shapes(graph, self.inputs)).macs

    def check(self, budgets: Sequence[Budget], graph: Graph, variables: Variables) -> None:
        """Count again, on what came out.

        Raises:
          SolverError: if a budget does not hold there.
        """
        for budget, recounted in zip(budgets, self.budgets(graph, variables), strict=True):
            if (found := recounted.count.at(graph.ties.sizes)) > budget.bound:
                raise SolverError(f"{budget} does not hold for the network that was found: {found}.")


def _parts(name: str, limit: int | float | Mapping[str, int | float]) -> Mapping[str, int | float]:
    if not isinstance(limit, Mapping):
        return {"": limit}
    if not limit:
        raise BudgetError(f"{name} is a mapping without parts: name one, or give a number for the whole.")
    for part in limit:
        if not isinstance(part, str):
            raise BudgetError(f"{name} of parts maps names to limits; found {part!r:.80} in place of a name.")
    return dict(limit)


@dataclass(frozen=True, eq=False)
class _Counts:
    """What a network costs, and what parts of it do."""

    graph: Graph
    variables: Variables
    inputs: Inputs

    def of(self, name: str, part: str) -> Count:
        """What a budget of this name counts; all of it, if the part is empty."""
        match name:
            case "max_params":
                return parameters(self.graph.ties, self._variables(name, part))
            case "max_bytes":
                return variable_bytes(self.graph.ties, self._variables(name, part))
            case "max_macs":
                return self._operations(name, part).macs
            case "max_activation_bytes":
                return self._operations(name, part).activation_bytes
        raise AssertionError(f"{name} is in `BudgetKeywords`, and nothing says what it counts.")

    @cached_property
    def operations(self) -> Operations:
        return operations(self.graph, self.variables, _shapes(self.graph, self.inputs))

    @cached_property
    def paths(self) -> list[str]:
        """Of all variables, without their collections."""
        return ["/".join(path[1:]) for path in flat(self.variables)]

    @cached_property
    def modules(self) -> list[str]:
        """The parts that have variables."""
        return parts(path.rpartition("/")[0] for path in self.paths if "/" in path)

    def _variables(self, name: str, part: str) -> dict[str, PyTree]:
        """The variables under a vertex or module."""
        arrays = flat(self.variables).items()
        found = {path: array for (path, array), own in zip(arrays, self.paths, strict=True) if under(part, [own])}
        if not found and part in self.graph:
            more = ", ..." * (len(self.modules) > 8)
            having = ", ".join(map(repr, self.modules[:8]))
            raise BudgetError(f"{name} of {part!r}: it has no variables. Parts that have some: {having}{more}.")
        if not found:
            raise UnknownNameError(f"{name}: {unknown_name(part, self.modules)}")
        return nested(found)

    def _operations(self, name: str, part: str) -> Operations:
        """The operations of a vertex or module."""
        if not part:
            return self.operations
        require_placed(self.graph)
        found = self.operations.of(part)
        if not found.each:
            having = [each for each in self.operations.parts if each not in self.paths]
            if not under(part, self.paths) and part not in self.graph:
                raise UnknownNameError(f"{name}: {unknown_name(part, having)}")
            raise without_operations(name, part, having)
        return found


def require_fraction(name: str, limit: int | float) -> None:
    """Raise for a float above 1, where nothing is asked to grow: a fraction of the present that limits nothing.

    Raises:
      BudgetError: says what a float means.
    """
    if isinstance(limit, float) and limit > 1:
        amount = f" A whole number is an amount: {name}={int(limit)}." if limit.is_integer() else ""
        raise BudgetError(
            f"{name}={limit} is a float, and so {limit:g} times the present, which limits nothing where nothing is "
            f"asked to grow.{amount} Pass at most 1.0; or ask for growth (grow=True, request=, min_size=)."
        )


def _shapes(graph: Graph, inputs: Inputs) -> Sequence[Any]:
    """Shapes to count operations at: those that were given, or a batch of one where the graph knows them."""
    if inputs is not None:
        return sample_inputs(graph, inputs)
    from_sources = [getattr(vertex.op, "shape", None) for vertex in graph.inputs]
    if any(shape is None for shape in from_sources):
        unknown = [v.name for v, shape in zip(graph.inputs, from_sources, strict=True) if shape is None]
        raise BudgetError(
            f"To count operations the shape of input {unknown[0]!r} must be known: pass inputs=(...), arrays or "
            "shapes, or give nas.input_vertex(name, size, shape=...)."
        )
    return [
        jax.ShapeDtypeStruct((1, *shape), vertex.op.dtype)  # type: ignore[attr-defined]
        for vertex, shape in zip(graph.inputs, from_sources, strict=True)
        if shape is not None
    ]


def require_room(budgets: Sequence[Budget], graph: Graph) -> None:
    """Growth needs a budget, and one that the network does not exceed already.

    Raises:
      BudgetError: if there is none, or one is exceeded.
    """
    if not budgets:
        raise BudgetError("grow=True spends what is left of a budget: give one, such as max_params=2.0.")
    for budget in budgets:
        if (present := budget.count.at(graph.ties.sizes)) > budget.bound:
            raise BudgetError(
                f"grow=True drops nothing, but {budget} is exceeded now: {present}. Leave grow out to shrink, or allow "
                "more."
            )


def require_limited(latency: object, max_latency: object) -> None:
    """Raise for a model of latency where nothing limits that: it would not be asked.

    Raises:
      BudgetError: says what limits it.
    """
    if latency is not None and max_latency is None:
        raise BudgetError(
            "latency= says how many seconds a network takes, and nothing limits these: give max_latency= as well, "
            "such as 0.5 for half of the present, or leave latency= out."
        )


def multiples(graph: Graph, asked: int | Mapping[str, int] | None) -> tuple[Condition, ...]:
    """Sizes in multiples: of the handles that are named, or of every whole axis that can be one.

    Raises:
      UnknownNameError: if there is no such handle.
      RequestError: if it is no whole number.
    """
    if asked is None:
        return ()
    handles = graph.handles()
    if isinstance(asked, Mapping):
        for name in asked:
            if name not in handles:
                raise UnknownNameError(f"multiple_of: {unknown_axis(name, handles, graph.ties, graph.vertices)}")
        factors = {name: _factor(f"multiple_of= for {name!r}", factor) for name, factor in asked.items()}
    else:
        factor = _factor("multiple_of=", asked)
        factors = {name: factor for name in free_handles(graph) if handles[name].size >= factor}
    return tuple(multiple_of(name, factor).because("multiple_of=") for name, factor in factors.items())


def _factor(argument: str, given: object) -> int:
    """What sizes must be multiples of.

    Raises:
      RequestError: if it is no whole number of at least 1.
    """
    factor = as_count(given)
    if factor is None:
        raise RequestError(
            f"{argument} must be a whole number, at least 1 and at most {MOST_NEURONS}; found {shown(given)}."
        )
    return factor
