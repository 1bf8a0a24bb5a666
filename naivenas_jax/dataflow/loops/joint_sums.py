"""Which products of a round are added up before anything else is done with them, column by column.

A gate of a recurrent cell is a function of ``W x + U h + b``: what is to be right is the sum, so that W and U are
fitted together. Which column of which product meets which is told by counting entries: those of every product, and
those of every weight, are followed through equations that move them, and through additions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from naivenas_jax.dataflow.contraction import Contraction, contraction_of
from naivenas_jax.dataflow.loops.entry_origins import Origin, followed, moved, moves
from naivenas_jax.dataflow.loops.loop_body import LoopBody
from naivenas_jax.dataflow.rearranged import Rearranged
from naivenas_jax.dataflow.tape import Step

_ADDS = ("add", "add_any")
_PRODUCTS = ("dot_general", "conv_general_dilated")

#: Some groups of some products: of each the number of the product, and the group.
Parts: TypeAlias = tuple[tuple[int, int], ...]


class Product(NamedTuple):
    """A matrix product or convolution of a weight with an activation.

    Attributes:
      step: the step of the round.
      activation: the number of the activation.
      contraction: the product as ``Y[g] = X[g] @ B[g]``, on shapes.
      weight: for each entry of B the number of the weights' entry that it is.
    """

    step: int
    activation: int
    contraction: Contraction
    weight: Int[np.ndarray, "G K M"]


@dataclass(frozen=True, eq=False)
class JointSum:
    """Columns of several products that are added up.

    Attributes:
      value: the number of the sum.
      parts: what is added up.
      columns: for each column of the sum those of the products, within their groups.
      places: for each row and column its place in the flattened sum.
      shift: for each column the number of the weights' entry that is added, too; None: there is none.
    """

    value: int
    parts: Parts
    columns: Int[np.ndarray, "parts J"]
    places: Int[np.ndarray, "N J"]
    shift: Int[np.ndarray, " J"] | None

    def only(self, kept: Int[np.ndarray, " some"]) -> JointSum:
        """Some of the columns."""
        shift = None if self.shift is None else self.shift[kept]
        return replace(self, columns=self.columns[:, kept], places=self.places[:, kept], shift=shift)


class _Term(NamedTuple):
    """What is added to an array, entry by entry.

    Attributes:
      product: the number of a product; None: weights.
      origin: the numbers of the entries of its result, or of the weights.
    """

    product: int | None
    origin: Origin


@dataclass(frozen=True, eq=False)
class Round:
    """The products of one round, and their sums.

    Attributes:
      body: the round.
    """

    body: LoopBody

    @cached_property
    def products(self) -> list[Product]:
        """Every product of a weight, whose entries are known, with an activation, in order."""
        found = [self._product(i, step) for i, step in enumerate(self.body.tape.steps)]
        return [own for own in found if own is not None]

    @cached_property
    def sums(self) -> list[JointSum]:
        """All columns of products, with those that they are added to; of weights that are used once."""
        once, found = self._used_once, list[JointSum]()
        for value, terms in self._summed().items():
            for own in self._joint(value, terms):
                fine = np.all([once[ids].all(0) for ids in self.weights(own)], 0)
                shift = own.shift if own.shift is not None and once[own.shift].all() else None
                if fine.any():
                    found.append(replace(own, shift=shift).only(np.flatnonzero(fine)))
        return found

    def weights(self, own: JointSum) -> list[Int[np.ndarray, "K J"]]:
        """For each part of a sum the numbers of the weights' entries that make its columns."""
        pairs = zip(own.parts, own.columns, strict=True)
        return [self.products[product].weight[group][:, columns] for (product, group), columns in pairs]

    @cached_property
    def levels(self) -> dict[int, int]:
        """For each sum how many other sums it depends on within the round, one after the other."""
        ends, depth, found = {one.value for one in self.sums}, dict[int, int](), dict[int, int]()
        for step in self.body.tape.steps:
            own = max((depth.get(n, 0) for n in step.operands), default=0)
            for n in step.results:
                found[n], depth[n] = own, own + (n in ends)
        return {n: found[n] for n in ends}

    @cached_property
    def carried(self) -> frozenset[int]:
        """The values that depend on what a round is handed by the one before."""
        found = {*self.body.carry}
        for step in self.body.tape.steps:
            if not found.isdisjoint(step.operands):
                found.update(step.results)
        return frozenset(found)

    def _product(self, position: int, step: Step) -> Product | None:
        known = [self._origins.get(n) for n in step.operands]
        if step.eqn.primitive.name not in _PRODUCTS or sum(own is not None for own in known) != 1:
            return None
        side = 0 if known[1] is None else 1
        weight = known[side]
        avals = [atom.aval for atom in (step.eqn.invars[1 - side], step.eqn.outvars[0])]
        if weight is None or not all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in avals):
            return None
        activation, result = (np.broadcast_to(np.float32(0), aval.shape) for aval in avals)  # only the shapes count
        found = contraction_of(step.eqn, side, Rearranged((), (), None), activation, result)
        if found is None:
            return None
        return Product(position, step.operands[1 - side], found, np.asarray(found.matrix(weight)))

    @cached_property
    def _origins(self) -> dict[int, Origin]:
        """For weights of the round the numbers of their entries."""
        tape, entries = self.body.tape, self.body.entries
        return followed(tape.weights, {n: entries.origin(path) for path, n in tape.variables.items()})

    @cached_property
    def _used_once(self) -> Bool[np.ndarray, " entries"]:
        """Which entries of the weights one step of the round reads, once, as they are: a product or an addition."""
        counts, products = np.zeros(self.body.entries.size, int), {own.step: own for own in self.products}
        for i, step in enumerate(self.body.tape.steps):
            known = [self._origins[n] for n in step.operands if n in self._origins]
            if i in products:
                np.add.at(counts, products[i].weight.ravel(), 1)
            elif known and step.eqn.primitive.name in _ADDS:
                for ids in known:
                    counts[np.unique(ids)] += 1
            else:
                for path in step.paths:
                    counts[self.body.entries.origin(path)] += 2
        found: np.ndarray = counts == 1
        return found

    def _summed(self) -> dict[int, list[_Term]]:
        """What is added up in every value of products that is not only moved, or added to something, next."""
        terms, ends = dict[int, list[_Term]](), self._ends()
        numbers = {own.step: number for number, own in enumerate(self.products)}
        for i, step in enumerate(self.body.tape.steps):
            shape, own = step.eqn.outvars[0].aval.shape, [n for n in step.operands if n not in ends]
            if i in numbers:
                terms[step.results[0]] = [_Term(numbers[i], np.arange(prod(shape)).reshape(shape))]
            elif step.eqn.primitive.name in _ADDS:
                both = [term for n in own for term in (terms.get(n) or self._of_weights(n))]
                if any(term.product is not None for term in both):
                    terms[step.results[0]] = [_Term(t.product, np.broadcast_to(t.origin, shape)) for t in both]
            elif own and own[0] in terms:  # what is not at its end and not added is moved
                parts = [(term.product, moved(step.eqn, [term.origin]) or []) for term in terms[own[0]]]
                for j, result in enumerate(step.results):
                    terms[result] = [_Term(product, arrays[j]) for product, arrays in parts]
        return {n: own for n, own in terms.items() if n in ends}

    def _of_weights(self, number: int) -> list[_Term]:
        return [_Term(None, self._origins[number])] if number in self._origins else []

    def _ends(self) -> frozenset[int]:
        """The values that are used otherwise than moved, or added once."""
        users: dict[int, list[str]] = {n: ["returned"] for n in self.body.tape.results}
        for step in self.body.tape.steps:
            adds, alone = step.eqn.primitive.name in _ADDS, len(step.operands) == 1 and moves(step.eqn)
            for n in step.operands:
                users.setdefault(n, []).append("added" if adds else "moved" if alone else "used")
        return frozenset(n for n, own in users.items() if own != ["added"] and {*own} != {"moved"})

    def _joint(self, value: int, terms: Sequence[_Term]) -> list[JointSum]:
        """The columns of a sum, by the groups of products that are added up there."""
        own = [(term.product, term.origin) for term in terms if term.product is not None]
        products = [self.products[number] for number, _ in own]
        if len({number for number, _ in own}) < len(own):
            return []  # a product that is added to itself
        maps = [_rows_and_columns(product.contraction) for product in products]
        rows, columns = (
            np.stack([each[i][origin].ravel() for each, (_, origin) in zip(maps, own, strict=True)]) for i in (0, 1)
        )
        distinct, which = np.unique(columns, axis=1, return_inverse=True)
        number = int(rows.max()) + 1
        if (rows != rows[0]).any() or rows.shape[1] != number * distinct.shape[1]:
            return []  # rows of one product meet others of another, or are not all there
        places = np.empty((number, distinct.shape[1]), int)
        places[rows[0], which.ravel()] = np.arange(rows.shape[1])
        shift = _shift((term.origin for term in terms if term.product is None), places)
        made = np.array([product.contraction.sizes.outputs for product in products])[:, None]
        groups, within = np.divmod(distinct, made)
        found = []
        for of in np.unique(groups, axis=1).T:
            parts = tuple((product, int(group)) for (product, _), group in zip(own, of, strict=True))
            joint = JointSum(value, parts, within, places, shift)
            found.append(joint.only(np.flatnonzero((groups == of[:, None]).all(0))))
        return found


def _shift(added: Iterable[Origin], places: Int[np.ndarray, "N J"]) -> Int[np.ndarray, " J"] | None:
    """The entries of the first weight of those added that has one of its own for each column."""
    for origin in added:
        ids = origin.ravel()[places]
        if (ids == ids[:1]).all() and len(np.unique(ids[0])) == ids.shape[1]:
            return np.asarray(ids[0])
    return None


def _rows_and_columns(one: Contraction) -> tuple[Int[np.ndarray, " size"], Int[np.ndarray, " size"]]:
    """For each entry of the result of a contraction its row, and its column, counted over all groups."""
    size, shape = int(np.size(one.result)), np.shape(one.result)
    with jax.ensure_compile_time_eval():
        places = np.asarray(one.columns(np.arange(size).reshape(shape)))
    row, column = np.empty(size, int), np.empty(size, int)
    groups, number, made = places.shape
    row[places] = np.arange(number)[:, None]
    column[places] = np.arange(groups * made).reshape(groups, 1, made)
    return row, column
