"""What is called after every change: for logs, for validation, for anything.

``on_change=`` of every verb takes

- a function of the `Mutation`, for the network as a whole;
- a mapping ``{name: function of a SizeChange}``, for vertices and inner axes; each is called only if the neurons that
  its vertex reads or makes have changed;
- or a sequence of these.

They are called when the new network is complete and before the verb returns. If one raises, the verb raises and there
is no new network; the old one is untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.errors import RequestError, UnknownNameError
from naivenas_jax.graph.dag import unknown_name
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.transfer.variables import check_variables

logger = logging.getLogger("naivenas_jax")


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
        """Whether any neuron is another one."""
        return self.out.changed or any(axis.changed for axis in self.inputs.values())

    def __str__(self) -> str:
        reads = "".join(f"; reads {name}: {axis!r}" for name, axis in self.inputs.items() if axis.changed)
        return f"{self.name}: {self.out!r}{reads}"


OnVertex = Mapping[str, Callable[[SizeChange], Any]]
OnChange = Callable[[Mutation], Any] | OnVertex | Sequence[Callable[[Mutation], Any] | OnVertex] | None


def log(level: int = logging.INFO) -> Callable[[Mutation | SizeChange], None]:
    """For ``on_change=``: logs what changed to the logger "naivenas_jax", one line per axis.

    Args:
      level: of `logging`.

    >>> on_change = log(logging.DEBUG)                  # for the whole network
    >>> on_change = {"conv1": log(), "conv2": log()}    # for two vertices
    """

    def logged(change: Mutation | SizeChange) -> None:
        lines = str(change.plan) if isinstance(change, Mutation) else str(change)
        for line in lines.splitlines():
            logger.log(level, "%s", line)

    return logged


def check(*inputs: Any, tolerance: float | None = None, **kwargs: Any) -> Callable[[Mutation], None]:
    """For ``on_change=``: validates the new network before the verb returns it.

    Its variables must have the shapes that the graph says. If inputs are given, it is computed on them and compared
    with the old network as by `Mutation.check`.

    Args:
      *inputs: arrays for the graph before the change.
      tolerance, **kwargs: as for `Mutation.check`.

    Raises (when called):
      VariablesError, OracleError: if it does not hold.
    """

    def checked(mutation: Mutation) -> None:
        ties = mutation.graph.ties
        check_variables(ties.leaves, ties.sizes, mutation.variables)
        if inputs:
            mutation.check(*inputs, tolerance=tolerance, **kwargs)

    return checked


def notify(mutation: Mutation, on_change: OnChange) -> None:
    """Call what ``on_change=`` stands for."""
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
