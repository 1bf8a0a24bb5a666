"""Interpret a jaxpr and find out which neurons are tied: what all rules share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from naivenas_jax.graph.model_vertex import Place
from naivenas_jax.jaxpr.interpret import CALLS, Equation, bind, interpret
from naivenas_jax.jaxpr.primitive_tables import FOLDED, FROZEN, register
from naivenas_jax.paths import Path
from naivenas_jax.sizes.condition import size
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.constants import with_entries
from naivenas_jax.trace.program.frame import Frame, NamedValue
from naivenas_jax.trace.program.lookups import LOOKING, looked_up, wraps_around
from naivenas_jax.trace.program.value import (
    LARGEST,
    Dim,
    Known,
    Lookup,
    Origin,
    Value,
    WeightProduct,
    constant,
    together,
)

#: ``rule(analysis, frame, eqn, operands) -> values of the results``
TieRule: TypeAlias = "Callable[[Analysis, Frame, Equation, Sequence[Value]], Sequence[Value]]"

#: What each primitive ties. One that is not in the table fixes the axes of its operands: sound, and visible in the
#: handles.
TIES: dict[str, TieRule] = {}


def ties(*primitives: str) -> Callable[[TieRule], TieRule]:
    """Register what primitives tie."""
    return register(TIES, primitives)


class Rounds(NamedTuple):
    """A stack of layers: what a loop over stacked variables runs along.

    Attributes:
      dim: the layers.
      stacked: the dimensions of variables that they lie on.
      last: those of them that have to be zero for a layer to be the identity; None: no layer can be.
    """

    dim: Vector
    stacked: frozenset[Origin]
    last: frozenset[Origin] | None


@dataclass(frozen=True, eq=False)
class Analysis:
    """What has been found out so far about a whole program; the rules fill it in.

    Attributes:
      tying: the ties.
      roles: the dimensions of variables on which neurons are read.
      indexed: those of them that are read by index.
      makes: the dimensions of variables on which neurons are made.
      products: contractions of two variables, and whether their results have met an activation.
      neutral: the variables that multiply, whose new entries start at 1.
      parts: dimensions that may not become empty.
      drawn: dimensions of variables on which neurons that are selected have a part each, as experts have weights.
      selected: the dimensions among whose neurons some are selected, by the names of their axes.
      places: the values that the model has names for, once for each time that they are computed.
      split: the numbers of keys that a key is split into.
      rounds: the stacks of layers that loops run along, each with what is known of it.
      quiet: set inside a rule for derivatives. Such a rule ties neurons, but what it reads or sums is no part of the
        network.
    """

    tying: Tying = field(default_factory=Tying)
    roles: set[Origin] = field(default_factory=set)
    indexed: set[Origin] = field(default_factory=set)
    makes: set[Origin] = field(default_factory=set)
    products: dict[WeightProduct, bool] = field(default_factory=dict)
    neutral: set[Path] = field(default_factory=set)
    parts: dict[Vector, None] = field(default_factory=dict)
    drawn: set[Origin] = field(default_factory=set)
    selected: dict[str, Vector] = field(default_factory=dict)
    places: dict[Place, list[NamedValue]] = field(default_factory=dict)
    split: set[Vector] = field(default_factory=set)
    rounds: list[Rounds] = field(default_factory=list)
    quiet: bool = False

    def walk(self, closed: ClosedJaxpr, frame: Frame, arguments: Sequence[Value]) -> list[Value]:
        """What is known of the results of a jaxpr; fills in its frame."""

        def equation(eqn: Equation, given: list[Value]) -> list[Value]:
            constants = any(value.constant for value in given)
            operands = with_entries(self.tying.new, frame, eqn, given) if constants else given
            results = TIES.get(eqn.primitive.name, unknown)(self, frame, eqn, operands)
            if not all(value.weight for value in results):
                for operand in operands:
                    self.joins(operand)
            looks = len(results) == 1 and any(value.lookup for value in operands)
            if eqn.primitive.name not in CALLS:
                results = [replace(value, stored=False) if value.stored else value for value in results]
            if looks and (lookup := looked_up(frame.notes, eqn, operands, eqn.invars)):
                results = [replace(results[0], lookup=lookup)]
            if all(value.constant for value in operands):
                results = [replace(value, constant=True) for value in results]
            self._lose_positions(eqn, operands, results)
            return [_folded(eqn, number, operands, value) for number, value in enumerate(results)]

        return interpret(closed, arguments, equation, lambda value, _: constant(value), frame.values)

    def inner(self, frame: Frame, eqn: Equation, closed: ClosedJaxpr, arguments: Sequence[Value]) -> list[Value]:
        """Walk a jaxpr inside an equation."""
        return self.walk(closed, frame.enter(eqn, closed.jaxpr), arguments)

    def content(self, value: Value) -> np.ndarray | None:
        """The entries of an array, if they are known. The sizes that they were computed with are then fixed."""
        if value.known is None:
            return None
        todo, seen = [value], set()
        while todo:
            one = todo.pop()
            self.fix_all(one, "positions of neurons are computed from it")
            if one.known is not None and id(one.known) not in seen:
                seen.add(id(one.known))
                todo += one.known.sources
        return value.known.array

    def new(self, size: int) -> Dim:
        """Fresh neurons for a dimension along which nothing is known to differ.

        One neuron is a neuron until its dimension is broadcast or squeezed, which fixes it; see `fix_single`.
        """
        return self.tying.blocks.new(size) if size else None

    def keep_some(self, dim: Dim) -> None:
        """The neurons of this dimension may not all go: what is computed over them is not defined without any."""
        if dim is not None:
            self.parts.setdefault(dim)

    def fix_single(self, dim: Dim, name: str) -> None:
        """A dimension of size one is broadcast or squeezed: its neuron has to stay the only one."""
        self.fix(dim, f"{name} takes a single neuron of it")

    def fix(self, dim: Dim, reason: str) -> None:
        """No neuron of a dimension may be dropped or added."""
        if dim is not None:
            self.tying.fix(dim, reason)

    def fix_all(self, value: Value, reason: str) -> None:
        """No neuron of any dimension may be dropped or added."""
        for dim in value.dims:
            self.fix(dim, reason)

    def looks_up(self, dim: Dim, lookup: Lookup | None) -> bool:
        """Whether it is known what positions on a dimension are, so that neurons there can change.

        Neurons whose positions come from outside keep them. Others are those that were selected among, one by one.
        """
        if lookup is None:
            return False
        if dim is None or not wraps_around(lookup, dim):
            self.fix_positions(lookup, "what is looked up by it is of fixed size")
            return False
        if lookup.over is None:
            self.tying.index(dim)
        else:
            self.tie(dim, lookup.over, "it is selected among an axis of fixed size")
        return True

    def fix_added(self, value: Value, read: Dim) -> None:
        """A weight is contracted over ``read``, where a new neuron needs a weight of 0. What constants add is no 0."""
        for dim in (*value.added, read) if value.added else ():
            self.fix(dim, "a constant is added to a weight of it, of which a stored 0 is then no weight of 0")

    def selects(self, dim: Dim, count: int, name: str) -> Lookup | None:
        """Some neurons of a dimension are selected by what they are: all take part, and there must be as many."""
        if dim is None:
            return None
        if count == len(dim) > 1:
            self.fix(dim, f"{name} selects along it, and orders all of it")
            return None
        self.couple(dim, f"{name} selects among its neurons")
        axis = f"~selected{len(self.selected)}"
        self.selected[axis] = dim
        self.tying.require((size(axis) >= count).because(f"{name} selects as many"), {axis: dim})
        return Lookup(dim, by=name)

    def fix_positions(self, lookup: Lookup | None, reason: str) -> None:
        """Positions among neurons are used for something else than looking up, so that none may change."""
        for one in (lookup, *(lookup.columns if lookup else ())):
            if one is not None:
                self.fix(one.over, f"{one.by} returns a position along it, and {reason}")

    def _lose_positions(self, eqn: Equation, operands: Sequence[Value], results: Sequence[Value]) -> None:
        """Fix the neurons whose positions an equation computes something from that is not understood."""
        name = eqn.primitive.name
        if name in CALLS or name in LOOKING or any(result.lookup for result in results):
            return
        zero = name == "lt" and isinstance(eqn.invars[1], Literal) and not np.any(eqn.invars[1].val)  # is it negative?
        for operand in () if zero else operands:
            self.fix_positions(operand.lookup, f"{name} computes with it")

    def couple(self, dim: Dim, reason: str) -> None:
        """A neuron of the dimension that is zero is not the same as one that is not there."""
        if dim is not None and not self.quiet:
            self.tying.couple(dim, reason)

    def tie(self, a: Dim, b: Dim, reason: str) -> Dim:
        """Tie two dimensions of equal size index by index; one that is fixed fixes the other."""
        if a is None or b is None:
            self.fix(a if b is None else b, reason)
            return None
        self.tying.blocks.tie(a, b)
        return a

    def tie_all(self, a: Value, b: Value, reason: str) -> Value:
        """Tie two values dimension by dimension; returns what is known of an array made of both."""
        dims = tuple(self.tie(x, y, reason) for x, y in zip(a.dims, b.dims, strict=True))
        return together(dims, [a, b])

    def contract(self, left: Value, a: int, right: Value, b: int) -> WeightProduct | None:
        """Dimension ``a`` of one operand is contracted with ``b`` of the other: a weight reads neurons there.

        Where both operands are activations their neurons are coupled. Where both are weights, which of them reads is
        seen later, by the operand that their product meets an activation with.

        Returns:
          The product of two weights; None if it is not one.
        """
        tied = self.tie(left.dims[a], right.dims[b], "it is contracted with an axis of fixed size")
        entries = left.origin(a), right.origin(b)
        for value in (left, right):
            self.fix_added(value, tied)
        if any(one.constant and not other.weight for one, other in ((left, right), (right, left))):
            self.couple(tied, "it is contracted with a constant, of which no entry can be masked")
        if left.weight and right.weight and all(entries):
            product = WeightProduct(*entries, tied)
            self.products.setdefault(product, False)
            return product
        if not (left.weight or right.weight):
            self.couple(tied, "two activations are contracted over it")
        for value, entry in zip((left, right), entries, strict=True):
            self.reads(entry)
            self.joins(value, entry)
            if any(entry & (product.left | product.right) for product in value.products):
                self.couple(tied, "the weight that reads it is summed over it as well")
        return None

    def joins(self, value: Value, entry: frozenset[Origin] = frozenset()) -> None:
        """A weight meets an activation, which makes layers of the variables that it is a product of.

        Args:
          value: the weight; an activation has no products.
          entry: the dimensions of variables that the activation is contracted with.
        """
        for product in value.products:
            if not self.quiet and not self.products.get(product):
                self.products[product] = True
                self.roles.update(product.reader(entry))

    def couple_norms(self) -> None:
        """Couple what is contracted in products that meet no activation: they are numbers that all neurons share."""
        for product, joined in self.products.items():
            if not joined:
                self.couple(product.over, "two variables are contracted over it")

    def reads(self, entry: frozenset[Origin]) -> None:
        """On these dimensions variables read neurons: a weight is contracted over them."""
        if not self.quiet:
            self.roles.update(entry)

    def made(self, entry: frozenset[Origin]) -> None:
        """Along these dimensions a weight that reads neurons, or is looked up, makes others."""
        if not self.quiet:
            self.makes.update(entry)

    def indexes(self, entry: frozenset[Origin]) -> None:
        """Along these dimensions entries of variables are looked up by index."""
        self.reads(entry)
        self.indexed.update(entry)

    def multiplies(self, value: Value) -> None:
        """The variables that a value is made of are factors: 1 changes nothing."""
        if not self.quiet:
            self.neutral.update(value.variables)


def _folded(eqn: Equation, number: int, operands: Sequence[Value], value: Value) -> Value:
    """A result of an equation, with its content if that of all operands is known."""
    aval = eqn.outvars[number].aval
    if len(value.dims) != aval.ndim:
        raise AssertionError(f"The rule of {eqn.primitive} returned {len(value.dims)} dimensions: {eqn}")
    known = [operand.known for operand in operands if operand.known is not None]
    if eqn.primitive.name not in FOLDED or len(known) < len(operands):
        return value
    same = _same_number(eqn, known)
    if same is None and math.prod(aval.shape) > LARGEST:
        return value
    content = Known(lambda: bind(eqn, [one.array for one in known])[number], (*operands, value), same)
    return replace(value, known=content)


def _same_number(eqn: Equation, known: Sequence[Known]) -> Known | None:
    """The number that all entries of a result are equal to, if one number is broadcast."""
    if eqn.primitive.name != "broadcast_in_dim":
        return None
    return known[0] if math.prod(eqn.invars[0].aval.shape) == 1 else known[0].number


def unknown(
    analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value], why: str | None = None
) -> list[Value]:
    """Fix the axes of what a primitive reads: nothing is known of its results."""
    del frame
    name = eqn.primitive.name
    for value in values:
        analysis.fix_all(value, f"it is read by {name}, {why or FROZEN.get(name, 'which is not understood')}")
    return fixed_results(eqn, values)


def fixed_results(eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """Results all of whose dimensions are fixed."""
    weight = all(value.weight for value in values)
    return [Value((None,) * var.aval.ndim, weight=weight) for var in eqn.outvars]
