"""The leaves of any tree, each with its key path and the field of the state that holds it.

Optimizer libraries are not imported: a state is known by the name of its class and of its fields.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import jax
import numpy as np
from flax import nnx

from naivenas_jax.paths import Path
from naivenas_jax.transfer.carrying.holders import Role, role_below, role_within
from naivenas_jax.typing import PyTree

#: The keys that lead to a node of a tree, as ``jax.tree_util`` gives them.
KeyPath: TypeAlias = tuple[Hashable, ...]


@dataclass(frozen=True)
class StateField:
    """Where in an optimizer's state a leaf lies: in which field of the innermost state that has named fields.

    Attributes:
      cls: the name of the state's class; empty where a leaf lies in no such state.
      field: the name of the field.
      keys: the key path of the state.
    """

    cls: str = ""
    field: str = ""
    keys: KeyPath = ()

    def among(self, fields: frozenset[tuple[str, str]]) -> bool:
        """Whether this is one of some fields, given as pairs of class and field."""
        return (self.cls, self.field) in fields


@dataclass(frozen=True, eq=False)
class StateLeaf:
    """One leaf of a tree, or one hole: a ``MaskedNode`` that stands for what another optimizer looks after.

    Attributes:
      keys: the key path.
      value: the leaf.
      owner: the field of the state that holds it.
      hole: whether it is a ``MaskedNode``.
      role: what it is.
      wrapper: what puts a value of its kind into an ``nnx.Variable``; None: it is in none.
    """

    keys: KeyPath
    value: PyTree
    owner: StateField
    hole: bool = False
    role: Role = Role.BARE
    wrapper: jax.tree_util.PyTreeDef | None = None

    @property
    def label(self) -> str:
        """As jax prints the key path: ``[0].mu['conv']['kernel']``."""
        return jax.tree_util.keystr(self.keys) or "the tree itself"

    @property
    def names(self) -> Path:
        """The key path as strings."""
        return names_of(self.keys)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value; () where it is no array."""
        return tuple(np.shape(self.value))

    def wrapped(self, value: PyTree) -> PyTree:
        """A value that is held as this leaf is."""
        return value if self.wrapper is None else self.wrapper.unflatten([value])

    @property
    def is_array(self) -> bool:
        """Whether the value has a shape and a dtype."""
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
    }
)

# Fields that average what they are given, which may be parameters: new="params" is for these.
AVERAGES = frozenset({("EmaState", "ema")})

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


def names_of(keys: KeyPath) -> Path:
    """A key path as strings. The ``.value`` at the end of an nnx variable's key path is left out."""
    if len(keys) > 1 and isinstance(keys[-1], jax.tree_util.GetAttrKey) and keys[-1].name == "value":
        keys = keys[:-1]
    return tuple(_name(key) for key in keys)


def leaves_and_holes(tree: PyTree) -> list[StateLeaf]:
    """The leaves of a tree, in jax's order, and its holes."""
    return list(_walk(tree, (), StateField(), Role.BARE))


def one_level(node: PyTree) -> tuple[list[tuple[Hashable, PyTree]], jax.tree_util.PyTreeDef] | None:
    """The (key, child) pairs of a node and the treedef that puts the children back; None for a leaf."""
    children, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    if len(children) == 1 and not children[0][0]:
        return None
    return [(keys[0], child) for keys, child in children], treedef


def is_hole(node: object) -> bool:
    """Whether a node is optax's ``MaskedNode``."""
    return type(node).__name__ == "MaskedNode"


def _walk(
    node: PyTree, keys: KeyPath, owner: StateField, role: Role, wrapper: jax.tree_util.PyTreeDef | None = None
) -> Iterator[StateLeaf]:
    if is_hole(node):
        yield StateLeaf(keys, node, owner, hole=True, role=role)
        return
    level = one_level(node)
    if level is None:
        yield StateLeaf(keys, node, owner, role=role, wrapper=wrapper)
        return
    within = role_within(node, role)
    for key, child in level[0]:
        inner = owner
        if isinstance(key, jax.tree_util.GetAttrKey) and key.name != "value":
            inner = StateField(type(node).__name__, key.name, keys)
        wraps = level[1] if isinstance(node, nnx.Variable) else None
        yield from _walk(child, (*keys, key), inner, role_below(node, _name(key), within), wraps)


def _name(key: object) -> str:
    for attribute in ("key", "name", "idx"):  # DictKey and FlattenedIndexKey, GetAttrKey, SequenceKey
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
