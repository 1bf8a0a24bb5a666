"""Which networks of a search came from which: `History`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

from rich.table import Table

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import require_flag, require_mapping, shown
from naivenas_jax.errors import DuplicateNameError, PlanError, RequestError, UnknownNameError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.search.lineage import family_tree, history_json
from naivenas_jax.search.lineage.history_entry import (
    HistoryEntry,
    Value,
    entry_of,
    name_of,
    named_sizes,
    names_of,
    values_of,
)
from naivenas_jax.search.parents import Parent
from naivenas_jax.typing import Variables
from naivenas_jax.views.as_text import as_text
from naivenas_jax.views.view import Picture, View, view
from naivenas_jax.views.viewable import Viewable


@dataclass(frozen=True)
class History(Viewable):
    """The networks of a search, and which came from which by what mutation.

    A value: `add` returns another history. It holds plans, sizes and words, and arrays only if it is asked to. It
    prints as a table that shows the tree; notebooks draw it. Iterating gives the entries in the order in which they
    were added, ``history[name]`` one of them.

    Attributes:
      entries: by name, each behind its parents.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> history = nas.History().add("start", (graph, variables), values={"loss": 0.9})
    >>> narrow = nas.delta_nout(graph, variables, {"hidden": -3})
    >>> history = history.add("narrow", narrow, "start", values={"loss": 0.7})
    >>> narrower = nas.delta_nout(*narrow, {"hidden": -1})
    >>> history = history.add("narrower", narrower, "narrow")
    >>> print(history)
    ┏━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━┳━━━━━━┓
    ┃ network    ┃ change                      ┃ parameters ┃ loss ┃
    ┡━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━╇━━━━━━┩
    │ ● start    │ start                       │         50 │  0.9 │
    │ ○ narrow   │ delta_nout: 'hidden' 8 -> 5 │         32 │  0.7 │
    │ ○ narrower │ delta_nout: 'hidden' 5 -> 4 │         26 │      │
    └────────────┴─────────────────────────────┴────────────┴──────┘
    >>> history.plan("start", "narrower").axis("hidden").after
    4
    """

    entries: Mapping[str, HistoryEntry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_mapping(self.entries, "entries", RequestError)

    def add(
        self,
        name: str | int,
        network: Parent | Graph,
        parents: str | int | Iterable[str | int] = (),
        *,
        values: Mapping[str, Value] | None = None,
        keep: bool = False,
    ) -> History:
        """The history with one more network.

        Args:
          name: a word or a number that no other network has.
          network: what a verb, `random_mutation` or `crossover` returned, or a pair of this and the variables that were
            trained since. A network without parents is given by its graph, or a pair of graph and variables.
          parents: the names of the networks that it came from: one; the first and the second of a crossover.
          values: what to note of it: numbers (as Python's, numpy's or jax's) and words, by name.
          keep: whether the history holds the graph and its variables as well, for `network`.

        Returns:
          Another history.

        Raises:
          DuplicateNameError: if there is a network of this name.
          UnknownNameError: if there is none of the name of a parent.
          PlanError: if ``network`` is no network, or no mutation of the first parent, or no crossover with the second.
          RequestError: if a name or a value can be none.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> history = nas.History().add(0, nas.Graph(x, nas.layer("out", nn.Dense(2), x)))
        >>> len(history), "0" in history, history[0].parameters
        (1, True, None)
        """
        own = name_of(name, "name")
        if own in self.entries:
            raise DuplicateNameError(f"name: the history has a network {own!r} already.")
        known = tuple(self[each].name for each in names_of(parents, "parents"))
        entry = entry_of(own, network, known, values, require_flag(keep, "keep", PlanError))
        if known:
            self._check_origin(network, known)
        return History({**self.entries, own: entry})

    def _check_origin(self, network: object, parents: tuple[str, ...]) -> None:
        """Raise unless a mutation starts from the network that its first parent is."""
        mutation = network if isinstance(network, Mutation) else network[0]  # type: ignore[index]  # a pair
        begun, first = named_sizes(mutation.before), self.entries[parents[0]]
        if begun != first.sizes:
            other = next(axis for axis in {**begun, **first.sizes} if begun.get(axis) != first.sizes.get(axis))
            raise PlanError(
                f"parents: the mutation does not start from {parents[0]!r}: there {other!r} has "
                f"{first.sizes.get(other, 'no')} neurons, before the mutation {begun.get(other, 'none')}. Name the "
                "network that was changed; the first one of a crossover comes first."
            )
        if mutation.second is not None and len(parents) > 1:
            sizes, axes = self.entries[parents[1]].sizes, mutation.second.plans[1].axes
            if any(axes[name].before != size for name, size in sizes.items() if name in axes):
                raise PlanError(
                    f"parents: the second network of the crossover is not {parents[1]!r}: its sizes differ."
                )

    def with_values(self, name: str | int, values: Mapping[str, Value]) -> History:
        """The history with more noted of one network.

        Args:
          name: of the network.
          values: numbers and words by name; they take the place of those of the same names.

        Returns:
          Another history.

        Raises:
          UnknownNameError: if there is no such network.
          RequestError: if a value is neither a number nor a word.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> history = nas.History().add("a", nas.Graph(x, nas.layer("out", nn.Dense(2), x)))
        >>> dict(history.with_values("a", {"accuracy": 0.5})["a"].values)
        {'accuracy': 0.5}
        """
        entry = self[name]
        return History({**self.entries, entry.name: replace(entry, values={**entry.values, **values_of(values)})})

    def path(self, name: str | int) -> tuple[str, ...]:
        """The way that the plans of a network went: its ancestors along first parents.

        Args:
          name: of the network.

        Returns:
          Their names, from the oldest to the network itself.

        Raises:
          UnknownNameError: if there is no such network.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> nas.History().add("a", nas.Graph(x, nas.layer("out", nn.Dense(2), x))).path("a")
        ('a',)
        """
        found = [self[name]]
        while found[-1].parents:
            found.append(self.entries[found[-1].parents[0]])
        return tuple(entry.name for entry in reversed(found))

    def lineage(self, *names: str | int) -> History:
        """The history of some networks alone: they and all of their ancestors.

        Args:
          *names: of the networks.

        Returns:
          Another history, to be printed and drawn.

        Raises:
          UnknownNameError: if there is no such network.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), x))
        >>> len(nas.History().add("a", graph).add("b", graph).lineage("b"))
        1
        """
        wanted, waiting = set[str](), [self[name].name for name in names]
        while waiting:
            name = waiting.pop()
            if name not in wanted:
                wanted.add(name)
                waiting += self.entries[name].parents
        return History({name: entry for name, entry in self.entries.items() if name in wanted})

    def plan(self, start: str | int, end: str | int) -> Plan:
        """Where each neuron of a network comes from in one of its ancestors: the plans in between, as one.

        Args:
          start: the ancestor, along first parents: a crossover is a mutation of its first parent.
          end: the network.

        Returns:
          A plan, by which an optimizer state, scores or averages of the ancestor are followed to the network.

        Raises:
          UnknownNameError: if there is no such network.
          PlanError: if ``start`` is no such ancestor, or the plans cannot be composed.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> history = nas.History().add("a", nas.Graph(x, nas.layer("out", nn.Dense(2), x)))
        >>> history.plan("a", "a").changed
        {}
        """
        first, way = self[start], self.path(end)
        if first.name not in way:
            aside = first.name in self.lineage(end)
            raise PlanError(
                f"start={first.name!r} is no ancestor of {way[-1]!r} along first parents, which are {', '.join(way)}"
                + (": it is one through the second parent of a crossover, whose neurons are new in the plan" * aside)
                + "."
            )
        plans = [self.entries[name].plan for name in way[way.index(first.name) + 1 :]]
        return reduce(lambda earlier, later: later @ earlier, plans) if plans else _standing(first.plan)

    def network(self, name: str | int) -> tuple[Graph, Variables]:
        """The graph and the variables of a network that was added with ``keep=True``.

        Args:
          name: of the network.

        Returns:
          A graph and its variables, to go on from.

        Raises:
          UnknownNameError: if there is no such network.
          PlanError: if the history does not hold it.

        >>> import flax.linen as nn, jax, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), x))
        >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
        >>> nas.History().add("a", (graph, variables), keep=True).network("a")[0] == graph
        True
        """
        found = self[name].network
        if found is None:
            raise PlanError(f"The history does not hold the arrays of {self[name].name!r}: add it with keep=True.")
        return found

    def children(self, name: str | int) -> tuple[str, ...]:
        """The networks that a network is a parent of, the first or the second.

        Args:
          name: of the network.

        Returns:
          Their names, in the order in which they were added.

        Raises:
          UnknownNameError: if there is no such network.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> nas.History().add("a", nas.Graph(x, nas.layer("out", nn.Dense(2), x))).children("a")
        ()
        """
        own = self[name].name
        return tuple(entry.name for entry in self if own in entry.parents)

    def to_json(self) -> str:
        """The history as JSON text, plans included, arrays not.

        Returns:
          Text that `from_json` reads.

        >>> import naivenas_jax as nas
        >>> nas.History.from_json(nas.History().to_json())
        History(0 networks)
        """
        return history_json.to_json(self.entries)

    @classmethod
    def from_json(cls, text: str) -> History:
        """Read what `to_json` wrote.

        Args:
          text: JSON.

        Returns:
          A history that equals the one that was written.

        Raises:
          PlanError: if the text is none that ``to_json`` has written, or what it says contradicts itself.

        >>> import naivenas_jax as nas
        >>> len(nas.History.from_json('{"format": "naivenas_jax.History/1", "entries": []}'))
        0
        """
        return cls(history_json.from_json(text))

    def svg(self) -> str:
        """A picture: a row for each network under its first parent; dashed lines come from second parents.

        Returns:
          The text of an SVG image.

        >>> import naivenas_jax as nas
        >>> nas.History().svg()[:4]
        '<svg'
        """
        return family_tree.svg(self.entries)

    _repr_svg_ = svg

    def mermaid(self) -> str:
        """The history as a Mermaid flow chart, which notebooks, GitHub and most documentation tools draw.

        Returns:
          The text of the chart: a box for each network with its values, an arrow for each mutation with what it did,
          and a dotted one from each second parent.

        >>> import flax.linen as nn, naivenas_jax as nas
        >>> x = nas.input_vertex("x", 3)
        >>> print(nas.History().add("a", nas.Graph(x, nas.layer("out", nn.Dense(2), x))).mermaid())
        flowchart TD
            n0["a"]
        """
        return family_tree.mermaid(self.entries)

    def __rich__(self) -> Table:
        return family_tree.table(self.entries)

    def __str__(self) -> str:
        return as_text(self.__rich__())

    def __repr__(self) -> str:
        return f"History({len(self.entries)} networks)"

    def __hash__(self) -> int:
        return hash(tuple(self.entries.values()))

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[HistoryEntry]:
        return iter(self.entries.values())

    def __contains__(self, name: object) -> bool:
        return (str(name) if isinstance(name, int) else name) in self.entries

    def __getitem__(self, name: str | int) -> HistoryEntry:
        own = name_of(name, "name")
        if own not in self.entries:
            near = ", ".join(map(repr, difflib.get_close_matches(own, self.entries, cutoff=0.0)))
            hint = f"Did you mean: {near}?" if near else "It is empty."
            raise UnknownNameError(f"The history has no network {shown(own)}. {hint}")
        return self.entries[own]


def _standing(plan: Plan) -> Plan:
    """The plan by which a network stays as it is, after another plan."""
    axes = {name: AxisPlan.identity(axis.after) for name, axis in plan.axes.items()}
    leaves = {path: tuple(axis and _now(axis, axes) for axis in dims) for path, dims in plan.leaves.items()}
    on = {axis for dims in leaves.values() for axis in dims}
    return Plan({name: axis for name, axis in axes.items() if _now(name, axes) == name or name in on}, leaves)


def _now(axis: str, known: Mapping[str, AxisPlan]) -> str | None:
    """The axis that a dimension lies on after a plan in which it has been on others (``first => second``)."""
    last = axis.rsplit(" => ", 1)[-1]
    return last if last in known else None if last == "fixed" else axis


@view.register
def history_view(history: History) -> View:
    """The tree as a picture."""
    return (Picture(history.svg),)
