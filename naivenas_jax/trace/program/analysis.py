"""Walk a jaxpr and find out which neurons are tied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core as jex

from naivenas_jax.graph.model_vertex import Place
from naivenas_jax.paths import Path
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.trace.program.rebind import bind
from naivenas_jax.trace.program.table import FOLDED, FROZEN, TIES
from naivenas_jax.trace.program.value import Dim, Known, Origin, Product, Value, constant, together


@dataclass
class Frame:
    """The values of one evaluation of a jaxpr; a jaxpr that is called twice has two frames."""

    jaxpr: Any = None
    values: dict[Any, Value] = field(default_factory=dict)
    inner: dict[int, list[Frame]] = field(default_factory=dict)
    extra: dict[int, Any] = field(default_factory=dict)
    rules: dict[int, Any] = field(default_factory=dict)
    position: int = 0

    def read(self, atom: Any) -> Value:
        """What is known of an operand; literals are scalars."""
        if isinstance(atom, jex.Literal):
            return constant(atom.val)
        return self.values[atom]


class Named(NamedTuple):
    """A value that has a name: what is known of it, its shape, the frame that it is in, and where it is made there."""

    value: Value
    aval: Any
    frame: Frame
    position: int


@dataclass
class Analysis:
    """What the rules fill in.

    Attributes:
      tying: the ties.
      roles: dimensions of variables that are read, by path and dimension.
      indexed: those of them that are read by index.
      products: contractions of two variables, and whether the result has met an activation.
      neutral: variables that multiply; new entries start at 1.
      quiet: inside a rule for derivatives: it ties, but what it reads or sums says nothing about the network.
      parts: dimensions that may not become empty.
      places: values that have a name, once for each time that they are computed.
    """

    tying: Tying = field(default_factory=Tying)
    roles: set[Origin] = field(default_factory=set)
    indexed: set[Origin] = field(default_factory=set)
    products: dict[Product, bool] = field(default_factory=dict)
    neutral: set[Path] = field(default_factory=set)
    quiet: bool = False
    parts: dict[Vector, None] = field(default_factory=dict)
    places: dict[Place, list[Named]] = field(default_factory=dict)

    def walk(self, jaxpr: Any, frame: Frame, consts: Sequence[Value], arguments: Sequence[Value]) -> list[Value]:
        """Values of the results of a jaxpr."""
        frame.jaxpr = jaxpr
        frame.values.update(zip(jaxpr.constvars, consts, strict=True))
        frame.values.update(zip(jaxpr.invars, arguments, strict=True))
        for position, eqn in enumerate(jaxpr.eqns):
            frame.position = position
            operands = [frame.read(atom) for atom in eqn.invars]
            rule = TIES.get(eqn.primitive.name, unknown)
            results = rule(self, frame, eqn, operands)
            if not all(value.weight for value in results):
                for operand in operands:
                    self.joins(operand)
            for var, value in zip(eqn.outvars, results, strict=True):
                if len(value.dims) != var.aval.ndim:
                    raise AssertionError(f"The rule of {eqn.primitive} returned {len(value.dims)} dimensions: {eqn}")
                frame.values[var] = self._settled(eqn, var, operands, value)
        return [frame.read(atom) for atom in jaxpr.outvars]

    def _settled(self, eqn: Any, var: Any, operands: Sequence[Value], value: Value) -> Value:
        """A result as others see it: known if the operands are."""
        shape = var.aval.shape
        if eqn.primitive.name not in FOLDED or math.prod(shape) > _LARGEST:
            return value
        known = [operand.known for operand in operands]
        if any(one is None for one in known):
            return value
        number = eqn.outvars.index(var)
        compute = lambda: bind(eqn, [one.array for one in known])[number]  # type: ignore[union-attr]  # noqa: E731
        return replace(value, known=Known(compute, (*operands, value)))

    def content(self, value: Value) -> np.ndarray | None:
        """What is in an array, if it is known. The sizes that it was made with are then fixed."""
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

    def inner(self, frame: Frame, jaxpr: Any, consts: Sequence[Value], arguments: Sequence[Value]) -> list[Value]:
        """Walk a jaxpr inside the equation that is at work."""
        child = Frame()
        frame.inner.setdefault(frame.position, []).append(child)
        return self.walk(jaxpr, child, consts, arguments)

    def new(self, size: int) -> Dim:
        """Fresh neurons for a dimension along which nothing is known to differ."""
        return self.tying.new(size) if size > 1 else None

    def keep_some(self, dim: Dim) -> None:
        """The neurons of this dimension may not all go: what is computed over them is not defined without any."""
        if dim is not None:
            self.parts.setdefault(dim)

    def fix_single(self, dim: Dim, name: str) -> None:
        """A single neuron that is used as if it were none of several (broadcast, squeezed) has to stay, alone."""
        self.fix(dim, f"{name} takes a single neuron of it")

    def fix(self, dim: Dim, reason: str) -> None:
        """The neurons of a dimension may not change."""
        if dim is not None:
            self.tying.fix(dim, reason)

    def fix_all(self, value: Value, reason: str) -> None:
        for dim in value.dims:
            self.fix(dim, reason)

    def couple(self, dim: Dim, reason: str) -> None:
        if dim is not None and not self.quiet:
            self.tying.couple(dim, reason)

    def tie(self, a: Dim, b: Dim, reason: str) -> Dim:
        """Tie two dimensions of equal size index by index; one that is fixed fixes the other."""
        if a is None or b is None:
            self.fix(a if b is None else b, reason)
            return None
        self.tying.tie(a, b)
        return a

    def tie_all(self, a: Value, b: Value, reason: str) -> Value:
        """Tie two values dimension by dimension; what they have in common."""
        dims = tuple(self.tie(x, y, reason) for x, y in zip(a.dims, b.dims, strict=True))
        return together(dims, [a, b])

    def contract(self, left: Value, a: int, right: Value, b: int) -> Product | None:
        """Two dimensions are contracted: a weight reads there what the other operand holds.

        Two activations are coupled. Of two variables it shows later which of them reads.
        """
        tied = self.tie(left.dims[a], right.dims[b], "it is contracted with an axis of fixed size")
        if left.weight and right.weight and left.origin(a) and right.origin(b):
            product = Product(left.origin(a), right.origin(b), tied)
            self.products.setdefault(product, False)
            return product
        if not (left.weight or right.weight):
            self.couple(tied, "two activations are contracted over it")
        for value, dim in ((left, a), (right, b)):
            self.reads(value, dim)
            self.joins(value, value.origin(dim))
        return None

    def joins(self, value: Value, entry: frozenset[Origin] = frozenset()) -> None:
        """A weight meets an activation, so that its parts are layers; the activation comes in at ``entry``."""
        for product in value.products:
            if not self.quiet and not self.products.get(product):
                self.products[product] = True
                self.roles |= product.reader(entry)

    def couple_norms(self) -> None:
        """Variables that are contracted with one another, but are no layers, make a number that all neurons share."""
        for product, joined in self.products.items():
            if not joined:
                self.couple(product.over, "two variables are contracted over it")

    def reads(self, value: Value, dim: int) -> None:
        """A weight is contracted over this dimension: there it reads neurons."""
        if not self.quiet:
            self.roles |= value.origin(dim)

    def indexes(self, value: Value, dim: int) -> None:
        """Entries along this dimension are looked up by index."""
        self.reads(value, dim)
        self.indexed |= value.origin(dim)

    def multiplies(self, value: Value) -> None:
        if not self.quiet:
            self.neutral |= value.variables


#: Larger arrays are not looked into.
_LARGEST = 1 << 16


def unknown(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value], why: str | None = None) -> list[Value]:
    """Freeze what is read; nothing is known of the results."""
    del frame
    name = eqn.primitive.name
    for value in values:
        analysis.fix_all(value, f"it is read by {name}, {why or FROZEN.get(name, 'which is not understood')}")
    return fixed_results(eqn, values)


def fixed_results(eqn: Any, values: Sequence[Value]) -> list[Value]:
    """Results all of whose dimensions are fixed."""
    weight = all(value.weight for value in values)
    return [Value((None,) * var.aval.ndim, weight=weight) for var in eqn.outvars]


def vectors_of(frame: Frame) -> dict[Vector, None]:
    """All vectors that occur in a frame and those inside it."""
    found: dict[Vector, None] = {}
    stack = [frame]
    while stack:
        one = stack.pop()
        for value in one.values.values():
            found.update(dict.fromkeys(dim for dim in value.dims if dim is not None))
        for extra in one.extra.values():
            found.update(dict.fromkeys(dim for dim in extra if dim is not None))
        stack.extend(child for children in one.inner.values() for child in children)
    return found
