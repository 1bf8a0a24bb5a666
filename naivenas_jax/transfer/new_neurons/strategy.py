"""What ``new=`` of the verbs means: read once, by `strategy_of`."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import chex

from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import as_number, require_function, shown
from naivenas_jax.errors import PlanError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import Path
from naivenas_jax.transfer.new_neurons.entries import Fill, NewEntries
from naivenas_jax.transfer.new_neurons.fills import Constant, initialised, keep_function, zeros
from naivenas_jax.transfer.new_neurons.learnable import learnable
from naivenas_jax.typing import PyTree

#: What ``new=`` may be: a name, a fill, or a mapping from names of parameters to either or to a number.
New: TypeAlias = str | Fill | Mapping[str, str | Fill | float | None] | None
#: ``(graph, plan, variables) -> variables`` of the new graph, with other values at new positions.
Finish: TypeAlias = Callable[[Graph, Plan, dict[str, PyTree]], dict[str, PyTree]]


@dataclass(frozen=True)
class Strategy:
    """What the parameters of new neurons start at.

    Attributes:
      fill: gives the new entries of one parameter.
      keeps_function: whether the network computes the same after its new neurons were filled so.
      copies: whether new neurons are copies of old ones, and whatever reads them is divided among the copies.
      finish: what becomes of the variables when all parameters are filled; None: nothing.
      names: the names of parameters that a user gave a fill for.
    """

    fill: Fill
    keeps_function: bool = False
    copies: bool = False
    finish: Finish | None = None
    names: tuple[str, ...] = ()

    def check_names(self, paths: Collection[Path]) -> None:
        """Raise unless each of the names belongs to one of these parameters.

        Raises:
          PlanError: if there is no parameter of that name.
        """
        for name in self.names:
            if not any(_ends(path, name) for path in paths):
                found = ", ".join(sorted({path[-1] for path in paths}))
                raise PlanError(f"new= names {name!r}, and there is no such parameter. Their names are: {found}.")

    def finished(self, graph: Graph, plan: Plan, variables: dict[str, PyTree]) -> dict[str, PyTree]:
        """The variables of the new graph, when all parameters are filled."""
        if self.finish is None:
            return variables
        done = self.finish(graph, plan, variables)
        chex.assert_trees_all_equal_structs(done, variables)  # values may be others, and nothing else
        return done


@runtime_checkable
class Finishing(Protocol):
    """A fill that needs the new network as a whole: called for every parameter, and once when all are filled."""

    def __call__(self, entries: NewEntries) -> object:
        """The new entries of one parameter."""

    def finish(self, graph: Graph, plan: Plan, variables: dict[str, PyTree]) -> dict[str, PyTree]:
        """The variables of the new graph, with other values at new positions; the function has to be kept."""


_KEEP = Strategy(keep_function, keeps_function=True, finish=learnable)
STRATEGIES: dict[str, Strategy] = {
    "default": _KEEP,
    "zeros": Strategy(zeros, keeps_function=True),
    "split": Strategy(keep_function, keeps_function=True, copies=True),
    "identity": _KEEP,  # an inserted layer starts as the identity; neurons that a width gains keep the function
    "init": Strategy(initialised),
}


def strategy_of(new: object) -> Strategy:
    """The strategy that ``new=`` stands for.

    Args:
      new: what a user gave: see `New`.

    Raises:
      PlanError: if it is nothing of the kind.

    >>> strategy_of("split").copies, strategy_of({"bias": 0.1}).names
    (True, ('bias',))
    """
    if new is None:
        return _KEEP
    if isinstance(new, Mapping):
        return _by_name(new)
    if isinstance(new, Finishing):
        return Strategy(new, keeps_function=True, finish=new.finish)
    if callable(new):
        require_function(new, "new=", "entries", PlanError)
        return Strategy(new)
    if not isinstance(new, str) or new not in STRATEGIES:
        raise PlanError(
            f"new={new!r} is unknown. It says what parameters of new neurons start at: "
            f"{', '.join(map(repr, STRATEGIES))}, a function of nas.NewEntries, or a mapping from names of parameters "
            "to these."
        )
    return STRATEGIES[new]


def _by_name(given: Mapping[object, object]) -> Strategy:
    """A strategy from a mapping: the longest name that fits a parameter decides, and all others keep the function."""
    parts = {_checked_name(name): _part(name, value) for name, value in given.items()}
    return Strategy(
        fill=FillByName(tuple((name, part.fill) for name, part in parts.items())),
        keeps_function=all(part.keeps_function for part in parts.values()),
        names=tuple(parts),
    )


@dataclass(frozen=True)
class FillByName:
    """A fill for each of some parameters, by name; `keep_function` for the others.

    Attributes:
      fills: pairs of a name (``"kernel"``) or the end of a path (``"conv1/kernel"``), and the fill. The longest that
        fits a parameter decides.
    """

    fills: tuple[tuple[str, Fill], ...] = field(default=())

    def __call__(self, entries: NewEntries) -> object:
        """The new entries of one parameter, by the fill with the longest name that fits it."""
        fitting = [(len(name), i) for i, (name, _) in enumerate(self.fills) if _ends(entries.path, name)]
        return (self.fills[max(fitting)[1]][1] if fitting else keep_function)(entries)


def _ends(path: Path, name: str) -> bool:
    wanted = tuple(name.split("/"))
    return path[-len(wanted) :] == wanted


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise PlanError(f"new= as a mapping takes names of parameters, such as 'kernel'; found {name!r:.80}.")
    return name


def _part(name: object, value: object) -> Strategy:
    """The strategy for one parameter."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = as_number(value)
        if number is None:
            raise PlanError(f"new= gives {name!r} {shown(value)}, which is a number that no array can hold.")
        return Strategy(Constant(float(number)))
    part = strategy_of(value)
    if part.copies or (part.finish and part is not _KEEP) or isinstance(part.fill, FillByName):
        raise PlanError(
            f"new= gives {name!r} {value!r:.80}, which concerns a neuron as a whole and not one parameter. Single "
            "parameters may be 'default', 'zeros', 'init', a number, or a function of nas.NewEntries."
        )
    return part
