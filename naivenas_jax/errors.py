"""Every exception of the library.

A message names what was wrong (the vertex, axis or argument), what was found, the rule, and what would work.
Nothing is half-changed when one of these is raised: all values of the library are immutable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class NaiveNASError(Exception):
    """Base of all exceptions raised by naivenas_jax on purpose."""


class GraphError(NaiveNASError, ValueError):
    """A graph or vertex that cannot be built."""


class ImmutableError(NaiveNASError, AttributeError):
    """An attempt to set or delete an attribute of an immutable value."""


class DuplicateNameError(GraphError):
    """Two different vertices of one graph have the same name."""


class UnknownNameError(NaiveNASError, KeyError):
    """A vertex, axis or path that does not exist."""

    def __str__(self) -> str:  # KeyError would print the repr of its message
        return str(self.args[0]) if self.args else ""


class UnregisteredLayerError(GraphError, TypeError):
    """A layer of a kind that the registry does not know."""


class SizeMismatchError(GraphError):
    """Inputs of a vertex whose sizes do not fit together."""


class RequestError(NaiveNASError, ValueError):
    """A size request that makes no sense whatever the graph."""


class UtilityError(NaiveNASError, ValueError):
    """Utility scores that cannot be used."""


class VariablesError(NaiveNASError, ValueError):
    """Variables that do not belong to the graph."""


class StructureError(NaiveNASError, ValueError):
    """A change of structure that cannot be made."""


class RebuildError(NaiveNASError, ValueError):
    """The user's own model cannot be made with the new sizes.

    Attributes:
      lines: where the user's code has to be changed, ``(file, line number)``.
      sizes: the sizes that the code there has to give: ``(handle, old, new)``.
    """

    def __init__(
        self,
        message: str,
        lines: tuple[tuple[str, int], ...] = (),
        sizes: tuple[tuple[str, int, int], ...] = (),
    ):
        super().__init__(message)
        self.lines = lines
        self.sizes = sizes


class PlanError(NaiveNASError, ValueError):
    """A plan that cannot be read, composed or applied."""


class CarryError(NaiveNASError, ValueError):
    """A leaf of a carried tree that cannot be matched to a variable."""


class OracleError(NaiveNASError, AssertionError):
    """A mutated network that does not compute what it should."""


class SolverError(NaiveNASError, RuntimeError):
    """The solver failed, or returned a point that breaks a constraint."""


class TimeLimitError(SolverError, TimeoutError):
    """The time limit struck before a proven optimum was found.

    Attributes:
      best: a function that makes the verb's result with the best sizes found by then, which satisfy every condition;
        None if none had been found.
      gap: in words, how far these may be from the optimum.
    """

    def __init__(self, message: str, best: Callable[[], Any] | None = None, gap: str = ""):
        super().__init__(message)
        self.best, self.gap = best, gap

    def then(self, finish: Callable[[Any, str], Any]) -> TimeLimitError:
        """The same error with another ``best``: ``finish(what best makes, gap)``."""
        best, gap = self.best, self.gap
        return TimeLimitError(str(self), best and (lambda: finish(best(), gap)), gap)


class BudgetError(NaiveNASError, ValueError):
    """A budget that is no positive number, or on something that cannot be counted."""


class InfeasibleError(NaiveNASError, ValueError):
    """No sizes satisfy the request.

    Attributes:
      conflicts: names of the axes whose requests or fixed sizes contradict one another.
      nearest: a size for every requested axis; together these sizes are feasible, and as near to the request as can
        be. Empty if no sizes are feasible, and where they are not searched for: within budgets and around edits.
      reasons: what is fixed or limited there, in words.
    """

    def __init__(
        self,
        message: str,
        conflicts: tuple[str, ...] = (),
        nearest: Mapping[str, int] | None = None,
        reasons: tuple[str, ...] = (),
    ):
        super().__init__(message)
        self.conflicts = conflicts
        self.nearest = dict(nearest or {})
        self.reasons = reasons


class TooSmallError(InfeasibleError, RequestError):
    """An exact request that leaves less than one neuron: infeasible, whatever the graph."""
