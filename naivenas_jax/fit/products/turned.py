"""Products that lose neurons: the original turned so that those that are kept do most of what all did.

Nothing that reads a query of an attention could be fitted anew if features of queries and keys go: what reads them is
a product of the two. But an original in which the features of a head are other combinations of the same features
computes the same, and in principal axes those that are kept are the best that so many can be. So both networks are
turned before anything is fitted. Fitting then goes on as always, towards what the turned original makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.dataflow.products.products import Factor, Product
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network, replaced
from naivenas_jax.fit.products.principal_axes import Axes, principal_axes
from naivenas_jax.fit.products.product_sums import Key, ProductSums, products_in
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import Path
from naivenas_jax.transfer.take import Sources, new_mask, taken, to_host
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Variables

#: For some groups of a product which of their neurons are kept.
Kept: TypeAlias = Mapping[int, Bool[np.ndarray, " R"]]


def turned(mutation: Mutation, networks: tuple[Network, Network], data: Data) -> Mutation:
    """A mutation of an original that computes the same, in axes in which the neurons that go do least.

    Of the groups of each product (see `naivenas_jax.dataflow.products.products`) only those are turned that lose some
    neurons and keep some.

    Args:
      mutation: the mutation; its variables are in dicts.
      networks: the network before the mutation and after it.
      data: batches.
    """
    if not any(axis.dropped.size for axis in mutation.plan.axes.values()):
        return mutation
    reading = ProductSums(networks[0], mutation.variables_before, data)
    kept = {key: _partly_kept(mutation, product) for key, product in reading.products().items()}
    kept = {key: groups for key, groups in kept.items() if groups}
    if not kept:
        return mutation
    there = products_in(networks[1], mutation.variables, data.first)
    moved = mutation.plan.moved
    still = {tuple(moved.get(path, path) for path in product.paths) for product in there}
    turns = _turns(reading, {key: groups for key, groups in kept.items() if key[:2] in still})
    return _with(mutation, turns)


def in_principal_axes(network: Network, variables: Variables, data: Data) -> Variables:
    """Variables with which a network computes the same, and every product is in its principal axes.

    Args:
      network: the network.
      variables: its variables, in dicts.
      data: batches.
    """
    reading = ProductSums(network, variables, data)
    whole = {key: _all_kept(product) for key, product in reading.products().items()}
    values = _turned(variables, _turns(reading, whole))
    arrays = flat(variables)
    return nested({**arrays, **{path: replaced(arrays[path], own) for path, (own, _) in values.items()}})


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


def _turns(reading: ProductSums, kept: Mapping[Key, Kept]) -> list[_Turn]:
    """The turns of some groups of some products."""
    products, found = reading.products(), []
    for key, (left, right) in zip(kept, reading.sums(list(kept)) if kept else [], strict=True):
        for group, stays in kept[key].items():
            axes = principal_axes(np.asarray(left[group]), np.asarray(right[group]))
            found.append(_Turn(products[key], group, stays, axes))
    return found


def _all_kept(product: Product) -> Kept:
    number, length = len(product.factors[0].rows), next(iter(product.factors[0].entries.values())).shape[-1]
    return dict.fromkeys(range(number), np.ones(length, bool))


def _partly_kept(mutation: Mutation, product: Product) -> Kept:
    """The groups that lose some neurons and keep some: the same of all blocks, or they stay."""
    groups = np.concatenate([factor.block_groups for factor in product.factors])
    every = np.concatenate([_kept(mutation, factor) for factor in product.factors])
    found = {}
    for group in np.unique(groups):
        first, *others = every[groups == group]
        if first.any() and not first.all() and all((first == other).all() for other in others):
            found[int(group)] = first
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


def _turned(
    variables: Variables, turns: Sequence[_Turn]
) -> dict[Path, tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]]:
    """For each variable that is turned its entries, flattened, and which of them are others than before."""
    arrays = flat(variables)
    found: dict[Path, tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]] = {}
    for turn in turns:
        for factor, matrix in turn.matrices():
            for path, blocks in factor.entries.items():
                if path not in found:
                    own = to_host(arrays[path]).astype(np.float64).ravel()
                    found[path] = own, np.zeros(own.size, bool)
                values, changed = found[path]
                entries = blocks[factor.block_groups == turn.group]
                values[entries] = values[entries] @ matrix
                changed[entries] = True
    return found


def _with(mutation: Mutation, turns: Sequence[_Turn]) -> Mutation:
    """The mutation of the turned original, what is kept of it turned as well."""
    before, after = flat(mutation.variables_before), flat(mutation.variables)
    for path, (values, changed) in _turned(mutation.variables_before, turns).items():
        shape, now = np.shape(before[path]), _now(mutation, path)
        before[path] = replaced(before[path], values)
        if now is not None:
            sources = _sources(mutation, now)
            there = taken(changed.reshape(shape), sources) & ~new_mask(sources, shape)
            kept = taken(values.reshape(shape), sources) * mutation.plan.factor(now)
            after[now] = replaced(after[now], np.where(there, kept, to_host(after[now])))
    return replace(mutation, variables_before=nested(before), variables=nested(after))
