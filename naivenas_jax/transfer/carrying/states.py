"""The leaves of any tree, each with its key path and the field of the state that holds it.

Optimizer libraries are not imported: a state is known by the name of its class and of its fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from naivenas_jax.paths import Path

Keys = tuple[Any, ...]


@dataclass(frozen=True)
class Owner:
    """The innermost state with named fields that a leaf lies in: its class, the field, and the state's key path."""

    cls: str = ""
    field: str = ""
    keys: Keys = ()

    def among(self, fields: frozenset[tuple[str, str]]) -> bool:
        return (self.cls, self.field) in fields


@dataclass(frozen=True, eq=False)
class StateLeaf:
    """One leaf, or one hole: a ``MaskedNode`` that stands for what another optimizer looks after."""

    keys: Keys
    value: Any
    owner: Owner
    hole: bool = False

    @property
    def label(self) -> str:
        """As jax prints the key path: ``[0].mu['conv']['kernel']``."""
        return jax.tree_util.keystr(self.keys) or "the tree itself"

    @property
    def names(self) -> Path:
        return names_of(self.keys)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.value))

    @property
    def is_array(self) -> bool:
        return hasattr(self.value, "shape") and hasattr(self.value, "dtype")


# Fields that hold a copy of the parameters, or where they were: a new neuron's entry is its parameter, and not zero.
ITERATES = frozenset(
    {
        ("ScheduleFreeState", "z"),
        ("LookaheadParams", "fast"),
        ("LookaheadParams", "slow"),
        ("MechanicState", "x0"),
        ("MadgradState", "x0"),
        ("ProdigyState", "params0"),
        ("ScaleByDistanceOverGradientsState", "init_params"),
        ("DoGState", "init_params"),
        ("DoWGState", "init_params"),
        ("COCOBState", "init_particles"),
        ("TrainState", "params"),
    }
)

# Fields whose arrays have no neurons: coefficients, keys, hyperparameters. They pass through.
CONSTANTS = frozenset(
    {
        ("MuonState", "ns_coeffs"),
        ("InjectHyperparamsState", "hyperparams"),
        ("InjectStatefulHyperparamsState", "hyperparams"),
        ("InjectStatefulHyperparamsState", "hyperparams_states"),
        ("AddNoiseState", "rng_key"),
        ("DifferentiallyPrivateAggregateState", "rng_key"),
        ("HutchinsonState", "key"),
        *(("MechanicState", field) for field in "rmvs"),
    }
)

# Fields that may have the shape of a parameter by coincidence, and mean something else.
REFUSED = frozenset({("GaLoreState", "projector"), ("ScaleByLBFGSState", "params"), ("ScaleByLBFGSState", "updates")})


def names_of(keys: Keys) -> Path:
    """Key path entries of every kind as strings; the ``.value`` of an nnx variable belongs to the variable."""
    if len(keys) > 1 and isinstance(keys[-1], jax.tree_util.GetAttrKey) and keys[-1].name == "value":
        keys = keys[:-1]
    return tuple(_name(key) for key in keys)


def walk(tree: Any) -> list[StateLeaf]:
    """Leaves in jax's order, and holes."""
    return list(_walk(tree, (), Owner()))


def one_level(node: Any) -> tuple[list[tuple[Any, Any]], Any] | None:
    """The (key, child) pairs of a node and the treedef that puts the children back; None for a leaf."""
    children, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    if len(children) == 1 and not children[0][0]:
        return None
    return [(keys[0], child) for keys, child in children], treedef


def is_hole(node: Any) -> bool:
    return type(node).__name__ == "MaskedNode"


def _walk(node: Any, keys: Keys, owner: Owner) -> Iterator[StateLeaf]:
    if is_hole(node):
        yield StateLeaf(keys, node, owner, hole=True)
        return
    level = one_level(node)
    if level is None:
        yield StateLeaf(keys, node, owner)
        return
    for key, child in level[0]:
        named = isinstance(key, jax.tree_util.GetAttrKey) and key.name != "value"
        inner = Owner(type(node).__name__, key.name, keys) if named else owner
        yield from _walk(child, (*keys, key), inner)


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):  # DictKey and FlattenedIndexKey, GetAttrKey, SequenceKey
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
