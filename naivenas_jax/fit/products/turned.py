"""Products of activations that lose neurons: the original turned so that those that are kept do most of what all did.

Nothing that reads a query of an attention could be fitted anew if features of queries and keys go: what reads them is
a product of the two. But an original in which the features of a head are other combinations of the same features
computes the same, and in principal axes those that are kept are the best that so many can be. So both networks are
turned before anything is fitted. Fitting then goes on as always, towards what the turned original makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.dataflow.products.products import Factor, Product, candidates, products_of
from naivenas_jax.dataflow.tape import Tape, Values
from naivenas_jax.dataflow.variable_uses import ignore
from naivenas_jax.dataflow.walk import walk_tape
from naivenas_jax.fit.network.network import Data, Network, on_device, replaced
from naivenas_jax.fit.products.principal_axes import Axes, principal_axes
from naivenas_jax.fit.regression.ridge import added, not_finite
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import Path
from naivenas_jax.transfer.take import Sources, new_mask, taken, to_host
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, Variables

#: The weights of a product and which of their columns are contracted: the same at all shapes of the inputs.
Key: TypeAlias = tuple[Path, Path, bytes, bytes]
#: Sums over the rows of both factors, for each group.
Sums: TypeAlias = tuple[Float[Array, "G R R"], Float[Array, "G R R"]]


def turned(mutation: Mutation, networks: tuple[Network, Network], data: Data) -> Mutation:
    """A mutation of an original that computes the same, in axes in which the neurons that go do least.

    Only products of activations are turned (see `naivenas_jax.dataflow.products.products`), and of their groups only
    those that lose some neurons and keep some.

    Args:
      mutation: the mutation; its variables are in dicts.
      networks: the network before the mutation and after it.
      data: batches.
    """
    turning = _Turning(mutation, *networks, data)
    products = turning.products()
    if not products:
        return mutation
    turns = []
    for product, (left, right) in zip(products.values(), turning.sums(products), strict=True):
        for group, kept in turning.partly_kept(product).items():
            axes = principal_axes(np.asarray(left[group]), np.asarray(right[group]))
            turns.append(_Turn(product, group, kept, axes))
    return _with(mutation, turns)


@dataclass(frozen=True, eq=False)
class _Turn:
    """A group of the rows of a product in other axes.

    Attributes:
      product: the product.
      group: the group.
      kept: which of its neurons are kept.
      axes: the axes, in the order of what they do.
    """

    product: Product
    group: int
    kept: Bool[np.ndarray, " R"]
    axes: Axes

    def matrices(self) -> Iterator[tuple[Factor, Float[np.ndarray, "R R"]]]:
        """What each factor is multiplied by: the first axes lie on neurons that are kept."""
        place = np.argsort(~self.kept, kind="stable")
        for factor, axes in zip(self.product.factors, self.axes, strict=True):
            yield factor, axes[:, np.argsort(place)]


@dataclass(frozen=True, eq=False)
class _Turning:
    """A mutation, both of its networks, and data."""

    mutation: Mutation
    before: Network
    after: Network
    data: Data
    _known: dict[Tape, dict[Key, Product]] = field(default_factory=dict)

    def products(self) -> dict[Key, Product]:
        """The products of both networks, whatever the shapes of the inputs, that lose some neurons of a group."""
        own = self.mutation
        if not any(axis.dropped.size for axis in own.plan.axes.values()):
            return {}
        here = {key: one for key, one in self._found(self.data.first).items() if self.partly_kept(one)}
        if not here:
            return {}
        there = _products(self.after, own.variables, self.data.first)
        still = {tuple(own.plan.moved.get(path, path) for path in one.paths) for one in there}
        shapes = {self.before.tape(own.variables_before, inputs): inputs for inputs in self.data}
        everywhere = [self._found(inputs) for inputs in shapes.values()]
        return {k: one for k, one in here.items() if one.paths in still and all(k in found for found in everywhere)}

    def _found(self, inputs: Batch) -> dict[Key, Product]:
        """The products of the original on inputs of these shapes."""
        variables = self.mutation.variables_before
        tape = self.before.tape(variables, inputs)
        if tape not in self._known:
            found = _products(self.before, variables, inputs)
            self._known[tape] = {_key(product): product for product in found}
        return self._known[tape]

    def partly_kept(self, product: Product) -> dict[int, Bool[np.ndarray, " R"]]:
        """For each group that loses some neurons and keeps some which it keeps: the same of all blocks, or it stays."""
        kept = [_kept(self.mutation, factor) for factor in product.factors]
        groups = np.concatenate([factor.block_groups for factor in product.factors])
        every = np.concatenate(kept)
        found = {}
        for group in np.unique(groups):
            first, *others = every[groups == group]
            if first.any() and not first.all() and all((first == other).all() for other in others):
                found[int(group)] = first
        return found

    def sums(self, products: Mapping[Key, Product]) -> list[Sums]:
        """The sums over the rows of every product, on all batches."""
        variables, total = on_device(self.mutation.variables_before), None
        at_shape: dict[Tape, tuple[Product, ...]] = {}
        for number, inputs in enumerate(self.data):
            tape, found = self.before.tape(variables, inputs), self._found(inputs)
            own = at_shape.setdefault(tape, tuple(found[key] for key in products))
            sums = self.before.compiled(_sums, tape, own)(variables, tape.start(inputs))
            if not all(np.isfinite(array).all() for array in jax.tree.leaves(sums)):
                raise not_finite(f"what {'/'.join(next(iter(products))[0])} makes meets on batch {number}")
            total = added(total, sums, "")
        assert total is not None
        return list(total)


def _products(network: Network, variables: Variables, inputs: Batch) -> list[Product]:
    tape = network.tape(variables, inputs)
    return products_of(tape, variables, network.uses(variables, inputs)) if any(candidates(tape)) else []


def _key(product: Product) -> Key:
    left, right = (factor.entries[factor.path].tobytes() for factor in product.factors)
    return *product.paths, left, right


def _sums(tape: Tape, products: Sequence[Product], variables: Variables, live: Values) -> list[Sums]:
    """The sums over the rows of some products on one batch."""
    found, start = dict[Product, Sums](), 0
    for product in sorted(products, key=lambda product: product.step):
        live, start = walk_tape(tape, variables, live, ignore, start, product.step), product.step
        left, right = (_squares(factor.by_group(live)) for factor in product.factors)
        found[product] = left, right
    return [found[product] for product in products]


def _squares(rows: Float[Array, "G n R"]) -> Float[Array, "G R R"]:
    rows = jnp.asarray(rows, jnp.float32)
    found: Array = jnp.einsum("gnr,gns->grs", rows, rows, precision=jax.lax.Precision.HIGHEST)
    return found


def _kept(mutation: Mutation, factor: Factor) -> Bool[np.ndarray, "P R"]:
    """Which neurons of each block are kept."""
    old, path = np.shape(flat(mutation.variables_before)[factor.path]), _now(mutation, factor.path)
    if path is None:
        return np.zeros((len(factor.block_groups), factor.entries[factor.path].shape[-1]), bool)
    stays = np.zeros(old, bool)
    source = [s if s is None else s[s != NEW] for s in _sources(mutation, path)]
    stays[np.ix_(*(np.arange(n) if s is None else s for n, s in zip(old, source, strict=True)))] = True
    return np.asarray(stays.ravel()[factor.entries[factor.path]].any(1))


def _now(mutation: Mutation, path: Path) -> Path | None:
    """Where a variable is after the mutation; None: nowhere."""
    own = mutation.plan
    return next((now for now in own.leaves if own.moved.get(now, now) == path and now not in own.created), None)


def _sources(mutation: Mutation, path: Path) -> Sources:
    own = mutation.plan
    return [None if axis is None else own.axes[axis].source for axis in own.leaves[path]]


def _with(mutation: Mutation, turns: Sequence[_Turn]) -> Mutation:
    """The mutation of the turned original, what is kept of it turned as well."""
    before, after = flat(mutation.variables_before), flat(mutation.variables)
    values: dict[Path, Float[np.ndarray, " _"]] = {}
    changed: dict[Path, Bool[np.ndarray, " _"]] = {}
    for turn in turns:
        for factor, matrix in turn.matrices():
            for path, blocks in factor.entries.items():
                own = values.setdefault(path, to_host(before[path]).astype(np.float64).ravel())
                entries = blocks[factor.block_groups == turn.group]
                own[entries] = own[entries] @ matrix
                changed.setdefault(path, np.zeros(own.size, bool))[entries] = True
    for path, own in values.items():
        before[path] = replaced(before[path], own)
        now = _now(mutation, path)
        if now is not None:
            shape, sources = np.shape(before[path]), _sources(mutation, now)
            there = taken(changed[path].reshape(shape), sources) & ~new_mask(sources, shape)
            turned_now = taken(own.reshape(shape), sources) * mutation.plan.factor(now)
            after[now] = replaced(after[now], np.where(there, turned_now, to_host(after[now])))
    return replace(mutation, variables_before=nested(before), variables=nested(after))
