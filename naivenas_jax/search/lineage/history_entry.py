"""What a history says of one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import as_flag, as_items, as_number, as_whole, require_mapping, shown
from naivenas_jax.errors import PlanError, RequestError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import is_unnamed
from naivenas_jax.search.parents import Parent, parent_of
from naivenas_jax.transfer.variables import parameter_count
from naivenas_jax.typing import Variables

#: What a user notes of a network: a measure, or a word.
Value: TypeAlias = bool | int | float | str | None
#: What sizes and edges of a mutation are told of at the most.
_MOST = 4


@dataclass(frozen=True)
class HistoryEntry:
    """A network of a `History`: where it comes from, and what is known of it. It holds no arrays of the network.

    Attributes:
      name: of the network, in its history.
      parents: the names of the networks that it was made of: none for one that a search starts from, two for a
        crossover. The plan starts from the first.
      kind: what made it: the name of a verb, the kind of a random mutation, "crossover"; "start" without parents.
      change: what was done, in words.
      sizes: the size of each handle.
      parameters: how many there are; None where only the graph was given.
      values: what the user noted: measures, or words.
      notes: those of the mutation.
      plan: where each of its neurons comes from in the first parent; without parents it changes nothing.
      network: the graph and its variables, if the history was asked to keep them. Not part of equality nor of JSON.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> history = nas.History().add("first", nas.Graph(x, nas.layer("out", nn.Dense(2), x)), values={"loss": 0.5})
    >>> history["first"].kind, history["first"].sizes, history["first"].values
    ('start', {'x': 3, 'out': 2}, {'loss': 0.5})
    """

    name: str
    parents: tuple[str, ...]
    kind: str
    change: str
    sizes: Mapping[str, int]
    parameters: int | None
    values: Mapping[str, Value]
    notes: tuple[str, ...]
    plan: Plan = field(repr=False)
    network: tuple[Graph, Variables] | None = field(default=None, repr=False, compare=False)

    def __hash__(self) -> int:
        return hash((self.name, self.parents, self.change))


def entry_of(name: str, network: Parent | Graph, parents: tuple[str, ...], values: object, keep: bool) -> HistoryEntry:
    """What a history says of a network, as it is given.

    Args:
      name: of the network.
      network: a mutation, one with its trained variables, a graph with its variables, or a graph.
      parents: names of the networks that it comes from.
      values: what the user notes of it, by name.
      keep: whether the entry holds the network.

    Raises:
      PlanError: if ``network`` is no network; if a mutation has no parents, or a network that is none has some.
      RequestError: if the values are no numbers or words by name.
    """
    given = None if isinstance(network, Graph) else parent_of(network, "network")
    graph, variables = (network, None) if isinstance(network, Graph) else tuple(given or ())
    if isinstance(given, Mutation) != bool(parents):
        raise PlanError(
            f"{name!r} is a mutation, and parents= does not say of which network: name an entry of the history."
            if not parents
            else f"{name!r} comes from {', '.join(map(repr, parents))}, and how is not known: pass the mutation that a "
            "verb returned, or a pair of it and the variables that were trained since, and not a graph."
        )
    noted = values_of(values)
    if keep and variables is None:
        raise PlanError(f"keep=True holds a graph and its variables; of {name!r} there is a graph only.")
    return HistoryEntry(
        name=name,
        parents=parents,
        kind=(given.kind or "mutation") if isinstance(given, Mutation) else "start",
        change=told(given) if isinstance(given, Mutation) else "start",
        sizes=named_sizes(graph),
        parameters=None if variables is None else parameter_count(graph.ties, variables),
        values=noted,
        notes=given.notes if isinstance(given, Mutation) else (),
        plan=given.plan if isinstance(given, Mutation) else Plan.identity(graph.ties),
        network=(graph, variables) if keep else None,
    )


def named_sizes(graph: Graph) -> dict[str, int]:
    """The size of each axis that has a name."""
    return {axis: size for axis, size in graph.ties.sizes.items() if not is_unnamed(axis)}


def values_of(given: object) -> dict[str, Value]:
    """What a user notes of a network, as Python's own values.

    Raises:
      RequestError: names the value that is neither a number nor a word.
    """
    if given is None:
        return {}
    require_mapping(given, "values", RequestError)
    return {_word(key): _value(key, value) for key, value in given.items()}  # type: ignore[attr-defined]  # a mapping


def _word(key: object) -> str:
    if not isinstance(key, str) or not key:
        raise RequestError(f"values must be a dict of numbers or words by name, found the key {shown(key)}.")
    return key


def _value(key: object, value: object) -> Value:
    if value is None or isinstance(value, str):
        return value
    flag, number = as_flag(value), as_number(value)
    if flag is None and number is None:
        raise RequestError(
            f"values[{key!r}] must be one number, a word, True, False or None, so that it can be written and compared; "
            f"found {type(value).__name__}: {shown(value)}."
        )
    return number if flag is None else flag


def name_of(given: object, argument: str) -> str:
    """The name of a network; a whole number is one, too.

    Raises:
      RequestError: if it is neither.
    """
    whole = as_whole(given)
    if isinstance(given, str) and given:
        return given
    if whole is None:
        raise RequestError(
            f"{argument} must be a word or a whole number; found {type(given).__name__}: {shown(given)}."
        )
    return str(whole)


def names_of(given: object, argument: str) -> tuple[str, ...]:
    """Several names of networks, or one.

    Raises:
      RequestError: if they are none.
    """
    items = None if as_whole(given) is not None else as_items(given)
    return tuple(name_of(each, argument) for each in ((given,) if items is None else items))


def told(mutation: Mutation) -> str:
    """What a mutation did, in words: its own, if it says so in its first note, else what changed in the network."""
    kind = mutation.kind or "mutation"
    if mutation.notes and mutation.notes[0].startswith(f"{kind}: "):
        return mutation.notes[0]
    graphs = (mutation.before, mutation.graph)
    before, after = ({v.name: tuple(each.name for each in v.inputs) for v in graph.vertices} for graph in graphs)
    renamed = mutation.plan.renamed
    parts = [f"{name!r} is new" for name in after if name not in before and name not in renamed]
    parts += [f"{name!r} is gone" for name in before if name not in after and name not in renamed.values()]
    parts += [f"{old!r} is {new!r} now" for new, old in renamed.items() if not is_unnamed(new)]
    changed = _distinct(mutation)
    parts += [
        f"{name!r} {axis.before} -> {axis.after}"
        for name, axis in changed.items()
        if axis.before not in (0, axis.after)
    ]
    parts += [
        f"{name!r} reads {', '.join(map(repr, reads))}"
        for name, reads in after.items()
        if name in before and len(before[name]) != len(reads)
    ]
    parts = parts or [f"other neurons in {name!r}" for name in changed]
    if len(parts) > _MOST + 1:
        parts = [*parts[:_MOST], f"and {len(parts) - _MOST} more"]
    return f"{kind}: {', '.join(parts) or 'no sizes change'}"


def _distinct(mutation: Mutation) -> dict[str, AxisPlan]:
    """The axes that changed and have names; of those that hold the same neurons the first."""
    rows, found = mutation.graph.ties.axes, dict[object, str]()
    for name in mutation.plan.named:
        found.setdefault(rows.get(name, name), name)
    return {name: mutation.plan.axes[name] for name in found.values()}
