"""What becomes of one leaf of a carried tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.errors import CarryError
from naivenas_jax.paths import Path, path_text
from naivenas_jax.transfer.carrying import factored
from naivenas_jax.transfer.carrying.holders import Role
from naivenas_jax.transfer.carrying.key_paths import KeyPath
from naivenas_jax.transfer.carrying.match import VariableMatcher
from naivenas_jax.transfer.carrying.states import (
    AVERAGES,
    CONSTANTS,
    ITERATES,
    REFUSED,
    STARTS,
    UNKNOWN_STARTS,
    StateLeaf,
)
from naivenas_jax.transfer.take import HostArray, placed_like, rescale, take, to_host
from naivenas_jax.typing import PyTree, Shape

HINT = "Pass fresh=tx.init(new_params), the state of a fresh start, which has the structure and the values."


@dataclass(frozen=True, eq=False)
class CarriedLeaf:
    """What a leaf of the old tree becomes in the new one.

    Attributes:
      value: the new leaf; None if it is gone.
      path: the old variable that the leaf belongs to; None for a leaf that passes through as it is.
      gone: whether the leaf has no place in the new tree, since its variable was removed.
      restarted: why the old numbers could not be kept; empty if they were.
    """

    value: PyTree = None
    path: Path | None = None
    gone: bool = False
    restarted: str = ""


@dataclass(frozen=True, eq=False)
class CarryRules:
    """How to decide about the leaves of one tree.

    Attributes:
      variables: the variables that leaves are matched to.
      parameters: whether new entries are the new parameters' in every leaf, and not only in the `ITERATES`.
      abstract: whether the tree holds shapes and no numbers.
      thresholds: for each Adafactor state of the tree, by key path, from which size on it factors.
    """

    variables: VariableMatcher
    parameters: bool = False
    abstract: bool = False
    thresholds: Mapping[KeyPath, factored.Threshold] = field(default_factory=dict)

    @classmethod
    def of(cls, variables: VariableMatcher, leaves: list[StateLeaf], parameters: bool) -> CarryRules:
        """The rules for a tree with these leaves."""
        moments = [leaf for leaf in leaves if not leaf.hole and leaf.owner.among(factored.FIELDS)]
        paths = [(leaf, variable_of(variables, leaf)) for leaf in moments]
        found = [(leaf.owner, leaf.shape, variables.shape(path)) for leaf, path in paths if path is not None]
        abstract = any(isinstance(leaf.value, Shape) for leaf in leaves)
        return cls(variables, parameters, abstract, factored.thresholds(found))

    def carried_hole(self, leaf: StateLeaf) -> CarriedLeaf:
        """A hole stays, unless all variables that it stands for were removed."""
        return CarriedLeaf(leaf.value, gone=self.variables.is_gone(leaf))

    def carried(self, leaf: StateLeaf, fresh: StateLeaf | None = None) -> CarriedLeaf:
        """What a leaf becomes.

        Args:
          leaf: a leaf of the old tree, no hole.
          fresh: the leaf of a fresh start with the same key path, if there is one.

        Raises:
          CarryError: if it belongs to no variable, or to several, or if ``fresh`` has another shape than the plan leads
            to.
        """
        path = variable_of(self.variables, leaf)
        if path is None:
            return CarriedLeaf(leaf.value)
        plan = self.variables.plan
        if path in plan.created:
            return CarriedLeaf(
                self.started(leaf, path, fresh), path, restarted="its variable was replaced by a new one"
            )
        if path in plan.removed:
            return CarriedLeaf(path=path, gone=True)
        if not leaf.shape:
            return CarriedLeaf(leaf.value, path)
        if leaf.owner.among(factored.FIELDS):
            return self._statistic(leaf, path, fresh)
        _check_fresh(leaf, fresh, tuple(np.shape(self.variables.after[path])))
        sources = self.variables.sources(path)
        fill = self._fill(leaf, path, fresh) if any(s is not None and (s < 0).any() for s in sources) else 0
        return CarriedLeaf(take(self._rescaled(leaf, path), sources, fill), path)

    def _rescaled(self, leaf: StateLeaf, path: Path) -> PyTree:
        """Copies and averages of a parameter that was multiplied by a number are multiplied by it; moments are not."""
        return rescale(leaf.value, self.variables.plan.factor(path)) if self._is_iterate(leaf, path) else leaf.value

    def _is_iterate(self, leaf: StateLeaf, path: Path) -> bool:
        """Whether a leaf holds parameters, statistics, or an average of them."""
        if leaf.owner.among(ITERATES):
            return True
        if leaf.role is Role.STATE:
            return self.parameters and leaf.owner.among(AVERAGES)
        numbers = leaf.is_array and jnp.issubdtype(leaf.value.dtype, jnp.inexact)  # and no mask
        held = leaf.role is Role.HELD or (leaf.role is Role.BARE and self.variables.is_statistic(path))
        return self.parameters or (held and bool(numbers))

    def started(self, leaf: StateLeaf, path: Path, fresh: StateLeaf | None, dtype: np.dtype | None = None) -> PyTree:
        """The leaf that belongs to a new variable.

        Args:
          leaf: a leaf of the same kind that belongs to another variable: the new one is placed as it is.
          path: the new variable.
          fresh: the leaf of a fresh start, which is taken if there is one.
          dtype: of the result; by default the dtype of ``leaf``.

        Raises:
          CarryError: if only a fresh start could tell.
        """
        if fresh is not None:
            return fresh.value
        if leaf.owner.among(factored.FIELDS) or not leaf.shape:
            raise CarryError(f"What {leaf.label} is for the new variable {path_text(path)} cannot be known. {HINT}")
        dtype = leaf.value.dtype if dtype is None else dtype
        shape = tuple(np.shape(self.variables.after[path]))
        return placed_like(np.broadcast_to(self._fill(leaf, path, None), shape).astype(dtype), leaf.value)

    def _fill(self, leaf: StateLeaf, path: Path, fresh: StateLeaf | None) -> HostArray:
        """New entries: a fresh start's if there is one, the new parameters' in copies of parameters, else zeros."""
        if isinstance(leaf.value, Shape):
            return np.zeros(())
        if fresh is not None and not isinstance(fresh.value, Shape):
            return to_host(fresh.value)
        if leaf.role is Role.UNKNOWN and not self.parameters:
            raise CarryError(
                f"What new entries of {leaf.label} ({leaf.owner.cls}.{leaf.owner.field}) start at is unknown: it is in "
                f"no known optimizer, and beside one. Carry it by itself, with new=, or all together: {HINT}"
            )
        if leaf.owner.among(UNKNOWN_STARTS):
            raise CarryError(f"What new entries of {leaf.label} start at, only the optimizer knows. {HINT}")
        if not self._is_iterate(leaf, path):
            return np.asarray(STARTS.get((leaf.owner.cls, leaf.owner.field), 0.0))
        value = self.variables.after[path]
        if isinstance(value, Shape):
            raise CarryError(
                f"The new entries of {leaf.label} are those of the new parameters, but `after` holds only the shape of "
                f"{path_text(path)}. Give the new variables themselves."
            )
        return to_host(value)

    def _statistic(self, leaf: StateLeaf, path: Path, fresh: StateLeaf | None) -> CarriedLeaf:
        """A row, column or full second moment of Adafactor."""
        name, before = leaf.owner.field, self.variables.shape(path)
        after = tuple(np.shape(self.variables.after[path]))
        was = bool(factored.is_factored(name, leaf.shape, before))
        if fresh is None:
            will = self.thresholds[leaf.owner.keys].factors(after, leaf.label)
        else:
            will = bool(factored.is_factored(name, fresh.shape, after))
        shape = factored.statistic_shape(name, after, will)
        _check_fresh(leaf, fresh, shape)
        sources = factored.statistic_sources(name, before, after, was, will, self.variables.sources(path))
        if not isinstance(sources, str):
            fill = 0 if fresh is None else self._fill(leaf, path, fresh)
            return CarriedLeaf(take(leaf.value, sources, fill), path)
        return CarriedLeaf(_restart(leaf, shape, fresh), path, restarted=sources)


def variable_of(variables: VariableMatcher, leaf: StateLeaf) -> Path | None:
    """The old variable that a leaf belongs to; None if the leaf passes through; raises where neither is sure."""
    if not leaf.shape or leaf.owner.among(CONSTANTS):
        # one number per variable (labels, masks, norms) vanishes with its variable; other scalars are of the state
        named = bool(leaf.keys) and not isinstance(leaf.keys[-1], jax.tree_util.GetAttrKey)
        return variables.match(leaf, lambda _: True) if named and not leaf.owner.among(CONSTANTS) else None
    if leaf.owner.among(REFUSED):
        raise CarryError(
            f"{leaf.label} ({leaf.owner.cls}.{leaf.owner.field}) cannot be carried: its numbers hold for the old "
            "shapes only. Start this state again with tx.init(new_params)."
        )
    name, shape = leaf.owner.field, leaf.shape
    if leaf.owner.among(factored.FIELDS):
        path = variables.match(leaf, lambda parameter: factored.is_factored(name, shape, parameter) is not None)
    else:
        path = variables.match(leaf, lambda parameter: parameter == shape)
    if path is None and not _is_key(leaf):
        raise variables.unmatched(leaf)
    return path


def _is_key(leaf: StateLeaf) -> bool:
    """Whether a leaf is a PRNG key of the old kind, two whole numbers, in a training state."""
    words = {word for name in leaf.names[-1:] for word in name.split("_")}
    return leaf.role is Role.HELD and leaf.shape[-1:] == (2,) and bool(words & {"key", "keys", "rng", "rngs"})


def _restart(leaf: StateLeaf, shape: tuple[int, ...], fresh: StateLeaf | None) -> PyTree:
    if fresh is not None and not isinstance(fresh.value, Shape):
        return fresh.value
    return placed_like(np.zeros(shape, leaf.value.dtype), leaf.value)


def _check_fresh(leaf: StateLeaf, fresh: StateLeaf | None, shape: tuple[int, ...]) -> None:
    if fresh is not None and fresh.shape != shape:
        raise CarryError(
            f"`fresh` has shape {fresh.shape} at {leaf.label}, where the plan leads to {shape}. It has to be made "
            "for the new variables: fresh=tx.init(new_params)."
        )
