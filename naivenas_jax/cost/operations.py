"""How many operations a network takes, and how many bytes its contractions return, as counts of its sizes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from weakref import WeakKeyDictionary

import jax
import numpy as np

from naivenas_jax.cost.contractions import Branches, PlacedContraction, chosen, contractions, mapped
from naivenas_jax.cost.parts import Owners, parts, under
from naivenas_jax.cost.vector_sizes import VectorSizes, traced
from naivenas_jax.errors import BudgetError
from naivenas_jax.graph.given_inputs import checked_arrays
from naivenas_jax.graph.graph import Graph
from naivenas_jax.jaxpr.interpret import Atom
from naivenas_jax.sizes.count import Count
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.trace.model.call_arguments import traced_shape
from naivenas_jax.trace.program.value import Value
from naivenas_jax.transfer.variables import check_network, flat
from naivenas_jax.typing import Array, PyTree, Shape, Variables


class Operation(NamedTuple):
    """One contraction, counted.

    Attributes:
      macs: its multiply-accumulates.
      activation_bytes: the bytes that it returns, in all of its runs.
      owners: the paths of the parts that it belongs to.
    """

    macs: Count
    activation_bytes: Count
    owners: Owners


#: So many counts are kept for each graph, the latest.
_KEPT = 8
_COUNTS: WeakKeyDictionary[Graph, tuple[Ties, dict[Hashable, Operations]]] = WeakKeyDictionary()

Steps = tuple[Operation | Branches[Operation], ...]


@dataclass(frozen=True, eq=False)
class Operations:
    """The contractions of a network, or of a part of it.

    Attributes:
      steps: in order.
      now: the present sizes of the graph's axes.
    """

    steps: Steps
    now: Mapping[str, int]

    @cached_property
    def each(self) -> list[Operation]:
        """The operations that count: of branches the ones with most multiply-accumulates at present."""
        return list(chosen(self.steps, self._largest))

    def _largest(self, ways: list[list[Operation]]) -> list[Operation]:
        return max(ways, key=lambda way: Count.total(one.macs for one in way).at(self.now))

    @property
    def macs(self) -> Count:
        """Multiply-accumulates."""
        return Count.total(one.macs for one in self.each)

    @property
    def activation_bytes(self) -> Count:
        """The bytes that contractions return, all runs of a loop together."""
        return Count.total(one.activation_bytes for one in self.each)

    @property
    def parts(self) -> list[str]:
        """All parts that have operations."""
        return parts(path for one in self.each for path in one.owners)

    def of(self, part: str) -> Operations:
        """The operations of a part: a vertex, or a path of modules."""
        return Operations(_of_part(part, self.steps), self.now)


def _of_part(part: str, steps: Steps) -> Steps:
    """The steps of a part, within the same branches."""
    return tuple(
        Branches(tuple(_of_part(part, way) for way in step.ways)) if isinstance(step, Branches) else step
        for step in steps
        if isinstance(step, Branches) or under(part, step.owners)
    )


def operations(graph: Graph, variables: Variables, inputs: Sequence[Array | Shape], **kwargs: PyTree) -> Operations:
    """Counts for one evaluation on these inputs.

    A multiply-accumulate is one product of an entry of one operand with one of the other, in a matrix product or a
    convolution; what else a network does is not counted. A loop whose length is known counts as often as it runs, one
    of unknown length once, of branches the largest.

    Args:
      graph: the network.
      variables: arrays or shapes.
      inputs: arrays or shapes, one per input of the graph.
      **kwargs: keyword arguments of ``graph.apply``.

    Raises:
      BudgetError: if the sizes of a contraction cannot be told from those of the variables.
    """
    check_network(graph, variables)
    known, key = _known(graph), None if kwargs else _key(variables, checked_arrays(graph, tuple(inputs)))
    if key in known:
        return known[key]
    analysed, sizes = traced(graph, variables, inputs, **kwargs)
    steps = mapped(contractions(analysed.frame), lambda one: _operation(one, sizes))
    found = Operations(tuple(steps), graph.ties.sizes)
    if key is not None:
        known[key] = found
        if len(known) > _KEPT:
            del known[next(iter(known))]
    return found


def are_counted(graph: Graph, variables: Variables, inputs: Sequence[Shape]) -> bool:
    """Whether the operations of an evaluation on inputs of these shapes are known, so that it has been traced before.

    Args:
      graph: the network.
      variables: arrays or shapes.
      inputs: one per input of the graph.
    """
    return _key(variables, inputs) in _known(graph)


def _known(graph: Graph) -> dict[Hashable, Operations]:
    """The counts of a graph, and of equal ones, by shapes."""
    ties, found = _COUNTS.get(graph, (None, {}))
    if ties is not graph.ties:  # layers have been registered since
        found = {}
        _COUNTS[graph] = graph.ties, found
    return found


def _key(variables: Variables, inputs: Sequence[Array | Shape]) -> Hashable:
    """What counts depend on besides the graph."""
    held = tuple((path, _shape_of(array)) for path, array in flat(variables).items())
    return held, tuple(map(_shape_of, inputs)), jax.dtypes.canonicalize_dtype(np.float64)


def _shape_of(array: PyTree) -> Hashable:
    shape = traced_shape(array)
    return shape.shape, shape.dtype


def _operation(one: PlacedContraction, sizes: VectorSizes) -> Operation:
    """A contraction, counted as often as it runs."""
    eqn, made, (left, right) = one.eqn, one.eqn.outvars[0], one.eqn.invars

    def over(atom: Atom, value: Value, dims: Sequence[int]) -> Count:
        shape = atom.aval.shape
        try:
            return math.prod((sizes.of(value, d, shape[d]) for d in dims), start=Count.constant(1))
        except BudgetError as error:
            raise BudgetError(
                f"The operations of {eqn.primitive.name} of shapes {left.aval.shape} and {right.aval.shape} "
                f"cannot be counted: {error}. Set the budget on another count (max_params=), or fix that axis."
            ) from error

    returned = over(made, one.frame.read(made), range(len(made.aval.shape)))
    if eqn.primitive.name == "dot_general":
        contracted = over(left, one.frame.operand(eqn, 0), eqn.params["dimension_numbers"][0][0])
    else:
        outer = eqn.params["dimension_numbers"].rhs_spec[0]
        contracted = over(right, one.frame.operand(eqn, 1), [d for d in range(len(right.aval.shape)) if d != outer])
    itemsize = np.dtype(made.aval.dtype).itemsize
    layers = (sizes.row(sizes.analysed.rows[each]) for each in one.layers)
    times = math.prod(layers, start=Count.constant(one.times))
    return Operation(returned * contracted * times, returned * itemsize * times, one.owners)
