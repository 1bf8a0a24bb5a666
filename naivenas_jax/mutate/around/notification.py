"""Tell the functions that ``on_change=`` names what has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.mutate.result.mutation import Mutation


@dataclass(frozen=True)
class SizeChange:
    """What happened to one vertex, or to one inner axis.

    Attributes:
      name: of the vertex or axis.
      out: what became of its neurons.
      inputs: for a vertex what became of the neurons that it reads, by the names of the vertices it reads now.
      mutation: the whole change.
    """

    name: str
    out: AxisPlan
    inputs: Mapping[str, AxisPlan]
    mutation: Mutation

    @property
    def changed(self) -> bool:
        """Whether any neuron was dropped, added or moved."""
        return self.out.changed or any(axis.changed for axis in self.inputs.values())

    def __str__(self) -> str:
        reads = "".join(f"; reads {name}: {axis!r}" for name, axis in self.inputs.items() if axis.changed)
        return f"{self.name}: {self.out!r}{reads}"


#: Functions of a `SizeChange`, by the name of a vertex or inner axis.
OnVertex: TypeAlias = Mapping[str, Callable[[SizeChange], object]]
#: What ``on_change=`` may be.
OnChange: TypeAlias = Callable[[Mutation], object] | OnVertex | Sequence[Callable[[Mutation], object] | OnVertex] | None


def notify(mutation: Mutation, on_change: OnChange) -> None:
    """Call the functions that ``on_change=`` names; those of a vertex or axis only if it has changed.

    Raises:
      RequestError: if ``on_change`` is something else.
      UnknownNameError: if it names a vertex or axis that neither graph has.
    """
    if on_change is None:
        return
    for each in on_change if isinstance(on_change, Sequence) else (on_change,):
        if isinstance(each, Mapping):
            for name, callback in each.items():
                change = _change(mutation, name)
                if change.changed:
                    callback(change)
        elif callable(each):
            each(mutation)
        else:
            raise RequestError(
                "on_change= takes a function of the mutation, a mapping from names to functions of a SizeChange, or "
                f"several of these; found {each!r:.80}."
            )


def _change(mutation: Mutation, name: str) -> SizeChange:
    axes, graph = mutation.plan.axes, mutation.graph
    if name not in axes:
        if name in mutation.before.ties.axes:  # it was removed
            return SizeChange(name, AxisPlan.of(mutation.before.ties.size(name), []), {}, mutation)
        raise UnknownNameError(f"on_change: {unknown_name(name, axes)}")
    reads = graph.inputs_of(name) if name in graph else ()
    return SizeChange(name, axes[name], {source: axes[source] for source in reads}, mutation)
